//! Names, keys, configuration, credentials.

use holdfast::fuzz::TOKENS;

use super::Seeds;

const NAMES: [&str; 40] = [
    "host/a/2026-11-20T12:00:00Z",
    "vm/100",
    "ct/100/1970-01-01T00:00:00Z",
    "ns/a/ns/b/host/c/2026-11-20T12:00:00Z",
    "a/b/c/d/e/f/g",
    "a/b/c/d/e/f/g/h",
    "root.pxar.didx",
    "disk.img.fidx",
    "index.json.blob",
    "client.log.blob",
    "catalog.pcat1.didx",
    ".didx",
    "a.blob.blob",
    "root@pam",
    "user@pbs!token",
    "user@realm@pam",
    "a!b@pbs",
    "@",
    "host/../../etc",
    "host/..",
    "..",
    ".",
    "",
    "host/a/+10000-01-01T00:00:00Z",
    "host/a/2026-11-20T12:00:00.5Z",
    "host/a/2026-11-20T12:00:00+00:00",
    "host/a/0000-01-01T00:00:00Z",
    "host/a/-0001-01-01T00:00:00Z",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "ABCDEFABCDEFABCDEFABCDEFABCDEFABCDEFABCDEFABCDEFABCDEFABCDEFABCD",
    "00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff",
    "host/a b",
    "host/ä",
    "host/a\0b",
    "store-with-a-name-that-is-much-too-long-for-a-store",
    "ns/a:host/b/2026-11-20T12:00:00Z",
    "-",
    "_a",
    "a\n",
    "host/a/2016-12-31T23:59:60Z",
];

fn digest() -> String {
    "0011".repeat(16)
}

fn keys() -> Vec<String> {
    let digest = digest();
    let mut keys: Vec<String> = [
        ".in-use",
        ".lock",
        ".gc-status",
        ".holdfast/format",
        ".holdfast/owner.json",
        ".holdfast/gc-journal",
        ".holdfast/atime-proof",
        ".holdfast/contents.log",
        ".cnt/host/a/owner",
        ".cnt/host/a/notes",
        ".cnt/ns/a/.namespace",
        ".cnt/.namespace",
        ".cnt/ns/a/ns/b/vm/100/2026-11-20T12:00:00Z/index.json.blob",
        ".cnt/host/a/2026-11-20T12:00:00Z/.protected",
        ".cnt/host/a/2026-11-20T12:00:00Z/../x.blob",
        "host/a/2026-11-20T12:00:00Z/root.pxar.didx",
        "ns/a/host/b/owner",
    ]
    .map(str::to_owned)
    .to_vec();
    for name in [
        "",
        ".0.bad",
        ".9.bad",
        ".10.bad",
        ".00.bad",
        ".+1.bad",
        ".bad",
        ".0.bad.bad",
    ] {
        keys.push(format!(".chunks/0011/{digest}{name}"));
    }
    keys.push(format!(".chunks/ffff/{digest}"));
    keys.push(format!(".chunks//{digest}"));
    keys.push(format!(".holdfast/uploads/{digest}"));
    keys.push(format!(".holdfast/using/{}", digest.to_uppercase()));
    keys
}

