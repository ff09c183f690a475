//! `holdfast user`

use http::Method;
use serde_json::{Value, json};

use super::password::{self, PASSWORD_VARIABLE};
use super::{ManageArgs, given, nothing, rows};
use crate::client::output::{Column, plain, time_of};

/// `holdfast user …`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum UserCommand {
    /// Add a user, NAME@REALM. The password comes from the terminal, from standard input, or from the variable
    /// HOLDFAST_PASSWORD.
    Add {
        /// Such as backup@pbs.
        user: String,
        /// Add the user without a password, who then can only use API tokens.
        #[arg(long)]
        no_password: bool,
        /// One line about the user.
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// List the users.
    List {
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Set a user's password; all logins of the user end.
    Passwd {
        /// The user.
        user: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Let a user in again.
    Enable {
        /// The user.
        user: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Let a user in no more, nor the user's tokens; takes effect at once.
    Disable {
        /// The user.
        user: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Let a user log in again by password who is locked after too many failed logins.
    Unlock {
        /// The user.
        user: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Remove a user with password, tokens and rights.
    Remove {
        /// The user.
        user: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
}

const COLUMNS: &[Column] = &[
    ("user", |row| plain(&row["userid"])),
    ("enabled", enabled),
    ("expires", |row| time_of(&row["expire"])),
    ("locked until", |row| time_of(&row["locked-until"])),
    ("comment", |row| plain(&row["comment"])),
];

/// A row without the member is enabled.
pub(super) fn enabled(row: &Value) -> String {
    let enabled = row["enable"].as_bool().unwrap_or(true);
    if enabled { "yes" } else { "no" }.to_owned()
}

impl UserCommand {
    /// Runs the command.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Add {
                user,
                no_password,
                comment,
                manage,
            } => {
                let password = (!no_password)
                    .then(|| password::read(PASSWORD_VARIABLE, "Password", true))
                    .transpose()?;
                let params = given(&[
                    ("userid", json!(user)),
                    ("password", json!(password)),
                    ("comment", json!(comment)),
                ]);
                let done = format!(
                    "User '{user}' was added. It has no rights yet; give some with: holdfast acl set"
                );
                manage
                    .change(Method::POST, "access/users", params, &done)
                    .await
            }
            Self::List { manage } => {
                let data = manage.call(Method::GET, "access/users", nothing()).await?;
                manage.output().table(&rows(data), COLUMNS)
            }
            Self::Passwd { user, manage } => {
                let password = password::read(PASSWORD_VARIABLE, "New password", true)?;
                let params = json!({ "userid": user, "password": password });
                let done = format!("The password of '{user}' was set.");
                manage
                    .change(Method::PUT, "access/password", params, &done)
                    .await
            }
            Self::Enable { user, manage } => {
                let done = format!("User '{user}' is enabled.");
                set_enabled(&manage, &user, true, &done).await
            }
            Self::Disable { user, manage } => {
                let done = format!("User '{user}' is disabled.");
                set_enabled(&manage, &user, false, &done).await
            }
            Self::Unlock { user, manage } => {
                let path = format!("access/users/{user}/unlock");
                let unlocked = manage.call(Method::PUT, &path, nothing()).await?;
                let told = match unlocked.as_bool() {
                    Some(true) => format!("User '{user}' can log in again."),
                    _ => format!("User '{user}' was not locked."),
                };
                manage.output().value(&unlocked, &told)
            }
            Self::Remove { user, manage } => {
                let path = format!("access/users/{user}");
                let done = format!("User '{user}' was removed.");
                manage.change(Method::DELETE, &path, nothing(), &done).await
            }
        }
    }
}

async fn set_enabled(
    manage: &ManageArgs,
    user: &str,
    enable: bool,
    done: &str,
) -> anyhow::Result<()> {
    let path = format!("access/users/{user}");
    let params = json!({ "enable": enable });
    manage.change(Method::PUT, &path, params, done).await
}
