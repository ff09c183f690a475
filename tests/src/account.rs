//! Accounts of a daemon that was set up for a test: API tokens and rights.

use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::connection::Entrance;
use crate::daemon::Daemon;
use crate::https::pinned;

/// Name of the token of [`Daemon::entrance`].
const TOKEN: &str = "entrance";

impl Daemon {
    /// Makes an API token `user@realm!name`, which may do nothing yet; its secret.
    pub fn add_token(&self, token: &str) -> Result<String> {
        let arguments = ["token", "create", token, "--output-format", "json"];
        let told = self.manage(&arguments)?.success()?.json()?;
        let secret = told["value"].as_str().context("the secret of a token")?;
        Ok(secret.to_owned())
    }

    /// Gives a user or token a role at a path and below it.
    pub fn grant(&self, path: &str, who: &str, role: &str) -> Result<()> {
        self.manage(&["acl", "set", path, who, role])?.success()?;
        Ok(())
    }

    /// The way into the running daemon with a new API token that may do everything. To be called once.
    pub fn entrance(&self) -> Result<Entrance> {
        let token = format!("{}!{TOKEN}", self.user());
        let secret = self.add_token(&token)?;
        self.grant("/", &token, "Admin")?;
        Ok(Entrance {
            address: self.address()?,
            tls: Arc::new(pinned(self.fingerprint())?),
            authorization: authorization(&token, &secret),
        })
    }
}

/// What a token sends in the header `Authorization`.
pub fn authorization(token: &str, secret: &str) -> String {
    format!("PBSAPIToken {token}:{secret}")
}