fn config() -> Seeds {
    let whole = r#"# A comment that stays.
[server]
listen = ["[::]:8007", "127.0.0.1:8008"]
hostname = "backup"
memory-budget-bytes = "512 MiB"
connections-max = 1000
log-level = "debug"
log-format = "json"

[datastore.one]
backend = "filesystem"
path = "/srv/one"
sync-level = "file"
gc-atime-cutoff-minutes = 1445
comment = "the first"

[datastore.two]
backend = "s3"
s3 = "main"
bucket = "backups"
prefix = "two"
cache-dir = "/var/cache/two"
cache-bytes-max = "10 GiB"
verify-new = true
gc-schedule = "sat 18:15"
gc-jitter-seconds = 600
maintenance-mode = "type=read-only,message=new disk"

[prune.nightly]
store = "one"
ns = "a/b"
max-depth = 2
schedule = "mon..fri *:0/30 Europe/Berlin"
keep-daily = 7
keep-yearly = 1

[verify.weekly]
store = "two"
schedule = "*-*~7/1 04:00"
disable = true
outdated-after = 30
bytes-max = "20 GiB"

[notify.admins]
url = "smtps://mail.example.com:465"
user = "robot"
from = "Backups <robot@example.com>"
to = ["a@example.com", "b@example.com"]
level = "info"
tasks = ["syncjob"]
store = ["one"]
body = "{% for line in log %}{{ line }}{% endfor %}"

[s3.main]
endpoint = "https://{{bucket}}.s3.{{region}}.example.com"
region = "eu-1"
credentials = "static"
path-style = false
requests-per-second-max = 100

[user."root@pam"]
[user."a@pbs"]
enable = false
expire = 1900000000
comment = "who"
[token."a@pbs!t"]

[[acl]]
path = "/datastore/one/ns"
id = "a@pbs!t"
role = "DatastoreBackup"
propagate = false
"#;
    Seeds::of("config").all([
        whole.to_owned(),
        String::new(),
        "\u{feff}[server]\n".to_owned(),
        whole.replace("/srv/one", "/var/cache/two/below"),
        whole.replace("1445", "-1"),
        whole.replace("\"512 MiB\"", "9223372036854775807"),
        whole.replace("\"10 GiB\"", "\"99999999999999999999 EiB\""),
        "[server]\nlisten = 5\nunknown = { a = [1, { b = 2 }] }\n[[server]]\n".to_owned(),
        "datastore.one.backend = \"filesystem\"\ndatastore.one.path = \"/a\"\n[datastore]\n".to_owned(),
        "acl = [{ path = \"/\", id = \"x@pbs\", role = \"Admin\" }]\n".to_owned(),
        "[datastore.one]\nbackend = \"filesystem\"\npath = \"relative\"\n[datastore.ONE]\nbackend = 1979-05-27T07:32:00Z\n".to_owned(),
        format!("x = {}{}\n", "[".repeat(200), "]".repeat(200)),
        "[s3.main]\nendpoint = \"http://user:pass@host:99999/path?q\"\nfingerprint = \"00:11\"\nca-file = \"x\"\n".to_owned(),
    ])
}

fn secrets() -> Seeds {
    let keys = format!(
        "[keys]\nticket = \"{}\"\ncsrf = \"{}\"\n",
        "a1".repeat(32),
        "b2".repeat(32)
    );
    Seeds::of("secrets").all([
        format!(
            "{keys}[passwords]\n\"root@pbs\" = \"$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA\"\n[tokens]\n\
             \"root@pbs!ci\" = \"hashed:{}\"\n\"root@pbs!s\" = \"recoverable:11111111-1111-4111-8111-111111111111\"\n[s3.main]\n\
             access-key = \"AKIDEXAMPLE\"\nsecret-key = \"hushhushhushhush\"\n",
            "00".repeat(32)
        ),
        keys.clone(),
        String::new(),
        "[keys]\nticket = \"shortsecretvalue\"\ncsrf = 5\nother = \"anothersecretvalue\"\n".to_owned(),
        format!("{keys}[tokens]\n\"no id\" = \"hashed:abcdefabcdefabcdef\"\n\"a@pbs!t\" = \"plainsecretvalue\"\n"),
        format!("{keys}[passwords]\n\"a@pbs\" = \"plaintextpassword\"\n[s3.main]\nsecret-key = \"lonelysecretvalue\"\nx = \"morevaluesthere\"\n"),
        format!("{keys}[s3]\nmain = \"notatablebutasecret\"\n[tokens]\na = [\"listedsecretvalue\"]\n"),
        "keys = \"unterminatedsecret\n".to_owned(),
    ])
}

