//! From the text of the configuration file to the checked [`Config`], or to everything that is wrong with it.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use toml_edit::{Document, Item};

use super::fault::{Fault, Faults, Section, place};
use super::job::{JITTER_SECONDS_MAX, read_prune, read_verify};
use super::maintenance::Maintenance;
use super::model::{Account, Backend, Config, Datastore, S3Backend, Server, SyncLevel};
use super::notify::read_notify;
use super::s3::read_s3;
use super::size::ByteCount;
use super::sync::{read_remote, read_sync};
use super::traffic::read_traffic;
use pbs_datastore::{BUCKET_PREFIX_BYTES_MAX, BucketPrefix};

use crate::auth::{Acl, AclEntry, AuthId, UserId, is_safe_id};
use crate::calendar::CalendarEvent;

/// Length of datastore names and endpoint ids.
const NAME_BYTES: std::ops::RangeInclusive<usize> = 3..=32;

/// SHA-256 of `content` in hex.
pub(super) fn digest_of(content: &str) -> String {
    hex::encode(Sha256::digest(content))
}

/// Reads and checks `text`; on failure all faults, in the order of their lines.
pub(crate) fn parse(text: &str) -> Result<Config, Vec<Fault>> {
    let mut faults = Faults::of(text);
    let mut config = Config {
        digest: digest_of(text),
        ..Config::default()
    };
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => {
            faults.add("", error.span(), error.message());
            return faults.or(config);
        }
    };
    for (name, item) in document.as_table() {
        if name == "acl" {
            read_acl(&mut faults, &mut config, item);
            continue;
        }
        let Some(mut section) = Section::of(&mut faults, place("", name), item) else {
            continue;
        };
        match name {
            "server" => read_server(&mut faults, &mut config, &mut section),
            "datastore" => each(&mut faults, &section, &mut config, read_datastore),
            "s3" => each(&mut faults, &section, &mut config, read_s3),
            "prune" => each(&mut faults, &section, &mut config, read_prune),
            "verify" => each(&mut faults, &section, &mut config, read_verify),
            "sync" => each(&mut faults, &section, &mut config, read_sync),
            "remote" => each(&mut faults, &section, &mut config, read_remote),
            "notify" => each(&mut faults, &section, &mut config, read_notify),
            "traffic-control" => each(&mut faults, &section, &mut config, read_traffic),
            "user" => each(&mut faults, &section, &mut config, read_user),
            "token" => each(&mut faults, &section, &mut config, read_token),
            _ => section.fault_here(
                &mut faults,
                "unknown section; there are server, datastore, s3, prune, verify, sync, remote, notify, traffic-control, user, token and acl",
            ),
        }
    }
    check_references(&mut faults, &config, document.as_table());
    config.acl = Acl::new(&config.acl_entries);
    faults.or(config)
}

impl Config {
    /// Reads and checks the text of a configuration that is not a file yet; all faults, one per line.
    pub(crate) fn check(text: &str) -> Result<Self, String> {
        parse(text).map_err(|faults| {
            let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
            lines.join("\n")
        })
    }
}

