//! How often passwords may be tried, by user and by address, asked *before* a hash is computed.
//!
//! Each user and each address has a bucket of attempts. An attempt takes one from both and a success gives them back, so
//! whoever knows the password is never slowed down, however often a script logs in. Of IPv6 addresses the first
//! 64 bits count. The table is bounded: a full one forgets full buckets first, then the fullest.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::id::UserId;
use crate::clock::Clock;

/// Attempts a bucket holds.
const ATTEMPTS_MAX: i64 = 20;
/// Seconds until a bucket gets one attempt back.
const REFILL_SECONDS: i64 = 6;
/// Buckets kept; two are touched by each attempt.
const BUCKETS_MAX: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    User(UserId),
    Address(IpAddr),
}

/// Attempts left, counted in seconds of refill.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    seconds_left: i64,
    at: i64,
}

const FULL: i64 = ATTEMPTS_MAX * REFILL_SECONDS;

impl Bucket {
    fn refilled(self, now: i64) -> Self {
        let passed = (now - self.at).max(0);
        Self {
            seconds_left: (self.seconds_left + passed).min(FULL),
            at: now.max(self.at),
        }
    }
}

/// Too many attempts; how long until the next is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "too many failed logins for this user or from this address, try again in {retry_seconds} seconds"
)]
pub(crate) struct TooManyAttempts {
    /// Seconds, at least 1.
    pub(crate) retry_seconds: i64,
}

/// The attempts of all users and addresses.
#[derive(Debug, Clone)]
pub(crate) struct LoginLimit {
    clock: Clock,
    buckets: Arc<Mutex<BTreeMap<Key, Bucket>>>,
}

impl LoginLimit {
    /// Nobody has tried anything yet.
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            buckets: Arc::default(),
        }
    }

    /// Takes an attempt of `user` from `address`, known users or not.
    pub(crate) fn admit(
        &self,
        user: &UserId,
        address: IpAddr,
    ) -> Result<LoginAttempt, TooManyAttempts> {
        let now = self.clock.unix_seconds();
        let keys = [Key::User(user.clone()), Key::Address(network_of(address))];
        let mut buckets = self.lock();
        let mut missing = 0;
        for key in &keys {
            let left = buckets
                .get(key)
                .map_or(FULL, |bucket| bucket.refilled(now).seconds_left);
            missing = missing.max(REFILL_SECONDS - left);
        }
        if missing > 0 {
            return Err(TooManyAttempts {
                retry_seconds: missing,
            });
        }
        for key in &keys {
            make_room(&mut buckets, key, now);
            let bucket = buckets.entry(key.clone()).or_insert(Bucket {
                seconds_left: FULL,
                at: now,
            });
            *bucket = bucket.refilled(now);
            bucket.seconds_left -= REFILL_SECONDS;
        }
        drop(buckets);
        Ok(LoginAttempt {
            limit: self.clone(),
            keys,
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_room(buckets: &mut BTreeMap<Key, Bucket>, key: &Key, now: i64) {
    if buckets.len() < BUCKETS_MAX || buckets.contains_key(key) {
        return;
    }
    buckets.retain(|_, bucket| bucket.refilled(now).seconds_left < FULL);
    if buckets.len() >= BUCKETS_MAX {
        let fullest = buckets
            .iter()
            .max_by_key(|(_, bucket)| bucket.refilled(now).seconds_left)
            .map(|(key, _)| key.clone());
        if let Some(fullest) = fullest {
            buckets.remove(&fullest);
        }
    }
}

/// What counts as one address.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let s = v6.segments();
            IpAddr::V6(Ipv6Addr::new(s[0], s[1], s[2], s[3], 0, 0, 0, 0))
        }
        IpAddr::V4(v4) => IpAddr::V4(v4),
    }
}

/// An admitted attempt; counted unless it succeeds.
#[derive(Debug)]
#[must_use = "an attempt that is not reported as succeeded counts as failed"]
pub(crate) struct LoginAttempt {
    limit: LoginLimit,
    keys: [Key; 2],
}

impl LoginAttempt {
    /// The password was right: the attempt is given back.
    pub(crate) fn succeeded(self) {
        let now = self.limit.clock.unix_seconds();
        let mut buckets = self.limit.lock();
        for key in &self.keys {
            if let Some(bucket) = buckets.get_mut(key) {
                *bucket = bucket.refilled(now);
                bucket.seconds_left = (bucket.seconds_left + REFILL_SECONDS).min(FULL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TestClock;

    fn user(name: &str) -> UserId {
        format!("{name}@pbs").parse().expect("a user id")
    }

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn fail(limit: &LoginLimit, name: &str, address: IpAddr) -> bool {
        limit.admit(&user(name), address).is_ok()
    }

    #[test]
    fn failures_use_up_user_and_address() {
        let time = TestClock::at(1000);
        let limit = LoginLimit::new(time.clock());
        for i in 0..ATTEMPTS_MAX {
            assert!(fail(&limit, "a", v4(i as u8)));
        }
        assert!(!fail(&limit, "a", v4(200)), "the user is used up");
        for i in 0..ATTEMPTS_MAX {
            assert!(fail(&limit, &format!("b{i}"), v4(100)));
        }
        assert!(!fail(&limit, "c", v4(100)), "the address is used up");
        let error = limit.admit(&user("a"), v4(200)).expect_err("used up");
        assert_eq!(error.retry_seconds, REFILL_SECONDS);
        time.advance(REFILL_SECONDS - 1);
        assert!(!fail(&limit, "a", v4(200)));
        time.advance(1);
        assert!(fail(&limit, "a", v4(200)), "one attempt came back");
        assert!(!fail(&limit, "a", v4(200)));
        time.advance(-10_000);
        assert!(
            !fail(&limit, "a", v4(200)),
            "a clock set back gives nothing"
        );
    }

    #[test]
    fn successes_cost_nothing() {
        let limit = LoginLimit::new(TestClock::at(1000).clock());
        for _ in 0..10 * ATTEMPTS_MAX {
            limit
                .admit(&user("a"), v4(1))
                .expect("admitted")
                .succeeded();
        }
    }

    #[test]
    fn addresses_of_one_network_are_one() {
        let limit = LoginLimit::new(TestClock::at(1000).clock());
        for i in 0..ATTEMPTS_MAX {
            let address: IpAddr = format!("2001:db8::{i:x}").parse().expect("an address");
            assert!(fail(&limit, &format!("u{i}"), address));
        }
        let address: IpAddr = "2001:db8::ffff".parse().expect("an address");
        assert!(!fail(&limit, "other", address));
        let address: IpAddr = "2001:db8:0:1::1".parse().expect("an address");
        assert!(fail(&limit, "other", address));
        assert_eq!(
            network_of("::ffff:192.0.2.1".parse().expect("an address")),
            v4(1)
        );
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_worst() {
        let limit = LoginLimit::new(TestClock::at(1000).clock());
        while fail(&limit, "victim", v4(1)) {}
        for i in 0..BUCKETS_MAX as u32 / 2 + 200 {
            let address = IpAddr::from((0x0a00_0000 + i).to_be_bytes());
            assert!(fail(&limit, &format!("u{i}"), address));
        }
        assert!(limit.lock().len() <= BUCKETS_MAX);
        assert!(!fail(&limit, "victim", v4(2)), "still remembered");
    }
}
