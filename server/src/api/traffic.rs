//! `/config/traffic-control`: how fast clients may be. A change is in force when it is answered, on open connections too.

use std::sync::Arc;

use serde_json::{Value, json};

use super::call::{Call, CallResult, done};
use super::envelope::Reply;
use super::error::ApiError;
use super::parameter::{Parameter, size, text, texts};
use super::respond::blocking;
use super::rule::require;
use super::settings::{Settings, check_unset, names, take_name};
use super::shape::{Shape, always};
use crate::auth::{AclPath, Privilege};
use crate::config::{self, TRAFFIC_LIST_MAX, TrafficRule};
use crate::daemon::Daemon;

/// All settings.
pub(super) const SETTINGS: &[Parameter] = &[
    texts(
        "network",
        TRAFFIC_LIST_MAX,
        "Only connections from these networks or addresses",
    ),
    texts(
        "user",
        TRAFFIC_LIST_MAX,
        "Only backups and restores of these users, with their tokens, or of these tokens",
    ),
    size(
        "rate-in",
        "Bytes per second to the server, all connections together; 0 for no limit",
    ),
    size(
        "burst-in",
        "Bytes that may come at once after a pause; as many as in a second if it is left out",
    ),
    size("rate-out", "The same from the server"),
    size("burst-out", "The same from the server"),
    text("comment", "One line for people"),
];
pub(super) const NAME: Parameter = text("name", "The name of the rule").required();
/// Most names that a change may take away.
pub(super) const DELETE_MAX: usize = 8;
/// As it is configured.
pub(super) const ENTRY: Shape = Shape::Section(&[SETTINGS], &[&[always("name", Shape::Text)]]);

/// The section of the configuration.
const SECTION: &str = "traffic-control";

fn demand(daemon: &Daemon, call: &Call, privilege: Privilege) -> Result<(), ApiError> {
    let place = AclPath::of(["system", SECTION]);
    require(&daemon.authority, call.who()?, &place, &[privilege])
}

fn entry(name: &str, rule: &TrafficRule) -> Value {
    let mut entry = json!({ "name": name });
    let networks: Vec<String> = rule.networks.iter().map(ToString::to_string).collect();
    let users: Vec<String> = rule.users.iter().map(ToString::to_string).collect();
    for (key, list) in [("network", networks), ("user", users)] {
        if !list.is_empty() {
            entry[key] = json!(list);
        }
    }
    for (key, size) in [
        ("rate-in", rule.rate_in),
        ("burst-in", rule.burst_in),
        ("rate-out", rule.rate_out),
        ("burst-out", rule.burst_out),
    ] {
        if size.get() > 0 {
            entry[key] = json!(size.get());
        }
    }
    if let Some(comment) = &rule.comment {
        entry["comment"] = json!(comment);
    }
    entry
}

/// `GET /config/traffic-control`
pub(crate) async fn list(daemon: Arc<Daemon>, call: Call) -> CallResult {
    demand(&daemon, &call, Privilege::SysAudit)?;
    call.params.finish()?;
    let config = daemon.config.read();
    let rules = config.traffic.iter();
    let list: Vec<Value> = rules.map(|(name, rule)| entry(name, rule)).collect();
    Ok(Reply::new(&list)?.with("digest", &config.digest)?.into())
}

/// `GET /config/traffic-control/{name}`
pub(crate) async fn show(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let name: String = call.params.required("name")?;
    demand(&daemon, &call, Privilege::SysAudit)?;
    call.params.finish()?;
    let config = daemon.config.read();
    let rule = config.traffic.get(&name);
    let rule = rule.ok_or_else(|| ApiError::bad_request(no_rule(&name)))?;
    let reply = Reply::new(&entry(&name, rule))?;
    Ok(reply.with("digest", &config.digest)?.into())
}

fn no_rule(name: &str) -> String {
    format!("there is no traffic control '{name}'")
}

/// `POST /config/traffic-control`
pub(crate) async fn create(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    demand(&daemon, &call, Privilege::SysModify)?;
    let name = take_name(&mut call.params, "name")?;
    let digest: Option<String> = call.params.optional("digest")?;
    let settings = Settings::take(&mut call.params, &[SETTINGS])?;
    call.params.finish()?;
    change(daemon, digest, move |document| {
        if config::has_section(document, SECTION, &name) {
            return Err(format!("the traffic control '{name}' exists already"));
        }
        settings.write(config::section(document, SECTION, &name)?);
        Ok(())
    })
    .await
}

/// `PUT /config/traffic-control/{name}`: changes the settings that are given, and sets those named in `delete` back to their defaults.
pub(crate) async fn update(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    demand(&daemon, &call, Privilege::SysModify)?;
    let name: String = call.params.required("name")?;
    let digest: Option<String> = call.params.optional("digest")?;
    let settings = Settings::take(&mut call.params, &[SETTINGS])?;
    let unset = call.params.list::<String>("delete", DELETE_MAX)?;
    call.params.finish()?;
    check_unset(&settings, &unset, &names(&[SETTINGS]))?;
    change(daemon, digest, move |document| {
        if !config::has_section(document, SECTION, &name) {
            return Err(no_rule(&name));
        }
        settings.change(config::section(document, SECTION, &name)?, &unset);
        Ok(())
    })
    .await
}

/// `DELETE /config/traffic-control/{name}`
pub(crate) async fn remove(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    demand(&daemon, &call, Privilege::SysModify)?;
    let name: String = call.params.required("name")?;
    let digest: Option<String> = call.params.optional("digest")?;
    call.params.finish()?;
    change(daemon, digest, move |document| {
        if config::remove(document, SECTION, &name) {
            Ok(())
        } else {
            Err(no_rule(&name))
        }
    })
    .await
}

/// Changes the configuration, and puts its rules in force.
async fn change(
    daemon: Arc<Daemon>,
    digest: Option<String>,
    edit: impl FnOnce(&mut toml_edit::DocumentMut) -> Result<(), String> + Send + 'static,
) -> CallResult {
    blocking(move || {
        daemon.config.edit(digest.as_deref(), edit)?;
        daemon.traffic.apply(|| daemon.config.read());
        Ok(())
    })
    .await?;
    done()
}
