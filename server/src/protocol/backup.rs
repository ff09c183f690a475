//! The backup protocol: writing one snapshot (`pbs-interface.md` 3.3).
//!
//! The rules of the session (which writer is open, which chunk is known, when it may finish) are those of [`Backup`].
//! Here are parameters, bodies and answers. A body is read under a claim for all of it, and the claim lives as long as
//! anybody holds the bytes: the client may reset the stream while the chunk is on its way to the bucket.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use hyper::body::{Body as _, Incoming};
use pbs_datastore::IndexKind::{Dynamic, Fixed};
use pbs_datastore::{
    ArchiveKind, ArchiveName, Backup, CHUNK_BYTES_MAX, CHUNK_ENCODED_BYTES_MAX, Digest, IndexKind,
};
use tokio::sync::Semaphore;

use super::answer::{AnswerBody, Refusal, json, keeping, raw};
use super::call::{
    Call, CallRow, archive_name, directory, find, listed, no_memory, take, take_file_name,
};
use super::flow::{BodyFault, discard_body, read_body};
use super::memory::{Claims, WriterMemory};
use super::session::Progress;
use crate::api::{ApiError, Params, Reply};
use crate::tasks::TaskLogger;

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Directory,
    Previous,
    PreviousTime,
    Create(IndexKind),
    Append(IndexKind),
    Chunk(IndexKind),
    Close(IndexKind),
    Blob,
    Finish,
    Speedtest,
}

/// Every call: method, name below `/`, and what it does. There is no other way to a call.
const CALLS: [CallRow<Action>; 14] = [
    (Method::GET, "", Action::Directory),
    (Method::POST, "blob", Action::Blob),
    (Method::POST, "dynamic_chunk", Action::Chunk(Dynamic)),
    (Method::POST, "dynamic_close", Action::Close(Dynamic)),
    (Method::POST, "dynamic_index", Action::Create(Dynamic)),
    (Method::PUT, "dynamic_index", Action::Append(Dynamic)),
    (Method::POST, "finish", Action::Finish),
    (Method::POST, "fixed_chunk", Action::Chunk(Fixed)),
    (Method::POST, "fixed_close", Action::Close(Fixed)),
    (Method::POST, "fixed_index", Action::Create(Fixed)),
    (Method::PUT, "fixed_index", Action::Append(Fixed)),
    (Method::GET, "previous", Action::Previous),
    (Method::GET, "previous_backup_time", Action::PreviousTime),
    (Method::POST, "speedtest", Action::Speedtest),
];

/// Method and name of every call.
pub(crate) fn calls() -> Vec<(Method, &'static str)> {
    listed(&CALLS)
}

/// Shortest encoded chunk: a header and one byte.
const CHUNK_ENCODED_BYTES_MIN: i64 = 13;
/// Shortest blob: a header.
const BLOB_BYTES_MIN: i64 = 12;
/// Chunks added to an index by one call. Clients send 128.
const APPEND_MAX: usize = 4096;
/// Largest number of a writer.
const WRITER_MAX: i64 = 256;
/// Files of the previous snapshot that are answered at once in one session.
const DOWNLOADS_MAX: usize = 2;

/// One backup session, as its client sees it.
#[derive(Debug)]
pub(crate) struct BackupSession {
    backup: Arc<Backup>,
    claims: Claims,
    downloads: Arc<Semaphore>,
    progress: Progress,
    log: TaskLogger,
}

impl BackupSession {
    /// A session on `backup`.
    pub(crate) fn new(
        backup: Arc<Backup>,
        memory: &WriterMemory,
        progress: Progress,
        log: TaskLogger,
    ) -> Self {
        Self {
            backup,
            claims: memory.claims.clone(),
            downloads: Arc::new(Semaphore::new(DOWNLOADS_MAX)),
            progress,
            log,
        }
    }

