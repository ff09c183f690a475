//! A reader session of one request, without an upgrade: a file of a snapshot as the body of one answer.
//!
//! It counts among the reader sessions, is listed and ended like one, and takes its memory from the same place; while it lives
//! its snapshot is not removed, so that the collection of garbage keeps its chunks.
//!
//! 1. Before the answer begins: a place, memory, the snapshot's lock, and the first part of the body. What is wrong with
//!    those is a refusal.
//! 2. A task reads on, a few parts ahead of the receiver, who takes them at its own pace. Every chunk is unpacked and checked
//!    before any of it is sent (I7).
//! 3. The task ends when the last byte is taken, when the receiver is gone, or early: for a chunk that cannot be read, for a
//!    receiver who takes nothing for a long time, because an administrator ends it, or because the daemon stops.
//!
//! The length of a body is always announced. One that ends early is never ended as if it were whole: it fails, and the
//! connection is ended. It only reads, so a crash, a lost answer or a race leaves nothing behind.
//!
//! From its beginning on the connection goes by the rates of whoever downloads, until somebody else does over the same one.
//!
//! Memory: packed and unpacked forms of a chunk are both in memory while it is unpacked. Who asks for the second holds the
//! first, so few do that at once ([`UnpackTurns`]), and who waits for a turn holds nothing that others wait for. An index stays
//! in memory for as long as its archive is sent: a short one in what the session has ([`READER_BYTES`]), and only what a long one
//! has more takes what is to spare.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use pbs_datastore::{
    ArchiveName, CHUNK_BYTES_MAX, CHUNK_ENCODED_BYTES_MAX, ChunkStream, DataBlob, Datastore, Index,
    IndexChunk, MemoryBudget, MemoryPermit, SnapshotReader, SnapshotRef,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::sleep;

use super::answer::{PIECE_BYTES, keeping};
use super::call::no_memory;
use super::connection::{STOPPING, WATCH_INTERVAL};
use super::memory::{Grant, READER_BYTES, ReaderMemory};
use super::session::{OpenRequest, OpenSession, SessionKind, SessionSubject};
use crate::api::{ApiError, Caller};
use crate::auth::AuthId;
use crate::daemon::Daemon;
use crate::places::Line;
use crate::shutdown::WorkGuard;

/// Parts of a body that are read and not taken yet: one that is being sent and the next one.
const PARTS_MAX: usize = 2;
/// How long a part waits for memory.
const MEMORY_WAIT_MAX: Duration = Duration::from_mins(1);
/// What is taken of the memory for one turn: an image's chunk, packed and unpacked, as a quarter of it.
const BYTES_PER_TURN: u64 = 32 << 20;

/// How many downloads unpack at once; clones share the turns.
#[derive(Debug, Clone)]
pub(crate) struct UnpackTurns(Arc<Semaphore>);

impl UnpackTurns {
    /// As many as `budget` has room for.
    pub(crate) fn new(budget: &MemoryBudget) -> Self {
        let turns = (budget.bytes_max() / BYTES_PER_TURN).clamp(1, 64);
        Self(Arc::new(Semaphore::new(turns as usize)))
    }

    async fn take(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let turn = Arc::clone(&self.0).acquire_owned().await;
        turn.map_err(|_| no_memory())
    }
}

/// Who wants to read what, and over which connection.
#[derive(Debug)]
pub(crate) struct DownloadOf {
    /// The datastore.
    pub(crate) store: Arc<Datastore>,
    /// The snapshot.
    pub(crate) snapshot: SnapshotRef,
    /// Who asks.
    pub(crate) author: AuthId,
    /// From where.
    pub(crate) caller: Caller,
    /// The connection.
    pub(crate) line: Line,
}

/// A snapshot that is open for one answer.
#[derive(Debug)]
pub(crate) struct Download {
    daemon: Arc<Daemon>,
    reader: Arc<SnapshotReader>,
    session: OpenSession,
    memory: ReaderMemory,
    subject: SessionSubject,
    line: Line,
    _request: OpenRequest,
    _work: WorkGuard,
}

