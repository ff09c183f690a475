//! `holdfast task`: list, log, stop; and following a task that another command started.

use std::time::Duration;

use anyhow::{Context as _, bail};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::ServerArgs;
use super::output::{self, Column, Output};
use super::progress::Progress;
use super::session::Session;
use super::snapshot::rows;

/// Lines asked for at once.
const PAGE: u64 = 500;
/// Between two looks at a running task.
const POLL: Duration = Duration::from_secs(1);

/// `holdfast task …`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TaskCommand {
    /// List tasks of the datastore, newest first.
    List {
        /// Those of all users, not only one's own.
        #[arg(long)]
        all: bool,
        /// Only those that run.
        #[arg(long)]
        running: bool,
        /// How many at most; 0 for all.
        #[arg(long, default_value_t = 50)]
        limit: u64,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Print a task's log, to its end if it still runs.
    Log {
        /// The task's id, as listed.
        upid: String,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Ask a running task to stop.
    Stop {
        /// The task's id, as listed.
        upid: String,
        #[command(flatten)]
        server: ServerArgs,
    },
}

const COLUMNS: &[Column] = &[
    ("started", |row| output::time_of(&row["starttime"])),
    ("ended", |row| output::time_of(&row["endtime"])),
    ("status", |row| {
        row["status"]
            .as_str()
            .map_or_else(|| "running".into(), ToOwned::to_owned)
    }),
    ("task", |row| output::plain(&row["upid"])),
];

impl TaskCommand {
    pub(super) async fn run(self, progress: &Progress) -> anyhow::Result<()> {
        match self {
            Self::List {
                all,
                running,
                limit,
                server,
            } => {
                let mut session = server.session().await?;
                let mut parameters = vec![
                    ("start", "0".to_owned()),
                    ("limit", limit.to_string()),
                    ("running", running.to_string()),
                    ("store", session.repository().datastore.to_string()),
                ];
                if !all {
                    parameters.push(("userfilter", session.repository().auth_id.to_string()));
                }
                let rows = rows(&mut session.get("/nodes/localhost/tasks", &parameters).await?)?;
                server.output().table(&rows, COLUMNS)
            }
            Self::Log { upid, server } => {
                let mut session = server.session().await?;
                follow(&mut session, &upid, server.output(), progress).await
            }
            Self::Stop { upid, server } => {
                server
                    .session()
                    .await?
                    .delete(&task(&upid, ""), &[])
                    .await?;
                server
                    .output()
                    .value(&Value::Null, "the task is asked to stop")
            }
        }
    }
}

fn task(upid: &str, what: &str) -> String {
    format!(
        "/nodes/localhost/tasks/{}{what}",
        utf8_percent_encode(upid, NON_ALPHANUMERIC)
    )
}

/// Who can be asked about tasks.
pub(crate) trait TaskSource {
    /// The whole answer to a GET of this path below `/api2/json`.
    async fn ask(&mut self, path: &str, parameters: &[(&str, String)]) -> anyhow::Result<Value>;
}

impl TaskSource for Session {
    async fn ask(&mut self, path: &str, parameters: &[(&str, String)]) -> anyhow::Result<Value> {
        Ok(self.get(path, parameters).await?)
    }
}

/// Makes a call that starts a task, and prints the log of that to the end, or with `detach` its id at once.
pub(super) async fn start_and_follow(
    session: &mut Session,
    what: &str,
    body: &Value,
    detach: bool,
    output: Output,
    progress: &Progress,
) -> anyhow::Result<()> {
    let path = session.datastore(what);
    let started = session.post(&path, body).await?;
    let upid = started
        .as_str()
        .context("the server's answer is not understood: it is no task id")?;
    if detach {
        return output.value(&started, upid);
    }
    follow(session, upid, output, progress).await
}

/// Prints the log of a task until it ends, then its status in JSON. A task that ended with warnings is a warning here.
///
/// # Errors
/// A task that failed.
pub(crate) async fn follow(
    source: &mut impl TaskSource,
    upid: &str,
    output: Output,
    progress: &Progress,
) -> anyhow::Result<()> {
    let mut next = 1;
    loop {
        let parameters = [
            ("start", next.to_string()),
            ("limit", PAGE.to_string()),
            ("test-status", "true".to_owned()),
        ];
        let mut page = source.ask(&task(upid, "/log"), &parameters).await?;
        let active = page["active"].as_bool().unwrap_or(false);
        let total = page["total"]
            .as_u64()
            .context("the task's log has no member 'total'")?;
        let before = next;
        for line in rows(&mut page)? {
            if line["n"].as_u64() == Some(next) {
                output.text(line["t"].as_str().unwrap_or_default())?;
                next += 1;
            }
        }
        if next > total {
            if !active {
                break;
            }
            tokio::time::sleep(POLL).await;
        } else if next == before {
            bail!("the task's log ends before its line {total}");
        }
    }
    let status = source.ask(&task(upid, "/status"), &[]).await?["data"].take();
    output.json(&status)?;
    match status["exitstatus"].as_str() {
        Some("OK") => Ok(()),
        Some(text) if text.starts_with("WARNINGS") => {
            progress.warn(&format!("the task ended with {text}"));
            Ok(())
        }
        Some(text) => bail!("the task failed: {text}"),
        None => bail!("the task ended without saying how"),
    }
}
