//! `holdfast prune`: removes the snapshots of a group, or of all groups of a namespace, that no rule keeps, or shows which.

use pbs_datastore::BackupGroup;
use serde_json::{Value, json};

use super::RepositoryArgs;
use super::output::Column;
use super::progress::Progress;
use super::session::group_parameters;
use super::snapshot::{name_of, rows_of};
use super::task::start_and_follow;
use crate::cli::job::KeepArgs;

/// `holdfast prune`
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// TYPE/ID
    #[arg(required_unless_present = "all_groups")]
    group: Option<BackupGroup>,
    /// Prune all groups of the namespace, by a task.
    #[arg(long, conflicts_with = "group")]
    all_groups: bool,
    #[command(flatten)]
    keep: KeepArgs,
    /// Only show what would be removed.
    #[arg(long)]
    dry_run: bool,
    // A requirement alone would not be asked for: its conflict with the group that is there excuses it.
    /// With --all-groups: how many levels of namespaces below are meant too; all if not given.
    #[arg(
        long,
        value_name = "LEVELS",
        requires = "all_groups",
        conflicts_with = "group"
    )]
    max_depth: Option<u64>,
    /// With --all-groups: print the task's id and leave it to run.
    #[arg(long, requires = "all_groups", conflicts_with = "group")]
    detach: bool,
    #[command(flatten)]
    repository: RepositoryArgs,
}

const COLUMNS: &[Column] = &[
    ("snapshot", name_of),
    ("", |row| {
        if row["keep"] == true {
            "keep"
        } else {
            "remove"
        }
        .to_owned()
    }),
    ("why", |row| match row["reason"].as_str() {
        // Other servers do not say.
        None | Some("remove") => String::new(),
        Some(reason) => reason.to_owned(),
    }),
    ("protected", |row| {
        let protected = row["protected"] == true;
        if protected { "yes" } else { "" }.to_owned()
    }),
];

impl PruneArgs {
    pub(super) async fn run(self, progress: &Progress) -> anyhow::Result<()> {
        let mut body = json!({ "dry-run": self.dry_run });
        let given = self.keep.params().into_iter();
        for (name, count) in given.filter(|(_, count)| !count.is_null()) {
            body[name] = count;
        }
        let mut session = self.repository.session().await?;
        let Some(group) = &self.group else {
            if !self.repository.ns.is_root() {
                body["ns"] = self.repository.ns.to_string().into();
            }
            if let Some(levels) = self.max_depth {
                body["max-depth"] = levels.into();
            }
            let (what, output) = ("prune-datastore", self.repository.output());
            return start_and_follow(&mut session, what, &body, self.detach, output, progress)
                .await;
        };
        for (name, value) in group_parameters(&self.repository.ns, group) {
            body[name] = value.into();
        }
        let path = session.datastore("prune");
        let answer: Value = session.post(&path, &body).await?;
        self.repository.output().table(&rows_of(answer)?, COLUMNS)
    }
}
