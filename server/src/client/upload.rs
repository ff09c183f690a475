//! Writing one snapshot: the backup session as its client sees it.
//!
//! 1. Upgrade. The server has admitted us; nothing of the snapshot is visible yet.
//! 2. The previous manifest and, for each archive, the previous index: what they name need not be sent again. A previous
//!    backup that cannot be used costs time, never the backup.
//! 3. For each archive: create the index; send the chunks that are not known; append all of them in order; close with
//!    count, size and checksum. Each blob is one request.
//! 4. The manifest, as the last blob.
//! 5. `finish`. Only its answer says that the snapshot exists.
//!
//! A connection that breaks before 5 leaves no snapshot; chunks that were sent stay until the server collects garbage,
//! and save their upload the next time. When the answer to 5 is lost the snapshot may exist.
//!
//! Chunks are in flight side by side, at most [`CHUNKS_IN_FLIGHT_MAX`] and [`BYTES_IN_FLIGHT_MAX`]; encoding runs on
//! several threads. An append names a chunk only after its upload was answered, and appends go out one after the other.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use http::Method;
use pbs_datastore::index::{INDEX_BYTES_MAX, fixed::CHUNK_SIZE};
use pbs_datastore::{
    ArchiveKind, ArchiveName, BlobError, CHUNK_ENCODED_BYTES_MAX, CryptKey, DataBlob, Digest,
    Index, IndexChecksum, Manifest, ManifestFile, Namespace, SignatureCheck, Snapshot,
};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinHandle, spawn_blocking};

use super::http::{Answer, H2, Parts, query};
use super::key::Protection;
use super::progress::Progress;
use super::session::{Session, Upgrade};

/// Chunks that wait for their answer or their place in the index.
pub(super) const CHUNKS_IN_FLIGHT_MAX: usize = 64;
/// Encoded bytes of chunks whose upload was not answered yet.
const BYTES_IN_FLIGHT_MAX: usize = 64 << 20;
/// Chunks named in one append, at least; the rest of a stream may be fewer.
const APPEND_CHUNKS: usize = 64;
/// Threads that encode chunks, if there are so many processors.
const ENCODERS_MAX: usize = 8;
/// Most bytes of an answer that holds a number or a digest.
const SMALL_ANSWER_BYTES_MAX: usize = 4 << 10;

/// A stream of chunks from a thread that makes them.
pub(super) struct Feed {
    /// The chunks in order.
    pub(super) chunks: mpsc::Receiver<Bytes>,
    /// Says how the stream ended; the end of `chunks` alone proves nothing.
    pub(super) producer: JoinHandle<io::Result<()>>,
}

/// What the upload of one archive came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ArchiveSummary {
    /// The name in the snapshot.
    pub(crate) name: String,
    /// Logical size in bytes; of a blob: encoded.
    pub(crate) bytes: u64,
    /// Chunks it consists of, repetitions counted; 0 for a blob.
    pub(crate) chunks: u64,
    /// Chunks that were sent.
    pub(crate) new: u64,
    /// Chunks that the server already had, or that occurred before in this backup.
    pub(crate) duplicates: u64,
    /// Encoded bytes that were sent.
    pub(crate) uploaded_bytes: u64,
}

/// An open backup session.
pub(crate) struct BackupWriter {
    h2: H2,
    snapshot: Snapshot,
    protection: Protection,
    /// The manifest of the last backup in the group, if its contents can be used again.
    previous: Option<Manifest>,
    known: Arc<Known>,
    files: Vec<ManifestFile>,
}

/// Digests that the server knows in this session.
#[derive(Debug, Default)]
struct Known(Mutex<HashSet<Digest>>);

impl Known {
    fn contains(&self, digest: &Digest) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(digest)
    }

    /// Whether the digest is new.
    fn insert(&self, digest: Digest) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(digest)
    }
}

/// A chunk that was hashed and, unless known, encoded.
struct Prepared {
    digest: Digest,
    size: u64,
    blob: Option<DataBlob>,
}

/// A chunk on its way into the index.
struct Pending {
    digest: Digest,
    offset: u64,
    /// Its upload, with the room it takes among those in flight; `None` if it needs none.
    upload: Option<(Answer, OwnedSemaphorePermit)>,
}

