//! `figures endurance`: a large backup while garbage is collected without a pause and another client comes and goes.
//!
//! 1. *Garbage*: a second client backs an image up and forgets it. Its chunks lie there, unused, until they are older
//!    than the margin that collections keep while backups run (5 minutes). The image and the tree are made meanwhile.
//! 2. *Main*: the backup of image and tree begins; its session is now the oldest one. Then the second client begins to
//!    back up that same old image, and, in the middle of that, collections with a cutoff of 0 begin, one after the other:
//!    what they condemn is what the second client is about to upload. From then on it forgets, changes its image and
//!    backs up again until the end.
//! 3. *Restores*: image and tree, while everything else goes on, compared byte for byte and with all metadata.
//!
//! The images of the second client are large and nearly empty: many chunks, few bytes, so that collections have much to
//! do. The proxy before the S3 server delays each request, so that a chunk stays condemned for a while.

use std::process::{ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::arguments::CommonArgs;
use super::noise::{Image, Sparse};
use super::proxy::OpenRequest;
use super::report::{Report, mib};
use super::site::{STORE, Site, SiteOptions};
use super::tree;
use super::usage::{Memory, Sampler, Samples};
use crate::process::{Guarded, run, say, wait_for};

const PIECE_BYTES: usize = 4 << 20;
/// Bound on one backup or restore.
const STEP_TIME_MAX: Duration = Duration::from_mins(30);
/// How long garbage has to lie before the main backup begins: the margin beside open sessions, and a little.
const GARBAGE_AGE: Duration = Duration::from_secs(315);
/// How often the size of the cache is looked at, with the daemon stopped for that moment.
const SAMPLE_PAUSE: Duration = Duration::from_millis(500);
/// The daemon's memory, all of it.
const MEMORY_BYTES_MAX: u64 = 400 << 20;
const COLLECTIONS_MIN: u64 = 10;
/// Groups of the two clients.
const MAIN: &str = "main";
const OTHER: &str = "other";

fn group() -> String {
    format!("host/{OTHER}")
}

/// A backup of an image and a tree while garbage is collected and another client backs up and forgets.
#[derive(Clone, Debug, clap::Args)]
pub struct EnduranceArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Pieces of 4 MiB of the image; 512 are 2 GiB.
    #[arg(long, default_value_t = 512)]
    pieces: u64,
    /// Files of the tree.
    #[arg(long, default_value_t = 50_000)]
    files: u64,
    /// Chunks of the second client's image.
    #[arg(long, default_value_t = 1500)]
    other_pieces: u64,
    /// Bound of the cache in MiB.
    #[arg(long, default_value_t = 512)]
    cache_mib: u64,
    /// Added to every S3 request.
    #[arg(long, default_value_t = 100, value_name = "MS")]
    delay_ms: u64,
    /// How long the garbage has to lie before the main backup begins, in seconds.
    #[arg(long, default_value_t = GARBAGE_AGE.as_secs(), value_name = "SECONDS")]
    garbage_age: u64,
}

/// What collections came to.
#[derive(Clone, Debug, Default)]
struct Collections {
    runs: u64,
    during_main: u64,
    removed: u64,
    removed_during_main: u64,
    missing: u64,
    faults: Vec<String>,
}

/// What the second client came to.
#[derive(Clone, Debug, Default)]
struct Other {
    backups: u64,
    forgotten: u64,
    faults: Vec<String>,
}

/// What the threads share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    main_runs: AtomicBool,
    collections: Mutex<Collections>,
    other: Mutex<Other>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the main client came to.
#[derive(Clone, Debug, Default)]
struct Main {
    backup: Duration,
    image: Duration,
    tree: Duration,
    entries: u64,
    size: tree::TreeSize,
    /// The daemon's `VmHWM` after the backup.
    peak: u64,
}

impl EnduranceArgs {
    /// Measures and prints.
    pub fn run(&self) -> Result<ExitCode> {
        self.common.begin()?;
        let site = Site::start(&SiteOptions {
            delay: Duration::from_millis(self.delay_ms),
            bytes_per_second: None,
            cache_bytes_max: &format!("{} MiB", self.cache_mib),
            server: &[],
            store: &[
                "--gc-atime-cutoff-minutes",
                "0",
                "--late-request-max-seconds",
                "10",
            ],
        })?;
        let sampler = Sampler::start(site.cached_dirs(), Some(site.daemon_pid()?), SAMPLE_PAUSE);
        let shared = Shared::default();
        let main = thread::scope(|scope| {
            // Whatever happens here ends the threads.
            let result = self.measure(scope, &site, &shared);
            shared.stop.store(true, Ordering::Release);
            result
        })?;
        let samples = sampler.stop();
        let memory = Memory::of(site.daemon_pid()?)?;
        let cache = site.cache_counters()?;
        let report = self.report(&main, &shared, &samples, memory, &cache);
        Ok(report.print())
    }

