//! What the daemon is loaded with: chunks that lie ready in memory, and sessions that send them or read them again.
//!
//! Chunks are made before the clock starts: content, digest, and the blob a client sends. A backup is one archive: its
//! chunks are sent in order with a bounded number under way, references are appended in batches as clients do, then the
//! archive is closed, the manifest sent, and the session finished. All sessions are open before the clock starts; it stops
//! when the last has finished.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use holdfast_tests::connection::{Entrance, Session};
use holdfast_tests::daemon::Daemon;
use holdfast_tests::measure::noise::Noise;
use holdfast_tests::measure::report::Report;
use holdfast_tests::measure::usage::{CpuTime, ProcessCpu};
use http::Method;
use pbs_datastore::{
    ArchiveKind, BackupTime, CryptMode, DataBlob, Digest, Index, IndexChecksum, Manifest,
    ManifestFile, Snapshot,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Name of the only archive of every backup.
pub(crate) const ARCHIVE: &str = "load.didx";
/// Time of the first backup of each group.
const TIME_SECONDS: i64 = 1_700_000_000;
/// References in one request to append them, as clients collect them.
pub(crate) const APPEND_MAX: usize = 128;
/// Bytes of compressible content that are noise, and bytes in which they lie.
const NOISY_BYTES: usize = 448;
const BLOCK_BYTES: usize = 1024;
const WORDS: &[u8] =
    b"The quick brown fox jumps over the lazy dog, and nobody in the whole valley is surprised. ";

/// For figures per GiB.
pub(crate) const GIB: f64 = (1_u64 << 30) as f64;
/// What has to be left of the processors where a line is what bounds, or the machine was measured and not the daemon.
pub(crate) const IDLE_MIN: f64 = 0.15;

/// How much of what is sent, by how many requests.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// KiB of a chunk, at most 16384.
    #[arg(long, default_value_t = 4096, value_name = "KIB")]
    chunk_kib: u64,
    /// Content of which about half can be compressed away.
    #[arg(long)]
    compressible: bool,
    /// MiB of each run, all sessions together; they lie in memory, half as much again if compressible.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Uploads under way in each session.
    #[arg(long, default_value_t = 8, value_name = "COUNT")]
    pub(crate) in_flight: usize,
}

impl LoadArgs {
    /// New content for a round, distributed to the sessions.
    pub(crate) fn backups(&self, seed: u64, round: u64, sessions: u64) -> Result<Vec<Backup>> {
        let shape = Shape {
            chunk_bytes: (self.chunk_kib << 10) as usize,
            compressible: self.compressible,
        };
        backups(shape, seed, round, sessions, self.mib << 20)
    }

    /// Into the JSON.
    pub(crate) fn tell(&self, report: &mut Report) {
        report.detail("chunk-bytes", self.chunk_kib << 10);
        report.detail("compressible", self.compressible);
        report.detail("in-flight", self.in_flight);
    }
}

/// What chunks are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Bytes of a chunk before it is encoded.
    pub(crate) chunk_bytes: usize,
    /// About half of it can be compressed away; otherwise nothing.
    pub(crate) compressible: bool,
}

impl Shape {
    fn content(self, noise: &mut Noise) -> Bytes {
        let mut content = vec![0; self.chunk_bytes];
        if !self.compressible {
            noise.fill(&mut content);
            return content.into();
        }
        for block in content.chunks_mut(BLOCK_BYTES) {
            let noisy = NOISY_BYTES.min(block.len());
            let (noisy, text) = block.split_at_mut(noisy);
            noise.fill(noisy);
            for (byte, letter) in text.iter_mut().zip(WORDS.iter().cycle()) {
                *byte = *letter;
            }
        }
        content.into()
    }
}

/// A chunk that lies ready.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    pub(crate) digest: Digest,
    /// Its content.
    pub(crate) plain: Bytes,
    /// The blob that is sent.
    pub(crate) encoded: Bytes,
}

impl Chunk {
    fn new(content: Bytes, compress: bool) -> Result<Self> {
        let digest = Digest::of(&content);
        let blob = DataBlob::encode(content.clone(), compress, None, [0; 16])?;
        let encoded = blob.encoded();
        // What is not compressed lies in the blob as it is, and need not be kept twice.
        let plain = if blob.kind().is_compressed() {
            content
        } else {
            encoded.slice(blob.header_len()..)
        };
        Ok(Self {
            digest,
            plain,
            encoded,
        })
    }
}

