//! `/version`, `/ping`, `/nodes` and the identity of this installation.

use std::sync::Arc;

use serde_json::json;

use super::call::{Call, CallResult, data};
use super::shape::{Shape, always};
use crate::daemon::Daemon;

/// The interface that is spoken, as MAJOR.MINOR: clients decide by it what they may ask for.
const INTERFACE: &str = "4.2";

pub(super) const VERSION: Shape = Shape::Object(&[&[
    always("version", Shape::Text),
    always("release", Shape::Text),
    always("repoid", Shape::Text),
]]);
pub(super) const PONG: Shape = Shape::Object(&[&[always("pong", Shape::Flag)]]);
pub(super) const NODE: Shape = Shape::Object(&[&[always("node", Shape::Text)]]);
pub(super) const IDENTITY: Shape = Shape::Object(&[&[always("pbs-instance-id", Shape::Text)]]);

/// `GET /version`: the interface, and our own release beside it. Clients expect numbers in `version` and `release`.
pub(crate) async fn version(_: Arc<Daemon>, call: Call) -> CallResult {
    call.params.finish()?;
    data(&json!({
        "version": INTERFACE,
        "release": env!("CARGO_PKG_VERSION_PATCH"),
        "repoid": concat!("holdfast-", env!("CARGO_PKG_VERSION")),
    }))
}

/// `GET /ping`
pub(crate) async fn ping(_: Arc<Daemon>, call: Call) -> CallResult {
    call.params.finish()?;
    data(&json!({ "pong": true }))
}

/// `GET /nodes`: there is one, this machine.
pub(crate) async fn list(daemon: Arc<Daemon>, call: Call) -> CallResult {
    call.params.finish()?;
    data(&[json!({ "node": daemon.hostname })])
}

/// `GET /nodes/{node}/identity`: any node name is this one.
pub(crate) async fn identity(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    call.params.ignore(&["node"]);
    call.params.finish()?;
    data(&json!({ "pbs-instance-id": daemon.instance.to_string() }))
}
