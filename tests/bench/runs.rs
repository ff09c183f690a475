//! Other benchmarks of this program, each run in a process of its own, so that none inherits another's memory; and what is written
//! down with their figures: command, machine, file system, date, commit.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::binary::holdfast;
use holdfast_tests::checkout;
use holdfast_tests::process::{Guarded, Output, run, say};
use s3_client::wall_clock;
use serde_json::{Value, json};

/// How long the end of a benchmark may take after its last line.
const END_TIME_MAX: Duration = Duration::from_mins(1);

/// Runs benchmarks.
#[derive(Debug)]
pub(crate) struct Runs {
    program: PathBuf,
    holdfast: PathBuf,
    seed: u64,
    seconds_max: u64,
}

impl Runs {
    /// Of this very program, measuring the same daemon as this process. Each may take `seconds_max`.
    pub(crate) fn new(seed: u64, seconds_max: u64) -> Result<Self> {
        Ok(Self {
            program: std::env::current_exe().context("this program does not know where it is")?,
            holdfast: holdfast()?.path().to_owned(),
            seed,
            seconds_max,
        })
    }

    /// Runs one and returns the line of JSON that it ends with. Missed bounds are no error.
    pub(crate) fn run(&self, arguments: &[String]) -> Result<Value> {
        let shown = shown(arguments);
        say(&format!("--- {shown}"));
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .args(["--seed", &self.seed.to_string()])
            .args(["--seconds-max", &self.seconds_max.to_string()])
            .arg("--holdfast")
            .arg(&self.holdfast)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut process = Guarded::spawn(&mut command)?;
        let mut text = String::new();
        let stdout = process.child().stdout.take();
        // It ends by itself after `seconds_max`.
        stdout
            .context("no standard output")?
            .read_to_string(&mut text)?;
        let status = process.wait(END_TIME_MAX);
        let code = status.and_then(|status| status.code());
        ensure!(
            matches!(code, Some(0 | 1)),
            "'{shown}' ended with {status:?}"
        );
        let last = text.lines().last().unwrap_or_default();
        serde_json::from_str(last).with_context(|| format!("'{shown}' printed no figures"))
    }
}

/// The command as somebody would type it.
pub(crate) fn shown(arguments: &[String]) -> String {
    format!("cargo benchmark {}", arguments.join(" "))
}

/// The words of a command line.
pub(crate) fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(ToOwned::to_owned).collect()
}

/// What the figures depend on besides the program: processors, memory, where the temporary directory lies, date and commit.
pub(crate) fn circumstances() -> Result<Value> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let temporary = std::env::temp_dir().canonicalize()?;
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let kib: u64 = value_of(&memory, "MemTotal")
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .context("/proc/meminfo is not understood")?;
    let mut git = Command::new("git");
    git.args(["rev-parse", "--short", "HEAD"])
        .current_dir(checkout::root());
    let commit = run(&mut git, b"", Duration::from_secs(20)).and_then(Output::success);
    let commit = commit.map_or("unknown".to_owned(), |output| output.text());
    let date = wall_clock()().to_string();
    Ok(json!({
        "processors": std::thread::available_parallelism()?.get(),
        "processor": value_of(&cpu, "model name").unwrap_or("unknown"),
        "memory-gib": (kib as f64 / f64::from(1 << 20)).round(),
        "temporary-files": file_system_of(&temporary, &mounts).unwrap_or("unknown"),
        "date": date.split('T').next(),
        "commit": commit.trim(),
    }))
}

/// The kind of file system that a path is on, from the kernel's table of mounts.
fn file_system_of<'a>(path: &Path, mounts: &'a str) -> Option<&'a str> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    let around = mounts.filter(|(place, _)| path.starts_with(place));
    // Of several at one place, the last one lies on top.
    let nearest = around.max_by_key(|(place, _)| place.len());
    nearest.map(|(_, kind)| kind)
}

/// What the kernel writes behind a name and a colon, at the first place.
fn value_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (left, right) = line.split_once(':')?;
        (left.trim() == name).then(|| right.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_understood() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nmodel name\t: other\n";
        assert_eq!(value_of(text, "model name"), Some("Some CPU @ 2 GHz"));
        assert_eq!(value_of(text, "model"), None);
        let mounts =
            "/dev/vda / ext4 rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\nx /dev devtmpfs rw 0 0\n";
        let kind = |path: &str| file_system_of(Path::new(path), mounts);
        assert_eq!(kind("/dev/shm/a"), Some("tmpfs"));
        assert_eq!(kind("/dev/shmem"), Some("devtmpfs"));
        assert_eq!(kind("/work"), Some("ext4"));
        let told = circumstances().unwrap();
        assert!(told["processors"].as_u64().unwrap() > 0, "{told}");
        assert_eq!(told["date"].as_str().unwrap().len(), 10, "{told}");
    }

    #[test]
    fn a_command_is_shown_as_it_is_typed() {
        let arguments = words("gc --chunks  100");
        assert_eq!(shown(&arguments), "cargo benchmark gc --chunks 100");
    }
}
