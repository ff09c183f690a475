//! Watches the daemon from outside: that it lives, answers, makes progress, keeps within its memory, and what it logs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_tests::connection::{Connection, Trouble};
use holdfast_tests::measure::site::STORE;
use holdfast_tests::measure::usage::Memory;
use http::Method;
use serde_json::Value;

use super::sentences::{self, Judgement};
use super::tally::Violation;
use super::world::World;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(400);
const GAUGE: Duration = Duration::from_secs(2);
/// No client and no collection has got anywhere for so long: it hangs.
const SILENCE_MAX: Duration = Duration::from_secs(100);
/// All memory of the process: its budget of 64 MiB, the 64 MiB of parsed manifests, the rest beside.
pub(crate) const MEMORY_BYTES_MAX: u64 = 320 << 20;
/// Bytes of the log that are kept, twice.
const LOG_BYTES_MAX: u64 = 64 << 20;
/// Different lines of the log that are counted.
const LINES_MAX: usize = 200;

/// The watch over the daemon.
pub(crate) struct Watch<'a> {
    world: &'a World,
    log: File,
    written: u64,
    warnings: BTreeMap<String, u64>,
}

impl<'a> Watch<'a> {
    /// Keeps the log in `dir`.
    pub(crate) fn new(world: &'a World, dir: &Path) -> Result<Self> {
        let path = dir.join("daemon.log");
        let log = File::create(&path);
        Ok(Self {
            world,
            log: log.with_context(|| format!("cannot write '{}'", path.display()))?,
            written: 0,
            warnings: BTreeMap::new(),
        })
    }

    /// Looks until `over`. Returns the warnings and errors of the log with their numbers.
    pub(crate) fn run(mut self, over: impl Fn() -> bool) -> Result<BTreeMap<String, u64>> {
        loop {
            let last = over();
            self.look()?;
            if last {
                return Ok(self.warnings);
            }
            std::thread::park_timeout(LOOK);
        }
    }

    fn look(&mut self) -> Result<()> {
        let (site, tally) = (&self.world.site, &self.world.tally);
        self.read_log()?;
        // What was killed or stopped on purpose is not known as running any more.
        if let Some(status) = site.daemon.ended() {
            let text = format!("the daemon ended by itself: {status}");
            tally.violation(Violation::Crash, text);
            self.world.stop();
            site.daemon.kill();
        }
        if site.s3_ended() {
            tally.violation(Violation::Run, "the S3 server ended by itself");
            self.world.stop();
        }
        if let Some(memory) = site.daemon.pid().and_then(|pid| Memory::of(pid).ok()) {
            let before = tally.of("memory");
            tally.at_least("memory", memory.peak);
            if memory.peak > MEMORY_BYTES_MAX && before <= MEMORY_BYTES_MAX {
                let text = format!("{} bytes resident", memory.peak);
                tally.violation(Violation::Memory, text);
            }
        }
        if !self.world.is_stopped() && tally.silence() > SILENCE_MAX {
            let text = format!("no success for {} s", SILENCE_MAX.as_secs());
            tally.violation(Violation::Hang, text);
            tally.progress();
        }
        Ok(())
    }

    fn read_log(&mut self) -> Result<()> {
        let text = self.world.site.daemon.take_log();
        self.written += text.len() as u64;
        if self.written > LOG_BYTES_MAX {
            self.log.set_len(0)?;
            self.written = 0;
        }
        self.log.write_all(text.as_bytes())?;
        for line in text.lines() {
            if line.contains("panicked at") {
                self.world.tally.violation(Violation::Crash, line);
            }
            self.count(line);
        }
        Ok(())
    }

    fn count(&mut self, line: &str) {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            return;
        };
        let level = line["level"].as_str().unwrap_or_default();
        if !matches!(level, "ERROR" | "WARN") {
            return;
        }
        let message = line["fields"]["message"].as_str().unwrap_or_default();
        let error = line["fields"]["error"].as_str().unwrap_or_default();
        if level == "ERROR" {
            let violation = match sentences::judge_error(message) {
                Judgement::Expected => None,
                Judgement::Loss => Some(Violation::Loss),
                Judgement::Unknown => Some(Violation::Sentence),
            };
            if let Some(violation) = violation {
                let text = format!("the log, for a human to look at: {line}");
                self.world.tally.violation(violation, text);
            }
        }
        let key = sentences::shape(&format!("{level} {message}: {error}"));
        if self.warnings.len() < LINES_MAX || self.warnings.contains_key(&key) {
            *self.warnings.entry(key).or_default() += 1;
        }
    }
}

/// Reads the counters of the cache now and then. They begin anew with every start, so what happens between the last look
/// and a kill is not in the sums.
pub(crate) async fn gauge(world: Arc<World>) {
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    let mut address = None;
    while !world.is_stopped() {
        world.pause(GAUGE).await;
        let entrance = world.until_stopped(Duration::ZERO, world.entrance());
        let Some(entrance) = entrance.await else {
            return;
        };
        if address.replace(entrance.address) != Some(entrance.address) {
            last.clear();
        }
        let shown = async {
            let mut connection = Connection::open(&entrance).await?;
            let path = format!("config/datastore/{STORE}");
            connection.call(Method::GET, &path, &[]).await
        };
        let shown = world.until_stopped(Duration::from_secs(2), shown).await;
        let Some(Ok::<Value, Trouble>(counters)) = shown else {
            continue;
        };
        for name in ["evictions", "condemned-waits", "hits", "misses"] {
            let now = counters["cache"][name].as_u64().unwrap_or(0);
            let before = last.insert(name, now).unwrap_or(0);
            let what = format!("cache: {name}");
            world.tally.add(&what, now.saturating_sub(before));
        }
    }
}
