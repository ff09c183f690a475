//! `[remote.ID]`, another server of the protocol, and `[sync.ID]`, what is copied from or to one. The IDs are safe ids of 3 to 32
//! characters; the names in the file are those of the fields, in kebab-case.

use pbs_datastore::{AuthId, DatastoreName, Fingerprint, GroupFilter, Namespace};
use serde::Deserialize;
use toml_edit::{DocumentMut, Item, Table};

use super::fault::{Faults, Section, place};
use super::job::{JobTarget, TARGET, namespace, read_target};
use super::model::Config;
use super::parse::{check_comment, check_name};
use super::size::ByteCount;

/// The port that servers of the protocol listen on.
const PORT: u16 = 8007;
/// Whose the groups are that nobody names an owner for.
const OWNER: &str = "root@pam";
/// Most groups side by side.
const WORKER_THREADS_MAX: u64 = 32;
/// Most filters.
const GROUP_FILTERS_MAX: usize = 128;
/// Least rate: slower, a chunk would take minutes.
const RATE_MIN: ByteCount = ByteCount(128 << 10);
/// Longest password or secret of a remote, in bytes.
pub(crate) const REMOTE_PASSWORD_BYTES_MAX: usize = 1024;

/// `[remote.ID]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remote {
    /// `host`: a name or an address, IPv6 without brackets. Required.
    pub(crate) host: String,
    /// `port`: 1 to 65535. Default: 8007.
    pub(crate) port: u16,
    /// `auth-id`: a user or an API token of that server; its secret is in the secrets file. Required.
    pub(crate) auth_id: AuthId,
    /// `fingerprint`: the SHA-256 of its certificate. Default: one that a known authority has signed is demanded.
    pub(crate) fingerprint: Option<Fingerprint>,
    /// `comment`: one line of at most 256 bytes. Default: none.
    pub(crate) comment: Option<String>,
}

/// Which way snapshots go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SyncDirection {
    /// From the remote, or from another datastore of this daemon.
    #[default]
    Pull,
    /// To the remote.
    Push,
}

impl SyncDirection {
    /// The name in the file and on the wire.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
        }
    }
}

/// `[sync.ID]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyncJob {
    /// Of what here, and when.
    pub(crate) target: JobTarget,
    /// `sync-direction`: `pull` or `push`. Default: `pull`.
    pub(crate) direction: SyncDirection,
    /// `remote`: the other server. Default: this daemon itself; then only `pull`.
    pub(crate) remote: Option<String>,
    /// `remote-store`: the datastore there. Required.
    pub(crate) remote_store: String,
    /// `remote-ns`: the namespace there. Default: the root.
    pub(crate) remote_namespace: Namespace,
    /// `owner`: whose groups are written here, and whose the new ones become. Default: `root@pam`.
    pub(crate) owner: AuthId,
    /// `group-filter`: a list of at most 128 filters such as `type:vm`, `exclude:group:vm/100`, `regex:^host/web`. Default: all groups.
    pub(crate) groups: Vec<GroupFilter>,
    /// `transfer-last`: only so many of the newest snapshots of each group, at least 1. Default: all.
    pub(crate) transfer_last: Option<u64>,
    /// `remove-vanished`: remove here what is gone there. Default: false.
    pub(crate) remove_vanished: bool,
    /// `resync-corrupt`: bring again what failed its verification here; not for `push`. Default: false.
    pub(crate) resync_corrupt: bool,
    /// `encrypted-only`: only snapshots whose archives are all encrypted. Default: false.
    pub(crate) encrypted_only: bool,
    /// `verified-only`: only snapshots that were verified and found good where they come from. Default: false.
    pub(crate) verified_only: bool,
    /// `worker-threads`: groups side by side, 1 to 32. Default: 1.
    pub(crate) worker_threads: u64,
    /// `rate-in`: bytes per second from the remote at most, at least 128 KiB; 0 for no limit. Default: 0.
    pub(crate) rate_in: ByteCount,
    /// `burst-in`: how many bytes may come at once after a pause. Default: as many as in a second.
    pub(crate) burst_in: ByteCount,
    /// `rate-out`: the same to the remote. Default: 0.
    pub(crate) rate_out: ByteCount,
    /// `burst-out`: the same. Default: as many as in a second.
    pub(crate) burst_out: ByteCount,
}