    fn measure<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        site: &'scope Site,
        shared: &'scope Shared,
    ) -> Result<Main> {
        let dir = site.daemon().dir();
        self.other_backup(site, 0)?;
        site.forget_group(&group())?;
        let lies = Instant::now();
        say("the garbage lies; making image and tree");
        let mut main = Main::default();
        let image = self.image();
        image.write(&dir.join("image"))?;
        main.size = tree::make(&dir.join("tree"), self.common.seed, self.files)?;
        let age = Duration::from_secs(self.garbage_age);
        while let Some(left) = age.checked_sub(lies.elapsed()) {
            say(&format!(
                "waiting {} s for the garbage to age",
                left.as_secs()
            ));
            thread::sleep(left.min(Duration::from_mins(1)));
        }
        say("main backup");
        let began = Instant::now();
        shared.main_runs.store(true, Ordering::Release);
        let mut backup = begin_backup(site)?;
        wait_for_session(site, &mut backup)?;
        scope.spawn(|| self.be_other(site, shared));
        wait_for_other(site)?;
        scope.spawn(|| collect_until_stopped(site, shared));
        let status = backup.wait(STEP_TIME_MAX);
        shared.main_runs.store(false, Ordering::Release);
        ensure!(
            status.is_some_and(|status| status.success()),
            "the main backup failed: {status:?}\n{}",
            site.daemon().log_tail()
        );
        main.backup = began.elapsed();
        main.peak = Memory::of(site.daemon_pid()?)?.peak;
        say("restores");
        main.image = site.restore_image("host/main", &image, STEP_TIME_MAX)?;
        let began = Instant::now();
        let restored = dir.join("restored");
        let restored_text = restored
            .to_str()
            .context("a temporary directory in UTF-8")?;
        site.daemon()
            .client(STORE, &["restore", "host/main", "tree.tar", restored_text])?
            .success()?;
        main.tree = began.elapsed();
        main.entries = tree::compare(&dir.join("tree"), &restored)
            .context("the restored tree is not the one that was backed up")?;
        let enough = wait_for(STEP_TIME_MAX, || {
            (lock(&shared.collections).runs >= COLLECTIONS_MIN).then_some(())
        });
        enough.context("too few collections")?;
        Ok(main)
    }

    fn image(&self) -> Image {
        Image {
            seed: self.common.seed,
            pieces: self.pieces,
            piece_bytes: PIECE_BYTES,
        }
    }

    /// Backs up number `number` of the second client's images.
    fn other_backup(&self, site: &Site, number: u64) -> Result<()> {
        let path = site.daemon().dir().join(format!("other-{number}"));
        let image = Sparse {
            seed: self.common.seed ^ (number << 40),
            pieces: self.other_pieces,
            piece_bytes: PIECE_BYTES,
        };
        image.write(&path)?;
        let source = format!("disk.img:{}", path.display());
        let arguments = ["backup", &source, "--backup-id", OTHER];
        let mut command = site.daemon().client_command(STORE, &arguments)?;
        let output = run(&mut command, b"", STEP_TIME_MAX)?;
        std::fs::remove_file(&path)?;
        output.success()?;
        Ok(())
    }

    /// The second client: the old image again, then others in turn, each forgotten.
    fn be_other(&self, site: &Site, shared: &Shared) {
        let mut number = 0;
        while !shared.stop.load(Ordering::Acquire) {
            let done = self
                .other_backup(site, number % 3)
                .and_then(|()| site.forget_group(&group()));
            let mut other = lock(&shared.other);
            match done {
                Ok(forgotten) => {
                    other.backups += 1;
                    other.forgotten += forgotten;
                }
                Err(error) => {
                    other.faults.push(format!("{error:#}"));
                    return;
                }
            }
            number += 1;
        }
    }

    fn report(
        &self,
        main: &Main,
        shared: &Shared,
        samples: &Samples,
        memory: Memory,
        cache: &Value,
    ) -> Report {
        let mut report = Report::new("endurance");
        let image = self.image().bytes();
        report.note("image-bytes", image, "image", mib(image));
        let size = main.size;
        report.check(
            "files",
            size.files,
            "files of the tree",
            size.files.to_string(),
            &format!("≥ {}", self.files),
            size.files >= self.files,
        );
        report.detail("tree", tree_json(size));
        for (key, what, time) in [
            ("backup-seconds", "backup of both", main.backup),
            (
                "restore-image-seconds",
                "restore of the image, equal",
                main.image,
            ),
            (
                "restore-tree-seconds",
                "restore of the tree, equal",
                main.tree,
            ),
        ] {
            let seconds = time.as_secs_f64();
            report.note(key, seconds, what, format!("{seconds:.1} s"));
        }
        let entries = main.entries;
        report.at_least(
            "entries",
            entries,
            "entries compared, metadata too",
            size.files,
        );
        let collections = lock(&shared.collections).clone();
        let other = lock(&shared.other).clone();
        report.at_least(
            "collections",
            collections.runs,
            "garbage collections",
            COLLECTIONS_MIN,
        );
        let during = collections.during_main;
        let what = "of these during the main backup";
        report.note(
            "collections-during-backup",
            during,
            what,
            during.to_string(),
        );
        report.at_least("removed-chunks", collections.removed, "chunks removed", 1);
        let during = collections.removed_during_main;
        report.note("removed-during-backup", during, what, during.to_string());
        report.none("missing-chunks", collections.missing, "chunks missing");
        let count = |name: &str| cache[name].as_u64().unwrap_or(0);
        let what = "inserts that waited on a condemned digest";
        report.at_least("condemned-waits", count("condemned-waits"), what, 1);
        report.at_least("evictions", count("evictions"), "evictions", 1);
        let what = "backups of the other client";
        report.at_least("other-backups", other.backups, what, 1);
        report.at_least("other-forgotten", other.forgotten, "snapshots it forgot", 1);
        let faults = [collections.faults, other.faults].concat();
        report.none("faults", faults.len() as u64, "commands that failed");
        report.detail("fault-texts", faults);
        report.bytes_at_most(
            "peak",
            memory.peak,
            "VmHWM of the daemon",
            MEMORY_BYTES_MAX - 1,
        );
        let what = "cache, largest of the samples";
        report.bytes_at_most(
            "cache-bytes",
            samples.content_max,
            what,
            self.cache_mib << 20,
        );
        report.detail("cache-samples", samples.count);
        if let Some(fault) = &samples.fault {
            report.check(
                "cache-fault",
                fault.clone(),
                "cache",
                fault.clone(),
                "",
                false,
            );
        }
        report.detail("cache", cache.clone());
        report
    }
}

