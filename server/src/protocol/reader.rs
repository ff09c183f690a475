//! The reader protocol: reading one snapshot (`pbs-interface.md` 4.2).
//!
//! What is on its way to the client counts against the session's share of memory until the client has taken it.
//!
//! A chunk is handed out only if an index that was downloaded in this session names it.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use pbs_datastore::{Digest, SnapshotReader};
use tokio::sync::Semaphore;

use super::answer::{AnswerBody, Refusal, json, raw};
use super::backup::absent;
use super::call::{
    Call, CallRow, archive_name, directory, find, listed, no_memory, take, take_file_name,
};
use super::flow::READER_BODY_BYTES_MAX;
use super::memory::{Claims, ReaderMemory};
use super::session::Progress;
use crate::api::ApiError;
use crate::tasks::TaskLogger;

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Directory,
    Chunk,
    Download,
    Speedtest,
}

/// Every call: method, name below `/`, and what it does. There is no other way to a call.
const CALLS: [CallRow<Action>; 4] = [
    (Method::GET, "", Action::Directory),
    (Method::GET, "chunk", Action::Chunk),
    (Method::GET, "download", Action::Download),
    (Method::GET, "speedtest", Action::Speedtest),
];

/// Method and name of every call.
pub(crate) fn calls() -> Vec<(Method, &'static str)> {
    listed(&CALLS)
}

/// What a speed test is answered with.
static SPEEDTEST: [u8; 1 << 20] = [b'A'; 1 << 20];
/// Files that are answered at once in one session.
const DOWNLOADS_MAX: usize = 4;

/// One reader session, as its client sees it.
#[derive(Debug)]
pub(crate) struct ReaderSession {
    reader: Arc<SnapshotReader>,
    claims: Claims,
    downloads: Arc<Semaphore>,
    progress: Progress,
    log: TaskLogger,
}

impl ReaderSession {
    /// A session on `reader`.
    pub(crate) fn new(
        reader: Arc<SnapshotReader>,
        memory: &ReaderMemory,
        progress: Progress,
        log: TaskLogger,
    ) -> Self {
        Self {
            reader,
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
        match action {
            Action::Directory => Ok(json(directory(&CALLS)?)),
            Action::Download => self.download(call).await,
            Action::Chunk => self.chunk(call).await,
            Action::Speedtest => Ok(raw(
                [Bytes::from_static(&SPEEDTEST)],
                true,
                (),
                &self.progress,
            )),
        }
    }

    async fn download(&self, call: Call) -> Result<Response<AnswerBody>, Refusal> {
        let params = call
            .params_small(READER_BODY_BYTES_MAX, &self.progress)
            .await?;
        let name = take(params, |params| take_file_name(params, "file-name"))?;
        let name = archive_name(&name)?;
        let turn = Arc::clone(&self.downloads).acquire_owned().await;
        let claim = self.claims.file(self.reader.file_bytes(&name).await?);
        let claim = claim.await.ok_or_else(no_memory)?;
        let bytes = self
            .reader
            .download(&name)
            .await
            .map_err(|error| absent(&name, error))?;
        self.log
            .log(format_args!("download '{name}' ({} bytes)", bytes.len()));
        Ok(raw([bytes], false, (turn, claim), &self.progress))
    }

    async fn chunk(&self, call: Call) -> Result<Response<AnswerBody>, Refusal> {
        let params = call
            .params_small(READER_BODY_BYTES_MAX, &self.progress)
            .await?;
        let digest = take(params, |params| params.required::<Digest>("digest"))?;
        let mut grant = self.claims.answer().await;
        let Some(chunk) = self.reader.chunk(&digest).await? else {
            let text = format!(
                "download chunk {digest} not allowed: no index opened in this session names it"
            );
            return Err(ApiError::unauthorized(text).into());
        };
        if let Some(grant) = &mut grant {
            grant.resize(chunk.encoded_len() as u64);
        }
        let (header, payload) = chunk.parts();
        // The chunk carries the memory it was granted; it is given back when the client has taken the last byte.
        Ok(raw([header, payload], true, (chunk, grant), &self.progress))
    }
}