fn each(
    faults: &mut Faults<'_>,
    section: &Section,
    config: &mut Config,
    read: fn(&mut Faults<'_>, &mut Config, String, &mut Section),
) {
    for (name, mut child) in section.children(faults) {
        read(faults, config, name, &mut child);
    }
}

fn read_server(faults: &mut Faults<'_>, config: &mut Config, section: &mut Section) {
    let Some(server) = section.read::<Server>(faults) else {
        return;
    };
    if !(1..=16).contains(&server.listen.len()) {
        section.fault(faults, "listen", "must name 1 to 16 addresses");
    }
    if let Some(name) = &server.hostname {
        let label = |part: &str| {
            (1..=63).contains(&part.len())
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if name.len() > 253 || !name.split('.').all(label) {
            section.fault(faults, "hostname", "must be a host name");
        }
    }
    for (key, file) in [
        ("certificate-file", &server.certificate_file),
        ("key-file", &server.key_file),
    ] {
        absolute(faults, section, key, file.as_deref());
    }
    if server.certificate_file.is_some() != server.key_file.is_some() {
        let missing = if server.key_file.is_none() {
            "key-file"
        } else {
            "certificate-file"
        };
        section.fault(
            faults,
            missing,
            "certificate-file and key-file are set together or not at all",
        );
    }
    let memory = ByteCount::mib(64)..=ByteCount::gib(64);
    section.bounded(
        faults,
        "memory-budget-bytes",
        &server.memory_budget_bytes,
        &memory,
    );
    for (key, value, bounds) in [
        ("shutdown-seconds", server.shutdown_seconds, 1..=3600),
        ("connections-max", server.connections_max, 8..=65536),
        ("backup-sessions-max", server.backup_sessions_max, 1..=4096),
        ("reader-sessions-max", server.reader_sessions_max, 1..=4096),
        (
            "session-idle-seconds",
            server.session_idle_seconds,
            60..=86400,
        ),
        ("login-failures-max", server.login_failures_max, 0..=1000),
        ("login-lock-seconds", server.login_lock_seconds, 10..=86400),
    ] {
        section.bounded(faults, key, &value, &bounds);
    }
    config.server = server;
}

/// Smallest quota: less is a slip of the pen.
const QUOTA_MIN: ByteCount = ByteCount(1 << 20);

/// `[datastore.NAME]` as written; which settings are required depends on `backend`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct RawDatastore {
    backend: Option<BackendKind>,
    path: Option<PathBuf>,
    s3: Option<String>,
    bucket: Option<String>,
    prefix: Option<String>,
    cache_dir: Option<PathBuf>,
    cache_bytes_max: Option<ByteCount>,
    comment: Option<String>,
    gc_atime_cutoff_minutes: Option<u64>,
    late_request_max_seconds: Option<u64>,
    sync_level: SyncLevel,
    verify_new: bool,
    quota: Option<ByteCount>,
    gc_schedule: Option<CalendarEvent>,
    gc_jitter_seconds: u64,
    maintenance_mode: Option<Maintenance>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum BackendKind {
    Filesystem,
    S3,
}

fn read_datastore(
    faults: &mut Faults<'_>,
    config: &mut Config,
    name: String,
    section: &mut Section,
) {
    check_name(faults, section, &name);
    let Some(raw) = section.read::<RawDatastore>(faults) else {
        return;
    };
    check_comment(faults, section, raw.comment.as_deref());
    let gc_atime_cutoff_minutes = raw.gc_atime_cutoff_minutes.unwrap_or(1445);
    let late_request_max_seconds = raw.late_request_max_seconds.unwrap_or(900);
    section.bounded(
        faults,
        "gc-atime-cutoff-minutes",
        &gc_atime_cutoff_minutes,
        &(0..=2880),
    );
    section.bounded(
        faults,
        "late-request-max-seconds",
        &late_request_max_seconds,
        &(0..=86400),
    );
    section.bounded(
        faults,
        "gc-jitter-seconds",
        &raw.gc_jitter_seconds,
        &(0..=JITTER_SECONDS_MAX),
    );
    let (comment, sync_level, verify_new) = (raw.comment.clone(), raw.sync_level, raw.verify_new);
    let maintenance = raw.maintenance_mode.clone();
    let quota = raw.quota.unwrap_or(ByteCount(0));
    if quota.get() > 0 {
        section.bounded(faults, "quota", &quota, &(QUOTA_MIN..=ByteCount(1 << 60)));
    }
    let (gc_schedule, gc_jitter_seconds) = (raw.gc_schedule.clone(), raw.gc_jitter_seconds);
    if let Some(backend) = read_backend(faults, &name, section, raw) {
        let datastore = Datastore {
            backend,
            comment,
            gc_atime_cutoff_minutes,
            late_request_max_seconds,
            sync_level,
            verify_new,
            quota,
            gc_schedule,
            gc_jitter_seconds,
            maintenance,
        };
        config.datastores.insert(name, datastore);
    }
}

fn read_backend(
    faults: &mut Faults<'_>,
    name: &str,
    section: &mut Section,
    raw: RawDatastore,
) -> Option<Backend> {
    let kind = section.required(faults, "backend", raw.backend)?;
    let belongs = |kind: &str| format!("belongs to backend = \"{kind}\" and does nothing here");
    if let BackendKind::Filesystem = kind {
        for (key, present) in [
            ("s3", raw.s3.is_some()),
            ("bucket", raw.bucket.is_some()),
            ("prefix", raw.prefix.is_some()),
            ("cache-dir", raw.cache_dir.is_some()),
            ("cache-bytes-max", raw.cache_bytes_max.is_some()),
        ] {
            if present {
                section.fault(faults, key, belongs("s3"));
            }
        }
        let path = section.required(faults, "path", raw.path)?;
        absolute(faults, section, "path", Some(&path));
        return Some(Backend::Filesystem { path });
    }
    if raw.path.is_some() {
        section.fault(faults, "path", belongs("filesystem"));
    }
    let endpoint = section.required(faults, "s3", raw.s3);
    let bucket = section.required(faults, "bucket", raw.bucket);
    let cache_dir = section.required(faults, "cache-dir", raw.cache_dir);
    let cache_bytes_max = section.required(faults, "cache-bytes-max", raw.cache_bytes_max);
    if let Some(size) = cache_bytes_max {
        let bounds = ByteCount::mib(256)..=ByteCount(i64::MAX as u64);
        section.bounded(faults, "cache-bytes-max", &size, &bounds);
    }
    absolute(faults, section, "cache-dir", cache_dir.as_deref());
    if let Some(bucket) = &bucket {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(plain) {
            section.fault(
                faults,
                "bucket",
                "must be a bucket name of 3 to 63 letters, digits, '.', '-' and '_'",
            );
        }
    }
    let prefix = raw.prefix.unwrap_or_else(|| name.to_owned());
    if prefix.parse::<BucketPrefix>().is_err() {
        section.fault(
            faults,
            "prefix",
            format!(
                "must be names joined by '/', without '/' at the ends, at most {BUCKET_PREFIX_BYTES_MAX} characters"
            ),
        );
    }
    Some(Backend::S3(S3Backend {
        endpoint: endpoint?,
        bucket: bucket?,
        prefix,
        cache_dir: cache_dir?,
        cache_bytes_max: cache_bytes_max?,
    }))
}

fn read_user(faults: &mut Faults<'_>, config: &mut Config, name: String, section: &mut Section) {
    let id = match name.parse::<UserId>() {
        // These would be taken apart in cookies.
        Ok(id) if !id.name().contains([';', '%', '"', ',']) => Some(id),
        Ok(_) => {
            section.fault_here(
                faults,
                "a user's name must not contain ';', ',', '%' or '\"'",
            );
            None
        }
        Err(error) => {
            section.fault_here(faults, error);
            None
        }
    };
    let account = section.read::<Account>(faults);
    if let (Some(id), Some(account)) = (id, account) {
        check_comment(faults, section, account.comment.as_deref());
        config.users.insert(id, account);
    }
}

fn read_token(faults: &mut Faults<'_>, config: &mut Config, name: String, section: &mut Section) {
    let id = name.parse();
    if let Err(error) = &id {
        section.fault_here(faults, error);
    }
    let account = section.read::<Account>(faults);
    if let (Ok(id), Some(account)) = (id, account) {
        check_comment(faults, section, account.comment.as_deref());
        config.tokens.insert(id, account);
    }
}

fn read_acl(faults: &mut Faults<'_>, config: &mut Config, item: &Item) {
    let tables = match item.clone().into_array_of_tables() {
        Ok(tables) => tables,
        Err(item) => {
            faults.add("acl", item.span(), "must be a list of tables, [[acl]]");
            return;
        }
    };
    for (index, table) in tables.iter().enumerate() {
        let item = Item::Table(table.clone());
        let Some(mut section) = Section::of(faults, format!("acl[{index}]"), &item) else {
            continue;
        };
        let Some(raw) = section.read::<RawAclEntry>(faults) else {
            continue;
        };
        let path = section.required(faults, "path", raw.path);
        let id = section.required(faults, "id", raw.id);
        let role = section.required(faults, "role", raw.role);
        if let (Some(path), Some(id), Some(role)) = (path, id, role) {
            config.acl_entries.push(AclEntry {
                path,
                id,
                role,
                propagate: raw.propagate.unwrap_or(true),
            });
        }
    }
}

/// `[[acl]]` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct RawAclEntry {
    path: Option<crate::auth::AclPath>,
    id: Option<AuthId>,
    role: Option<crate::auth::Role>,
    propagate: Option<bool>,
}

pub(super) fn check_name(faults: &mut Faults<'_>, section: &Section, name: &str) {
    if !NAME_BYTES.contains(&name.len()) || !is_safe_id(name) {
        section.fault_here(
            faults,
            "the name must be 3 to 32 letters, digits, '_', '.' and '-', and begin with a letter, a digit or '_'",
        );
    }
}

/// Longest comment, in bytes.
const COMMENT_BYTES_MAX: usize = 256;

pub(super) fn check_comment(faults: &mut Faults<'_>, section: &mut Section, comment: Option<&str>) {
    let fits = |text: &str| text.len() <= COMMENT_BYTES_MAX && !text.chars().any(char::is_control);
    if !comment.is_none_or(fits) {
        section.fault(
            faults,
            "comment",
            "must be a single line of at most 256 bytes",
        );
    }
}

pub(super) fn absolute(
    faults: &mut Faults<'_>,
    section: &mut Section,
    key: &str,
    path: Option<&Path>,
) {
    if path.is_some_and(|path| !path.is_absolute()) {
        section.fault(faults, key, "must be an absolute path");
    }
}

/// The text of a setting as it stands in the file, whatever else is wrong around it.
fn text_of<'a>(item: &'a Item, key: &str) -> Option<&'a str> {
    item.get(key)?.as_str()
}

