//! Tests of the configuration.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Barrier;

use tempfile::TempDir;

use super::parse::parse;
use super::*;

const FULL: &str = r#"# The backup server in the cellar.
[server]
listen = ["0.0.0.0:8007", "[::1]:8007"] # both kinds
hostname = "backup1"
memory-budget-bytes = "512 MiB"
log-level = "debug"

[s3.garage]
endpoint = "https://s3.example.net:3900"
region = "garage"
requests-per-second-max = 30
fingerprint = "00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff"

[datastore.main]
backend = "s3"
s3 = "garage"
bucket = "backups"
cache-dir = "/var/cache/holdfast/main"
cache-bytes-max = "100 GiB"
comment = "everything"

[datastore.local]
backend = "filesystem"
path = "/srv/local" # an old disk
gc-atime-cutoff-minutes = 0

[user."root@pbs"]
comment = "administrator"
expire = "2030-01-01T00:00:00Z"

[token."root@pbs!ci"]
enable = false

[[acl]]
path = "/"
id = "root@pbs"
role = "Admin"
"#;

fn store(text: &str) -> (TempDir, ConfigStore) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = ConfigStore::create(&dir.path().join("holdfast.toml"), text).expect("valid");
    (dir, store)
}

fn text_of(store: &ConfigStore) -> String {
    fs::read_to_string(store.path()).expect("read")
}

#[test]
fn everything_is_read_and_defaults_fill_the_rest() {
    let config = parse(FULL).expect("valid");
    assert_eq!(config.server.listen.len(), 2);
    assert_eq!(config.server.memory_budget_bytes, ByteCount::mib(512));
    assert_eq!(config.server.shutdown_seconds, 60);
    let main = &config.datastores["main"];
    let Backend::S3(s3) = &main.backend else {
        panic!("an S3 datastore");
    };
    assert_eq!(s3.prefix, "main", "the default prefix is the name");
    assert_eq!(s3.cache_bytes_max, ByteCount::gib(100));
    assert_eq!(main.gc_atime_cutoff_minutes, 1445);
    assert_eq!(main.late_request_max_seconds, 900);
    assert_eq!(config.datastores["local"].gc_atime_cutoff_minutes, 0);
    let root = "root@pbs".parse().expect("a user id");
    assert_eq!(config.users[&root].expire, Expiry(1_893_456_000));
    assert!(config.users[&root].is_active(1_893_455_999));
    assert!(!config.users[&root].is_active(1_893_456_000));
    assert_eq!(config.acl_entries.len(), 1);
    assert_eq!(config.digest.len(), 64);
    assert_eq!(parse("").expect("valid").server.connections_max, 512);
}

#[test]
fn all_faults_are_reported_with_their_lines() {
    let text = r#"[server]
listen = ["nowhere"]
shutdown-seconds = 0
colour = "blue"
shape = "round"

[datastore.ab]
backend = "filesystem"
path = "relative"

[datastore.main]
backend = "s3"
s3 = "absent"
bucket = "b"
cache-bytes-max = "lots"
gc-atime-cutoff-minutes = 2881
path = "/x"

[user.nobody]

[token."ghost@pbs!t"]

[[acl]]
path = "datastore"
id = "root@pbs"
role = "King"

[surprise]
"#;
    let faults = parse(text).expect_err("faulty");
    let found: Vec<(Option<usize>, &str)> = faults
        .iter()
        .map(|fault| (fault.line, fault.place.as_str()))
        .collect();
    let expected = [
        (Some(2), "server.listen"),
        (Some(3), "server.shutdown-seconds"),
        (Some(4), "server.colour"),
        (Some(5), "server.shape"),
        (Some(7), "datastore.ab"),
        (Some(9), "datastore.ab.path"),
        (Some(11), "datastore.main.cache-dir"),
        (Some(13), "datastore.main.s3"),
        (Some(14), "datastore.main.bucket"),
        (Some(15), "datastore.main.cache-bytes-max"),
        (Some(16), "datastore.main.gc-atime-cutoff-minutes"),
        (Some(17), "datastore.main.path"),
        (Some(19), "user.nobody"),
        (Some(21), "token.\"ghost@pbs!t\""),
        (Some(24), "acl[0].path"),
        (Some(26), "acl[0].role"),
        (Some(28), "surprise"),
    ];
    assert_eq!(found, expected, "{faults:#?}");
    for fault in &faults {
        assert!(!fault.message.is_empty() && !fault.message.contains('\n'));
    }
}

