//! The calls below `/api2/json`: the plumbing (paths, parameters, answers), which the calls within upgraded connections
//! share, and the endpoints with their rights.

mod access;
mod acl;
mod call;
mod catalog;
mod datastore;
mod declared;
mod download;
mod envelope;
mod error;
mod gc;
mod groups;
mod jobs;
mod metrics;
mod namespaces;
mod nodes;
mod notify;
mod openapi;
pub(crate) mod parameter;
mod params;
mod path;
mod prune;
mod remote;
mod respond;
mod router;
pub(crate) mod rule;
mod s3;
mod sessions;
mod settings;
pub(crate) mod shape;
mod snapshots;
mod stores;
mod strangers;
mod sync;
mod table;
mod target;
mod tasks;
#[cfg(test)]
mod tests;
mod traffic;
mod users;
mod verify;
mod with_secret;

pub(crate) use self::{
    call::{Caller, Endpoint},
    envelope::{Delays, Reply},
    error::ApiError,
    openapi::document,
    params::{BODY_BYTES_MAX, Params},
    path::ApiPath,
    respond::UPLOADS_AT_ONCE,
    router::Router,
    rule::{Reach, Rule},
    strangers::Strangers,
    table::{calls, routes},
    target::owner_of,
};
