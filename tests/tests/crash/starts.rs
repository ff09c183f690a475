//! Killed while it starts or stops.

use std::fs;

use anyhow::Result;
use pbs_datastore::Step;

use super::oracle::Round;
use super::plan::Cell;
use super::site::{GROUP, Site};

/// After a clean stop, after the crash that follows, and without its cache directory.
pub(crate) fn drive(site: &Site, cell: Cell) -> Result<Round> {
    let mut kills = 0;
    let mut die = || -> Result<()> {
        site.begin_to_die_at(cell)?;
        kills += 1;
        site.dies()
    };
    if cell.step != Step::MarkersDropped {
        die()?;
        die()?;
    }
    fs::remove_dir_all(site.local_dir())?;
    die()?;
    Ok(Round {
        kills,
        ..Round::quiet(site)
    })
}

/// After a backup.
pub(crate) fn stop(site: &Site, cell: Cell) -> Result<Round> {
    site.start_to_die_at(cell)?;
    let journal = site.back_up_told(GROUP, site.fresh_number())?;
    site.daemon.ask_to_stop()?;
    site.dies()?;
    Ok(Round {
        journal: Some(journal),
        ..Round::quiet(site)
    })
}
