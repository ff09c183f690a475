//! What a quick start shows, step by step, through the TLS socket and with the code of `holdfast backup` and `restore`:
//!
//! 1. back up the original;
//! 2. restore it: the copy, which is compared with the original and then changed;
//! 3. back up the copy;
//! 4. back up the copy and a file of new data while garbage is collected, again and again until the backup has ended;
//! 5. start the daemon anew without its cache;
//! 6. restore all three and compare: the first with the original, the others with the copy.
//!
//! The original is only read.

use std::cell::Cell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use pbs_datastore::{BackupGroup, BackupTime, BackupType, Env, Namespace, Snapshot};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::change::{change_tree, write_noise};
use super::daemon::{LATE_REQUEST_MAX, Programs};
use super::home::{Home, remove_tree};
use super::requests::{RequestCounter, Requests};
use super::table::Row;
use super::tree::{Comparison, compare, first_different_byte};
use crate::client::backup::{self, BackupOptions, BackupSummary};
use crate::client::key::Protection;
use crate::client::progress::Progress;
use crate::client::repository::Access;
use crate::client::restore::{self, RestoreOptions, RestoreTarget};
use crate::client::session::Session;
use crate::client::snapshot::SnapshotChoice;
use crate::client::source::Source;
use crate::client::tar::{ArchiveOptions, Excludes};

/// Id of the group that the backups belong to.
const BACKUP_ID: &str = "quickstart";
/// The archive of a tree, and that of new data.
const TREE: &str = "tree.tar";
const NOISE: &str = "new-data.img";
/// Size of the new data: four chunks of an image.
const NOISE_BYTES: u64 = 16 << 20;
/// How long one collection may take, and the pause between two looks at it.
const COLLECTION_MAX: Duration = Duration::from_mins(15);
const COLLECTION_POLL: Duration = Duration::from_millis(100);
/// The pause before a refused collection is tried again.
const COLLECTION_PAUSE: Duration = Duration::from_secs(1);
/// The pause between two looks at the clock.
const SECOND_POLL: Duration = Duration::from_millis(20);

/// The steps, and what they need.
pub(super) struct Course<'a> {
    pub(super) home: &'a Home,
    pub(super) programs: &'a mut Programs,
    /// The daemon's datastore.
    pub(super) access: Access,
    /// What is backed up; no link.
    pub(super) original: &'a Path,
    /// What of it is left out.
    pub(super) excludes: Excludes,
    pub(super) counter: RequestCounter,
    pub(super) env: Env,
    pub(super) progress: Arc<Progress>,
    /// The latest second, since 1970, that snapshots must not have: that of the daemon's start, and of the last one.
    pub(super) last_second: i64,
    /// The steps so far.
    pub(super) rows: Vec<Row>,
    /// All comparisons so far, together.
    pub(super) comparison: Comparison,
}

/// How it went.
pub(super) struct Outcome {
    /// One row for each step.
    pub(super) rows: Vec<Row>,
    /// All comparisons together.
    pub(super) comparison: Comparison,
    /// Collections that ran beside the third backup.
    pub(super) collections: u64,
    /// What the last of them found.
    pub(super) collected: Value,
    /// Requests of all steps.
    pub(super) requests: Requests,
    /// The first backup, for the example.
    pub(super) snapshot: String,
}

