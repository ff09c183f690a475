//! Clients that are the real `holdfast backup` and `holdfast restore`, and that are killed now and then.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::binary::holdfast;
use holdfast_tests::connection::Trouble;
use holdfast_tests::measure::noise::Noise;
use holdfast_tests::process::{Guarded, Output, run};
use tokio::task::spawn_blocking;

use super::clients::Reading;
use super::content::{Plan, Shape};
use super::ledger::{Known, State};
use super::site::Site;
use super::world::World;

/// A command that takes longer hangs.
const COMMAND_TIME_MAX: Duration = Duration::from_mins(3);
/// What the command says when the connection broke; everything else is the daemon's word.
const BROKEN: &[&str] = &[
    "the connection to",
    "did not answer within",
    "is not understood",
];

/// Client number `number`, until the end.
pub(crate) async fn be_command(world: Arc<World>, number: u64) {
    let mut noise = world.noise(number);
    while !world.is_stopped() {
        let there = world.site.door.wait();
        if world.until_stopped(Duration::ZERO, there).await.is_none() {
            return;
        }
        if noise.below(3) == 0 {
            read_back(&world, &mut noise).await;
        } else {
            back_up(&world, &mut noise, number).await;
        }
        world.pause(Duration::from_millis(noise.below(500))).await;
    }
}

fn command(world: &World) -> Result<Command> {
    let address = world.site.door.now().context("the daemon does not run")?;
    let mut command = holdfast()?.command();
    command
        .env("PBS_REPOSITORY", Site::repository(address))
        .env("PBS_PASSWORD", &world.site.secret)
        .env("PBS_FINGERPRINT", world.site.daemon.fingerprint());
    Ok(command)
}

/// The image of a plan, written to a file of this client.
fn write_image(world: &World, plan: &Plan, number: u64) -> Result<PathBuf> {
    let path = world.site.daemon.dir().join(format!("image-{number}"));
    let file = fs::File::create(&path)?;
    let mut end = 0;
    for piece in &plan.pieces {
        let content = world.pool.piece(plan.shape, *piece);
        let used = content.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
        file.write_all_at(&content[..used], end)?;
        end += content.len() as u64;
    }
    file.set_len(end)?;
    Ok(path)
}

async fn back_up(world: &Arc<World>, noise: &mut Noise, number: u64) {
    let _inside = world.gate.enter().await;
    let begun = world
        .ledger
        .begin(noise, &world.pool, Shape::Image, world.seconds());
    let Ok(known) = begun else {
        return;
    };
    // From here on the command may finish it at any time.
    world.ledger.note(&known.id, State::Asked);
    let killed_after = (noise.below(8) == 0).then(|| Duration::from_millis(noise.below(1500)));
    let (shared, of) = (Arc::clone(world), known.clone());
    let done = spawn_blocking(move || backup_command(&shared, &of, number, killed_after)).await;
    match done.unwrap_or_else(|error| Err(error.into())) {
        Ok(Some(output)) if output.code == Some(0) => {
            world.ledger.note(&known.id, State::Acknowledged);
            world.tally.progress();
            world.tally.count("acknowledged");
            world.tally.count("acknowledged to commands");
        }
        Ok(Some(output)) => world.trouble("backup", &told(&output)),
        Ok(None) => world.trouble("backup", &Trouble::Chosen("client killed")),
        Err(error) => world.trouble("backup", &Trouble::Broken(error.to_string())),
    }
}

/// Runs the command to its end; `None` if it was killed.
fn backup_command(
    world: &World,
    known: &Known,
    number: u64,
    killed_after: Option<Duration>,
) -> Result<Option<Output>> {
    let path = write_image(world, &known.plan, number)?;
    let snapshot = &known.id.snapshot;
    let mut command = command(world)?;
    command
        .arg("backup")
        .arg(format!("disk.img:{}", path.display()))
        .args(["--backup-type", snapshot.group.kind.as_str()])
        .args(["--backup-id", &snapshot.group.id.to_string()])
        .args(["--backup-time", &snapshot.time.seconds().to_string()])
        .args(["--output-format", "json"]);
    if !known.id.namespace.is_root() {
        command.args(["--ns", &known.id.namespace.to_string()]);
    }
    let Some(time) = killed_after else {
        return run(&mut command, b"", COMMAND_TIME_MAX).map(Some);
    };
    command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    // The wait ends with a kill.
    Guarded::spawn(&mut command)?.wait(time);
    Ok(None)
}

async fn read_back(world: &Arc<World>, noise: &mut Noise) {
    let Some(known) = world.ledger.pick_to_read(noise) else {
        return;
    };
    let _reading = Reading(world, known.id.clone());
    if known.plan.shape != Shape::Image {
        return;
    }
    let (shared, of) = (Arc::clone(world), known.clone());
    let done = spawn_blocking(move || restore_command(&shared, &of)).await;
    match done.unwrap_or_else(|error| Err(error.into())) {
        Ok(Ok(bytes)) => {
            world.tally.progress();
            world.tally.count("restores");
            world.tally.count("restores by commands");
            world.tally.add("bytes compared", bytes);
        }
        Ok(Err(trouble)) => super::clients::not_read(world, &known, &trouble),
        Err(error) => world.trouble("restore", &Trouble::Broken(error.to_string())),
    }
}

fn restore_command(world: &World, known: &Known) -> Result<Result<u64, Trouble>> {
    let mut command = command(world)?;
    command.args(["restore", &known.id.snapshot.to_string(), "disk.img", "-"]);
    if !known.id.namespace.is_root() {
        command.args(["--ns", &known.id.namespace.to_string()]);
    }
    let output = run(&mut command, b"", COMMAND_TIME_MAX)?;
    if output.code != Some(0) {
        return Ok(Err(told(&output)));
    }
    let pieces = known.plan.pieces.iter();
    let pieces = pieces.map(|piece| world.pool.piece(known.plan.shape, *piece));
    let expected: Vec<u8> = pieces.flat_map(|piece| piece.to_vec()).collect();
    if output.stdout != expected {
        return Ok(Err(Trouble::Wrong(
            "the image has other content".to_owned(),
        )));
    }
    ensure!(!expected.is_empty(), "an image has content");
    Ok(Ok(expected.len() as u64))
}

/// What a command's failure means.
fn told(output: &Output) -> Trouble {
    let text = output.stderr.trim();
    let last = text.lines().rev().find(|line| line.contains("rror"));
    let line = last.or(text.lines().last()).unwrap_or("no word");
    if output.code.is_none() || BROKEN.iter().any(|part| line.contains(part)) {
        return Trouble::Broken(line.to_owned());
    }
    Trouble::Refused {
        status: 0,
        sentence: line.to_owned(),
    }
}
