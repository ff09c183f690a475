//! `holdfast token`

use http::Method;
use serde_json::{Value, json};

use super::user::enabled;
use super::{ManageArgs, given, nothing, rows};
use crate::auth::TokenId;
use crate::client::output::{Column, plain, time_of};

/// `holdfast token …`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TokenCommand {
    /// Add an API token, NAME@REALM!TOKEN, and print its secret, which is never shown again. A token can do what both it
    /// and its user may do.
    Create {
        /// Such as 'backup@pbs!nightly'.
        token: TokenId,
        /// One line about the token.
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// List the API tokens.
    List {
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
    ("expires", |row| time_of(&row["expire"])),
    ("comment", |row| plain(&row["comment"])),
];

fn path_of(token: &TokenId) -> String {
    format!("access/users/{}/token/{}", token.user(), token.name())
}

impl TokenCommand {
    /// Runs the command.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create {
                token,
                comment,
                manage,
            } => {
                let params = given(&[("comment", json!(comment))]);
                let data = manage.call(Method::POST, &path_of(&token), params).await?;
                let output = manage.output();
                output.json(&data)?;
                output.text(&format!("token:  {}", plain(&data["tokenid"])))?;
                output.text(&format!("secret: {}", plain(&data["value"])))?;
                output.text("The secret is shown only this once.")
            }
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
