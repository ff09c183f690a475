//! `holdfast verify`: has the server read back a snapshot, a group, or everything below a namespace.

use serde_json::json;

use super::RepositoryArgs;
use super::progress::Progress;
use super::session::{group_parameters, namespace_parameters, snapshot_parameters};
use super::snapshot::SnapshotChoice;
use super::task::start_and_follow;

/// `holdfast verify`
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// TYPE/ID or TYPE/ID/TIME; everything in the namespace and below if not given.
    what: Option<SnapshotChoice>,
    /// How many levels of namespaces below are verified too; all if not given.
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=7))]
    max_depth: Option<u8>,
    /// Also what was verified already.
    #[arg(long)]
    all: bool,
    /// Also what was verified more than so many days ago.
    #[arg(long, value_name = "DAYS", conflicts_with = "all")]
    outdated_after: Option<u64>,
    /// Not the chunks that were found good less than so many days ago.
    #[arg(long, value_name = "DAYS")]
    reread_after: Option<u64>,
    /// How much of chunks is read at most, such as "50 GiB".
    #[arg(long, value_name = "SIZE")]
    bytes_max: Option<String>,
    /// How many chunks are read at most.
    #[arg(long, value_name = "N")]
    requests_max: Option<u64>,
    /// Read no chunk: only see whether each is in the bucket's list, and not too short or too long. Looks at every snapshot.
    #[arg(long, conflicts_with_all = ["sample", "all", "outdated_after"])]
    quick: bool,
    /// Read so many of 100 chunks, and of the others only see whether they are there. Looks at every snapshot.
    #[arg(long, value_name = "PERCENT", conflicts_with_all = ["all", "outdated_after"])]
    sample: Option<u64>,
    /// Only say what would be asked of the bucket, and what that costs by the price list of its S3 server.
    #[arg(long)]
    estimate: bool,
    /// Print the task's id and leave it to run.
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    repository: RepositoryArgs,
}

impl VerifyArgs {
    pub(super) async fn run(self, progress: &Progress) -> anyhow::Result<()> {
        let namespace = &self.repository.ns;
        let named = match &self.what {
            None => namespace_parameters(namespace),
            Some(SnapshotChoice::Group(group)) => group_parameters(namespace, group),
            Some(SnapshotChoice::Exact(snapshot)) => snapshot_parameters(namespace, snapshot),
        };
        // One that is named is meant.
        let exact = matches!(self.what, Some(SnapshotChoice::Exact(_)));
        let mut body = json!({ "ignore-verified": !(self.all || exact) });
        for (name, value) in named {
            body[name] = value.into();
        }
        let more = [
            ("max-depth", json!(self.max_depth)),
            ("outdated-after", json!(self.outdated_after)),
            ("reread-after", json!(self.reread_after)),
            ("bytes-max", json!(self.bytes_max)),
            ("requests-max", json!(self.requests_max)),
            ("sample", json!(self.quick.then_some(0).or(self.sample))),
            ("estimate", json!(self.estimate.then_some(true))),
        ];
        for (name, value) in more.into_iter().filter(|(_, value)| !value.is_null()) {
            body[name] = value;
        }
        let output = self.repository.output();
        let mut session = self.repository.session().await?;
        start_and_follow(&mut session, "verify", &body, self.detach, output, progress).await
    }
}
