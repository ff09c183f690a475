//! A daemon as its attackers see it: an address, and the certificate that it must show.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::WAIT_MAX;
use crate::https::pinned;

/// An encrypted connection.
pub type Tls = TlsStream<TcpStream>;

/// Whom to connect to, and from where; clones are cheap.
#[derive(Clone, Debug)]
pub struct Peer {
    address: SocketAddr,
    source: Ipv4Addr,
    config: Arc<ClientConfig>,
}

impl Peer {
    /// The daemon at `address` with the certificate of this fingerprint, reached from 127.0.0.1.
    pub fn new(address: SocketAddr, fingerprint: &str) -> Result<Self> {
        ensure!(address.ip().is_loopback(), "only daemons on this machine");
        Ok(Self {
            address,
            source: Ipv4Addr::LOCALHOST,
            config: Arc::new(pinned(fingerprint)?),
        })
    }

    /// The same, reached from `127.0.0.last`: to the daemon that is somebody else.
    #[must_use]
    pub fn from(&self, last: u8) -> Self {
        Self {
            source: Ipv4Addr::new(127, 0, 0, last),
            ..self.clone()
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A connection without encryption.
    pub async fn tcp(&self) -> Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.source, 0).into())?;
        let connecting = timeout(WAIT_MAX, socket.connect(self.address));
        let stream = connecting.await.context("no connection in time")??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A connection with encryption.
    pub async fn tls(&self) -> Result<Tls> {
        let stream = self.tcp().await?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let connecting = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream);
        let stream = timeout(WAIT_MAX, connecting).await;
        Ok(stream.context("no handshake in time")??)
    }
}
