//! `bench sink`: what hyper, TLS and HTTP/2 cost without a daemon behind them.
//!
//! A process of its own, with the certificate of a daemon, listens on a free port of the loopback, reads the bodies of all
//! requests, drops them, and answers a few bytes. HTTP/2 begins with the first byte. Windows are those that the daemon gives
//! the first session under its default memory budget, so that frames have the same sizes. It ends with its standard input.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use holdfast_tests::daemon::Daemon;
use holdfast_tests::process::Guarded;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A sixth of three quarters of 236 MiB, and 160 KiB.
const CONNECTION_WINDOW_BYTES: u32 = (30_208 + 160) << 10;
const STREAMS_MAX: u32 = 200;
/// Streams share what an eighth and the first window of a connection leave.
const STREAM_WINDOW_BYTES: u32 =
    (CONNECTION_WINDOW_BYTES - CONNECTION_WINDOW_BYTES / 8 - (64 << 10)) / STREAMS_MAX;
const SEND_BUFFER_BYTES_MAX: usize = 512 << 10;
/// The answer to every request: about as long as the daemon's to an upload.
const ANSWER: &[u8] =
    br#"{"data":"0000000000000000000000000000000000000000000000000000000000000000"}"#;

/// Serves until standard input ends.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SinkArgs {
    /// PEM file of the certificate.
    #[arg(long)]
    certificate: PathBuf,
    /// PEM file of its key.
    #[arg(long)]
    key: PathBuf,
}

impl SinkArgs {
    /// Says where it listens, and serves.
    #[expect(clippy::print_stdout, reason = "the address goes to who started it")]
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let acceptor = TlsAcceptor::from(Arc::new(self.tls()?));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        println!("{}", listener.local_addr()?);
        let serving = runtime.handle().spawn(serve(listener, acceptor));
        std::io::stdin().lock().read_to_end(&mut Vec::new())?;
        serving.abort();
        Ok(ExitCode::SUCCESS)
    }

    fn tls(&self) -> Result<ServerConfig> {
        let chain = CertificateDer::pem_file_iter(&self.certificate)?.collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_file(&self.key)?;
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(config)
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        connections.spawn(async move {
            // The client is told of an error by the end of its connection.
            drop(connection(stream, &acceptor).await);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, acceptor: &TlsAcceptor) -> Result<()> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .max_frame_size(STREAM_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX);
    let service = service_fn(swallow);
    Ok(builder
        .serve_connection(TokioIo::new(stream), service)
        .await?)
}

async fn swallow(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(Response::new(Full::new(Bytes::from_static(ANSWER))))
}

/// A running sink.
pub(crate) struct Sink {
    process: Guarded,
    address: SocketAddr,
}

impl Sink {
    /// Starts one with the certificate of `daemon`.
    pub(crate) fn start(daemon: &Daemon) -> Result<Self> {
        let dir = daemon.config().parent().unwrap_or(Path::new("/"));
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["sink", "--certificate"])
            .arg(dir.join("tls-certificate.pem"))
            .arg("--key")
            .arg(dir.join("tls-key.pem"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Guarded::spawn(&mut command)?;
        let stdout = process.child().stdout.take();
        let mut line = String::new();
        BufReader::new(stdout.context("no standard output")?).read_line(&mut line)?;
        let address = line.trim().parse();
        Ok(Self {
            process,
            address: address.with_context(|| format!("the sink did not start: '{line}'"))?,
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Number of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}