/// What one session backs up.
#[derive(Clone, Debug)]
pub(crate) struct Backup {
    /// Id of the group, of the type `host`.
    pub(crate) id: String,
    /// Which one of its group, from 0 on.
    number: i64,
    pub(crate) chunks: Arc<Vec<Chunk>>,
}

impl Backup {
    /// As the commands name the snapshot.
    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        let time = BackupTime::new(TIME_SECONDS + self.number)?;
        Ok(format!("host/{}/{time}", self.id).parse()?)
    }

    /// The same chunks in another group.
    pub(crate) fn renamed(&self, prefix: &str) -> Self {
        Self {
            id: format!("{prefix}{}", self.id),
            ..self.clone()
        }
    }

    /// The same chunks in the same group, as the backup of this number.
    pub(crate) fn later(&self, number: u64) -> Self {
        Self {
            number: number as i64,
            ..self.clone()
        }
    }

    fn parameters(&self, store: &str) -> [(&'static str, String); 4] {
        [
            ("store", store.to_owned()),
            ("backup-type", "host".to_owned()),
            ("backup-id", self.id.clone()),
            ("backup-time", (TIME_SECONDS + self.number).to_string()),
        ]
    }
}

/// Makes backups of new content for `sessions` sessions, `bytes` in all, known by the number of the `round`.
pub(crate) fn backups(
    shape: Shape,
    seed: u64,
    round: u64,
    sessions: u64,
    bytes: u64,
) -> Result<Vec<Backup>> {
    let each = (bytes / sessions.max(1) / shape.chunk_bytes as u64).max(1);
    let mut noise = Noise::branch(seed, round);
    let backups = (0..sessions.max(1)).map(|session| {
        let chunks = (0..each).map(|_| Chunk::new(shape.content(&mut noise), shape.compressible));
        Ok(Backup {
            id: format!("r{round}-s{session}"),
            number: 0,
            chunks: Arc::new(chunks.collect::<Result<_>>()?),
        })
    });
    backups.collect()
}

/// All chunks of the backups.
pub(crate) fn chunks(backups: &[Backup]) -> impl Iterator<Item = &Chunk> {
    backups.iter().flat_map(|backup| backup.chunks.iter())
}

/// Bytes of the contents.
pub(crate) fn plain_bytes(backups: &[Backup]) -> u64 {
    chunks(backups).map(|chunk| chunk.plain.len() as u64).sum()
}

/// What was seen while something ran.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Run {
    pub(crate) seconds: f64,
    /// Part of the time of all processors that was idle.
    pub(crate) idle: f64,
    /// Processor time of the process that was watched.
    pub(crate) cpu_seconds: f64,
}

impl Run {
    /// Runs something with no writes left over from before, and watches the process `pid`. What runs says how long it
    /// took.
    pub(crate) fn watch(pid: u32, action: impl FnOnce() -> Result<Duration>) -> Result<Self> {
        nix::unistd::sync();
        let (cpu, all) = (ProcessCpu::of(pid)?, CpuTime::now()?);
        let taken = action()?;
        Ok(Self {
            seconds: taken.as_secs_f64(),
            idle: CpuTime::now()?.idle_since(&all),
            cpu_seconds: ProcessCpu::of(pid)?.seconds_since(&cpu),
        })
    }
}

/// One figure of every round of a benchmark.
#[derive(Debug)]
pub(crate) struct Figure<R, V = f64> {
    /// In the JSON.
    pub(crate) key: &'static str,
    /// In the table.
    pub(crate) what: &'static str,
    /// Its value in a round.
    pub(crate) of: fn(&R) -> V,
}

/// See [`Figure`].
pub(crate) const fn figure<R, V>(
    key: &'static str,
    what: &'static str,
    of: fn(&R) -> V,
) -> Figure<R, V> {
    Figure { key, what, of }
}

/// Sessions run here.
pub(crate) struct Clients {
    runtime: Runtime,
    /// Uploads of one session that are under way at once.
    in_flight: usize,
}

impl Clients {
    pub(crate) fn new(in_flight: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("clients")
            .enable_all()
            .build()?;
        Ok(Self {
            runtime,
            in_flight: in_flight.max(1),
        })
    }

