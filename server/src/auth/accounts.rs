//! Administration of users, API tokens and rights, over the two settings files. Who may call is the caller's question.
//!
//! A change that concerns both files writes the secret last when it adds and first when it removes: a crash in between
//! leaves an account nobody can use, never a secret without an account that governs it. All methods block on the disk,
//! the asynchronous ones on the blocking pool.

use std::sync::Arc;

use toml_edit::DocumentMut;

use super::acl::AclEntry;
use super::id::{AuthId, TokenId, UserId};
use super::password::Passwords;
use super::token::{ClearSecret, StoredSecret};
use crate::config::{self, ConfigError, ConfigStore, SecretsStore};

/// Most API tokens of one user. Users add their own without any right, and each makes the configuration longer.
const TOKENS_OF_USER_MAX: usize = 256;

/// New values for an account; `None` leaves a value as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AccountChange {
    /// Whether it may do anything.
    pub(crate) enable: Option<bool>,
    /// Unix seconds, 0 for never.
    pub(crate) expire: Option<i64>,
    /// One line; empty removes it.
    pub(crate) comment: Option<String>,
}

impl AccountChange {
    fn apply(&self, table: &mut toml_edit::Table) {
        if let Some(enable) = self.enable {
            config::set(table, "enable", Some(enable));
        }
        if let Some(expire) = self.expire {
            config::set(table, "expire", (expire != 0).then_some(expire));
        }
        if let Some(comment) = &self.comment {
            let text = (!comment.is_empty()).then_some(comment.as_str());
            config::set(table, "comment", text);
        }
    }
}

/// Changes accounts and rights.
#[derive(Debug, Clone)]
pub(crate) struct Accounts {
    config: Arc<ConfigStore>,
    secrets: Arc<SecretsStore>,
    passwords: Passwords,
}

impl Accounts {
    /// On these files.
    pub(crate) fn new(
        config: Arc<ConfigStore>,
        secrets: Arc<SecretsStore>,
        passwords: Passwords,
    ) -> Self {
        Self {
            config,
            secrets,
            passwords,
        }
    }

    /// Adds a user without a password, who cannot log in until one is set.
    pub(crate) fn create_user(
        &self,
        seen: Option<&str>,
        user: &UserId,
        values: &AccountChange,
    ) -> Result<(), ConfigError> {
        self.create("user", seen, user.as_str(), values)
    }

    /// Changes a user.
    pub(crate) fn update_user(
        &self,
        seen: Option<&str>,
        user: &UserId,
        values: &AccountChange,
    ) -> Result<(), ConfigError> {
        self.update("user", seen, user.as_str(), values)
    }

    /// Whether a password could be set; asked before the account is made.
    pub(crate) fn check_password(&self, password: &str) -> Result<(), ConfigError> {
        self.passwords
            .check_length(password)
            .map_err(|error| ConfigError::Refused(error.to_string()))
    }

    /// Sets a password; all tickets of the user end.
    pub(crate) async fn set_password(
        &self,
        user: &UserId,
        password: &str,
    ) -> Result<(), ConfigError> {
        if !self.config.read().users.contains_key(user) {
            return Err(ConfigError::Refused(format!("there is no user '{user}'")));
        }
        let hash = self.passwords.hash(password).await;
        let hash = hash.map_err(|error| ConfigError::Refused(error.to_string()))?;
        let (secrets, id) = (self.secrets.clone(), user.to_string());
        let write = move || secrets.edit(None, |document| put(document, "passwords", &id, &hash));
        tokio::task::spawn_blocking(write)
            .await
            .unwrap_or_else(|error| Err(ConfigError::Refused(error.to_string())))
    }

    /// Removes a user with password, tokens and rights.
    pub(crate) fn delete_user(&self, seen: Option<&str>, user: &UserId) -> Result<(), ConfigError> {
        self.check_seen(seen)?;
        let config = self.config.read();
        let tokens: Vec<TokenId> = config
            .tokens
            .keys()
            .filter(|token| token.user() == user)
            .cloned()
            .collect();
        self.secrets.edit(None, |document| {
            config::remove(document, "passwords", user.as_str());
            for token in &tokens {
                config::remove(document, "tokens", &token.to_string());
            }
            Ok(())
        })?;
        self.config.edit(seen, |document| {
            if !config::remove(document, "user", user.as_str()) {
                return Err(format!("there is no user '{user}'"));
            }
            config::remove_acl_of(document, user.as_str())?;
            for token in &tokens {
                config::remove(document, "token", &token.to_string());
                config::remove_acl_of(document, &token.to_string())?;
            }
            Ok(())
        })
    }

