//! Every call of the daemon with the parameters of something that exists and of something that does not, and what becomes
//! of it without rights and with all. The daemon tells which calls there are (`holdfast calls`); one without a row here
//! fails the suite.

mod configuration;
mod jobs;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_tests::binary::holdfast;
use holdfast_tests::process::run;

use crate::row::Outcome::{Anyone, Filtered, Known, Refused};
use crate::row::{Row, call, rest, row};

const NONE: [&str; 2] = ["", ""];
const USER: [&str; 2] = ["userid=owner@pbs", "userid=missing@pbs"];
const TOKEN: [&str; 2] = [
    "userid=owner@pbs&token-name=t",
    "userid=owner@pbs&token-name=missing",
];
const STORE: [&str; 2] = ["store=vault", "store=missing"];
const GROUP: [&str; 2] = [
    "store=vault&backup-type=host&backup-id=hers",
    "store=vault&backup-type=host&backup-id=missing",
];
const SNAPSHOT: [&str; 2] = [
    "store=vault&backup-type=host&backup-id=hers&backup-time=$TIME",
    "store=vault&backup-type=host&backup-id=hers&backup-time=1600000000",
];
const MANIFEST: [&str; 2] = [
    "store=vault&backup-type=host&backup-id=hers&backup-time=$TIME&file-name=index.json.blob",
    "store=vault&backup-type=host&backup-id=hers&backup-time=1600000000&file-name=index.json.blob",
];
const DIRECTORY: [&str; 2] = [
    "store=vault&backup-type=host&backup-id=hers&backup-time=$TIME&filepath=root",
    "store=vault&backup-type=host&backup-id=hers&backup-time=1600000000&filepath=root",
];
const TASK: [&str; 2] = ["node=localhost&upid=$UPID", "node=localhost&upid=$GONE"];
const NODE: [&str; 2] = ["node=localhost", "node=missing"];

/// All calls, in an order in which the administrator can make them one after the other.
pub(crate) fn rows() -> Vec<&'static Row> {
    [FIRST, jobs::ROWS, NODES, configuration::ROWS, LAST]
        .into_iter()
        .flatten()
        .collect()
}