/// What follows the first part of a body.
struct Rest {
    index: Index,
    next: usize,
    stream: ChunkStream,
    _memory: Option<MemoryPermit>,
}

impl Download {
    /// Opens a snapshot, as a reader session would.
    pub(crate) async fn begin(daemon: &Arc<Daemon>, of: DownloadOf) -> Result<Self, ApiError> {
        let work = daemon.shutdown.begin_work();
        let work = work.ok_or_else(|| ApiError::unavailable(STOPPING))?;
        let SnapshotRef {
            namespace,
            snapshot,
        } = of.snapshot;
        let subject = SessionSubject {
            kind: SessionKind::Reader,
            store: of.store.name().clone(),
            namespace,
            snapshot,
            author: of.author,
            peer: of.caller.to_string(),
            started: daemon.env.now(),
        };
        let sessions_max = daemon.config.read().server.reader_sessions_max;
        let session = daemon.sessions.open(subject.clone(), sessions_max)?;
        let request = session.progress().request();
        let memory = daemon.memory.open_reader(subject.author.user()).await;
        let memory = memory.ok_or_else(no_memory)?;
        let reader = of
            .store
            .begin_read(&subject.namespace, &subject.snapshot, None)
            .await?;
        of.line.belongs_to(&subject.author);
        Ok(Self {
            daemon: Arc::clone(daemon),
            reader,
            session,
            memory,
            subject,
            line: of.line,
            _request: request,
            _work: work,
        })
    }

    /// The snapshot.
    pub(crate) fn reader(&self) -> &SnapshotReader {
        &self.reader
    }

    /// A file as it is stored.
    pub(crate) async fn stored(self, name: &ArchiveName) -> Result<DownloadBody, ApiError> {
        let bytes = self.reader.file_bytes(name).await?;
        let claim = self.memory.claims.file(bytes).await;
        let claim = claim.ok_or_else(no_memory)?;
        let file = self.reader.file(name).await.map_err(missing)?;
        let length = file.len() as u64;
        Ok(self.send(name, keeping(file, Arc::new(claim)), length, None))
    }

    /// The contents of a blob, or of a whole archive.
    pub(crate) async fn decoded(self, name: &ArchiveName) -> Result<DownloadBody, ApiError> {
        if self.reader.is_encrypted(name).await? {
            return Err(encrypted(name));
        }
        if !name.kind().is_index() {
            let contents = self.blob(name).await?;
            let length = contents.len() as u64;
            return Ok(self.send(name, contents, length, None));
        }
        let (index, memory) = self.index(name).await?;
        let length = index.size();
        let stream = self.reader.chunks().stream(index.clone(), 0..length);
        let mut rest = Rest {
            index,
            next: 0,
            stream,
            _memory: memory,
        };
        let first = self.part(&mut rest).await?.unwrap_or_default();
        Ok(self.send(name, first, length, Some(rest)))
    }

    /// An index, with memory for as long as it is used, beside that of the session.
    pub(crate) async fn index(
        &self,
        name: &ArchiveName,
    ) -> Result<(Index, Option<MemoryPermit>), ApiError> {
        let bytes = self.reader.file_bytes(name).await?;
        let memory = match bytes.saturating_sub(READER_BYTES) {
            0 => None,
            more => Some(
                self.daemon
                    .budget
                    .try_take_spare(more)
                    .ok_or_else(no_memory)?,
            ),
        };
        let index = self.reader.index(name).await.map_err(missing)?;
        Ok((index, memory))
    }

    /// A turn to unpack, and memory for the result.
    pub(crate) async fn turn(
        &self,
        bytes: u64,
    ) -> Result<(OwnedSemaphorePermit, MemoryPermit), ApiError> {
        let turn = self.daemon.turns.take().await?;
        let memory = self.daemon.budget.take(bytes, MEMORY_WAIT_MAX).await;
        Ok((turn, memory.ok_or_else(no_memory)?))
    }

