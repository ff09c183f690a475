//! `holdfast namespace`: list, create, move, delete.

use anyhow::bail;
use pbs_datastore::Namespace;
use serde_json::{Value, json};

use super::ServerArgs;
use super::output::{self, Column};
use super::progress::Progress;
use super::session::namespace_parameters;
use super::snapshot::rows;
use super::task::start_and_follow;

/// `holdfast namespace …`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum NamespaceCommand {
    /// List namespaces with all that lie within them.
    List {
        /// Only this one and those within it.
        #[arg(default_value = "", hide_default_value = true)]
        namespace: Namespace,
        /// How many levels below it are listed.
        #[arg(long, value_parser = clap::value_parser!(u8).range(0..=7))]
        max_depth: Option<u8>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Create a namespace; the one around it must exist.
    Create {
        /// Like a/b
        namespace: Namespace,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Move a namespace with all that is in it. Prints the log to its end.
    Move {
        /// Like a/b
        namespace: Namespace,
        /// What it is called afterwards, like c/d; the one around that must exist.
        #[arg(long, value_name = "NAMESPACE")]
        target_ns: Namespace,
        /// Print the task's id and leave it to run.
        #[arg(long)]
        detach: bool,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Delete a namespace and those within it.
    Delete {
        /// Like a/b
        namespace: Namespace,
        /// Delete the groups in it too, with all their snapshots. Without it only empty namespaces go.
        #[arg(long)]
        delete_groups: bool,
        #[command(flatten)]
        server: ServerArgs,
    },
}

const COLUMNS: &[Column] = &[
    ("namespace", |row| match row["ns"].as_str() {
        Some("") => "(root)".to_owned(),
        _ => output::plain(&row["ns"]),
    }),
    ("notes", |row| output::plain(&row["comment"])),
];

impl NamespaceCommand {
    pub(super) async fn run(self, progress: &Progress) -> anyhow::Result<()> {
        match self {
            Self::List {
                namespace,
                max_depth,
                server,
            } => {
                let mut session = server.session().await?;
                let mut parameters = Vec::new();
                if !namespace.is_root() {
                    parameters.push(("parent", namespace.to_string()));
                }
                parameters.extend(max_depth.map(|depth| ("max-depth", depth.to_string())));
                let path = session.datastore("namespace");
                let mut rows = rows(&mut session.get(&path, &parameters).await?)?;
                rows.sort_by_key(|row| row["ns"].as_str().map(|ns| ns.replace('/', "\0")));
                server.output().table(&rows, COLUMNS)
            }
            Self::Create { namespace, server } => {
                let (Some(name), Some(parent)) = (namespace.name(), namespace.parent()) else {
                    bail!("the root namespace exists already: give a name");
                };
                let mut body = json!({"name": name});
                if !parent.is_root() {
                    body["parent"] = parent.to_string().into();
                }
                let mut session = server.session().await?;
                let path = session.datastore("namespace");
                let created = session.post(&path, &body).await?;
                server
                    .output()
                    .value(&created, &format!("{namespace} is there"))
            }
            Self::Move {
                namespace,
                target_ns,
                detach,
                server,
            } => {
                let body = json!({
                    "ns": namespace.to_string(),
                    "target-ns": target_ns.to_string(),
                });
                let output = server.output();
                let mut session = server.session().await?;
                let what = "move-namespace";
                start_and_follow(&mut session, what, &body, detach, output, progress).await
            }
            Self::Delete {
                namespace,
                delete_groups,
                server,
            } => {
                if namespace.is_root() {
                    bail!("the root namespace cannot be deleted");
                }
                let mut parameters = namespace_parameters(&namespace);
                parameters.push(("delete-groups", delete_groups.to_string()));
                let mut session = server.session().await?;
                let path = session.datastore("namespace");
                let statistics = session.delete(&path, &parameters).await?;
                server
                    .output()
                    .value(&statistics, &deleted(&namespace, &statistics))
            }
        }
    }
}

/// Newer servers say what went with it.
fn deleted(namespace: &Namespace, statistics: &Value) -> String {
    let count = |name: &str| statistics[name].as_u64().unwrap_or(0);
    let (groups, snapshots) = (count("removed-groups"), count("removed-snapshots"));
    match (groups, snapshots, count("protected-snapshots")) {
        (0, 0, 0) => format!("{namespace} is deleted"),
        (_, _, 0) => {
            format!("{namespace} is deleted, with {groups} groups and {snapshots} snapshots")
        }
        (_, _, kept) => format!(
            "{groups} groups and {snapshots} snapshots are deleted; {kept} snapshots of {namespace} are protected and stay"
        ),
    }
}
