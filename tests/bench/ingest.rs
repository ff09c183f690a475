//! `bench ingest`: new chunks into a datastore in a directory, beside what bounds them.
//!
//! Each round has new content, made before the clock starts. In turn:
//! 1. *SHA-256* of the contents by one core, and by themselves too: CRC-32, unpacking (with `--compressible`), and *disk*: the
//!    chunks as files next to the datastore, written as it does at its default sync level (`filesystem`): temporary file,
//!    rename, one `syncfs` at the end. In every second round it comes after the daemon's turn, and nothing is removed in
//!    between, so that both write to new places of the disk.
//! 2. *sink*: the same requests to a bare hyper server with TLS and HTTP/2, in a process of its own, that drops the bodies.
//! 3. *daemon*: backups of these chunks, one session each, from the creation of the index to the answer to `finish`, which comes
//!    after the `syncfs`.
//! 4. *known*: the same chunks again in other groups, by clients that do not know that the daemon has them.
//!
//! `ratio` is the time of the slowest of SHA-256, disk and sink by that of the daemon. `cpu-ratio` is the processor time of the
//! parts (the sink's process, and SHA-256, CRC-32, unpacking and writing each by itself) by that of the daemon's process.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use holdfast_tests::connection::Entrance;
use holdfast_tests::daemon::Daemon;
use holdfast_tests::measure::arguments::CommonArgs;
use holdfast_tests::measure::report::{Report, median};
use holdfast_tests::measure::site::STORE;
use holdfast_tests::measure::usage::Memory;
use holdfast_tests::process::say;
use serde_json::json;

use super::ceilings::Ceilings;
use super::load::{Backup, Clients, Figure, GIB, LoadArgs, Run, figure, plain_bytes, remove};
use super::sink::Sink;

/// What one session has to reach of the slowest ceiling.
const RATIO_MIN: f64 = 0.85;
/// How much more processor time than the parts the daemon may take.
const CPU_MAX: f64 = 1.3;

/// New chunks into a datastore in a directory, beside SHA-256, the disk and a bare HTTP/2 server.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct IngestArgs {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// Backups at once.
    #[arg(long, default_value_t = 1)]
    sessions: u64,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: u64,
}

/// What one round gave.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    bytes: u64,
    parts: Ceilings,
    sink: Run,
    daemon: Run,
    known: Run,
}

impl Round {
    /// Seconds of the slowest ceiling.
    fn slowest(&self) -> f64 {
        let Ceilings { sha256, disk, .. } = &self.parts;
        self.sink.seconds.max(sha256.seconds).max(disk.seconds)
    }

    /// Processor time of all parts.
    fn parts_cpu(&self) -> f64 {
        let Ceilings {
            sha256,
            crc32,
            decode,
            disk,
        } = &self.parts;
        let alone = [sha256, crc32, decode, disk].map(|cost| cost.cpu_seconds);
        self.sink.cpu_seconds + alone.iter().sum::<f64>()
    }
}

const SPEEDS: [Figure<Round>; 5] = [
    figure("sha256", "SHA-256 of one core", |round| {
        round.parts.sha256.seconds
    }),
    figure("disk", "disk, files and syncfs", |round| {
        round.parts.disk.seconds
    }),
    figure("sink", "TLS and HTTP/2 sink", |round| round.sink.seconds),
    figure("daemon", "daemon, new chunks", |round| round.daemon.seconds),
    figure("known", "daemon, known chunks sent again", |round| {
        round.known.seconds
    }),
];

const COSTS: [Figure<Round>; 7] = [
    figure("daemon", "daemon", |round| round.daemon.cpu_seconds),
    figure("sink", "sink", |round| round.sink.cpu_seconds),
    figure("sha256", "SHA-256", |round| round.parts.sha256.cpu_seconds),
    figure("crc32", "CRC-32", |round| round.parts.crc32.cpu_seconds),
    figure("decode", "unpacking", |round| {
        round.parts.decode.cpu_seconds
    }),
    figure("write", "writing", |round| round.parts.disk.cpu_seconds),
    figure("known", "daemon, known chunks", |round| {
        round.known.cpu_seconds
    }),
];

