//! Accounts that are locked after too many failed logins in a row (decision 0020).
//!
//! A *row* counts the failures of a user who has a password; it belongs to the password as it is stored, so a new one ends it. It ends by itself when a time as
//! long as a lock has passed without a further failure: whoever guesses more slowly tries no more passwords than somebody who waits out each lock. While a row
//! is full its user is locked: nothing is counted any more, so a lock ends in time whatever strangers do meanwhile, and the right password is refused as a wrong
//! one is. [`Lockout::judge`] is asked *after* the hash and decides in one step, so that of attempts under way together no more are judged than by one after the
//! other.
//!
//! Tickets, API tokens and the control socket are not asked here. Who is unknown or has no password cannot be locked, so the table has at most one row for each
//! user. Rows are kept in memory: a restart ends all locks, and nobody makes the daemon write by guessing. The clock is that of the daemon, which is never set
//! back; one that were would at most let a lock last its full time once more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::id::UserId;

/// When an account is locked, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LockRule {
    /// Failures in a row; 0 for never.
    pub(super) failures_max: u64,
    /// How long.
    pub(super) seconds: i64,
}

/// How a login went, before the lock is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tried {
    /// The password is right, and the account may be used.
    Good,
    /// It is not.
    Bad,
    /// What was sent was no guess, but a ticket that has ended.
    OldTicket,
}

/// What becomes of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is let in.
    Admitted,
    /// It is not.
    Refused,
    /// It is not, and with it the account is locked.
    Locked,
}

struct Row {
    /// The stored password whose failures these are.
    stored: String,
    failures: u64,
    /// The last of them.
    at: i64,
}

impl Row {
    /// When it ends by itself; `None` if it has.
    fn end(&self, rule: LockRule, now: i64) -> Option<i64> {
        let passed = (now - self.at).max(0);
        (passed < rule.seconds).then(|| now + rule.seconds - passed)
    }

    fn is_full(&self, rule: LockRule) -> bool {
        rule.failures_max > 0 && self.failures >= rule.failures_max
    }
}

/// The failures in a row of all users; clones share them.
#[derive(Clone, Default)]
pub(super) struct Lockout(Arc<Mutex<BTreeMap<UserId, Row>>>);

impl std::fmt::Debug for Lockout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lockout({} rows)", self.lock().len())
    }
}

impl Lockout {
    /// Counts a login of `user`, whose stored password is `stored`, and decides about it.
    pub(super) fn judge(
        &self,
        rule: LockRule,
        user: &UserId,
        stored: &str,
        tried: Tried,
        now: i64,
    ) -> Verdict {
        let mut rows = self.lock();
        let row = rows.remove(user);
        let row = row.filter(|row| row.stored == stored && row.end(rule, now).is_some());
        let mut row = row.unwrap_or_else(|| Row {
            stored: stored.to_owned(),
            failures: 0,
            at: now,
        });
        let locked = row.is_full(rule);
        if !locked && tried == Tried::Good {
            return Verdict::Admitted;
        }
        if !locked && tried == Tried::Bad && rule.failures_max > 0 {
            row.failures += 1;
            row.at = now;
        }
        let verdict = if !locked && row.is_full(rule) {
            Verdict::Locked
        } else {
            Verdict::Refused
        };
        if row.failures > 0 {
            rows.retain(|_, row| row.end(rule, now).is_some());
            rows.insert(user.clone(), row);
        }
        verdict
    }

    /// Until when the user with this stored password is locked, in Unix seconds.
    pub(super) fn locked_until(
        &self,
        rule: LockRule,
        user: &UserId,
        stored: &str,
        now: i64,
    ) -> Option<i64> {
        let rows = self.lock();
        let row = rows.get(user).filter(|row| row.stored == stored)?;
        row.end(rule, now).filter(|_| row.is_full(rule))
    }

