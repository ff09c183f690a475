//! The Debian package, made around the program under test: what is in it, the program as it is installed, the unit, and
//! what dpkg runs, in a directory that dpkg takes for a machine.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::binary::{Binary, holdfast};
use holdfast_tests::checkout;
use holdfast_tests::daemon::{COMMAND_TIME_MAX, Daemon};
use holdfast_tests::process::{Output, run, say};
use tempfile::TempDir;

const UNIT: &str = "usr/lib/systemd/system/holdfast.service";
/// Programs of Debian that the package is made with.
const TOOLS: [&str; 4] = ["dpkg-deb", "dpkg-shlibdeps", "strip", "gzip"];
/// What dpkg runs must not change this machine: each of these only writes down how it was called.
const STAND_INS: [&str; 4] = [
    "adduser",
    "deb-systemd-helper",
    "deb-systemd-invoke",
    "systemctl",
];

fn is_installed(tool: &str) -> bool {
    Command::new(tool).arg("--version").output().is_ok()
}

fn done(command: &mut Command) -> Result<Output> {
    run(command, b"", COMMAND_TIME_MAX)?.success()
}

/// The package in `dir`; `None` where this machine cannot make one.
fn package(dir: &Path) -> Result<Option<PathBuf>> {
    for tool in TOOLS {
        if !is_installed(tool) {
            say(&format!(
                "NOT RUN: {tool} is not installed (apt-get install dpkg-dev)"
            ));
            return Ok(None);
        }
    }
    let mut build = Command::new(checkout::root().join("server/debian/build"));
    build
        .arg(holdfast()?.path())
        .arg(dir)
        .env("DPKG_DEB_COMPRESSOR_TYPE", "none");
    let told = done(&mut build)?.text();
    Ok(Some(PathBuf::from(told.trim())))
}

fn describes_itself(package: &Path) -> Result<()> {
    let info = done(Command::new("dpkg-deb").arg("--info").arg(package))?.text();
    let version = format!(" Version: {}\n", env!("CARGO_PKG_VERSION"));
    for wanted in [
        &*version,
        "libc6 (>= ",
        " adduser",
        "postinst",
        "prerm",
        "postrm",
    ] {
        ensure!(info.contains(wanted), "no '{wanted}' in {info}");
    }
    let mut left = info.lines().filter(|line| line.contains('@'));
    let left = left.find(|line| !line.starts_with(" Maintainer:"));
    ensure!(left.is_none(), "{left:?}");
    let contents = done(Command::new("dpkg-deb").arg("--contents").arg(package))?.text();
    for (mode, path) in [
        ("-rwxr-xr-x", "usr/bin/holdfast"),
        ("-rw-r--r--", UNIT),
        ("-rw-r--r--", "usr/share/man/man1/holdfast.1.gz"),
        (
            "-rw-r--r--",
            "usr/share/man/man1/holdfast-datastore-create.1.gz",
        ),
        (
            "-rw-r--r--",
            "usr/share/bash-completion/completions/holdfast",
        ),
        ("-rw-r--r--", "usr/share/zsh/vendor-completions/_holdfast"),
        (
            "-rw-r--r--",
            "usr/share/fish/vendor_completions.d/holdfast.fish",
        ),
        ("-rw-r--r--", "usr/share/doc/holdfast/copyright"),
        ("-rw-r--r--", "usr/share/doc/holdfast/changelog.gz"),
        ("-rw-r--r--", "usr/share/doc/holdfast/operations.md"),
        ("-rw-r--r--", "usr/share/doc/holdfast/alerts.yml"),
    ] {
        let end = format!(" ./{path}");
        let line = contents.lines().find(|line| line.ends_with(&end));
        let line = line.with_context(|| format!("no '{path}' in {contents}"))?;
        ensure!(
            line.starts_with(mode) && line.contains(" root/root "),
            "{line}"
        );
    }
    // Settings, backups and their directories are never the package's.
    for place in [" ./etc/", " ./var/", " ./srv/"] {
        ensure!(!contents.contains(place), "'{place}' in {contents}");
    }
    Ok(())
}

/// Set up, started, asked and stopped.
fn works(program: &Path) -> Result<()> {
    let told = done(Command::new(program).arg("--version"))?.text();
    ensure!(
        told.trim() == concat!("holdfast ", env!("CARGO_PKG_VERSION")),
        "{told}"
    );
    let daemon = Daemon::set_up_with(Binary::at(program.to_owned())?, &[])?;
    daemon.start()?;
    daemon.explain(|| {
        ensure!(daemon.get("/health/ready")?.status == 200);
        Ok(())
    });
    daemon.stop()
}

