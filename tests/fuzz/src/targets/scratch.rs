//! Files of ours in a cache directory, read from a directory that is emptied before each input.

use std::path::Path;

use tempfile::TempDir;

/// A directory in memory where the system has such a place.
pub(super) fn room() -> TempDir {
    let made = tempfile::Builder::new()
        .prefix("holdfast-fuzz-")
        .tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir());
    made.expect("a temporary directory")
}

fn within(read: impl FnOnce(&Path)) {
    thread_local! {
        static ROOM: TempDir = room();
    }
    ROOM.with(|room| read(&room.path().join("ours")));
}

/// `.holdfast/gc-journal`.
pub(super) fn gc_journal(data: &[u8]) {
    within(|dir| pbs_datastore::fuzz::gc_journal(data, dir));
}

/// `.holdfast/contents.log`.
pub(super) fn mirror_log(data: &[u8]) {
    within(|dir| pbs_datastore::fuzz::mirror_log(data, dir));
}