    /// Ends the row of a user.
    pub(super) fn end(&self, user: &UserId) {
        self.lock().remove(user);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<UserId, Row>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: LockRule = LockRule {
        failures_max: 3,
        seconds: 600,
    };

    fn user(name: &str) -> UserId {
        format!("{name}@pbs").parse().expect("a user id")
    }

    fn judge(lockout: &Lockout, tried: Tried, now: i64) -> Verdict {
        lockout.judge(RULE, &user("a"), "hash", tried, now)
    }

    fn until(lockout: &Lockout, now: i64) -> Option<i64> {
        lockout.locked_until(RULE, &user("a"), "hash", now)
    }

    #[test]
    fn a_full_row_locks_and_the_lock_ends_in_time_whatever_is_tried() {
        let lockout = Lockout::default();
        assert_eq!(judge(&lockout, Tried::Bad, 1000), Verdict::Refused);
        assert_eq!(judge(&lockout, Tried::Bad, 1001), Verdict::Refused);
        assert_eq!(until(&lockout, 1001), None);
        assert_eq!(judge(&lockout, Tried::Bad, 1002), Verdict::Locked);
        for now in [1002, 1300, 1601] {
            assert_eq!(until(&lockout, now), Some(1602));
            assert_eq!(judge(&lockout, Tried::Good, now), Verdict::Refused);
            assert_eq!(judge(&lockout, Tried::Bad, now), Verdict::Refused);
        }
        assert_eq!(until(&lockout, 1602), None);
        assert_eq!(judge(&lockout, Tried::Good, 1602), Verdict::Admitted);
    }

    #[test]
    fn a_success_a_pause_a_new_password_and_an_administrator_end_a_row() {
        let lockout = Lockout::default();
        let fail_twice = |now| {
            judge(&lockout, Tried::Bad, now);
            judge(&lockout, Tried::Bad, now)
        };
        assert_eq!(fail_twice(1000), Verdict::Refused);
        assert_eq!(judge(&lockout, Tried::Good, 1000), Verdict::Admitted);
        assert_eq!(fail_twice(1000), Verdict::Refused);
        assert_eq!(fail_twice(1600), Verdict::Refused, "a lock's time is over");
        assert_eq!(judge(&lockout, Tried::Bad, 1600), Verdict::Locked);
        assert_eq!(
            lockout.locked_until(RULE, &user("a"), "another", 1600),
            None
        );
        let good = lockout.judge(RULE, &user("a"), "another", Tried::Good, 1600);
        assert_eq!(good, Verdict::Admitted);
        assert_eq!(fail_twice(1600), Verdict::Refused);
        lockout.end(&user("a"));
        assert_eq!(fail_twice(1600), Verdict::Refused);
    }

    #[test]
    fn old_tickets_lock_nobody_and_locks_can_be_switched_off() {
        let lockout = Lockout::default();
        for _ in 0..10 {
            assert_eq!(judge(&lockout, Tried::OldTicket, 1000), Verdict::Refused);
        }
        for _ in 0..3 {
            judge(&lockout, Tried::Bad, 1000);
        }
        assert!(until(&lockout, 1000).is_some());
        let off = LockRule {
            failures_max: 0,
            ..RULE
        };
        assert_eq!(lockout.locked_until(off, &user("a"), "hash", 1000), None);
        let good = lockout.judge(off, &user("a"), "hash", Tried::Good, 1000);
        assert_eq!(good, Verdict::Admitted);
        for _ in 0..10 {
            let bad = lockout.judge(off, &user("a"), "hash", Tried::Bad, 1000);
            assert_eq!(bad, Verdict::Refused);
        }
        assert!(lockout.lock().is_empty(), "nothing is counted");
    }

    #[test]
    fn a_clock_set_back_makes_a_lock_no_longer_than_it_is() {
        let lockout = Lockout::default();
        for _ in 0..3 {
            judge(&lockout, Tried::Bad, 1_000_000);
        }
        assert_eq!(until(&lockout, 1000), Some(1600));
        assert_eq!(until(&lockout, 1_000_600), None, "set forward again");
    }

    #[test]
    fn rows_that_have_ended_are_forgotten() {
        let lockout = Lockout::default();
        for number in 0..100 {
            let name = user(&number.to_string());
            lockout.judge(RULE, &name, "hash", Tried::Bad, 1000);
        }
        assert_eq!(lockout.lock().len(), 100);
        judge(&lockout, Tried::Bad, 1600);
        assert_eq!(lockout.lock().len(), 1);
    }
}
