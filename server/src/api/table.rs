//! Every call below `/api2/json`, in one table: method, path and endpoint; what it does, which parameters it takes, and what it
//! answers. `backup` and `reader` are not here: they leave HTTP/1.1 and belong to the protocol.

use http::Method;

use super::call::{Access, Answer, Endpoint, RouteEntry};
use super::declared::{Declared, NOTHING, Returns, TASK, configured, data, plain};
use super::parameter::{
    BACKUP_ID, BACKUP_TIME, BACKUP_TYPE, DIGEST, DRY_RUN, ESTIMATE, GROUP, KEEP, MAX_DEPTH, NODE,
    NOTES, NS, Parameter, STORE, TIME, delete, flag, ignored, integer, text,
};
use super::router::Router;
use super::shape::{Member, Shape, always};
use super::{
    access, acl, catalog, datastore, download, gc, groups, jobs, metrics, namespaces, nodes,
    notify, openapi, prune, remote, s3, sessions, snapshots, stores, sync, tasks, traffic, users,
    verify, with_secret,
};
use crate::tasks::{BESIDE_LOG, LISTED_TASK, LOG_LINE, TASK_FILTER, TASK_STATUS};

/// A row: who gets in, method, path, endpoint, summary, lists of parameters, answer, and which parameters are needed though others
/// share their lists without.
macro_rules! row {
    ($access:ident $method:ident $path:literal => $run:path,
     $summary:literal, [$($list:expr),*], $returns:expr $(, requires $required:expr)?) => {{
        let parameters: &[&[Parameter]] = &[$($list),*];
        let declared = Declared::new($summary, parameters, $returns)$(.requiring(&$required))?;
        (Method::$method, $path, Endpoint::new(Access::$access, declared, $run))
    }};
}

/// A row whose caller must be known.
macro_rules! known {
    ($($row:tt)*) => { row!(Known $($row)*) };
}

/// A row that is open to anyone.
macro_rules! anyone {
    ($($row:tt)*) => { row!(Anyone $($row)*) };
}

/// How many there are in all.
const TOTAL: &[Member] = &[always("total", Shape::Integer)];

/// A list of these.
const fn list(of: &'static Shape) -> Returns {
    data(Shape::List(of))
}

const ERROR_ON_PROTECTED: Parameter = flag(
    "error-on-protected",
    "Fail if protected snapshots remain; so if it is left out",
);
const PARENT: Parameter = text("parent", "The namespace above; the root if it is left out");

fn accounts() -> Vec<RouteEntry> {
    const LOGIN: &[Parameter] = &[
        text("username", "The user, as NAME@REALM").required(),
        text("password", "The password, or a ticket that is still good").required(),
        text("tfa-challenge", "Refused: there is no second factor"),
        ignored("new-format"),
    ];
    const LOGGED_IN: Returns = data(access::LOGIN).beside(&[
        always("status", Shape::Integer),
        always("success", Shape::Flag),
    ]);
    vec![
        anyone!(POST "access/ticket" => access::login,
            "Logs in: a password or a good ticket becomes a new ticket", [LOGIN], LOGGED_IN),
        anyone!(DELETE "access/ticket" => access::logout,
            "Does nothing: the client forgets its ticket", [], NOTHING),
        anyone!(GET "access/domains" => access::domains,
            "Lists the realms", [], list(&access::REALM)),
        known!(PUT "access/password" => access::set_password,
            "Sets the password of a user", [&[users::USERID, users::PASSWORD.required()]], NOTHING),
        known!(GET "access/permissions" => access::permissions,
            "Tells what somebody may do, by path",
            [&[text("auth-id", "The user or API token; the caller if it is left out"),
               text("path", "Only on this path")]],
            data(access::PERMISSIONS)),
        known!(GET "access/roles" => access::roles,
            "Lists the roles", [], list(&access::ROLE)),
        known!(GET "access/acl" => acl::list,
            "Lists the entries that give rights",
            [&[text("path", "Only of this path and those below it"),
               flag("exact", "Not of those below it")]],
            configured(Shape::List(&acl::ENTRY))),
        known!(PUT "access/acl" => acl::update,
            "Gives somebody a role on a path, or takes it away", [acl::CHANGE, &[DIGEST]], NOTHING),
        known!(GET "access/users" => users::list,
            "Lists the users that the caller sees",
            [&[flag("include_tokens", "With their API tokens")]],
            configured(Shape::List(&users::USER))),
        known!(POST "access/users" => users::create,
            "Adds a user", [&[users::USERID, users::PASSWORD], users::CHANGE], NOTHING),
        known!(GET "access/users/{userid}" => users::show,
            "Shows a user", [&[users::USERID]], configured(users::USER)),
        known!(PUT "access/users/{userid}" => users::update,
            "Changes a user",
            [&[users::USERID, users::PASSWORD, DIGEST], users::CHANGE], NOTHING),
        known!(DELETE "access/users/{userid}" => users::remove,
            "Removes a user with all tokens and rights", [&[users::USERID, DIGEST]], NOTHING),
        known!(PUT "access/users/{userid}/unlock" => users::unlock,
            "Lets a user log in again who is locked after too many failed logins; answers whether it was so",
            [&[users::USERID]], data(Shape::Flag)),
        known!(GET "access/users/{userid}/token" => users::list_tokens,
            "Lists the API tokens of a user",
            [&[users::USERID]], configured(Shape::List(&users::TOKEN))),
        known!(GET "access/users/{userid}/token/{token-name}" => users::show_token,
            "Shows an API token", [users::TOKEN_ID], configured(users::TOKEN)),
        known!(POST "access/users/{userid}/token/{token-name}" => users::create_token,
            "Makes an API token, and shows its secret this once",
            [users::TOKEN_ID, &[DIGEST], users::CHANGE], data(users::NEW_TOKEN)),
        known!(PUT "access/users/{userid}/token/{token-name}" => users::update_token,
            "Changes an API token, or gives it a new secret",
            [users::TOKEN_ID, &[DIGEST, flag("regenerate", "Answer a new secret")], users::CHANGE],
            data(users::NEW_SECRET)),
        known!(DELETE "access/users/{userid}/token/{token-name}" => users::remove_token,
            "Removes an API token with its rights", [users::TOKEN_ID, &[DIGEST]], NOTHING),
    ]
}

