//! The evictor: keeps room in the cache by emptying the markers of the chunks that were not used for longest.
//!
//! One eviction, of the oldest chunk
//! 1. Take its guard without waiting. Busy means in use: the chunk counts as just used, the next one is tried.
//! 2. A condemned digest is left to who condemned it. (To put a marker there would be to resurrect it.)
//! 3. Put an empty file with the times and the nature of the marker in its place, by rename, if there is a marker
//!    ([`Markers::replace`](crate::chunk_store::marker::Markers::replace)): readers keep the file they have open, and no
//!    touch is lost (I2, I6).
//! 4. Forget the entry.
//!
//! Crash in 3: a temporary file. The evictor waits for no guard, so whoever holds one may wait for the evictor.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use crate::Digest;
use crate::chunk_store::marker::Marker;
use crate::metrics::count;
use crate::sabotage::{self, Rule};
use crate::step::Step;

/// Busy chunks met in a row before the evictor lets the others work …
const BUSY_MAX: usize = 64;
/// … for so long.
const BUSY_WAIT: Duration = Duration::from_millis(10);

/// What became of one chunk.
enum Outcome {
    Evicted,
    Busy,
    Failed(io::Error),
}

/// Evicts until the cache is stopped.
pub(super) async fn run(inner: Arc<Inner>) {
    while inner.goes_on(inner.lru.pressed()).await {
        if !inner.make_room().await {
            return;
        }
    }
}

impl Inner {
    /// Evicts until there is room; `false` if the cache was stopped.
    async fn make_room(self: &Arc<Self>) -> bool {
        let mut busy = 0;
        while self.lru.wants_eviction() {
            let Some(digest) = self.lru.oldest() else {
                return true;
            };
            let pause = match self.evict(digest).await {
                Outcome::Evicted => {
                    count(&self.metrics.evictions);
                    busy = 0;
                    None
                }
                Outcome::Busy => {
                    count(&self.metrics.evictions_skipped);
                    self.lru.touch(&digest);
                    busy += 1;
                    (busy % BUSY_MAX.min(self.lru.len().max(1)) == 0).then_some(BUSY_WAIT)
                }
                Outcome::Failed(error) => {
                    self.failed(&error);
                    self.lru.touch(&digest);
                    Some(self.failure_pause())
                }
            };
            let wait = async {
                match pause {
                    Some(pause) => self.env.sleep(pause).await,
                    None => tokio::task::yield_now().await,
                }
            };
            if !self.goes_on(wait).await {
                return false;
            }
        }
        true
    }

    fn failure_pause(&self) -> Duration {
        let until = self.paused_until();
        until.map_or(BUSY_WAIT, |until| until - self.env.instant())
    }

    async fn evict(self: &Arc<Self>, digest: Digest) -> Outcome {
        if sabotage::is_off(Rule::EvictionGuarded) {
            return self.evict_unguarded(digest).await;
        }
        let Some(guard) = self.table.try_guard(digest) else {
            return Outcome::Busy;
        };
        if guard.is_condemned() {
            return Outcome::Busy;
        }
        let inner = Arc::clone(self);
        let emptied = self.env.io(move |files| inner.empty(files, &guard));
        match emptied.await {
            Ok(_) => {
                Step::Evicted.passed();
                Outcome::Evicted
            }
            Err(error) => Outcome::Failed(error),
        }
    }

    /// What eviction would be without the rule: it decides on what it saw before it had the guard.
    async fn evict_unguarded(self: &Arc<Self>, digest: Digest) -> Outcome {
        let inner = Arc::clone(self);
        let seen = self.env.io(move |files| inner.markers.get(files, &digest));
        let seen = seen.await;
        tokio::task::yield_now().await;
        let guard = self.table.guard(digest).await;
        let inner = Arc::clone(self);
        let emptied = self.env.io(move |files| {
            if let Some(seen) = seen? {
                let empty = Marker { size: 0, ..seen };
                let unique = inner.env.new_id();
                inner.markers.put(files, &guard, &[], empty, &unique)?;
            }
            inner.lru.forget(&digest);
            Ok(())
        });
        match emptied.await {
            Ok(()) => Outcome::Evicted,
            Err(error) => Outcome::Failed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cache::fixture::{Bounds, Fixture, at};
    use crate::files::OsFiles;

    #[tokio::test(start_paused = true)]
    async fn eviction_runs_under_the_guard() {
        for removed in [false, true] {
            let bounds = Bounds {
                cache: 8 * 112,
                ..Bounds::default()
            };
            let fixture = Fixture::new(bounds).await;
            let digest = fixture.insert(0, 100, at(0)).await;
            let guard = fixture.table.guard(digest).await;
            for n in 1..20 {
                fixture.insert(n, 100, at(i64::from(n))).await;
                fixture.quiet().await;
            }
            // What the holder of the guard does must not be undone by an eviction that began before.
            if removed {
                fixture.markers.remove(&OsFiles, &guard).unwrap();
            } else {
                assert!(fixture.markers.touch(&OsFiles, &digest, at(500)).unwrap());
            }
            drop(guard);
            for n in 20..40 {
                fixture.insert(n, 100, at(i64::from(n))).await;
                fixture.quiet().await;
            }
            assert!(!fixture.cache.contains(&digest), "it was evicted");
            let marker = fixture.marker(&digest);
            let expected = (!removed).then_some((0, at(500)));
            assert_eq!(marker.map(|marker| (marker.size, marker.used)), expected);
        }
    }
}
