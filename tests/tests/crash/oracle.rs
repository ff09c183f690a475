//! What must be true after a crash, whatever was going on.
//!
//! 1. While the daemon is down: every snapshot that a client was told is finished has its manifest, every manifest is that of
//!    a whole snapshot, and every chunk that was acknowledged in the session that was cut off is there (I1).
//! 2. The daemon starts. Every marker is true, so nothing is believed that is not there (I3); the list has the snapshots that
//!    have a manifest and no others.
//! 3. The next backup works at once; with it everything of this round restores, byte for byte, also a snapshot that was
//!    sealed without anybody being told.
//! 4. When T is over, collections leave exactly the chunks that are referenced, no folder without manifest, no upload or using
//!    marker, no temporary file, no journal; and nothing is missing.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::process::wait_for;
use pbs_datastore::Digest;

use super::plan::Side;
use super::site::{GROUP, Site, TIME_MAX, Told, read_journal};
use super::stored::{Stored, markers_are_true, remains};

/// Between two collections.
const PAUSE: Duration = Duration::from_millis(200);

/// What was going on when the daemon was killed.
#[derive(Debug)]
pub(crate) struct Round {
    /// The client that backed up.
    pub(crate) journal: Option<PathBuf>,
    /// The content of the backup that was cut off, or of any other, and its group.
    pub(crate) number: u64,
    pub(crate) group: String,
    /// How often the daemon was killed.
    pub(crate) kills: u64,
}

impl Round {
    /// Nobody backed up.
    pub(crate) fn quiet(site: &Site) -> Self {
        Self {
            journal: None,
            number: site.fresh_number(),
            group: GROUP.to_owned(),
            kills: 1,
        }
    }
}

fn all_told(site: &Site) -> Result<Told> {
    let mut all = Told::default();
    for journal in site.journals() {
        let told = read_journal(&journal)?;
        all.begun.extend(told.begun);
        all.finished.extend(told.finished);
    }
    Ok(all)
}

/// Part 1, and part 2 as far as it is about snapshots.
pub(crate) fn nothing_is_lost(site: &Site) -> Result<Stored> {
    let told = all_told(site)?;
    let stored = Stored::read(site)?;
    let sealed = stored.sealed_names();
    let lost: Vec<_> = told.finished.difference(&sealed).collect();
    ensure!(lost.is_empty(), "finished snapshots are lost: {lost:?}");
    let in_doubt = site.in_doubt();
    let strange: Vec<_> = sealed
        .iter()
        .filter(|name| !told.begun.contains(*name) && !in_doubt.contains(*name))
        .collect();
    ensure!(strange.is_empty(), "nobody made these: {strange:?}");
    stored.are_whole(site)?;
    Ok(stored)
}

/// Everything of the module page; the daemon is dead, and is stopped at the end.
pub(crate) fn survives(site: &Site, round: &Round) -> Result<()> {
    let stored = nothing_is_lost(site).context("while the daemon is down")?;
    if let Some(journal) = &round.journal {
        for digest in &read_journal(journal)?.acknowledged {
            stored.has(site, digest).context("it was acknowledged")?;
        }
    }
    site.daemon.start()?;
    goes_on(site, round)?;
    site.daemon.stop()
}

/// The same from part 2 on; the daemon runs.
pub(crate) fn goes_on(site: &Site, round: &Round) -> Result<()> {
    let stored = nothing_is_lost(site).context("after the start")?;
    markers_are_true(site, &stored).context("after the start")?;
    let listed = site.listed()?;
    ensure!(
        listed == stored.sealed_names(),
        "the list is {listed:?}, and these have a manifest: {:?}",
        stored.sealed_names()
    );
    let mut journals: Vec<_> = round.journal.iter().cloned().collect();
    journals.push(site.journal()?);
    site.check(&round.group, round.number, &journals)
        .context("the next backup and the restores")?;
    let stored = nothing_is_lost(site).context("after the next backup")?;
    markers_are_true(site, &stored).context("after the next backup")?;
    is_tidy_in_the_end(site)
}

/// Part 4.
pub(crate) fn is_tidy_in_the_end(site: &Site) -> Result<()> {
    let mut left = String::new();
    let tidy = wait_for(TIME_MAX, || {
        let mut tidy = || -> Result<bool> {
            let (told, status) = site.collect()?;
            if told.contains("last stop was not clean") {
                std::thread::sleep(PAUSE);
                return Ok(false);
            }
            ensure!(told == "OK", "the collection ended with '{told}': {status}");
            let (garbage, others) = what_is_left(site)?;
            left = format!("{garbage:?} {others:?}");
            let tidy = garbage.is_empty() && others.is_empty();
            if !tidy {
                std::thread::sleep(PAUSE);
            }
            Ok(tidy)
        };
        match tidy() {
            Ok(false) => None,
            Ok(true) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        }
    });
    tidy.with_context(|| format!("collections leave for ever: {left}"))?
}

/// Chunks that no snapshot needs, and other things that should not be there.
fn what_is_left(site: &Site) -> Result<(BTreeSet<Digest>, Vec<String>)> {
    let stored = nothing_is_lost(site).context("after a collection")?;
    markers_are_true(site, &stored).context("after a collection")?;
    let needed = stored.are_whole(site)?;
    let garbage = stored.chunks.difference(&needed).copied().collect();
    let mut others = remains(site)?;
    if site.side == Side::Directory {
        others.extend(
            stored
                .litter
                .iter()
                .filter(|name| name.contains("tmp"))
                .cloned(),
        );
    }
    if stored.set_aside > 0 {
        others.push(format!("{} chunks set aside", stored.set_aside));
    }
    if stored.unsealed() > 0 {
        others.push(format!("{} folders without manifest", stored.unsealed()));
    }
    Ok((garbage, others))
}
