//! What all measuring programs are told on the command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::binary;
use crate::process::say;

/// Exit code of a program that took too long, as `timeout` has it.
const TOO_LONG: i32 = 124;

/// Options of every measuring program.
#[derive(Clone, Debug, clap::Args)]
pub struct CommonArgs {
    /// The program to measure; built from this checkout, in the profile of this program, if not given.
    #[arg(long, value_name = "PATH")]
    holdfast: Option<PathBuf>,
    /// End with an error after so many seconds, whatever is going on.
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    seconds_max: u64,
    /// Decides all content.
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub seed: u64,
}

impl CommonArgs {
    /// To be called once, before anything is measured. All child processes end with this one, however it ends.
    pub fn begin(&self) -> Result<()> {
        if let Some(path) = &self.holdfast {
            binary::use_program(path)?;
        }
        binary::holdfast()?;
        let limit = Duration::from_secs(self.seconds_max);
        std::thread::spawn(move || {
            std::thread::sleep(limit);
            say(&format!("not done after {} s", limit.as_secs()));
            std::process::exit(TOO_LONG);
        });
        Ok(())
    }
}
