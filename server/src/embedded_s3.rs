//! `holdfast s3-server`: a directory as an S3 bucket, in a process of its own. For the quick start and the tests; not an
//! S3 server to keep data in.
//!
//! Once it listens, one line of JSON on standard output says where:
//! `{"endpoint":"http://127.0.0.1:40123","address":"127.0.0.1:40123","bucket":"…"}`. It ends by SIGTERM, SIGINT, or when
//! standard input ends, which it does when the parent process is gone; requests under way are finished first. What was
//! asked so far is at `/-/counters` ([`s3_client::serve::COUNTERS_PATH`]).

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::{Context as _, bail};
use s3_client::serve::{AccessLog, Credentials, ServeOptions, Server, serve};
use s3_client::{DirectoryOptions, DirectoryStore};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{parent, shutdown};

/// Lines of the access log that wait for the disk; when there are more, requests wait.
const LOG_LINES_MAX: usize = 65_536;

/// `holdfast s3-server`
#[derive(Debug, clap::Args)]
pub(crate) struct S3ServerArgs {
    /// Directory of the bucket; made if it does not exist.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR:PORT")]
    pub(crate) listen: SocketAddr,
    /// Name of the bucket.
    #[arg(long)]
    pub(crate) bucket: String,
    /// The region the bucket says it is in.
    #[arg(long, default_value = "us-east-1")]
    pub(crate) region: String,
    /// Id of the key that clients must sign with. Without keys everybody is served, and only unsigned requests.
    #[arg(long, env = "HOLDFAST_S3_ACCESS_KEY", requires = "secret_key")]
    pub(crate) access_key: Option<String>,
    /// The key itself.
    #[arg(
        long,
        env = "HOLDFAST_S3_SECRET_KEY",
        hide_env_values = true,
        requires = "access_key"
    )]
    pub(crate) secret_key: Option<String>,
    /// Append two lines for each request to this file: time, "begin", number, method, key when its head has arrived;
    /// time, "end", number, operation, status (0: no answer), bytes in, bytes out when it has ended.
    #[arg(long, value_name = "FILE")]
    pub(crate) access_log: Option<PathBuf>,
    /// Answer writes before they are on the disk. A crash of the machine may then undo them.
    #[arg(long)]
    pub(crate) no_sync: bool,
}

impl S3ServerArgs {
    /// Serves until told to end.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        parent::follow()?;
        let stop = shutdown::stop_signal();
        let (server, log) = self.start().await?;
        announce(&server, &self.bucket)?;
        stop.await?;
        server.shutdown().await;
        match log {
            Some(log) => log.finish(),
            None => Ok(()),
        }
    }

    async fn start(&self) -> anyhow::Result<(Server, Option<LogThread>)> {
        let credentials = match (&self.access_key, &self.secret_key) {
            (Some(access_key), Some(secret_key)) => Some(Credentials {
                access_key: access_key.clone(),
                secret_key: secret_key.clone(),
            }),
            _ if self.listen.ip().is_loopback() => None,
            _ => bail!(
                "{} can be reached from other machines: give --access-key and --secret-key",
                self.listen
            ),
        };
        let directory = DirectoryOptions {
            sync: !self.no_sync,
            ..DirectoryOptions::default()
        };
        let store = DirectoryStore::open_with(&self.dir, directory)
            .await
            .with_context(|| format!("the bucket {} cannot be opened", self.dir.display()))?;
        let log = self.access_log.as_deref().map(LogThread::start);
        let log = log.transpose()?;
        let options = ServeOptions {
            credentials,
            region: self.region.clone(),
            counters_over_http: true,
            access_log: log.as_ref().map(LogThread::sink),
            ..ServeOptions::new(&self.bucket)
        };
        let listener = TcpListener::bind(self.listen)
            .await
            .with_context(|| format!("cannot listen on {}", self.listen))?;
        let server = serve(listener, Arc::new(store), options)?;
        Ok((server, log))
    }
}

/// Says where the server is, on one line.
fn announce(server: &Server, bucket: &str) -> anyhow::Result<()> {
    let line = json!({
        "endpoint": server.endpoint(),
        "address": server.address().to_string(),
        "bucket": bucket,
    });
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()?;
    Ok(())
}

/// The thread that writes the access log, so that no request waits for the disk while there is room.
struct LogThread {
    lines: SyncSender<String>,
    thread: thread::JoinHandle<io::Result<()>>,
}

impl LogThread {
    fn start(path: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("the access log {} cannot be written", path.display()))?;
        let (lines, waiting) = sync_channel(LOG_LINES_MAX);
        let thread = thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_lines(file, &waiting))?;
        Ok(Self { lines, thread })
    }

    fn sink(&self) -> AccessLog {
        let lines = self.lines.clone();
        Arc::new(move |event| {
            // Fails when the thread has ended by an error, which the end of the program tells.
            drop(lines.send(format!("{event}\n")));
        })
    }

    /// Waits until all is written. The server must be gone, or this waits for it.
    fn finish(self) -> anyhow::Result<()> {
        drop(self.lines);
        match self.thread.join() {
            Ok(written) => written.context("the access log could not be written"),
            Err(_) => bail!("the thread of the access log has panicked"),
        }
    }
}

/// Writes lines as they come, as many at once as wait.
fn write_lines(mut file: File, waiting: &Receiver<String>) -> io::Result<()> {
    while let Ok(mut text) = waiting.recv() {
        for line in waiting.try_iter().take(LOG_LINES_MAX) {
            text.push_str(&line);
        }
        file.write_all(text.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use s3_client::serve::{Access, AccessEvent};

    use super::*;

    fn args(dir: &Path) -> S3ServerArgs {
        S3ServerArgs {
            dir: dir.join("bucket"),
            listen: ([127, 0, 0, 1], 0).into(),
            bucket: "test-bucket".to_owned(),
            region: "us-east-1".to_owned(),
            access_key: None,
            secret_key: None,
            access_log: Some(dir.join("requests.log")),
            no_sync: true,
        }
    }

    #[tokio::test]
    async fn requests_are_logged_in_order_and_none_is_lost_at_the_end() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (server, log) = args(dir.path()).start().await.expect("a server");
        let sink = log.as_ref().expect("a log").sink();
        for number in 0..1000 {
            sink(&AccessEvent {
                time: jiff::Timestamp::UNIX_EPOCH,
                number,
                what: Access::Begin {
                    method: "PUT".to_owned(),
                    key: format!("k{number}"),
                },
            });
        }
        drop(sink);
        server.shutdown().await;
        log.expect("a log").finish().expect("written");
        let text = std::fs::read_to_string(dir.path().join("requests.log")).expect("a log");
        let keys: Vec<_> = text
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .collect();
        assert_eq!(keys.len(), 1000);
        assert!(
            keys.iter()
                .enumerate()
                .all(|(n, key)| *key == format!("\"k{n}\""))
        );
    }

    #[tokio::test]
    async fn a_public_address_needs_keys() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut args = args(dir.path());
        args.listen = ([0, 0, 0, 0], 0).into();
        let fault = args.start().await.err().expect("refused").to_string();
        assert!(fault.contains("--access-key"), "{fault}");
        args.access_key = Some("key".to_owned());
        args.secret_key = Some("secret".to_owned());
        assert!(args.start().await.is_ok());
    }

    #[tokio::test]
    async fn a_bucket_is_served_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let _first = args(dir.path()).start().await.expect("a server");
        let fault = args(dir.path()).start().await.err().expect("refused");
        assert!(format!("{fault:#}").contains("bucket"), "{fault:#}");
    }
}
