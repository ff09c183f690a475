//! Counting what is asked of a bucket: requests, failures and bytes by operation.
//!
//! [`Metered`] belongs directly around the adapter, below limits and retries, so that it sees every attempt and no waits.
//! Counters survive restarts: the owner stores a [`MeterSnapshot`] and loads it into the next [`Meter`].
//!
//! Requests that are made in the course of [`attributed`] work are counted in its [`Tally`] as well, bucket by bucket, also
//! those of tasks that were spawned with [`carried`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::Either;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    Answer, Body, BucketSettings, ByteRange, Copy, DeleteOutcome, DeleteRequest, Error, ErrorKind,
    ListPage, ListRequest, Metadata, Object, ObjectKey, ObjectMeta, ObjectStore, Op, Part,
    PartOutcome, Precondition, Put, PutOutcome, UploadId, Validity,
};

/// Upper ends of the latency buckets in milliseconds; the last bucket has none.
pub const LATENCY_BOUNDS_MS: [u64; 11] = [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 10_000, 60_000];

const BUCKETS: usize = LATENCY_BOUNDS_MS.len() + 1;

#[derive(Debug, Default)]
struct OpMeter {
    requests: AtomicU64,
    errors: AtomicU64,
    throttles: AtomicU64,
    lost: AtomicU64,
    retries: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    latency_sum_ms: AtomicU64,
    latency: [AtomicU64; BUCKETS],
}

/// What one operation has cost so far. Names are those of the stored form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct OpSnapshot {
    /// Attempts that were begun.
    pub requests: u64,
    /// Attempts that ended in an error other than *not found*, throttles included.
    pub errors: u64,
    /// Answers that asked to slow down.
    pub throttles: u64,
    /// Answers that were lost.
    pub lost: u64,
    /// Attempts that repeated an earlier one.
    pub retries: u64,
    /// Bytes of objects received.
    pub bytes_in: u64,
    /// Bytes of objects sent.
    pub bytes_out: u64,
    /// Milliseconds of all attempts together.
    pub latency_sum_ms: u64,
    /// Attempts by duration, one bucket per entry of [`LATENCY_BOUNDS_MS`] and one for the rest.
    pub latency: [u64; BUCKETS],
}

/// All counters, by the name of the operation. Operations that were never used are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MeterSnapshot(pub BTreeMap<String, OpSnapshot>);

impl MeterSnapshot {
    /// What was counted for `op`.
    pub fn op(&self, op: Op) -> OpSnapshot {
        self.0.get(op.name()).cloned().unwrap_or_default()
    }

    /// Adds the counters of another snapshot.
    pub fn merge(&mut self, other: &Self) {
        for (name, theirs) in &other.0 {
            let ours = self.0.entry(name.clone()).or_default();
            ours.requests += theirs.requests;
            ours.errors += theirs.errors;
            ours.throttles += theirs.throttles;
            ours.lost += theirs.lost;
            ours.retries += theirs.retries;
            ours.bytes_in += theirs.bytes_in;
            ours.bytes_out += theirs.bytes_out;
            ours.latency_sum_ms += theirs.latency_sum_ms;
            for (ours, theirs) in ours.latency.iter_mut().zip(theirs.latency) {
                *ours += theirs;
            }
        }
    }
}

/// Counters of one bucket.
#[derive(Debug, Default)]
pub struct Meter([OpMeter; Op::ALL.len()]);

fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Meter {
    fn of(&self, op: Op) -> &OpMeter {
        // The variants are numbered in the order of `Op::ALL`.
        &self.0[op as usize]
    }

    /// Counts an attempt that repeats an earlier one.
    pub fn count_retry(&self, op: Op) {
        add(&self.of(op).retries, 1);
    }

    fn begin(&self, op: Op, bytes_out: u64) {
        add(&self.of(op).requests, 1);
        add(&self.of(op).bytes_out, bytes_out);
    }

    fn end<T>(&self, op: Op, took: Duration, result: &Result<Answer<T>, Error>) {
        let meter = self.of(op);
        let ms = took.as_millis() as u64;
        let bucket = LATENCY_BOUNDS_MS.partition_point(|bound| *bound < ms);
        add(&meter.latency[bucket], 1);
        add(&meter.latency_sum_ms, ms);
        let lost_at = match result {
            Ok(answer) => answer.lost_at,
            Err(error) => {
                if error.kind != ErrorKind::NotFound {
                    add(&meter.errors, 1);
                }
                if error.kind == ErrorKind::Throttled {
                    add(&meter.throttles, 1);
                }
                error.lost_at
            }
        };
        if lost_at.is_some() {
            add(&meter.lost, 1);
        }
    }

    /// The counters now.
    pub fn snapshot(&self) -> MeterSnapshot {
        let ops = Op::ALL.into_iter().filter_map(|op| {
            let meter = self.of(op);
            let snapshot = OpSnapshot {
                requests: read(&meter.requests),
                errors: read(&meter.errors),
                throttles: read(&meter.throttles),
                lost: read(&meter.lost),
                retries: read(&meter.retries),
                bytes_in: read(&meter.bytes_in),
                bytes_out: read(&meter.bytes_out),
                latency_sum_ms: read(&meter.latency_sum_ms),
                latency: std::array::from_fn(|i| read(&meter.latency[i])),
            };
            let used = snapshot != OpSnapshot::default();
            used.then(|| (op.name().to_owned(), snapshot))
        });
        MeterSnapshot(ops.collect())
    }

    /// Adds counters of an earlier run; operations with unknown names are left out.
    pub fn load(&self, earlier: &MeterSnapshot) {
        for op in Op::ALL {
            let (meter, earlier) = (self.of(op), earlier.op(op));
            add(&meter.requests, earlier.requests);
            add(&meter.errors, earlier.errors);
            add(&meter.throttles, earlier.throttles);
            add(&meter.lost, earlier.lost);
            add(&meter.retries, earlier.retries);
            add(&meter.bytes_in, earlier.bytes_in);
            add(&meter.bytes_out, earlier.bytes_out);
            add(&meter.latency_sum_ms, earlier.latency_sum_ms);
            for (counter, value) in meter.latency.iter().zip(earlier.latency) {
                add(counter, value);
            }
        }
    }
}

