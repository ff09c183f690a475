//! Who is asking, and what they may do.
//!
//! [`Authority::login`] turns a password into a ticket, [`Authority::authenticate`] the credentials of a request into a
//! [`Principal`], [`Authority::allowed`] answers for a principal, a path and a privilege. Only the last is asked below
//! the HTTP layer, and it knows nothing of it. Every answer reads the configuration as it is now: a disabled user is out
//! at once, whatever tickets are about.

mod accounts;
mod acl;
mod credentials;
mod id;
mod limit;
mod lockout;
mod password;
mod privilege;
#[cfg(test)]
mod tests;
mod ticket;
mod token;

use std::net::IpAddr;
use std::sync::Arc;

use http::Method;

#[expect(unused_imports, reason = "the surface for the rest of the daemon")]
pub(crate) use self::{
    accounts::{AccountChange, Accounts},
    acl::{Acl, AclEntry, AclPath, AclPathError},
    credentials::Credentials,
    id::{AuthId, IdError, TokenId, UserId, is_safe_id, owns},
    limit::{LoginLimit, TooManyAttempts, network_of},
    password::{PasswordError, Passwords},
    privilege::{Privilege, Privileges, Role},
    ticket::TicketKeys,
    token::{ClearSecret, StoredSecret},
};

use self::lockout::{LockRule, Lockout, Tried, Verdict};
use crate::clock::Clock;
use crate::config::{Config, ConfigStore, SecretsStore};

/// Who a request is from, proven.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Principal {
    id: AuthId,
}

impl Principal {
    /// The daemon itself, for jobs that nobody asked for: `root@pam`.
    pub(crate) fn daemon() -> Self {
        Self {
            id: UserId::root().into(),
        }
    }

    /// Who would be asking; for questions about somebody's rights, never to let anybody in.
    pub(crate) fn named(id: AuthId) -> Self {
        Self { id }
    }

    /// The user or API token.
    pub(crate) fn id(&self) -> &AuthId {
        &self.id
    }

    /// Whether what belongs to `owner` belongs to this principal.
    pub(crate) fn owns(&self, owner: &AuthId) -> bool {
        owns(owner, &self.id)
    }
}

/// Why nobody is let in. The texts say no more than a stranger may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthError {
    /// Missing or wrong credentials.
    #[error("authentication failed")]
    Unauthenticated,
    /// Wrong user name or password.
    #[error("login failed: wrong user name or password")]
    WrongPassword,
    /// Too many failures by this user or from this address.
    #[error(transparent)]
    TooMany(#[from] TooManyAttempts),
    /// The password check could not be done.
    #[error(transparent)]
    Password(#[from] PasswordError),
}

/// A successful login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    /// Who logged in.
    pub(crate) user: UserId,
    /// The ticket for the cookie.
    pub(crate) ticket: String,
    /// The CSRF token for requests other than GET.
    pub(crate) csrf_token: String,
}

/// Checks credentials and rights against configuration and secrets; clones share all state.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    config: Arc<ConfigStore>,
    secrets: Arc<SecretsStore>,
    clock: Clock,
    passwords: Passwords,
    limit: LoginLimit,
    lockout: Lockout,
}

impl Authority {
    /// On these two files. `passwords` bounds the hashing of the whole process.
    pub(crate) fn new(
        config: Arc<ConfigStore>,
        secrets: Arc<SecretsStore>,
        clock: Clock,
        passwords: Passwords,
    ) -> Self {
        Self {
            limit: LoginLimit::new(clock.clone()),
            lockout: Lockout::default(),
            config,
            secrets,
            clock,
            passwords,
        }
    }

    /// The accounts behind the checks, for those who administer them.
    pub(crate) fn accounts(&self) -> Accounts {
        Accounts::new(
            self.config.clone(),
            self.secrets.clone(),
            self.passwords.clone(),
        )
    }