fn contents() -> Vec<RouteEntry> {
    let log: RouteEntry = known!(POST "admin/datastore/{store}/upload-backup-log"
        => snapshots::upload_log,
        "Adds a client's log to a snapshot; the body is a blob", [&[STORE], GROUP, TIME], NOTHING);
    let (method, path, endpoint) = log;
    let upload = endpoint.upload(snapshots::CLIENT_LOG_BYTES_MAX, snapshots::admit_log);
    vec![
        known!(GET "admin/datastore" => datastore::list,
            "Lists the datastores that the caller sees", [], list(&datastore::ENTRY)),
        known!(GET "admin/datastore/{store}/status" => datastore::status,
            "Shows the room of a datastore, and what it stores",
            [&[STORE, flag("verbose", "With counts and the last garbage collection")]],
            data(datastore::STATUS)),
        known!(GET "admin/datastore/{store}/groups" => groups::list,
            "Lists the groups of a namespace", [&[STORE, NS]], list(&groups::ENTRY)),
        known!(DELETE "admin/datastore/{store}/groups" => groups::remove,
            "Removes a group with its snapshots",
            [&[STORE], GROUP, &[ERROR_ON_PROTECTED]], data(groups::STATISTICS)),
        known!(POST "admin/datastore/{store}/prune" => prune::prune,
            "Removes the snapshots of a group that no rule keeps, and says of each why",
            [&[STORE], GROUP, KEEP,
             &[DRY_RUN, flag("use-task", "Answer the id of the task, and do not wait for it")]],
            data(prune::PRUNED)),
        known!(POST "admin/datastore/{store}/prune-datastore" => prune::prune_datastore,
            "Removes the snapshots of all groups of a namespace that no rule keeps",
            [&[STORE, NS, MAX_DEPTH, DRY_RUN], KEEP], TASK),
        known!(POST "admin/datastore/{store}/verify" => verify::verify,
            "Reads a snapshot, a group, or all of a namespace back",
            [&[STORE, NS, MAX_DEPTH, BACKUP_TYPE, BACKUP_ID, BACKUP_TIME, ESTIMATE],
             verify::LIMITS], TASK),
        known!(POST "admin/datastore/{store}/change-owner" => groups::change_owner,
            "Gives a group another owner",
            [&[STORE], GROUP, &[text("new-owner", "The user or API token").required()]], NOTHING),
        known!(GET "admin/datastore/{store}/group-notes" => groups::notes,
            "Shows the notes of a group", [&[STORE], GROUP], data(Shape::Text)),
        known!(PUT "admin/datastore/{store}/group-notes" => groups::set_notes,
            "Writes the notes of a group", [&[STORE], GROUP, &[NOTES]], NOTHING),
        known!(GET "admin/datastore/{store}/snapshots" => snapshots::list,
            "Lists the snapshots of a namespace, the newest of each group first",
            [&[STORE, NS, BACKUP_TYPE, BACKUP_ID]], list(&snapshots::ENTRY)),
        known!(DELETE "admin/datastore/{store}/snapshots" => snapshots::remove,
            "Removes a snapshot", [&[STORE], GROUP, TIME], NOTHING),
        known!(GET "admin/datastore/{store}/files" => snapshots::files,
            "Lists the files of a snapshot", [&[STORE], GROUP, TIME], list(&snapshots::FILE)),
        known!(GET "admin/datastore/{store}/download" => download::download,
            "Answers a file of a snapshot as it is stored",
            [&[STORE], GROUP, TIME, &[download::FILE_NAME]], plain(&[Answer::OCTETS])),
        known!(GET "admin/datastore/{store}/download-decoded" => download::download_decoded,
            "Answers what is in a blob, or in a whole archive, that is not encrypted",
            [&[STORE], GROUP, TIME, &[download::FILE_NAME]], plain(&[Answer::OCTETS])),
        known!(GET "admin/datastore/{store}/catalog" => catalog::list,
            "Lists a directory in the catalog of a snapshot",
            [&[STORE], GROUP, TIME, catalog::WHERE], list(&catalog::ENTRY)),
        known!(GET "admin/datastore/{store}/notes" => snapshots::notes,
            "Shows the notes of a snapshot", [&[STORE], GROUP, TIME], data(Shape::Text)),
        known!(PUT "admin/datastore/{store}/notes" => snapshots::set_notes,
            "Writes the notes of a snapshot", [&[STORE], GROUP, TIME, &[NOTES]], NOTHING),
        known!(GET "admin/datastore/{store}/protected" => snapshots::protected,
            "Tells whether a snapshot is protected", [&[STORE], GROUP, TIME], data(Shape::Flag)),
        known!(PUT "admin/datastore/{store}/protected" => snapshots::set_protected,
            "Protects a snapshot from removal, or does not any more",
            [&[STORE], GROUP, TIME, &[flag("protected", "Whether it is").required()]], NOTHING),
        (method, path, upload),
        known!(GET "admin/datastore/{store}/namespace" => namespaces::list,
            "Lists a namespace and those below it that the caller sees",
            [&[STORE, PARENT, MAX_DEPTH]], list(&namespaces::ENTRY)),
        known!(POST "admin/datastore/{store}/namespace" => namespaces::create,
            "Makes a namespace, and answers its whole path",
            [&[STORE, PARENT, text("name", "Its name below that").required()]], data(Shape::Text)),
        known!(DELETE "admin/datastore/{store}/namespace" => namespaces::remove,
            "Removes a namespace and those below it",
            [&[STORE, NS.required(), flag("delete-groups", "With the groups in them"),
               ERROR_ON_PROTECTED]],
            data(groups::STATISTICS)),
        known!(POST "admin/datastore/{store}/move-group" => namespaces::move_group,
            "Moves a group into another namespace",
            [&[STORE], GROUP, &[text("target-ns", "That namespace; the root if it is left out")]],
            TASK),
        known!(POST "admin/datastore/{store}/move-namespace" => namespaces::move_namespace,
            "Moves a namespace with all that is in it",
            [&[STORE, NS.required(), text("target-ns", "Its new path").required()]], TASK),
        known!(GET "admin/datastore/{store}/gc" => gc::status,
            "Shows what the last garbage collection did", [&[STORE]], data(gc::JOB)),
        known!(POST "admin/datastore/{store}/gc" => gc::start,
            "Collects garbage", [&[STORE, DRY_RUN, ESTIMATE]], TASK),
        known!(GET "admin/datastore/{store}/active-operations" => sessions::active_operations,
            "Tells how many sessions read and write", [&[STORE]], data(sessions::OPERATIONS)),
        known!(GET "admin/datastore/{store}/sessions" => sessions::list,
            "Lists the sessions that read and write", [&[STORE]], list(&sessions::ENTRY)),
        known!(DELETE "admin/datastore/{store}/sessions/{id}" => sessions::break_off,
            "Ends a session",
            [&[STORE, integer("id", 0, i64::MAX, "The id of the session").required()]], NOTHING),
        known!(PUT "admin/datastore/{store}/s3-refresh" => datastore::refresh,
            "Asks the bucket anew what there is", [&[STORE]], TASK),
        known!(POST "admin/datastore/{store}/take-over" => datastore::take_over,
            "Takes the bucket from its present owner",
            [&[STORE, stores::PREVIOUS_OWNER_IS_DEAD]], NOTHING),
        known!(PUT "admin/datastore/{store}/s3-check" => stores::check,
            "Tries out what the bucket can do, and keeps the result", [&[STORE]], data(s3::REPORT)),
    ]
}

