//! Fetching of single objects into the mirror: again because a copy looks wrong, for a refresh, or because a copy could
//! not be written when it was kept.
//!
//! One fetch
//! 1. Note the count of changes.
//! 2. GET.
//! 3. Under the mirror's lock: if the object was kept or forgotten since 1, or the mirror is closed, do nothing, for what
//!    came may be older. Otherwise write the file, then the entry.
//!
//! 2 and 3 are carried out to their end even if whoever asked goes away: a file that is written after its fetch has lost
//! the lock could undo somebody else's change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use s3_client::Optional as _;

use super::behind::Round;
use super::{Content, FETCH_MIB_MAX, Mirror, MirrorEntry};
use crate::error::{Error, Result};

/// How long whoever looks waits for copies that could not be written before.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(2);

/// What a fetch came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetched {
    /// The copy is what the bucket has; so many bytes.
    Here(u64),
    /// It was changed by somebody else meanwhile, and is newer than what came.
    Newer,
    /// The bucket has no such object. The copy is left to whoever deleted the object, or to the next refresh.
    Gone,
}

/// Since when somebody fetches.
pub(super) struct Fetching {
    pub(super) began: u64,
    _held: Arc<()>,
}

/// What was kept without success, or forgotten, while somebody fetches, and at which count of changes.
#[derive(Debug, Default)]
pub(super) struct Touched {
    names: BTreeMap<String, u64>,
    /// Held by whoever fetches, beside us.
    fetching: Arc<()>,
}

impl Touched {
    pub(super) fn add(&mut self, name: &str, changed: u64) {
        if Arc::strong_count(&self.fetching) > 1 {
            self.names.insert(name.to_owned(), changed);
        } else {
            self.names.clear();
        }
    }

    pub(super) fn since(&self, name: &str, began: u64) -> bool {
        self.names.get(name).is_some_and(|at| *at > began)
    }
}

impl Mirror {
    /// Step 1.
    pub(super) async fn begin_fetch(&self) -> Fetching {
        let state = self.state.lock().await;
        Fetching {
            began: state.changes,
            _held: Arc::clone(&state.touched.fetching),
        }
    }

    /// Fetches one object again, whatever is known of it; `false` if the bucket has none.
    pub(crate) async fn fetch(self: &Arc<Self>, name: &str) -> Result<bool> {
        let (mirror, name) = (Arc::clone(self), name.to_owned());
        let fetching = async move {
            let size = mirror.entry(&name).await.map_or(0, |entry| entry.size);
            mirror.fetch_now(&name, size).await
        };
        Ok(self.env.to_the_end(fetching).await? != Fetched::Gone)
    }

    /// `size` is how long the object was when it was last heard of.
    async fn fetch_now(&self, name: &str, size: u64) -> Result<Fetched> {
        let _room = self.room.acquire_many(room_for(size)).await;
        let fetching = self.begin_fetch().await;
        self.fetch_since(name, fetching.began, true).await
    }

    /// Steps 2 and 3.
    pub(super) async fn fetch_since(&self, name: &str, began: u64, sync: bool) -> Result<Fetched> {
        let key = self.key(name)?;
        let object = self.store.get(&key, None).await.optional()?;
        let mut state = self.open_state().await?;
        let known = state.known.get(name);
        if known.is_some_and(|known| known.changed > began) || state.touched.since(name, began) {
            return Ok(Fetched::Newer);
        }
        let Some(object) = object else {
            self.behind.remove(name);
            return Ok(Fetched::Gone);
        };
        let object = object.value.whole(&key, None)?;
        let entry = MirrorEntry {
            etag: object.meta.etag,
            size: object.meta.size,
        };
        let size = entry.size;
        self.write_file(name, Content::Bytes(object.body.into_bytes()), sync)
            .await?;
        self.behind.remove(name);
        if sync {
            self.note(&mut state, name, Some(entry)).await?;
        } else {
            // Logged at the end of the refresh, after all files have been synced.
            state.change(name, Some(entry));
        }
        Ok(Fetched::Here(size))
    }

    /// Before anybody looks: has what could not be written when it was kept fetched, if it is time to try again, and
    /// waits for that a little.
    pub(crate) async fn catch_up(self: &Arc<Self>) {
        let Some(round) = self.behind.begin(self.env.instant()) else {
            return;
        };
        let mirror = Arc::clone(self);
        let catching_up = self
            .env
            .spawn(async move { mirror.fetch_behind(round).await });
        // Whoever looks later sees the rest.
        drop(tokio::time::timeout(LOOK_WAIT_MAX, catching_up).await);
    }

    async fn fetch_behind(&self, round: Round) {
        for (name, size) in round.names() {
            match self.fetch_now(&name, size).await {
                Ok(Fetched::Here(_)) => tracing::info!(%name, "the local copy is there now"),
                Ok(Fetched::Newer | Fetched::Gone) => {}
                Err(Error::Store(error)) => {
                    tracing::debug!(%name, %error, "the local copy is still missing");
                }
                Err(error) => {
                    // Most likely there is no room for the others either. The next round begins with the next one.
                    tracing::debug!(%name, %error, "the local copy can still not be written");
                    round.go_on_after(&name);
                    return;
                }
            }
        }
    }
}

/// How much of the room for fetches an object takes, in MiB.
pub(super) fn room_for(size: u64) -> u32 {
    let mib = u32::try_from(size >> 20).unwrap_or(u32::MAX);
    mib.saturating_add(1).min(FETCH_MIB_MAX)
}
