//! The yardstick: the same bodies through the same proxy with our own S3 client and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use pbs_datastore::DataBlob;
use s3_client::{
    AwsStore, Body, DeleteRequest, KeyPrefix, Limited, Limits, ObjectKey, ObjectStore as _,
    Precondition, Put, PutOutcome, delete_all,
};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::noise::Image;
use crate::s3_server::Access;

/// Our own client, with the limits of a datastore and without retries, as the daemon's uploads have it.
#[derive(Debug)]
pub struct Raw {
    runtime: Runtime,
    store: Arc<Limited<AwsStore>>,
    direct: AwsStore,
    concurrency: usize,
}

/// Objects to put and get.
#[derive(Clone, Debug)]
pub struct Objects(Arc<Vec<(ObjectKey, Body)>>);

impl Objects {
    /// These bodies.
    pub fn from_bodies(bodies: impl IntoIterator<Item = Bytes>, prefix: &str) -> Result<Self> {
        let prefix = KeyPrefix::new(prefix)?;
        let objects = bodies
            .into_iter()
            .enumerate()
            .map(|(number, body)| Ok((prefix.key(&format!("{number:08}"))?, body.into())));
        Ok(Self(Arc::new(objects.collect::<Result<_>>()?)))
    }

    /// The pieces of an image, each as the chunk that a client makes of it.
    pub fn of(image: &Image, prefix: &str) -> Result<Self> {
        let prefix = KeyPrefix::new(prefix)?;
        let objects = (0..image.pieces).map(|number| {
            let blob = DataBlob::encode_plain(image.piece(number))?;
            Ok((prefix.key(&format!("{number:08}"))?, blob.to_body()))
        });
        Ok(Self(Arc::new(objects.collect::<Result<_>>()?)))
    }
}

impl Raw {
    /// Reaches the server through `slow` for what is measured and through `direct` for the rest.
    pub fn connect(slow: &Access, direct: &Access, concurrency: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("raw")
            .enable_all()
            .build()?;
        let store = runtime.block_on(slow.client())?;
        let direct = runtime.block_on(direct.client())?;
        Ok(Self {
            store: Arc::new(Limited::new(Arc::new(store), Limits::default())),
            direct,
            runtime,
            concurrency: concurrency.max(1),
        })
    }

    /// Puts all objects under the condition that chunks are put under. Returns how long it took.
    pub fn put(&self, objects: &Objects) -> Result<Duration> {
        self.side_by_side(objects, |store, key, body| async move {
            let put = Put::new(key, body).when(Precondition::Absent);
            let outcome = store.put(put).await?.value;
            ensure!(
                matches!(outcome, PutOutcome::Created { .. }),
                "a raw put was not answered with success: {outcome:?}"
            );
            Ok(())
        })
    }

    /// Gets all objects. Returns how long it took.
    pub fn get(&self, objects: &Objects) -> Result<Duration> {
        self.side_by_side(objects, |store, key, body| async move {
            let got = store.get(&key, None).await?.value;
            ensure!(
                got.body.len() as u64 == body.len(),
                "a raw get answered {} bytes instead of {}",
                got.body.len(),
                body.len()
            );
            Ok(())
        })
    }

    /// Removes all objects, not through the proxy.
    pub fn remove(&self, objects: &Objects) -> Result<()> {
        let requests: Vec<DeleteRequest> = objects
            .0
            .iter()
            .map(|(key, _)| key.clone().into())
            .collect();
        let deleted = self
            .runtime
            .block_on(delete_all(&self.direct, &requests, None));
        match deleted.error {
            Some(error) => Err(error).context("the raw objects could not be removed"),
            None => Ok(()),
        }
    }

    fn side_by_side<F>(
        &self,
        objects: &Objects,
        request: impl Fn(Arc<Limited<AwsStore>>, ObjectKey, Body) -> F + Copy + Send + 'static,
    ) -> Result<Duration>
    where
        F: Future<Output = Result<()>> + Send,
    {
        let next = Arc::new(AtomicUsize::new(0));
        let began = Instant::now();
        self.runtime.block_on(async {
            let mut workers = JoinSet::new();
            for _ in 0..self.concurrency {
                let (next, objects) = (Arc::clone(&next), objects.clone());
                let store = Arc::clone(&self.store);
                workers.spawn(async move {
                    while let Some((key, body)) =
                        objects.0.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        request(Arc::clone(&store), key.clone(), body.clone()).await?;
                    }
                    anyhow::Ok(())
                });
            }
            while let Some(ended) = workers.join_next().await {
                ended??;
            }
            anyhow::Ok(())
        })?;
        Ok(began.elapsed())
    }
}