    /// Adds an API token; the secret is never shown again.
    pub(crate) fn create_token(
        &self,
        seen: Option<&str>,
        token: &TokenId,
        values: &AccountChange,
    ) -> Result<ClearSecret, ConfigError> {
        let config = self.config.read();
        let of_user = config.tokens.keys().filter(|id| id.user() == token.user());
        if of_user.count() >= TOKENS_OF_USER_MAX {
            return Err(ConfigError::Refused(format!(
                "{} has {TOKENS_OF_USER_MAX} API tokens already; remove one that is not used",
                token.user()
            )));
        }
        self.create("token", seen, &token.to_string(), values)?;
        self.renew_token_secret(token)
    }

    /// Changes an API token.
    pub(crate) fn update_token(
        &self,
        seen: Option<&str>,
        token: &TokenId,
        values: &AccountChange,
    ) -> Result<(), ConfigError> {
        self.update("token", seen, &token.to_string(), values)
    }

    /// Gives an API token a new secret; the old one ends.
    pub(crate) fn renew_token_secret(&self, token: &TokenId) -> Result<ClearSecret, ConfigError> {
        if !self.config.read().tokens.contains_key(token) {
            return Err(ConfigError::Refused(format!("there is no token '{token}'")));
        }
        let secret = ClearSecret::generate();
        let kept = StoredSecret::hashed(&secret).to_text();
        self.secrets.edit(None, |document| {
            put(document, "tokens", &token.to_string(), &kept)
        })?;
        Ok(secret)
    }

    /// Removes an API token with its rights.
    pub(crate) fn delete_token(
        &self,
        seen: Option<&str>,
        token: &TokenId,
    ) -> Result<(), ConfigError> {
        self.check_seen(seen)?;
        let id = token.to_string();
        self.secrets.edit(None, |document| {
            config::remove(document, "tokens", &id);
            Ok(())
        })?;
        self.config.edit(seen, |document| {
            if !config::remove(document, "token", &id) {
                return Err(format!("there is no token '{id}'"));
            }
            config::remove_acl_of(document, &id).map(|_| ())
        })
    }

    /// Gives a right to an existing user or token.
    pub(crate) fn grant(&self, seen: Option<&str>, entry: &AclEntry) -> Result<(), ConfigError> {
        let config = self.config.read();
        let exists = match &entry.id {
            AuthId::User(user) => config.users.contains_key(user),
            AuthId::Token(token) => config.tokens.contains_key(token),
        };
        if !exists {
            let message = format!("there is no user or token '{}'", entry.id);
            return Err(ConfigError::Refused(message));
        }
        self.config
            .edit(seen, |document| config::add_acl(document, entry))
    }

    /// Takes a right away.
    pub(crate) fn revoke(&self, seen: Option<&str>, entry: &AclEntry) -> Result<(), ConfigError> {
        self.config.edit(seen, |document| {
            if config::remove_acl(document, entry)? {
                Ok(())
            } else {
                Err(format!(
                    "'{}' does not have the role {} on {}",
                    entry.id, entry.role, entry.path
                ))
            }
        })
    }

    fn create(
        &self,
        kind: &str,
        seen: Option<&str>,
        id: &str,
        values: &AccountChange,
    ) -> Result<(), ConfigError> {
        self.config.edit(seen, |document| {
            if config::has_section(document, kind, id) {
                return Err(format!("the {kind} '{id}' exists already"));
            }
            values.apply(config::section(document, kind, id)?);
            Ok(())
        })
    }

    fn update(
        &self,
        kind: &str,
        seen: Option<&str>,
        id: &str,
        values: &AccountChange,
    ) -> Result<(), ConfigError> {
        self.config.edit(seen, |document| {
            if !config::has_section(document, kind, id) {
                return Err(format!("there is no {kind} '{id}'"));
            }
            values.apply(config::section(document, kind, id)?);
            Ok(())
        })
    }

    /// Refuses before anything is written, where the secrets are written first.
    fn check_seen(&self, seen: Option<&str>) -> Result<(), ConfigError> {
        match seen {
            Some(seen) if seen != self.config.read().digest => Err(ConfigError::Changed),
            _ => Ok(()),
        }
    }
}

/// Sets a text in a table of the secrets file.
fn put(document: &mut DocumentMut, table: &str, key: &str, text: &str) -> Result<(), String> {
    let table = document
        .entry(table)
        .or_insert_with(toml_edit::table)
        .as_table_mut()
        .ok_or_else(|| format!("[{table}] must be a table"))?;
    config::set(table, key, Some(text));
    Ok(())
}