impl Course<'_> {
    /// All steps.
    ///
    /// # Errors
    /// A step failed. Differences are no error here.
    pub(super) async fn run(mut self) -> anyhow::Result<Outcome> {
        let copy = self.home.work("copy");
        let noise = self.home.work(NOISE);
        // What the start asked belongs to no step.
        self.counter.next().await?;
        let (original, excludes) = (self.original, self.excludes.clone());
        let first = self.back_up("first backup", vec![tree(original)?]).await?;
        self.restore("restored from the cache, as a copy", &first, TREE, &copy)
            .await?;
        self.compare(original, &copy, excludes.clone()).await?;
        self.change(&copy, &noise).await?;
        let second = self
            .back_up("second backup, of the copy, changed", vec![tree(&copy)?])
            .await?;
        let sources = vec![tree(&copy)?, image(&noise)?];
        let (third, collections, collected) = self.back_up_while_collecting(sources).await?;

        self.restart_without_cache().await?;
        let none = Excludes::default();
        let trees = [
            ("first backup restored", &first, original, excludes),
            (
                "second backup restored",
                &second,
                copy.as_path(),
                none.clone(),
            ),
            ("third backup restored", &third, copy.as_path(), none),
        ];
        for (step, snapshot, original, excludes) in trees {
            let target = self.home.work("restored");
            self.restore(step, snapshot, TREE, &target).await?;
            self.compare(original, &target, excludes).await?;
            let removed = spawn_blocking(move || remove_tree(&target)).await?;
            removed.context("what was restored cannot be removed")?;
        }
        let target = self.home.work("restored.img");
        self.restore("  its new data restored", &third, NOISE, &target)
            .await?;
        self.comparison.add(compare_files(noise, target).await?);
        Ok(Outcome {
            rows: self.rows,
            comparison: self.comparison,
            collections,
            collected,
            requests: self.counter.all().await?,
            snapshot: first.to_string(),
        })
    }

    async fn restart_without_cache(&mut self) -> anyhow::Result<()> {
        self.progress.note("daemon restarted, its cache removed …");
        let started = Instant::now();
        self.programs
            .restart_without_cache(self.home, &self.access)
            .await?;
        self.rows.push(Row {
            step: "daemon restarted, its cache removed".to_owned(),
            requests: Some(self.counter.next().await?),
            seconds: started.elapsed().as_secs_f64(),
            ..Row::default()
        });
        Ok(())
    }

    /// A snapshot of now. Times of snapshots are whole seconds, and each must be later than the last, so this may wait
    /// for the next second.
    async fn next_snapshot(&mut self) -> anyhow::Result<Snapshot> {
        let mut now = self.env.now();
        while now.as_second() <= self.last_second {
            sleep(SECOND_POLL).await;
            now = self.env.now();
        }
        self.last_second = now.as_second();
        let group = BackupGroup::new(BackupType::Host, BACKUP_ID.parse()?);
        Ok(group.at(BackupTime::new(self.last_second)?))
    }

    async fn back_up(&mut self, step: &str, sources: Vec<Source>) -> anyhow::Result<Snapshot> {
        self.progress.note(&format!("{step} …"));
        let snapshot = self.next_snapshot().await?;
        self.counter.next().await?;
        let summary = self.run_backup(snapshot.clone(), sources).await?;
        self.add_backup(step, &summary).await?;
        Ok(snapshot)
    }

    async fn run_backup(
        &self,
        snapshot: Snapshot,
        sources: Vec<Source>,
    ) -> anyhow::Result<BackupSummary> {
        let options = BackupOptions {
            access: self.access.clone(),
            namespace: Namespace::root(),
            snapshot,
            sources,
            archive: ArchiveOptions {
                excludes: self.excludes.clone(),
                one_file_system: false,
            },
            protection: Protection::none(),
        };
        backup::run(&options, &self.progress).await
    }

    async fn add_backup(&mut self, step: &str, summary: &BackupSummary) -> anyhow::Result<()> {
        let requests = self.counter.next().await?;
        self.rows.push(Row {
            step: step.to_owned(),
            bytes: Some(summary.bytes),
            chunks: Some(summary.chunks),
            new: Some(summary.new),
            duplicates: Some(summary.duplicates),
            requests: Some(requests),
            seconds: summary.seconds,
        });
        Ok(())
    }

    /// The third backup, and collections until it has ended, at least one. Requests of both are counted together.
    async fn back_up_while_collecting(
        &mut self,
        sources: Vec<Source>,
    ) -> anyhow::Result<(Snapshot, u64, Value)> {
        let mut session = Session::open(&self.access).await?;
        self.collect_alone(&mut session).await?;
        self.progress
            .note("third backup, while garbage is collected …");
        let snapshot = self.next_snapshot().await?;
        self.counter.next().await?;
        let running = Cell::new(true);
        let backup = async {
            let summary = self.run_backup(snapshot.clone(), sources).await;
            running.set(false);
            summary
        };
        let collecting = async {
            let started = Instant::now();
            let mut collections = 0;
            loop {
                collect(&mut session).await?;
                collections += 1;
                if !running.get() {
                    return anyhow::Ok((collections, started.elapsed().as_secs_f64()));
                }
            }
        };
        let (summary, collected) = tokio::join!(backup, collecting);
        let (summary, (collections, seconds)) = (summary?, collected?);
        self.add_backup("third backup, with new data", &summary)
            .await?;
        let path = session.datastore("gc");
        let status = session.get(&path, &[]).await?["data"].take();
        self.rows.push(Row {
            step: format!("  beside it: {collections} × garbage collection"),
            bytes: status["index-data-bytes"].as_u64(),
            chunks: status["disk-chunks"].as_u64(),
            seconds,
            ..Row::default()
        });
        Ok((snapshot, collections, status))
    }

    /// A collection with nothing beside it. If an earlier run was killed, collections are refused until requests of
    /// that time cannot matter any more, so this tries again for as long as that may take.
    async fn collect_alone(&self, session: &mut Session) -> anyhow::Result<()> {
        let deadline = Instant::now() + LATE_REQUEST_MAX + Duration::from_secs(5);
        let mut told = false;
        loop {
            match collect(session).await {
                Err(error) if Instant::now() < deadline => {
                    if !told {
                        self.progress.note(&format!("{error:#}; trying again …"));
                        told = true;
                    }
                    sleep(COLLECTION_PAUSE).await;
                }
                result => return result,
            }
        }
    }

    async fn restore(
        &mut self,
        step: &str,
        snapshot: &Snapshot,
        archive: &str,
        target: &Path,
    ) -> anyhow::Result<()> {
        self.progress.note(&format!("{step} …"));
        self.counter.next().await?;
        let options = RestoreOptions {
            access: self.access.clone(),
            namespace: Namespace::root(),
            snapshot: SnapshotChoice::Exact(snapshot.clone()),
            archive: archive.to_owned(),
            target: RestoreTarget::Path(target.to_owned()),
            overwrite: false,
            key: None,
        };
        let summary = restore::run(&options, &self.progress).await?;
        self.rows.push(Row {
            step: step.to_owned(),
            bytes: Some(summary.bytes),
            chunks: Some(summary.chunks),
            requests: Some(self.counter.next().await?),
            seconds: summary.seconds,
            ..Row::default()
        });
        Ok(())
    }

    async fn compare(
        &mut self,
        left: &Path,
        right: &Path,
        excludes: Excludes,
    ) -> anyhow::Result<()> {
        let (left, right) = (left.to_owned(), right.to_owned());
        let compared = spawn_blocking(move || compare(&left, &right, &excludes)).await?;
        self.comparison.add(compared?);
        Ok(())
    }

    async fn change(&self, copy: &Path, noise: &Path) -> anyhow::Result<()> {
        let text = format!("\nChanged by a quick start at {}.\n", self.env.now());
        let (copy, noise) = (copy.to_owned(), noise.to_owned());
        spawn_blocking(move || {
            change_tree(&copy, &text)?;
            write_noise(&noise, NOISE_BYTES)
        })
        .await?
    }
}

