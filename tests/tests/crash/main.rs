//! Crashes and disks: the real binary is killed at every numbered step of its protocols, its disks are full, read-only,
//! slow, its clock is wrong; and nothing that was promised is lost.
//!
//! `plan.rs` is the table of steps, `oracle.rs` says what must be true after each crash. The lanes run at the same time, as
//! most of what they do is to wait until late requests cannot matter; `CRASH_LANES=seals,reads` runs some. The table with
//! the result of every kill is written to `target/tmp/crash-steps.txt`.

mod at_every_step;
mod backups;
mod clock;
mod collections;
mod configuration;
mod disks;
mod oracle;
mod plan;
mod reads;
mod removals;
mod site;
mod small_files;
mod starts;
mod stored;
