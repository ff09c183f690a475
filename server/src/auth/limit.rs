//! How often passwords may be tried, by user and by address, asked *before* a hash is computed.
//!
//! Each user and each address has a bucket of failures; a wrong password takes one from both. Attempts under way could all
//! turn out wrong, so there are never more of them than failures left: further ones wait, in order, in one bounded queue,
//! until one has ended. Whoever knows the password waits a little at most, however many log in at once; whoever does not
//! gets no more tries by asking for many together. Of IPv6 addresses the first 64 bits count. The table is bounded: a full
//! one forgets full buckets first, then the fullest; buckets with attempts under way stay.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::AuthError;
use super::id::UserId;
use super::password::PasswordError;
use crate::clock::Clock;

/// Failures a bucket holds.
const ATTEMPTS_MAX: i64 = 20;
/// Seconds until a bucket gets one failure back.
const REFILL_SECONDS: i64 = 6;
/// Attempts that may wait for others to end.
const WAITING_MAX: usize = 512;
/// Buckets kept; two are touched by each attempt.
const BUCKETS_MAX: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    User(UserId),
    Address(IpAddr),
}

/// Failures left, counted in seconds of refill, and attempts under way.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    seconds_left: i64,
    at: i64,
    open: i64,
}

const FULL: i64 = ATTEMPTS_MAX * REFILL_SECONDS;