/// Those before jobs.
const FIRST: &[Row] = &[
    rest("POST", "/api2/json/access/ticket", NONE, Anyone(400), 400),
    rest("DELETE", "/api2/json/access/ticket", NONE, Anyone(200), 200),
    rest("GET", "/api2/json/access/domains", NONE, Anyone(200), 200),
    rest("GET", "/api2/json/ping", NONE, Anyone(200), 200),
    row("health", "GET", "/health/live", NONE, Anyone(200), 200),
    row("health", "GET", "/health/ready", NONE, Anyone(200), 200),
    rest(
        "GET",
        "/api2/json/access/permissions",
        ["auth-id=owner@pbs", "auth-id=missing@pbs"],
        Refused(403),
        200,
    ),
    rest("GET", "/api2/json/access/roles", NONE, Known, 200),
    rest("GET", "/api2/json/access/acl", NONE, Filtered, 200),
    rest(
        "PUT",
        "/api2/json/access/acl",
        [
            "path=/datastore/vault&auth-id=owner@pbs&role=DatastoreReader",
            "path=/datastore/missing&auth-id=owner@pbs&role=DatastoreReader",
        ],
        Refused(403),
        200,
    ),
    rest(
        "GET",
        "/api2/json/access/users",
        ["include_tokens=1", ""],
        Filtered,
        200,
    ),
    rest("POST", "/api2/json/access/users", USER, Refused(403), 400),
    rest(
        "GET",
        "/api2/json/access/users/{userid}",
        USER,
        Refused(403),
        200,
    ),
    rest(
        "PUT",
        "/api2/json/access/users/{userid}",
        ["userid=owner@pbs&comment=c", "userid=missing@pbs&comment=c"],
        Refused(403),
        200,
    ),
    rest(
        "PUT",
        "/api2/json/access/users/{userid}/unlock",
        USER,
        Refused(403),
        200,
    ),
    rest(
        "GET",
        "/api2/json/access/users/{userid}/token",
        USER,
        Refused(403),
        200,
    ),
    rest(
        "GET",
        "/api2/json/access/users/{userid}/token/{token-name}",
        TOKEN,
        Refused(403),
        200,
    ),
    rest(
        "POST",
        "/api2/json/access/users/{userid}/token/{token-name}",
        TOKEN,
        Refused(403),
        400,
    ),
    rest(
        "PUT",
        "/api2/json/access/users/{userid}/token/{token-name}",
        TOKEN,
        Refused(403),
        200,
    ),
    rest("GET", "/api2/json/admin/datastore", NONE, Filtered, 200),
    rest(
        "GET",
        "/api2/json/admin/datastore/{store}/status",
        ["store=vault&verbose=1", "store=missing&verbose=1"],
        Refused(403),
        200,
    ),
    rest(
        "GET",
        "/api2/json/admin/datastore/{store}/groups",
        STORE,
        Refused(403),
        200,
    ),
    rest(
        "GET",
        "/api2/json/admin/datastore/{store}/snapshots",
        GROUP,
        Refused(403),
        200,
    ),
    rest(
        "GET",
        "/api2/json/admin/datastore/{store}/files",
        SNAPSHOT,
        Refused(403),
        200,
    ),
    rest(
        "GET",
        "/api2/json/admin/datastore/{store}/download",
        MANIFEST,
        Refused(403),
        200,
    ),
    rest(
        "GET",
        "/api2/json/admin/datastore/{store}/download-decoded",
        MANIFEST,
        Refused(403),
        200,
    ),
    rest(
        "GET",
        "/api2/json/admin/datastore/{store}/catalog",
        DIRECTORY,
        Refused(403),
        404,
    ),
    rest(
        "GET",
        "/api2/json/admin/datastore/{store}/notes",
        SNAPSHOT,
        Refused(403),
        200,
    ),
    rest(
        "PUT",
        "/api2/json/admin/datastore/{store}/notes",
        [
            "store=vault&backup-type=host&backup-id=hers&backup-time=$TIME&notes=changed",
            "store=vault&backup-type=host&backup-id=hers&backup-time=1600000000&notes=changed",
        ],
        Refused(403),
        200,
    ),
    rest(
        "GET",
        "/api2/json/admin/datastore/{store}/protected",
        SNAPSHOT,
        Refused(403),
        200,
    ),
    rest(
        "PUT",
        "/api2/json/admin/datastore/{store}/protected",
        [
            "store=vault&backup-type=host&backup-id=hers&backup-time=$TIME&protected=0",
            "store=vault&backup-type=host&backup-id=hers&backup-time=1600000000&protected=0",
        ],
        Refused(403),
        200,
    ),
    rest(
        "GET",
        "/api2/json/admin/datastore/{store}/group-notes",
        GROUP,
        Refused(403),
        200,
    ),
    rest(
        "PUT",
        "/api2/json/admin/datastore/{store}/group-notes",
        [
            "store=vault&backup-type=host&backup-id=hers&notes=changed",
            "store=vault&backup-type=host&backup-id=missing&notes=changed",
        ],
        Refused(403),
        200,
    ),
    // The administrator may back up into own groups only, and a log belongs to a backup.
    rest(
        "POST",
        "/api2/json/admin/datastore/{store}/upload-backup-log",
        SNAPSHOT,
        Refused(403),
        403,
    ),
    rest(
        "GET",
        "/api2/json/admin/datastore/{store}/namespace",
        STORE,
        Refused(403),
        200,
    ),
    rest(
        "POST",
        "/api2/json/admin/datastore/{store}/namespace",
        ["store=vault&name=deep", "store=vault&name=missing"],
        Refused(403),
        200,
    ),
    rest(
        "GET",
        "/api2/json/admin/datastore/{store}/gc",
        STORE,
        Refused(403),
        200,
    ),
    rest(
        "POST",
        "/api2/json/admin/datastore/{store}/gc",
        STORE,
        Refused(403),
        200,
    ),
    rest(
        "GET",
        "/api2/json/admin/datastore/{store}/sessions",
        STORE,
        Refused(403),
        200,
    ),
    rest(
        "DELETE",
        "/api2/json/admin/datastore/{store}/sessions/{id}",
        ["store=vault&id=0", "store=vault&id=987654321"],
        Refused(403),
        400,
    ),
    rest(
        "POST",
        "/api2/json/admin/datastore/{store}/take-over",
        STORE,
        Refused(403),
        400,
    ),
    rest(
        "PUT",
        "/api2/json/admin/datastore/{store}/s3-check",
        STORE,
        Refused(403),
        400,
    ),
    rest(
        "POST",
        "/api2/json/admin/datastore/{store}/prune",
        [
            "store=vault&backup-type=host&backup-id=hers&dry-run=1",
            "store=vault&backup-type=host&backup-id=missing&dry-run=1",
        ],
        Refused(403),
        200,
    ),
    rest(
        "POST",
        "/api2/json/admin/datastore/{store}/change-owner",
        [
            "store=vault&backup-type=host&backup-id=hers&new-owner=reader@pbs",
            "store=vault&backup-type=host&backup-id=missing&new-owner=reader@pbs",
        ],
        Refused(401),
        200,
    ),
];

