//! Where a server's connections come from.

use std::io;
use std::net::SocketAddr;

use async_trait::async_trait;
use tokio::net::TcpListener;

use crate::Stream;

/// Hands out connections: a TCP listener, or what a simulation brings in its place.
#[async_trait]
pub trait Listener: Send + 'static {
    /// The next connection. Dropping the future loses none.
    async fn accept(&mut self) -> io::Result<Box<dyn Stream>>;

    /// Where clients connect to.
    fn address(&self) -> io::Result<SocketAddr>;
}

#[async_trait]
impl Listener for TcpListener {
    async fn accept(&mut self) -> io::Result<Box<dyn Stream>> {
        let (stream, _) = Self::accept(self).await?;
        // An answer in several small parts must not wait for the client's acknowledgements.
        drop(stream.set_nodelay(true));
        Ok(Box::new(stream))
    }

    fn address(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}
