//! `holdfast traffic`: how fast clients may be.

use http::Method;
use serde_json::{Value, json};

use super::{ManageArgs, changes, given, nothing, rows};
use crate::client::output::{Column, bytes_of, plain};

/// `holdfast traffic …`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TrafficCommand {
    /// Add a rule. It is in force at once, on open connections too.
    Add {
        /// Its name: 3 to 32 letters, digits, '_', '.' and '-'.
        name: String,
        #[command(flatten)]
        settings: TrafficSettings,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// List the rules.
    List {
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Show a rule.
    Show {
        /// Its name.
        name: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Change the settings of a rule that are given.
    Update {
        /// Its name.
        name: String,
        #[command(flatten)]
        settings: TrafficSettings,
        /// Set this setting back to its default; may be repeated.
        #[arg(long, value_name = "SETTING")]
        delete: Vec<String>,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Remove a rule.
    Remove {
        /// Its name.
        name: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
}

/// Whom a rule is for, and how fast they may be, all together.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TrafficSettings {
    /// Only connections from this network or address, such as 10.0.0.0/8; may be repeated.
    #[arg(long, value_name = "NETWORK")]
    network: Vec<String>,
    /// Only backups and restores of this user, with the user's tokens, or of this token; may be repeated.
    #[arg(long, value_name = "ID")]
    user: Vec<String>,
    /// Bytes per second to the server at most, such as "50 MiB"; 0 for no limit.
    #[arg(long, value_name = "SIZE")]
    rate_in: Option<String>,
    /// Bytes that may come at once after a pause; as many as in a second if not given.
    #[arg(long, value_name = "SIZE")]
    burst_in: Option<String>,
    /// Bytes per second from the server at most; 0 for no limit.
    #[arg(long, value_name = "SIZE")]
    rate_out: Option<String>,
    /// Bytes that may go at once after a pause; as many as in a second if not given.
    #[arg(long, value_name = "SIZE")]
    burst_out: Option<String>,
    /// One line about it.
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
}

impl TrafficSettings {
    fn params(&self) -> Vec<(&'static str, Value)> {
        let list = |list: &Vec<String>| match list.as_slice() {
            [] => Value::Null,
            list => json!(list),
        };
        vec![
            ("network", list(&self.network)),
            ("user", list(&self.user)),
            ("rate-in", json!(self.rate_in)),
            ("burst-in", json!(self.burst_in)),
            ("rate-out", json!(self.rate_out)),
            ("burst-out", json!(self.burst_out)),
            ("comment", json!(self.comment)),
        ]
    }
}

const COLUMNS: &[Column] = &[
    ("name", |row| plain(&row["name"])),
    ("network", |row| plain(&row["network"])),
    ("user", |row| plain(&row["user"])),
    ("in per second", |row| bytes_of(&row["rate-in"])),
    ("out per second", |row| bytes_of(&row["rate-out"])),
    ("comment", |row| plain(&row["comment"])),
];

const ALL: &str = "config/traffic-control";

impl TrafficCommand {
    /// Runs the command.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let one = |name: &str| format!("{ALL}/{name}");
        match self {
            Self::Add {
                name,
                settings,
                manage,
            } => {
                let mut params = given(&settings.params());
                params["name"] = json!(name);
                let done = format!("The rule '{name}' was added and is in force.");
                manage.change(Method::POST, ALL, params, &done).await
            }
            Self::List { manage } => {
                let data = manage.call(Method::GET, ALL, nothing()).await?;
                manage.output().table(&rows(data), COLUMNS)
            }
            Self::Show { name, manage } => {
                let data = manage.call(Method::GET, &one(&name), nothing()).await?;
                manage.output().members(&data)
            }
            Self::Update {
                name,
                settings,
                delete,
                manage,
            } => {
                let params = changes(&settings.params(), &delete);
                let done = format!("The rule '{name}' was changed and is in force.");
                manage.change(Method::PUT, &one(&name), params, &done).await
            }
            Self::Remove { name, manage } => {
                let done = format!("The rule '{name}' was removed.");
                let path = one(&name);
                manage.change(Method::DELETE, &path, nothing(), &done).await
            }
        }
    }
}
