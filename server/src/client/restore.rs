//! `holdfast restore`: archives back as directories, files, devices or a stream.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use pbs_datastore::{ArchiveKind, CryptKey, ManifestFile, Namespace};
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::download::BackupReader;
use super::output;
use super::progress::Progress;
use super::repository::Access;
use super::session::Session;
use super::snapshot::SnapshotChoice;
use super::tar::{ExtractOptions, extract};
use super::{RepositoryArgs, key};

/// Chunks that wait for the thread that writes.
const CHUNKS_WAITING_MAX: usize = 4;

/// `holdfast restore`
#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    /// TYPE/ID/TIME, or TYPE/ID for the newest of the group.
    snapshot: SnapshotChoice,
    /// NAME.tar, NAME.img or NAME.conf, as it was backed up.
    archive: String,
    /// Directory for NAME.tar, file or device for the others; `-` writes to standard output (NAME.tar: the tar stream).
    target: PathBuf,
    #[command(flatten)]
    repository: RepositoryArgs,
    /// Restore into a directory that is not empty, and replace files that exist. Without it, only new files and
    /// directories are written.
    #[arg(long)]
    overwrite: bool,
    /// The key of an encrypted snapshot. It is also asked whether the manifest is signed with it.
    #[arg(long, value_name = "FILE")]
    keyfile: Option<PathBuf>,
}

/// All that a restore needs to know.
#[derive(Debug, Clone)]
pub(crate) struct RestoreOptions {
    /// The server and who asks.
    pub(crate) access: Access,
    /// Where the snapshot is.
    pub(crate) namespace: Namespace,
    /// Which snapshot.
    pub(crate) snapshot: SnapshotChoice,
    /// The archive, with or without the last extension.
    pub(crate) archive: String,
    /// Where to.
    pub(crate) target: RestoreTarget,
    /// Whether existing files may be replaced.
    pub(crate) overwrite: bool,
    /// For encrypted archives.
    pub(crate) key: Option<Arc<CryptKey>>,
}

/// Where an archive is restored to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RestoreTarget {
    /// The plain stream.
    Stdout,
    /// A directory for tar archives, otherwise a file or device.
    Path(PathBuf),
}

/// What a restore came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct RestoreSummary {
    /// `type/id/time`
    pub(crate) snapshot: String,
    /// The archive's full name.
    pub(crate) archive: String,
    /// Logical bytes.
    pub(crate) bytes: u64,
    /// Chunks that were read, repetitions counted.
    pub(crate) chunks: u64,
    /// From the first connection to the last byte.
    pub(crate) seconds: f64,
    /// Entries or metadata that could not be restored.
    pub(crate) warnings: u64,
}

/// Restores one archive.
///
/// # Errors
/// The first that ends the restore. What was written until then stays.
pub(crate) async fn run(
    options: &RestoreOptions,
    progress: &Arc<Progress>,
) -> anyhow::Result<RestoreSummary> {
    let started = Instant::now();
    let warnings = progress.warnings();
    let mut session = Session::open(&options.access).await?;
    let snapshot = options
        .snapshot
        .resolve(&mut session, &options.namespace)
        .await?;
    let reader = BackupReader::begin(
        session,
        &options.namespace,
        &snapshot,
        options.key.clone(),
        progress,
    )
    .await?;
    let file = reader.find(&options.archive)?;
    let destination = Destination::open(file, &options.target, options.overwrite)?;
    let mut chunks = 0;
    let bytes;
    if file.name.kind() == ArchiveKind::Blob {
        let content = reader.blob(file).await?;
        bytes = content.len() as u64;
        let (sink, source) = mpsc::channel(1);
        // There is room for one, and the receiver is here.
        drop(sink.send(content).await);
        drop(sink);
        write(destination, ChunkStream::new(source), progress.clone()).await?;
    } else {
        let index = reader.index(file).await?;
        (bytes, chunks) = (index.size(), index.len() as u64);
        progress.begin(file.name.as_str(), Some(bytes));
        let (sink, source) = mpsc::channel(CHUNKS_WAITING_MAX);
        let stream = ChunkStream {
            expected: Some(bytes),
            ..ChunkStream::new(source)
        };
        let writing = write(destination, stream, progress.clone());
        // The writer's error explains an early end of the reader, and a reader's error that of the writer.
        let (read, written) = tokio::join!(reader.read(file, &index, sink), writing);
        read?;
        written?;
        progress.finish();
    }
    Ok(RestoreSummary {
        snapshot: snapshot.to_string(),
        archive: file.name.to_string(),
        bytes,
        chunks,
        seconds: started.elapsed().as_secs_f64(),
        warnings: progress.warnings() - warnings,
    })
}

/// Where the bytes go, checked before the first one is asked for.
enum Destination {
    Stdout,
    Directory(PathBuf, ExtractOptions),
    /// A file that was created or truncated: what is zero need not be written.
    NewFile(File),
    /// A device, or a pipe: every byte is written.
    Device(File),
}

