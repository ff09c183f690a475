//! Limits on what is asked of a bucket, over *all* operations: concurrency, requests per second, and bytes per second in
//! each direction.
//!
//! Answers that ask to slow down halve the concurrency (not below 1); success raises it again, one at a time. Requests
//! that were under way when it was halved do not halve it once more, since they were sent under the old limit.
//! [`Limited`] belongs below retries, so that every attempt passes here and no permit is held during a wait.

mod gate;
mod pace;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use self::gate::Gate;
use self::pace::Pace;
use crate::{
    Answer, Body, BucketSettings, ByteRange, Copy, DeleteOutcome, DeleteRequest, Error, ErrorKind,
    ListPage, ListRequest, Metadata, Object, ObjectKey, ObjectMeta, ObjectStore, Part, PartOutcome,
    Precondition, Put, PutOutcome, UploadId, Validity,
};

/// Bounds for one bucket. Field names are in kebab case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Limits {
    /// Most requests under way: 1 to 1024. Default: 64.
    pub concurrency_max: usize,
    /// Requests per second over all operations, in bursts of at most one second's worth: 1 to 1,000,000.
    /// Default: none.
    pub requests_per_second_max: Option<u64>,
    /// Bytes of bodies sent per second, as long-term mean: 65,536 to 100 GB. A body larger than a second's worth is let
    /// through and paid for by those after it. Default: none.
    pub upload_bytes_per_second_max: Option<u64>,
    /// The same for bodies received; each is paid for by the next ones. Default: none.
    pub download_bytes_per_second_max: Option<u64>,
    /// Milliseconds between two raises of a lowered concurrency: 100 to 600,000. Default: 5000.
    pub recovery_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrency_max: 64,
            requests_per_second_max: None,
            upload_bytes_per_second_max: None,
            download_bytes_per_second_max: None,
            recovery_ms: 5000,
        }
    }
}

impl Limits {
    /// Everything that is wrong with them, one sentence each; empty if they can be used.
    pub fn validate(&self) -> Vec<String> {
        let pace = |name, value| (name, value, 65_536, 100_000_000_000);
        [
            (
                "concurrency-max",
                Some(self.concurrency_max as u64),
                1,
                1024,
            ),
            (
                "requests-per-second-max",
                self.requests_per_second_max,
                1,
                1_000_000,
            ),
            pace(
                "upload-bytes-per-second-max",
                self.upload_bytes_per_second_max,
            ),
            pace(
                "download-bytes-per-second-max",
                self.download_bytes_per_second_max,
            ),
            ("recovery-ms", Some(self.recovery_ms), 100, 600_000),
        ]
        .into_iter()
        .filter_map(|(name, value, least, most)| {
            let value = value.filter(|value| *value < least || *value > most)?;
            Some(format!("{name} must be {least} to {most}, not {value}"))
        })
        .collect()
    }
}

/// A store whose requests wait for their turn.
pub struct Limited<S: ?Sized> {
    gate: Gate,
    requests: Option<Pace>,
    uploads: Option<Pace>,
    downloads: Option<Pace>,
    inner: Arc<S>,
}

impl<S: ?Sized> fmt::Debug for Limited<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limited")
            .field("concurrency", &self.concurrency())
            .finish_non_exhaustive()
    }
}

impl<S: ?Sized> Limited<S> {
    /// How many requests may be under way now.
    pub fn concurrency(&self) -> usize {
        self.gate.limit()
    }
}

/// The body that a request moves.
#[derive(Clone, Copy)]
enum Moving {
    Nothing,
    /// So many bytes are sent.
    Up(u64),
    /// An object is received.
    Down,
}

/// Answers that ask to slow down.
trait AsksToSlowDown {
    fn asks_to_slow_down(&self) -> bool {
        false
    }
}

impl AsksToSlowDown for PutOutcome {}
impl AsksToSlowDown for Object {}
impl AsksToSlowDown for ObjectMeta {}
impl AsksToSlowDown for ListPage {}
impl AsksToSlowDown for UploadId {}
impl AsksToSlowDown for PartOutcome {}
impl AsksToSlowDown for BucketSettings {}
impl AsksToSlowDown for () {}

