//! `/config/notify`: who is told how tasks end. Secrets go in and never come out. Our own, other servers have no such calls.

use std::sync::Arc;

use serde_json::{Value, json};

use super::call::{Call, CallResult, data, done};
use super::envelope::Reply;
use super::error::ApiError;
use super::parameter::{Parameter, flag, text, texts, word};
use super::rule::require;
use super::settings::{Settings, take_name};
use super::shape::{Shape, always};
use super::with_secret::{Change, WithSecret};
use crate::auth::{AclPath, Privilege};
use crate::config::{Notify, NotifyLevel, NotifyScheme, login_fault};
use crate::daemon::Daemon;
use crate::notify::{Event, deliver, secret_of};

fn levels() -> Vec<&'static str> {
    [NotifyLevel::Info, NotifyLevel::Warning, NotifyLevel::Error]
        .map(NotifyLevel::name)
        .to_vec()
}

/// All settings.
pub(super) const SETTINGS: &[Parameter] = &[
    text("url", "Where to, and how"),
    text("user", "As whom the mail server is entered"),
    text("from", "The sender of a mail"),
    word("level", levels, "Which ends of tasks are told of"),
    text("subject", "The template of a mail's subject"),
    text("body", "The template of what is sent"),
    text("comment", "One line for people"),
    texts("to", LIST_MAX, "The recipients of a mail"),
    texts("tasks", LIST_MAX, "Only tasks of these types"),
    texts("store", LIST_MAX, "Only tasks of these datastores"),
    flag("disable", "Nothing is sent"),
];
pub(super) const NAME: Parameter = text("name", "The name of the element").required();
pub(super) const SECRET: Parameter = text("secret", "The password or token; it is never shown");
/// As it is configured.
pub(super) const ENTRY: Shape = Shape::Section(
    &[SETTINGS],
    &[&[always("name", Shape::Text), always("secret", Shape::Flag)]],
);
/// Most elements of a list.
const LIST_MAX: usize = 64;

static NOTIFY: WithSecret = WithSecret {
    section: "notify",
    secrets: "notify",
    parameter: SECRET.name,
    secret: |secrets, id| Some(secrets.notify.get(id)?.reveal().to_owned()),
    bytes_max: 4096,
    optional: &[
        "user", "from", "to", "level", "subject", "body", "comment", "tasks", "store", "disable",
    ],
};

fn demand(daemon: &Daemon, call: &Call, privilege: Privilege) -> Result<(), ApiError> {
    let place = AclPath::of(["system", "notifications"]);
    require(&daemon.authority, call.who()?, &place, &[privilege])
}

fn none(id: &str) -> ApiError {
    ApiError::bad_request(format!("there is no notify '{id}'"))
}

fn entry(daemon: &Daemon, id: &str, notify: &Notify) -> Value {
    let mut entry = json!({
        "name": id,
        "url": notify.url.to_string(),
        "level": notify.level.name(),
        "secret": daemon.secrets.read().notify.contains_key(id),
    });
    for (name, text) in [
        ("user", &notify.user),
        ("from", &notify.from),
        ("subject", &notify.subject),
        ("body", &notify.body),
        ("comment", &notify.comment),
    ] {
        if let Some(text) = text {
            entry[name] = json!(text);
        }
    }
    for (name, list) in [
        ("to", &notify.to),
        ("tasks", &notify.tasks),
        ("store", &notify.stores),
    ] {
        if !list.is_empty() {
            entry[name] = json!(list);
        }
    }
    if notify.disable {
        entry["disable"] = json!(true);
    }
    entry
}

fn take(call: &mut Call) -> Result<Change, ApiError> {
    let settings = Settings::take(&mut call.params, &[SETTINGS])?;
    NOTIFY.take(call, settings)
}