/// What only shows when several tables are looked at together. It is read from the file itself: a section that has
/// other faults too is looked at no less.
fn check_references(faults: &mut Faults<'_>, config: &Config, root: &toml_edit::Table) {
    let there = |section: &str, name: &str| root.get(section)?.get(name);
    let datastores = root.get("datastore").and_then(Item::as_table_like);
    let mut seen: Vec<Ground<'_>> = Vec::new();
    for (name, item) in datastores.into_iter().flat_map(|table| table.iter()) {
        let here = place("datastore", name);
        let ground = Ground::of(name, item);
        if let Some(endpoint) = ground.endpoint
            && there("s3", endpoint).is_none()
        {
            let span = item.get("s3").and_then(Item::span);
            let message = format!("there is no [{}]", place("s3", endpoint));
            faults.add(place(&here, "s3"), span, message);
        }
        for other in &seen {
            if let Some(message) = ground.overlap(other) {
                let message = format!("{message} '{}'", other.name);
                faults.add(&here, item.span(), message);
            }
        }
        seen.push(ground);
    }
    for (section, id, store) in config.job_stores() {
        if !config.datastores.contains_key(store) && there("datastore", store).is_none() {
            let here = place(section, id);
            let span = there(section, id).and_then(|item| item.get("store")?.span());
            faults.add(
                place(&here, "store"),
                span,
                format!("there is no [{}]", place("datastore", store)),
            );
        }
    }
    let known = |section: &str, name: &str| there(section, name).is_some();
    for (id, key, message) in config.sync_references(known) {
        let here = place("sync", id);
        let span = there("sync", id).and_then(|item| item.get(key)?.span());
        faults.add(place(&here, key), span, message);
    }
    for id in config.tokens.keys() {
        let user = id.user().to_string();
        if !config.users.contains_key(id.user()) && there("user", &user).is_none() {
            let text = id.to_string();
            let span = there("token", &text).and_then(Item::span);
            let message = format!("there is no user '{user}'");
            faults.add(place("token", &text), span, message);
        }
    }
}

