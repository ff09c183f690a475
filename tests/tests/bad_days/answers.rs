//! S3 answers with errors, slowly, by halves, or not at all.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_tests::daemon::{COMMAND_TIME_MAX, Daemon};
use holdfast_tests::process::once_settled;
use holdfast_tests::s3_server::{EmbeddedS3, S3Server as _};
use holdfast_tests::wire::Wire;
use s3_client::{Action, Effect, ErrorKind, Fault, Op};

use super::{ENDPOINT, SETTINGS, STORE, backup, collect, comes_back, image, set_up};

const CHUNKS: &str = "/.chunks/";

#[test]
fn errors_slowness_and_lost_answers_are_outlasted() -> Result<()> {
    let (server, daemon) = set_up()?;
    let (image, source) = image(&daemon, 1, 12)?;
    daemon.start()?;
    daemon.explain(|| {
        let plan = server.plan();
        let put = |part: &str| Fault::on(Op::Put).containing(part);
        for (fault, action) in [
            (put(CHUNKS).times(2), Action::Fail(ErrorKind::Throttled)),
            (
                put(CHUNKS).skip(2).times(1),
                Action::FailLate { applied: true },
            ),
            (
                put(CHUNKS).skip(3).times(1),
                Action::FailLate { applied: false },
            ),
            (put(CHUNKS).skip(4).times(1), Action::Lose(Effect::Now)),
            (put(CHUNKS).skip(5).times(1), Action::Lose(Effect::Never)),
            (put(CHUNKS).skip(6).times(1), Action::Conflict),
            (
                put(CHUNKS).skip(7).times(1),
                Action::Delay(Duration::from_millis(700)),
            ),
            (put(".fidx").times(1), Action::Fail(ErrorKind::Unavailable)),
            (put(".fidx").skip(1).times(1), Action::Lose(Effect::Now)),
            (put("index.json.blob").times(1), Action::Lose(Effect::Now)),
        ] {
            plan.add(fault.then(action));
        }
        backup(&daemon, &source, "one")?.success()?;
        let injected: u64 = plan.injected().values().sum();
        ensure!(
            injected >= 10,
            "only {injected} faults: {:?}",
            plan.injected()
        );
        plan.calm();
        comes_back(&daemon, "one", &image)?;

        // The same for listings and deletions.
        let name = only_snapshot(&daemon)?;
        let forget = || daemon.client(STORE, &["snapshot", "forget", &name]);
        once_settled(COMMAND_TIME_MAX, forget)?.success()?;
        plan.add(
            Fault::on(Op::List)
                .times(2)
                .then(Action::Fail(ErrorKind::Unavailable)),
        );
        plan.add(
            Fault::on(Op::Delete)
                .times(1)
                .then(Action::Fail(ErrorKind::Throttled)),
        );
        plan.add(
            Fault::on(Op::Delete)
                .skip(1)
                .times(1)
                .then(Action::Lose(Effect::Now)),
        );
        let mut removed = 0;
        let gone = holdfast_tests::process::wait_for(Duration::from_mins(1), || {
            let (_, status) = collect(&daemon).ok()?;
            removed += status["removed-chunks"].as_u64()?;
            (status["disk-chunks"] == 0 && status["pending-chunks"] == 0).then_some(())
        });
        ensure!(
            gone.is_some() && removed > 0,
            "chunks are left, {removed} were removed"
        );
        plan.calm();
        // What was deleted is uploaded again.
        backup(&daemon, &source, "one")?.success()?;
        comes_back(&daemon, "one", &image)
    });
    daemon.stop()
}

/// The name of the only snapshot.
fn only_snapshot(daemon: &Daemon) -> Result<String> {
    let listed = daemon.client_json(STORE, &["snapshot", "list"])?;
    let seconds = listed[0]["backup-time"].as_i64().unwrap_or_default();
    let time = jiff::Timestamp::from_second(seconds)?;
    Ok(format!("host/one/{time}"))
}

#[test]
fn a_listing_that_fails_for_good_deletes_nothing() -> Result<()> {
    let server = EmbeddedS3::start()?;
    let daemon = Daemon::set_up(&[])?;
    daemon.add_s3(
        ENDPOINT,
        &server.access(),
        &["--requests-in-flight-max", "8"],
    )?;
    daemon.add_s3_store(ENDPOINT, STORE, &SETTINGS)?;
    let head = format!("[s3.{ENDPOINT}]\n");
    daemon.edit_config(|text| text.replace(&head, &format!("{head}attempts-max = 2\n")))?;
    let (image, source) = image(&daemon, 3, 3)?;
    daemon.start()?;
    daemon.explain(|| {
        backup(&daemon, &source, "one")?.success()?;
        let chunks = Fault::on(Op::List).containing(".chunks/").always();
        server
            .plan()
            .add(chunks.then(Action::Fail(ErrorKind::Unavailable)));
        let told = daemon.client(STORE, &["gc", "start"])?.expect_code(1)?;
        ensure!(!told.stderr.trim().is_empty(), "{told}");
        server.plan().calm();
        comes_back(&daemon, "one", &image)
    });
    daemon.stop()
}

#[test]
fn half_answers_are_asked_for_again() -> Result<()> {
    let server = EmbeddedS3::start()?;
    let address: SocketAddr = server
        .access()
        .endpoint
        .trim_start_matches("http://")
        .parse()?;
    let wire = Wire::to(address)?;
    let mut access = server.access();
    access.endpoint = format!("http://{}", wire.address());
    let daemon = Daemon::set_up(&[])?;
    daemon.add_s3(ENDPOINT, &access, &[])?;
    daemon.add_s3_store(ENDPOINT, STORE, &SETTINGS)?;
    let (image, source) = image(&daemon, 4, 8)?;
    daemon.start()?;
    daemon.explain(|| backup(&daemon, &source, "one")?.success().map(drop));
    daemon.stop()?;
    // Without its cache the daemon has to read everything from the bucket.
    fs::remove_dir_all(daemon.cache_dir(STORE))?;
    daemon.start()?;
    daemon.explain(|| {
        wire.cut_answers(3, 1_000_000);
        comes_back(&daemon, "one", &image)?;
        ensure!(wire.cut() == 3, "{} answers were cut", wire.cut());
        Ok(())
    });
    daemon.stop()
}
