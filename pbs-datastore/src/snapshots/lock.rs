//! Locks of groups and snapshots, in this process.
//!
//! | lock | who holds it |
//! |---|---|
//! | group, exclusive | a backup or sync into the group; change of owner or notes; removal of the group |
//! | snapshot, exclusive | the writer of a snapshot; its removal |
//! | snapshot, shared | readers, a backup that builds on it, a change of notes or verify state |
//!
//! Nobody waits for a lock: who does not get it is told that the thing is busy. **Order**: a group before its snapshots.
//! Locks are held over requests to S3; that is what they are for.
//!
//! **A lock outlives its holder** (I8): a request whose answer was lost may take effect until T after it was given up.
//! [`Lock::note_lost`] records such a moment, and dropping the lock then keeps it, in the same mode, until T after the
//! last one; who meets nothing but that is told for how long. A process that dies forgets its locks; the waits of the
//! next start take their place.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Env;
use crate::error::{Error, Result};
use crate::sabotage::{self, Rule};

/// Kept locks are looked through when the table has grown by so many entries.
const PURGE_EVERY: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Exclusive,
    Shared,
}

#[derive(Debug, Default)]
struct Holders {
    exclusive: bool,
    shared: usize,
    exclusive_until: Option<Instant>,
    shared_until: Option<Instant>,
}

impl Holders {
    /// Forgets what was kept and has run out; answers whether anything is left.
    fn expire(&mut self, now: Instant) -> bool {
        self.exclusive_until = self.exclusive_until.filter(|until| *until > now);
        self.shared_until = self.shared_until.filter(|until| *until > now);
        let (held, until) = self.against(Mode::Exclusive);
        held || until.is_some()
    }

    /// What keeps `mode` out: whether somebody does who holds it, and until when what is kept does.
    fn against(&self, mode: Mode) -> (bool, Option<Instant>) {
        match mode {
            Mode::Exclusive => (
                self.exclusive || self.shared > 0,
                self.exclusive_until.max(self.shared_until),
            ),
            Mode::Shared => (self.exclusive, self.exclusive_until),
        }
    }
}

#[derive(Debug, Default)]
struct Table {
    held: BTreeMap<String, Holders>,
    purge_at: usize,
    /// Nobody gets a lock any more.
    closed: bool,
}

/// All locks of one datastore.
#[derive(Debug)]
pub(crate) struct Locks {
    env: Env,
    late_request_max: Duration,
    table: Mutex<Table>,
    released: Notify,
}

/// A lock, until it is dropped or later.
#[derive(Debug)]
pub struct Lock {
    locks: Arc<Locks>,
    name: String,
    mode: Mutex<Mode>,
    lost: Mutex<Option<Instant>>,
}

