//! The secrets file: password hashes, token secrets, keys of S3 servers, signing keys. Mode 0600, never logged.
//!
//! ```toml
//! [keys]
//! ticket = "64 hex digits"
//! csrf = "64 hex digits"
//!
//! [passwords]
//! "root@pbs" = "$argon2id$…"
//!
//! [tokens]
//! "root@pbs!ci" = "hashed:64 hex digits"
//!
//! [s3.main]
//! access-key = "…"
//! secret-key = "…"
//!
//! [remotes]
//! office = "the password of a user or the secret of a token there"
//!
//! [notify]
//! admins = "the password of a mail server's user, or what a webhook is to find in its Authorization header"
//! ```

use std::collections::BTreeMap;
use std::fmt;

use toml_edit::{Document, DocumentMut, value};

use super::fault::{Fault, Faults, Section, place};
use super::model::Config;
use super::notify::login_fault;
use super::s3::CredentialsKind;
use crate::auth::{ClearSecret, StoredSecret, TicketKeys, TokenId, UserId};

/// All secrets at one moment.
#[derive(Clone)]
pub(crate) struct Secrets {
    /// `[keys]`: signing keys of tickets and CSRF tokens.
    pub(crate) keys: TicketKeys,
    /// `[passwords]`: Argon2id hashes in PHC text form.
    pub(crate) passwords: BTreeMap<UserId, String>,
    /// `[tokens]`: the secrets of API tokens.
    pub(crate) tokens: BTreeMap<TokenId, StoredSecret>,
    /// `[s3.ID]`: static keys of S3 servers.
    pub(crate) s3: BTreeMap<String, S3Keys>,
    /// `[remotes]`: passwords and token secrets for other servers, kept in clear, since they are sent there.
    pub(crate) remotes: BTreeMap<String, ClearSecret>,
    /// `[notify]`: passwords of mail servers and tokens of webhooks, in clear for the same reason.
    pub(crate) notify: BTreeMap<String, ClearSecret>,
}

/// `[s3.ID]`: static keys.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct S3Keys {
    /// `access-key`: the key's id.
    pub(crate) access_key: String,
    /// `secret-key`: kept in clear, since requests are signed with it.
    pub(crate) secret_key: ClearSecret,
}

impl fmt::Debug for S3Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Keys({}, …)", self.access_key)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(…)")
    }
}

/// The settings of a table, taken out one by one; what is left over is unknown. Not read through serde, whose messages
/// would repeat the values.
struct Texts(BTreeMap<String, String>);

impl Texts {
    fn of(faults: &mut Faults<'_>, section: &mut Section) -> Self {
        Self(section.texts(faults).into_iter().collect())
    }

    fn take(
        &mut self,
        faults: &mut Faults<'_>,
        section: &mut Section,
        key: &str,
    ) -> Option<String> {
        let text = self.0.remove(key).filter(|text| !text.is_empty());
        section.required(faults, key, text)
    }

    fn finish(self, faults: &mut Faults<'_>, section: &mut Section) {
        for key in self.0.keys() {
            section.fault(faults, key, "unknown setting");
        }
    }
}

impl Secrets {
    /// The text of a new file, with new signing keys and nothing else.
    pub(crate) fn new_text() -> String {
        let (ticket, csrf) = TicketKeys::generate().to_hex();
        let mut document = DocumentMut::new();
        document["keys"] = toml_edit::table();
        document["keys"]["ticket"] = value(ticket);
        document["keys"]["csrf"] = value(csrf);
        format!("# Secrets of Holdfast. Keep this file to yourself.\n\n{document}")
    }

