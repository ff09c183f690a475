//! `holdfast quickstart`: everything at once, on this machine, to see it work.
//!
//! An S3 server over a directory and a daemon are started ([`daemon`]), a directory is backed up, restored and compared
//! beside garbage collection ([`steps`]), and a table says what that took. The directory with the bucket stays
//! ([`home`]).

mod change;
mod children;
mod daemon;
mod home;
mod requests;
mod steps;
mod table;
mod tree;

use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use pbs_datastore::Env;
use tokio::task::spawn_blocking;

use self::daemon::Programs;
use self::home::{Home, default_dir};
use self::requests::RequestCounter;
use self::steps::{Course, Outcome};
use self::tree::{Comparison, TreeSize, measure};
use crate::client::progress::Progress;
use crate::client::repository::Access;
use crate::client::tar::Excludes;
use crate::shutdown;

/// What is left out where no path is given: what can be built or fetched again.
const LEFT_OUT: [&str; 2] = ["/target", "/.git"];

/// `holdfast quickstart`
#[derive(Debug, clap::Args)]
pub(crate) struct QuickstartArgs {
    /// Directory to back up; it is only read. Without it: the checkout around the current directory, or that directory
    /// itself, without `target` and `.git`.
    path: Option<PathBuf>,
    /// Where the bucket, the daemon and the cache are kept; they stay, and the next run goes on with them. Without it:
    /// `holdfast-quickstart` in $XDG_DATA_HOME, in ~/.local/share, or in the directory for temporary files.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// End when everything was shown, with 0 only if all that was restored is equal to its original.
    #[arg(long)]
    once: bool,
}

/// What is backed up.
#[derive(Debug, Clone)]
struct Original {
    root: PathBuf,
    excludes: Excludes,
}

impl QuickstartArgs {
    /// Shows everything, and without `--once` stays until Ctrl-C.
    ///
    /// # Errors
    /// Something failed or differs; Ctrl-C before the end.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let dir = self
            .dir
            .unwrap_or_else(|| default_dir(|name| std::env::var_os(name).map(PathBuf::from)));
        let given = self.path;
        let (home, original, size) = spawn_blocking(move || prepare(&dir, given)).await??;
        let interrupted = async {
            shutdown::stop_signal().await?;
            bail!("interrupted")
        };
        let mut programs = None;
        let mut shown = tokio::select! {
            shown = show(&home, &original, size, &mut programs) => shown,
            stopped = interrupted => stopped,
        };
        if let (Ok(connecting), false, Some(programs)) = (&shown, self.once, &mut programs) {
            print(connecting)?;
            if let Err(error) = stay(programs).await {
                shown = Err(error);
            }
        }
        let stopped = match programs {
            Some(programs) => programs.stop().await,
            None => Ok(()),
        };
        let cleared = spawn_blocking(move || home.clear_work()).await?;
        shown.map(drop).and(stopped).and(cleared)
    }
}

/// Takes the directory and looks at the original.
fn prepare(dir: &Path, given: Option<PathBuf>) -> anyhow::Result<(Home, Original, TreeSize)> {
    let home = Home::open(dir)?;
    let original = Original::find(given, home.dir())?;
    let size = measure(&original.root, &original.excludes)
        .with_context(|| format!("{} cannot be read", original.root.display()))?;
    home.check_room(size.bytes)?;
    home.await_earlier_programs()?;
    Ok((home, original, size))
}

/// Starts the programs, which are left in `programs`, runs the steps and prints what they came to; answers the lines that
/// connect a client.
async fn show(
    home: &Home,
    original: &Original,
    size: TreeSize,
    programs: &mut Option<Programs>,
) -> anyhow::Result<Vec<String>> {
    let progress = Arc::new(Progress::terminal());
    progress.note(&format!(
        "{}: {} entries, {}; bucket, daemon and cache are in {}",
        original.root.display(),
        size.entries,
        indicatif::BinaryBytes(size.bytes),
        home.dir().display()
    ));
    let mut keys = home.keys()?;
    let running = programs.insert(Programs::start(home, &keys).await?);
    let access = running.start_daemon(home, &mut keys).await?;
    let env = Env::system();
    let course = Course {
        home,
        counter: RequestCounter::new(running.endpoint()),
        programs: running,
        access: access.clone(),
        original: &original.root,
        excludes: original.excludes.clone(),
        // A daemon that was not stopped cleanly takes no snapshot that could be older than its start.
        last_second: env.now().as_second(),
        env,
        progress: progress.clone(),
        rows: Vec::new(),
        comparison: Comparison::default(),
    };
    let outcome = course.run().await;
    progress.finish();
    let outcome = outcome?;
    print(&outcome.lines())?;
    if !outcome.comparison.is_equal() {
        bail!(
            "{} of {} entries differ from the original; if {} changed meanwhile, try again",
            outcome.comparison.different,
            outcome.comparison.compared,
            original.root.display()
        );
    }
    connect_lines(&access, &outcome.snapshot)
}

/// Waits for Ctrl-C, or for a program that ends by itself.
async fn stay(programs: &mut Programs) -> anyhow::Result<()> {
    tokio::select! {
        error = programs.ended() => Err(error),
        stopped = shutdown::stop_signal() => Ok(stopped?),
    }
}

