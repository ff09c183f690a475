//! Opening a connection: network, proxy, TLS. Whatever fails here, no request was sent.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use http::Uri;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Traffic;
use super::network::{Network, Stream};

/// Longest answer of a proxy to CONNECT, in bytes.
const PROXY_ANSWER_BYTES_MAX: usize = 8192;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    https: bool,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
}

impl Target {
    pub(super) fn of(uri: &Uri) -> Result<Self, String> {
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("'{uri}' is neither http nor https")),
        };
        let host = uri.host().ok_or_else(|| format!("'{uri}' names no host"))?;
        Ok(Self {
            https,
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(if https { 443 } else { 80 }),
        })
    }

    /// The host, in brackets if it is an IPv6 address.
    fn bracketed(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        }
    }

    /// The `Host` header, in the form the signature counts on: without a default port.
    pub(super) fn host_header(&self) -> String {
        if self.port == if self.https { 443 } else { 80 } {
            self.bracketed()
        } else {
            self.to_string()
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.bracketed(), self.port)
    }
}

/// Opens connections.
pub(super) struct Dialer {
    tls: Option<TlsConnector>,
    proxy: Option<Target>,
    network: Arc<dyn Network>,
    traffic: Arc<Traffic>,
}

impl Dialer {
    pub(super) fn new(
        tls: Option<ClientConfig>,
        proxy: Option<&Uri>,
        network: Arc<dyn Network>,
        traffic: Arc<Traffic>,
    ) -> Result<Self, String> {
        Ok(Self {
            tls: tls.map(|config| TlsConnector::from(Arc::new(config))),
            proxy: proxy.map(Target::of).transpose()?,
            network,
            traffic,
        })
    }

    /// Whether the request line must name the host: only to a proxy that forwards single requests.
    pub(super) fn wants_absolute_form(&self, target: &Target) -> bool {
        self.proxy.is_some() && !target.https
    }

    pub(super) async fn dial(&self, target: &Target) -> Result<Wire, String> {
        let mut stream = self.connect(self.proxy.as_ref().unwrap_or(target)).await?;
        if !target.https {
            return Ok(Wire::Plain(stream));
        }
        if self.proxy.is_some() {
            tunnel(&mut stream, target).await?;
        }
        let tls = self
            .tls
            .as_ref()
            .ok_or("TLS is not set up for this endpoint")?;
        let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
        let stream = tls
            .connect(name, stream)
            .await
            .map_err(|error| tls_words(&error))?;
        Ok(Wire::Tls(Box::new(stream)))
    }

    async fn connect(&self, target: &Target) -> Result<Counted, String> {
        let stream = self.network.connect(&target.host, target.port).await?;
        self.traffic.connections.fetch_add(1, Ordering::Relaxed);
        Ok(Counted {
            stream,
            traffic: Arc::clone(&self.traffic),
        })
    }
}

fn tls_words(error: &io::Error) -> String {
    let words = format!("TLS: {error}");
    if words.contains("CaUsedAsEndEntity") || words.contains("UnknownIssuer") {
        format!(
            "{words}; if the server's certificate is its own, set its fingerprint, else set ca-file"
        )
    } else {
        words
    }
}

/// Asks a proxy for a tunnel.
async fn tunnel(stream: &mut Counted, target: &Target) -> Result<(), String> {
    let words = |error: io::Error| format!("proxy: {error}");
    let ask = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.map_err(words)?;
    let mut answer = Vec::new();
    // Byte by byte, so that nothing of what follows the head is taken from TLS.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == PROXY_ANSWER_BYTES_MAX {
            return Err("proxy: the answer to CONNECT is too long".into());
        }
        answer.push(stream.read_u8().await.map_err(words)?);
    }
    let head = String::from_utf8_lossy(&answer);
    let status = head.lines().next().unwrap_or_default();
    if status.split_whitespace().nth(1) == Some("200") {
        Ok(())
    } else {
        Err(format!("proxy: refused the tunnel with '{status}'"))
    }
}

/// A stream that counts its bytes.
pub(super) struct Counted {
    stream: Box<dyn Stream>,
    traffic: Arc<Traffic>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        self.traffic
            .bytes_in
            .fetch_add(read as u64, Ordering::Relaxed);
        polled
    }
}

impl Counted {
    fn count_written(&self, polled: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(written)) = polled {
            self.traffic
                .bytes_out
                .fetch_add(*written as u64, Ordering::Relaxed);
        }
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.count_written(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.count_written(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// What HTTP runs on.
pub(super) enum Wire {
    Plain(Counted),
    Tls(Box<TlsStream<Counted>>),
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(uri: &str) -> Target {
        Target::of(&uri.parse().expect("a URI")).expect("a target")
    }

    #[test]
    fn the_host_header_leaves_out_default_ports() {
        assert_eq!(
            target("https://s3.example:443/b").host_header(),
            "s3.example"
        );
        assert_eq!(
            target("http://s3.example:443/b").host_header(),
            "s3.example:443"
        );
        assert_eq!(target("http://[::1]/b").host_header(), "[::1]");
        assert_eq!(target("http://[::1]:9000/b").host_header(), "[::1]:9000");
        assert_eq!(target("http://[::1]:9000/b").host, "::1");
    }

    #[test]
    fn other_schemes_are_refused() {
        assert!(Target::of(&"ftp://s3.example/".parse().expect("a URI")).is_err());
    }
}