/// What a datastore wants for itself alone, as far as its section says.
struct Ground<'a> {
    name: &'a str,
    directory: Option<&'a Path>,
    endpoint: Option<&'a str>,
    bucket: Option<&'a str>,
    prefix: &'a str,
}

impl<'a> Ground<'a> {
    fn of(name: &'a str, item: &'a Item) -> Self {
        let local = text_of(item, "backend") == Some("filesystem");
        let in_bucket = |key| if local { None } else { text_of(item, key) };
        let directory = text_of(item, if local { "path" } else { "cache-dir" });
        Self {
            name,
            directory: directory.map(Path::new),
            endpoint: in_bucket("s3"),
            bucket: in_bucket("bucket"),
            prefix: in_bucket("prefix").unwrap_or(name),
        }
    }

    /// How two datastores get into each other's way.
    fn overlap(&self, other: &Self) -> Option<&'static str> {
        if let (Some(left), Some(right)) = (self.directory, other.directory)
            && (left.starts_with(right) || right.starts_with(left))
        {
            return Some("its directory is, contains or lies in that of datastore");
        }
        let below =
            |inner: &str, outer: &str| inner == outer || inner.starts_with(&format!("{outer}/"));
        let same_bucket = self.endpoint.is_some()
            && self.bucket.is_some()
            && (self.endpoint, self.bucket) == (other.endpoint, other.bucket);
        if same_bucket && (below(self.prefix, other.prefix) || below(other.prefix, self.prefix)) {
            return Some("its prefix in the bucket is, contains or lies in that of datastore");
        }
        None
    }
}
