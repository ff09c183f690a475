//! HTTP/1.1 as it is written by hand.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::WAIT_MAX;
use super::peer::{Peer, Tls};

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A request with whatever is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers; `Host` and `Content-Length` come by themselves.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl Request {
    /// A request without headers and body.
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            ..Self::default()
        }
    }

    /// The same with one more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with more headers.
    #[must_use]
    pub fn with_all(mut self, headers: &[(String, String)]) -> Self {
        self.headers.extend_from_slice(headers);
        self
    }

    /// The same with a body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The head, its last empty line included.
    pub fn head(&self) -> String {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: store\r\n",
            self.method, self.target
        );
        for (name, value) in &self.headers {
            write!(head, "{name}: {value}\r\n").expect("a string takes everything");
        }
        let length = self.body.len();
        let given = |(name, _): &(String, String)| name.eq_ignore_ascii_case("content-length");
        if !self.headers.iter().any(given) {
            write!(head, "Content-Length: {length}\r\n").expect("a string takes everything");
        }
        head + "\r\n"
    }
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        let told = || format!("no JSON in {} {:?}", self.status, self.text());
        serde_json::from_slice(&self.body).with_context(told)
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let pairs = self.head.lines().filter_map(|line| line.split_once(':'));
        let mut found = pairs.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.trim())
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    stream: Tls,
    read: BytesMut,
}

impl Connection {
    /// Opens one.
    pub async fn open(peer: &Peer) -> Result<Self> {
        Ok(Self {
            stream: peer.tls().await?,
            read: BytesMut::new(),
        })
    }

    /// Sends bytes as they are.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let sending = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(WAIT_MAX, sending)
            .await
            .context("nobody takes it")??;
        Ok(())
    }

    /// Reads the next answer; an error if the connection ends before.
    pub async fn answer(&mut self) -> Result<Answer> {
        timeout(WAIT_MAX, self.read_answer())
            .await
            .context("no answer in time")?
    }

    /// Sends a request and reads its answer.
    pub async fn ask(&mut self, request: &Request) -> Result<Answer> {
        let mut bytes = request.head().into_bytes();
        bytes.extend_from_slice(&request.body);
        self.write(&bytes).await?;
        self.answer().await
    }

    async fn read_answer(&mut self) -> Result<Answer> {
        let end = loop {
            let found = self.read.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(at) = found {
                break at + 4;
            }
            ensure!(self.more().await?, "the connection ended before an answer");
        };
        let head = String::from_utf8(self.read.split_to(end).to_vec())?;
        let mut answer = Answer {
            status: 0,
            head,
            body: Vec::new(),
        };
        let status = answer.head.split(' ').nth(1).context("no status line")?;
        answer.status = status.parse()?;
        ensure!(answer.head.starts_with("HTTP/1.1"), "no HTTP/1.1 answer");
        if answer.status < 200 {
            return Ok(answer);
        }
        let length = answer
            .header("content-length")
            .map(str::parse)
            .transpose()?;
        let length: usize = length.unwrap_or(0);
        ensure!(length <= ANSWER_BYTES_MAX, "an answer of {length} bytes");
        while self.read.len() < length {
            ensure!(self.more().await?, "the connection ended in an answer");
        }
        answer.body = self.read.split_to(length).to_vec();
        Ok(answer)
    }

    /// Reads something; whether the connection is still open.
    async fn more(&mut self) -> Result<bool> {
        ensure!(self.read.len() <= ANSWER_BYTES_MAX, "an endless answer");
        Ok(self.stream.read_buf(&mut self.read).await? > 0)
    }

    /// Whether the other side has closed; reads what it has said.
    pub async fn is_over(&mut self) -> Result<bool> {
        let reading = timeout(std::time::Duration::from_millis(1), self.more()).await;
        Ok(matches!(reading, Ok(Ok(false) | Err(_))))
    }

    /// Reads until the other side closes; everything it still said. An error if it does not close in time.
    pub async fn rest(mut self, time: std::time::Duration) -> Result<Vec<u8>> {
        let reading = async {
            // However it ends, it has ended.
            while matches!(self.more().await, Ok(true)) {}
        };
        let closed = timeout(time, reading).await;
        closed.context("the other side does not close")?;
        Ok(self.read.copy_to_bytes(self.read.len()).to_vec())
    }

    /// The connection, and what was read and not used.
    pub fn into_parts(self) -> (Tls, BytesMut) {
        (self.stream, self.read)
    }
}
