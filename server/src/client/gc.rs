//! `holdfast gc`: start, status.

use serde_json::{Value, json};

use super::ServerArgs;
use super::output::{self, Column, plain, time_of};
use super::progress::Progress;
use super::snapshot::rows_of;
use super::task::start_and_follow;

/// `holdfast gc …`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum GcCommand {
    /// Collect garbage: remove the chunks that no snapshot needs. Prints the log to its end.
    Start {
        /// Do all but delete.
        #[arg(long)]
        dry_run: bool,
        /// Only say what would be asked of the bucket, and what that costs by the price list of its S3 server.
        #[arg(long, conflicts_with = "dry_run")]
        estimate: bool,
        /// Print the task's id and leave it to run.
        #[arg(long)]
        detach: bool,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// List when garbage is collected in each datastore, and how the last collection ended.
    List {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Show what the last garbage collection found and removed.
    Status {
        #[command(flatten)]
        server: ServerArgs,
    },
}

const COLUMNS: &[Column] = &[
    ("datastore", |row| plain(&row["store"])),
    ("schedule", |row| plain(&row["schedule"])),
    ("next run", |row| time_of(&row["next-run"])),
    ("last run ended", |row| time_of(&row["last-run-endtime"])),
    ("last state", |row| plain(&row["last-run-state"])),
];

impl GcCommand {
    pub(super) async fn run(self, progress: &Progress) -> anyhow::Result<()> {
        match self {
            Self::Start {
                dry_run,
                estimate,
                detach,
                server,
            } => {
                let mut session = server.session().await?;
                let output = server.output();
                let mut body = json!({});
                // Other servers know of neither.
                for (name, asked) in [("dry-run", dry_run), ("estimate", estimate)] {
                    if asked {
                        body[name] = json!(true);
                    }
                }
                start_and_follow(&mut session, "gc", &body, detach, output, progress).await
            }
            Self::List { server } => {
                let mut session = server.session().await?;
                let list = session.get("/admin/gc", &[]).await?;
                let list = rows_of(list["data"].clone())?;
                server.output().table(&list, COLUMNS)
            }
            Self::Status { server } => {
                let mut session = server.session().await?;
                let path = session.datastore("gc");
                let status = session.get(&path, &[]).await?["data"].take();
                server.output().value(&status, &lines(&status))
            }
        }
    }
}

/// One line for each member, bytes with their unit, times as such.
fn lines(status: &Value) -> String {
    let Some(members) = status.as_object() else {
        return plain(status);
    };
    let lines = members
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| {
            let value = match name.rsplit_once('-') {
                Some((_, "bytes")) => output::bytes_of(value),
                Some((_, "since")) => time_of(value),
                _ => plain(value),
            };
            format!("{name}: {value}")
        });
    lines.collect::<Vec<_>>().join("\n")
}
