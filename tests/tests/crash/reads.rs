//! Killed while it fills the cache, makes room in it, or sets a damaged chunk aside.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use holdfast_tests::content::noise;
use pbs_datastore::Step;
use pbs_datastore::{Digest, Place};
use s3_client::{ObjectKey, Put};

use super::oracle::Round;
use super::plan::{Cell, Side};
use super::site::{GROUP, STORE, Site, read_journal};
use super::stored::{files, get};

/// The largest chunk.
const LARGEST: u64 = 16 << 20;

fn markers(site: &Site) -> Result<Vec<PathBuf>> {
    let chunks = site.local_dir().join(".chunks");
    let found = files(&chunks)?;
    Ok(found.iter().map(|path| chunks.join(path)).collect())
}

/// Empties the markers, as eviction would.
fn evict_everything(site: &Site) -> Result<()> {
    for path in markers(site)? {
        let meta = fs::metadata(&path)?;
        let file = File::options().write(true).open(&path)?;
        file.set_len(0)?;
        let times = FileTimes::new()
            .set_accessed(meta.accessed()?)
            .set_modified(meta.modified()?);
        file.set_times(times)?;
    }
    Ok(())
}

/// A snapshot is restored that is not cached, or the cache is full.
pub(crate) fn drive(site: &Site, cell: Cell) -> Result<Round> {
    site.daemon.start()?;
    let number = site.fresh_number();
    let journal = site.back_up_told(GROUP, number)?;
    site.daemon.stop()?;
    if cell.step == Step::Evicted {
        let intruders = crowd(site, cell.passing)?;
        site.start_to_die_at(cell)?;
        site.dies()?;
        for path in intruders {
            fs::remove_file(path)?;
        }
    } else {
        evict_everything(site)?;
        site.start_to_die_at(cell)?;
        site.reads_until_death(&journal)?;
    }
    Ok(Round {
        journal: Some(journal),
        number,
        ..Round::quiet(site)
    })
}

/// Fills the cache with files that need no room on the disk, younger than all chunks, so that chunks are evicted.
fn crowd(site: &Site, seed: u64) -> Result<Vec<PathBuf>> {
    #[expect(clippy::disallowed_methods, reason = "the daemon has the same clock")]
    let young = SystemTime::now() + Duration::from_secs(1);
    let mut intruders = Vec::new();
    for number in 0..15 {
        let digest = Digest::of(&noise(seed * 100 + number, 64)).to_string();
        let dir = site.local_dir().join(".chunks").join(&digest[..4]);
        fs::create_dir_all(&dir)?;
        let path = dir.join(&digest);
        let file = File::create(&path)?;
        file.set_len(LARGEST)?;
        file.set_times(FileTimes::new().set_accessed(young))?;
        intruders.push(path);
    }
    Ok(intruders)
}

/// Damages a chunk where it is stored.
fn damage(site: &Site, digest: &Digest) -> Result<()> {
    let mut bytes = get(site, &Place::Chunk(*digest))?.to_vec();
    bytes[1000] ^= 1;
    let text = digest.to_string();
    let folder = format!(".chunks/{}", &text[..4]);
    match site.side {
        Side::Bucket => {
            let server = site.server()?;
            let key = ObjectKey::new(format!("{STORE}/{folder}/{text}"))?;
            let put = server.store().put(Put::new(key, Bytes::from(bytes)));
            server.runtime().block_on(put)?;
            evict_everything(site)
        }
        Side::Directory => {
            let path = site.local_dir().join(folder).join(text);
            let file = File::options().write(true).open(path)?;
            Ok(file.write_all_at(&bytes, 0)?)
        }
    }
}

/// A chunk is damaged, and somebody reads it. Afterwards backups of the same data heal it.
pub(crate) fn set_aside(site: &Site, cell: Cell) -> Result<Round> {
    site.daemon.start()?;
    let number = site.fresh_number();
    let journal = site.back_up_told(GROUP, number)?;
    site.daemon.stop()?;
    let told = read_journal(&journal)?;
    let digest = told.acknowledged.first().context("a chunk")?;
    damage(site, digest)?;
    site.start_to_die_at(cell)?;
    site.reads_until_death(&journal)?;
    site.daemon.start()?;
    let healed = (0..3).any(|attempt| {
        // It may meet the damaged chunk itself when it is compared.
        let _ = site
            .back_up(&format!("heals-{attempt}"), number)
            .map(|name| site.doubt(name));
        site.verify(std::slice::from_ref(&journal)).is_ok()
    });
    ensure!(healed, "backups of the same data do not heal it");
    for name in site.listed()? {
        if name.0.starts_with("heals") {
            site.doubt(name);
        }
    }
    site.daemon.stop()?;
    site.decoded
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .clear();
    Ok(Round {
        journal: Some(journal),
        number,
        ..Round::quiet(site)
    })
}
