//! A local copy of all objects below one prefix, each known by tag and size.
//!
//! The bucket is the truth and the copy is disposable (I3): [`Mirror::refresh`] makes it again from nothing. Reads and
//! listings of what is mirrored cost no request, but where a copy could not be written because the disk was full or
//! failed: that one is fetched when somebody looks ([`Mirror::catch_up`]).
//!
//! Write order of the mirror's owner
//! 1. Put or delete the object.
//! 2. [`Mirror::keep`] or [`Mirror::forget`]: change the local file, then the entry, then the log of entries.
//!
//! A crash after 1 leaves an old file or none; the next refresh sees another tag and fetches. A crash within 2 leaves a
//! file that no entry knows, or an entry whose file has another size: both are fetched again. The log is not synced; a
//! lost line costs one GET. Step 2 is carried out to its end under the mirror's lock even if the owner goes away.
//!
//! Refresh, beside everything else that goes on
//! 1. List all pages. Any error ends the refresh; nothing has been dropped then (I10).
//! 2. GET what is new or differs by tag or by the size of the local file.
//! 3. Drop what the complete listing does not have, entries first and files that no entry knows after that.
//!
//! What was kept or forgotten after the refresh began is newer than its listing and left alone.

mod behind;
mod fetch;
pub(crate) mod log;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use s3_client::{ETag, KeyPrefix, ListEntry, ListRequest, ObjectKey, ObjectStore, Optional as _};
use tokio::sync::{Mutex, MutexGuard, Semaphore};

use self::behind::Behind;
use self::fetch::{Fetched, Touched, room_for};
use crate::Env;
use crate::error::{About as _, Error, Result};
use crate::files::{FILE_MODE, Files, optional, replace};
use crate::index::INDEX_BYTES_MAX;

/// GETs of one refresh at the same time.
const FETCHES_MAX: usize = 16;
/// MiB they may bring together; a larger object is fetched alone.
const FETCH_MIB_MAX: u32 = 64;
/// Longest object that is mirrored: nothing that we read is longer.
const OBJECT_BYTES_MAX: u64 = INDEX_BYTES_MAX as u64;

/// Which keys are mirrored.
pub(crate) type Ours = Box<dyn Fn(&ObjectKey) -> bool + Send + Sync>;

/// What is known of a mirrored object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MirrorEntry {
    /// Tag of the object whose content the local file has.
    pub(crate) etag: ETag,
    /// Its length in bytes.
    pub(crate) size: u64,
}

#[derive(Debug)]
struct Known {
    entry: MirrorEntry,
    /// When it was last changed, by the count of changes.
    changed: u64,
}

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<String, Known>,
    /// Counts changes.
    changes: u64,
    touched: Touched,
    /// Nothing is fetched any more.
    closed: bool,
    log_bytes: u64,
    log_lines: usize,
}

/// What a refresh did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefreshStats {
    /// Objects in the listing.
    pub objects: u64,
    /// Objects fetched because they were new or differed.
    pub fetched: u64,
    /// Bytes of those.
    pub fetched_bytes: u64,
    /// Local files dropped because the bucket does not have them.
    pub dropped: u64,
}

/// New content of a local file.
#[derive(Debug)]
pub(crate) enum Content {
    /// The bytes.
    Bytes(Bytes),
    /// A complete file on the same file system, which is synced and moved.
    File(PathBuf),
}

/// Where a mirror is.
#[derive(Clone, Debug)]
pub(crate) struct MirrorFiles {
    /// The copies.
    pub(crate) root: PathBuf,
    /// The entries.
    pub(crate) log: PathBuf,
    /// Where files are made before they are moved to their place; on the same file system.
    pub(crate) temporary: PathBuf,
}

/// A local copy of a prefix. See the module page.
pub(crate) struct Mirror {
    env: Env,
    store: Arc<dyn ObjectStore>,
    prefix: KeyPrefix,
    ours: Ours,
    local: MirrorFiles,
    state: Mutex<State>,
    /// One refresh at a time.
    refresh: Mutex<()>,
    /// MiB that a refresh may still fetch at once.
    room: Semaphore,
    behind: Behind,
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Mirror({} in {})",
            self.prefix,
            self.local.root.display()
        )
    }
}