fn machine() -> Vec<RouteEntry> {
    vec![
        anyone!(GET "ping" => nodes::ping, "Answers", [], data(nodes::PONG)),
        known!(GET "version" => nodes::version,
            "Tells which interface is spoken, and which release runs", [], data(nodes::VERSION)),
        known!(GET "openapi" => openapi::show,
            "Answers this document", [], plain(&[openapi::CONTENT_TYPE])),
        known!(GET "metrics" => metrics::metrics,
            "Answers figures for Prometheus", [], plain(metrics::CONTENT_TYPES)),
        known!(GET "nodes" => nodes::list,
            "Lists the nodes: there is one, this machine", [], list(&nodes::NODE)),
        known!(GET "nodes/{node}/identity" => nodes::identity,
            "Tells the id of this installation", [&[NODE]], data(nodes::IDENTITY)),
        known!(GET "nodes/{node}/tasks" => tasks::list,
            "Lists the tasks that the caller sees, the newest first", [&[NODE], TASK_FILTER],
            list(&LISTED_TASK).beside(TOTAL)),
        known!(DELETE "nodes/{node}/tasks/{upid}" => tasks::stop,
            "Asks a task to stop", [tasks::ONE], NOTHING),
        known!(GET "nodes/{node}/tasks/{upid}/status" => tasks::status,
            "Shows how a task stands", [tasks::ONE], data(TASK_STATUS)),
        known!(GET "nodes/{node}/tasks/{upid}/log" => tasks::log,
            "Shows lines of a task's log", [tasks::ONE, tasks::LINES],
            list(&LOG_LINE).beside(BESIDE_LOG).or_plain(&[Answer::TEXT])),
        known!(GET "status/datastore-usage" => datastore::usage,
            "Tells how full the datastores are", [], list(&datastore::FULLNESS)),
        known!(POST "pull" => sync::pull,
            "Copies snapshots from another datastore, and answers the task's id",
            [&[ESTIMATE], jobs::HERE, jobs::COPY], TASK, requires ["store", "remote-store"]),
        known!(POST "push" => sync::push,
            "Copies snapshots to another server, and answers the task's id",
            [&[ESTIMATE], jobs::HERE, jobs::COPY], TASK,
            requires ["store", "remote", "remote-store"]),
    ]
}

