//! `holdfast benchmark`: how fast hashing, compression and encryption are here, and the way to the server.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::Method;
use pbs_datastore::{
    BackupGroup, BackupTime, BackupType, CHUNK_BYTES_MAX, CryptKey, DataBlob, Digest, Namespace,
};
use serde_json::json;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::ServerArgs;
use super::clock;
use super::http::Parts;
use super::output::{self, Output};
use super::progress::Progress;
use super::session::{Session, Upgrade};

/// How long each measurement goes on.
const LOCAL: Duration = Duration::from_secs(1);
const REMOTE: Duration = Duration::from_secs(5);
/// What is worked on, and sent: a chunk of the usual size.
const CHUNK_BYTES: usize = 4 << 20;
/// Requests on the way.
const IN_FLIGHT: usize = 16;

/// `holdfast benchmark`
#[derive(Debug, clap::Args)]
pub(crate) struct BenchmarkArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Measure this machine only, without a server.
    #[arg(long)]
    local: bool,
}

impl BenchmarkArgs {
    pub(super) async fn run(self, progress: &Arc<Progress>) -> anyhow::Result<()> {
        let output = self.server.output();
        let mut speeds = Vec::new();
        if !self.local {
            progress.begin("upload", None);
            let session = self.server.session().await?;
            speeds.push(("upload", upload(session, progress).await?));
        }
        progress.begin("hashing, compression, encryption", None);
        speeds.extend(spawn_blocking(local).await??);
        progress.finish();
        print(&speeds, output)
    }
}

/// Bytes per second to the server, in a session of which nothing stays.
async fn upload(session: Session, progress: &Progress) -> anyhow::Result<f64> {
    let group = BackupGroup::new(BackupType::Host, "benchmark".parse()?);
    let snapshot = group.at(BackupTime::new(clock::now().as_second())?);
    let h2 = session
        .upgrade(
            Upgrade::Backup { benchmark: true },
            &Namespace::root(),
            &snapshot,
        )
        .await?;
    let body = Bytes::from(noise());
    let started = Instant::now();
    let mut sent = 0;
    let mut answers = VecDeque::new();
    while started.elapsed() < REMOTE || !answers.is_empty() {
        while answers.len() < IN_FLIGHT && started.elapsed() < REMOTE {
            answers.push_back(h2.send(
                Method::POST,
                "/speedtest",
                Parts::raw([body.clone()]),
                CHUNK_BYTES,
            ));
        }
        if let Some(answer) = answers.pop_front() {
            answer.await.context("the upload failed")?;
            sent += CHUNK_BYTES;
            progress.advance(CHUNK_BYTES as u64);
        }
    }
    Ok(sent as f64 / started.elapsed().as_secs_f64())
}

/// Bytes that do not compress.
fn noise() -> Vec<u8> {
    let mut block = vec![0; CHUNK_BYTES];
    rand::fill(&mut block[..]);
    block
}

fn local() -> anyhow::Result<Vec<(&'static str, f64)>> {
    // Half noise, half zeros in small stretches: compresses to about a half.
    let mut data = noise();
    for piece in data.chunks_mut(128) {
        piece[64..].fill(0);
    }
    let data = Bytes::from(data);
    let key = CryptKey::new(rand::random());
    let compressed = DataBlob::encode(data.clone(), true, None, [0; 16])?;
    let encrypted = DataBlob::encode(data.clone(), false, Some(&key), rand::random())?;
    let encode =
        |key: Option<&CryptKey>| DataBlob::encode(data.clone(), key.is_none(), key, rand::random());
    Ok(vec![
        ("sha256", speed(|| Ok(Digest::of(&data)))?),
        ("compress", speed(|| Ok(encode(None)?))?),
        (
            "decompress",
            speed(|| Ok(compressed.decode(CHUNK_BYTES_MAX, None)?))?,
        ),
        ("encrypt", speed(|| Ok(encode(Some(&key))?))?),
        (
            "decrypt",
            speed(|| Ok(encrypted.decode(CHUNK_BYTES_MAX, Some(&key))?))?,
        ),
    ])
}

/// Bytes per second of something that works on one chunk.
fn speed<T>(work: impl Fn() -> anyhow::Result<T>) -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut done = 0;
    while started.elapsed() < LOCAL {
        black_box(work()?);
        done += CHUNK_BYTES;
    }
    Ok(done as f64 / started.elapsed().as_secs_f64())
}

fn print(speeds: &[(&str, f64)], output: Output) -> anyhow::Result<()> {
    let lines: Vec<_> = speeds
        .iter()
        .map(|(name, speed)| format!("{name:12} {}/s", output::bytes(*speed as u64)))
        .collect();
    let object: serde_json::Map<_, _> = speeds
        .iter()
        .map(|(name, speed)| (format!("{name}-bytes-per-second"), json!(*speed as u64)))
        .collect();
    output.value(&object.into(), &lines.join("\n"))
}
