//! `holdfast group`: list.

use super::RepositoryArgs;
use super::output::{self, Column};
use super::session::namespace_parameters;
use super::snapshot::{files_of, rows};

/// `holdfast group …`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum GroupCommand {
    /// List the groups of a namespace.
    List {
        #[command(flatten)]
        repository: RepositoryArgs,
    },
}

const COLUMNS: &[Column] = &[
    ("group", |row| {
        format!(
            "{}/{}",
            output::plain(&row["backup-type"]),
            output::plain(&row["backup-id"])
        )
    }),
    ("last snapshot", |row| output::time_of(&row["last-backup"])),
    ("snapshots", |row| output::plain(&row["backup-count"])),
    ("owner", |row| output::plain(&row["owner"])),
    ("files", files_of),
];

impl GroupCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self::List { repository } = self;
        let mut session = repository.session().await?;
        let path = session.datastore("groups");
        let mut rows = rows(
            &mut session
                .get(&path, &namespace_parameters(&repository.ns))
                .await?,
        )?;
        rows.sort_by_key(|row| (row["backup-type"].to_string(), row["backup-id"].to_string()));
        repository.output().table(&rows, COLUMNS)
    }
}
