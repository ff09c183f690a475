//! `holdfast gc`: start, status.

use serde_json::{Value, json};

use super::ServerArgs;
use super::output;
use super::progress::Progress;
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
    /// Show what the last garbage collection found and removed.
    Status {
        #[command(flatten)]
        server: ServerArgs,
    },
}

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
        return output::plain(status);
    };
    let lines = members
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| {
            let value = match name.rsplit_once('-') {
                Some((_, "bytes")) => output::bytes_of(value),
                Some((_, "since")) => output::time_of(value),
                _ => output::plain(value),
            };
            format!("{name}: {value}")
        });
    lines.collect::<Vec<_>>().join("\n")
}