    /// Checks a password, or renews a ticket that is sent in its place. The order: rate limit, then one hash whoever the
    /// user is, then whether the user may log in at all. Whoever is refused has failed, for whatever reason.
    pub(crate) async fn login(
        &self,
        username: &str,
        password: &str,
        address: IpAddr,
    ) -> Result<Login, AuthError> {
        let user: UserId = username.parse().map_err(|_| AuthError::WrongPassword)?;
        let is_ticket = ticket::looks_like_ticket(password);
        if is_ticket && self.ticket_user(password).as_ref() == Some(&user) {
            return self.issue(user);
        }
        let attempt = self.limit.admit(&user, address).await?;
        let secrets = self.secrets.read();
        let stored = secrets.passwords.get(&user).map(String::as_str);
        let right = match self.passwords.verify(password, stored).await {
            Ok(right) => right,
            Err(error) => {
                attempt.forgive();
                return Err(error.into());
            }
        };
        let tried = if right && self.is_active(&user.clone().into()) {
            Tried::Good
        } else if is_ticket {
            Tried::OldTicket
        } else {
            Tried::Bad
        };
        let now = self.now();
        let judged = stored.map(|stored| {
            self.lockout
                .judge(self.lock_rule(), &user, stored, tried, now)
        });
        match judged {
            Some(Verdict::Admitted) => {
                attempt.forgive();
                self.issue(user)
            }
            Some(Verdict::Locked) => {
                tracing::warn!(target: "audit", who = %user, from = %address, "account locked: too many failed logins in a row");
                Err(AuthError::WrongPassword)
            }
            Some(Verdict::Refused) | None => Err(AuthError::WrongPassword),
        }
    }

    /// When accounts are locked, as it is configured now.
    fn lock_rule(&self) -> LockRule {
        let server = &self.config.read().server;
        LockRule {
            failures_max: server.login_failures_max,
            seconds: i64::try_from(server.login_lock_seconds).unwrap_or(i64::MAX),
        }
    }

    /// Until when passwords of `user` are refused since too many were wrong, in Unix seconds; `None` if they are not.
    pub(crate) fn locked_until(&self, user: &UserId) -> Option<i64> {
        let secrets = self.secrets.read();
        let stored = secrets.passwords.get(user)?;
        self.lockout
            .locked_until(self.lock_rule(), user, stored, self.now())
    }

    /// Everybody who is locked.
    pub(crate) fn locked_users(&self) -> Vec<UserId> {
        let config = self.config.read();
        let locked = config.users.keys();
        let locked = locked.filter(|user| self.locked_until(user).is_some());
        locked.cloned().collect()
    }

    /// Lets passwords of `user` in again; answers whether they were refused.
    pub(crate) fn unlock(&self, user: &UserId) -> bool {
        let locked = self.locked_until(user).is_some();
        self.lockout.end(user);
        locked
    }

    fn issue(&self, user: UserId) -> Result<Login, AuthError> {
        let secrets = self.secrets.read();
        let mark = secrets.passwords.get(&user);
        let mark = mark.ok_or(AuthError::WrongPassword)?;
        let now = self.now();
        Ok(Login {
            ticket: secrets.keys.issue(&user, mark, now),
            csrf_token: secrets.keys.issue_csrf(&user, now),
            user,
        })
    }

    /// Who a request is from. A ticket needs a CSRF token for every method but GET; an API token never does.
    pub(crate) fn authenticate(
        &self,
        method: &Method,
        credentials: Option<&Credentials>,
    ) -> Result<Principal, AuthError> {
        let id = match credentials {
            None => None,
            Some(Credentials::Token { id, secret }) => self.check_token(id, secret),
            Some(Credentials::Ticket { raw, csrf }) => {
                self.check_ticket(method, raw, csrf.as_deref())
            }
        };
        id.map(|id| Principal { id })
            .ok_or(AuthError::Unauthenticated)
    }

    fn check_token(&self, id: &TokenId, secret: &str) -> Option<AuthId> {
        let secrets = self.secrets.read();
        let stored = secrets.tokens.get(id)?;
        let id = AuthId::from(id.clone());
        let active = is_active(&self.config.read(), &id, self.now());
        (stored.matches(secret) && active).then_some(id)
    }

    fn check_ticket(&self, method: &Method, raw: &str, csrf: Option<&str>) -> Option<AuthId> {
        let user = credentials::readings(raw).find_map(|ticket| self.ticket_user(&ticket))?;
        if method != Method::GET {
            let keys = &self.secrets.read().keys;
            keys.verify_csrf(csrf?, &user, self.now()).ok()?;
        }
        Some(user.into())
    }