    /// Runs what a command does with one session.
    pub(crate) fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(work)
    }

    /// Makes all backups at once, each in a session of its own.
    pub(crate) fn back_up(
        &self,
        entrance: &Entrance,
        store: &str,
        backups: &[Backup],
    ) -> Result<Duration> {
        self.run(async {
            let mut sessions = Vec::new();
            for backup in backups {
                sessions.push(open_backup(entrance, store, backup).await?);
            }
            let in_flight = self.in_flight;
            let work = sessions.into_iter().zip(backups.iter().cloned());
            let work = work.map(|(session, backup)| async move {
                back_up(&session, &backup, in_flight)
                    .await
                    .with_context(|| format!("backup {}", backup.id))
            });
            side_by_side(work).await
        })
    }

    /// Sends all chunks to the sink, each backup on a connection of its own.
    pub(crate) fn sink(&self, entrance: &Entrance, backups: &[Backup]) -> Result<Duration> {
        self.run(async {
            let mut sessions = Vec::new();
            for _ in backups {
                sessions.push(entrance.direct().await?);
            }
            let in_flight = self.in_flight;
            let work = sessions.into_iter().zip(backups.iter().cloned());
            let work = work.map(|(session, backup)| async move {
                let (session, wid) = (&session, &Value::from(1));
                let sent = stream::iter(backup.chunks.iter().cloned())
                    .map(|chunk| async move { upload(session, wid, &chunk).await })
                    .buffered(in_flight);
                sent.try_collect::<()>().await
            });
            side_by_side(work).await
        })
    }

    /// Reads the places `order` of a backup's archive in one session, and checks what comes. The index is read before the
    /// clock starts.
    pub(crate) fn read(
        &self,
        entrance: &Entrance,
        store: &str,
        backup: &Backup,
        order: &[usize],
    ) -> Result<Duration> {
        self.run(async {
            let session = open_reader(entrance, store, backup).await?;
            let began = Instant::now();
            let reads = stream::iter(order)
                .map(|place| fetch(&session, &backup.chunks[*place]))
                .buffered(self.in_flight);
            reads.try_collect::<()>().await?;
            Ok(began.elapsed())
        })
    }
}

/// Runs all at once. Returns how long it took until the last was done.
async fn side_by_side<F>(work: impl Iterator<Item = F>) -> Result<Duration>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for one in work {
        tasks.spawn(one);
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(began.elapsed())
}

/// A session that will make this backup.
pub(crate) async fn open_backup(
    entrance: &Entrance,
    store: &str,
    backup: &Backup,
) -> Result<Session> {
    let protocol = "proxmox-backup-protocol-v1";
    let parameters = backup.parameters(store);
    Ok(entrance.session("backup", protocol, &parameters).await?)
}

/// A session that may read the chunks of this backup.
async fn open_reader(entrance: &Entrance, store: &str, backup: &Backup) -> Result<Session> {
    let protocol = "proxmox-backup-reader-protocol-v1";
    let parameters = backup.parameters(store);
    let session = entrance.session("reader", protocol, &parameters).await?;
    let parameters = [("file-name", ARCHIVE.to_owned())];
    let index = session.ask(Method::GET, "download", &parameters, Bytes::new());
    let index = Index::parse(ArchiveKind::Dynamic, index.await?)?;
    let same = index.chunks().map(|chunk| chunk.digest);
    ensure!(
        same.eq(backup.chunks.iter().map(|chunk| chunk.digest)),
        "the index is not that of backup {}",
        backup.id
    );
    Ok(session)
}

/// Reads a chunk, which must be what was sent.
async fn fetch(session: &Session, chunk: &Chunk) -> Result<()> {
    let parameters = [("digest", chunk.digest.to_string())];
    let encoded = session.ask(Method::GET, "chunk", &parameters, Bytes::new());
    let encoded = encoded.await?;
    ensure!(
        encoded == chunk.encoded,
        "chunk {} has another content",
        chunk.digest
    );
    Ok(())
}

async fn upload(session: &Session, wid: &Value, chunk: &Chunk) -> Result<()> {
    let parameters = [
        ("wid", wid.to_string()),
        ("digest", chunk.digest.to_string()),
        ("size", chunk.plain.len().to_string()),
        ("encoded-size", chunk.encoded.len().to_string()),
    ];
    let body = chunk.encoded.clone();
    let told = session.call(Method::POST, "dynamic_chunk", &parameters, body);
    told.await?;
    Ok(())
}

async fn back_up(session: &Session, backup: &Backup, in_flight: usize) -> Result<()> {
    let mut archive = Archive::create(session).await?;
    let wid = &archive.wid.clone();
    let mut sent = stream::iter(backup.chunks.iter().cloned())
        .map(|chunk| async move {
            upload(session, wid, &chunk).await?;
            anyhow::Ok((chunk.digest, chunk.plain.len() as u64))
        })
        .buffered(in_flight);
    let mut ready = Vec::with_capacity(APPEND_MAX);
    while let Some(reference) = sent.next().await {
        ready.push(reference?);
        if ready.len() == APPEND_MAX {
            archive.append(&ready).await?;
            ready.clear();
        }
    }
    drop(sent);
    if !ready.is_empty() {
        archive.append(&ready).await?;
    }
    archive.finish(backup.snapshot()?).await
}