impl SyncJob {
    /// The job that these settings make, whether the configuration has it or not; what is wrong with them in one sentence.
    pub(crate) fn of(settings: Table) -> Result<Self, String> {
        const ID: &str = "this";
        let text = DocumentMut::from(settings.clone()).to_string();
        let mut faults = Faults::of(&text);
        let mut config = Config::default();
        if let Some(mut section) = Section::of(&mut faults, String::new(), &Item::Table(settings)) {
            read_sync(&mut faults, &mut config, ID.to_owned(), &mut section);
        }
        let read = faults.or(config.sync.remove(ID));
        match read {
            Ok(Some(job)) => Ok(job),
            Ok(None) => Err("the sync cannot be understood".to_owned()),
            Err(faults) => {
                let said = faults.iter().map(super::Fault::without_line);
                Err(said.collect::<Vec<_>>().join("; "))
            }
        }
    }
}

/// `[remote.ID]` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct RawRemote {
    host: Option<String>,
    port: Option<u16>,
    auth_id: Option<String>,
    fingerprint: Option<String>,
    comment: Option<String>,
}

pub(super) fn read_remote(
    faults: &mut Faults<'_>,
    config: &mut Config,
    id: String,
    section: &mut Section,
) {
    check_name(faults, section, &id);
    let Some(raw) = section.read::<RawRemote>(faults) else {
        return;
    };
    check_comment(faults, section, raw.comment.as_deref());
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    let host = section.required(faults, "host", raw.host);
    if let Some(host) = &host
        && (host.is_empty() || host.len() > 255 || !host.chars().all(plain))
    {
        section.fault(faults, "host", "must be a host name or an address");
    }
    let port = raw.port.unwrap_or(PORT);
    if port == 0 {
        section.fault(faults, "port", "must be between 1 and 65535");
    }
    let auth_id = section.required(faults, "auth-id", raw.auth_id);
    let auth_id = parsed(faults, section, "auth-id", auth_id);
    let pin = raw.fingerprint.map(|text| {
        let text = text.trim().to_owned();
        text.parse::<Fingerprint>()
    });
    let fingerprint = match pin {
        Some(Ok(pin)) => Some(pin),
        Some(Err(_)) => {
            let message = "must be 32 pairs of hex digits joined by ':'";
            section.fault(faults, "fingerprint", message);
            None
        }
        None => None,
    };
    if let (Some(host), Some(auth_id)) = (host, auth_id) {
        let remote = Remote {
            host,
            port,
            auth_id,
            fingerprint,
            comment: raw.comment,
        };
        config.remotes.insert(id, remote);
    }
}

/// A text that must be a `T`.
fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    faults: &mut Faults<'_>,
    section: &mut Section,
    key: &str,
    text: Option<String>,
) -> Option<T> {
    match text?.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            section.fault(faults, key, error);
            None
        }
    }
}

/// `[sync.ID]` without its target, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct RawSync {
    sync_direction: SyncDirection,
    remote: Option<String>,
    remote_store: Option<String>,
    #[serde(deserialize_with = "namespace")]
    remote_ns: Namespace,
    owner: Option<String>,
    group_filter: Vec<String>,
    transfer_last: Option<u64>,
    remove_vanished: bool,
    resync_corrupt: bool,
    encrypted_only: bool,
    verified_only: bool,
    worker_threads: Option<u64>,
    rate_in: Option<ByteCount>,
    burst_in: Option<ByteCount>,
    rate_out: Option<ByteCount>,
    burst_out: Option<ByteCount>,
}