    /// The user of a good ticket, if the user may still log in.
    fn ticket_user(&self, ticket: &str) -> Option<UserId> {
        let secrets = self.secrets.read();
        let mark = |user: &UserId| secrets.passwords.get(user).cloned();
        let user = secrets.keys.verify(ticket, self.now(), mark).ok()?;
        is_active(&self.config.read(), &user.clone().into(), self.now()).then_some(user)
    }

    /// Whether the account, and for a token its user too, is there, enabled and not expired.
    pub(crate) fn is_active(&self, id: &AuthId) -> bool {
        is_active(&self.config.read(), id, self.now())
    }

    /// What `who` may do on `path`: all of it for the superuser; for a token what both it and its user may; nothing for
    /// who is disabled or expired.
    pub(crate) fn privileges(&self, who: &Principal, path: &AclPath) -> Privileges {
        privileges(&self.config.read(), who, path, self.now())
    }

    /// Whether `who` may do `what` on `path`.
    pub(crate) fn allowed(&self, who: &Principal, path: &AclPath, what: Privilege) -> bool {
        self.privileges(who, path).contains(what)
    }

    /// What `who` may do somewhere at or below `path`: the union over all places that have entries.
    pub(crate) fn privileges_below(&self, who: &Principal, path: &AclPath) -> Privileges {
        let (config, now) = (self.config.read(), self.now());
        let mut union = privileges(&config, who, path, now);
        let user = AuthId::from(who.id.user().clone());
        for id in [&who.id, &user] {
            for place in config.acl.paths_of(id, path) {
                union |= privileges(&config, who, &place, now);
            }
        }
        union
    }

    /// Whether `who` may do `what` on everything below `path`, whatever it is called.
    pub(crate) fn allowed_everywhere(
        &self,
        who: &Principal,
        path: &AclPath,
        what: Privilege,
    ) -> bool {
        let (config, now) = (self.config.read(), self.now());
        let user = AuthId::from(who.id.user().clone());
        let mut places = vec![path.below_any()];
        for id in [&who.id, &user] {
            let named = config.acl.paths_of(id, path);
            places.extend(named.iter().filter(|place| *place != path).cloned());
            // What is said of a place only counts for it alone and not for what is below.
            places.extend(named.iter().map(AclPath::below_any));
        }
        places
            .iter()
            .all(|place| privileges(&config, who, place, now).contains(what))
    }

    /// `/`, and the places where `who`, or the user of the token, has entries.
    pub(crate) fn known_paths(&self, who: &Principal) -> Vec<AclPath> {
        let config = self.config.read();
        let user = AuthId::from(who.id.user().clone());
        let mut paths = vec![AclPath::root()];
        for id in [&who.id, &user] {
            paths.extend(config.acl.paths_of(id, &AclPath::root()));
        }
        paths.sort_unstable();
        paths.dedup();
        paths
    }

    fn now(&self) -> i64 {
        self.clock.unix_seconds()
    }
}

/// Whether the account, and for a token its user too, is there, enabled and not expired.
fn is_active(config: &Config, id: &AuthId, now: i64) -> bool {
    let user = config.users.get(id.user());
    let token_ok = id.token().is_none_or(|token| {
        let account = config.tokens.get(token);
        account.is_some_and(|account| account.is_active(now))
    });
    token_ok && user.is_some_and(|account| account.is_active(now))
}

fn privileges(config: &Config, who: &Principal, path: &AclPath, now: i64) -> Privileges {
    if let AuthId::User(user) = &who.id
        && user.is_root()
    {
        return Privileges::ALL;
    }
    if !is_active(config, &who.id, now) {
        return Privileges::NONE;
    }
    let granted = config.acl.granted(&who.id, path);
    let user = who.id.user();
    if who.id.token().is_none() || user.is_root() {
        granted
    } else {
        granted & config.acl.granted(&user.clone().into(), path)
    }
}

/// Makes a principal of a text, for tests of other modules.
#[cfg(test)]
impl Principal {
    pub(crate) fn of(text: &str) -> Self {
        Self {
            id: text.parse().expect("an id"),
        }
    }
}