/// What some piece of work has asked of each bucket.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Buckets>);

/// The counters of each bucket, and beside them those of the work.
type Buckets = Vec<(Arc<Meter>, Arc<Meter>)>;

impl Tally {
    /// What was asked of the bucket whose own counters are `meter`.
    pub fn of(&self, meter: &Arc<Meter>) -> MeterSnapshot {
        let known = known(&self.lock(), meter).cloned();
        known.map_or_else(MeterSnapshot::default, |counters| counters.snapshot())
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counters(&self, bucket: &Arc<Meter>) -> Arc<Meter> {
        let mut all = self.lock();
        if let Some(counters) = known(&all, bucket) {
            return Arc::clone(counters);
        }
        let counters = Arc::<Meter>::default();
        all.push((Arc::clone(bucket), Arc::clone(&counters)));
        counters
    }
}

fn known<'a>(all: &'a Buckets, bucket: &Arc<Meter>) -> Option<&'a Arc<Meter>> {
    let found = all.iter().find(|(known, _)| Arc::ptr_eq(known, bucket));
    found.map(|(_, counters)| counters)
}

tokio::task_local! {
    static TALLY: Arc<Tally>;
}

/// Does `work` and counts the requests that are made in its course.
pub async fn attributed<F: Future>(tally: Arc<Tally>, work: F) -> F::Output {
    TALLY.scope(tally, work).await
}

/// `work` for a task of its own: what it asks counts as asked by the running one.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    match TALLY.try_with(Arc::clone) {
        Ok(tally) => Either::Left(TALLY.scope(tally, work)),
        Err(_) => Either::Right(work),
    }
}

/// A store whose requests are counted.
pub struct Metered<S: ?Sized> {
    meter: Arc<Meter>,
    inner: Arc<S>,
}

impl<S: ?Sized> fmt::Debug for Metered<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metered").finish_non_exhaustive()
    }
}

impl<S: ObjectStore + ?Sized> Metered<S> {
    /// Wraps a store.
    pub fn new(inner: Arc<S>, meter: Arc<Meter>) -> Self {
        Self { meter, inner }
    }

    async fn counted<T>(
        &self,
        op: Op,
        bytes_out: u64,
        request: impl Future<Output = Result<Answer<T>, Error>> + Send,
        bytes_in: fn(&T) -> u64,
    ) -> Result<Answer<T>, Error> {
        let began = Instant::now();
        let also = TALLY.try_with(|tally| tally.counters(&self.meter)).ok();
        let meters = || [Some(&self.meter), also.as_ref()].into_iter().flatten();
        for meter in meters() {
            meter.begin(op, bytes_out);
        }
        let result = request.await;
        let received = result.as_ref().map_or(0, |answer| bytes_in(&answer.value));
        for meter in meters() {
            meter.end(op, began.elapsed(), &result);
            add(&meter.of(op).bytes_in, received);
        }
        result
    }
}

/// For answers that bring no object.
fn nothing<T>(_: &T) -> u64 {
    0
}

