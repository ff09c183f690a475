//! `/access/users` and the API tokens below it.
//!
//! With `Sys.Audit` or `Permissions.Modify` on `/access/users` one sees all accounts, otherwise only one's own. Accounts
//! are changed with `Permissions.Modify` there; a user manages the own tokens without.

use std::sync::Arc;

use serde_json::{Value, json};

use super::access::may_administer;
use super::call::{Call, CallResult, data, done};
use super::envelope::Reply;
use super::error::ApiError;
use super::parameter::{Parameter, count, delete, flag, text};
use super::params::Params;
use super::respond::blocking;
use super::shape::{Member, Shape, always, maybe};
use crate::auth::{
    AccountChange, AclPath, AuthId, Principal, Privilege, Privileges, TokenId, UserId,
};
use crate::config::{Account, Config, Expiry};
use crate::daemon::Daemon;

/// Most names that a change may take away.
const DELETE_MAX: usize = 8;
/// The values of an account.
pub(super) const CHANGE: &[Parameter] = &[
    flag("enable", "It can be used; so if it is left out"),
    count("expire", "Until when, in Unix seconds; 0 is for ever"),
    text("comment", "One line for people"),
    delete(DELETE_MAX),
];
pub(super) const USERID: Parameter = text("userid", "The user, as NAME@REALM").required();
/// What names an API token.
pub(super) const TOKEN_ID: &[Parameter] = &[
    USERID,
    text("token-name", "The name of the API token").required(),
];
pub(super) const PASSWORD: Parameter = text("password", "The new password");
const VALUES: &[Member] = &[
    maybe("enable", Shape::Flag),
    maybe("expire", Shape::Integer),
    maybe("comment", Shape::Text),
];
pub(super) const USER: Shape = Shape::Object(&[
    &[
        always("userid", Shape::Text),
        maybe("tokens", Shape::List(&TOKEN)),
        maybe("locked-until", Shape::Integer),
    ],
    VALUES,
]);
pub(super) const TOKEN: Shape = Shape::Object(&[&[always("tokenid", Shape::Text)], VALUES]);
/// A new token, with its secret.
pub(super) const NEW_TOKEN: Shape =
    Shape::Object(&[&[always("tokenid", Shape::Text), always("value", Shape::Text)]]);
/// A new secret, if one was asked for.
pub(super) const NEW_SECRET: Shape = Shape::Either(&[
    Shape::Null,
    Shape::Object(&[&[always("secret", Shape::Text)]]),
]);

fn account(id_name: &str, id: &str, account: &Account) -> Value {
    let mut entry = json!({ id_name: id });
    // Defaults are left out, as clients know it.
    if !account.enable {
        entry["enable"] = json!(false);
    }
    if account.expire != Expiry::NEVER {
        entry["expire"] = json!(account.expire.0);
    }
    if let Some(comment) = &account.comment {
        entry["comment"] = json!(comment);
    }
    entry
}

/// A user, and until when one who is locked is.
fn user_entry(daemon: &Daemon, user: &UserId, values: &Account) -> Value {
    let mut entry = account("userid", user.as_str(), values);
    if let Some(until) = daemon.authority.locked_until(user) {
        entry["locked-until"] = json!(until);
    }
    entry
}

fn token_entry(id: &TokenId, values: &Account) -> Value {
    account("tokenid", &id.to_string(), values)
}

fn tokens_of(config: &Config, user: &UserId) -> Vec<Value> {
    let tokens = config.tokens.iter().filter(|(id, _)| id.user() == user);
    tokens.map(|(id, values)| token_entry(id, values)).collect()
}

/// Takes the values of an account.
fn take_change(params: &mut Params) -> Result<AccountChange, ApiError> {
    let mut change = AccountChange {
        enable: params.flag("enable")?,
        expire: params.integer("expire", 0..=i64::MAX)?,
        comment: params.optional("comment")?,
    };
    for name in params.list::<String>("delete", DELETE_MAX)? {
        match name.as_str() {
            "enable" => change.enable = Some(true),
            "expire" => change.expire = Some(0),
            "comment" => change.comment = Some(String::new()),
            other => {
                return Err(ApiError::bad_request(format!(
                    "parameter verification failed: 'delete': '{other}' is none of enable, expire, comment"
                )));
            }
        }
    }
    Ok(change)
}