/// Those about nodes and tasks.
const NODES: &[Row] = &[
    rest("GET", "/api2/json/version", NONE, Known, 200),
    rest("GET", "/api2/json/metrics", NONE, Filtered, 200),
    rest("GET", "/api2/json/openapi", NONE, Known, 200),
    rest("GET", "/api2/json/nodes", NONE, Known, 200),
    rest("GET", "/api2/json/nodes/{node}/identity", NODE, Known, 200),
    rest("GET", "/api2/json/nodes/{node}/tasks", NODE, Filtered, 200),
    rest(
        "DELETE",
        "/api2/json/nodes/{node}/tasks/{upid}",
        TASK,
        Refused(403),
        200,
    ),
    rest(
        "GET",
        "/api2/json/nodes/{node}/tasks/{upid}/status",
        TASK,
        Refused(403),
        200,
    ),
    rest(
        "GET",
        "/api2/json/nodes/{node}/tasks/{upid}/log",
        TASK,
        Refused(403),
        200,
    ),
];

/// Those after the configuration.
const LAST: &[Row] = &[
    row(
        "upgrade",
        "GET",
        "/api2/json/backup",
        [
            "store=vault&backup-type=host&backup-id=hers&backup-time=1900000000",
            "store=missing&backup-type=host&backup-id=hers&backup-time=1900000000",
        ],
        Refused(403),
        400,
    ),
    row(
        "upgrade",
        "GET",
        "/api2/json/reader",
        SNAPSHOT,
        Refused(400),
        101,
    ),
    rest(
        "DELETE",
        "/api2/json/access/users/{userid}/token/{token-name}",
        TOKEN,
        Refused(403),
        200,
    ),
    rest(
        "PUT",
        "/api2/json/access/password",
        [
            "userid=owner@pbs&password=another-password",
            "userid=missing@pbs&password=another-password",
        ],
        Refused(403),
        200,
    ),
    rest(
        "DELETE",
        "/api2/json/access/users/{userid}",
        USER,
        Refused(403),
        200,
    ),
    rest(
        "DELETE",
        "/api2/json/admin/datastore/{store}/snapshots",
        SNAPSHOT,
        Refused(403),
        200,
    ),
    rest(
        "DELETE",
        "/api2/json/admin/datastore/{store}/groups",
        GROUP,
        Refused(403),
        200,
    ),
    rest(
        "DELETE",
        "/api2/json/admin/datastore/{store}/namespace",
        [
            "store=vault&ns=deep&delete-groups=1",
            "store=vault&ns=missing&delete-groups=1",
        ],
        Refused(403),
        200,
    ),
    rest(
        "DELETE",
        "/api2/json/config/s3/{id}",
        ["id=bucket-server", "id=missing"],
        Refused(403),
        200,
    ),
    rest(
        "DELETE",
        "/api2/json/config/datastore/{name}",
        ["name=vault", "name=missing"],
        Refused(403),
        200,
    ),
    call("backup", "GET", "/"),
    call("backup", "POST", "/blob"),
    call("backup", "POST", "/dynamic_chunk"),
    call("backup", "POST", "/dynamic_close"),
    call("backup", "POST", "/dynamic_index"),
    call("backup", "PUT", "/dynamic_index"),
    call("backup", "POST", "/finish"),
    call("backup", "POST", "/fixed_chunk"),
    call("backup", "POST", "/fixed_close"),
    call("backup", "POST", "/fixed_index"),
    call("backup", "PUT", "/fixed_index"),
    call("backup", "GET", "/previous"),
    call("backup", "GET", "/previous_backup_time"),
    call("backup", "POST", "/speedtest"),
    call("reader", "GET", "/"),
    call("reader", "GET", "/chunk"),
    call("reader", "GET", "/download"),
    call("reader", "GET", "/speedtest"),
];

