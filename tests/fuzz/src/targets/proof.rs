//! Targets that do what no target may: `cargo hostile prove` expects each to be found out. An empty input does nothing.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Panics.
pub(super) fn panic(data: &[u8]) {
    assert!(data.is_empty(), "as it was told");
}

/// Panics where nobody looks at the result.
pub(super) fn panic_beside(data: &[u8]) {
    let told = !data.is_empty();
    drop(std::thread::spawn(move || assert!(!told, "beside")).join());
}

/// Takes more processor time than it may.
#[expect(clippy::disallowed_methods, reason = "real time is what this is about")]
pub(super) fn time(data: &[u8]) {
    let start = Instant::now();
    while !data.is_empty() && start.elapsed() < Duration::from_secs(8) {
        black_box(data);
    }
}

/// Waits for what never comes.
pub(super) fn endless(data: &[u8]) {
    while !data.is_empty() {
        std::thread::park();
    }
}

/// Reserves more memory than it may, and never touches it.
pub(super) fn memory(data: &[u8]) {
    if !data.is_empty() {
        black_box(Vec::<u8>::with_capacity(513 << 20));
    }
}

/// Calls itself without end.
pub(super) fn stack(data: &[u8]) {
    fn deeper(depth: u64) -> u64 {
        let room = black_box([depth; 64]);
        if black_box(depth) == u64::MAX {
            0
        } else {
            deeper(depth + 1) + room[1]
        }
    }
    if !data.is_empty() {
        black_box(deeper(0));
    }
}