impl Locks {
    /// No lock. `late_request_max` is T, zero where requests are never late.
    pub(crate) fn new(env: &Env, late_request_max: Duration) -> Arc<Self> {
        Arc::new(Self {
            env: env.clone(),
            late_request_max,
            table: Mutex::default(),
            released: Notify::new(),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The exclusive lock on `name`. `busy` says in a sentence what it means that somebody else has it.
    pub(crate) fn exclusive(self: &Arc<Self>, name: &str, busy: &str) -> Result<Lock> {
        self.take(name, Mode::Exclusive, busy)
    }

    /// A shared lock on `name`.
    pub(crate) fn shared(self: &Arc<Self>, name: &str, busy: &str) -> Result<Lock> {
        self.take(name, Mode::Shared, busy)
    }

    fn take(self: &Arc<Self>, name: &str, mode: Mode, busy: &str) -> Result<Lock> {
        let now = self.env.instant();
        let mut table = self.table();
        if table.closed {
            return Err(Error::Closing);
        }
        if table.held.len() >= table.purge_at {
            table.held.retain(|_, holders| holders.expire(now));
            table.purge_at = table.held.len() + PURGE_EVERY;
        }
        let holders = table.held.entry(name.to_owned()).or_default();
        holders.expire(now);
        match holders.against(mode) {
            (true, _) => return Err(Error::Busy(busy.to_owned())),
            (false, Some(until)) => {
                return Err(Error::Busy(format!(
                    "{busy}: a request that got no answer from S3 may still take effect for {} s",
                    until.saturating_duration_since(now).as_secs() + 1
                )));
            }
            (false, None) => {}
        }
        match mode {
            Mode::Exclusive => holders.exclusive = true,
            Mode::Shared => holders.shared += 1,
        }
        Ok(Lock {
            locks: Arc::clone(self),
            name: name.to_owned(),
            mode: Mutex::new(mode),
            lost: Mutex::new(None),
        })
    }

    /// If nobody holds anything, and nothing is kept, nobody gets a lock from here on.
    pub(crate) fn close_if_empty(&self) -> bool {
        let now = self.env.instant();
        let mut table = self.table();
        table.held.retain(|_, holders| holders.expire(now));
        table.closed |= table.held.is_empty();
        table.closed
    }

    /// Whether nobody holds anything, and nothing is kept.
    pub(crate) fn is_empty(&self) -> bool {
        let now = self.env.instant();
        let mut table = self.table();
        table.held.retain(|_, holders| holders.expire(now));
        table.held.is_empty()
    }

    /// Waits until nobody holds `name` (design 8 f).
    pub(crate) async fn wait_unheld(&self, name: &str) {
        loop {
            let released = self.released.notified();
            let until = {
                let now = self.env.instant();
                let mut table = self.table();
                let Some(holders) = table.held.get_mut(name) else {
                    return;
                };
                if !holders.expire(now) {
                    return;
                }
                holders.exclusive_until.max(holders.shared_until)
            };
            match until {
                Some(until) => {
                    tokio::time::timeout_at(until, released).await.ok();
                }
                None => released.await,
            }
        }
    }
}

impl Lock {
    /// A request below the locked name was given up at this moment without an answer. `None` changes nothing.
    pub(crate) fn note_lost(&self, lost_at: Option<Instant>) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        *lost = (*lost).max(lost_at);
    }

    /// When the last request below the locked name was given up without an answer.
    pub(crate) fn lost(&self) -> Option<Instant> {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns an exclusive lock into a shared one.
    pub(crate) fn downgrade(&self) {
        let mut mode = self.mode.lock().unwrap_or_else(PoisonError::into_inner);
        if *mode == Mode::Exclusive {
            if let Some(holders) = self.locks.table().held.get_mut(&self.name) {
                holders.exclusive = false;
                holders.shared += 1;
            }
            *mode = Mode::Shared;
        }
    }

    /// Until when a request below the locked name may still take effect.
    pub(crate) fn settles_at(&self) -> Option<Instant> {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.map(|lost| lost + self.locks.late_request_max)
    }

    /// Waits until no request below the locked name can take effect any more.
    pub(crate) async fn settle(&self) {
        if sabotage::is_off(Rule::LostSealSettled) {
            return;
        }
        while let Some(until) = self.settles_at() {
            let now = self.locks.env.instant();
            if now >= until {
                return;
            }
            self.locks.env.sleep(until - now).await;
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let now = self.locks.env.instant();
        let until = self.settles_at().filter(|until| *until > now);
        let until = until.filter(|_| !sabotage::is_off(Rule::LockKept));
        let mode = *self.mode.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = self.locks.table();
        if let Some(holders) = table.held.get_mut(&self.name) {
            match mode {
                Mode::Exclusive => {
                    holders.exclusive = false;
                    holders.exclusive_until = holders.exclusive_until.max(until);
                }
                Mode::Shared => {
                    holders.shared -= 1;
                    holders.shared_until = holders.shared_until.max(until);
                }
            }
            if !holders.expire(now) {
                table.held.remove(&self.name);
            }
        }
        drop(table);
        self.locks.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::files::OsFiles;

    fn locks() -> Arc<Locks> {
        let env = Env::simulated(Timestamp::UNIX_EPOCH, 1, Arc::new(OsFiles));
        Locks::new(&env, Duration::from_mins(15))
    }

    #[tokio::test(start_paused = true)]
    async fn shared_holders_keep_an_exclusive_one_out_and_the_other_way_round() {
        let locks = locks();
        let (a, b) = (
            locks.shared("x", "busy").unwrap(),
            locks.shared("x", "busy").unwrap(),
        );
        assert!(matches!(locks.exclusive("x", "busy"), Err(Error::Busy(_))));
        assert!(locks.exclusive("y", "busy").is_ok());
        drop((a, b));
        let lock = locks.exclusive("x", "busy").unwrap();
        assert!(locks.shared("x", "busy").is_err());
        drop(lock);
        assert!(locks.table().held.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_table_was_empty_and_stays_so() {
        let locks = locks();
        let lock = locks.shared("x", "busy").unwrap();
        assert!(!locks.close_if_empty());
        drop(locks.exclusive("y", "busy").unwrap());
        drop(lock);
        assert!(locks.close_if_empty());
        assert!(matches!(locks.shared("x", "-"), Err(Error::Closing)));
        assert!(locks.is_empty() && locks.close_if_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_request_keeps_the_lock_for_the_late_request_bound() {
        let locks = locks();
        let lock = locks.exclusive("x", "busy").unwrap();
        lock.note_lost(Some(locks.env.instant()));
        locks.env.sleep(Duration::from_secs(100)).await;
        drop(lock);
        locks.env.sleep(Duration::from_secs(799)).await;
        let told = locks.shared("x", "busy").unwrap_err().to_string();
        assert!(
            told.starts_with("busy: ") && told.ends_with("for 2 s"),
            "{told}"
        );
        locks.wait_unheld("x").await;
        assert!(locks.exclusive("x", "busy").is_ok());
        // What is kept shared is shared, and says nothing while somebody holds it.
        let lock = locks.shared("x", "busy").unwrap();
        lock.note_lost(Some(locks.env.instant()));
        drop(lock);
        let told = locks.exclusive("x", "busy").unwrap_err().to_string();
        assert!(told.ends_with("for 901 s"), "{told}");
        let holder = locks.shared("x", "busy").unwrap();
        let told = locks.exclusive("x", "busy").unwrap_err().to_string();
        assert_eq!(told, "busy");
        drop(holder);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_the_last_holder() {
        let locks = locks();
        let lock = locks.shared("x", "busy").unwrap();
        let waiting = locks.env.spawn({
            let locks = Arc::clone(&locks);
            async move { locks.wait_unheld("x").await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(lock);
        waiting.await.unwrap();
    }
}
