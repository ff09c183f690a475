//! `holdfast prune`: removes the snapshots of a group that no rule keeps, or shows which.

use pbs_datastore::BackupGroup;
use serde_json::{Value, json};

use super::RepositoryArgs;
use super::output::Column;
use super::session::group_parameters;
use super::snapshot::{name_of, rows_of};
use crate::cli::job::KeepArgs;

/// `holdfast prune`
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// TYPE/ID
    group: BackupGroup,
    #[command(flatten)]
    keep: KeepArgs,
    /// Only show what would be removed.
    #[arg(long)]
    dry_run: bool,
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
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let mut body = json!({ "dry-run": self.dry_run });
        for (name, value) in group_parameters(&self.repository.ns, &self.group) {
            body[name] = value.into();
        }
        let given = self.keep.params().into_iter();
        for (name, count) in given.filter(|(_, count)| !count.is_null()) {
            body[name] = count;
        }
        let mut session = self.repository.session().await?;
        let path = session.datastore("prune");
        let answer: Value = session.post(&path, &body).await?;
        self.repository.output().table(&rows_of(answer)?, COLUMNS)
    }
}
