//! The daemon is killed with uploads open. The long version is `cargo crash`.

use anyhow::{Result, ensure};
use holdfast_tests::crash::{crash_loop, say_report};

#[test]
fn what_was_acknowledged_survives_a_kill() -> Result<()> {
    let report = crash_loop(3, 7)?;
    say_report(&report);
    ensure!(report.kills == 3 && report.acknowledged > 0, "{report:?}");
    Ok(())
}
