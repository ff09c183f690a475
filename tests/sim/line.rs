//! The line between a life of the daemon and the server, and the one who watches at the server's end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use pbs_datastore::{BlobKind, BucketLayout, Digest, Place};
use s3_client::{
    Answer, Body, BucketSettings, ByteRange, Copy, DeleteOutcome, DeleteRequest, Error, ListPage,
    ListRequest, Metadata, ModelStore, Object, ObjectKey, ObjectMeta, ObjectStore, Part,
    PartOutcome, Precondition, Put, PutOutcome, UploadId, Validity,
};

use crate::oracle::Oracle;
use crate::world::History;

/// A process's line: when the process has died, nothing goes out any more. The oracle learns which chunks it sends.
pub(crate) struct Line {
    inner: Arc<dyn ObjectStore>,
    dead: Arc<AtomicBool>,
    life: u64,
    layout: BucketLayout,
    oracle: Arc<Oracle>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Line")
    }
}

impl Line {
    pub(crate) fn over(
        inner: Arc<dyn ObjectStore>,
        dead: Arc<AtomicBool>,
        life: u64,
        layout: BucketLayout,
        oracle: Arc<Oracle>,
    ) -> Arc<dyn ObjectStore> {
        Arc::new(Self {
            inner,
            dead,
            life,
            layout,
            oracle,
        })
    }

    async fn inner(&self) -> &dyn ObjectStore {
        if self.dead.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
        &*self.inner
    }
}

/// The server, with the oracle watching what really happens to chunks.
pub(crate) struct Watched {
    model: Arc<ModelStore>,
    layout: BucketLayout,
    oracle: Arc<Oracle>,
    history: Arc<History>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watched")
    }
}

impl Watched {
    pub(crate) fn over(
        model: Arc<ModelStore>,
        layout: BucketLayout,
        oracle: Arc<Oracle>,
        history: Arc<History>,
    ) -> Arc<dyn ObjectStore> {
        Arc::new(Self {
            model,
            layout,
            oracle,
            history,
        })
    }

    #[expect(clippy::unused_async, reason = "as that of a line, which waits")]
    async fn inner(&self) -> &dyn ObjectStore {
        &*self.model
    }

    fn note(&self, digest: &Digest, what: &str) {
        let digest = digest.to_string();
        self.history
            .note(&format!("server: {}: {what}", &digest[..8]));
    }

    fn before(&self, key: &ObjectKey) -> Option<bytes::Bytes> {
        self.model
            .object(key)
            .map(|object| object.body.into_bytes())
    }
}

fn chunk_at(layout: &BucketLayout, key: &ObjectKey) -> Option<Digest> {
    match layout.parse(key) {
        Some(Place::Chunk(digest)) => Some(digest),
        _ => None,
    }
}

fn kind(stored: Option<&bytes::Bytes>) -> &'static str {
    let Some(stored) = stored else {
        return "nothing";
    };
    match BlobKind::of(stored) {
        Some(kind) if kind.is_encrypted() => "encrypted",
        Some(_) => "plain",
        None => "rubbish",
    }
}

/// A store whose puts and deletes are its own and that passes everything else on.
macro_rules! store {
    ($store:ty { $($own:tt)* }) => {
        #[async_trait]
        impl ObjectStore for $store {
            $($own)*

            async fn get(&self, key: &ObjectKey, range: Option<ByteRange>) -> Result<Answer<Object>, Error> {
                self.inner().await.get(key, range).await
            }

            async fn head(&self, key: &ObjectKey) -> Result<Answer<ObjectMeta>, Error> {
                self.inner().await.head(key).await
            }

            async fn list(&self, request: &ListRequest) -> Result<Answer<ListPage>, Error> {
                self.inner().await.list(request).await
            }

            async fn copy(&self, copy: Copy) -> Result<Answer<PutOutcome>, Error> {
                self.inner().await.copy(copy).await
            }

            async fn create_multipart(&self, key: &ObjectKey, metadata: Metadata) -> Result<Answer<UploadId>, Error> {
                self.inner().await.create_multipart(key, metadata).await
            }

            async fn upload_part(
                &self,
                key: &ObjectKey,
                upload: &UploadId,
                number: u16,
                body: Body,
            ) -> Result<Answer<PartOutcome>, Error> {
                self.inner().await.upload_part(key, upload, number, body).await
            }

            async fn complete_multipart(
                &self,
                key: &ObjectKey,
                upload: &UploadId,
                parts: &[Part],
                precondition: Precondition,
            ) -> Result<Answer<PutOutcome>, Error> {
                self.inner().await.complete_multipart(key, upload, parts, precondition).await
            }

            async fn abort_multipart(&self, key: &ObjectKey, upload: &UploadId) -> Result<Answer<()>, Error> {
                self.inner().await.abort_multipart(key, upload).await
            }

            async fn head_bucket(&self) -> Result<Answer<()>, Error> {
                self.inner().await.head_bucket().await
            }

            async fn bucket_settings(&self) -> Result<Answer<BucketSettings>, Error> {
                self.inner().await.bucket_settings().await
            }
        }
    };
}

store!(Line {
    async fn put(&self, put: Put) -> Result<Answer<PutOutcome>, Error> {
        let inner = self.inner().await;
        if let Some(digest) = chunk_at(&self.layout, &put.key) {
            self.oracle.chunk_sent(self.life, digest);
        }
        inner.put(put).await
    }

    async fn delete(
        &self,
        requests: &[DeleteRequest],
        validity: Option<Validity>,
    ) -> Result<Answer<Vec<DeleteOutcome>>, Error> {
        self.inner().await.delete(requests, validity).await
    }
});

store!(Watched {
    async fn put(&self, put: Put) -> Result<Answer<PutOutcome>, Error> {
        let digest = chunk_at(&self.layout, &put.key);
        let (before, body) = (self.before(&put.key), put.body.clone());
        let answer = self.model.put(put).await?;
        if let (Some(digest), PutOutcome::Created { .. }) = (digest, &answer.value) {
            let body = body.into_bytes();
            self.note(&digest, &format!("{} over {}", kind(Some(&body)), kind(before.as_ref())));
            self.oracle.chunk_written(digest, before, &body);
        }
        Ok(answer)
    }

    async fn delete(
        &self,
        requests: &[DeleteRequest],
        validity: Option<Validity>,
    ) -> Result<Answer<Vec<DeleteOutcome>>, Error> {
        let before: Vec<_> = requests
            .iter()
            .filter_map(|request| Some((chunk_at(&self.layout, &request.key)?, &request.key, self.before(&request.key)?)))
            .collect();
        let answer = self.model.delete(requests, validity).await;
        for (digest, key, before) in before {
            if self.before(key).is_none() {
                self.note(&digest, "deleted");
                self.oracle.chunk_deleted(digest, &before);
            }
        }
        answer
    }
});