/// The unit runs the program on the set-up that it waits for, and systemd has nothing to say against it.
fn unit_is_right(root: &Path) -> Result<()> {
    let unit = fs::read_to_string(root.join(UNIT))?;
    let value = |name: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(name));
        line.with_context(|| format!("no '{name}' in {unit}"))
    };
    let config = value("ConditionPathExists=")?;
    let start = value("ExecStart=")?;
    ensure!(
        start == format!("/usr/bin/holdfast serve --config {config}"),
        "{start}"
    );
    let operations = fs::read_to_string(checkout::root().join("docs/operations.md"))?;
    let dir = config.trim_end_matches("/holdfast.toml");
    ensure!(
        operations.contains(&format!("holdfast setup --dir {dir}\n")),
        "{dir}"
    );
    if !is_installed("systemd-analyze") {
        say("NOT RUN: systemd-analyze is not installed (apt-get install systemd)");
        return Ok(());
    }
    let copy = root.join("holdfast.service");
    let program = root.join("usr/bin/holdfast");
    fs::write(
        &copy,
        unit.replace("/usr/bin/holdfast ", &format!("{} ", program.display())),
    )?;
    let mut verify = Command::new("systemd-analyze");
    let told = done(verify.args(["verify", "--man=no"]).arg(&copy))?;
    ensure!(told.stderr.is_empty(), "{told}");
    Ok(())
}

/// A directory that dpkg takes for a machine.
struct Machine {
    root: TempDir,
    calls: PathBuf,
    path: OsString,
}

impl Machine {
    fn new() -> Result<Self> {
        let root = TempDir::with_prefix("holdfast-test-")?;
        let stand_ins = root.path().join("stand-ins");
        for dir in ["stand-ins", "var/lib/dpkg/info", "var/lib/dpkg/updates"] {
            fs::create_dir_all(root.path().join(dir))?;
        }
        fs::write(root.path().join("var/lib/dpkg/status"), b"")?;
        let calls = root.path().join("calls");
        for name in STAND_INS {
            let file = stand_ins.join(name);
            fs::write(
                &file,
                format!("#!/bin/sh\necho {name} \"$@\" >>'{}'\n", calls.display()),
            )?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        }
        let mut path = stand_ins.into_os_string();
        path.push(":/usr/sbin:/usr/bin:/sbin:/bin");
        Ok(Self { root, calls, path })
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    /// Runs dpkg; answers what its scripts called.
    fn dpkg(&self, action: &str, what: &Path) -> Result<String> {
        fs::write(&self.calls, b"")?;
        let mut root = OsString::from("--root=");
        root.push(self.root.path());
        let mut dpkg = Command::new("dpkg");
        dpkg.arg(root)
            .args([
                "--force-script-chrootless",
                "--force-depends",
                "--log=/dev/null",
                action,
            ])
            .arg(what)
            .env("PATH", &self.path);
        done(&mut dpkg)?;
        Ok(fs::read_to_string(&self.calls)?)
    }
}

/// Installed, installed again, removed and purged; what was stored stays.
fn comes_and_goes(package: &Path) -> Result<()> {
    let machine = Machine::new()?;
    let account = "adduser --quiet --system --group --home /var/lib/holdfast holdfast\n";
    let program = machine.path("usr/bin/holdfast");
    let calls = machine.dpkg("-i", package)?;
    ensure!(calls.starts_with(account), "{calls}");
    ensure!(calls.contains("was-enabled holdfast.service"), "{calls}");
    ensure!(program.exists() && machine.path(UNIT).exists());
    let stored = machine.path("var/lib/holdfast/daemon/holdfast.toml");
    fs::create_dir_all(stored.parent().context("a place")?)?;
    fs::write(&stored, b"settings")?;

    let calls = machine.dpkg("-i", package)?;
    ensure!(calls.starts_with(account), "{calls}");
    let calls = machine.dpkg("-r", Path::new("holdfast"))?;
    ensure!(!calls.contains("purge") && !program.exists(), "{calls}");
    let calls = machine.dpkg("-P", Path::new("holdfast"))?;
    ensure!(calls.contains("purge holdfast.service"), "{calls}");
    ensure!(fs::read(&stored)? == b"settings");
    Ok(())
}

#[test]
fn the_debian_package_installs_a_daemon_that_runs() -> Result<()> {
    let dir = TempDir::with_prefix("holdfast-test-")?;
    let Some(package) = package(dir.path())? else {
        return Ok(());
    };
    describes_itself(&package)?;
    let root = dir.path().join("root");
    done(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&root))?;
    works(&root.join("usr/bin/holdfast"))?;
    unit_is_right(&root)?;
    if nix::unistd::geteuid().is_root() {
        comes_and_goes(&package)
    } else {
        say("NOT RUN: only root can have dpkg install into a directory");
        Ok(())
    }
}