/// Whether `who` sees the account of `user`.
fn sees(daemon: &Daemon, who: &Principal, user: &UserId) -> bool {
    let any = Privileges::of(&[Privilege::SysAudit, Privilege::PermissionsModify]);
    let path = AclPath::of(["access", "users"]);
    who.id().user() == user || daemon.authority.privileges(who, &path).intersects(any)
}

fn demand_sight(daemon: &Daemon, who: &Principal, user: &UserId) -> Result<(), ApiError> {
    if sees(daemon, who, user) {
        return Ok(());
    }
    Err(ApiError::forbidden(
        "permission check failed: Sys.Audit or Permissions.Modify on /access/users is needed",
    ))
}

/// Whether `who` may change the tokens of `user`: the user, but not by a token.
fn may_change_tokens(daemon: &Daemon, who: &Principal, user: &UserId) -> Result<(), ApiError> {
    if who.id() == &AuthId::User(user.clone()) {
        return Ok(());
    }
    may_administer(daemon, who, user)
}

fn no_user(user: &UserId) -> ApiError {
    ApiError::bad_request(format!("there is no user '{user}'"))
}

/// `GET /access/users`
pub(crate) async fn list(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let with_tokens = call.params.flag("include_tokens")?.unwrap_or(false);
    let who = call.who()?.clone();
    call.params.finish()?;
    let config = daemon.config.read();
    let visible = config
        .users
        .iter()
        .filter(|(id, _)| sees(&daemon, &who, id));
    let list: Vec<Value> = visible
        .map(|(id, values)| {
            let mut entry = user_entry(&daemon, id, values);
            if with_tokens {
                entry["tokens"] = json!(tokens_of(&config, id));
            }
            entry
        })
        .collect();
    Ok(Reply::new(&list)?.with("digest", &config.digest)?.into())
}

/// `GET /access/users/{userid}`
pub(crate) async fn show(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let user: UserId = call.params.required("userid")?;
    demand_sight(&daemon, call.who()?, &user)?;
    call.params.finish()?;
    let config = daemon.config.read();
    let values = config.users.get(&user).ok_or_else(|| no_user(&user))?;
    let entry = user_entry(&daemon, &user, values);
    Ok(Reply::new(&entry)?.with("digest", &config.digest)?.into())
}

/// `POST /access/users`. A user without a password cannot log in until one is set.
pub(crate) async fn create(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let user: UserId = call.params.required("userid")?;
    let password: Option<String> = call.params.optional("password")?;
    let change = take_change(&mut call.params)?;
    may_administer(&daemon, call.who()?, &user)?;
    call.params.finish()?;
    let accounts = daemon.authority.accounts();
    // A password that cannot be used is refused before the user is there.
    if let Some(password) = &password {
        accounts.check_password(password)?;
    }
    let (adding, id) = (accounts.clone(), user.clone());
    blocking(move || adding.create_user(None, &id, &change)).await?;
    if let Some(password) = password {
        accounts.set_password(&user, &password).await?;
    }
    done()
}

/// `PUT /access/users/{userid}`
pub(crate) async fn update(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let user: UserId = call.params.required("userid")?;
    let password: Option<String> = call.params.optional("password")?;
    let digest: Option<String> = call.params.optional("digest")?;
    let change = take_change(&mut call.params)?;
    may_administer(&daemon, call.who()?, &user)?;
    call.params.finish()?;
    let accounts = daemon.authority.accounts();
    let (changing, id) = (accounts.clone(), user.clone());
    blocking(move || changing.update_user(digest.as_deref(), &id, &change)).await?;
    if let Some(password) = password {
        accounts.set_password(&user, &password).await?;
    }
    done()
}

