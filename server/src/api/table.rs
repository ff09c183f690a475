//! Every call below `/api2/json`, in one table. `backup` and `reader` are not here: they leave HTTP/1.1 and belong to the
//! protocol.

use http::Method;

use super::call::{Access, Endpoint, RouteEntry};
use super::router::Router;
use super::{
    access, acl, datastore, gc, groups, jobs, metrics, namespaces, nodes, notify, prune, remote,
    s3, sessions, snapshots, stores, sync, tasks, users, verify,
};

/// A row whose caller must be known.
macro_rules! known {
    ($method:ident $path:literal => $run:path) => {
        (Method::$method, $path, Endpoint::new(Access::Known, $run))
    };
}

/// A row that is open to anyone.
macro_rules! anyone {
    ($method:ident $path:literal => $run:path) => {
        (Method::$method, $path, Endpoint::new(Access::Anyone, $run))
    };
}

fn accounts() -> Vec<RouteEntry> {
    vec![
        anyone!(POST "access/ticket" => access::login),
        anyone!(DELETE "access/ticket" => access::logout),
        anyone!(GET "access/domains" => access::domains),
        known!(PUT "access/password" => access::set_password),
        known!(GET "access/permissions" => access::permissions),
        known!(GET "access/roles" => access::roles),
        known!(GET "access/acl" => acl::list),
        known!(PUT "access/acl" => acl::update),
        known!(GET "access/users" => users::list),
        known!(POST "access/users" => users::create),
        known!(GET "access/users/{userid}" => users::show),
        known!(PUT "access/users/{userid}" => users::update),
        known!(DELETE "access/users/{userid}" => users::remove),
        known!(GET "access/users/{userid}/token" => users::list_tokens),
        known!(GET "access/users/{userid}/token/{token-name}" => users::show_token),
        known!(POST "access/users/{userid}/token/{token-name}" => users::create_token),
        known!(PUT "access/users/{userid}/token/{token-name}" => users::update_token),
        known!(DELETE "access/users/{userid}/token/{token-name}" => users::remove_token),
    ]
}

fn contents() -> Vec<RouteEntry> {
    let upload_log = Endpoint::new(Access::Known, snapshots::upload_log);
    vec![
        known!(GET "admin/datastore" => datastore::list),
        known!(GET "admin/datastore/{store}/status" => datastore::status),
        known!(GET "admin/datastore/{store}/groups" => groups::list),
        known!(DELETE "admin/datastore/{store}/groups" => groups::remove),
        known!(POST "admin/datastore/{store}/prune" => prune::prune),
        known!(POST "admin/datastore/{store}/prune-datastore" => prune::prune_datastore),
        known!(POST "admin/datastore/{store}/verify" => verify::verify),
        known!(POST "admin/datastore/{store}/change-owner" => groups::change_owner),
        known!(GET "admin/datastore/{store}/group-notes" => groups::notes),
        known!(PUT "admin/datastore/{store}/group-notes" => groups::set_notes),
        known!(GET "admin/datastore/{store}/snapshots" => snapshots::list),
        known!(DELETE "admin/datastore/{store}/snapshots" => snapshots::remove),
        known!(GET "admin/datastore/{store}/files" => snapshots::files),
        known!(GET "admin/datastore/{store}/notes" => snapshots::notes),
        known!(PUT "admin/datastore/{store}/notes" => snapshots::set_notes),
        known!(GET "admin/datastore/{store}/protected" => snapshots::protected),
        known!(PUT "admin/datastore/{store}/protected" => snapshots::set_protected),
        (
            Method::POST,
            "admin/datastore/{store}/upload-backup-log",
            upload_log.upload(snapshots::CLIENT_LOG_BYTES_MAX, snapshots::admit_log),
        ),
        known!(GET "admin/datastore/{store}/namespace" => namespaces::list),
        known!(POST "admin/datastore/{store}/namespace" => namespaces::create),
        known!(DELETE "admin/datastore/{store}/namespace" => namespaces::remove),
        known!(POST "admin/datastore/{store}/move-group" => namespaces::move_group),
        known!(POST "admin/datastore/{store}/move-namespace" => namespaces::move_namespace),
        known!(GET "admin/datastore/{store}/gc" => gc::status),
        known!(POST "admin/datastore/{store}/gc" => gc::start),
        known!(GET "admin/datastore/{store}/active-operations" => sessions::active_operations),
        known!(GET "admin/datastore/{store}/sessions" => sessions::list),
        known!(DELETE "admin/datastore/{store}/sessions/{id}" => sessions::break_off),
        known!(PUT "admin/datastore/{store}/s3-refresh" => datastore::refresh),
        known!(POST "admin/datastore/{store}/take-over" => datastore::take_over),
        known!(PUT "admin/datastore/{store}/s3-check" => stores::check),
    ]
}

