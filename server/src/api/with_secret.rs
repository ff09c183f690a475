//! Sections of the configuration whose elements have a secret each, in the secrets file. Secrets go in and never come out.
//!
//! A secret must never be used with settings that are not its own, since those say where it is sent. So one that was there is removed before the section is
//! made, or changed together with it, and the new one is written after that: a crash in between leaves an element without a secret, which
//! says so when it is used. If the section cannot be written, the old one is put back.

use std::sync::Arc;

use super::call::Call;
use super::error::ApiError;
use super::parameter::{DIGEST, Parameter, delete};
use super::respond::blocking;
use super::settings::{Settings, check_unset};
use crate::config::{self, Secrets};
use crate::daemon::Daemon;

/// Most names that a change may take away.
const DELETE_MAX: usize = 16;
/// What a new element and a change have beside settings and secret.
pub(super) const CHANGE: &[Parameter] = &[DIGEST, delete(DELETE_MAX)];

/// A kind of such elements.
pub(super) struct WithSecret {
    /// The section of the configuration, which is also what an element is called.
    pub(super) section: &'static str,
    /// The section of the secrets file.
    pub(super) secrets: &'static str,
    /// The parameter that brings the secret.
    pub(super) parameter: &'static str,
    /// Where it is once it was read.
    pub(super) secret: fn(&Secrets, &str) -> Option<String>,
    /// Most bytes of it.
    pub(super) bytes_max: usize,
    /// Settings that a change may take away.
    pub(super) optional: &'static [&'static str],
}

/// What a change may name.
pub(super) struct Change {
    pub(super) digest: Option<String>,
    pub(super) settings: Settings,
    pub(super) secret: Option<String>,
    /// The secret that was there goes.
    pub(super) forget: bool,
    pub(super) unset: Vec<String>,
}

impl Change {
    /// Every setting that is given or taken away.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let unset = self.unset.iter().map(String::as_str);
        let given = self.settings.names().map(|name| -> &str { name });
        given.chain(unset)
    }
}

impl WithSecret {
    /// Takes the secret, the digest and what is to be taken away; `settings` were taken before.
    pub(super) fn take(&self, call: &mut Call, settings: Settings) -> Result<Change, ApiError> {
        let (name, bytes_max) = (self.parameter, self.bytes_max);
        let secret: Option<String> = call.params.optional(name)?;
        let bad = |text: &String| text.is_empty() || text.len() > bytes_max;
        if secret.as_ref().is_some_and(bad) {
            return Err(ApiError::bad_request(format!(
                "parameter verification failed: '{name}' must have 1 to {bytes_max} bytes"
            )));
        }
        let change = Change {
            digest: call.params.optional("digest")?,
            settings,
            secret,
            forget: false,
            unset: call.params.list::<String>("delete", DELETE_MAX)?,
        };
        check_unset(&change.settings, &change.unset, self.optional)?;
        Ok(change)
    }

    /// Adds an element.
    pub(super) async fn create(
        &'static self,
        daemon: &Arc<Daemon>,
        id: String,
        change: Change,
    ) -> Result<(), ApiError> {
        self.edit(daemon, id, change, false).await
    }

    /// Changes an element.
    pub(super) async fn update(
        &'static self,
        daemon: &Arc<Daemon>,
        id: String,
        change: Change,
    ) -> Result<(), ApiError> {
        self.edit(daemon, id, change, true).await
    }

    async fn edit(
        &'static self,
        daemon: &Arc<Daemon>,
        id: String,
        change: Change,
        there: bool,
    ) -> Result<(), ApiError> {
        let (store, secrets) = (daemon.config.clone(), daemon.secrets.clone());
        blocking(move || {
            let write = |secret: Option<String>| {
                secrets.edit(None, |document| {
                    config::set_in(document, self.secrets, &id, secret)
                })
            };
            let before = (self.secret)(&secrets.read(), &id);
            let gone = !there || change.forget || change.secret.is_some();
            let replaced = before.is_some() && gone;
            if replaced {
                write(None)?;
            }
            let written = store.edit(change.digest.as_deref(), |document| {
                let kind = self.section;
                match config::has_section(document, kind, &id) {
                    true if !there => return Err(format!("the {kind} '{id}' exists already")),
                    false if there => return Err(format!("there is no {kind} '{id}'")),
                    _ => {}
                }
                let table = config::section(document, kind, &id)?;
                change.settings.change(table, &change.unset);
                Ok(())
            });
            if written.is_err() && replaced {
                write(before)?;
            }
            written?;
            change.secret.map_or(Ok(()), |secret| write(Some(secret)))
        })
        .await
    }

    /// Removes an element, and its secret.
    pub(super) async fn remove(
        &'static self,
        daemon: &Arc<Daemon>,
        id: String,
        digest: Option<String>,
    ) -> Result<(), ApiError> {
        let (store, secrets) = (daemon.config.clone(), daemon.secrets.clone());
        blocking(move || {
            store.edit(digest.as_deref(), |document| {
                if config::remove(document, self.section, &id) {
                    Ok(())
                } else {
                    Err(format!("there is no {} '{id}'", self.section))
                }
            })?;
            secrets.edit(None, |document| {
                config::remove(document, self.secrets, &id);
                Ok(())
            })
        })
        .await
    }
}
