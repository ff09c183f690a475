//! Steps 1, 2 and 4 of a datastore's start: what differs between a bucket and a directory.

use std::path::PathBuf;
use std::sync::Arc;

use super::{BucketAccess, OpenOptions};
use crate::cache::Cache;
use crate::cache::fill::Fills;
use crate::chunk_store::guard::ChunkTable;
use crate::chunk_store::marker::Markers;
use crate::contents::Contents;
use crate::files::Files;
use crate::metrics::CacheMetrics;
use crate::owner::{Owner, OwnerConfig, StartReport};
use crate::{BucketLayout, ChunkReader, DatastoreConfig, Env, Result};

/// The parts that differ between a bucket and a directory.
pub(super) struct Parts {
    pub(super) root: PathBuf,
    pub(super) owner: Arc<Owner>,
    pub(super) report: StartReport,
    pub(super) contents: Contents,
    pub(super) bucket: Option<(BucketAccess, BucketLayout)>,
    pub(super) cache: Option<Arc<Cache>>,
    pub(super) reader: Arc<ChunkReader>,
    pub(super) table: Arc<ChunkTable>,
    pub(super) markers: Markers,
    pub(super) metrics: Arc<CacheMetrics>,
}

pub(super) async fn open_directory(
    env: &Env,
    config: &Arc<DatastoreConfig>,
    root: PathBuf,
    options: &OpenOptions,
) -> Result<Parts> {
    let (owner, report) = Owner::open_directory(env, &root).await?;
    let (table, markers, metrics) = (
        ChunkTable::new(),
        Markers::new(&root),
        Arc::new(CacheMetrics::default()),
    );
    let (prepared, clock) = (markers.clone(), env.clone());
    env.io(move |files: &dyn Files| prepared.prepare(&clock, files))
        .await?;
    let contents = Contents::open_directory(env, &root, config.sync_level);
    let reader = ChunkReader::directory(
        env.clone(),
        markers.clone(),
        options.budget.clone(),
        Arc::clone(&metrics),
        config.read_ahead_bytes_max,
    );
    let owner = Arc::new(owner);
    Ok(Parts {
        root,
        owner,
        report,
        contents,
        bucket: None,
        cache: None,
        reader,
        table,
        markers,
        metrics,
    })
}

pub(super) async fn open_bucket(
    env: &Env,
    config: &Arc<DatastoreConfig>,
    layout: BucketLayout,
    cache_dir: PathBuf,
    cache_bytes_max: u64,
    access: BucketAccess,
    options: &OpenOptions,
) -> Result<Parts> {
    let owner_config = OwnerConfig {
        layout: layout.clone(),
        cache_dir: cache_dir.clone(),
        hostname: options.hostname.clone(),
        installation: options.installation.clone(),
        capabilities: access.capabilities,
        take_over: options.take_over,
        previous_owner_is_dead: options.previous_owner_is_dead,
        late_request_max: config.late_request_max,
        signature_window: access.signature_window,
    };
    let (owner, report) = Owner::open_bucket(env, Arc::clone(&access.store), owner_config).await?;
    let (table, markers, metrics) = (
        ChunkTable::new(),
        Markers::new(&cache_dir),
        Arc::new(CacheMetrics::default()),
    );
    if !report.markers_trusted {
        let dropped = markers.clone();
        env.io(move |files: &dyn Files| dropped.drop_all(files))
            .await?;
        owner.markers_dropped().await?;
    }
    let cache = Cache::open(
        env.clone(),
        markers.clone(),
        Arc::clone(&table),
        cache_bytes_max,
        Arc::clone(&metrics),
    )
    .await?;
    let fills = Fills::new(
        env.clone(),
        Arc::clone(&access.store),
        layout.clone(),
        Arc::clone(&table),
        Arc::clone(&cache),
        options.budget.clone(),
        Arc::clone(&metrics),
    );
    if let Some(until) = report.not_before {
        fills.set_inserting(false);
        let fills = fills.clone();
        env.spawn(async move {
            tokio::time::sleep_until(until).await;
            fills.set_inserting(true);
        });
    }
    let reader = ChunkReader::bucket(
        env.clone(),
        markers.clone(),
        Arc::clone(&table),
        fills,
        options.budget.clone(),
        Arc::clone(&metrics),
        config.read_ahead_bytes_max,
    );
    let contents = Contents::open_bucket(
        env,
        Arc::clone(&access.store),
        layout.clone(),
        access.capabilities,
        &cache_dir,
    )
    .await?;
    let (owner, bucket, cache) = (Arc::new(owner), Some((access, layout)), Some(cache));
    Ok(Parts {
        root: cache_dir,
        owner,
        report,
        contents,
        bucket,
        cache,
        reader,
        table,
        markers,
        metrics,
    })
}
