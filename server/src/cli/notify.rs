//! `holdfast notify`: who is told how tasks end.

use http::Method;
use serde_json::{Value, json};

use super::password::{self, NOTIFY_SECRET_VARIABLE};
use super::{ManageArgs, changes, given, nothing, rows};
use crate::client::output::{Column, plain};

/// `holdfast notify …`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum NotifyCommand {
    /// Add somebody who is told: by mail, or by a webhook.
    Add {
        /// Its name: 3 to 32 letters, digits, '_', '.' and '-'.
        name: String,
        #[command(flatten)]
        settings: NotifySettings,
        /// Ask for the password of the mail server's user, or for what the webhook is to find in its Authorization header. It comes from the
        /// terminal, from standard input, or from the variable HOLDFAST_NOTIFY_SECRET.
        #[arg(long)]
        secret: bool,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// List who is told.
    List {
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Show the settings of one, without the secret.
    Show {
        /// Its name.
        name: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Change the settings that are given.
    Update {
        /// Its name.
        name: String,
        #[command(flatten)]
        settings: NotifySettings,
        /// Ask for a secret, too. It is needed with a change of the URL or the user if there is one.
        #[arg(long)]
        secret: bool,
        /// Set this setting back to its default; may be repeated.
        #[arg(long, value_name = "SETTING")]
        delete: Vec<String>,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Remove one, with its secret.
    Remove {
        /// Its name.
        name: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Send a message now and say whether it was accepted.
    Test {
        /// Its name.
        name: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
}

/// Where messages go, and which.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct NotifySettings {
    /// https:// or http:// for a webhook; smtps:// (TLS), smtp:// (STARTTLS) or smtp+plain:// for a mail server.
    #[arg(long)]
    url: Option<String>,
    /// As whom the mail server is entered.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The sender of mails.
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// A recipient of mails; may be repeated.
    #[arg(long, value_name = "ADDRESS")]
    to: Vec<String>,
    /// Which ends of tasks are told of: info (all), warning or error; warning if not given.
    #[arg(long)]
    level: Option<String>,
    /// Only tasks of this type, such as syncjob; may be repeated. All but backups and restores if not given.
    #[arg(long = "task", value_name = "TYPE")]
    tasks: Vec<String>,
    /// Only tasks of this datastore; may be repeated.
    #[arg(long, value_name = "NAME")]
    store: Vec<String>,
    /// The template of a mail's subject.
    #[arg(long, value_name = "TEMPLATE")]
    subject: Option<String>,
    /// The template of what is sent.
    #[arg(long, value_name = "TEMPLATE")]
    body: Option<String>,
    /// Whether nothing is sent.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    disable: Option<bool>,
    /// One line about it.
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
}

impl NotifySettings {
    fn params(&self) -> Vec<(&'static str, Value)> {
        let list = |list: &Vec<String>| match list.as_slice() {
            [] => Value::Null,
            list => json!(list),
        };
        vec![
            ("url", json!(self.url)),
            ("user", json!(self.user)),
            ("from", json!(self.from)),
            ("to", list(&self.to)),
            ("level", json!(self.level)),
            ("tasks", list(&self.tasks)),
            ("store", list(&self.store)),
            ("subject", json!(self.subject)),
            ("body", json!(self.body)),
            ("disable", json!(self.disable)),
            ("comment", json!(self.comment)),
        ]
    }
}

const COLUMNS: &[Column] = &[
    ("name", |row| plain(&row["name"])),
    ("url", |row| plain(&row["url"])),
    ("level", |row| {
        if row["disable"] == true {
            return "disabled".to_owned();
        }
        plain(&row["level"])
    }),
    ("comment", |row| plain(&row["comment"])),
];

fn secret() -> anyhow::Result<Value> {
    let secret = password::read(NOTIFY_SECRET_VARIABLE, "Password or token", false);
    Ok(json!(secret?))
}

impl NotifyCommand {
    /// Runs the command.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        const ALL: &str = "config/notify";
        let one = |name: &str| format!("{ALL}/{name}");
        match self {
            Self::Add {
                name,
                settings,
                secret: ask,
                manage,
            } => {
                let mut params = given(&settings.params());
                params["name"] = json!(name);
                if ask {
                    params["secret"] = secret()?;
                }
                let done = format!(
                    "The notification '{name}' was added; try it with: holdfast notify test {name}"
                );
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
                secret: ask,
                delete,
                manage,
            } => {
                let mut params = changes(&settings.params(), &delete);
                if ask {
                    params["secret"] = secret()?;
                }
                let done = format!("The notification '{name}' was changed.");
                manage.change(Method::PUT, &one(&name), params, &done).await
            }
            Self::Remove { name, manage } => {
                let done = format!("The notification '{name}' was removed.");
                let path = one(&name);
                manage.change(Method::DELETE, &path, nothing(), &done).await
            }
            Self::Test { name, manage } => {
                let path = format!("{}/test", one(&name));
                let done = format!("The message to '{name}' was accepted.");
                manage.change(Method::POST, &path, nothing(), &done).await
            }
        }
    }
}
