//! `holdfast remote`: the other servers that snapshots are copied from and to.

use http::Method;
use serde_json::{Value, json};

use super::password::{self, REMOTE_PASSWORD_VARIABLE};
use super::{ManageArgs, changes, given, nothing, rows};
use crate::client::output::{Column, plain, time_of};

/// `holdfast remote …`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum RemoteCommand {
    /// Add a server. The password of the user, or the secret of the token, comes from the terminal, from standard input, or from the
    /// variable HOLDFAST_REMOTE_PASSWORD.
    Add {
        /// Its name here: 3 to 32 letters, digits, '_', '.' and '-'.
        name: String,
        #[command(flatten)]
        settings: RemoteSettings,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// List the servers.
    List {
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Show the settings of a server, without the password.
    Show {
        /// Its name here.
        name: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Change the settings of a server that are given. A change of where it is, or as whom it is entered, asks for the password anew.
    Update {
        /// Its name here.
        name: String,
        #[command(flatten)]
        settings: RemoteSettings,
        /// Ask for a new password, too.
        #[arg(long)]
        password: bool,
        /// Set this setting back to its default; may be repeated.
        #[arg(long, value_name = "SETTING")]
        delete: Vec<String>,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Remove a server that no job uses, with its password.
    Remove {
        /// Its name here.
        name: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Show what a server has: its datastores, or the groups or namespaces of one.
    Scan {
        /// Its name here.
        name: String,
        /// The groups of this datastore.
        store: Option<String>,
        /// The namespace whose groups are shown; the root if not given.
        #[arg(long, value_name = "NAMESPACE", requires = "store")]
        ns: Option<String>,
        /// The namespaces of the datastore instead.
        #[arg(long, requires = "store", conflicts_with = "ns")]
        namespaces: bool,
        #[command(flatten)]
        manage: ManageArgs,
    },
}

/// How a server is reached, and as whom.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RemoteSettings {
    /// Its name or address.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Its port; 8007 if not given.
    #[arg(long)]
    port: Option<u16>,
    /// The user or API token there.
    #[arg(long, value_name = "ID")]
    auth_id: Option<String>,
    /// SHA-256 of its certificate; one that a known authority has signed if not given.
    #[arg(long, value_name = "XX:XX:…")]
    fingerprint: Option<String>,
    /// One line about it.
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
}

impl RemoteSettings {
    fn params(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("host", json!(self.host)),
            ("port", json!(self.port)),
            ("auth-id", json!(self.auth_id)),
            ("fingerprint", json!(self.fingerprint)),
            ("comment", json!(self.comment)),
        ]
    }
}

const COLUMNS: &[Column] = &[
    ("remote", |row| plain(&row["name"])),
    ("host", |row| {
        format!("{}:{}", plain(&row["host"]), plain(&row["port"]))
    }),
    ("as", |row| plain(&row["auth-id"])),
    ("comment", |row| plain(&row["comment"])),
];

const DATASTORES: &[Column] = &[
    ("datastore", |row| plain(&row["store"])),
    ("comment", |row| plain(&row["comment"])),
];

const NAMESPACES: &[Column] = &[("namespace", |row| plain(&row["ns"]))];

const GROUPS: &[Column] = &[
    ("group", |row| {
        format!(
            "{}/{}",
            plain(&row["backup-type"]),
            plain(&row["backup-id"])
        )
    }),
    ("snapshots", |row| plain(&row["backup-count"])),
    ("last backup", |row| time_of(&row["last-backup"])),
    ("owner", |row| plain(&row["owner"])),
];

fn secret() -> anyhow::Result<Value> {
    let secret = password::read(REMOTE_PASSWORD_VARIABLE, "Password or token secret", false);
    Ok(json!(secret?))
}

impl RemoteCommand {
    /// Runs the command.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let one = |name: &str| format!("config/remote/{name}");
        match self {
            Self::Add {
                name,
                settings,
                manage,
            } => {
                let mut params = given(&settings.params());
                params["name"] = json!(name);
                params["password"] = secret()?;
                let done = format!("The remote '{name}' was added.");
                let path = "config/remote";
                manage.change(Method::POST, path, params, &done).await
            }
            Self::List { manage } => {
                let data = manage.call(Method::GET, "config/remote", nothing()).await?;
                manage.output().table(&rows(data), COLUMNS)
            }
            Self::Show { name, manage } => {
                let data = manage.call(Method::GET, &one(&name), nothing()).await?;
                manage.output().members(&data)
            }
            Self::Update {
                name,
                settings,
                password,
                delete,
                manage,
            } => {
                let mut params = changes(&settings.params(), &delete);
                let elsewhere = |name: &String| name != "comment";
                let elsewhere = params.as_object().is_some_and(|p| p.keys().any(elsewhere))
                    || delete.iter().any(elsewhere);
                if password || elsewhere {
                    params["password"] = secret()?;
                }
                let done = format!("The remote '{name}' was changed.");
                manage.change(Method::PUT, &one(&name), params, &done).await
            }
            Self::Remove { name, manage } => {
                let done = format!("The remote '{name}' was removed.");
                let path = one(&name);
                manage.change(Method::DELETE, &path, nothing(), &done).await
            }
            Self::Scan {
                name,
                store,
                ns,
                namespaces,
                manage,
            } => {
                let (path, columns) = match store {
                    None => (format!("{}/scan", one(&name)), DATASTORES),
                    Some(store) if namespaces => (
                        format!("{}/scan/{store}/namespaces", one(&name)),
                        NAMESPACES,
                    ),
                    Some(store) => (format!("{}/scan/{store}/groups", one(&name)), GROUPS),
                };
                let params = given(&[("ns", json!(ns))]);
                let data = manage.call(Method::GET, &path, params).await?;
                manage.output().table(&rows(data), columns)
            }
        }
    }
}