    /// The session's leave to have so much on its way.
    async fn grant(&self, bytes: u64) -> Result<Grant, ApiError> {
        let mut grant = self.memory.claims.answer().await.ok_or_else(no_memory)?;
        grant.resize(bytes);
        Ok(grant)
    }

    async fn blob(&self, name: &ArchiveName) -> Result<Bytes, ApiError> {
        let bytes_max = CHUNK_BYTES_MAX as u64;
        let grant = self.grant(bytes_max).await?;
        let (_turn, mut memory) = self.turn(bytes_max).await?;
        let packed_bytes = self.reader.file_bytes(name).await?;
        let packed_bytes = packed_bytes.min(CHUNK_ENCODED_BYTES_MAX as u64);
        let packed = self.daemon.budget.take(packed_bytes, MEMORY_WAIT_MAX).await;
        let packed = packed.ok_or_else(no_memory)?;
        let file = self.reader.file(name).await.map_err(missing)?;
        let blob = DataBlob::parse(file).map_err(|error| damaged(name, &error))?;
        if blob.is_encrypted() {
            return Err(encrypted(name));
        }
        let unpack = move || {
            let _packed = packed;
            blob.verify_crc()?;
            blob.decode(CHUNK_BYTES_MAX, None)
        };
        let contents = self.daemon.env.compute(unpack).await;
        let contents = contents.map_err(|error| damaged(name, &error))?;
        memory.shrink_to(contents.len() as u64);
        Ok(keeping(contents, Arc::new((grant, memory))))
    }

    /// The contents of the next chunk of an archive; `None` at its end.
    async fn part(&self, rest: &mut Rest) -> Result<Option<Bytes>, ApiError> {
        let Some(entry) = rest.index.chunk(rest.next) else {
            return Ok(None);
        };
        rest.next += 1;
        let bytes_max = rest.index.content_bytes_max(&entry);
        let grant = self.grant(bytes_max).await?;
        let (_turn, memory) = self.turn(bytes_max).await?;
        let Some((read, chunk)) = rest.stream.next().await else {
            return Ok(None);
        };
        debug_assert_eq!(read, entry);
        let (chunk, unpacked): (_, IndexChunk) = (chunk?, entry);
        let unpack = move || chunk.contents(&unpacked, bytes_max);
        let contents = self.daemon.env.compute(unpack).await?;
        Ok(Some(keeping(contents, Arc::new((grant, memory)))))
    }

    /// The body of the answer; the rest of the work is done by a task.
    fn send(
        self,
        name: &ArchiveName,
        first: Bytes,
        length: u64,
        rest: Option<Rest>,
    ) -> DownloadBody {
        let (sink, parts) = mpsc::channel(PARTS_MAX);
        let body = DownloadBody {
            parts,
            part: Bytes::new(),
            bytes_left: length,
            progress: self.session.progress().clone(),
        };
        let (name, env) = (name.clone(), self.daemon.env.clone());
        drop(env.spawn(async move {
            let sent = tokio::select! {
                biased;
                reason = self.ended() => Err(reason),
                sent = self.feed(&sink, first, rest) => sent,
            };
            self.end(&name, length, sent);
        }));
        body
    }

