//! A mutation as a value: it can be sent once, twice, later, or not at all.

use tokio::time::Instant;

use super::late::Reply;
use crate::store::{
    Answer, Body, Copy, DeleteRequest, Metadata, ObjectStore, Part, PartOutcome, Put, UploadId,
    Validity,
};
use crate::{DeleteOutcome, Error, ErrorKind, ObjectKey, Op, Precondition, PutOutcome};

/// A request that changes the bucket.
#[derive(Clone, Debug)]
pub(super) enum Mutation {
    Put(Put),
    Delete(Vec<DeleteRequest>, Option<Validity>),
    Copy(Copy),
    Create(ObjectKey, Metadata),
    Part(ObjectKey, UploadId, u16, Body),
    Complete(ObjectKey, UploadId, Vec<Part>, Precondition),
    Abort(ObjectKey, UploadId),
}

impl Mutation {
    pub(super) fn op(&self) -> Op {
        match self {
            Self::Put(_) => Op::Put,
            Self::Delete(..) => Op::Delete,
            Self::Copy(_) => Op::Copy,
            Self::Create(..) => Op::CreateMultipart,
            Self::Part(..) => Op::UploadPart,
            Self::Complete(..) => Op::CompleteMultipart,
            Self::Abort(..) => Op::AbortMultipart,
        }
    }

    /// Whether a server may answer it with 409.
    pub(super) fn may_conflict(&self) -> bool {
        match self {
            Self::Put(_) | Self::Complete(..) => true,
            Self::Copy(copy) => copy.precondition != Precondition::None,
            Self::Delete(..) | Self::Create(..) | Self::Part(..) | Self::Abort(..) => false,
        }
    }

    /// The keys it concerns; for a deletion in the order of its requests.
    pub(super) fn keys(&self) -> Vec<&str> {
        match self {
            Self::Put(put) => vec![put.key.as_str()],
            Self::Delete(requests, _) => requests.iter().map(|r| r.key.as_str()).collect(),
            Self::Copy(copy) => vec![copy.target.as_str(), copy.source.as_str()],
            Self::Create(key, _)
            | Self::Part(key, ..)
            | Self::Complete(key, ..)
            | Self::Abort(key, _) => vec![key.as_str()],
        }
    }

    pub(super) async fn send(self, store: &dyn ObjectStore) -> Result<Answer<Reply>, Error> {
        Ok(match self {
            Self::Put(put) => store.put(put).await?.map(Reply::Put),
            Self::Delete(requests, validity) => {
                store.delete(&requests, validity).await?.map(Reply::Delete)
            }
            Self::Copy(copy) => store.copy(copy).await?.map(Reply::Put),
            Self::Create(key, metadata) => store
                .create_multipart(&key, metadata)
                .await?
                .map(Reply::Upload),
            Self::Part(key, upload, number, body) => store
                .upload_part(&key, &upload, number, body)
                .await?
                .map(Reply::Part),
            Self::Complete(key, upload, parts, precondition) => store
                .complete_multipart(&key, &upload, &parts, precondition)
                .await?
                .map(Reply::Put),
            Self::Abort(key, upload) => store
                .abort_multipart(&key, &upload)
                .await?
                .map(|()| Reply::Done),
        })
    }

    /// What the sender is told when the answer is lost.
    pub(super) fn lost(&self) -> Result<Answer<Reply>, Error> {
        let reply = match self {
            Self::Put(_) | Self::Copy(_) | Self::Complete(..) => Reply::Put(PutOutcome::Unknown),
            Self::Delete(requests, _) => {
                Reply::Delete(vec![DeleteOutcome::Unknown; requests.len()])
            }
            Self::Part(..) => Reply::Part(PartOutcome::Unknown),
            Self::Create(..) | Self::Abort(..) => {
                let mut error = self.error(ErrorKind::Timeout, "injected: the answer was lost");
                error.maybe_applied = true;
                error.lost_at = Some(Instant::now());
                return Err(error);
            }
        };
        let mut answer = Answer::new(reply, None);
        answer.lost_at = Some(Instant::now());
        Ok(answer)
    }

    pub(super) fn error(&self, kind: ErrorKind, message: &str) -> Error {
        let keys = self.keys();
        let key = keys.first().copied().unwrap_or_default();
        Error::new(kind, self.op(), key, message)
    }
}
