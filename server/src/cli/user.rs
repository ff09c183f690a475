//! `holdfast user`

use http::Method;
use serde_json::{Value, json};

use super::account::{AccountSettings, enabled, expires};
use super::password::{self, PASSWORD_VARIABLE};
use super::{ManageArgs, changes, given, nothing, rows};
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
        #[command(flatten)]
        settings: AccountSettings,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// List the users.
    List {
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Show a user with the API tokens.
    Show {
        /// The user.
        user: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Change the settings of a user that are given.
    Update {
        /// The user.
        user: String,
        #[command(flatten)]
        settings: AccountSettings,
        /// Set this setting back to its default; may be repeated.
        #[arg(long, value_name = "SETTING")]
        delete: Vec<String>,
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
    /// List the realms that users can be of.
    Realms {
        #[command(flatten)]
        manage: ManageArgs,
    },
}

const COLUMNS: &[Column] = &[
    ("user", |row| plain(&row["userid"])),
    ("enabled", enabled),
    ("expires", expires),
    ("locked until", |row| time_of(&row["locked-until"])),
    ("comment", |row| plain(&row["comment"])),
];

/// The names of a user's API tokens.
fn tokens(row: &Value) -> String {
    let tokens = row["tokens"].as_array().into_iter().flatten();
    let names: Vec<_> = tokens.map(|token| plain(&token["tokenid"])).collect();
    names.join(" ")
}

const REALMS: &[Column] = &[
    ("realm", |row| plain(&row["realm"])),
    ("type", |row| plain(&row["type"])),
    ("default", |row| {
        let default = row["default"] == true;
        if default { "yes" } else { "" }.to_owned()
    }),
];

impl UserCommand {
    /// Runs the command.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Add {
                user,
                no_password,
                settings,
                manage,
            } => {
                let password = (!no_password)
                    .then(|| password::read(PASSWORD_VARIABLE, "Password", true))
                    .transpose()?;
                let mut params = given(&settings.params());
                params["userid"] = json!(user);
                if let Some(password) = password {
                    params["password"] = json!(password);
                }
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
            Self::Show { user, manage } => {
                let path = format!("access/users/{user}");
                let data = manage.call(Method::GET, &path, nothing()).await?;
                let columns = [COLUMNS, &[("tokens", tokens)]].concat();
                manage.output().row(&data, &columns)
            }
            Self::Update {
                user,
                settings,
                delete,
                manage,
            } => {
                let path = format!("access/users/{user}");
                let params = changes(&settings.params(), &delete);
                let done = format!("User '{user}' was changed.");
                manage.change(Method::PUT, &path, params, &done).await
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
            Self::Realms { manage } => {
                let data = manage
                    .call(Method::GET, "access/domains", nothing())
                    .await?;
                manage.output().table(&rows(data), REALMS)
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
