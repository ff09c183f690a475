//! Killed while it removes a snapshot or what a backup has left, or changes a note.

use anyhow::{Context as _, Result, ensure};
use pbs_datastore::Step;
use serde_json::{Value, json};

use super::backups;
use super::oracle::Round;
use super::plan::{Cell, Side};
use super::site::{Name, STORE, Site};
use super::stored::Stored;

/// A snapshot is removed, or what is left of one that was never finished.
pub(crate) fn drive(site: &Site, cell: Cell) -> Result<Round> {
    if cell.step == Step::UnsealedRemoved {
        let stored = Cell {
            step: Step::SealStored,
            passing: 1,
        };
        let mut round = backups::drive(site, stored)?;
        site.start_to_die_at(cell)?;
        site.dies()?;
        round.kills += 1;
        return Ok(round);
    }
    site.daemon.start()?;
    let name = site.back_up("gone", site.fresh_number())?;
    site.daemon.stop()?;
    site.doubt(name.clone());
    site.start_to_die_at(cell)?;
    ensure!(site.forget(&name).is_err(), "the removal was answered");
    site.dies()?;
    ensure!(
        !Stored::read(site)?.sealed_names().contains(&name),
        "the manifest does not go first"
    );
    Ok(Round::quiet(site))
}

fn note(site: &Site, method: &str, name: &Name, text: Option<&str>) -> Result<Value> {
    let mut params = json!({"backup-type": "host", "backup-id": name.0, "backup-time": name.1});
    if let Some(text) = text {
        params["notes"] = text.into();
    }
    let query = format!(
        "?backup-type=host&backup-id={}&backup-time={}",
        name.0, name.1
    );
    let (query, params) = match text {
        Some(_) => ("", params),
        None => (query.as_str(), Value::Null),
    };
    let path = format!("admin/datastore/{STORE}/notes{query}");
    site.daemon.ask(method, &path, &params)?.data()
}

/// A note of a snapshot is changed, or the owner of a new group is written.
pub(crate) fn change(site: &Site, cell: Cell) -> Result<Round> {
    if cell.passing == 1 && site.side == Side::Bucket {
        return backups::drive(site, cell);
    }
    site.daemon.start()?;
    let name = site.back_up("noted", site.fresh_number())?;
    site.daemon.stop()?;
    site.doubt(name.clone());
    site.start_to_die_at(cell)?;
    note(site, "PUT", &name, Some("first")).context("the first change")?;
    ensure!(
        note(site, "PUT", &name, Some("second")).is_err(),
        "the second change was answered"
    );
    site.dies()?;
    site.daemon.start()?;
    let read = note(site, "GET", &name, None)?;
    ensure!(read == "second", "it was in the bucket, and is {read}");
    site.daemon.stop()?;
    Ok(Round::quiet(site))
}
