//! A hostile archive in the hands of `holdfast restore`.

use std::fs;
use std::path::Path;

use super::world::room;
use crate::client::progress::Progress;
use crate::client::tar::{ExtractOptions, extract};

const PRECIOUS: &[u8] = b"precious";

/// Restores a tar stream into an empty directory. Whatever it holds, nothing beside that directory is made, changed or
/// removed.
pub fn tar_restore(data: &[u8]) {
    let room = room();
    let (outside, target) = (room.path().join("outside"), room.path().join("target"));
    fs::create_dir(&outside).expect("made");
    fs::write(outside.join("precious"), PRECIOUS).expect("written");
    let progress = Progress::silent();
    let restored = extract(data, &target, ExtractOptions::default(), &progress);
    drop(restored);
    assert_eq!(
        names(room.path()),
        ["outside", "target"],
        "something stands beside the target"
    );
    assert_eq!(names(&outside), ["precious"], "something was put outside");
    let precious = fs::read(outside.join("precious")).expect("it is still there");
    assert_eq!(precious, PRECIOUS, "a file outside was changed");
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory of ours");
    let mut names: Vec<String> = entries
        .map(|entry| {
            let name = entry.expect("read").file_name();
            name.to_string_lossy().into_owned()
        })
        .collect();
    names.sort_unstable();
    names
}