fn tree_json(size: tree::TreeSize) -> Value {
    json!({
        "files": size.files,
        "bytes": size.bytes,
        "directories": size.dirs,
        "hard-links": size.hard_links,
        "symbolic-links": size.symlinks,
        "with-attributes": size.with_attributes,
    })
}

fn begin_backup(site: &Site) -> Result<Guarded> {
    let dir = site.daemon().dir();
    let image = format!("disk.img:{}", dir.join("image").display());
    let tree = format!("tree.tar:{}", dir.join("tree").display());
    let arguments = ["backup", &image, &tree, "--backup-id", MAIN];
    let mut command = site.daemon().client_command(STORE, &arguments)?;
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Guarded::spawn(&mut command)
}

/// Until the main backup uploads chunks.
fn wait_for_session(site: &Site, backup: &mut Guarded) -> Result<()> {
    let chunk_put = || site.proxy().open().values().any(OpenRequest::is_chunk_put);
    let begun = wait_for(STEP_TIME_MAX, || {
        if let Some(status) = backup.ended() {
            return Some(Err(status));
        }
        chunk_put().then_some(Ok(()))
    });
    match begun {
        Some(Ok(())) => Ok(()),
        Some(Err(status)) => bail!("the main backup ended early with {status}"),
        None => bail!("the main backup sent nothing"),
    }
}

/// Until the backup of the second client is among the running tasks, beside that of the main one.
fn wait_for_other(site: &Site) -> Result<()> {
    let running = || -> Result<usize> {
        let listed = site
            .daemon()
            .client_json(STORE, &["task", "list", "--running"])?;
        Ok(listed.as_array().map_or(0, Vec::len))
    };
    let both = wait_for(STEP_TIME_MAX, || match running() {
        Ok(count) => (count >= 2).then_some(Ok(())),
        Err(error) => Some(Err(error)),
    });
    both.context("the second client's backup was not seen")?
}

fn collect_until_stopped(site: &Site, shared: &Shared) {
    while !shared.stop.load(Ordering::Acquire) {
        let during_main = shared.main_runs.load(Ordering::Acquire);
        let status = site.collect_garbage();
        let during_main = during_main && shared.main_runs.load(Ordering::Acquire);
        let mut sums = lock(&shared.collections);
        let status = match status {
            Ok(status) => status,
            Err(error) => {
                sums.faults.push(format!("{error:#}"));
                return;
            }
        };
        let count = |name: &str| status[name].as_u64().unwrap_or(0);
        sums.runs += 1;
        sums.removed += count("removed-chunks");
        sums.missing += count("missing-chunks");
        if during_main {
            sums.during_main += 1;
            sums.removed_during_main += count("removed-chunks");
        }
    }
}