impl BackupWriter {
    /// Opens the session for a new snapshot.
    ///
    /// # Errors
    /// The server's refusal, or no connection.
    pub(crate) async fn begin(
        session: Session,
        namespace: &Namespace,
        snapshot: Snapshot,
        protection: Protection,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        let h2 = session
            .upgrade(Upgrade::Backup { benchmark: false }, namespace, &snapshot)
            .await?;
        let mut writer = Self {
            h2,
            snapshot,
            protection,
            previous: None,
            known: Arc::default(),
            files: Vec::new(),
        };
        // Servers that do not know this call are asked for the manifest all the same.
        let time = writer
            .h2
            .call(Method::GET, "/previous_backup_time", Parts::empty())
            .await;
        if time.is_err() || time.is_ok_and(|time| !time.is_null()) {
            match writer.previous_manifest().await {
                Ok(previous) => writer.previous = Some(previous),
                Err(error) => progress.note(&format!("the previous backup is not used: {error:#}")),
            }
        }
        Ok(writer)
    }

    async fn previous_manifest(&self) -> anyhow::Result<Manifest> {
        let encoded = self
            .previous(&ArchiveName::manifest(), CHUNK_ENCODED_BYTES_MAX)
            .await?;
        let manifest = Manifest::parse(&DataBlob::parse(encoded)?)?;
        let Some(key) = &self.protection.key else {
            return Ok(manifest);
        };
        if manifest
            .key_fingerprint()
            .is_some_and(|fingerprint| fingerprint != key.fingerprint())
        {
            bail!("it was made with another key");
        }
        if manifest.verify_signature(key) == SignatureCheck::Invalid {
            bail!("its manifest has a wrong signature");
        }
        Ok(manifest)
    }

    async fn previous(&self, name: &ArchiveName, bytes_max: usize) -> anyhow::Result<Bytes> {
        let target = format!("/previous?{}", query(&[("archive-name", name.to_string())]));
        Ok(self
            .h2
            .send(Method::GET, &target, Parts::empty(), bytes_max)
            .await?)
    }

    /// Learns the chunks of the previous archive of the same name, if there is one that fits.
    async fn learn_previous(&self, name: &ArchiveName, progress: &Progress) {
        let Some(file) = self
            .previous
            .as_ref()
            .and_then(|manifest| manifest.file(name))
        else {
            return;
        };
        if file.crypt_mode != self.protection.mode {
            return;
        }
        let learn = async {
            let index = Index::parse(name.kind(), self.previous(name, INDEX_BYTES_MAX).await?)?;
            if Some(index.csum()) != file.csum || index.size() != file.size {
                bail!("it is not what its manifest says");
            }
            for chunk in index.chunks() {
                self.known.insert(chunk.digest);
            }
            Ok(())
        };
        if let Err(error) = learn.await {
            progress.note(&format!(
                "{name}: the previous one is not used, so all of it is sent: {error:#}"
            ));
        }
    }

    /// Uploads a small file as a blob. `data` is at most 16 MiB long.
    pub(crate) async fn upload_blob(
        &mut self,
        name: ArchiveName,
        data: Bytes,
    ) -> anyhow::Result<ArchiveSummary> {
        let blob =
            encode(data, &self.protection).with_context(|| format!("{name} cannot be stored"))?;
        let size = self.send_blob(&name, &blob).await?;
        let csum = Some(Digest::of(&blob.encoded()));
        let summary = ArchiveSummary {
            name: name.to_string(),
            bytes: size,
            chunks: 0,
            new: 0,
            duplicates: 0,
            uploaded_bytes: size,
        };
        self.files.push(ManifestFile {
            name,
            crypt_mode: self.protection.mode,
            size,
            csum,
        });
        Ok(summary)
    }

    async fn send_blob(&self, name: &ArchiveName, blob: &DataBlob) -> anyhow::Result<u64> {
        let size = blob.encoded_len() as u64;
        let parameters = query(&[
            ("file-name", name.to_string()),
            ("encoded-size", size.to_string()),
        ]);
        let (header, payload) = blob.parts();
        self.h2
            .call(
                Method::POST,
                &format!("/blob?{parameters}"),
                Parts::raw([header, payload]),
            )
            .await?;
        Ok(size)
    }

