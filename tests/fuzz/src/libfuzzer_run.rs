//! Long runs under libFuzzer, which is told by the compiler what each input reaches.
//!
//! Only our own three crates are built with that, by a wrapper of the compiler (`covered`); everything else is what the
//! other builds have. Inputs that reach new code are collected in `target/hostile/TARGET`; with `--keep` the shortest of
//! them that together reach all of it are added to the corpus.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::corpus;
use crate::judge::WALL_MAX;
use crate::report::say;
use crate::targets::{ALL, Target, find};

/// Bytes of inputs that are kept for one target beside its seeds; the corpus is part of every checkout.
const KEPT_BYTES_MAX: usize = 32 << 10;
/// The number of them.
const KEPT_MAX: usize = 100;
/// Memory of a process, in MiB.
const RSS_MIB_MAX: u32 = 1024;

/// How long, and what for.
#[derive(Clone, Debug, Args)]
pub struct LongArgs {
    /// How long for each target, in seconds.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Add the inputs that reach new code to the corpus.
    #[arg(long)]
    keep: bool,
    /// Libfuzzer's seed; 0 draws one.
    #[arg(long, default_value_t = 0)]
    seed: u32,
    targets: Vec<String>,
}

/// Runs the targets one after the other.
pub fn long(args: &LongArgs) -> Result<ExitCode> {
    let program = build()?;
    let names = &args.targets;
    let targets: Vec<&Target> = if names.is_empty() {
        ALL.iter().collect()
    } else {
        names.iter().map(|name| find(name)).collect::<Result<_>>()?
    };
    let mut code = ExitCode::SUCCESS;
    for target in targets {
        if !run(&program, target, args)? {
            code = ExitCode::FAILURE;
        }
        if args.keep {
            keep(&program, target)?;
        }
    }
    Ok(code)
}

fn root() -> PathBuf {
    corpus::home().join("../..")
}

/// Builds the program with coverage of our own crates.
fn build() -> Result<PathBuf> {
    let home = corpus::home();
    let target_dir = root().join("target/hostile/build");
    let status = Command::new("cargo")
        .args([
            "build",
            "--quiet",
            "--bin",
            "hostile-long",
            "--features",
            "libfuzzer",
        ])
        .args(["--manifest-path"])
        .arg(home.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(root().join("target"))
        // Other artefacts than those of the other builds, and faster ones.
        .args(["--config", "profile.dev.package.holdfast.opt-level=1"])
        .args(["--config", "profile.dev.package.s3-client.opt-level=1"])
        .args(["--config", "profile.dev.package.pbs-datastore.opt-level=2"])
        .args(["--config", "profile.dev.opt-level=1"])
        .env("RUSTC_WRAPPER", home.join("covered"))
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "the build failed");
    fs::create_dir_all(&target_dir)?;
    let program = target_dir.join("hostile-long");
    fs::copy(root().join("target/debug/hostile-long"), &program)?;
    Ok(program)
}

fn found_dir(target: &Target) -> PathBuf {
    root().join("target/hostile").join(target.name)
}

/// Whether nothing was found.
fn run(program: &Path, target: &Target, args: &LongArgs) -> Result<bool> {
    let (found, findings) = (
        found_dir(target),
        corpus::home().join("findings").join(target.name),
    );
    fs::create_dir_all(&found)?;
    fs::create_dir_all(&findings)?;
    fs::create_dir_all(corpus::folder(target.name))?;
    let words = found.with_extension("words");
    fs::write(&words, dictionary(target))?;
    say(&format!("\n== {}", target.name));
    let status = Command::new(program)
        .arg(&found)
        .arg(corpus::folder(target.name))
        .arg(format!("-max_total_time={}", args.seconds))
        .arg(format!("-max_len={}", target.bytes_max))
        .arg(format!("-timeout={}", WALL_MAX.as_secs()))
        .arg(format!("-rss_limit_mb={RSS_MIB_MAX}"))
        .arg(format!("-seed={}", args.seed))
        .arg(format!("-dict={}", words.display()))
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .args(["-print_final_stats=1", "-verbosity=0", "-reload=0"])
        .env("HOSTILE_TARGET", target.name)
        .env("MALLOC_ARENA_MAX", "1")
        .status()
        .context("cannot start libFuzzer")?;
    Ok(status.success())
}

/// Adds to the corpus what reaches code that nothing in it reaches.
fn keep(program: &Path, target: &Target) -> Result<()> {
    let chosen = tempfile::tempdir()?;
    let folder = corpus::folder(target.name);
    for (name, data) in corpus::inputs(&folder)? {
        fs::write(chosen.path().join(name), data)?;
    }
    let before: Vec<String> = corpus::inputs(chosen.path())?
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let status = Command::new(program)
        .args(["-merge=1", "-verbosity=0"])
        .arg(format!("-max_len={}", target.bytes_max))
        .arg(chosen.path())
        .arg(found_dir(target))
        .env("HOSTILE_TARGET", target.name)
        .env("MALLOC_ARENA_MAX", "1")
        .status()?;
    ensure!(
        status.success(),
        "the inputs of {} cannot be merged",
        target.name
    );
    let mut inputs = corpus::inputs(chosen.path())?;
    inputs.retain(|(name, _)| !before.contains(name));
    inputs.sort_by_key(|(_, data)| data.len());
    let there = corpus::inputs(&folder)?;
    let grown = there.iter().filter(|(name, _)| !name.contains('-'));
    let (mut count, mut bytes) = grown.fold((0, 0), |(count, bytes), (_, data)| {
        (count + 1, bytes + data.len())
    });
    let mut kept = 0;
    // Of too many some of every length.
    let step = inputs.len().div_ceil(KEPT_MAX).max(1);
    for (_, data) in inputs.iter().step_by(step) {
        (count, bytes) = (count + 1, bytes + data.len());
        if bytes > KEPT_BYTES_MAX || count > KEPT_MAX {
            break;
        }
        fs::write(folder.join(corpus::name_of(data)), data)?;
        kept += 1;
    }
    say(&format!(
        "{}: {kept} of {} new inputs kept",
        target.name,
        inputs.len()
    ));
    Ok(())
}

/// The target's words in libFuzzer's form.
fn dictionary(target: &Target) -> String {
    let word = |word: &&[u8]| {
        let bytes: String = word.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        format!("\"{bytes}\"\n")
    };
    target.words.iter().map(word).collect()
}
