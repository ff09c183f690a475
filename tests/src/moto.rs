//! moto's S3 server, foreign code, in a process of its own with all requests serialised (`tests/python/moto_locked.py`).

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::process::Guarded;
use crate::python::Python;
use crate::s3_server::{Access, BUCKET, S3Server, Seen};

/// A running server with one empty bucket.
#[derive(Debug)]
pub struct Moto {
    _process: Guarded,
    port: u64,
    log: PathBuf,
    _dir: TempDir,
}

impl Moto {
    /// Starts one. It ends with its handle, with this process, and after 30 minutes.
    pub fn start() -> Result<Self> {
        let dir = TempDir::with_prefix("holdfast-moto-")?;
        let log = dir.path().join("requests.jsonl");
        let mut command = Python::get()?.command(&["moto_locked.py", "--port", "0"]);
        command
            .args(["--bucket", BUCKET, "--seconds", "1800", "--log"])
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = Guarded::spawn(&mut command)?;
        let stdout = process.child().stdout.take();
        let mut line = String::new();
        // The process ends by itself, and the pipe with it, so this does not wait for ever.
        BufReader::new(stdout.context("moto has no output")?).read_line(&mut line)?;
        let told: Value = serde_json::from_str(&line)
            .with_context(|| format!("moto did not start, it said: '{line}'"))?;
        let port = told["port"].as_u64().context("moto told no port")?;
        Ok(Self {
            _process: process,
            port,
            log,
            _dir: dir,
        })
    }
}

impl S3Server for Moto {
    fn name(&self) -> &'static str {
        "moto"
    }

    fn access(&self) -> Access {
        Access {
            endpoint: format!("http://127.0.0.1:{}", self.port),
            access_key: "test".to_owned(),
            secret_key: "test".to_owned(),
        }
    }

    fn seen(&self) -> Result<Vec<Seen>> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(seen).collect()
    }
}

fn seen(line: &str) -> Result<Seen> {
    let line: Value = serde_json::from_str(line).context("a damaged line in moto's log")?;
    let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let (path, query) = (text("path"), text("query"));
    let key = path
        .strip_prefix('/')
        .and_then(|path| path.strip_prefix(BUCKET))
        .map(|key| key.trim_start_matches('/'))
        .unwrap_or_default();
    Ok(Seen {
        operation: operation(&text("method"), key, &query),
        key: key.to_owned(),
        status: line["status"].as_u64().and_then(|n| u16::try_from(n).ok()),
        bytes_out: 0,
    })
}

/// S3's name of what a request asks for.
fn operation(method: &str, key: &str, query: &str) -> String {
    let has = |name: &str| {
        query
            .split('&')
            .any(|pair| pair.split('=').next() == Some(name))
    };
    let name = match (method, key.is_empty()) {
        ("PUT", false) if has("partNumber") => "UploadPart",
        ("PUT", false) => "PutObject",
        ("GET", false) => "GetObject",
        ("HEAD", false) => "HeadObject",
        ("DELETE", false) if has("uploadId") => "AbortMultipartUpload",
        ("DELETE", false) => "DeleteObject",
        ("POST", false) if has("uploads") => "CreateMultipartUpload",
        ("POST", false) if has("uploadId") => "CompleteMultipartUpload",
        ("POST", true) if has("delete") => "DeleteObjects",
        ("GET", true) if has("list-type") => "ListObjectsV2",
        ("HEAD", true) => "HeadBucket",
        _ => "Other",
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_names() {
        assert_eq!(operation("PUT", "a/b", "x-id=PutObject"), "PutObject");
        assert_eq!(operation("POST", "", "delete"), "DeleteObjects");
        assert_eq!(
            operation("GET", "", "list-type=2&prefix=a%2F"),
            "ListObjectsV2"
        );
        let line =
            r#"{"method": "PUT", "path": "/backups/s/.chunks/x", "query": "", "status": 412}"#;
        let found = seen(line).expect("a line");
        assert_eq!(found.key, "s/.chunks/x");
        assert_eq!(found.status, Some(412));
    }
}