    /// Uploads a stream of chunks as an index: of chunks of any size for `.didx`, of 4 MiB each but the last for `.fidx`,
    /// whose `image_bytes` may be unknown.
    pub(crate) async fn upload_index(
        &mut self,
        name: ArchiveName,
        image_bytes: Option<u64>,
        feed: Feed,
        progress: &Progress,
    ) -> anyhow::Result<ArchiveSummary> {
        self.learn_previous(&name, progress).await;
        let kind = if name.kind() == ArchiveKind::Fixed {
            "fixed"
        } else {
            "dynamic"
        };
        let mut parameters = vec![("archive-name", name.to_string())];
        parameters.extend(image_bytes.map(|bytes| ("size", bytes.to_string())));
        let target = format!("/{kind}_index?{}", query(&parameters));
        let wid = self.h2.call(Method::POST, &target, Parts::empty()).await?;
        let wid = wid
            .as_u64()
            .ok_or_else(|| self.h2.misunderstood("the writer id is no number"))?;

        let index = IndexUpload {
            writer: self,
            name: &name,
            kind,
            wid,
        };
        let (queue, appends) = mpsc::channel(CHUNKS_IN_FLIGHT_MAX);
        let (uploaded, ()) = tokio::try_join!(index.send(feed, queue), index.append(appends))?;
        let (summary, csum) = uploaded;
        if summary.bytes == 0 {
            bail!("{name} is empty: there is nothing to back up");
        }
        let parameters = query(&[
            ("wid", wid.to_string()),
            ("chunk-count", summary.chunks.to_string()),
            ("size", summary.bytes.to_string()),
            ("csum", csum.to_string()),
        ]);
        self.h2
            .call(
                Method::POST,
                &format!("/{kind}_close?{parameters}"),
                Parts::empty(),
            )
            .await?;
        let (crypt_mode, size) = (self.protection.mode, summary.bytes);
        self.files.push(ManifestFile {
            name,
            crypt_mode,
            size,
            csum: Some(csum),
        });
        Ok(summary)
    }

    /// Uploads the manifest and finishes; the snapshot exists when this returns.
    pub(crate) async fn finish(mut self) -> anyhow::Result<()> {
        let mut manifest = Manifest::new(self.snapshot.clone(), std::mem::take(&mut self.files))?;
        if let Some(key) = &self.protection.key {
            manifest.sign(key);
        }
        self.send_blob(&ArchiveName::manifest(), &manifest.to_blob()?)
            .await?;
        self.h2
            .call(Method::POST, "/finish", Parts::empty())
            .await?;
        Ok(())
    }
}

/// One index while its chunks are uploaded.
struct IndexUpload<'a> {
    writer: &'a BackupWriter,
    name: &'a ArchiveName,
    kind: &'static str,
    wid: u64,
}