impl Mirror {
    /// The mirror of what of `prefix` is `ours`. Reads the entries; asks
    /// the bucket nothing. The names of our keys, without the prefix, are relative paths, and none is a directory of
    /// another.
    pub(crate) async fn open(
        env: &Env,
        store: Arc<dyn ObjectStore>,
        prefix: KeyPrefix,
        ours: Ours,
        local: MirrorFiles,
    ) -> Result<Self> {
        let (dir, path) = (local.root.clone(), local.log.clone());
        let (entries, log_bytes, log_lines) = env
            .io(move |files| {
                files.create_dirs(&dir).about(&dir)?;
                let parent = path.parent().unwrap_or(&path);
                files.create_dirs(parent).about(parent)?;
                log::read(files, &path).about(&path)
            })
            .await?;
        let known = entries
            .into_iter()
            .map(|(name, entry)| (name, Known { entry, changed: 0 }))
            .collect();
        let state = State {
            known,
            log_bytes,
            log_lines,
            ..State::default()
        };
        Ok(Self {
            env: env.clone(),
            store,
            prefix,
            ours,
            local,
            state: Mutex::new(state),
            refresh: Mutex::default(),
            room: Semaphore::new(FETCH_MIB_MAX as usize),
            behind: Behind::default(),
        })
    }