impl AsksToSlowDown for Vec<DeleteOutcome> {
    fn asks_to_slow_down(&self) -> bool {
        self.iter().any(
            |outcome| matches!(outcome, DeleteOutcome::Refused(words) if words.starts_with("SlowDown")),
        )
    }
}

impl<S: ObjectStore + ?Sized> Limited<S> {
    /// Wraps a store.
    pub fn new(inner: Arc<S>, limits: Limits) -> Self {
        Self {
            gate: Gate::new(
                limits.concurrency_max.max(1),
                Duration::from_millis(limits.recovery_ms),
            ),
            requests: limits.requests_per_second_max.map(Pace::new),
            uploads: limits.upload_bytes_per_second_max.map(Pace::new),
            downloads: limits.download_bytes_per_second_max.map(Pace::new),
            inner,
        }
    }

    async fn limited<T: AsksToSlowDown>(
        &self,
        body: Moving,
        request: impl Future<Output = Result<Answer<T>, Error>> + Send,
    ) -> Result<Answer<T>, Error> {
        let pass = self.gate.enter().await;
        if let Some(requests) = &self.requests {
            requests.take(1).await;
        }
        match (body, &self.uploads, &self.downloads) {
            (Moving::Up(bytes), Some(uploads), _) => uploads.take(bytes).await,
            // How much comes is known when it is there; what came before is waited for.
            (Moving::Down, _, Some(downloads)) => downloads.take(0).await,
            _ => {}
        }
        let result = request.await;
        match &result {
            Ok(answer) if answer.value.asks_to_slow_down() => pass.throttled(),
            Err(error) if error.kind == ErrorKind::Throttled => pass.throttled(),
            Ok(_) => pass.succeeded(),
            Err(_) => {}
        }
        result
    }
}

#[async_trait]
impl<S: ObjectStore + ?Sized> ObjectStore for Limited<S> {
    async fn put(&self, put: Put) -> Result<Answer<PutOutcome>, Error> {
        let bytes = put.body.len();
        self.limited(Moving::Up(bytes), self.inner.put(put)).await
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
    ) -> Result<Answer<Object>, Error> {
        let result = self.limited(Moving::Down, self.inner.get(key, range)).await;
        if let (Some(downloads), Ok(answer)) = (&self.downloads, &result) {
            downloads.charge(answer.value.body.len());
        }
        result
    }

    async fn head(&self, key: &ObjectKey) -> Result<Answer<ObjectMeta>, Error> {
        self.limited(Moving::Nothing, self.inner.head(key)).await
    }

    async fn delete(
        &self,
        requests: &[DeleteRequest],
        validity: Option<Validity>,
    ) -> Result<Answer<Vec<DeleteOutcome>>, Error> {
        self.limited(Moving::Nothing, self.inner.delete(requests, validity))
            .await
    }

    async fn list(&self, request: &ListRequest) -> Result<Answer<ListPage>, Error> {
        self.limited(Moving::Nothing, self.inner.list(request))
            .await
    }

    async fn copy(&self, copy: Copy) -> Result<Answer<PutOutcome>, Error> {
        self.limited(Moving::Nothing, self.inner.copy(copy)).await
    }

    async fn create_multipart(
        &self,
        key: &ObjectKey,
        metadata: Metadata,
    ) -> Result<Answer<UploadId>, Error> {
        self.limited(Moving::Nothing, self.inner.create_multipart(key, metadata))
            .await
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        body: Body,
    ) -> Result<Answer<PartOutcome>, Error> {
        let bytes = body.len();
        self.limited(
            Moving::Up(bytes),
            self.inner.upload_part(key, upload, number, body),
        )
        .await
    }

