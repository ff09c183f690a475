//! `holdfast acl`

use http::Method;
use serde_json::{Value, json};

use super::{ManageArgs, nothing, rows};
use crate::auth::{AclPath, AuthId, Role};
use crate::client::output::{Column, plain};

/// `holdfast acl …`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum AclCommand {
    /// Give a user or API token a role on a path and what is below.
    Set {
        #[command(flatten)]
        right: Right,
        /// Only on the path itself, not below.
        #[arg(long)]
        no_propagate: bool,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// List who has which role where.
    List {
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Show what a user or API token may do, where it was given something or at one path.
    Permissions {
        /// A user, NAME@REALM, or an API token, NAME@REALM!TOKEN.
        id: AuthId,
        /// Only at this path, such as /datastore/NAME/NAMESPACE.
        #[arg(long)]
        path: Option<AclPath>,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// List the roles with what each of them may do.
    Roles {
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Take a role away.
    Remove {
        #[command(flatten)]
        right: Right,
        #[command(flatten)]
        manage: ManageArgs,
    },
}

/// Who has which role where.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Right {
    /// Such as / or /datastore/NAME or /datastore/NAME/NAMESPACE.
    path: AclPath,
    /// A user, NAME@REALM, or an API token, NAME@REALM!TOKEN.
    id: AuthId,
    /// Such as Admin, DatastoreAdmin, DatastoreBackup or NoAccess.
    role: Role,
}

const COLUMNS: &[Column] = &[
    ("path", |row| plain(&row["path"])),
    ("id", |row| plain(&row["ugid"])),
    ("role", |row| plain(&row["roleid"])),
    ("below too", |row| {
        let below = row["propagate"].as_bool().unwrap_or(true);
        if below { "yes" } else { "no" }.to_owned()
    }),
];

const ROLES: &[Column] = &[
    ("role", |row| plain(&row["roleid"])),
    ("may", |row| plain(&row["privs"])),
];

const PERMISSIONS: &[Column] = &[
    ("path", |row| plain(&row["path"])),
    ("may", |row| plain(&row["here and below"])),
    ("may only here", |row| plain(&row["here"])),
];

/// A row for each path of what somebody may do.
fn permission_rows(data: &Value) -> Vec<Value> {
    let paths = data.as_object().into_iter().flatten();
    paths
        .map(|(path, privileges)| {
            let of = |below: bool| -> Vec<&String> {
                let all = privileges.as_object().into_iter().flatten();
                all.filter(|(_, value)| **value == below)
                    .map(|(name, _)| name)
                    .collect()
            };
            json!({ "path": path, "here and below": of(true), "here": of(false) })
        })
        .collect()
}

impl Right {
    fn params(&self, more: &[(&str, Value)]) -> Value {
        let mut params = json!({
            "path": self.path.to_string(),
            "auth-id": self.id.to_string(),
            "role": self.role.name(),
        });
        for (name, value) in more {
            params[*name] = value.clone();
        }
        params
    }
}

impl AclCommand {
    /// Runs the command.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Set {
                right,
                no_propagate,
                manage,
            } => {
                let params = right.params(&[("propagate", json!(!no_propagate))]);
                let done = format!(
                    "'{}' has the role {} on {}.",
                    right.id, right.role, right.path
                );
                manage
                    .change(Method::PUT, "access/acl", params, &done)
                    .await
            }
            Self::List { manage } => {
                let data = manage.call(Method::GET, "access/acl", nothing()).await?;
                manage.output().table(&rows(data), COLUMNS)
            }
            Self::Permissions { id, path, manage } => {
                let mut params = json!({ "auth-id": id.to_string() });
                if let Some(path) = path {
                    params["path"] = json!(path.to_string());
                }
                let path = "access/permissions";
                let data = manage.call(Method::GET, path, params).await?;
                let output = manage.output();
                if output.is_json() {
                    return output.json(&data);
                }
                output.table(&permission_rows(&data), PERMISSIONS)
            }
            Self::Roles { manage } => {
                let data = manage.call(Method::GET, "access/roles", nothing()).await?;
                manage.output().table(&rows(data), ROLES)
            }
            Self::Remove { right, manage } => {
                let params = right.params(&[("delete", json!(true))]);
                let done = format!(
                    "'{}' has the role {} on {} no more.",
                    right.id, right.role, right.path
                );
                manage
                    .change(Method::PUT, "access/acl", params, &done)
                    .await
            }
        }
    }
}