impl Original {
    /// What to back up, without the directory of the quick start itself.
    fn find(given: Option<PathBuf>, home: &Path) -> anyhow::Result<Self> {
        let (root, mut patterns) = if let Some(path) = given {
            (path, Vec::new())
        } else {
            let current = std::env::current_dir().context("there is no current directory")?;
            let left_out = LEFT_OUT.map(ToOwned::to_owned).into();
            (checkout_around(&current), left_out)
        };
        let fault = || format!("{} cannot be backed up", root.display());
        let root = root.canonicalize().with_context(fault)?;
        if !root.is_dir() {
            bail!("{} is not a directory", root.display());
        }
        if root.starts_with(home) {
            bail!(
                "{} lies in {}, where the quickstart keeps its bucket: back up something else, or give another --dir",
                root.display(),
                home.display()
            );
        }
        if let Ok(inside) = home.strip_prefix(&root) {
            let text = inside.to_str().with_context(|| {
                format!(
                    "{} has a name that is no text: give another --dir",
                    home.display()
                )
            })?;
            patterns.push(format!("/{}", escaped(text)));
        }
        let excludes = Excludes::parse(&patterns).map_err(anyhow::Error::msg)?;
        Ok(Self { root, excludes })
    }
}

/// The innermost checkout that holds `current`, or `current` itself.
fn checkout_around(current: &Path) -> PathBuf {
    let found = current.ancestors().find(|dir| dir.join(".git").exists());
    found.unwrap_or(current).to_owned()
}

/// A path as a pattern that matches nothing else.
fn escaped(path: &str) -> String {
    let mut pattern = String::with_capacity(path.len());
    for c in path.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '!') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

impl Outcome {
    /// The table, and what it means.
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![String::new()];
        lines.extend(table::lines(&self.rows));
        lines.push(String::new());
        let count = |name: &str| self.collected[name].as_u64().unwrap_or(0);
        lines.push(format!(
            "Garbage collection: {} runs beside the third backup; the last found {} chunks in use, {} waiting, removed {}.",
            self.collections,
            count("disk-chunks"),
            count("pending-chunks"),
            count("removed-chunks")
        ));
        lines.push(format!(
            "S3 requests since the start: {} ({}).",
            self.requests.total(),
            self.requests.by_operation()
        ));
        let compared = &self.comparison;
        if compared.is_equal() {
            lines.push(format!(
                "All that was restored is equal to its original, content and metadata: {} entries, {}.",
                compared.compared,
                indicatif::BinaryBytes(compared.bytes)
            ));
        } else {
            lines.push("What was restored differs:".to_owned());
            lines.extend(compared.described.iter().map(|text| format!("  {text}")));
        }
        lines
    }
}

/// How other clients get in.
fn connect_lines(access: &Access, snapshot: &str) -> anyhow::Result<Vec<String>> {
    let fingerprint = access.fingerprint.context("no certificate is pinned")?;
    let program = std::env::current_exe().context("this program's own file is not known")?;
    let program = quoted(&program);
    Ok([
        String::new(),
        "The daemon runs until Ctrl-C. A stock client, or this one, connects with:".to_owned(),
        String::new(),
        format!("  export PBS_REPOSITORY='{}'", access.repository),
        format!("  export PBS_PASSWORD='{}'", access.secret),
        format!("  export PBS_FINGERPRINT='{fingerprint}'"),
        String::new(),
        "  proxmox-backup-client backup etc.pxar:/etc".to_owned(),
        format!("  {program} snapshot list"),
        format!("  {program} restore {snapshot} tree.tar /tmp/restored"),
    ]
    .into())
}

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    let text = String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%:=,".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Lines on standard output. A reader that has gone away is no fault of ours.
fn print(lines: &[String]) -> anyhow::Result<()> {
    let mut text = lines.join("\n");
    text.push('\n');
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_checkout_is_found_from_inside() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let inner = dir.path().join("a/b");
        fs::create_dir_all(&inner).expect("made");
        fs::create_dir(dir.path().join("a/.git")).expect("made");
        assert_eq!(checkout_around(&inner), dir.path().join("a"));
    }

    #[test]
    fn the_quick_start_never_backs_up_itself() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().canonicalize().expect("a path");
        let home = root.join("x [1]*/home");
        fs::create_dir_all(home.join("bucket")).expect("made");
        let original = Original::find(Some(root.clone()), &home).expect("a directory");
        assert_eq!(original.root, root);
        for (path, excluded) in [("x [1]*/home", true), ("x 1/home", false), ("home", false)] {
            let found = original.excludes.excludes(path.as_bytes(), true);
            assert_eq!(found, excluded, "{path}");
        }
        for inside in [home.clone(), home.join("bucket")] {
            let fault = Original::find(Some(inside), &home).expect_err("refused");
            assert!(fault.to_string().contains("--dir"), "{fault}");
        }
    }

    #[test]
    fn only_directories_are_backed_up() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("file");
        fs::write(&file, "x").expect("written");
        let home = Path::new("/nowhere");
        let fault = Original::find(Some(file), home).expect_err("refused");
        assert!(fault.to_string().contains("not a directory"), "{fault}");
        let missing = dir.path().join("missing");
        let fault = Original::find(Some(missing), home).expect_err("refused");
        assert!(fault.to_string().contains("missing"), "{fault}");
    }

    #[test]
    fn words_for_a_shell() {
        assert_eq!(quoted(Path::new("/usr/bin/holdfast")), "/usr/bin/holdfast");
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
