//! Where messages of HTTP/1.1 begin and end: what a proxy must know that delays requests and not connections.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::pace::Pace;

/// Most bytes of one head, one line of a chunked body, or all its trailers.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// How the body of a message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// After so many bytes.
    Known(u64),
    /// With the chunk of length zero.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// The head of a request or an answer, as it came.
#[derive(Clone, Debug)]
pub struct Head {
    /// All of it, the empty line included.
    pub bytes: Vec<u8>,
    first_line: String,
    chunked: bool,
    content_length: Option<u64>,
    close: bool,
}

fn broken(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("HTTP/1.1: {what}"))
}

impl Head {
    /// The next head; `None` if the connection ends before its first byte.
    pub async fn read(from: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Self>> {
        let mut bytes = Vec::new();
        loop {
            let start = bytes.len();
            read_line(from, &mut bytes).await?;
            match &bytes[start..] {
                [] if start == 0 => return Ok(None),
                b"\r\n" if start == 0 => bytes.clear(),
                b"\r\n" => break,
                line if line.ends_with(b"\r\n") => {}
                _ => return Err(ErrorKind::UnexpectedEof.into()),
            }
        }
        Self::parse(bytes).map(Some)
    }

    fn parse(bytes: Vec<u8>) -> Result<Self> {
        let text = std::str::from_utf8(&bytes).map_err(|_| broken("the head is no text"))?;
        let mut lines = text.split("\r\n");
        let mut head = Self {
            first_line: lines.next().unwrap_or_default().to_owned(),
            chunked: false,
            content_length: None,
            close: false,
            bytes: Vec::new(),
        };
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or_else(|| broken("no header"))?;
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => {
                    let length = value
                        .parse()
                        .map_err(|_| broken("the length is no number"))?;
                    head.content_length = Some(length);
                }
                "transfer-encoding" => head.chunked = value.eq_ignore_ascii_case("chunked"),
                "connection" => head.close = value.eq_ignore_ascii_case("close"),
                _ => {}
            }
        }
        head.bytes = bytes;
        Ok(head)
    }

    /// Method and target of a request.
    pub fn request(&self) -> Result<(&str, &str)> {
        let mut words = self.first_line.split(' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some(method), Some(target), Some("HTTP/1.1"), None) => Ok((method, target)),
            _ => Err(broken("no request")),
        }
    }

    /// Status of an answer.
    pub fn status(&self) -> Result<u16> {
        let code = self.first_line.split(' ').nth(1);
        code.and_then(|code| code.parse().ok())
            .ok_or_else(|| broken("no status"))
    }

    /// Whether the connection ends with this message.
    pub fn closes(&self) -> bool {
        self.close
    }

    fn announced(&self) -> Option<Length> {
        if self.chunked {
            return Some(Length::Chunked);
        }
        self.content_length.map(Length::Known)
    }

    /// How the body of this request ends.
    pub fn request_length(&self) -> Length {
        self.announced().unwrap_or(Length::Known(0))
    }

    /// How the body of this answer to a `method` ends.
    pub fn answer_length(&self, method: &str) -> Result<Length> {
        if method == "HEAD" || matches!(self.status()?, 204 | 304) {
            return Ok(Length::Known(0));
        }
        Ok(self.announced().unwrap_or(Length::UntilClose))
    }
}

/// Appends a line with its end; what there is at the end of the stream.
async fn read_line(from: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> Result<()> {
    loop {
        let ready = from.fill_buf().await?;
        if ready.is_empty() {
            return Ok(());
        }
        let end = ready.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(ready.len(), |end| end + 1);
        line.extend_from_slice(&ready[..taken]);
        from.consume(taken);
        if line.len() > HEAD_BYTES_MAX {
            return Err(broken("a head or line is too long"));
        }
        if end.is_some() {
            return Ok(());
        }
    }
}

/// One direction of a connection: passes bytes on at a pace, and counts them.
pub struct Pipe<'a, R, W> {
    /// Where they come from.
    pub from: &'a mut R,
    /// Where they go.
    pub to: &'a mut W,
    /// How fast at most; as fast as it goes without.
    pub pace: Option<&'a Pace>,
}