impl Row {
    /// Path and query with these parameters: those that the path names go into it.
    pub(crate) fn target(&self, parameters: &str) -> String {
        let mut path = self.path.to_owned();
        let mut query = Vec::new();
        for pair in parameters.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let variable = format!("{{{name}}}");
            if path.contains(&variable) {
                path = path.replace(&variable, value);
            } else {
                query.push(pair);
            }
        }
        if query.is_empty() {
            return path;
        }
        format!("{path}?{}", query.join("&"))
    }
}

/// The rows of calls that only tell something.
pub(crate) fn that_tell() -> impl Iterator<Item = &'static Row> {
    let tells = |row: &&Row| row.kind == "rest" && row.method == "GET";
    rows().into_iter().filter(tells)
}

/// Fails unless [`rows`] are exactly the calls that the daemon answers.
pub(crate) fn check_completeness() -> Result<()> {
    let mut command = holdfast()?.command();
    let told = run(command.arg("calls"), b"", Duration::from_secs(30))?
        .success()?
        .json()?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let (mut known, mut anyone) = (BTreeSet::new(), BTreeSet::new());
    for call in told.as_array().into_iter().flatten() {
        let name = (
            text(&call["kind"]),
            text(&call["method"]),
            text(&call["path"]),
        );
        if call["access"] == "anyone" {
            anyone.insert(name.clone());
        }
        known.insert(name);
    }
    let name = |row: &Row| {
        (
            row.kind.to_owned(),
            row.method.to_owned(),
            row.path.to_owned(),
        )
    };
    let ours: BTreeSet<_> = rows().into_iter().map(name).collect();
    ensure!(ours.len() == rows().len(), "a call has two rows");
    let without: Vec<_> = known.difference(&ours).collect();
    ensure!(
        without.is_empty(),
        "calls without a row in the suite: {without:?}"
    );
    let gone: Vec<_> = ours.difference(&known).collect();
    ensure!(
        gone.is_empty(),
        "rows without a call of the daemon: {gone:?}"
    );
    let open = rows()
        .into_iter()
        .filter(|row| matches!(row.powerless, Anyone(_)));
    ensure!(
        open.map(name).collect::<BTreeSet<_>>() == anyone,
        "the calls that are open to anyone are others than those of the suite: {anyone:?}"
    );
    Ok(())
}

#[test]
fn every_call_of_the_daemon_has_a_row() -> Result<()> {
    check_completeness()
}