    /// Answers one request.
    pub(super) async fn call(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let call = Call::of(request)?;
        let Some(action) = find(&CALLS, &call) else {
            return Err(call.unknown());
        };
        let reply = match action {
            Action::Directory => directory(&CALLS)?,
            Action::Previous => return self.previous(call).await,
            Action::PreviousTime => {
                take(self.params(call).await?, |_| Ok(()))?;
                let time = self.backup.previous_time();
                Reply::new(&time.map(pbs_datastore::BackupTime::seconds))?
            }
            Action::Create(Dynamic) => self.create_dynamic(call).await?,
            Action::Create(Fixed) => self.create_fixed(call).await?,
            Action::Append(kind) => self.append(call, kind).await?,
            Action::Chunk(kind) => self.chunk(call, kind).await?,
            Action::Close(kind) => self.close(call, kind).await?,
            Action::Blob => self.blob(call).await?,
            Action::Finish => {
                take(self.params(call).await?, |_| Ok(()))?;
                self.backup.finish().await?;
                self.log.log("snapshot finished");
                Reply::null()
            }
            Action::Speedtest => {
                discard_body(call.body, &self.progress).await?;
                Reply::null()
            }
        };
        Ok(json(reply))
    }

    async fn params(&self, call: Call) -> Result<Params, Refusal> {
        call.params(&self.claims, &self.progress).await
    }

    async fn previous(&self, call: Call) -> Result<Response<AnswerBody>, Refusal> {
        let params = self.params(call).await?;
        let name = take(params, |params| take_file_name(params, "archive-name"))?;
        // A base that is not there at all is said first.
        if self.backup.previous_time().is_none() {
            return Err(ApiError::bad_request("no valid previous backup").into());
        }
        let name = archive_name(&name)?;
        let turn = Arc::clone(&self.downloads).acquire_owned().await;
        let claim = self.claims.file(self.backup.previous_bytes(&name).await?);
        let claim = claim.await.ok_or_else(no_memory)?;
        let bytes = self
            .backup
            .previous(&name)
            .await
            .map_err(|error| absent(&name, error))?;
        self.log
            .log(format_args!("download '{name}' of the previous snapshot"));
        Ok(raw([bytes], false, (turn, claim), &self.progress))
    }

    async fn create_dynamic(&self, call: Call) -> Result<Reply, Refusal> {
        let params = self.params(call).await?;
        let name = take(params, |params| take_file_name(params, "archive-name"))?;
        let name = index_name(&name, ArchiveKind::Dynamic)?;
        let wid = self.backup.create_dynamic(&name).await?;
        self.log
            .log(format_args!("created new dynamic index {wid} ({name})"));
        Ok(Reply::new(&wid)?)
    }

    async fn create_fixed(&self, call: Call) -> Result<Reply, Refusal> {
        let (name, size, reuse) = take(self.params(call).await?, |params| {
            let name = take_file_name(params, "archive-name")?;
            let size = params.integer("size", 1..=i64::MAX)?;
            Ok((name, size, params.optional::<Digest>("reuse-csum")?))
        })?;
        let name = index_name(&name, ArchiveKind::Fixed)?;
        let size = size.map(i64::cast_unsigned);
        let wid = self.backup.create_fixed(&name, size, reuse).await?;
        self.log
            .log(format_args!("created new fixed index {wid} ({name})"));
        Ok(Reply::new(&wid)?)
    }

    async fn append(&self, call: Call, kind: IndexKind) -> Result<Reply, Refusal> {
        let (wid, digests, offsets) = take(self.params(call).await?, |params| {
            let wid = take_wid(params)?;
            let digests: Vec<Digest> = params.list("digest-list", APPEND_MAX)?;
            let offsets = params.integers("offset-list", &(0..=i64::MAX), APPEND_MAX)?;
            if digests.is_empty() && offsets.is_empty() {
                return Err(ApiError::bad_request(
                    "parameter verification failed: 'digest-list' and 'offset-list' are missing or empty",
                ));
            }
            Ok((wid, digests, offsets))
        })?;
        if digests.len() != offsets.len() {
            let (wrong, right) = (offsets.len(), digests.len());
            return Err(ApiError::bad_request(format!(
                "offset list has wrong length ({wrong} != {right})"
            ))
            .into());
        }
        let chunks: Vec<_> = digests
            .into_iter()
            .zip(offsets.into_iter().map(i64::cast_unsigned))
            .collect();
        self.backup.append(wid, kind, &chunks).await?;
        Ok(Reply::null())
    }

