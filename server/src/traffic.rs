//! How fast clients may be: the rules of the configuration, and which of them a connection is under.
//!
//! A rule has two buckets, one for each direction, which all connections under it share. A connection is under one rule at most, the one that says most of it:
//! 1. one that names its API token, before one that names its user, before one that names nobody; who it is, is known from the upgrade to the backup or reader
//!    protocol on, or from the first download;
//! 2. of these, the one with the smallest network that holds its address, before one that names no network;
//! 3. of these, the first by name.
//!
//! Changes take effect at once, on open connections too: each looks, for each piece that it reads or writes, at one number that a change raises. That is all
//! that a connection costs while there are no rules. A rule that did not change keeps its buckets. Nothing here is written to disk: after a restart the
//! buckets are full.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use crate::auth::AuthId;
use crate::config::{Config, TrafficRule};
use crate::pace::{Pace, Paces, Rate};

/// A rule, and the buckets of those under it.
#[derive(Debug, Clone)]
struct Limit {
    rule: TrafficRule,
    pace: Pace,
}

/// How much a rule says of a connection; more is greater.
type Fit = (u8, Option<u8>);

impl Limit {
    fn new(rule: TrafficRule) -> Self {
        let pace = Pace::new(
            Rate::of(rule.rate_in, rule.burst_in),
            Rate::of(rule.rate_out, rule.burst_out),
        );
        Self { rule, pace }
    }

    /// How well it fits; `None` if not at all.
    fn fit(&self, address: IpAddr, who: Option<&AuthId>) -> Option<Fit> {
        let users = &self.rule.users;
        let named = match who {
            _ if users.is_empty() => 0,
            Some(who) if users.contains(who) => 2,
            Some(who) if users.contains(&AuthId::from(who.user().clone())) => 1,
            _ => return None,
        };
        let networks = &self.rule.networks;
        let holding = networks.iter().filter(|network| network.contains(&address));
        let smallest = holding.map(IpNet::prefix_len).max();
        (networks.is_empty() || smallest.is_some()).then_some((named, smallest))
    }
}

#[derive(Default)]
struct Shared {
    limits: Mutex<BTreeMap<String, Limit>>,
    /// Raised with each change of a rule, and with each user that a rule may name.
    version: AtomicU64,
}

impl Shared {
    fn limits(&self) -> MutexGuard<'_, BTreeMap<String, Limit>> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rules in force; clones share them.
#[derive(Clone, Default)]
pub(crate) struct Traffic(Arc<Shared>);

impl fmt::Debug for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Traffic({} rules)", self.0.limits().len())
    }
}

impl Traffic {
    /// Puts the rules of the configuration in force. It is read here, so that of two changes the later one stays.
    pub(crate) fn apply(&self, config: impl FnOnce() -> Arc<Config>) {
        let mut limits = self.0.limits();
        let config = config();
        let same = limits.len() == config.traffic.len()
            && limits
                .iter()
                .all(|(name, limit)| config.traffic.get(name) == Some(&limit.rule));
        if same {
            return;
        }
        let rules = config.traffic.iter();
        *limits = rules
            .map(|(name, rule)| {
                let kept = limits.get(name).filter(|limit| limit.rule == *rule);
                let limit = kept.cloned().unwrap_or_else(|| Limit::new(rule.clone()));
                (name.clone(), limit)
            })
            .collect();
        drop(limits);
        self.0.version.fetch_add(1, Ordering::Relaxed);
    }

    /// What a new connection from `address` goes by.
    pub(crate) fn lane(&self, address: IpAddr) -> Lane {
        Lane(Arc::new(Connection {
            traffic: self.clone(),
            address: address.to_canonical(),
            who: Mutex::default(),
        }))
    }
}

struct Connection {
    traffic: Traffic,
    address: IpAddr,
    who: Mutex<Option<AuthId>>,
}

impl Connection {
    fn who(&self) -> MutexGuard<'_, Option<AuthId>> {
        self.who.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one connection goes by; clones are of the same one.
#[derive(Clone)]
pub(crate) struct Lane(Arc<Connection>);

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lane({})", self.0.address)
    }
}