    async fn complete_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[Part],
        precondition: Precondition,
    ) -> Result<Answer<PutOutcome>, Error> {
        let request = self
            .inner
            .complete_multipart(key, upload, parts, precondition);
        self.limited(Moving::Nothing, request).await
    }

    async fn abort_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
    ) -> Result<Answer<()>, Error> {
        self.limited(Moving::Nothing, self.inner.abort_multipart(key, upload))
            .await
    }

    async fn head_bucket(&self) -> Result<Answer<()>, Error> {
        self.limited(Moving::Nothing, self.inner.head_bucket())
            .await
    }

    async fn bucket_settings(&self) -> Result<Answer<BucketSettings>, Error> {
        self.limited(Moving::Nothing, self.inner.bucket_settings())
            .await
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::scripted::{Scripted, Step, key};

    fn limited(limits: Limits) -> (Arc<Scripted>, Limited<Scripted>) {
        let store = Arc::new(Scripted::new());
        (Arc::clone(&store), Limited::new(store, limits))
    }

    #[tokio::test(start_paused = true)]
    async fn throttling_halves_the_concurrency_and_success_restores_it() {
        let (store, limited) = limited(Limits {
            concurrency_max: 8,
            ..Limits::default()
        });
        for expected in [4, 2, 1, 1] {
            store.then([Step::Fail(ErrorKind::Throttled)]);
            limited.head(&key("a")).await.expect_err("throttled");
            assert_eq!(limited.concurrency(), expected);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        limited.head_bucket().await.expect("there");
        assert_eq!(limited.concurrency(), 1, "too early");
        for expected in 2..=8 {
            tokio::time::advance(Duration::from_secs(5)).await;
            limited.head_bucket().await.expect("there");
            assert_eq!(limited.concurrency(), expected);
        }
        tokio::time::advance(Duration::from_secs(5)).await;
        limited.head_bucket().await.expect("there");
        assert_eq!(limited.concurrency(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn one_volley_of_refusals_halves_once() {
        let (store, limited) = limited(Limits {
            concurrency_max: 8,
            ..Limits::default()
        });
        store.then([const { Step::Delay(Duration::from_secs(1), ErrorKind::Throttled) }; 8]);
        let name = key("a");
        let volley = (0..8).map(|_| limited.head(&name));
        futures_util::future::join_all(volley).await;
        assert_eq!(limited.concurrency(), 4);
        assert_eq!(store.most_under_way(), 8);
        store.then([const { Step::Delay(Duration::from_secs(1), ErrorKind::Other) }; 8]);
        let began = Instant::now();
        let volley = (0..8).map(|_| limited.head(&name));
        futures_util::future::join_all(volley).await;
        assert_eq!(began.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn refused_keys_of_a_batch_count_as_throttling() {
        let (store, limited) = limited(Limits::default());
        store.then([Step::RefuseKeys("SlowDown: not so fast")]);
        let requests = [key("a").into()];
        limited.delete(&requests, None).await.expect("outcomes");
        assert_eq!(limited.concurrency(), 32);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_and_bytes_keep_their_pace() {
        let (_, limited) = limited(Limits {
            requests_per_second_max: Some(10),
            ..Limits::default()
        });
        let began = Instant::now();
        for _ in 0..30 {
            limited.head_bucket().await.expect("there");
        }
        // A second's worth at once, the other twenty take two seconds.
        assert_eq!(began.elapsed().as_millis(), 2000);

        let (_, limited) = self::limited(Limits {
            upload_bytes_per_second_max: Some(100_000),
            download_bytes_per_second_max: Some(50_000),
            ..Limits::default()
        });
        let began = Instant::now();
        let body = vec![0; 100_000];
        for _ in 0..3 {
            limited
                .put(Put::new(key("a"), body.clone()))
                .await
                .expect("stored");
        }
        assert_eq!(began.elapsed().as_millis(), 2000);
        limited.get(&key("a"), None).await.expect("there");
        limited.head_bucket().await.expect("there");
        assert_eq!(began.elapsed().as_millis(), 2000, "another direction");
        limited.get(&key("a"), None).await.expect("there");
        assert_eq!(began.elapsed().as_millis(), 3000, "what came is paid for");
    }

    #[test]
    fn all_faults_are_told() {
        let limits = Limits {
            concurrency_max: 0,
            requests_per_second_max: Some(0),
            upload_bytes_per_second_max: Some(1),
            download_bytes_per_second_max: Some(1),
            recovery_ms: 0,
        };
        assert_eq!(limits.validate().len(), 5);
        assert!(Limits::default().validate().is_empty());
    }
}