fn credentials() -> [Seeds; 2] {
    // Issued with the keys of the target, so that one is good.
    let tickets = [
        "PBS:admin@pbs:6AFF0000::AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "PBS:admin@pbs:00000000::",
        "PBS:a:b@pbs:6AFF0000::AA==",
        "PBS::6AFF0000::x",
        "6AFF0000:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "FFFFFFFF:",
        "PBS:root@pam!token:6AFF0000::AAAA",
    ];
    let mut headers: Vec<String> = TOKENS
        .iter()
        .map(|(_, header)| format!("authorization: {header}"))
        .collect();
    for ticket in tickets {
        headers.push(format!(
            "cookie: other=1; PBSAuthCookie={ticket}; x\ncsrfpreventiontoken: 6AFF0000:AAAA"
        ));
        headers.push(format!(
            "Cookie: __Host-PBSAuthCookie=\"{}\"",
            ticket.replace(':', "%3A")
        ));
    }
    headers.extend(
        [
            "authorization: PBSAPIToken a@pbs!t:secret",
            "authorization: pbsapitoken=a%40pbs%21t:s%3Aecret",
            "authorization: PBSAPIToken=:",
            "authorization: PBSAPIToken=a@pbs!t",
            "authorization: Basic YTpi",
            "authorization: PBSAPITokeä=a",
            "cookie: PBSAuthCookie=",
            "cookie: PBSAuthCookie==;;;=",
            "authorization: \nauthorization: PBSAPIToken=a@pbs!t:x",
        ]
        .map(str::to_owned),
    );
    [
        Seeds::of("ticket").all(tickets),
        Seeds::of("credentials").all(headers),
    ]
}

fn tasks() -> Seeds {
    let upid = "UPID:pbs:00000001:00000002:00000003:6AFF0000:backup:one\\x3ahost-a:root@pam!t:";
    Seeds::of("task-index").all([
        format!("{{\"upid\":\"{upid}\",\"store\":\"one\"}}\n{{\"upid\":\"{upid}\",\"endtime\":1790000100,\"status\":\"OK\"}}\n").replace('\\', "\\\\"),
        format!("{{\"upid\":\"{upid}\",\"endtime\":-9223372036854775808,\"status\":\"WARNINGS: 99999999999999999999\"}}\n").replace('\\', "\\\\"),
        "{\"upid\":\"UPID:a:FFFFFFFF:FFFFFFFFFFFFFFFF:FFFFFFFFFFFFFFFF:FFFFFFFFFFFFFFFF:t::a@b:\"}\n".to_owned(),
        "{\"upid\":\"UPID:\"}\nnot json\n{\"upid\":5}\n\n{".to_owned(),
    ])
}

/// All of them.
pub(super) fn seeds() -> Vec<Seeds> {
    let [tickets, headers] = credentials();
    vec![
        Seeds::of("names").all(NAMES),
        Seeds::of("layout").all(keys()),
        Seeds::of("repository").all([
            "store",
            "host:store",
            "host:8007:store",
            "root@pam@host:store",
            "a@pbs!t@[::1]:8007:store",
            "[fe80::1%eth0]:store",
            "a@b@c@d:store",
            "host:0:store",
            "host:65536:store",
            "[::1]",
            "[::1]:",
            "@:",
            "a@pbs@:store",
            "[a]:1:s",
            "host:store:extra:more",
        ]),
        config(),
        Seeds::of("calendar").all([
            "daily",
            "sat 18:15",
            "mon..fri,sun 02:00:30",
            "*:0/30",
            "0/30",
            "*-*~7/1 04:00 Europe/Berlin",
            "2027..2199/3-2-29 23:59:59",
            "mon *-2-30",
            "*-*-31 */7:*/11:*/13 UTC",
            "fri 2020-02-29",
            "mon..mon 0..23/5:59..0",
            "",
        ]),
        secrets(),
        tickets,
        headers,
        tasks(),
    ]
}