    /// Hands out the parts, and returns when all are taken.
    async fn feed(
        &self,
        sink: &mpsc::Sender<Bytes>,
        first: Bytes,
        mut rest: Option<Rest>,
    ) -> Result<(), String> {
        let places = Arc::new(Semaphore::new(PARTS_MAX));
        let mut first = Some(first);
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            let part = match (first.take(), &mut rest) {
                (Some(first), _) => first,
                (None, None) => break,
                (None, Some(rest)) => {
                    let read = tokio::select! {
                        biased;
                        () = sink.closed() => break,
                        read = self.part(rest) => read,
                    };
                    let Some(part) = read.map_err(|error| error.to_string())? else {
                        break;
                    };
                    part
                }
            };
            let waits = self.session.progress().wait_for_peer();
            // Whoever drops the body of the answer drops its parts as well.
            let sent = sink.send(keeping(part, Arc::new((place, waits)))).await;
            if sent.is_err() {
                break;
            }
        }
        drop(places.acquire_many(PARTS_MAX as u32).await);
        Ok(())
    }

    /// Returns the reason when anybody but the receiver ends it.
    async fn ended(&self) -> String {
        let stopped = async {
            self.daemon.shutdown.requested().await;
            let seconds = self.daemon.config.read().server.shutdown_seconds;
            sleep(Duration::from_secs(seconds) / 2).await;
        };
        let lifeless = async {
            loop {
                sleep(WATCH_INTERVAL).await;
                if let Some(reason) = self.session.progress().lifeless(None) {
                    return reason;
                }
            }
        };
        tokio::select! {
            reason = self.session.end_requested() => reason,
            reason = lifeless => reason,
            () = stopped => STOPPING.to_owned(),
        }
    }

    /// Writes down how it ended; a body that is not whole takes its connection with it.
    fn end(&self, name: &ArchiveName, length: u64, sent: Result<(), String>) {
        let bytes = self.session.progress().bytes_sent();
        let gone = || "the receiver is gone".to_owned();
        let sent = sent.and_then(|()| (bytes == length).then_some(()).ok_or_else(gone));
        let SessionSubject {
            store,
            namespace,
            snapshot,
            author: who,
            peer: from,
            ..
        } = &self.subject;
        match sent {
            Ok(()) => {
                tracing::info!(target: "audit", %who, %from, %store, %namespace, %snapshot, file = %name, bytes, "downloaded");
            }
            Err(reason) => {
                self.line.hang_up();
                tracing::warn!(target: "audit", %who, %from, %store, %namespace, %snapshot, file = %name, bytes, length, reason, "download broken off");
            }
        }
    }
}

/// Absence is told apart from everything else.
pub(crate) fn missing(error: pbs_datastore::Error) -> ApiError {
    match error {
        pbs_datastore::Error::NotFound(_) => ApiError::not_found(error.to_string()),
        error => error.into(),
    }
}

fn encrypted(name: &ArchiveName) -> ApiError {
    ApiError::bad_request(format!(
        "'{name}' is encrypted: only a client that has the key can read it; download it as it is stored, or restore it with the key"
    ))
}

fn damaged(name: &ArchiveName, error: &pbs_datastore::BlobError) -> ApiError {
    ApiError::bad_request(format!("'{name}' cannot be read: {error}"))
}

/// The body ended before its announced length.
#[derive(Debug, thiserror::Error)]
#[error("the download was broken off; the daemon's log says why")]
pub(crate) struct BrokenOff;

/// The body of an answer, whose parts come as they are read.
#[derive(Debug)]
pub(crate) struct DownloadBody {
    parts: mpsc::Receiver<Bytes>,
    part: Bytes,
    bytes_left: u64,
    progress: super::session::Progress,
}

impl Body for DownloadBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if self.bytes_left == 0 {
            // Those who read on wait until what was handed out is given back, and end after that.
            return Poll::Ready(None);
        }
        while self.part.is_empty() {
            match ready!(self.parts.poll_recv(context)) {
                Some(part) => self.part = part,
                None => return Poll::Ready(Some(Err(BrokenOff))),
            }
        }
        let bytes = self.part.len().min(PIECE_BYTES);
        let piece = self.part.split_to(bytes);
        // What nobody announced would be taken for the next answer.
        let Some(left) = self.bytes_left.checked_sub(bytes as u64) else {
            return Poll::Ready(Some(Err(BrokenOff)));
        };
        self.bytes_left = left;
        if self.part.is_empty() {
            // The last piece holds what the part took, until it is sent.
            self.part = Bytes::new();
        }
        self.progress.sent(bytes);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes_left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes_left)
    }
}

#[cfg(test)]
mod tests;