impl Bucket {
    fn refilled(self, now: i64) -> Self {
        let passed = (now - self.at).max(0);
        Self {
            seconds_left: (self.seconds_left + passed).min(FULL),
            at: now.max(self.at),
            open: self.open,
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

/// What an attempt is counted by.
type Keys = [Key; 2];

#[derive(Debug, Default)]
struct State {
    buckets: BTreeMap<Key, Bucket>,
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    keys: Keys,
    answer: oneshot::Sender<Result<LoginAttempt, TooManyAttempts>>,
}

/// What may become of an attempt now.
enum Turn {
    Now,
    Wait,
    Never(TooManyAttempts),
}

/// The attempts of all users and addresses.
#[derive(Debug, Clone)]
pub(crate) struct LoginLimit {
    clock: Clock,
    state: Arc<Mutex<State>>,
}

impl LoginLimit {
    /// Nobody has tried anything yet.
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            state: Arc::default(),
        }
    }

    /// Lets `user`, known or not, try a password from `address`; waits while as many attempts are under way as may fail.
    pub(crate) async fn admit(
        &self,
        user: &UserId,
        address: IpAddr,
    ) -> Result<LoginAttempt, AuthError> {
        let keys = [Key::User(user.clone()), Key::Address(network_of(address))];
        let answer = {
            let now = self.clock.unix_seconds();
            let mut state = self.lock();
            match state.turn(&keys, now) {
                Turn::Now => {
                    state.begin(&keys, now);
                    return Ok(self.attempt(keys));
                }
                Turn::Never(error) => return Err(error.into()),
                Turn::Wait => {}
            }
            if state.waiting.len() >= WAITING_MAX {
                return Err(PasswordError::Busy.into());
            }
            let (sender, answer) = oneshot::channel();
            state.waiting.push_back(Waiter {
                keys,
                answer: sender,
            });
            answer
        };
        match answer.await {
            Ok(result) => Ok(result?),
            Err(_) => Err(PasswordError::Busy.into()),
        }
    }

    fn attempt(&self, keys: Keys) -> LoginAttempt {
        LoginAttempt {
            limit: self.clone(),
            keys,
            failed: true,
        }
    }

    /// An attempt has ended; those that waited for it are answered, without the lock.
    fn end(&self, keys: &Keys, failed: bool) {
        let now = self.clock.unix_seconds();
        let mut answered = Vec::new();
        {
            let mut state = self.lock();
            state.end(keys, failed, now);
            for waiter in std::mem::take(&mut state.waiting) {
                if waiter.answer.is_closed() {
                    continue;
                }
                match state.turn(&waiter.keys, now) {
                    Turn::Now => {
                        state.begin(&waiter.keys, now);
                        answered.push((waiter.answer, Ok(self.attempt(waiter.keys))));
                    }
                    Turn::Never(error) => answered.push((waiter.answer, Err(error))),
                    Turn::Wait => state.waiting.push_back(waiter),
                }
            }
        }
        for (waiter, answer) in answered {
            if let Err(Ok(attempt)) = waiter.send(answer) {
                attempt.forgive();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn turn(&self, keys: &Keys, now: i64) -> Turn {
        let (mut missing, mut free) = (0, true);
        for key in keys {
            let Some(bucket) = self.buckets.get(key).map(|bucket| bucket.refilled(now)) else {
                continue;
            };
            missing = missing.max(REFILL_SECONDS - bucket.seconds_left);
            free &= bucket.seconds_left >= (bucket.open + 1) * REFILL_SECONDS;
        }
        match (missing, free) {
            (1.., _) => Turn::Never(TooManyAttempts {
                retry_seconds: missing,
            }),
            (_, true) => Turn::Now,
            (_, false) => Turn::Wait,
        }
    }

    fn begin(&mut self, keys: &Keys, now: i64) {
        for key in keys {
            make_room(&mut self.buckets, key, now);
            let bucket = self.buckets.entry(key.clone()).or_insert(Bucket {
                seconds_left: FULL,
                at: now,
                open: 0,
            });
            *bucket = bucket.refilled(now);
            bucket.open += 1;
        }
    }

    fn end(&mut self, keys: &Keys, failed: bool, now: i64) {
        for key in keys {
            let Some(bucket) = self.buckets.get_mut(key) else {
                continue;
            };
            *bucket = bucket.refilled(now);
            bucket.open -= 1;
            if failed {
                bucket.seconds_left -= REFILL_SECONDS;
            }
        }
    }
}

fn make_room(buckets: &mut BTreeMap<Key, Bucket>, key: &Key, now: i64) {
    if buckets.len() < BUCKETS_MAX || buckets.contains_key(key) {
        return;
    }
    buckets.retain(|_, bucket| bucket.open > 0 || bucket.refilled(now).seconds_left < FULL);
    if buckets.len() >= BUCKETS_MAX {
        let fullest = buckets
            .iter()
            .filter(|(_, bucket)| bucket.open == 0)
            .max_by_key(|(_, bucket)| bucket.refilled(now).seconds_left)
            .map(|(key, _)| key.clone());
        if let Some(fullest) = fullest {
            buckets.remove(&fullest);
        }
    }
}

/// What counts as one address.
pub(crate) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let s = v6.segments();
            IpAddr::V6(Ipv6Addr::new(s[0], s[1], s[2], s[3], 0, 0, 0, 0))
        }
        IpAddr::V4(v4) => IpAddr::V4(v4),
    }
}

/// An admitted attempt; counted as a failure when it is dropped without being forgiven.
#[derive(Debug)]
#[must_use = "an attempt that is not forgiven counts as failed"]
pub(crate) struct LoginAttempt {
    limit: LoginLimit,
    keys: Keys,
    failed: bool,
}

impl LoginAttempt {
    /// The password was right, or was not looked at: nothing is counted.
    pub(crate) fn forgive(mut self) {
        self.failed = false;
    }
}

impl Drop for LoginAttempt {
    fn drop(&mut self) {
        self.limit.end(&self.keys, self.failed);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::clock::TestClock;

    fn user(name: &str) -> UserId {
        format!("{name}@pbs").parse().expect("a user id")
    }

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    /// Whether one more failure was let through. Never waits.
    fn fail(limit: &LoginLimit, name: &str, address: IpAddr) -> bool {
        let admitted = limit.admit(&user(name), address).now_or_never();
        admitted.expect("nothing is under way").is_ok()
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
        let refused = limit.admit(&user("a"), v4(200)).now_or_never();
        let expected = TooManyAttempts {
            retry_seconds: REFILL_SECONDS,
        };
        assert_eq!(
            refused.expect("at once").map(drop),
            Err(AuthError::TooMany(expected))
        );
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

    #[tokio::test]
    async fn successes_cost_nothing_however_many_are_under_way() {
        let limit = LoginLimit::new(TestClock::at(1000).clock());
        let name = user("a");
        let mut logins: Vec<_> = (0..10 * ATTEMPTS_MAX)
            .map(|_| Box::pin(limit.admit(&name, v4(1))))
            .collect();
        let mut admitted = Vec::new();
        for _ in 0..10 * ATTEMPTS_MAX {
            // All of them ask, and those that are not admitted wait.
            let mut waiting = Vec::new();
            for mut login in logins {
                match futures_util::poll!(&mut login) {
                    Poll::Ready(result) => admitted.push(result.expect("never refused")),
                    Poll::Pending => waiting.push(login),
                }
            }
            logins = waiting;
            assert!(admitted.len() as i64 <= ATTEMPTS_MAX, "all could fail");
            admitted.remove(0).forgive();
            tokio::task::yield_now().await;
        }
        assert!(logins.is_empty() && admitted.is_empty());
        assert!(limit.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn asking_for_many_at_once_gives_no_more_tries() {
        let limit = LoginLimit::new(TestClock::at(1000).clock());
        let mut under_way = Vec::new();
        for i in 0..ATTEMPTS_MAX {
            under_way.push(limit.admit(&user("a"), v4(i as u8)).await.expect("first"));
        }
        let victim = user("a");
        let mut late = Box::pin(limit.admit(&victim, v4(100)));
        assert!(futures_util::poll!(&mut late).is_pending());
        let mut gone = Box::pin(limit.admit(&victim, v4(101)));
        assert!(futures_util::poll!(&mut gone).is_pending());
        drop(gone);
        drop(under_way);
        assert!(matches!(late.await, Err(AuthError::TooMany(_))));
        assert!(fail(&limit, "b", v4(101)), "who left is not counted");
    }

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let limit = LoginLimit::new(TestClock::at(1000).clock());
        let name = user("a");
        let mut logins = Vec::new();
        for _ in 0..ATTEMPTS_MAX as usize + WAITING_MAX {
            let mut login = Box::pin(limit.admit(&name, v4(1)));
            let attempt = match futures_util::poll!(&mut login) {
                Poll::Ready(result) => Some(result.expect("admitted")),
                Poll::Pending => None,
            };
            logins.push((login, attempt));
        }
        let one_more = limit.admit(&name, v4(1)).await;
        let busy = AuthError::Password(PasswordError::Busy);
        assert_eq!(one_more.map(drop), Err(busy));
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
        assert!(limit.lock().buckets.len() <= BUCKETS_MAX);
        assert!(!fail(&limit, "victim", v4(2)), "still remembered");
    }
}
