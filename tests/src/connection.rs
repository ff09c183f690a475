//! A client's connection to the daemon: REST calls over HTTP/1.1, and its upgrade to the HTTP/2 of a session.
//!
//! It costs as little as possible, for it also measures what the other side costs: nothing is retried and nothing is shown,
//! windows are large, bodies are sent from where they lie, and answers are read into one buffer.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// How long a connection, an upgrade or a small REST answer may take. The daemon may be stopped for a while, and answers
/// to some calls only when the bucket has answered.
const STEP_TIME_MAX: Duration = Duration::from_secs(90);
/// How long an answer of a session may take: all attempts of an upload or a GET, and a seal that waits until T.
const SESSION_ANSWER_TIME_MAX: Duration = Duration::from_mins(3);
/// More than any chunk, index or list.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Windows for what is received: no answer ever waits for them.
const STREAM_WINDOW_BYTES: u32 = 32 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;

/// Parameters of a call.
pub type Parameters<'a> = &'a [(&'a str, String)];

/// Why something did not work out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The daemon said no.
    Refused {
        /// HTTP status.
        status: u16,
        /// Its words.
        sentence: String,
    },
    /// The connection could not be made, or broke.
    Broken(String),
    /// There was no answer in time.
    Silent(&'static str),
    /// The daemon did, or gave back, something else than it should.
    Wrong(String),
    /// The client gave up because it wanted to.
    Chosen(&'static str),
}

impl Display for Trouble {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { status, sentence } => write!(f, "{status}: {sentence}"),
            Self::Broken(how) => write!(f, "the connection broke: {how}"),
            Self::Silent(what) => write!(f, "no answer to {what} in time"),
            Self::Wrong(what) => f.write_str(what),
            Self::Chosen(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Trouble {}

fn broken(error: impl Display) -> Trouble {
    Trouble::Broken(error.to_string())
}

/// An answer within `most`, or [`Trouble::Silent`].
async fn in_time<T>(
    most: Duration,
    doing: &'static str,
    work: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    match timeout(most, work).await {
        Ok(done) => done,
        Err(_) => Err(Trouble::Silent(doing)),
    }
}

/// `?a=b&c=d`, escaped, or nothing.
fn query(parameters: Parameters<'_>) -> String {
    let mut query = String::new();
    for (name, value) in parameters {
        query.push(if query.is_empty() { '?' } else { '&' });
        query.extend([name, "="]);
        query.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
    }
    query
}

/// Where to connect, and as whom.
#[derive(Clone, Debug)]
pub struct Entrance {
    /// Where the daemon listens.
    pub address: SocketAddr,
    /// What is believed of it.
    pub tls: Arc<ClientConfig>,
    /// Value of the header `Authorization`.
    pub authorization: String,
}

impl Entrance {
    async fn connect(&self) -> Result<TlsStream<TcpStream>, Trouble> {
        let stream = TcpStream::connect(self.address).await.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls));
        connector.connect(name, stream).await.map_err(broken)
    }

    /// Opens a session of the protocol `name` at the path `path`.
    pub async fn session(
        &self,
        path: &str,
        name: &'static str,
        parameters: Parameters<'_>,
    ) -> Result<Session, Trouble> {
        let connection = Connection::open(self).await?;
        connection.upgrade(path, name, parameters).await
    }

    /// Speaks HTTP/2 from the first byte, to a server that is no daemon.
    pub async fn direct(&self) -> Result<Session, Trouble> {
        in_time(STEP_TIME_MAX, "connect", async {
            let stream = TokioIo::new(self.connect().await?);
            Session::over(stream, JoinSet::new()).await
        })
        .await
    }
}

/// A connection for REST calls.
pub struct Connection {
    entrance: Entrance,
    sender: http1::SendRequest<Full<Bytes>>,
    driver: JoinSet<()>,
}

impl Connection {
    /// Connects.
    pub async fn open(entrance: &Entrance) -> Result<Self, Trouble> {
        in_time(STEP_TIME_MAX, "connect", async {
            let stream = entrance.connect().await?;
            let handshake = http1::handshake(TokioIo::new(stream)).await;
            let (sender, connection) = handshake.map_err(broken)?;
            let mut driver = JoinSet::new();
            driver.spawn(async move {
                // Whoever waits for an answer is told of an error.
                drop(connection.with_upgrades().await);
            });
            Ok(Self {
                entrance: entrance.clone(),
                sender,
                driver,
            })
        })
        .await
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        parameters: Parameters<'_>,
    ) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("/api2/json/{path}{}", query(parameters)))
            .header(header::HOST, self.entrance.address.to_string())
            .header(header::AUTHORIZATION, &self.entrance.authorization)
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Trouble> {
        self.sender.ready().await.map_err(broken)?;
        self.sender.send_request(request).await.map_err(broken)
    }

    /// A call; the member `data` of its answer.
    pub async fn call(
        &mut self,
        method: Method,
        path: &str,
        parameters: Parameters<'_>,
    ) -> Result<Value, Trouble> {
        let request = self.request(method, path, parameters).body(Full::default());
        let request = request.map_err(broken)?;
        in_time(STEP_TIME_MAX, "a call", async {
            let answer = self.send(request).await?;
            data(&read(answer).await?)
        })
        .await
    }

    /// Becomes a session of the protocol `name`.
    pub async fn upgrade(
        mut self,
        path: &str,
        name: &'static str,
        parameters: Parameters<'_>,
    ) -> Result<Session, Trouble> {
        let request = self
            .request(Method::GET, path, parameters)
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, name)
            .body(Full::default());
        let request = request.map_err(broken)?;
        in_time(STEP_TIME_MAX, "an upgrade", async {
            let answer = self.send(request).await?;
            if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                read(answer).await?;
                return Err(Trouble::Wrong("the protocol was not changed".to_owned()));
            }
            let upgraded = hyper::upgrade::on(answer).await.map_err(broken)?;
            Session::over(upgraded, self.driver).await
        })
        .await
    }
}