fn machine() -> Vec<RouteEntry> {
    vec![
        anyone!(GET "ping" => nodes::ping),
        known!(GET "version" => nodes::version),
        known!(GET "metrics" => metrics::metrics),
        known!(GET "nodes" => nodes::list),
        known!(GET "nodes/{node}/identity" => nodes::identity),
        known!(GET "nodes/{node}/tasks" => tasks::list),
        known!(DELETE "nodes/{node}/tasks/{upid}" => tasks::stop),
        known!(GET "nodes/{node}/tasks/{upid}/status" => tasks::status),
        known!(GET "nodes/{node}/tasks/{upid}/log" => tasks::log),
        known!(GET "status/datastore-usage" => datastore::usage),
        known!(GET "config/datastore" => stores::list),
        known!(POST "config/datastore" => stores::create),
        known!(GET "config/datastore/{name}" => stores::show),
        known!(PUT "config/datastore/{name}" => stores::update),
        known!(DELETE "config/datastore/{name}" => stores::remove),
        known!(GET "config/s3" => s3::list),
        known!(POST "config/s3" => s3::create),
        known!(GET "config/s3/{id}" => s3::show),
        known!(PUT "config/s3/{id}" => s3::update),
        known!(DELETE "config/s3/{id}" => s3::remove),
        known!(PUT "admin/s3/{id}/check" => s3::check),
        known!(GET "config/remote" => remote::list),
        known!(POST "config/remote" => remote::create),
        known!(GET "config/remote/{name}" => remote::show),
        known!(PUT "config/remote/{name}" => remote::update),
        known!(DELETE "config/remote/{name}" => remote::remove),
        known!(GET "config/remote/{name}/scan" => remote::scan),
        known!(GET "config/remote/{name}/scan/{store}/groups" => remote::scan_groups),
        known!(GET "config/remote/{name}/scan/{store}/namespaces" => remote::scan_namespaces),
        known!(GET "config/notify" => notify::list),
        known!(POST "config/notify" => notify::create),
        known!(GET "config/notify/{name}" => notify::show),
        known!(PUT "config/notify/{name}" => notify::update),
        known!(DELETE "config/notify/{name}" => notify::remove),
        known!(POST "config/notify/{name}/test" => notify::test),
        known!(POST "pull" => sync::pull),
        known!(POST "push" => sync::push),
    ]
}

fn rows() -> impl Iterator<Item = RouteEntry> {
    [accounts(), contents(), machine(), jobs::rows()]
        .into_iter()
        .flatten()
}

/// The tree of all calls.
pub(crate) fn routes() -> Router<Endpoint> {
    rows().fold(Router::default(), |router, (method, pattern, endpoint)| {
        router.route(method, pattern, endpoint)
    })
}

/// Method and path of every call, and whether it is open to anyone.
pub(crate) fn calls() -> Vec<(Method, &'static str, bool)> {
    let row = |(method, pattern, endpoint): RouteEntry| {
        let anyone = match endpoint.access {
            Access::Anyone => true,
            Access::Known => false,
        };
        (method, pattern, anyone)
    };
    rows().map(row).collect()
}
