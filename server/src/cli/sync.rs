//! `holdfast sync-job`, `holdfast pull` and `holdfast push`: copies of snapshots from and to other datastores.

use http::Method;
use serde_json::{Value, json};

use super::job::{JobSettings, TargetArgs};
use super::{ManageArgs, given};
use crate::client::output::{Column, plain};
use crate::client::progress::Progress;

/// Where the other datastore is, and what is copied.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct OtherArgs {
    /// The remote; this daemon itself if not given.
    #[arg(long, value_name = "NAME")]
    remote: Option<String>,
    /// The datastore there.
    #[arg(long, value_name = "NAME")]
    remote_store: Option<String>,
    /// The namespace there; the root if not given.
    #[arg(long, value_name = "NAMESPACE")]
    remote_ns: Option<String>,
    /// Only groups that match, like type:vm, group:vm/100 or regex:^host/web, with exclude: before it to leave them out; may be
    /// repeated.
    #[arg(long, value_name = "FILTER")]
    group_filter: Vec<String>,
    /// Only the newest N snapshots of each group.
    #[arg(long, value_name = "N")]
    transfer_last: Option<u64>,
    /// Whether what is gone at the source is removed at the target.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    remove_vanished: Option<bool>,
    /// Whether snapshots that failed their verification here are brought again (pull only).
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    resync_corrupt: Option<bool>,
    /// Whether only snapshots are copied whose archives are all encrypted.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    encrypted_only: Option<bool>,
    /// Whether only snapshots are copied that were verified and found good.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    verified_only: Option<bool>,
    /// How many groups are copied side by side, 1 to 32.
    #[arg(long, value_name = "N")]
    worker_threads: Option<u64>,
    /// Bytes per second from the remote at most, such as "20 MiB"; 0 for no limit.
    #[arg(long, value_name = "SIZE")]
    rate_in: Option<String>,
    /// How much may come at once after a pause; as much as in a second if not given.
    #[arg(long, value_name = "SIZE")]
    burst_in: Option<String>,
    /// Bytes per second to the remote at most; 0 for no limit.
    #[arg(long, value_name = "SIZE")]
    rate_out: Option<String>,
    /// How much may go at once after a pause; as much as in a second if not given.
    #[arg(long, value_name = "SIZE")]
    burst_out: Option<String>,
}

impl OtherArgs {
    fn params(&self) -> Vec<(&'static str, Value)> {
        let filters = (!self.group_filter.is_empty()).then_some(&self.group_filter);
        vec![
            ("remote", json!(self.remote)),
            ("remote-store", json!(self.remote_store)),
            ("remote-ns", json!(self.remote_ns)),
            ("group-filter", json!(filters)),
            ("transfer-last", json!(self.transfer_last)),
            ("remove-vanished", json!(self.remove_vanished)),
            ("resync-corrupt", json!(self.resync_corrupt)),
            ("encrypted-only", json!(self.encrypted_only)),
            ("verified-only", json!(self.verified_only)),
            ("worker-threads", json!(self.worker_threads)),
            ("rate-in", json!(self.rate_in)),
            ("burst-in", json!(self.burst_in)),
            ("rate-out", json!(self.rate_out)),
            ("burst-out", json!(self.burst_out)),
        ]
    }
}

/// The settings of a sync job.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SyncSettings {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    other: OtherArgs,
    /// Which way: pull from there, or push to there; pull if not given.
    #[arg(long, value_name = "pull|push")]
    sync_direction: Option<String>,
    /// Whose groups are written here, and whose new ones become; root@pam if not given.
    #[arg(long, value_name = "ID")]
    owner: Option<String>,
}

impl JobSettings for SyncSettings {
    const KIND: &str = "sync";
    const COLUMNS: &[Column] = &[("other side", |row| {
        let way = match row["sync-direction"].as_str() {
            Some("push") => "to",
            _ => "from",
        };
        let mut place = plain(&row["remote-store"]);
        if let Some(namespace) = row["remote-ns"].as_str() {
            place = format!("{place}:{namespace}");
        }
        match row["remote"].as_str() {
            Some(remote) => format!("{way} {remote}:{place}"),
            None => format!("{way} {place}"),
        }
    })];

    fn params(&self) -> Vec<(&'static str, Value)> {
        let mut params = [self.target.params(), self.other.params()].concat();
        params.push(("sync-direction", json!(self.sync_direction)));
        params.push(("owner", json!(self.owner)));
        params
    }
}

/// `holdfast pull`, `holdfast push`
#[derive(Debug, clap::Args)]
pub(crate) struct SyncArgs {
    /// The datastore here.
    #[arg(long, value_name = "NAME")]
    store: String,
    /// The namespace here; the root if not given.
    #[arg(long, value_name = "NAMESPACE")]
    ns: Option<String>,
    /// How many levels of namespaces below it belong to it too; all if not given.
    #[arg(long, value_name = "LEVELS")]
    max_depth: Option<u64>,
    #[command(flatten)]
    other: OtherArgs,
    /// Only say what would be copied, and asked of buckets.
    #[arg(long)]
    estimate: bool,
    /// Print the task's id and leave it to run.
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    manage: ManageArgs,
}

impl SyncArgs {
    /// Runs it, the way that `path` says.
    pub(super) async fn run(self, path: &str, progress: &Progress) -> anyhow::Result<()> {
        let mut params = vec![
            ("store", json!(self.store)),
            ("ns", json!(self.ns)),
            ("max-depth", json!(self.max_depth)),
            ("estimate", json!(self.estimate.then_some(true))),
        ];
        params.extend(self.other.params());
        let (params, detach) = (given(&params), self.detach);
        self.manage
            .run_task(Method::POST, path, params, detach, progress)
            .await
    }
}