#[test]
fn a_syntax_error_has_a_line() {
    let faults = parse("[server]\nlisten = [\n\nhostname =\n").expect_err("no TOML");
    assert_eq!(faults.len(), 1);
    assert!(faults[0].line.is_some());
    let faults = parse("server = 1\nacl = 2\n").expect_err("no tables");
    assert_eq!(faults.len(), 2, "{faults:?}");
}

#[test]
fn a_fault_hides_no_other() {
    let text = r#"
[server]
listen = "nowhere"
memory-budget-bytes = "1 MiB"
colour = "blue"
[s3.one]
endpoint = "ftp://host"
attempts-max = 99
upload-bytes-per-second-max = "1 KiB"
[datastore.aaa]
backend = "s3"
s3 = "nobody"
cache-dir = "relative"
cache-bytes-max = "much"
[datastore.bbb]
backend = "s3"
s3 = "one"
bucket = "bucket"
prefix = "//"
cache-dir = "/cache"
[datastore.ccc]
backend = "tape"
s3 = "no body"
cache-dir = "/cache/inner"
[user."a@pbs"]
expire = -1
[user.nonsense]
[token."a@pbs!ok"]
enable = "maybe"
[token."b@pbs!lost"]
enable = "maybe"
[[acl]]
path = "/"
id = "a@pbs"
role = "Emperor"
[[acl]]
role = "Admin"
[colour]
"#;
    let faults = parse(text).expect_err("nearly all of it is wrong");
    let found: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let expected = [
        ("server.listen", ""),
        ("server.memory-budget-bytes", "64 MiB"),
        ("server.colour", "unknown"),
        ("s3.one.endpoint", "https://"),
        ("s3.one.attempts-max", "99"),
        ("s3.one.upload-bytes-per-second-max", "64 KiB"),
        ("datastore.aaa.s3", "there is no [s3.nobody]"),
        ("datastore.aaa.cache-dir", "absolute"),
        ("datastore.aaa.cache-bytes-max", ""),
        ("datastore.aaa.bucket", "required"),
        ("datastore.bbb.prefix", "names"),
        ("datastore.bbb.cache-bytes-max", "required"),
        ("datastore.ccc.backend", "tape"),
        ("datastore.ccc.s3", "there is no [s3.\"no body\"]"),
        ("datastore.ccc", "'bbb'"),
        ("user.\"a@pbs\".expire", "negative"),
        ("user.nonsense", ""),
        ("token.\"a@pbs!ok\".enable", ""),
        ("token.\"b@pbs!lost\".enable", ""),
        ("token.\"b@pbs!lost\"", "there is no user 'b@pbs'"),
        ("acl[0].role", "Emperor"),
        ("acl[1].path", "required"),
        ("acl[1].id", "required"),
        ("colour", "unknown section"),
    ];
    for (place, words) in expected {
        let told = |text: &&String| text.contains(&format!(" {place}: ")) && text.contains(words);
        assert!(
            found.iter().any(|text| told(&text)),
            "{place}: {words}: {found:#?}"
        );
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn datastores_must_not_overlap() {
    let text = r#"
[s3.one]
endpoint = "http://127.0.0.1:9000"
[datastore.aaa]
backend = "s3"
s3 = "one"
bucket = "bucket"
prefix = "x"
cache-dir = "/cache/a"
cache-bytes-max = "1 GiB"
[datastore.bbb]
backend = "s3"
s3 = "one"
bucket = "bucket"
prefix = "x/y"
cache-dir = "/cache/b"
cache-bytes-max = "1 GiB"
[datastore.ccc]
backend = "filesystem"
path = "/cache/a/inner"
[datastore.ddd]
backend = "filesystem"
path = "/cache/ab"
"#;
    let faults = parse(text).expect_err("overlapping");
    let lines: Vec<Option<usize>> = faults.iter().map(|fault| fault.line).collect();
    assert_eq!(lines, [Some(11), Some(18)], "{faults:?}");
}

#[test]
fn an_s3_endpoint_is_checked() {
    let text = r#"
[s3.one]
endpoint = "s3.example.net"
profile = "x"
attempts-max = 0
fingerprint = "12:34"
[s3.two]
credentials = "profile"
endpoint = "https://host/path"
[s3.three]
endpoint = "http://192.0.2.1:9000"
sign-payloads = false
[s3.four]
endpoint = "https://192.0.2.1"
sign-payloads = false
[s3.five]
endpoint = "http://[::1]:9000"
sign-payloads = false
"#;
    let places: Vec<String> = parse(text)
        .expect_err("faulty")
        .into_iter()
        .map(|fault| fault.place)
        .collect();
    let expected = [
        "s3.one.endpoint",
        "s3.one.profile",
        "s3.one.attempts-max",
        "s3.one.fingerprint",
        "s3.two.profile",
        "s3.two.endpoint",
        "s3.three.sign-payloads",
    ];
    assert_eq!(places, expected);
}

#[test]
fn edits_keep_comments_and_order() {
    let (_dir, store) = store(FULL);
    store
        .edit(None, |document| {
            let local = section(document, "datastore", "local")?;
            set(local, "path", Some("/srv/other"));
            set(local, "verify-new", Some(true));
            Ok(())
        })
        .expect("edited");
    let expected = FULL
        .replace(
            "\"/srv/local\" # an old disk",
            "\"/srv/other\" # an old disk",
        )
        .replace(
            "gc-atime-cutoff-minutes = 0\n",
            "gc-atime-cutoff-minutes = 0\nverify-new = true\n",
        );
    assert_eq!(text_of(&store), expected);
    assert!(store.read().datastores["local"].verify_new);
}

#[test]
fn an_edit_that_makes_the_file_faulty_changes_nothing() {
    let (_dir, store) = store(FULL);
    let before = store.read().digest.clone();
    let error = store
        .edit(None, |document| {
            set(section(document, "datastore", "local")?, "path", Some("x"));
            set(section(document, "s3", "garage")?, "attempts-max", Some(99));
            Ok(())
        })
        .expect_err("faulty");
    let ConfigError::Faults { faults, .. } = &error else {
        panic!("faults, not {error}");
    };
    assert_eq!(faults.len(), 2);
    let refused = store.edit(None, |document| {
        document.clear();
        Err::<(), _>("no".to_owned())
    });
    assert!(matches!(refused, Err(ConfigError::Refused(_))));
    assert_eq!(text_of(&store), FULL);
    assert_eq!(store.read().digest, before);
}

#[test]
fn an_edit_of_what_has_changed_meanwhile_is_refused() {
    let (_dir, store) = store(FULL);
    let seen = store.read().digest.clone();
    let rename = |name: &'static str| {
        move |document: &mut toml_edit::DocumentMut| {
            document["server"]["hostname"] = toml_edit::value(name);
            Ok(())
        }
    };
    store.edit(Some(&seen), rename("one")).expect("edited");
    let late = store.edit(Some(&seen), rename("two"));
    assert!(matches!(late, Err(ConfigError::Changed)));
    let fresh = store.read().digest.clone();
    store.edit(Some(&fresh), rename("two")).expect("edited");
    assert_eq!(store.read().server.hostname.as_deref(), Some("two"));
}

#[test]
fn concurrent_edits_are_all_kept() {
    const WRITERS: usize = 8;
    let (_dir, ours) = store(FULL);
    let path = ours.path().to_owned();
    let barrier = Barrier::new(WRITERS);
    std::thread::scope(|scope| {
        for i in 0..WRITERS {
            let (path, barrier) = (&path, &barrier);
            scope.spawn(move || {
                // Each its own store, as separate processes have.
                let store = ConfigStore::open(path).expect("opened");
                barrier.wait();
                store
                    .edit(None, |document| {
                        let name = format!("user{i}@pbs");
                        section(document, "user", &name).map(|_| ())
                    })
                    .expect("edited");
            });
        }
    });
    assert_eq!(ours.read().users.len(), 1, "not looked yet");
    assert!(ours.refresh().expect("readable"));
    assert_eq!(ours.read().users.len(), 1 + WRITERS);
    assert!(!ours.refresh().expect("readable"), "nothing new");
}

#[test]
fn a_crash_before_the_rename_changes_nothing() {
    let (dir, store) = store(FULL);
    // What step 4 leaves when the process dies after writing the new content and before the rename.
    let staged: PathBuf = dir.path().join(".holdfast.toml.new");
    fs::write(&staged, "[server]\nhostname = \"half\"").expect("written");
    let again = ConfigStore::open(store.path()).expect("opened");
    assert_eq!(again.read().server.hostname.as_deref(), Some("backup1"));
    again
        .edit(None, |document| {
            section(document, "user", "a@pbs").map(|_| ())
        })
        .expect("edited");
    assert!(!staged.exists());
    assert_eq!(again.read().server.hostname.as_deref(), Some("backup1"));
}

#[test]
fn a_faulty_change_by_hand_leaves_the_known_content_in_force() {
    let (_dir, store) = store(FULL);
    fs::write(store.path(), format!("{FULL}\nnonsense = 1\n")).expect("written");
    assert!(matches!(store.refresh(), Err(ConfigError::Faults { .. })));
    assert_eq!(store.read().server.hostname.as_deref(), Some("backup1"));
    let edit = store.edit(None, |_| Ok(()));
    assert!(matches!(edit, Err(ConfigError::Faults { .. })));
}

#[test]
fn creating_leaves_an_existing_file_alone() {
    let (_dir, store) = store(FULL);
    let again = ConfigStore::create(store.path(), "");
    assert!(matches!(again, Err(ConfigError::Exists(_))));
    assert_eq!(text_of(&store), FULL);
}

#[test]
fn secrets_are_private_and_never_repeated() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("secrets.toml");
    let store = SecretsStore::create(&path, &Secrets::new_text()).expect("made");
    let mode = fs::metadata(&path).expect("stat").permissions().mode() & 0o7777;
    assert_eq!(mode, 0o600);
    store
        .edit(None, |document| {
            set(
                section(document, "s3", "garage")?,
                "access-key",
                Some("GK1"),
            );
            set(
                section(document, "s3", "garage")?,
                "secret-key",
                Some("deep"),
            );
            Ok(())
        })
        .expect("edited");
    assert_eq!(store.read().s3["garage"].secret_key.reveal(), "deep");
    assert!(!format!("{:?} {:?}", store.read(), store.read().s3).contains("deep"));
    let config = parse(FULL).expect("valid");
    assert!(store.read().misfits(&config).is_empty());

    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
    let error = SecretsStore::open(&path).expect_err("too open").to_string();
    assert!(error.contains("chmod 600"), "{error}");

    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
    let text = "[keys]\nticket = \"hush\"\n[tokens]\n\"a@pbs!t\" = \"hush\"\n[passwords]\n\"a@pbs\" = \"hush\"\n\
                [s3.garage]\nsecret-key = 7171\nextra = \"hush\"\n";
    fs::write(&path, text).expect("written");
    let ConfigError::Faults { faults, .. } = SecretsStore::open(&path).expect_err("faulty") else {
        panic!("faults");
    };
    let places: Vec<&str> = faults.iter().map(|fault| fault.place.as_str()).collect();
    let expected = [
        "keys.csrf",
        "keys.ticket",
        "tokens.\"a@pbs!t\"",
        "passwords.\"a@pbs\"",
        "s3.garage.access-key",
        "s3.garage.secret-key",
        "s3.garage.extra",
    ];
    assert_eq!(places, expected);
    let shown = format!("{faults:?}");
    assert!(
        !shown.contains("hush") && !shown.contains("7171"),
        "{shown}"
    );
}

#[test]
fn missing_static_keys_are_named() {
    let config = parse(FULL).expect("valid");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("secrets.toml");
    let store = SecretsStore::create(&path, &Secrets::new_text()).expect("made");
    let missing = store.read().misfits(&config);
    assert_eq!(missing.len(), 1);
    assert!(missing[0].contains("[s3.garage]"));
}
