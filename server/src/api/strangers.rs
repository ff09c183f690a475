//! Who could not prove who it is, in the audit log: one line for each address (of IPv6 the first 64 bits) and
//! [`EVERY_SECONDS`], with how often it
//! happened, so that neither guessing nor a client with an old ticket fills the log. The table is bounded; a full one
//! forgets whoever was written down longest ago.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use http::request::Parts;

use super::error::ApiError;
use crate::auth::{Authority, Credentials, Principal, network_of};

/// Seconds between two lines about an address.
const EVERY_SECONDS: i64 = 10;
/// Addresses in the table.
const ADDRESSES_MAX: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Seen {
    /// When the last line was written.
    at: i64,
    /// Failures since.
    since: u64,
}

/// Failures to authenticate, by address.
#[derive(Debug, Default)]
pub(crate) struct Strangers(Mutex<BTreeMap<IpAddr, Seen>>);

impl Strangers {
    /// Who sent a request from `address` at `now` (Unix seconds), proven. Failures with credentials are written down;
    /// without any it is no attempt.
    pub(crate) fn identify(
        &self,
        authority: &Authority,
        head: &Parts,
        address: IpAddr,
        now: i64,
    ) -> Result<Principal, ApiError> {
        let credentials = Credentials::of(&head.headers);
        let who = authority.authenticate(&head.method, credentials.as_ref());
        if who.is_err()
            && let Some(credentials) = &credentials
        {
            self.refused(address, &credentials.claimed(), now);
        }
        Ok(who?)
    }

    /// Writes a line about a failure at `now` (Unix seconds), unless there is a fresh one. `claimed` is who it said to be.
    pub(super) fn refused(&self, address: IpAddr, claimed: &str, now: i64) {
        if let Some(failures) = self.count(address, now) {
            tracing::warn!(target: "audit", from = %address, claimed, failures, "authentication failed");
        }
    }

    /// How many failures a line written now stands for; `None` if there is to be none.
    fn count(&self, address: IpAddr, now: i64) -> Option<u64> {
        let address = network_of(address);
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = table.get_mut(&address) {
            seen.since += 1;
            if (0..EVERY_SECONDS).contains(&(now - seen.at)) {
                return None;
            }
            let failures = seen.since;
            *seen = Seen { at: now, since: 0 };
            return Some(failures);
        }
        if table.len() >= ADDRESSES_MAX {
            let oldest = table.iter().min_by_key(|(_, seen)| seen.at);
            if let Some(oldest) = oldest.map(|(address, _)| *address) {
                table.remove(&oldest);
            }
        }
        table.insert(address, Seen { at: now, since: 0 });
        Some(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_few_and_failures_are_counted() {
        let strangers = Strangers::default();
        let address = |last: u32| IpAddr::from((0x0a00_0000 + last).to_be_bytes());
        assert_eq!(strangers.count(address(1), 1000), Some(1));
        assert_eq!(strangers.count(address(2), 1000), Some(1));
        for _ in 0..5 {
            assert_eq!(strangers.count(address(1), 1009), None);
        }
        assert_eq!(strangers.count(address(1), 1010), Some(6));
        assert_eq!(strangers.count(address(1), 1011), None);
        assert_eq!(strangers.count(address(1), 5), Some(2), "a clock set back");
        for last in 0..2 * ADDRESSES_MAX as u32 {
            strangers.count(address(10 + last), 2000);
        }
        let table = strangers.0.lock().expect("not poisoned");
        assert_eq!(table.len(), ADDRESSES_MAX);
    }
}
