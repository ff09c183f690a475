//! Every call of the REST API has its command.

use std::collections::BTreeMap;

use clap::CommandFactory as _;

use crate::api;
use crate::cli::Cli;

/// What no command is made for: every command of the client logs in by itself and forgets what it got, and the others tell nothing to a person.
const NONE: &str = "-";

/// The command that makes each call, or makes the same one beside another.
const COMMANDS: &[(&str, &str)] = &[
    ("GET access/acl", "acl list"),
    ("PUT access/acl", "acl set"),
    ("GET access/domains", "user realms"),
    ("PUT access/password", "user passwd"),
    ("GET access/permissions", "acl permissions"),
    ("GET access/roles", "acl roles"),
    ("POST access/ticket", NONE),
    ("DELETE access/ticket", NONE),
    ("GET access/users", "user list"),
    ("POST access/users", "user add"),
    ("GET access/users/{userid}", "user show"),
    ("PUT access/users/{userid}", "user update"),
    ("DELETE access/users/{userid}", "user remove"),
    ("GET access/users/{userid}/token", "token list"),
    ("GET access/users/{userid}/token/{token-name}", "token show"),
    (
        "POST access/users/{userid}/token/{token-name}",
        "token create",
    ),
    (
        "PUT access/users/{userid}/token/{token-name}",
        "token update",
    ),
    (
        "DELETE access/users/{userid}/token/{token-name}",
        "token remove",
    ),
    ("PUT access/users/{userid}/unlock", "user unlock"),
    ("GET admin/datastore", "datastore list"),
    (
        "GET admin/datastore/{store}/active-operations",
        "datastore active-operations",
    ),
    ("GET admin/datastore/{store}/catalog", "catalog list"),
    ("POST admin/datastore/{store}/change-owner", "change-owner"),
    ("GET admin/datastore/{store}/download", "snapshot download"),
    (
        "GET admin/datastore/{store}/download-decoded",
        "snapshot download",
    ),
    ("GET admin/datastore/{store}/files", "snapshot files"),
    ("GET admin/datastore/{store}/gc", "gc status"),
    ("POST admin/datastore/{store}/gc", "gc start"),
    ("GET admin/datastore/{store}/group-notes", "group notes"),
    ("PUT admin/datastore/{store}/group-notes", "group notes"),
    ("GET admin/datastore/{store}/groups", "group list"),
    ("DELETE admin/datastore/{store}/groups", "group forget"),
    ("POST admin/datastore/{store}/move-group", "group move"),
    (
        "POST admin/datastore/{store}/move-namespace",
        "namespace move",
    ),
    ("GET admin/datastore/{store}/namespace", "namespace list"),
    ("POST admin/datastore/{store}/namespace", "namespace create"),
    (
        "DELETE admin/datastore/{store}/namespace",
        "namespace delete",
    ),
    ("GET admin/datastore/{store}/notes", "snapshot notes"),
    ("PUT admin/datastore/{store}/notes", "snapshot notes"),
    (
        "GET admin/datastore/{store}/protected",
        "snapshot protected",
    ),
    (
        "PUT admin/datastore/{store}/protected",
        "snapshot protected",
    ),
    ("POST admin/datastore/{store}/prune", "prune"),
    ("POST admin/datastore/{store}/prune-datastore", "prune"),
    ("PUT admin/datastore/{store}/s3-check", "s3 check"),
    (
        "PUT admin/datastore/{store}/s3-refresh",
        "datastore refresh",
    ),
    ("GET admin/datastore/{store}/sessions", "session list"),
    (
        "DELETE admin/datastore/{store}/sessions/{id}",
        "session end",
    ),
    ("GET admin/datastore/{store}/snapshots", "snapshot list"),
    (
        "DELETE admin/datastore/{store}/snapshots",
        "snapshot forget",
    ),
    ("GET admin/datastore/{store}/status", "status"),
    (
        "POST admin/datastore/{store}/take-over",
        "datastore take-over",
    ),
    (
        "POST admin/datastore/{store}/upload-backup-log",
        "snapshot upload-log",
    ),
    ("POST admin/datastore/{store}/verify", "verify"),
    ("GET admin/gc", "gc list"),
    ("GET admin/prune", "prune-job list"),
    ("POST admin/prune/{id}/run", "prune-job run"),
    ("PUT admin/s3/{id}/check", "s3 check"),
    ("POST admin/s3/{id}/create-bucket", "s3 create-bucket"),
    ("GET admin/sync", "sync-job list"),
    ("POST admin/sync/{id}/run", "sync-job run"),
    ("GET admin/verify", "verify-job list"),
    ("POST admin/verify/{id}/run", "verify-job run"),
    ("GET config/datastore", "datastore list"),
    ("POST config/datastore", "datastore create"),
    ("GET config/datastore/{name}", "datastore show"),
    ("PUT config/datastore/{name}", "datastore update"),
    ("DELETE config/datastore/{name}", "datastore remove"),
    ("GET config/notify", "notify list"),
    ("POST config/notify", "notify add"),
    ("GET config/notify/{name}", "notify show"),
    ("PUT config/notify/{name}", "notify update"),
    ("DELETE config/notify/{name}", "notify remove"),
    ("POST config/notify/{name}/test", "notify test"),
    ("GET config/prune", "prune-job list"),
    ("POST config/prune", "prune-job create"),
    ("GET config/prune/{id}", "prune-job show"),
    ("PUT config/prune/{id}", "prune-job update"),
    ("DELETE config/prune/{id}", "prune-job remove"),
    ("GET config/remote", "remote list"),
    ("POST config/remote", "remote add"),
    ("GET config/remote/{name}", "remote show"),
    ("PUT config/remote/{name}", "remote update"),
    ("DELETE config/remote/{name}", "remote remove"),
    ("GET config/remote/{name}/scan", "remote scan"),
    (
        "GET config/remote/{name}/scan/{store}/groups",
        "remote scan",
    ),
    (
        "GET config/remote/{name}/scan/{store}/namespaces",
        "remote scan",
    ),
    ("GET config/s3", "s3 list"),
    ("POST config/s3", "s3 add"),
    ("GET config/s3/{id}", "s3 show"),
    ("PUT config/s3/{id}", "s3 update"),
    ("DELETE config/s3/{id}", "s3 remove"),
    ("GET config/s3/{id}/list-buckets", "s3 list-buckets"),
    ("GET config/sync", "sync-job list"),
    ("POST config/sync", "sync-job create"),
    ("GET config/sync/{id}", "sync-job show"),
    ("PUT config/sync/{id}", "sync-job update"),
    ("DELETE config/sync/{id}", "sync-job remove"),
    ("GET config/traffic-control", "traffic list"),
    ("POST config/traffic-control", "traffic add"),
    ("GET config/traffic-control/{name}", "traffic show"),
    ("PUT config/traffic-control/{name}", "traffic update"),
    ("DELETE config/traffic-control/{name}", "traffic remove"),
    ("GET config/verify", "verify-job list"),
    ("POST config/verify", "verify-job create"),
    ("GET config/verify/{id}", "verify-job show"),
    ("PUT config/verify/{id}", "verify-job update"),
    ("DELETE config/verify/{id}", "verify-job remove"),
    ("GET metrics", "metrics"),
    ("GET nodes", NONE),
    ("GET nodes/{node}/identity", "version"),
    ("GET nodes/{node}/tasks", "task list"),
    ("DELETE nodes/{node}/tasks/{upid}", "task stop"),
    ("GET nodes/{node}/tasks/{upid}/log", "task log"),
    ("GET nodes/{node}/tasks/{upid}/status", "task log"),
    ("GET openapi", "openapi"),
    ("GET ping", NONE),
    ("POST pull", "pull"),
    ("POST push", "push"),
    ("GET status/datastore-usage", "datastore usage"),
    ("GET version", "version"),
];

#[test]
fn every_call_has_its_command() {
    let commands: BTreeMap<_, _> = COMMANDS.iter().copied().collect();
    assert_eq!(commands.len(), COMMANDS.len(), "no call comes twice");
    let calls = api::calls().into_iter();
    let calls: Vec<_> = calls
        .map(|(method, path, _)| format!("{method} {path}"))
        .filter(|call| !call.ends_with(' '))
        .collect();
    for call in &calls {
        assert!(commands.contains_key(&**call), "{call} has no command");
    }
    for call in commands.keys() {
        assert!(calls.iter().any(|known| known == call), "{call} is no call");
    }
}

#[test]
fn those_commands_exist() {
    let program = Cli::command();
    for (call, command) in COMMANDS.iter().filter(|(_, command)| *command != NONE) {
        let mut found = &program;
        for word in command.split(' ') {
            let next = found.find_subcommand(word);
            found = next.unwrap_or_else(|| panic!("{call}: there is no '{command}'"));
        }
        let whole = found.get_subcommands().next().is_none();
        assert!(whole, "{call}: '{command}' is not whole");
    }
}