/// Refuses a change after which a mail server would be entered with half of what that takes. `before` is the element as it was.
fn check_login(change: &Change, before: Value, had_secret: bool) -> Result<(), ApiError> {
    let after = change.settings.over(before, &change.unset);
    let url = after["url"].as_str().and_then(|url| url.parse().ok());
    let scheme = url.as_ref().and_then(NotifyScheme::of);
    let is_mail = scheme.is_some_and(|scheme| scheme != NotifyScheme::Webhook);
    let has_secret = change.secret.is_some() || (had_secret && !change.forget);
    match login_fault(is_mail, after["user"].is_string(), has_secret) {
        Some(fault) => Err(ApiError::bad_request(format!(
            "parameter verification failed: {fault}"
        ))),
        None => Ok(()),
    }
}

/// `GET /config/notify`
pub(crate) async fn list(daemon: Arc<Daemon>, call: Call) -> CallResult {
    demand(&daemon, &call, Privilege::SysAudit)?;
    call.params.finish()?;
    let config = daemon.config.read();
    let all = config.notify.iter();
    let list: Vec<Value> = all.map(|(id, notify)| entry(&daemon, id, notify)).collect();
    Ok(Reply::new(&list)?.with("digest", &config.digest)?.into())
}

/// `GET /config/notify/{name}`
pub(crate) async fn show(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let id: String = call.params.required("name")?;
    demand(&daemon, &call, Privilege::SysAudit)?;
    call.params.finish()?;
    let config = daemon.config.read();
    let notify = config.notify.get(&id).ok_or_else(|| none(&id))?;
    let reply = Reply::new(&entry(&daemon, &id, notify))?;
    Ok(reply.with("digest", &config.digest)?.into())
}

/// `POST /config/notify`
pub(crate) async fn create(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let id = take_name(&mut call.params, "name")?;
    demand(&daemon, &call, Privilege::SysModify)?;
    let change = take(&mut call)?;
    call.params.finish()?;
    check_login(&change, json!({}), false)?;
    NOTIFY.create(&daemon, id, change).await?;
    done()
}

/// `PUT /config/notify/{name}`: changes the settings that are given, and sets those named in `delete` back to their defaults.
pub(crate) async fn update(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let id: String = call.params.required("name")?;
    demand(&daemon, &call, Privilege::SysModify)?;
    let mut change = take(&mut call)?;
    call.params.finish()?;
    let had_secret = daemon.secrets.read().notify.contains_key(&id);
    let config = daemon.config.read();
    let before = config.notify.get(&id);
    // Nobody is entered with it any more.
    change.forget = change.secret.is_none()
        && before.is_some_and(|before| before.user.is_some())
        && change.unset.iter().any(|name| name == "user");
    let elsewhere = change.names().any(|name| matches!(name, "url" | "user"));
    // Whoever may only change where messages go does not get the secret sent there.
    if elsewhere && change.secret.is_none() && had_secret && !change.forget {
        return Err(ApiError::bad_request(
            "parameter verification failed: 'secret' is missing: it is needed with a change of where messages go, and as whom",
        ));
    }
    if let Some(before) = before {
        check_login(&change, entry(&daemon, &id, before), had_secret)?;
    }
    NOTIFY.update(&daemon, id, change).await?;
    done()
}

/// `DELETE /config/notify/{name}`: with its secret.
pub(crate) async fn remove(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let id: String = call.params.required("name")?;
    demand(&daemon, &call, Privilege::SysModify)?;
    let digest: Option<String> = call.params.optional("digest")?;
    call.params.finish()?;
    NOTIFY.remove(&daemon, id, digest).await?;
    done()
}

/// `POST /config/notify/{name}/test`: sends a message now, whatever is wanted; answers when it was accepted.
pub(crate) async fn test(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let id: String = call.params.required("name")?;
    demand(&daemon, &call, Privilege::SysModify)?;
    call.params.finish()?;
    let secret = secret_of(&daemon, &id);
    let config = daemon.config.read();
    let notify = config.notify.get(&id).ok_or_else(|| none(&id))?;
    let event = Event::test(&daemon, &id);
    let sent = deliver(&daemon, notify, secret, &event).await;
    sent.map_err(|error| ApiError::bad_request(format!("notify '{id}': {error}")))?;
    data(&Value::Null)
}
