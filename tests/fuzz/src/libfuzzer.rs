//! One target under libFuzzer: the name is in `HOSTILE_TARGET`. Started by `cargo hostile long`.
#![no_main]

use std::sync::LazyLock;

use holdfast_fuzz::judge::{judge, warm_up};
use holdfast_fuzz::report::say;
use holdfast_fuzz::targets::{Target, find};
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = std::env::var("HOSTILE_TARGET").expect("HOSTILE_TARGET names a target");
    let target = find(&name).expect("a target");
    warm_up(target);
    target
});

fuzz_target!(|data: &[u8]| {
    if let Err(finding) = judge(&TARGET, data) {
        // libFuzzer keeps the input of a process that dies.
        say(&format!(
            "FOUND {}: {}: {}",
            TARGET.name, finding.place, finding.what
        ));
        std::process::abort();
    }
});
