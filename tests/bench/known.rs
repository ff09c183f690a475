//! `bench known`: how fast references to chunks that a session knows are appended.
//!
//! A first backup brings a set of small chunks into an S3 datastore over a slow way. Then, in each round, one session in the same
//! group downloads that backup's index (`GET previous`), whose chunks it knows from then on, and appends references to them, over
//! and over, in requests of 128, each sent when the one before was answered. The clock and the S3 server's counters
//! cover the appends only: creating, closing and finishing are outside. No request may reach the S3 server meanwhile.
//!
//! `references-per-second` is by the clock; `references-per-cpu-second` by the processor time of the daemon's process, which is
//! what one core would do.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use holdfast_tests::connection::{Entrance, Session};
use holdfast_tests::measure::arguments::CommonArgs;
use holdfast_tests::measure::report::{Report, median};
use holdfast_tests::measure::site::{STORE, Site};
use holdfast_tests::process::say;
use http::Method;
use pbs_datastore::{ArchiveKind, Digest, Index};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::load::{
    APPEND_MAX, ARCHIVE, Archive, Backup, Clients, Figure, Run, Shape, backups, figure, open_backup,
};
use super::uploads::WayArgs;

/// What one session and one core have to do.
const PER_SECOND_MIN: f64 = 50_000.0;

/// References to known chunks, over one session.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct KnownArgs {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    way: WayArgs,
    #[command(flatten)]
    load: KnownLoad,
}

/// How many of what.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct KnownLoad {
    /// Chunks of the first backup.
    #[arg(long, default_value_t = 16_384, value_name = "COUNT")]
    pub(crate) chunks: u64,
    /// Bytes of each.
    #[arg(long, default_value_t = 1024, value_name = "BYTES")]
    pub(crate) chunk_bytes: u64,
    /// References to append in each round.
    #[arg(long, default_value_t = 1_000_000, value_name = "COUNT")]
    pub(crate) references: u64,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: u64,
}

/// What one round gave.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    run: Run,
    /// Requests to the S3 server while references were appended.
    requests: u64,
}

impl KnownArgs {
    /// Measures and prints.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        self.common.begin()?;
        Ok(measure(&self.way, &self.load, self.common.seed)?.print())
    }
}

/// Measures with a daemon of its own.
pub(crate) fn measure(way: &WayArgs, load: &KnownLoad, seed: u64) -> Result<Report> {
    let site = way.site()?;
    let entrance = site.daemon().entrance()?;
    let clients = Clients::new(64)?;
    let shape = Shape {
        chunk_bytes: load.chunk_bytes.max(1) as usize,
        compressible: false,
    };
    let bytes = load.chunks.max(1) * load.chunk_bytes.max(1);
    let made = backups(shape, seed, 0, 1, bytes)?;
    clients.back_up(&entrance, STORE, &made)?;
    let first = made.into_iter().next().context("one backup")?;
    let mut rounds = Vec::new();
    for number in 0..load.rounds.max(1) {
        let backup = first.later(number + 1);
        let round = round(&site, &clients, &entrance, &backup, load.references)
            .with_context(|| format!("round {}", number + 1))?;
        say(&format!(
            "round {}: {:.2} s, processor time {:.2} s, {} S3 requests",
            number + 1,
            round.run.seconds,
            round.run.cpu_seconds,
            round.requests
        ));
        rounds.push(round);
    }
    let mut report = report(load, &rounds);
    way.tell(&mut report);
    Ok(report)
}

fn round(
    site: &Site,
    clients: &Clients,
    entrance: &Entrance,
    backup: &Backup,
    references: u64,
) -> Result<Round> {
    let session = clients.run(open_backup(entrance, STORE, backup))?;
    let known = clients.run(previous(&session, backup))?;
    let mut archive = clients.run(Archive::create(&session))?;
    let all = known.iter().copied().cycle().take(references as usize);
    let all: Vec<_> = all.collect();
    let before = requests(site)?;
    let run = Run::watch(site.daemon_pid()?, || {
        clients.run(async {
            let began = Instant::now();
            for some in all.chunks(APPEND_MAX) {
                archive.append(some).await?;
            }
            Ok(began.elapsed())
        })
    })?;
    let requests = requests(site)? - before;
    clients.run(archive.finish(backup.snapshot()?))?;
    Ok(Round { run, requests })
}

/// Digests and sizes of the last backup's archive, which the session knows from now on.
async fn previous(session: &Session, backup: &Backup) -> Result<Vec<(Digest, u64)>> {
    let parameters = [("archive-name", ARCHIVE.to_owned())];
    let index = session.ask(Method::GET, "previous", &parameters, Bytes::new());
    let index = Index::parse(ArchiveKind::Dynamic, index.await?)?;
    let known: Vec<_> = index
        .chunks()
        .map(|chunk| (chunk.digest, chunk.len()))
        .collect();
    let chunks = &backup.chunks;
    ensure!(
        known.len() >= chunks.len() && known[0].0 == chunks[0].digest,
        "the previous index has {} chunks",
        known.len()
    );
    Ok(known)
}

/// All requests that the S3 server has counted.
fn requests(site: &Site) -> Result<u64> {
    let counters = site.s3().counters()?;
    Ok(sum(&counters))
}

fn sum(counters: &Value) -> u64 {
    let all = counters.as_object().into_iter().flatten();
    all.filter_map(|(_, count)| count["requests"].as_u64())
        .sum()
}

fn report(load: &KnownLoad, rounds: &[Round]) -> Report {
    let mut report = Report::new("known");
    report.detail("rounds", rounds.len());
    report.detail("chunks", load.chunks);
    report.detail("references-per-round", load.references);
    let seconds: [Figure<Round>; 2] = [
        figure("references-per-second", "references per second", |round| {
            round.run.seconds
        }),
        figure(
            "references-per-cpu-second",
            "references per second of the daemon's processor time",
            |round| round.run.cpu_seconds,
        ),
    ];
    for Figure { key, what, of } in seconds {
        let each = rounds.iter().map(of);
        let each: Vec<_> = each
            .map(|seconds| load.references as f64 / seconds)
            .collect();
        let rate = median(&each);
        report.detail(&format!("each-{key}"), json!(each));
        report.check(
            key,
            rate,
            what,
            format!("{rate:.0}"),
            &format!("≥ {PER_SECOND_MIN:.0}"),
            rate >= PER_SECOND_MIN,
        );
    }
    let requests = rounds.iter().map(|round| round.requests).sum();
    report.none("s3-requests", requests, "S3 requests while appending");
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_all_operations_count() {
        let counters = json!({
            "PutObject": { "requests": 2, "bytes_in": 6 },
            "GetObject": { "requests": 3 },
        });
        assert_eq!(sum(&counters), 5);
        assert_eq!(sum(&json!({})), 0);
    }
}
