//! Killed while it takes backups: insert, cache, known chunks, seal.

use anyhow::{Result, ensure};
use pbs_datastore::Step;

use super::oracle::Round;
use super::plan::Cell;
use super::site::{GROUP, Site, TIME_MAX};

/// Clients back up one snapshot after the other until the step is passed.
pub(crate) fn drive(site: &Site, cell: Cell) -> Result<Round> {
    let again = cell.step == Step::InsertTouched;
    // Somebody else has all of it already, and does not know.
    let number = if again { 0 } else { site.fresh_number() };
    let group = match cell.step {
        Step::InsertTouched => format!("again-{}", cell.passing),
        // A new group has an owner to be written.
        Step::EditPut => "new-group".to_owned(),
        _ => GROUP.to_owned(),
    };
    let journal = site.journal()?;
    site.start_to_die_at(cell)?;
    let mut client = site.start_backups(&group, number, &journal)?;
    let died = site.dies();
    let ended = client.wait(TIME_MAX);
    died?;
    ensure!(
        ended.is_some_and(|status| status.success()),
        "the client was refused something, or did not notice the kill: {ended:?}"
    );
    Ok(Round {
        journal: Some(journal),
        number,
        group,
        kills: 1,
    })
}
