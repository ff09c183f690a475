//! Calls to the API by the control socket, as management commands make them: without password, in this process.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// How long one read or write may take.
const TIME_MAX: Duration = Duration::from_mins(1);

/// What was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body as it came.
    pub text: String,
}

impl Answer {
    /// The data of a call that succeeded.
    pub fn data(&self) -> Result<Value> {
        ensure!(self.status == 200, "{}: {}", self.status, self.text);
        let mut envelope: Value = serde_json::from_str(&self.text)?;
        Ok(envelope["data"].take())
    }
}

/// Makes one call below `/api2/json/`. An error means that no whole answer came.
pub fn ask(socket: &Path, method: &str, path: &str, params: &Value) -> Result<Answer> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("cannot connect to '{}'", socket.display()))?;
    stream.set_read_timeout(Some(TIME_MAX))?;
    stream.set_write_timeout(Some(TIME_MAX))?;
    let body = if params.is_null() {
        String::new()
    } else {
        params.to_string()
    };
    write!(
        stream,
        "{method} /api2/json/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, text) = answer.split_once("\r\n\r\n").context("no whole answer")?;
    let status = head.split(' ').nth(1).context("no status line")?;
    Ok(Answer {
        status: status.parse()?,
        text: text.to_owned(),
    })
}