impl IngestArgs {
    /// Measures and prints.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        self.common.begin()?;
        let site = Setup::start(&self.load)?;
        let mut rounds = Vec::new();
        for number in 0..self.rounds.max(1) {
            let made = self.load.backups(self.common.seed, number, self.sessions)?;
            let round = site.round(&made, number % 2 == 1)?;
            say(&format!(
                "round {}: SHA-256 {:.2} s, disk {:.2} s, sink {:.2} s, daemon {:.2} s",
                number + 1,
                round.parts.sha256.seconds,
                round.parts.disk.seconds,
                round.sink.seconds,
                round.daemon.seconds
            ));
            rounds.push(round);
        }
        let memory = Memory::of(site.pid()?)?.peak;
        Ok(self.report(&rounds, memory).print())
    }

    fn report(&self, rounds: &[Round], memory: u64) -> Report {
        let bytes = rounds.first().map_or(0, |round| round.bytes) as f64;
        let each = |of: fn(&Round) -> f64| rounds.iter().map(of).collect::<Vec<_>>();
        let mut report = Report::new("ingest");
        report.detail("rounds", rounds.len());
        report.detail("sessions", self.sessions);
        self.load.tell(&mut report);
        report.detail("bytes-per-round", bytes as u64);
        for Figure { key, what, of } in SPEEDS {
            let seconds = each(of);
            let speed = bytes / median(&seconds) / 1e6;
            report.detail(&format!("{key}-seconds"), json!(seconds));
            let shown = format!("{speed:.1} MB/s");
            report.note(&format!("{key}-mb-per-second"), speed, what, shown);
        }
        let ratios = each(|round| round.slowest() / round.daemon.seconds);
        report.detail("each-ratio", json!(ratios));
        let (ratio, words) = (median(&ratios), "daemon / slowest ceiling");
        if self.sessions == 1 {
            report.ratio("ratio", ratio, words, RATIO_MIN);
        } else {
            report.plain_ratio("ratio", ratio, words);
        }
        for Figure { key, what, of } in COSTS {
            let cost = median(&each(of)) / bytes * GIB;
            let (key, what) = (
                format!("{key}-cpu-seconds-per-gib"),
                format!("processor time, {what}"),
            );
            report.note(&key, cost, &what, format!("{cost:.3} s/GiB"));
        }
        let factor = median(&each(|round| round.daemon.cpu_seconds / round.parts_cpu()));
        report.check(
            "cpu-factor",
            factor,
            "processor time, daemon / its parts",
            format!("{factor:.3}"),
            &format!("≤ {CPU_MAX:.2}"),
            factor <= CPU_MAX,
        );
        report.plain_ratio("cpu-ratio", 1.0 / factor, "its parts / daemon");
        report.bytes_at_most("vm-hwm", memory, "daemon's peak memory", 512 << 20);
        report
    }
}

/// Daemon, sink and clients.
struct Setup {
    sink: Sink,
    clients: Clients,
    sink_entrance: Entrance,
    entrance: Entrance,
    daemon: Daemon,
}

impl Setup {
    fn start(load: &LoadArgs) -> Result<Self> {
        let daemon = Daemon::set_up(&[])?;
        daemon.start()?;
        daemon.add_directory_store(STORE, &["--gc-atime-cutoff-minutes", "0"])?;
        let sink = Sink::start(&daemon)?;
        let entrance = daemon.entrance()?;
        Ok(Self {
            clients: Clients::new(load.in_flight)?,
            sink_entrance: Entrance {
                address: sink.address(),
                ..entrance.clone()
            },
            entrance,
            sink,
            daemon,
        })
    }

    fn pid(&self) -> Result<u32> {
        self.daemon.pid().context("the daemon does not run")
    }

    fn round(&self, made: &[Backup], daemon_first: bool) -> Result<Round> {
        let dir = self.daemon.dir().join("ceiling");
        let mut round = Round {
            bytes: plain_bytes(made),
            ..Round::default()
        };
        let again: Vec<_> = made.iter().map(|backup| backup.renamed("known-")).collect();
        if daemon_first {
            self.daemons_turn(made, &again, &mut round)?;
        }
        round.parts = Ceilings::measure(made, &dir)?;
        round.sink = Run::watch(self.sink.pid(), || {
            self.clients.sink(&self.sink_entrance, made)
        })?;
        if !daemon_first {
            self.daemons_turn(made, &again, &mut round)?;
        }
        std::fs::remove_dir_all(&dir)?;
        remove(&self.daemon, STORE, &[made, &again].concat())?;
        Ok(round)
    }

    fn daemons_turn(&self, made: &[Backup], again: &[Backup], round: &mut Round) -> Result<()> {
        let pid = self.pid()?;
        let send = |backups: &[Backup]| {
            Run::watch(pid, || self.clients.back_up(&self.entrance, STORE, backups))
        };
        round.daemon = send(made)?;
        round.known = send(again)?;
        Ok(())
    }
}