#[async_trait]
impl<S: ObjectStore + ?Sized> ObjectStore for Metered<S> {
    async fn put(&self, put: Put) -> Result<Answer<PutOutcome>, Error> {
        let bytes = put.body.len();
        self.counted(Op::Put, bytes, self.inner.put(put), nothing)
            .await
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
    ) -> Result<Answer<Object>, Error> {
        let received = |object: &Object| object.body.len();
        self.counted(Op::Get, 0, self.inner.get(key, range), received)
            .await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Answer<ObjectMeta>, Error> {
        self.counted(Op::Head, 0, self.inner.head(key), nothing)
            .await
    }

    async fn delete(
        &self,
        requests: &[DeleteRequest],
        validity: Option<Validity>,
    ) -> Result<Answer<Vec<DeleteOutcome>>, Error> {
        self.counted(
            Op::Delete,
            0,
            self.inner.delete(requests, validity),
            nothing,
        )
        .await
    }

    async fn list(&self, request: &ListRequest) -> Result<Answer<ListPage>, Error> {
        self.counted(Op::List, 0, self.inner.list(request), nothing)
            .await
    }

    async fn copy(&self, copy: Copy) -> Result<Answer<PutOutcome>, Error> {
        self.counted(Op::Copy, 0, self.inner.copy(copy), nothing)
            .await
    }

    async fn create_multipart(
        &self,
        key: &ObjectKey,
        metadata: Metadata,
    ) -> Result<Answer<UploadId>, Error> {
        let request = self.inner.create_multipart(key, metadata);
        self.counted(Op::CreateMultipart, 0, request, nothing).await
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        body: Body,
    ) -> Result<Answer<PartOutcome>, Error> {
        let bytes = body.len();
        let request = self.inner.upload_part(key, upload, number, body);
        self.counted(Op::UploadPart, bytes, request, nothing).await
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
        self.counted(Op::CompleteMultipart, 0, request, nothing)
            .await
    }

    async fn abort_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
    ) -> Result<Answer<()>, Error> {
        let request = self.inner.abort_multipart(key, upload);
        self.counted(Op::AbortMultipart, 0, request, nothing).await
    }

    async fn head_bucket(&self) -> Result<Answer<()>, Error> {
        self.counted(Op::Bucket, 0, self.inner.head_bucket(), nothing)
            .await
    }

    async fn bucket_settings(&self) -> Result<Answer<BucketSettings>, Error> {
        self.counted(Op::Bucket, 0, self.inner.bucket_settings(), nothing)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{Scripted, Step, key};

    #[tokio::test(start_paused = true)]
    async fn requests_are_counted_and_survive_a_restart() {
        let store = Arc::new(Scripted::new());
        let meter = Arc::new(Meter::default());
        let metered = Metered::new(Arc::clone(&store), Arc::clone(&meter));
        metered.put(Put::new(key("a"), "hello")).await.expect("put");
        metered.get(&key("a"), None).await.expect("get");
        metered.head(&key("none")).await.expect_err("not there");
        store.then([Step::Fail(ErrorKind::Throttled), Step::Lose]);
        metered.get(&key("a"), None).await.expect_err("throttled");
        metered.put(Put::new(key("b"), "x")).await.expect("unknown");
        meter.count_retry(Op::Put);

        let snapshot = meter.snapshot();
        let put = snapshot.op(Op::Put);
        assert_eq!((put.requests, put.bytes_out, put.lost), (2, 6, 1));
        assert_eq!((put.retries, put.errors), (1, 0));
        let get = snapshot.op(Op::Get);
        assert_eq!((get.requests, get.bytes_in), (2, 5));
        assert_eq!((get.errors, get.throttles), (1, 1));
        assert_eq!(snapshot.op(Op::Head).errors, 0);
        assert_eq!(get.latency[0], 2);
        assert!(!snapshot.0.contains_key("list"));

        let stored = serde_json::to_string(&snapshot).expect("serializable");
        let read: MeterSnapshot = serde_json::from_str(&stored).expect("readable");
        let next = Meter::default();
        next.load(&read);
        assert_eq!(next.snapshot(), snapshot);
        let mut twice = read;
        twice.merge(&snapshot);
        assert_eq!(twice.op(Op::Put).requests, 4);
    }

    #[tokio::test]
    async fn work_is_billed_for_what_it_asks_and_its_tasks_ask() {
        let bucket = || {
            let meter = Arc::new(Meter::default());
            let metered = Metered::new(Arc::new(Scripted::new()), Arc::clone(&meter));
            (Arc::new(metered), meter)
        };
        let ((one, ones), (two, twos)) = (bucket(), bucket());
        one.put(Put::new(key("a"), "hello")).await.expect("put");
        let tally = Arc::new(Tally::default());
        let work = async {
            one.get(&key("a"), None).await.expect("get");
            let other = Arc::clone(&two);
            #[expect(clippy::disallowed_methods, reason = "the task is awaited at once")]
            let task = tokio::spawn(carried(async move {
                other.head(&key("none")).await.expect_err("not there");
            }));
            task.await.expect("a task");
        };
        attributed(Arc::clone(&tally), work).await;
        one.get(&key("a"), None).await.expect("get");

        let asked = tally.of(&ones);
        assert_eq!(asked.op(Op::Put).requests, 0, "before it began");
        assert_eq!(asked.op(Op::Get).requests, 1);
        assert_eq!(asked.op(Op::Get).bytes_in, 5);
        assert_eq!(tally.of(&twos).op(Op::Head).requests, 1);
        assert_eq!(ones.snapshot().op(Op::Get).requests, 2, "all of them");
    }

    #[test]
    fn every_operation_has_its_own_counters() {
        for (i, op) in Op::ALL.into_iter().enumerate() {
            assert_eq!(op as usize, i);
        }
    }
}
