//! The keys of a bucket come from the machine: `credentials = "environment"` finds those of an instance.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::content::compare_files;
use holdfast_tests::daemon::Daemon;
use holdfast_tests::s3_server::{Access, EmbeddedS3, S3Server as _};
use serde_json::json;

const ROLE: &str = "backups";
const READ_TIME_MAX: Duration = Duration::from_secs(10);

/// The metadata service of an instance: hands out one pair of keys, to whoever has fetched a token first.
struct Metadata {
    address: SocketAddr,
    handed_out: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Metadata {
    fn start(access: &Access) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let keys = json!({
            "Code": "Success",
            "Type": "AWS-HMAC",
            "AccessKeyId": access.access_key,
            "SecretAccessKey": access.secret_key,
            "Token": "a session",
            "LastUpdated": "2026-01-01T00:00:00Z",
            "Expiration": "2096-01-01T00:00:00Z",
        });
        let (handed_out, ends) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, end) = (Arc::clone(&handed_out), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::Acquire) {
                    return;
                }
                // A request that was cut off is asked again.
                let _ = stream.map(|stream| answer(stream, &keys.to_string(), &count));
            }
        });
        Ok(Self {
            address,
            handed_out,
            ends,
            thread: Some(thread),
        })
    }
}

impl Drop for Metadata {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(stream: TcpStream, keys: &str, handed_out: &AtomicUsize) -> Result<()> {
    stream.set_read_timeout(Some(READ_TIME_MAX))?;
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim() {
            "" => break,
            line => head.push(line.to_ascii_lowercase()),
        }
    }
    let request = head.first().context("an empty request")?;
    let has_token = head
        .iter()
        .any(|line| line == "x-aws-ec2-metadata-token: a-token");
    let below = format!("get /latest/meta-data/iam/security-credentials/{ROLE} ");
    let (status, body) = if request.starts_with("put /latest/api/token ") {
        ("200 OK", "a-token")
    } else if !has_token {
        ("401 Unauthorized", "")
    } else if request.starts_with("get /latest/meta-data/iam/security-credentials/ ") {
        ("200 OK", ROLE)
    } else if request.starts_with(&below) {
        handed_out.fetch_add(1, Ordering::AcqRel);
        ("200 OK", keys)
    } else {
        ("404 Not Found", "")
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\nx-aws-ec2-metadata-token-ttl-seconds: 21600\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = reader.into_inner();
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    Ok(())
}

#[test]
fn the_keys_of_an_instance_are_used() -> Result<()> {
    let server = EmbeddedS3::start()?;
    let access = server.access();
    let metadata = Metadata::start(&access)?;
    let daemon = Daemon::set_up(&[])?;
    let endpoint = format!("http://{}", metadata.address);
    daemon.set_variable("AWS_EC2_METADATA_SERVICE_ENDPOINT", Some(&endpoint));
    // No keys of whoever runs the tests.
    let home = daemon.dir().to_str().context("a path in UTF-8")?;
    daemon.set_variable("HOME", Some(home));
    daemon.start()?;
    daemon.explain(|| {
        let add = ["s3", "add", "embedded", "--credentials", "environment"];
        let add = [&add[..], &["--endpoint", &access.endpoint]].concat();
        daemon.manage(&add)?.success()?;
        daemon.add_s3_store("embedded", "store", &[])?;
        ensure!(metadata.handed_out.load(Ordering::Acquire) > 0);

        let image = daemon.dir().join("image");
        std::fs::write(&image, b"kept with the keys of a role")?;
        let source = format!("disk.img:{}", image.display());
        let backup = ["backup", &source, "--backup-id", "web"];
        daemon.client("store", &backup)?.success()?;
        let restored = daemon.dir().join("restored");
        let to = restored.to_str().context("a path in UTF-8")?;
        let restore = ["restore", "host/web", "disk.img", to];
        daemon.client("store", &restore)?.success()?;
        compare_files(&image, &restored)
    });
    daemon.stop()
}
