//! A file that only grows, written behind the back of whoever appends.
//!
//! Appending copies into memory and never waits for the disk; the blocking pool writes. What has not been written yet is
//! kept in order, so a reader that looks through [`AppendFile::snapshot`] sees every appended byte at any time. If the
//! disk refuses, the bytes stay in memory, bounded, and the next flush tries again at the same place.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Cursor, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::atomic_file;

/// Most bytes that wait to be written; beyond it, appending is refused.
const PENDING_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Default)]
struct State {
    /// Bytes in the file.
    written: u64,
    /// Bytes that are being written right now, or were refused.
    in_flight: Bytes,
    /// Bytes behind those.
    pending: Vec<u8>,
    /// A flush is on its way and will see what is pending.
    flush_due: bool,
    /// The disk refuses, and that was said.
    refused: bool,
}

/// The file and what is not in it yet.
#[derive(Debug)]
pub(super) struct AppendFile {
    path: PathBuf,
    state: Mutex<State>,
    /// Held while the file is written; taken before `state`.
    writer: Mutex<()>,
}

/// All bytes of the file at one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    path: PathBuf,
    written: u64,
    in_flight: Bytes,
    pending: Vec<u8>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AppendFile {
    /// The file `path`, of which the first `written` bytes count; it is made by the first flush.
    pub(super) fn new(path: PathBuf, written: u64) -> Self {
        Self {
            path,
            state: Mutex::new(State {
                written,
                ..State::default()
            }),
            writer: Mutex::new(()),
        }
    }

    /// Appends `bytes` as a whole; `false` if too much waits to be written already.
    pub(super) fn append(self: &Arc<Self>, bytes: &[u8]) -> bool {
        let mut state = lock(&self.state);
        if state.pending.len() + state.in_flight.len() + bytes.len() > PENDING_BYTES_MAX {
            return false;
        }
        state.pending.extend_from_slice(bytes);
        let due = std::mem::replace(&mut state.flush_due, true);
        drop(state);
        if !due {
            let file = self.clone();
            run_blocking(move || file.flush_logged());
        }
        true
    }

    /// Bytes appended so far.
    pub(super) fn length(&self) -> u64 {
        let state = lock(&self.state);
        state.written + (state.in_flight.len() + state.pending.len()) as u64
    }

    /// All bytes appended so far.
    pub(super) fn snapshot(&self) -> Snapshot {
        let state = lock(&self.state);
        Snapshot {
            path: self.path.clone(),
            written: state.written,
            in_flight: state.in_flight.clone(),
            pending: state.pending.clone(),
        }
    }

    /// Writes what waits; a refusal of the disk is logged, once until it accepts again. Blocks.
    pub(super) fn flush_logged(&self) {
        let flushed = self.flush();
        let before = std::mem::replace(&mut lock(&self.state).refused, flushed.is_err());
        if let Err(error) = flushed
            && !before
        {
            tracing::error!(path = %self.path.display(), %error, "cannot write a task log");
        }
    }

    /// Writes what waits. Blocks.
    fn flush(&self) -> io::Result<()> {
        let _writer = lock(&self.writer);
        let mut file = None;
        loop {
            let (chunk, at) = {
                let mut state = lock(&self.state);
                state.flush_due = false;
                if state.in_flight.is_empty() {
                    state.in_flight = Bytes::from(std::mem::take(&mut state.pending));
                }
                if state.in_flight.is_empty() {
                    return Ok(());
                }
                (state.in_flight.clone(), state.written)
            };
            let open = match file.take() {
                Some(open) => open,
                None => open_to_write(&self.path)?,
            };
            open.write_all_at(&chunk, at)?;
            file = Some(open);
            let mut state = lock(&self.state);
            state.written = at + chunk.len() as u64;
            state.in_flight = Bytes::new();
        }
    }

    /// Replaces what has been appended so far by what `content` answers, which must cover it; what is appended meanwhile
    /// follows. A failure changes nothing. Blocks.
    pub(super) fn replace(&self, content: impl FnOnce() -> Vec<u8>) -> io::Result<()> {
        let _writer = lock(&self.writer);
        let covered = lock(&self.state).pending.len();
        let content = content();
        atomic_file::replace(&self.path, &content, 0o640)?;
        let mut state = lock(&self.state);
        state.written = content.len() as u64;
        state.in_flight = Bytes::new();
        state.pending.drain(..covered);
        Ok(())
    }
}

fn open_to_write(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o640)
        .open(path)
}

impl Snapshot {
    /// What a file on disk holds, if it is there.
    pub(super) fn of_file(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            written: u64::MAX,
            in_flight: Bytes::new(),
            pending: Vec::new(),
        }
    }

    /// A reader of the bytes. A file that is not there has none. Opening and reading block.
    pub(super) fn reader(self) -> io::Result<impl BufRead> {
        let file = match File::open(&self.path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let written: Box<dyn BufRead> = match file {
            Some(file) => Box::new(BufReader::new(file.take(self.written))),
            None => Box::new(io::empty()),
        };
        let waiting = Cursor::new(self.in_flight).chain(Cursor::new(self.pending));
        Ok(written.chain(waiting))
    }

    /// The bytes. Blocks.
    pub(super) fn read(self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.reader()?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Runs `work` on the blocking pool; here and now where there is no runtime.
pub(super) fn run_blocking(work: impl FnOnce() + Send + 'static) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &tempfile::TempDir) -> Arc<AppendFile> {
        Arc::new(AppendFile::new(dir.path().join("deep/log"), 0))
    }

    #[test]
    fn a_snapshot_holds_every_appended_byte() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = file(&dir);
        assert_eq!(file.snapshot().read().expect("read"), b"");
        assert!(file.append(b"one\n"));
        // Put behind a flush that has not come yet.
        lock(&file.state).flush_due = true;
        assert!(file.append(b"two\n"));
        assert_eq!(file.snapshot().read().expect("read"), b"one\ntwo\n");
        assert_eq!(std::fs::read(&file.path).expect("read"), b"one\n");
        file.flush_logged();
        assert_eq!(std::fs::read(&file.path).expect("read"), b"one\ntwo\n");
        assert_eq!(file.length(), 8);
    }

    #[test]
    fn a_disk_that_refuses_loses_nothing_and_costs_bounded_memory() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = file(&dir);
        std::fs::write(dir.path().join("deep"), "in the way").expect("written");
        assert!(file.append(b"one\n"));
        assert!(file.flush().is_err());
        assert!(file.append(b"two\n"));
        assert!(!file.append(&vec![b'x'; PENDING_BYTES_MAX]));
        assert_eq!(file.length(), 8);
        std::fs::remove_file(dir.path().join("deep")).expect("removed");
        file.flush().expect("written");
        assert_eq!(std::fs::read(&file.path).expect("read"), b"one\ntwo\n");
    }

    #[test]
    fn replacing_drops_what_waits_and_goes_on_behind() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = file(&dir);
        assert!(file.append(b"old\n"));
        lock(&file.state).flush_due = true;
        assert!(file.append(b"waiting\n"));
        file.replace(|| b"new\n".to_vec()).expect("replaced");
        assert!(file.append(b"more\n"));
        file.flush().expect("written");
        assert_eq!(std::fs::read(&file.path).expect("read"), b"new\nmore\n");
    }
}