    /// Reads and checks the text; faults never repeat a secret.
    pub(super) fn parse_text(text: &str) -> Result<Self, Vec<Fault>> {
        let mut faults = Faults::of(text);
        let mut secrets = Self {
            keys: TicketKeys::new([0; 32], [0; 32]),
            passwords: BTreeMap::new(),
            tokens: BTreeMap::new(),
            s3: BTreeMap::new(),
            remotes: BTreeMap::new(),
            notify: BTreeMap::new(),
        };
        let document = match Document::parse(text) {
            Ok(document) => document,
            Err(error) => {
                faults.add("", error.span(), "is no TOML");
                return faults.or(secrets);
            }
        };
        if !document.as_table().contains_key("keys") {
            faults.add("keys", None, "is required");
        }
        for (name, item) in document.as_table() {
            let Some(mut section) = Section::of(&mut faults, place("", name), item) else {
                continue;
            };
            match name {
                "keys" => secrets.read_keys(&mut faults, &mut section),
                "s3" => secrets.read_s3(&mut faults, &section),
                "remotes" => {
                    for (id, text) in section.texts(&mut faults) {
                        secrets.remotes.insert(id, text.into());
                    }
                }
                "notify" => {
                    for (id, text) in section.texts(&mut faults) {
                        secrets.notify.insert(id, text.into());
                    }
                }
                "passwords" => {
                    for (id, text) in section.texts(&mut faults) {
                        match id.parse() {
                            Ok(id) if text.starts_with("$argon2id$") => {
                                secrets.passwords.insert(id, text);
                            }
                            Ok(_) => section.fault(&mut faults, &id, "must be an Argon2id hash"),
                            Err(error) => section.fault(&mut faults, &id, error),
                        }
                    }
                }
                "tokens" => {
                    for (id, text) in section.texts(&mut faults) {
                        match (id.parse(), text.parse()) {
                            (Ok(id), Ok(secret)) => {
                                secrets.tokens.insert(id, secret);
                            }
                            (Err(error), _) => section.fault(&mut faults, &id, error),
                            (_, Err(error)) => section.fault(&mut faults, &id, error),
                        }
                    }
                }
                _ => section.fault_here(
                    &mut faults,
                    "unknown section; there are keys, passwords, tokens, s3, remotes and notify",
                ),
            }
        }
        faults.or(secrets)
    }

    /// Checks the text of a secrets file; all faults, one per line.
    #[cfg(feature = "fuzz")]
    pub(crate) fn check(text: &str) -> Result<(), String> {
        let faults = Self::parse_text(text).err().unwrap_or_default();
        if faults.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
        Err(lines.join("\n"))
    }

    fn read_keys(&mut self, faults: &mut Faults<'_>, section: &mut Section) {
        let mut texts = Texts::of(faults, section);
        let mut key = |faults: &mut Faults<'_>, name: &str| {
            let mut bytes = [0; 32];
            let text = texts.take(faults, section, name)?;
            if hex::decode_to_slice(text, &mut bytes).is_err() {
                section.fault(faults, name, "must be 64 hex digits");
            }
            Some(bytes)
        };
        let ticket = key(faults, "ticket");
        let csrf = key(faults, "csrf");
        if let (Some(ticket), Some(csrf)) = (ticket, csrf) {
            self.keys = TicketKeys::new(ticket, csrf);
        }
        texts.finish(faults, section);
    }

    fn read_s3(&mut self, faults: &mut Faults<'_>, section: &Section) {
        for (name, mut child) in section.children(faults) {
            let mut texts = Texts::of(faults, &mut child);
            let access_key = texts.take(faults, &mut child, "access-key");
            let secret_key = texts.take(faults, &mut child, "secret-key");
            texts.finish(faults, &mut child);
            if let (Some(access_key), Some(secret_key)) = (access_key, secret_key) {
                let secret_key = secret_key.into();
                let keys = S3Keys {
                    access_key,
                    secret_key,
                };
                self.s3.insert(name, keys);
            }
        }
    }

    /// What `config` needs and is missing here, or is here and has no use there; one sentence each.
    pub(crate) fn misfits(&self, config: &Config) -> Vec<String> {
        let lacking = config.s3.iter().filter(|(id, endpoint)| {
            endpoint.credentials == CredentialsKind::Static && !self.s3.contains_key(*id)
        });
        let keys = lacking.map(|(id, _)| {
            format!(
                "[s3.{id}] has static credentials, but the secrets file has no [s3.{id}] with access-key and secret-key"
            )
        });
        let logins = config.notify.iter().filter_map(|(id, notify)| {
            let has_secret = self.notify.contains_key(id);
            let fault = login_fault(notify.is_mail(), notify.user.is_some(), has_secret)?;
            Some(format!("[notify.{id}]: {fault}"))
        });
        keys.chain(logins).collect()
    }
}