fn configuration() -> Vec<RouteEntry> {
    const REMOTE_STORE: Parameter = text("store", "The datastore there").required();
    vec![
        known!(GET "config/datastore" => stores::list,
            "Lists the datastores that the caller may audit, as they are configured",
            [], configured(Shape::List(&stores::ENTRY))),
        known!(POST "config/datastore" => stores::create,
            "Adds a datastore and opens it",
            [&[stores::NAME, DIGEST], stores::TAKE_OVER, stores::PLACE, stores::SETTINGS], NOTHING,
            requires ["backend"]),
        known!(GET "config/datastore/{name}" => stores::show,
            "Shows a datastore as it is configured",
            [&[stores::NAME]], configured(stores::ENTRY)),
        known!(PUT "config/datastore/{name}" => stores::update,
            "Changes settings of a datastore",
            [&[stores::NAME, DIGEST, delete(stores::DELETE_MAX)], stores::SETTINGS,
             stores::MAINTENANCE],
            NOTHING),
        known!(DELETE "config/datastore/{name}" => stores::remove,
            "Forgets a datastore; what is stored stays", [&[stores::NAME, DIGEST]], NOTHING),
        known!(GET "config/s3" => s3::list,
            "Lists the S3 endpoints", [], configured(Shape::List(&s3::ENTRY))),
        known!(POST "config/s3" => s3::create,
            "Adds an S3 endpoint", [&[s3::ID, DIGEST], s3::KEYS, s3::ENDPOINT, s3::OPTIONAL,
             s3::REMARKS],
            NOTHING, requires ["endpoint"]),
        known!(GET "config/s3/{id}" => s3::show,
            "Shows an S3 endpoint", [&[s3::ID]], configured(s3::ENTRY)),
        known!(PUT "config/s3/{id}" => s3::update,
            "Changes an S3 endpoint; the datastores that use it are opened anew",
            [&[s3::ID, DIGEST, delete(s3::DELETE_MAX)], s3::KEYS, s3::ENDPOINT, s3::OPTIONAL,
             s3::REMARKS],
            NOTHING),
        known!(DELETE "config/s3/{id}" => s3::remove,
            "Removes an S3 endpoint that no datastore uses", [&[s3::ID, DIGEST]], NOTHING),
        known!(PUT "admin/s3/{id}/check" => s3::check,
            "Tries out what a bucket can do; nothing is kept",
            [&[s3::ID, text("bucket", "The bucket").required(),
               text("store-prefix", "Below what the check writes")]],
            data(s3::REPORT)),
        known!(GET "config/s3/{id}/list-buckets" => s3::list_buckets,
            "Lists the buckets of an S3 server that belong to the owner of the keys",
            [&[s3::ID]], list(&s3::BUCKET)),
        known!(POST "admin/s3/{id}/create-bucket" => s3::create_bucket,
            "Makes a bucket unless it is there; one of somebody else is refused",
            [&[s3::ID, text("bucket", "The bucket").required()]], data(s3::NEW_BUCKET)),
        known!(GET "config/remote" => remote::list,
            "Lists the remotes that the caller may audit",
            [], configured(Shape::List(&remote::ENTRY))),
        known!(POST "config/remote" => remote::create,
            "Adds a remote",
            [&[remote::NAME, remote::PASSWORD], remote::SETTINGS, with_secret::CHANGE], NOTHING,
            requires ["password", "host", "auth-id"]),
        known!(GET "config/remote/{name}" => remote::show,
            "Shows a remote", [&[remote::NAME]], configured(remote::ENTRY)),
        known!(PUT "config/remote/{name}" => remote::update,
            "Changes a remote",
            [&[remote::NAME, remote::PASSWORD], remote::SETTINGS, with_secret::CHANGE], NOTHING),
        known!(DELETE "config/remote/{name}" => remote::remove,
            "Removes a remote that no job uses", [&[remote::NAME, DIGEST]], NOTHING),
        known!(GET "config/remote/{name}/scan" => remote::scan,
            "Lists the datastores of a remote, as it does", [&[remote::NAME]], list(&Shape::Any)),
        known!(GET "config/remote/{name}/scan/{store}/groups" => remote::scan_groups,
            "Lists the groups of a remote's datastore, as it does",
            [&[remote::NAME, REMOTE_STORE, NS]], list(&Shape::Any)),
        known!(GET "config/remote/{name}/scan/{store}/namespaces" => remote::scan_namespaces,
            "Lists the namespaces of a remote's datastore, as it does",
            [&[remote::NAME, REMOTE_STORE]], list(&Shape::Any)),
        known!(GET "config/traffic-control" => traffic::list,
            "Lists the rules of how fast clients may be", [], configured(Shape::List(&traffic::ENTRY))),
        known!(POST "config/traffic-control" => traffic::create,
            "Adds a rule of how fast clients may be",
            [&[traffic::NAME, DIGEST], traffic::SETTINGS], NOTHING),
        known!(GET "config/traffic-control/{name}" => traffic::show,
            "Shows a rule of how fast clients may be",
            [&[traffic::NAME]], configured(traffic::ENTRY)),
        known!(PUT "config/traffic-control/{name}" => traffic::update,
            "Changes a rule of how fast clients may be, on open connections too",
            [&[traffic::NAME, DIGEST, delete(traffic::DELETE_MAX)], traffic::SETTINGS], NOTHING),
        known!(DELETE "config/traffic-control/{name}" => traffic::remove,
            "Removes a rule of how fast clients may be", [&[traffic::NAME, DIGEST]], NOTHING),
        known!(GET "config/notify" => notify::list,
            "Lists who is told how tasks end", [], configured(Shape::List(&notify::ENTRY))),
        known!(POST "config/notify" => notify::create,
            "Adds somebody who is told how tasks end",
            [&[notify::NAME, notify::SECRET], notify::SETTINGS, with_secret::CHANGE], NOTHING,
            requires ["url"]),
        known!(GET "config/notify/{name}" => notify::show,
            "Shows who is told how tasks end", [&[notify::NAME]], configured(notify::ENTRY)),
        known!(PUT "config/notify/{name}" => notify::update,
            "Changes who is told how tasks end, and of what",
            [&[notify::NAME, notify::SECRET], notify::SETTINGS, with_secret::CHANGE], NOTHING),
        known!(DELETE "config/notify/{name}" => notify::remove,
            "Tells nobody there any more how tasks end", [&[notify::NAME, DIGEST]], NOTHING),
        known!(POST "config/notify/{name}/test" => notify::test,
            "Sends a message now", [&[notify::NAME]], NOTHING),
    ]
}

/// All rows.
pub(super) fn rows() -> impl Iterator<Item = RouteEntry> {
    [
        accounts(),
        contents(),
        machine(),
        configuration(),
        jobs::rows(),
    ]
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
