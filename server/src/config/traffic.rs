//! `[traffic-control.NAME]`: how fast clients may be. The name is a safe id of 3 to 32 characters.

use ipnet::IpNet;
use serde::Deserialize;

use super::fault::{Faults, Section};
use super::model::Config;
use super::parse::{check_comment, check_name};
use super::size::ByteCount;
use super::sync::check_rates;
use crate::auth::AuthId;

/// Most networks, and most users, of a rule.
pub(crate) const TRAFFIC_LIST_MAX: usize = 64;
/// Most rules: each new connection looks at all of them.
const RULES_MAX: usize = 256;

/// A limit for connections of clients, all of them together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TrafficRule {
    /// `network`: only from there, at most 64, such as `10.0.0.0/8`. Default: from anywhere.
    pub(crate) networks: Vec<IpNet>,
    /// `user`: only backups and restores of these users, with their tokens, or of these tokens; at most 64. Default: whoever it is.
    pub(crate) users: Vec<AuthId>,
    /// `rate-in`: bytes per second to the server, at least 128 KiB; 0 for no limit. Default: 0.
    pub(crate) rate_in: ByteCount,
    /// `burst-in`: how many bytes may come at once after a pause. Default: as many as in a second.
    pub(crate) burst_in: ByteCount,
    /// `rate-out`: the same from the server. Default: 0.
    pub(crate) rate_out: ByteCount,
    /// `burst-out`: the same. Default: as many as in a second.
    pub(crate) burst_out: ByteCount,
    /// `comment`: one line of at most 256 bytes. Default: none.
    pub(crate) comment: Option<String>,
}

/// `[traffic-control.NAME]` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct RawRule {
    network: Vec<String>,
    user: Vec<String>,
    rate_in: Option<ByteCount>,
    burst_in: Option<ByteCount>,
    rate_out: Option<ByteCount>,
    burst_out: Option<ByteCount>,
    comment: Option<String>,
}

/// Reads `[traffic-control.NAME]` and notes what is wrong with it.
pub(super) fn read_traffic(
    faults: &mut Faults<'_>,
    config: &mut Config,
    name: String,
    section: &mut Section,
) {
    check_name(faults, section, &name);
    let Some(raw) = section.read::<RawRule>(faults) else {
        return;
    };
    check_comment(faults, section, raw.comment.as_deref());
    check_rates(
        faults,
        section,
        [(raw.rate_in, raw.burst_in), (raw.rate_out, raw.burst_out)],
    );
    let limits = |rate: Option<ByteCount>| rate.is_some_and(|rate| rate.get() > 0);
    if !limits(raw.rate_in) && !limits(raw.rate_out) {
        section.fault_here(faults, "limits nothing; set rate-in or rate-out");
    }
    let networks = parsed(faults, section, "network", &raw.network, |text| {
        network(text)
            .ok_or_else(|| format!("'{text}' is no network; write one such as \"10.0.0.0/8\""))
    });
    let users = parsed(faults, section, "user", &raw.user, |text| {
        text.parse::<AuthId>().map_err(|error| error.to_string())
    });
    if config.traffic.len() >= RULES_MAX {
        section.fault_here(faults, format!("there may be {RULES_MAX} at most"));
    }
    let or_none = |size: Option<ByteCount>| size.unwrap_or(ByteCount(0));
    let rule = TrafficRule {
        networks,
        users,
        rate_in: or_none(raw.rate_in),
        burst_in: or_none(raw.burst_in),
        rate_out: or_none(raw.rate_out),
        burst_out: or_none(raw.burst_out),
        comment: raw.comment,
    };
    config.traffic.insert(name, rule);
}

/// A network, or a single address; bits beyond the prefix do not matter.
fn network(text: &str) -> Option<IpNet> {
    let network = text.parse::<IpNet>().ok();
    let network = network.or_else(|| Some(IpNet::from(text.parse::<std::net::IpAddr>().ok()?)));
    network.map(|network| network.trunc())
}

fn parsed<T>(
    faults: &mut Faults<'_>,
    section: &mut Section,
    key: &str,
    texts: &[String],
    parse: impl Fn(&str) -> Result<T, String>,
) -> Vec<T> {
    if texts.len() > TRAFFIC_LIST_MAX {
        section.fault(
            faults,
            key,
            format!("must have at most {TRAFFIC_LIST_MAX} elements"),
        );
    }
    let mut list = Vec::new();
    for text in texts.iter().take(TRAFFIC_LIST_MAX) {
        match parse(text) {
            Ok(value) => list.push(value),
            Err(fault) => section.fault(faults, key, fault),
        }
    }
    list
}
