//! `holdfast session`: who reads or writes a snapshot at this moment.

use http::Method;

use super::{ManageArgs, nothing, rows};
use crate::client::output::{Column, bytes_of, plain, time_of};

/// `holdfast session …`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum SessionCommand {
    /// List the sessions on a datastore and other writers, and which of them keeps garbage collection from what it could
    /// remove otherwise.
    List {
        /// The datastore.
        store: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// End a session. A backup ends without a snapshot; one that is finishing goes on.
    End {
        /// The datastore.
        store: String,
        /// The session's id, as listed.
        id: u64,
        #[command(flatten)]
        manage: ManageArgs,
    },
}

const COLUMNS: &[Column] = &[
    ("id", |row| plain(&row["id"])),
    ("type", |row| plain(&row["type"])),
    ("since", |row| time_of(&row["starttime"])),
    ("snapshot", |row| {
        if let Some(writer) = row["writer"].as_str() {
            return writer.to_owned();
        }
        let group = format!(
            "{}/{}",
            plain(&row["backup-type"]),
            plain(&row["backup-id"])
        );
        match row["ns"].as_str() {
            Some("") | None => group,
            Some(namespace) => format!("{namespace}:{group}"),
        }
    }),
    ("user", |row| plain(&row["user"])),
    ("from", |row| plain(&row["peer"])),
    ("received", |row| bytes_of(&row["bytes-received"])),
    ("sent", |row| bytes_of(&row["bytes-sent"])),
    ("silent for", |row| {
        let idle = row["idle-seconds"].as_u64();
        idle.map(|idle| format!("{idle} s")).unwrap_or_default()
    }),
    ("", |row| {
        let holds = row["holds-cutoff"] == true;
        let said = if holds {
            "holds garbage collection back"
        } else {
            ""
        };
        said.to_owned()
    }),
];

impl SessionCommand {
    /// Runs the command.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let all = |store: &str| format!("admin/datastore/{store}/sessions");
        match self {
            Self::List { store, manage } => {
                let data = manage.call(Method::GET, &all(&store), nothing()).await?;
                manage.output().table(&rows(data), COLUMNS)
            }
            Self::End { store, id, manage } => {
                let path = format!("{}/{id}", all(&store));
                let done = format!("Session {id} was ended.");
                manage.change(Method::DELETE, &path, nothing(), &done).await
            }
        }
    }
}