pub(super) fn read_sync(
    faults: &mut Faults<'_>,
    config: &mut Config,
    id: String,
    section: &mut Section,
) {
    check_name(faults, section, &id);
    let target = read_target(faults, &mut section.split(&TARGET));
    let Some(raw) = section.read::<RawSync>(faults) else {
        return;
    };
    let owner = raw.owner.clone().unwrap_or_else(|| OWNER.to_owned());
    let owner = parsed(faults, section, "owner", Some(owner));
    let remote_store = section.required(faults, "remote-store", raw.remote_store.clone());
    let remote_store: Option<DatastoreName> = parsed(faults, section, "remote-store", remote_store);
    let groups = filters(faults, section, &raw.group_filter);
    check_ways(faults, section, &raw);
    if raw.transfer_last == Some(0) {
        section.fault(faults, "transfer-last", "must be at least 1");
    }
    let worker_threads = raw.worker_threads.unwrap_or(1);
    let threads = 1..=WORKER_THREADS_MAX;
    section.bounded(faults, "worker-threads", &worker_threads, &threads);
    let (Some(target), Some(owner), Some(remote_store)) = (target, owner, remote_store) else {
        return;
    };
    if raw.remote.is_none() && remote_store.as_str() == target.store {
        let (from, into) = (&raw.remote_ns, &target.namespace);
        if from.is_within(into) || into.is_within(from) {
            let message = "is the datastore itself: a namespace cannot be copied into itself or what is above or below it";
            section.fault(faults, "remote-store", message);
        }
    }
    let job = SyncJob {
        target,
        direction: raw.sync_direction,
        remote: raw.remote,
        remote_store: remote_store.to_string(),
        remote_namespace: raw.remote_ns,
        owner,
        groups,
        transfer_last: raw.transfer_last,
        remove_vanished: raw.remove_vanished,
        resync_corrupt: raw.resync_corrupt,
        encrypted_only: raw.encrypted_only,
        verified_only: raw.verified_only,
        worker_threads,
        rate_in: raw.rate_in.unwrap_or(ByteCount(0)),
        burst_in: raw.burst_in.unwrap_or(ByteCount(0)),
        rate_out: raw.rate_out.unwrap_or(ByteCount(0)),
        burst_out: raw.burst_out.unwrap_or(ByteCount(0)),
    };
    config.sync.insert(id, job);
}

fn filters(faults: &mut Faults<'_>, section: &mut Section, texts: &[String]) -> Vec<GroupFilter> {
    if texts.len() > GROUP_FILTERS_MAX {
        let message = format!("must have at most {GROUP_FILTERS_MAX} filters");
        section.fault(faults, "group-filter", message);
    }
    let mut filters = Vec::new();
    for text in texts.iter().take(GROUP_FILTERS_MAX) {
        match text.parse() {
            Ok(filter) => filters.push(filter),
            Err(error) => section.fault(faults, "group-filter", error),
        }
    }
    filters
}

/// What does not go together.
fn check_ways(faults: &mut Faults<'_>, section: &mut Section, raw: &RawSync) {
    if raw.sync_direction == SyncDirection::Push {
        if raw.remote.is_none() {
            let message =
                "must be pull without a remote: a datastore of this daemon pulls by itself";
            section.fault(faults, "sync-direction", message);
        }
        if raw.resync_corrupt {
            let message = "is for pull only: a finished snapshot of another server is not changed";
            section.fault(faults, "resync-corrupt", message);
        }
    }
    let ways = [(raw.rate_in, raw.burst_in), (raw.rate_out, raw.burst_out)];
    for (key, (rate, _)) in ["rate-in", "rate-out"].into_iter().zip(ways) {
        if raw.remote.is_none() && rate.is_some_and(|rate| rate.get() > 0) {
            section.fault(faults, key, "does nothing without a remote");
        }
    }
    check_rates(faults, section, ways);
}

/// Rates and bursts, to here and from here: 0 is as good as none.
pub(super) fn check_rates(
    faults: &mut Faults<'_>,
    section: &mut Section,
    ways: [(Option<ByteCount>, Option<ByteCount>); 2],
) {
    let keys = [("rate-in", "burst-in"), ("rate-out", "burst-out")];
    for ((rate_key, burst_key), (rate, burst)) in keys.into_iter().zip(ways) {
        let rate = rate.filter(|rate| rate.get() > 0);
        if let Some(rate) = rate {
            section.bounded(faults, rate_key, &rate, &(RATE_MIN..=ByteCount::gib(90)));
        }
        let burst = burst.filter(|burst| burst.get() > 0);
        if burst.is_some() && rate.is_none() {
            let message = format!("does nothing without {rate_key}");
            section.fault(faults, burst_key, message);
        }
    }
}

impl Config {
    /// Sync jobs whose remote or local source is missing: section, id, key, and what is said of it.
    pub(super) fn sync_references(
        &self,
        there: impl Fn(&str, &str) -> bool,
    ) -> Vec<(&str, &'static str, String)> {
        let mut missing = Vec::new();
        for (id, job) in &self.sync {
            let (key, section, name) = match &job.remote {
                Some(remote) => ("remote", "remote", remote),
                None => ("remote-store", "datastore", &job.remote_store),
            };
            if !there(section, name) {
                let message = format!("there is no [{}]", place(section, name));
                missing.push((id.as_str(), key, message));
            }
        }
        missing
    }
}
