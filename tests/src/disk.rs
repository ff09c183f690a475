//! A small disk of one's own: a tmpfs of bounded size and number of files, in a user and mount namespace, so that nobody
//! has to be root. Only what runs in the namespace sees it.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::process::{Guarded, run};

/// How long a mount may take.
const TIME_MAX: Duration = Duration::from_secs(20);

/// A disk of the tests has fewer pieces of any size.
const PIECES_MAX: u32 = 10_000;

/// The disk; it and all that is on it go with the handle and with the processes that use it.
#[derive(Debug)]
pub struct Disk {
    /// Keeps the namespace.
    holder: Guarded,
    place: PathBuf,
}

impl Disk {
    /// Mounts one on the directory `place`, with options such as `size=24m,nr_inodes=500`. `None` where this machine lets
    /// nobody have namespaces of his own.
    pub fn mount(place: &Path, options: &str) -> Result<Option<Self>> {
        let script =
            "mount -t tmpfs -o \"$1,mode=0755\" holdfast-test \"$2\" && echo mounted && exec cat";
        let mut command = Command::new("unshare");
        command
            .args(["-Urm", "sh", "-c", script, "holder", options])
            .arg(place)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let Ok(mut holder) = Guarded::spawn(&mut command) else {
            return Ok(None);
        };
        let stdout = holder.child().stdout.take().context("no output")?;
        let mut told = String::new();
        BufReader::new(stdout).read_line(&mut told)?;
        if told != "mounted\n" {
            return Ok(None);
        }
        let place = place.to_owned();
        Ok(Some(Self { holder, place }))
    }

    /// What runs a command where the disk is seen.
    pub fn runner(&self) -> Vec<OsString> {
        let pid = self.holder.id().to_string();
        let arguments = ["nsenter", "-t", &pid, "-U", "-m", "--preserve-credentials"];
        arguments.into_iter().map(OsString::from).collect()
    }

    /// Runs a command there, which must succeed.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let runner = self.runner();
        let mut command = Command::new(&runner[0]);
        command.args(&runner[1..]).arg(program).args(arguments);
        run(&mut command, b"", TIME_MAX)?.success()?;
        Ok(())
    }

    /// Changes its options, such as its size, or `ro`.
    pub fn remount(&self, options: &str) -> Result<()> {
        let place = self.place.to_str().context("a path in UTF-8")?;
        self.run("mount", &["-o", &format!("remount,{options}"), place])
    }

    /// How whoever is not in the namespace finds a file of it.
    pub fn seen_from_outside(&self, path: &Path) -> Result<PathBuf> {
        let path = path.strip_prefix("/").context("an absolute path")?;
        Ok(PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(path))
    }

    /// Takes all room that is left, with a file of this name.
    pub fn fill(&self, name: &str) -> Result<()> {
        let path = self.seen_from_outside(&self.place)?.join(name);
        let mut file = std::fs::File::create(&path)?;
        // Large pieces first, and then what is left between them.
        for bytes in [1 << 20, 4096, 1] {
            let piece = vec![7; bytes];
            let full = (0..PIECES_MAX).find_map(|_| file.write_all(&piece).err());
            let kind = full.map(|error| error.kind());
            ensure!(
                kind == Some(std::io::ErrorKind::StorageFull),
                "the disk is not full: {kind:?}"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_small_as_it_was_made() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let Some(disk) = Disk::mount(dir.path(), "size=64k")? else {
            crate::process::say("namespaces are not permitted here");
            return Ok(());
        };
        let file = disk.seen_from_outside(&dir.path().join("file"))?;
        assert!(std::fs::write(&file, vec![1; 100_000]).is_err());
        disk.remount("size=1m")?;
        std::fs::write(&file, vec![1; 100_000])?;
        disk.remount("ro")?;
        assert!(std::fs::write(&file, b"x").is_err());
        assert_eq!(std::fs::read_dir(dir.path())?.count(), 0, "seen outside");
        Ok(())
    }
}
