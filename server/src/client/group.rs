//! `holdfast group`: list, move, forget, notes; and `holdfast change-owner`.

use pbs_datastore::{AuthId, BackupGroup, Namespace};
use serde_json::{Value, json};

use super::RepositoryArgs;
use super::output::{self, Column};
use super::progress::Progress;
use super::session::{group_parameters, namespace_parameters};
use super::snapshot::{files_of, rows};
use super::task::start_and_follow;

/// `holdfast group …`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum GroupCommand {
    /// List the groups of a namespace.
    List {
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// Move a group into another namespace of the datastore. Prints the log to its end.
    Move {
        /// TYPE/ID
        group: BackupGroup,
        /// Where to, like a/b; the root if not given.
        #[arg(
            long,
            default_value = "",
            hide_default_value = true,
            value_name = "NAMESPACE"
        )]
        target_ns: Namespace,
        /// Print the task's id and leave it to run.
        #[arg(long)]
        detach: bool,
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// Remove a group with all its snapshots. Their chunks go with the next garbage collection.
    Forget {
        /// TYPE/ID
        group: BackupGroup,
        /// Remove what is not protected, instead of failing if something is.
        #[arg(long)]
        keep_protected: bool,
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// Show the notes of a group, or replace them.
    Notes {
        /// TYPE/ID
        group: BackupGroup,
        /// The new notes; empty text removes them.
        text: Option<String>,
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
    pub(super) async fn run(self, progress: &Progress) -> anyhow::Result<()> {
        match self {
            Self::List { repository } => {
                let mut session = repository.session().await?;
                let path = session.datastore("groups");
                let parameters = namespace_parameters(&repository.ns);
                let mut rows = rows(&mut session.get(&path, &parameters).await?)?;
                rows.sort_by_key(|row| {
                    (row["backup-type"].to_string(), row["backup-id"].to_string())
                });
                repository.output().table(&rows, COLUMNS)
            }
            Self::Move {
                group,
                target_ns,
                detach,
                repository,
            } => {
                let mut body = json!({ "target-ns": target_ns.to_string() });
                for (name, value) in group_parameters(&repository.ns, &group) {
                    body[name] = value.into();
                }
                let output = repository.output();
                let mut session = repository.session().await?;
                let what = "move-group";
                start_and_follow(&mut session, what, &body, detach, output, progress).await
            }
            Self::Forget {
                group,
                keep_protected,
                repository,
            } => {
                let mut parameters = group_parameters(&repository.ns, &group);
                // Older servers do not know it.
                if keep_protected {
                    parameters.push(("error-on-protected", "false".to_owned()));
                }
                let mut session = repository.session().await?;
                let path = session.datastore("groups");
                let statistics = session.delete(&path, &parameters).await?;
                let text = match statistics["protected-snapshots"].as_u64() {
                    None | Some(0) => format!("{group} is removed"),
                    Some(kept) => format!("{kept} snapshots of {group} are protected and stay"),
                };
                repository.output().value(&statistics, &text)
            }
            Self::Notes {
                group,
                text,
                repository,
            } => {
                let parameters = group_parameters(&repository.ns, &group);
                let mut session = repository.session().await?;
                let path = session.datastore("group-notes");
                let Some(text) = text else {
                    let notes = session.get(&path, &parameters).await?["data"].take();
                    let shown = output::plain(&notes);
                    return repository.output().value(&notes, shown.trim_end());
                };
                let mut body = json!({ "notes": text });
                for (name, value) in parameters {
                    body[name] = value.into();
                }
                session.put(&path, &body).await?;
                repository.output().value(&Value::Null, "")
            }
        }
    }
}

/// `holdfast change-owner`
#[derive(Debug, clap::Args)]
pub(crate) struct ChangeOwnerArgs {
    /// TYPE/ID
    group: BackupGroup,
    /// A user, NAME@REALM, or an API token, NAME@REALM!TOKEN.
    new_owner: AuthId,
    #[command(flatten)]
    repository: RepositoryArgs,
}

impl ChangeOwnerArgs {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let mut body = json!({ "new-owner": self.new_owner.to_string() });
        for (name, value) in group_parameters(&self.repository.ns, &self.group) {
            body[name] = value.into();
        }
        let mut session = self.repository.session().await?;
        let path = session.datastore("change-owner");
        session.post(&path, &body).await?;
        let text = format!("{} belongs to {} now", self.group, self.new_owner);
        self.repository.output().value(&Value::Null, &text)
    }
}