impl Lane {
    /// From now on the connection belongs to `who`, and no longer to whom it may have belonged.
    pub(crate) fn belongs_to(&self, who: &AuthId) {
        let shared = &self.0.traffic.0;
        let before = self.0.who().replace(who.clone());
        if before.as_ref() != Some(who)
            && shared
                .limits()
                .values()
                .any(|limit| !limit.rule.users.is_empty())
        {
            shared.version.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The name of the rule that the connection is under.
    fn rule(&self, limits: &BTreeMap<String, Limit>) -> Option<String> {
        let who = self.0.who();
        let fits = limits.iter().filter_map(|(name, limit)| {
            let fit = limit.fit(self.0.address, who.as_ref())?;
            Some((fit, Reverse(name)))
        });
        fits.max().map(|(_, Reverse(name))| name.clone())
    }
}

impl Paces for Lane {
    fn version(&self) -> u64 {
        self.0.traffic.0.version.load(Ordering::Relaxed)
    }

    fn pace(&self) -> Pace {
        let limits = self.0.traffic.0.limits();
        let rule = self.rule(&limits).and_then(|name| limits.get(&name));
        rule.map(|limit| limit.pace.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rstest::rstest;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::Instant;

    use super::*;
    use crate::pace::Paced;

    fn config(rules: &str) -> Arc<Config> {
        Arc::new(Config::check(rules).expect("valid"))
    }

    const RULES: &str = r#"
        [traffic-control.all]
        rate-in = "1 MiB"
        [traffic-control.b-office]
        network = ["10.0.0.0/8", "2001:db8::/32"]
        rate-in = "1 MiB"
        [traffic-control.a-office]
        network = ["10.0.0.0/8"]
        rate-in = "1 MiB"
        [traffic-control.desk]
        network = ["10.1.2.3"]
        rate-in = "1 MiB"
        [traffic-control.anna]
        user = ["anna@pbs"]
        rate-out = "1 MiB"
        [traffic-control.anna-at-work]
        user = ["anna@pbs", "bert@pbs"]
        network = ["10.0.0.0/8"]
        rate-out = "1 MiB"
        [traffic-control.robot]
        user = ["anna@pbs!robot"]
        rate-out = "1 MiB"
    "#;

    #[rstest]
    #[case("192.0.2.1", None, "all")]
    #[case("10.0.0.1", None, "a-office")]
    #[case("::ffff:10.0.0.1", None, "a-office")]
    #[case("2001:db8:1::1", None, "b-office")]
    #[case("2001:db9::1", None, "all")]
    #[case("10.1.2.3", None, "desk")]
    #[case("10.1.2.3", Some("carla@pbs"), "desk")]
    #[case("10.1.2.3", Some("anna@pbs"), "anna-at-work")]
    #[case("10.1.2.3", Some("anna@pbs!other"), "anna-at-work")]
    #[case("10.1.2.3", Some("anna@pbs!robot"), "robot")]
    #[case("192.0.2.1", Some("anna@pbs"), "anna")]
    #[case("192.0.2.1", Some("bert@pbs"), "all")]
    fn the_rule_that_says_most_counts(
        #[case] address: &str,
        #[case] who: Option<&str>,
        #[case] expected: &str,
    ) {
        let traffic = Traffic::default();
        traffic.apply(|| config(RULES));
        let lane = traffic.lane(address.parse().expect("an address"));
        if let Some(who) = who {
            lane.belongs_to(&who.parse().expect("an id"));
        }
        let rule = lane.rule(&traffic.0.limits());
        assert_eq!(rule.as_deref(), Some(expected));
    }

    #[test]
    fn without_rules_there_is_nothing_to_look_at() {
        let traffic = Traffic::default();
        traffic.apply(|| config(""));
        let lane = traffic.lane(IpAddr::from([192, 0, 2, 1]));
        lane.belongs_to(&"anna@pbs".parse().expect("an id"));
        assert_eq!(lane.version(), 0);
        assert!(!lane.pace().is_limited());
    }

    #[test]
    fn a_rule_that_did_not_change_keeps_its_buckets() {
        let traffic = Traffic::default();
        traffic.apply(|| config(RULES));
        let lane = traffic.lane(IpAddr::from([10, 0, 0, 1]));
        let before = (lane.version(), format!("{:?}", lane.pace()));
        traffic.apply(|| config(RULES));
        assert_eq!(lane.version(), before.0);
        let changed = RULES.replace("[traffic-control.robot]", "[traffic-control.other]");
        traffic.apply(|| config(&changed));
        assert_ne!(lane.version(), before.0);
        assert_eq!(format!("{:?}", lane.pace()), before.1);
    }

    /// Two connections from one network, with rules that come, change and go.
    #[tokio::test(start_paused = true)]
    async fn rules_come_and_go_under_open_connections() {
        let traffic = Traffic::default();
        let address = IpAddr::from([10, 0, 0, 1]);
        let mut ends = Vec::new();
        for _ in 0..2 {
            let (near, far) = duplex(64 << 20);
            ends.push((Paced::new(near, traffic.lane(address)), far));
        }
        let mut read = async |bytes: usize| {
            let begun = Instant::now();
            for (near, far) in &mut ends {
                far.write_all(&vec![1; bytes]).await.expect("room");
                near.read_exact(&mut vec![0; bytes]).await.expect("there");
            }
            begun.elapsed()
        };
        assert_eq!(read(8 << 20).await, Duration::ZERO);
        let rule = "[traffic-control.all]\nnetwork = [\"10.0.0.0/8\"]\nrate-in = \"1 MiB\"";
        traffic.apply(|| config(rule));
        let seconds = read(8 << 20).await.as_secs_f64();
        // All at once is one read, which is paid for by the next.
        let seconds = seconds + read(1).await.as_secs_f64();
        assert!((14.0..16.5).contains(&seconds), "{seconds} s for 16 MiB");
        traffic.apply(|| config(""));
        assert_eq!(read(8 << 20).await, Duration::ZERO);
    }
}