impl IndexUpload<'_> {
    /// Hashes, encodes and sends chunks; hands each over to `queue` in order, with the answer that is awaited.
    async fn send(
        &self,
        feed: Feed,
        queue: mpsc::Sender<Pending>,
    ) -> anyhow::Result<(ArchiveSummary, Digest)> {
        let encoders = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(ENCODERS_MAX);
        let room = Arc::new(Semaphore::new(BYTES_IN_FLIGHT_MAX));
        let Feed {
            mut chunks,
            producer,
        } = feed;
        let prepared = futures_util::stream::poll_fn(|context| chunks.poll_recv(context));
        let prepared = prepared.map(|chunk| self.prepare(chunk)).buffered(encoders);
        let mut prepared = std::pin::pin!(prepared);
        let mut csum = IndexChecksum::new();
        let mut summary = ArchiveSummary {
            name: self.name.to_string(),
            bytes: 0,
            chunks: 0,
            new: 0,
            duplicates: 0,
            uploaded_bytes: 0,
        };
        while let Some(Prepared { digest, size, blob }) = prepared.try_next().await? {
            let offset = summary.bytes;
            summary.bytes += size;
            summary.chunks += 1;
            match self.name.kind() {
                ArchiveKind::Fixed => csum.push_fixed(&digest),
                _ => csum.push_dynamic(summary.bytes, &digest),
            }
            // A chunk that was unknown when it was encoded may have been sent since, for the same content further ahead.
            let upload = if let Some(blob) = blob.filter(|_| self.writer.known.insert(digest)) {
                let bytes = blob.encoded_len() as u32;
                let permit = room.clone().acquire_many_owned(bytes).await?;
                summary.new += 1;
                summary.uploaded_bytes += u64::from(bytes);
                Some((self.send_chunk(&digest, size, &blob), permit))
            } else {
                summary.duplicates += 1;
                None
            };
            if queue
                .send(Pending {
                    digest,
                    offset,
                    upload,
                })
                .await
                .is_err()
            {
                bail!("{} is not uploaded any further", self.name);
            }
        }
        producer
            .await?
            .with_context(|| format!("{} cannot be read", self.name))?;
        Ok((summary, csum.finish()))
    }

    async fn prepare(&self, chunk: Bytes) -> anyhow::Result<Prepared> {
        let (known, protection) = (self.writer.known.clone(), self.writer.protection.clone());
        let prepared = spawn_blocking(move || {
            let size = chunk.len() as u64;
            let digest = match protection.encrypting_key() {
                Some(key) => key.chunk_digest(&chunk),
                None => Digest::of(&chunk),
            };
            let blob = if known.contains(&digest) {
                None
            } else {
                Some(encode(chunk, &protection)?)
            };
            Ok::<_, BlobError>(Prepared { digest, size, blob })
        });
        Ok(prepared.await??)
    }

    fn send_chunk(&self, digest: &Digest, size: u64, blob: &DataBlob) -> Answer {
        let parameters = query(&[
            ("wid", self.wid.to_string()),
            ("digest", digest.to_string()),
            ("size", size.to_string()),
            ("encoded-size", blob.encoded_len().to_string()),
        ]);
        let (header, payload) = blob.parts();
        let target = format!("/{}_chunk?{parameters}", self.kind);
        self.writer.h2.send(
            Method::POST,
            &target,
            Parts::raw([header, payload]),
            SMALL_ANSWER_BYTES_MAX,
        )
    }

    /// Awaits the uploads in order and appends what is there.
    async fn append(&self, mut queue: mpsc::Receiver<Pending>) -> anyhow::Result<()> {
        let (mut digests, mut offsets) = (Vec::new(), Vec::new());
        while let Some(Pending {
            digest,
            offset,
            upload,
        }) = queue.recv().await
        {
            if let Some((answer, permit)) = upload {
                let stored = self.writer.h2.data(&answer.await?)?;
                drop(permit);
                if stored.as_str() != Some(&*digest.to_string()) {
                    return Err(self
                        .writer
                        .h2
                        .misunderstood("it stored another chunk than the one sent")
                        .into());
                }
            }
            digests.push(digest);
            offsets.push(offset);
            if digests.len() >= APPEND_CHUNKS {
                self.put(&mut digests, &mut offsets).await?;
            }
        }
        self.put(&mut digests, &mut offsets).await
    }

    async fn put(&self, digests: &mut Vec<Digest>, offsets: &mut Vec<u64>) -> anyhow::Result<()> {
        if digests.is_empty() {
            return Ok(());
        }
        let body = json!({"wid": self.wid, "digest-list": digests, "offset-list": offsets});
        self.writer
            .h2
            .call(
                Method::PUT,
                &format!("/{}_index", self.kind),
                Parts::json(&body),
            )
            .await?;
        digests.clear();
        offsets.clear();
        Ok(())
    }
}

fn encode(data: Bytes, protection: &Protection) -> Result<DataBlob, BlobError> {
    let key: Option<&CryptKey> = protection.encrypting_key();
    DataBlob::encode(data, true, key, rand::random())
}

/// The bytes of one chunk of an image.
pub(super) const IMAGE_CHUNK_BYTES: u64 = CHUNK_SIZE;

const _: () = assert!(
    CHUNK_ENCODED_BYTES_MAX <= BYTES_IN_FLIGHT_MAX,
    "the largest chunk must find room"
);