    async fn chunk(&self, call: Call, kind: IndexKind) -> Result<Reply, Refusal> {
        let (params, body) = call.upload()?;
        let (wid, digest, size, encoded_size) = take(params, |params| {
            let wid = take_wid(params)?;
            let digest: Digest = params.required("digest")?;
            let size = params.required_integer("size", 1..=CHUNK_BYTES_MAX as i64)?;
            let bounds = CHUNK_ENCODED_BYTES_MIN..=CHUNK_ENCODED_BYTES_MAX as i64;
            Ok((
                wid,
                digest,
                size as u32,
                params.required_integer("encoded-size", bounds)? as usize,
            ))
        })?;
        // Before the body is waited for: it would be for nothing.
        self.backup.check_writer(wid, kind)?;
        let encoded = self.upload(body, encoded_size).await?;
        self.backup.upload(wid, kind, digest, size, encoded).await?;
        Ok(Reply::new(&digest)?)
    }

    async fn close(&self, call: Call, kind: IndexKind) -> Result<Reply, Refusal> {
        let least = match kind {
            IndexKind::Dynamic => 1,
            IndexKind::Fixed => 0,
        };
        let (wid, count, size, csum) = take(self.params(call).await?, |params| {
            let wid = take_wid(params)?;
            let count = params.required_integer("chunk-count", least..=i64::MAX)?;
            let size = params.required_integer("size", least..=i64::MAX)?;
            Ok((
                wid,
                count.cast_unsigned(),
                size.cast_unsigned(),
                params.required::<Digest>("csum")?,
            ))
        })?;
        self.backup.close(wid, kind, count, size, csum).await?;
        self.log.log(format_args!(
            "closed index {wid}: {count} chunks, {size} bytes"
        ));
        Ok(Reply::null())
    }

    async fn blob(&self, call: Call) -> Result<Reply, Refusal> {
        let (params, body) = call.upload()?;
        let (name, encoded_size) = take(params, |params| {
            let name = take_file_name(params, "file-name")?;
            let bounds = BLOB_BYTES_MIN..=CHUNK_ENCODED_BYTES_MAX as i64;
            Ok((
                name,
                params.required_integer("encoded-size", bounds)? as usize,
            ))
        })?;
        let parsed = name
            .parse::<ArchiveName>()
            .ok()
            .filter(|name| name.kind() == ArchiveKind::Blob);
        let Some(name) = parsed else {
            return Err(
                ApiError::bad_request(format!("wrong blob file extension: '{name}'")).into(),
            );
        };
        let encoded = self.upload(body, encoded_size).await?;
        self.backup.blob(&name, encoded).await?;
        self.log
            .log(format_args!("added blob '{name}' ({encoded_size} bytes)"));
        Ok(Reply::null())
    }

    /// Reads a body of exactly `expected` bytes.
    async fn upload(&self, body: Incoming, expected: usize) -> Result<Bytes, Refusal> {
        if body.size_hint().lower() > expected as u64 {
            return Err(longer(expected));
        }
        let claim = self.claims.take(expected as u64).await;
        let claim = claim.ok_or_else(no_memory)?;
        let bytes = match read_body(body, expected, expected, &self.progress).await {
            Err(BodyFault::TooLong(_)) => return Err(longer(expected)),
            read => read?,
        };
        if bytes.len() != expected {
            let got = bytes.len();
            return Err(ApiError::bad_request(format!(
                "the body has {got} bytes, {expected} were announced as encoded-size"
            ))
            .into());
        }
        Ok(keeping(bytes, Arc::new(claim)))
    }
}

fn longer(expected: usize) -> Refusal {
    ApiError::bad_request(format!(
        "the body is larger than the {expected} bytes announced as encoded-size"
    ))
    .into()
}

fn take_wid(params: &mut Params) -> Result<u16, ApiError> {
    params
        .required_integer("wid", 1..=WRITER_MAX)
        .map(|wid| wid as u16)
}

/// The name of an index of this kind.
fn index_name(text: &str, kind: ArchiveKind) -> Result<ArchiveName, Refusal> {
    let name = text
        .parse::<ArchiveName>()
        .ok()
        .filter(|name| name.kind() == kind);
    name.ok_or_else(|| ApiError::bad_request(format!("wrong archive extension: '{text}'")).into())
}

/// A blob that is not there is a 404, which clients know; everything else a 400.
pub(super) fn absent(name: &ArchiveName, error: pbs_datastore::Error) -> Refusal {
    match error {
        pbs_datastore::Error::NotFound(_) if name.kind() == ArchiveKind::Blob => {
            ApiError::not_found(error.to_string()).into()
        }
        error => error.into(),
    }
}