impl Destination {
    fn open(file: &ManifestFile, target: &RestoreTarget, overwrite: bool) -> anyhow::Result<Self> {
        let name = file.name.as_str();
        let path = match target {
            RestoreTarget::Stdout => return Ok(Self::Stdout),
            RestoreTarget::Path(path) => path,
        };
        if name.ends_with(".tar.didx") {
            return Ok(Self::Directory(path.clone(), ExtractOptions { overwrite }));
        }
        if file.name.kind() == ArchiveKind::Dynamic {
            bail!(
                "{name} is in a format of another client; `-` as target gives its bytes as they are"
            );
        }
        Self::open_file(path, overwrite)
            .with_context(|| format!("{} cannot be written", path.display()))
    }

    fn open_file(path: &Path, overwrite: bool) -> anyhow::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).mode(0o600);
        match options.clone().create_new(true).open(path) {
            Ok(file) => return Ok(Self::NewFile(file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        if !overwrite {
            bail!("it exists; give --overwrite to replace what is in it");
        }
        let file = options.open(path)?;
        let kind = file.metadata()?.file_type();
        if kind.is_block_device() || kind.is_char_device() || kind.is_fifo() {
            return Ok(Self::Device(file));
        }
        file.set_len(0)?;
        Ok(Self::NewFile(file))
    }
}

async fn write(
    destination: Destination,
    mut stream: ChunkStream,
    progress: Arc<Progress>,
) -> anyhow::Result<()> {
    let writing = spawn_blocking(move || {
        stream.progress = Some(progress.clone());
        match destination {
            Destination::Stdout => {
                let mut output = io::stdout().lock();
                io::copy(&mut stream, &mut output)?;
                output.flush()
            }
            Destination::Directory(path, options) => {
                extract(&mut stream, &path, options, &progress)?;
                // What follows the end of the archive is checked as well, and thrown away.
                io::copy(&mut stream, &mut io::sink()).map(drop)
            }
            Destination::NewFile(file) => write_sparse(&file, stream),
            Destination::Device(mut file) => {
                io::copy(&mut stream, &mut file)?;
                match file.sync_all() {
                    // Pipes cannot be synced.
                    Err(error)
                        if error.raw_os_error() == Some(nix::errno::Errno::EINVAL as i32) =>
                    {
                        Ok(())
                    }
                    result => result,
                }
            }
        }
    });
    Ok(writing.await??)
}

/// Leaves holes for chunks of zeros.
fn write_sparse(file: &File, mut stream: ChunkStream) -> io::Result<()> {
    let mut offset = 0;
    while let Some(chunk) = stream.next_chunk()? {
        if chunk.iter().any(|&byte| byte != 0) {
            file.write_all_at(&chunk, offset)?;
        }
        offset += chunk.len() as u64;
    }
    file.set_len(offset)?;
    file.sync_all()
}

/// Chunks in order, as a stream of bytes for a thread.
struct ChunkStream {
    source: mpsc::Receiver<Bytes>,
    current: Bytes,
    received: u64,
    /// Bytes that must come; an end before that is an error, so that a broken download never looks complete.
    expected: Option<u64>,
    progress: Option<Arc<Progress>>,
}

impl ChunkStream {
    fn new(source: mpsc::Receiver<Bytes>) -> Self {
        Self {
            source,
            current: Bytes::new(),
            received: 0,
            expected: None,
            progress: None,
        }
    }

    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        let Some(chunk) = self.source.blocking_recv() else {
            return match self.expected {
                Some(expected) if expected != self.received => Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the download ended early",
                )),
                _ => Ok(None),
            };
        };
        self.received += chunk.len() as u64;
        if let Some(progress) = &self.progress {
            progress.advance(chunk.len() as u64);
        }
        Ok(Some(chunk))
    }
}

impl Read for ChunkStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.next_chunk()? {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

impl RestoreArgs {
    /// Restores, and prints a summary unless the archive itself goes to standard output.
    pub(super) async fn run(self, progress: &Arc<Progress>) -> anyhow::Result<()> {
        let output = self.repository.output();
        let to_stdout = self.target.as_os_str() == "-";
        let options = RestoreOptions {
            access: self.repository.access()?,
            namespace: self.repository.ns,
            snapshot: self.snapshot,
            archive: self.archive,
            target: if to_stdout {
                RestoreTarget::Stdout
            } else {
                RestoreTarget::Path(self.target)
            },
            overwrite: self.overwrite,
            key: self
                .keyfile
                .as_deref()
                .map(key::load)
                .transpose()?
                .map(Arc::new),
        };
        let summary = run(&options, progress).await?;
        if to_stdout {
            return Ok(());
        }
        let text = format!(
            "{} of {} restored: {} in {:.1} s, {} warnings",
            summary.archive,
            summary.snapshot,
            output::bytes(summary.bytes),
            summary.seconds,
            summary.warnings
        );
        output.value(&json!(summary), &text)
    }
}
