//! Where connections come from: TCP, or what a simulation brings in its place.

use std::fmt;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};

/// What HTTP and TLS run on: bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens connections.
#[async_trait]
pub trait Network: fmt::Debug + Send + Sync {
    /// Connects to `host`, a name or an address without brackets, at `port`.
    ///
    /// Errors: a sentence for the user. Nothing was sent then.
    async fn connect(&self, host: &str, port: u16) -> Result<Box<dyn Stream>, String>;
}

/// That of the operating system.
#[derive(Debug)]
pub(crate) struct Tcp;

#[async_trait]
impl Network for Tcp {
    /// Tries the addresses of the host in turn.
    async fn connect(&self, host: &str, port: u16) -> Result<Box<dyn Stream>, String> {
        let addresses = lookup_host((host, port))
            .await
            .map_err(|error| format!("cannot resolve '{host}': {error}"))?;
        let mut reason = format!("'{host}' has no address");
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream
                        .set_nodelay(true)
                        .map_err(|error| error.to_string())?;
                    return Ok(Box::new(stream));
                }
                Err(error) => reason = format!("{address}: {error}"),
            }
        }
        Err(reason)
    }
}