fn tree(root: &Path) -> anyhow::Result<Source> {
    Source::directory(TREE, root).map_err(anyhow::Error::msg)
}

fn image(path: &Path) -> anyhow::Result<Source> {
    let mut text = OsString::from(format!("{NOISE}:"));
    text.push(path);
    Source::parse(&text).map_err(anyhow::Error::msg)
}

/// Runs one collection to its end.
async fn collect(session: &mut Session) -> anyhow::Result<()> {
    let path = session.datastore("gc");
    let started = session.post(&path, &json!({})).await?;
    let upid = started
        .as_str()
        .context("the start of a garbage collection was answered without a task id")?;
    let status = format!(
        "/nodes/localhost/tasks/{}/status",
        utf8_percent_encode(upid, NON_ALPHANUMERIC)
    );
    let ended = async {
        loop {
            let task = session.get(&status, &[]).await?["data"].take();
            if task["status"].as_str() != Some("running") {
                return anyhow::Ok(task);
            }
            sleep(COLLECTION_POLL).await;
        }
    };
    let task = timeout(COLLECTION_MAX, ended).await.with_context(|| {
        format!(
            "the garbage collection did not end within {} s",
            COLLECTION_MAX.as_secs()
        )
    })??;
    match task["exitstatus"].as_str() {
        Some("OK") => Ok(()),
        Some(text) => bail!("the garbage collection ended with: {text}"),
        None => bail!("the garbage collection ended without saying how"),
    }
}

/// Compares the contents of two files.
async fn compare_files(left: PathBuf, right: PathBuf) -> anyhow::Result<Comparison> {
    spawn_blocking(move || {
        let open = |path: &Path| {
            std::fs::File::open(path).with_context(|| format!("{} cannot be read", path.display()))
        };
        let (bytes, at) = first_different_byte(open(&left)?, open(&right)?)
            .with_context(|| format!("{} cannot be compared", right.display()))?;
        let described = at.map(|at| format!("{NOISE}: its content differs from byte {at} on"));
        Ok(Comparison {
            compared: 1,
            bytes,
            different: u64::from(described.is_some()),
            described: described.into_iter().collect(),
        })
    })
    .await?
}