impl<R: AsyncBufRead + Unpin, W: AsyncWrite + Unpin> Pipe<'_, R, W> {
    /// Passes on what was read already.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(pace) = self.pace {
            pace.take(bytes.len()).await;
        }
        self.to.write_all(bytes).await
    }

    /// Passes a body on, to its end. Returns how many bytes it had, framing included.
    pub async fn body(&mut self, length: Length) -> Result<u64> {
        match length {
            Length::Known(bytes) => self.exactly(bytes).await,
            Length::Chunked => self.chunked().await,
            Length::UntilClose => self.at_most(u64::MAX).await,
        }
    }

    async fn exactly(&mut self, bytes: u64) -> Result<u64> {
        let passed = self.at_most(bytes).await?;
        if passed < bytes {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(passed)
    }

    async fn at_most(&mut self, bytes: u64) -> Result<u64> {
        let mut passed = 0;
        while passed < bytes {
            let ready = self.from.fill_buf().await?;
            if ready.is_empty() {
                break;
            }
            let most = usize::try_from(bytes - passed).unwrap_or(usize::MAX);
            let part = &ready[..ready.len().min(most)];
            let taken = part.len();
            if let Some(pace) = self.pace {
                pace.take(taken).await;
            }
            self.to.write_all(part).await?;
            self.from.consume(taken);
            passed += taken as u64;
        }
        Ok(passed)
    }

    async fn chunked(&mut self) -> Result<u64> {
        let mut passed = 0;
        loop {
            let size = self.line(&mut passed).await?;
            let text = String::from_utf8_lossy(&size);
            let digits = text.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(digits, 16).map_err(|_| broken("no chunk size"))?;
            if size == 0 {
                break;
            }
            passed += self.exactly(size + 2).await?;
        }
        while self.line(&mut passed).await? != b"\r\n" {}
        Ok(passed)
    }

    async fn line(&mut self, passed: &mut u64) -> Result<Vec<u8>> {
        let mut line = Vec::new();
        read_line(self.from, &mut line).await?;
        if !line.ends_with(b"\n") {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.send(&line).await?;
        *passed += line.len() as u64;
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pass(text: &str, length: Length) -> (Result<u64>, String, String) {
        let mut from = text.as_bytes();
        let mut to = Vec::new();
        let mut pipe = Pipe {
            from: &mut from,
            to: &mut to,
            pace: None,
        };
        let passed = pipe.body(length).await;
        let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (passed, words(&to), words(from))
    }

    #[tokio::test]
    async fn heads_tell_how_their_bodies_end() {
        let text = "PUT /b/k HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
                    HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
                    HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
        let mut from = text.as_bytes();
        let put = Head::read(&mut from).await.unwrap().unwrap();
        assert_eq!(put.request().unwrap(), ("PUT", "/b/k"));
        assert_eq!(put.request_length(), Length::Known(5));
        assert!(put.bytes.ends_with(b"5\r\n\r\n") && from.starts_with(b"hello"));
        from = &from[5..];
        let answer = Head::read(&mut from).await.unwrap().unwrap();
        assert_eq!(answer.status().unwrap(), 200);
        assert_eq!(answer.answer_length("GET").unwrap(), Length::Chunked);
        assert_eq!(answer.answer_length("HEAD").unwrap(), Length::Known(0));
        from = &from[5..];
        let last = Head::read(&mut from).await.unwrap().unwrap();
        assert!(last.closes() && !answer.closes());
        assert_eq!(last.answer_length("DELETE").unwrap(), Length::Known(0));
        assert!(Head::read(&mut from).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_body_is_passed_on_to_its_end_and_no_further() {
        let (passed, sent, left) = pass("helloGET /", Length::Known(5)).await;
        assert_eq!(
            (passed.unwrap(), sent.as_str(), left.as_str()),
            (5, "hello", "GET /")
        );
        let chunked = "5;x=1\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n";
        let (passed, sent, left) = pass(&format!("{chunked}rest"), Length::Chunked).await;
        assert_eq!(passed.unwrap(), chunked.len() as u64);
        assert_eq!((sent.as_str(), left.as_str()), (chunked, "rest"));
        assert_eq!(pass("abc", Length::UntilClose).await.0.unwrap(), 3);
    }

    #[tokio::test]
    async fn what_ends_early_or_is_no_message_is_an_error() {
        assert!(pass("hel", Length::Known(5)).await.0.is_err());
        assert!(pass("5\r\nhel", Length::Chunked).await.0.is_err());
        assert!(pass("five\r\n", Length::Chunked).await.0.is_err());
        assert!(
            Head::read(&mut "GET / HTTP/1.1\r\nHost".as_bytes())
                .await
                .is_err()
        );
        let long = format!(
            "GET / HTTP/1.1\r\nx: {}\r\n\r\n",
            "y".repeat(HEAD_BYTES_MAX)
        );
        assert!(Head::read(&mut long.as_bytes()).await.is_err());
    }
}