/// The archive of an open session, and what is in it so far.
pub(crate) struct Archive<'a> {
    session: &'a Session,
    wid: Value,
    csum: IndexChecksum,
    count: u64,
    end: u64,
}

impl<'a> Archive<'a> {
    /// Begins it.
    pub(crate) async fn create(session: &'a Session) -> Result<Self> {
        let parameters = [("archive-name", ARCHIVE.to_owned())];
        let wid = session.call(Method::POST, "dynamic_index", &parameters, Bytes::new());
        Ok(Self {
            wid: wid.await?,
            session,
            csum: IndexChecksum::new(),
            count: 0,
            end: 0,
        })
    }

    /// Appends references: digests and sizes of chunks that the session knows.
    pub(crate) async fn append(&mut self, references: &[(Digest, u64)]) -> Result<()> {
        let mut offsets = Vec::with_capacity(references.len());
        for (digest, size) in references {
            offsets.push(self.end);
            self.end += size;
            self.csum.push_dynamic(self.end, digest);
        }
        self.count += references.len() as u64;
        let digests: Vec<_> = references.iter().map(|(digest, _)| digest).collect();
        let body = json!({ "wid": self.wid, "digest-list": digests, "offset-list": offsets });
        let body = Bytes::from(body.to_string());
        let appended = self.session.call(Method::PUT, "dynamic_index", &[], body);
        appended.await?;
        Ok(())
    }

    /// Closes the archive, sends the manifest and finishes the session.
    pub(crate) async fn finish(self, snapshot: Snapshot) -> Result<()> {
        let csum = self.csum.finish();
        let parameters = [
            ("wid", self.wid.to_string()),
            ("chunk-count", self.count.to_string()),
            ("size", self.end.to_string()),
            ("csum", csum.to_string()),
        ];
        let post = |name, parameters, body| self.session.call(Method::POST, name, parameters, body);
        post("dynamic_close", &parameters, Bytes::new()).await?;
        let file = ManifestFile {
            name: ARCHIVE.parse()?,
            crypt_mode: CryptMode::None,
            size: self.end,
            csum: Some(csum),
        };
        let manifest = Manifest::new(snapshot, vec![file])?.to_blob()?.encoded();
        let parameters = [
            ("file-name", "index.json.blob".to_owned()),
            ("encoded-size", manifest.len().to_string()),
        ];
        post("blob", &parameters, manifest).await?;
        post("finish", &[], Bytes::new()).await?;
        Ok(())
    }
}

/// Forgets the backups and removes what only they needed, so that the disk need not hold all rounds. The datastore has a
/// cutoff of 0.
pub(crate) fn remove(daemon: &Daemon, store: &str, backups: &[Backup]) -> Result<()> {
    for backup in backups {
        let snapshot = backup.snapshot()?.to_string();
        daemon
            .client(store, &["snapshot", "forget", &snapshot])?
            .success()?;
    }
    daemon.client(store, &["gc", "start"])?.success()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_new_in_every_round_and_compress_as_they_should() {
        let shape = |compressible| Shape {
            chunk_bytes: 1 << 16,
            compressible,
        };
        let some = |compressible, round| {
            let made = backups(shape(compressible), 1, round, 2, 4 << 16).unwrap();
            assert_eq!(plain_bytes(&made), 4 << 16);
            let all = chunks(&made).map(|chunk| chunk.digest);
            let all: std::collections::BTreeSet<_> = all.collect();
            assert_eq!(all.len(), 4);
            (made, all)
        };
        let (noise, first) = some(false, 0);
        let (_, second) = some(false, 1);
        assert!(first.is_disjoint(&second));
        let chunk = &noise[1].chunks[0];
        assert_eq!(Digest::of(&chunk.plain), chunk.digest);
        assert_eq!(chunk.encoded.len(), chunk.plain.len() + 12);
        let (text, _) = some(true, 0);
        let chunk = &text[0].chunks[1];
        assert_eq!(Digest::of(&chunk.plain), chunk.digest);
        let part = chunk.encoded.len() as f64 / chunk.plain.len() as f64;
        assert!((0.4..0.6).contains(&part), "{part}");
    }
}
