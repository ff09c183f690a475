//! `holdfast token`

use http::Method;
use serde_json::{Value, json};

use super::account::{AccountSettings, enabled, expires};
use super::{ManageArgs, changes, given, nothing, rows};
use crate::auth::TokenId;
use crate::client::output::{Column, Output, plain};

/// `holdfast token …`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TokenCommand {
    /// Add an API token, NAME@REALM!TOKEN, and print its secret, which is never shown again. A token can do what both it
    /// and its user may do.
    Create {
        /// Such as 'backup@pbs!nightly'.
        token: TokenId,
        #[command(flatten)]
        settings: AccountSettings,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// List the API tokens.
    List {
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Show an API token; its secret is not known.
    Show {
        /// The token.
        token: TokenId,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Change the settings of an API token that are given, or give it a new secret.
    Update {
        /// The token.
        token: TokenId,
        #[command(flatten)]
        settings: AccountSettings,
        /// Make a new secret and print it; the old one ends at once.
        #[arg(long)]
        regenerate: bool,
        /// Set this setting back to its default; may be repeated.
        #[arg(long, value_name = "SETTING")]
        delete: Vec<String>,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Let an API token in again.
    Enable {
        /// The token.
        token: TokenId,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Let an API token in no more; takes effect at once.
    Disable {
        /// The token.
        token: TokenId,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Remove an API token with its rights.
    Remove {
        /// The token.
        token: TokenId,
        #[command(flatten)]
        manage: ManageArgs,
    },
}

const COLUMNS: &[Column] = &[
    ("token", |row| plain(&row["tokenid"])),
    ("enabled", enabled),
    ("expires", expires),
    ("comment", |row| plain(&row["comment"])),
];

/// Prints a secret, for the only time.
fn print_secret(
    output: Output,
    answer: &Value,
    token: &TokenId,
    secret: &Value,
) -> anyhow::Result<()> {
    output.json(answer)?;
    output.text(&format!("token:  {token}"))?;
    output.text(&format!("secret: {}", plain(secret)))?;
    output.text("The secret is shown only this once.")
}

async fn set_enabled(manage: &ManageArgs, token: &TokenId, enable: bool) -> anyhow::Result<()> {
    let state = if enable { "enabled" } else { "disabled" };
    let done = format!("Token '{token}' is {state}.");
    let params = json!({ "enable": enable });
    manage
        .change(Method::PUT, &path_of(token), params, &done)
        .await
}

fn path_of(token: &TokenId) -> String {
    format!("access/users/{}/token/{}", token.user(), token.name())
}

impl TokenCommand {
    /// Runs the command.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create {
                token,
                settings,
                manage,
            } => {
                let params = given(&settings.params());
                let data = manage.call(Method::POST, &path_of(&token), params).await?;
                print_secret(manage.output(), &data, &token, &data["value"])
            }
            Self::Show { token, manage } => {
                let data = manage
                    .call(Method::GET, &path_of(&token), nothing())
                    .await?;
                manage.output().row(&data, COLUMNS)
            }
            Self::Update {
                token,
                settings,
                regenerate,
                delete,
                manage,
            } => {
                let mut params = changes(&settings.params(), &delete);
                if regenerate {
                    params["regenerate"] = json!(true);
                }
                let data = manage.call(Method::PUT, &path_of(&token), params).await?;
                let output = manage.output();
                if regenerate {
                    return print_secret(output, &data, &token, &data["secret"]);
                }
                output.value(&data, &format!("Token '{token}' was changed."))
            }
            Self::Enable { token, manage } => set_enabled(&manage, &token, true).await,
            Self::Disable { token, manage } => set_enabled(&manage, &token, false).await,
            Self::List { manage } => {
                let params = json!({ "include_tokens": true });
                let data = manage.call(Method::GET, "access/users", params).await?;
                let tokens: Vec<Value> = rows(data)
                    .into_iter()
                    .flat_map(|mut user| rows(user["tokens"].take()))
                    .collect();
                manage.output().table(&tokens, COLUMNS)
            }
            Self::Remove { token, manage } => {
                let done = format!("Token '{token}' was removed.");
                let path = path_of(&token);
                manage.change(Method::DELETE, &path, nothing(), &done).await
            }
        }
    }
}