/// `DELETE /access/users/{userid}`: with tokens and rights.
pub(crate) async fn remove(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let user: UserId = call.params.required("userid")?;
    let digest: Option<String> = call.params.optional("digest")?;
    may_administer(&daemon, call.who()?, &user)?;
    call.params.finish()?;
    let accounts = daemon.authority.accounts();
    blocking(move || accounts.delete_user(digest.as_deref(), &user)).await?;
    done()
}

/// `PUT /access/users/{userid}/unlock`: lets passwords in again that are refused since too many were wrong; answers whether they
/// were.
pub(crate) async fn unlock(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let user: UserId = call.params.required("userid")?;
    may_administer(&daemon, call.who()?, &user)?;
    call.params.finish()?;
    if !daemon.config.read().users.contains_key(&user) {
        return Err(no_user(&user));
    }
    data(&daemon.authority.unlock(&user))
}

fn take_token(params: &mut Params) -> Result<TokenId, ApiError> {
    let user: UserId = params.required("userid")?;
    let name: String = params.required("token-name")?;
    TokenId::new(user, &name).map_err(|error| ApiError::bad_request(error.to_string()))
}

/// `GET /access/users/{userid}/token`
pub(crate) async fn list_tokens(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let user: UserId = call.params.required("userid")?;
    demand_sight(&daemon, call.who()?, &user)?;
    call.params.finish()?;
    let config = daemon.config.read();
    if !config.users.contains_key(&user) {
        return Err(no_user(&user));
    }
    let list = tokens_of(&config, &user);
    Ok(Reply::new(&list)?.with("digest", &config.digest)?.into())
}

/// `GET /access/users/{userid}/token/{token-name}`
pub(crate) async fn show_token(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let token = take_token(&mut call.params)?;
    demand_sight(&daemon, call.who()?, token.user())?;
    call.params.finish()?;
    let config = daemon.config.read();
    let values = config.tokens.get(&token);
    let values =
        values.ok_or_else(|| ApiError::bad_request(format!("there is no token '{token}'")))?;
    let entry = token_entry(&token, values);
    Ok(Reply::new(&entry)?.with("digest", &config.digest)?.into())
}

/// `POST /access/users/{userid}/token/{token-name}`: answers the secret, which is never shown again.
pub(crate) async fn create_token(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let token = take_token(&mut call.params)?;
    let digest: Option<String> = call.params.optional("digest")?;
    let change = take_change(&mut call.params)?;
    may_change_tokens(&daemon, call.who()?, token.user())?;
    call.params.finish()?;
    let accounts = daemon.authority.accounts();
    let id = token.clone();
    let secret = blocking(move || accounts.create_token(digest.as_deref(), &id, &change)).await?;
    data(&json!({ "tokenid": token, "value": secret.reveal() }))
}

/// `PUT /access/users/{userid}/token/{token-name}`; with `regenerate` it answers a new secret.
pub(crate) async fn update_token(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let token = take_token(&mut call.params)?;
    let digest: Option<String> = call.params.optional("digest")?;
    let renew = call.params.flag("regenerate")?.unwrap_or(false);
    let change = take_change(&mut call.params)?;
    may_change_tokens(&daemon, call.who()?, token.user())?;
    call.params.finish()?;
    let accounts = daemon.authority.accounts();
    let secret = blocking(move || {
        accounts.update_token(digest.as_deref(), &token, &change)?;
        renew
            .then(|| accounts.renew_token_secret(&token))
            .transpose()
    })
    .await?;
    match secret {
        Some(secret) => data(&json!({ "secret": secret.reveal() })),
        None => done(),
    }
}

/// `DELETE /access/users/{userid}/token/{token-name}`
pub(crate) async fn remove_token(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let token = take_token(&mut call.params)?;
    let digest: Option<String> = call.params.optional("digest")?;
    may_change_tokens(&daemon, call.who()?, token.user())?;
    call.params.finish()?;
    let accounts = daemon.authority.accounts();
    blocking(move || accounts.delete_token(digest.as_deref(), &token)).await?;
    done()
}