/// An HTTP/2 session; dropping it breaks the connection, which abandons it.
pub struct Session {
    sender: http2::SendRequest<Full<Bytes>>,
    _driver: JoinSet<()>,
}

impl Session {
    async fn over<T>(stream: T, mut driver: JoinSet<()>) -> Result<Self, Trouble>
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let (sender, connection) = builder.handshake(stream).await.map_err(broken)?;
        driver.spawn(async move {
            drop(connection.await);
        });
        Ok(Self {
            sender,
            _driver: driver,
        })
    }

    /// Sends a request and reads its answer. Dropping the future resets the stream.
    pub async fn ask(
        &self,
        method: Method,
        name: &str,
        parameters: Parameters<'_>,
        body: Bytes,
    ) -> Result<Bytes, Trouble> {
        let kind = match body.first() {
            None => "application/x-www-form-urlencoded",
            Some(b'{') => "application/json",
            Some(_) => "application/octet-stream",
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("https://localhost/{name}{}", query(parameters)))
            .header(header::CONTENT_TYPE, kind)
            .body(Full::new(body))
            .map_err(broken)?;
        let mut sender = self.sender.clone();
        in_time(SESSION_ANSWER_TIME_MAX, "a request of a session", async {
            sender.ready().await.map_err(broken)?;
            read(sender.send_request(request).await.map_err(broken)?).await
        })
        .await
    }

    /// The same for answers in JSON.
    pub async fn call(
        &self,
        method: Method,
        name: &str,
        parameters: Parameters<'_>,
        body: Bytes,
    ) -> Result<Value, Trouble> {
        data(&self.ask(method, name, parameters, body).await?)
    }
}

async fn read(answer: Response<Incoming>) -> Result<Bytes, Trouble> {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await.map_err(broken)?.to_bytes();
    if status.is_success() {
        return Ok(body);
    }
    Err(Trouble::Refused {
        status: status.as_u16(),
        sentence: String::from_utf8_lossy(&body).trim().to_owned(),
    })
}

fn data(body: &[u8]) -> Result<Value, Trouble> {
    let envelope: Result<BTreeMap<String, Value>, _> = serde_json::from_slice(body);
    let data = envelope
        .ok()
        .and_then(|mut envelope| envelope.remove("data"));
    data.ok_or_else(|| {
        let text = String::from_utf8_lossy(body);
        Trouble::Wrong(format!("an answer without data: '{text}'"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_escaped() {
        let parameters = [("a", "b c/d".to_owned()), ("e", "1".to_owned())];
        assert_eq!(query(&parameters), "?a=b%20c%2Fd&e=1");
        assert_eq!(query(&[]), "");
    }
}