    /// The local path of an object.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.local.root.join(name)
    }

    /// What is known of an object.
    pub(crate) async fn entry(&self, name: &str) -> Option<MirrorEntry> {
        let state = self.state.lock().await;
        state.known.get(name).map(|known| known.entry.clone())
    }

    /// Step 2 after a put: the object has this content and tag.
    pub(crate) async fn keep(
        self: &Arc<Self>,
        name: &str,
        content: Content,
        entry: MirrorEntry,
    ) -> Result<()> {
        let (mirror, name) = (Arc::clone(self), name.to_owned());
        self.env
            .to_the_end(async move {
                // The lock is held over local files, never over a request: entries and files change together.
                let mut state = mirror.state.lock().await;
                if let Err(error) = mirror.write_file(&name, content, true).await {
                    state.touch(&name);
                    mirror.behind.add(&name, entry.size);
                    return Err(error);
                }
                mirror.behind.remove(&name);
                mirror.note(&mut state, &name, Some(entry)).await
            })
            .await
    }

    /// Step 2 after a delete: the object is gone.
    pub(crate) async fn forget(self: &Arc<Self>, name: &str) -> Result<()> {
        let (mirror, name) = (Arc::clone(self), name.to_owned());
        self.env
            .to_the_end(async move {
                let mut state = mirror.state.lock().await;
                mirror.behind.remove(&name);
                mirror.remove_file(&name).await?;
                mirror.note(&mut state, &name, None).await
            })
            .await
    }

    /// From here on nothing is fetched; what is being written has been when this returns.
    pub(crate) async fn close(&self) {
        self.state.lock().await.closed = true;
    }

    /// The state of a mirror that is not closed.
    async fn open_state(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state.lock().await;
        if state.closed {
            return Err(Error::Closing);
        }
        Ok(state)
    }

    /// Makes the copy the same as the bucket. See the module page.
    pub(crate) async fn refresh(self: &Arc<Self>) -> Result<RefreshStats> {
        let mirror = Arc::clone(self);
        self.env
            .to_the_end(async move { mirror.refresh_now().await })
            .await
    }

    async fn refresh_now(&self) -> Result<RefreshStats> {
        let _one = self.refresh.lock().await;
        let fetching = self.begin_fetch().await;
        let stats = self.refresh_since(fetching.began).await?;
        let mut state = self.open_state().await?;
        if stats.fetched + stats.dropped > 0 || state.log_lines > 2 * state.known.len() + 100 {
            self.rewrite_log(&mut state).await?;
        }
        Ok(stats)
    }

    async fn refresh_since(&self, began: u64) -> Result<RefreshStats> {
        let mut stats = RefreshStats::default();
        let mut gone = Vec::new();
        let mut request = ListRequest::new(self.prefix.clone());
        let mut after = String::new();
        loop {
            let page = self.store.list(&request).await?.value;
            let listed = self.listed(&page.entries);
            stats.objects += listed.len() as u64;
            let last = page.entries.last().map(|entry| entry.key.clone());
            let until = match (&last, page.truncated) {
                (Some(last), true) => self.prefix.strip(last).map(str::to_owned),
                _ => None,
            };
            gone.extend(self.absent(&listed, &after, until.as_deref(), began).await);
            let wanted = self.differing(&listed, began).await?;
            let fetched = stream::iter(wanted)
                .map(|(name, size)| async move {
                    let _room = self.room.acquire_many(room_for(size)).await;
                    let fetched = self.fetch_since(&name, began, false).await;
                    (name, fetched)
                })
                .buffer_unordered(FETCHES_MAX)
                // All come to their end, for none may be left in the middle of a write.
                .collect::<Vec<_>>()
                .await;
            for (name, fetched) in fetched {
                match fetched? {
                    Fetched::Here(size) => {
                        stats.fetched += 1;
                        stats.fetched_bytes += size;
                    }
                    Fetched::Newer => {}
                    Fetched::Gone => self.must_be_gone(&name).await?,
                }
            }
            match (last, until) {
                (Some(last), Some(until)) => {
                    request.start_after = Some(last.as_str().to_owned());
                    after = until;
                }
                _ if page.truncated => {
                    return Err(Error::Refused(format!(
                        "the listing of '{}' goes on and has no next page",
                        self.prefix
                    )));
                }
                _ => break,
            }
        }
        for name in gone {
            let mut state = self.open_state().await?;
            if state
                .known
                .get(&name)
                .is_some_and(|known| known.changed <= began)
            {
                self.remove_file(&name).await?;
                self.note(&mut state, &name, None).await?;
                stats.dropped += 1;
            }
        }
        stats.dropped += self.drop_strays().await?;
        Ok(stats)
    }

    /// An object that was listed and not found when it was read was deleted in between, or is not gone at all (I10).
    async fn must_be_gone(&self, name: &str) -> Result<()> {
        let key = self.key(name)?;
        match self.store.head(&key).await.optional()? {
            None => Ok(()),
            Some(_) => Err(Error::Refused(format!(
                "'{key}' is there and was not found when it was read; try again"
            ))),
        }
    }

    fn key(&self, name: &str) -> Result<ObjectKey> {
        self.prefix
            .key(name)
            .map_err(|e| Error::Invalid(e.to_string()))
    }

    /// The page's objects that are ours, by name. What else lies there is left alone, and in nobody's way.
    fn listed(&self, entries: &[ListEntry]) -> BTreeMap<String, MirrorEntry> {
        let mut listed = BTreeMap::new();
        for entry in entries {
            let name = self.prefix.strip(&entry.key).unwrap_or_default();
            if (self.ours)(&entry.key) && entry.size <= OBJECT_BYTES_MAX {
                let known = MirrorEntry {
                    etag: entry.etag.clone(),
                    size: entry.size,
                };
                listed.insert(name.to_owned(), known);
            } else if !name.ends_with('/') {
                tracing::warn!(key = %entry.key, "an object nobody of us writes is left alone");
            }
        }
        listed
    }

    /// Entries between two names that the listing does not have.
    async fn absent(
        &self,
        listed: &BTreeMap<String, MirrorEntry>,
        after: &str,
        until: Option<&str>,
        began: u64,
    ) -> Vec<String> {
        let state = self.state.lock().await;
        let start = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        state
            .known
            .range::<str, _>(start)
            .take_while(|(name, _)| until.is_none_or(|until| name.as_str() <= until))
            .filter(|(name, known)| known.changed <= began && !listed.contains_key(*name))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Listed objects whose local file is missing or differs, with their sizes.
    async fn differing(
        &self,
        listed: &BTreeMap<String, MirrorEntry>,
        began: u64,
    ) -> Result<Vec<(String, u64)>> {
        let mut wanted = Vec::new();
        let mut same = Vec::new();
        {
            let state = self.state.lock().await;
            for (name, entry) in listed {
                match state.known.get(name) {
                    Some(known) if known.changed > began => {}
                    Some(known) if known.entry == *entry => {
                        same.push((name.clone(), self.path(name), entry.size));
                    }
                    _ => wanted.push((name.clone(), entry.size)),
                }
            }
        }
        let damaged = self.env.io(move |files| {
            let mut damaged = Vec::new();
            for (name, path, size) in same {
                let stat = optional(files.stat(&path)).about(&path)?;
                if stat.is_none_or(|stat| stat.size != size || stat.is_dir) {
                    damaged.push((name, size));
                }
            }
            Ok::<_, Error>(damaged)
        });
        wanted.extend(damaged.await?);
        Ok(wanted)
    }

    /// Removes files that no entry knows, and directories left empty.
    async fn drop_strays(&self) -> Result<u64> {
        let root = self.local.root.clone();
        let found = self.env.io(move |files| walk(files, &root)).await?;
        let mut dropped = 0;
        for (name, is_dir) in found.into_iter().rev() {
            let state = self.open_state().await?;
            if is_dir {
                // Fails where it is not empty, which is what keeps those in use.
                let path = self.path(&name);
                self.env.io(move |files| files.remove_dir(&path).ok()).await;
            } else if !state.known.contains_key(&name) {
                self.remove_file(&name).await?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }

    async fn write_file(&self, name: &str, content: Content, sync: bool) -> Result<()> {
        let (path, temporary) = (self.path(name), self.local.temporary.clone());
        let unique = self.env.new_id();
        self.env
            .io(move |files| {
                let dir = path.parent().unwrap_or(&path);
                files.create_dirs(dir).about(dir)?;
                match content {
                    Content::Bytes(bytes) if sync => {
                        replace(files, &temporary, &path, &[bytes], &unique)
                    }
                    Content::Bytes(bytes) => {
                        let temporary = dir.join(format!(".{unique}.tmp"));
                        files
                            .create(&temporary, FILE_MODE, &[bytes], false)
                            .and_then(|()| files.rename(&temporary, &path))
                    }
                    // Synced by nobody yet, and a power loss would leave a file of the right length.
                    Content::File(from) => files
                        .sync(&from)
                        .and_then(|()| files.rename(&from, &path))
                        .and_then(|()| files.sync_dir(dir)),
                }
                .about(&path)
            })
            .await
    }

    /// Removes a file, and the directories above it that this leaves empty.
    async fn remove_file(&self, name: &str) -> Result<()> {
        let (path, root) = (self.path(name), self.local.root.clone());
        self.env
            .io(move |files| {
                optional(files.unlink(&path)).about(&path)?;
                remove_empty_above(files, &path, &root);
                Ok(())
            })
            .await
    }

    async fn note(
        &self,
        state: &mut MutexGuard<'_, State>,
        name: &str,
        entry: Option<MirrorEntry>,
    ) -> Result<()> {
        let line = log::line(name, entry.as_ref());
        state.change(name, entry);
        let (path, at, len) = (self.local.log.clone(), state.log_bytes, line.len() as u64);
        self.env
            .io(move |files| {
                if at == 0 && optional(files.stat(&path)).about(&path)?.is_none() {
                    files.create(&path, FILE_MODE, &[], false).about(&path)?;
                }
                files.write_at(&path, at, &line).about(&path)
            })
            .await?;
        state.log_bytes += len;
        state.log_lines += 1;
        Ok(())
    }

    async fn rewrite_log(&self, state: &mut MutexGuard<'_, State>) -> Result<()> {
        let lines = state
            .known
            .iter()
            .map(|(name, known)| Bytes::from(log::line(name, Some(&known.entry))))
            .collect::<Vec<_>>();
        state.log_lines = lines.len();
        state.log_bytes = lines.iter().map(|line| line.len() as u64).sum();
        let (local, unique) = (self.local.clone(), self.env.new_id());
        self.env
            .io(move |files| {
                files.sync_file_system(&local.root).about(&local.root)?;
                replace(files, &local.temporary, &local.log, &lines, &unique).about(&local.log)
            })
            .await
    }
}

impl State {
    fn change(&mut self, name: &str, entry: Option<MirrorEntry>) {
        self.changes += 1;
        let changed = self.changes;
        if let Some(entry) = entry {
            self.known.insert(name.to_owned(), Known { entry, changed });
        } else {
            self.known.remove(name);
            self.touched.add(name, changed);
        }
    }

    /// The object has changed, and the copy has not.
    fn touch(&mut self, name: &str) {
        self.changes += 1;
        self.touched.add(name, self.changes);
    }
}

/// Removes the directories between a removed file and `root`, up to the first that is not empty.
pub(crate) fn remove_empty_above(files: &dyn Files, path: &Path, root: &Path) {
    let mut dir = path.parent();
    while let Some(above) = dir.filter(|dir| *dir != root && dir.starts_with(root)) {
        if files.remove_dir(above).is_err() {
            return;
        }
        dir = above.parent();
    }
}

/// All files and directories below `root`, by name, each directory before what is in it.
fn walk(files: &dyn Files, root: &Path) -> Result<Vec<(String, bool)>> {
    let mut found = Vec::new();
    let mut dirs = vec![String::new()];
    while let Some(dir) = dirs.pop() {
        let path = root.join(&dir);
        for entry in optional(files.list(&path))
            .about(&path)?
            .unwrap_or_default()
        {
            let name = if dir.is_empty() {
                entry.name
            } else {
                format!("{dir}/{}", entry.name)
            };
            if entry.stat.is_dir {
                dirs.push(name.clone());
            }
            found.push((name, entry.stat.is_dir));
        }
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests;
