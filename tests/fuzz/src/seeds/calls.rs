//! Calls: each endpoint at least once as an honest client makes it, and then not so.

mod changes;

use bytes::Bytes;
use holdfast::fuzz::{KNOWN_DIGESTS, KNOWN_TIME, TOKENS};
use pbs_datastore::{
    ArchiveName, CryptMode, DataBlob, Digest, IndexChecksum, Manifest, ManifestFile,
};

use super::Seeds;

const SEPARATOR: &[u8] = b"\x1e\n";

fn joined(calls: &[Vec<u8>]) -> Vec<u8> {
    calls.join(SEPARATOR)
}

fn line(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

fn with(text: &str, body: &[u8]) -> Vec<u8> {
    [text.as_bytes(), b"\n", body].concat()
}

/// The calls of an administrator, by what they are about.
fn rest() -> Seeds {
    let known = format!("backup-type=host&backup-id=known&backup-time={KNOWN_TIME}");
    let store = "admin/datastore/one";
    let json = "application/json";
    let reads = [
        "ping",
        "version",
        "access/domains",
        "access/permissions",
        "access/permissions?auth-id=backup@pbs&path=/datastore/one",
        "access/roles",
        "access/acl",
        "access/acl?path=/datastore&exact=1",
        "access/users",
        "access/users?include_tokens=1",
        "access/users/backup@pbs",
        "access/users/backup@pbs/token",
        "access/users/backup@pbs/token/t",
        "admin/datastore",
        "nodes",
        "nodes/localhost/identity",
        "nodes/localhost/tasks?limit=5&start=1&running=0&since=0&until=9999999999&typefilter=backup&userfilter=root&statusfilter=ok,warning&errors=1&store=one",
        "nodes/localhost/tasks/UPID:a:00000001:00000002:00000003:00000004:t::root@pam:/status",
        "nodes/localhost/tasks/x/log?start=0&limit=50&test-status=1&download=1",
        "config/datastore",
        "config/datastore/one",
        "config/s3",
        "config/s3/main",
        "config/s3/main/list-buckets",
        "config/prune",
        "config/prune/nightly",
        "config/verify?store=one",
        "config/verify/weekly",
        "admin/prune",
        "admin/verify?store=two",
        "admin/gc",
        "config/sync",
        "config/sync/copy",
        "admin/sync?store=one",
        "config/traffic-control",
        "config/traffic-control/slow",
        "config/notify",
        "config/notify/admins",
        "config/remote",
        "config/remote/far",
        "config/remote/far/scan",
        "config/remote/far/scan/one/groups?ns=a",
        "config/remote/far/scan/one/namespaces",
        "status/datastore-usage",
        "metrics",
        "openapi",
        "",
        "admin",
        "access",
    ];
    let below = [
        "status",
        "groups",
        "snapshots",
        "namespace",
        "namespace?parent=a&max-depth=7",
        "gc",
        "sessions",
        "active-operations",
        "snapshots?ns=&backup-type=host&backup-id=known",
        "groups?ns=a/b",
    ];
    let snapshot = ["files", "notes", "protected"];
    let contents = [
        "download?file-name=root.pxar.didx",
        "download?file-name=client.log.blob",
        "download-decoded?file-name=root.pxar.didx",
        "download-decoded?file-name=notes.conf.blob",
        "catalog?filepath=root",
        "catalog?filepath=L3Jvb3QucHhhci5kaWR4&archive-name=catalog.pcat1.didx",
    ];
    let mut all: Vec<Vec<u8>> = Vec::new();
    let mut group = |calls: Vec<String>| {
        all.push(joined(
            &calls.iter().map(|call| line(call)).collect::<Vec<_>>(),
        ));
    };
    for who in ["admin", "backup", "nobody", "none", "login", "owner"] {
        // An input has few calls.
        for some in reads.chunks(16) {
            group(
                some.iter()
                    .map(|read| format!("{who} GET {read}"))
                    .collect(),
            );
        }
        let mut calls: Vec<String> = below
            .iter()
            .map(|name| format!("{who} GET {store}/{name}"))
            .collect();
        calls.extend(
            snapshot
                .iter()
                .map(|name| format!("{who} GET {store}/{name}?{known}")),
        );
        calls.extend(
            contents
                .iter()
                .map(|call| format!("{who} GET {store}/{call}&{known}")),
        );
        calls.push(format!(
            "{who} GET {store}/group-notes?backup-type=host&backup-id=known"
        ));
        group(calls);
    }
    let changes = changes::all(store, json, &known);
    for change in &changes {
        let by = |who: &str| line(&format!("{who} {change}"));
        all.push(joined(&[
            by("none"),
            by("nobody"),
            by("backup"),
            by("admin"),
            by("owner"),
        ]));
    }
    for who in ["nobody", "backup"] {
        all.push(joined(
            &changes
                .iter()
                .map(|change| line(&format!("{who} {change}")))
                .collect::<Vec<_>>()[..20],
        ));
    }
    let log = DataBlob::encode_plain(Bytes::from_static(b"log"))
        .expect("short")
        .encoded();
    for who in ["owner", "backup", "nobody", "none"] {
        all.push(with(
            &format!("{who} POST {store}/upload-backup-log?{known}"),
            &log,
        ));
    }
    all.push(with(
        &format!("owner POST {store}/upload-backup-log?{known}"),
        b"no blob",
    ));
    for odd in [
        "owner GET admin/datastore/..%2f..%2fetc/status",
        "owner GET admin/datastore/%00/status",
        "owner GET //api2//json///version/",
        "owner GET /api2/extjs/version",
        "owner GET /api2/json/%ff",
        "owner POST version",
        "owner PATCH admin/datastore/one/gc",
        "owner GET admin/datastore/one/snapshots?ns=a&ns=b",
        "owner GET admin/datastore/one/snapshots?backup-type=xx&backup-id=../..",
        "owner GET nodes/localhost/tasks?limit=18446744073709551615&start=-1",
        "owner GET nodes/localhost/tasks?since=-9223372036854775808&until=9223372036854775807",
        "owner PUT access/acl application/json\n[1,2]",
        "owner PUT access/acl application/json\n{\"path\":\"/\",\"path\":\"/x\",\"auth-id\":5}",
        "owner PUT access/acl text/plain\nx",
        "none POST access/ticket\n&&&==&username",
        "owner GET admin/datastore/one/files?backup-type=host&backup-id=known&backup-time=9223372036854775807",
        "owner GET admin/datastore/one/files?backup-type=host&backup-id=known&backup-time=-62167219201",
        "owner POST admin/datastore/one/prune?backup-type=host&backup-id=known&keep-last=18446744073709551615",
        "owner GET admin/datastore/one/namespace?max-depth=-1",
        "owner GET /metrics",
        "owner POST config/prune?id=nightly&store=one&keep-last=1&schedule=*-*-31%2023:59:59%20Europe/Berlin&jitter-seconds=86400",
        "owner POST config/verify?id=../..&store=one",
        "owner POST pull?store=one&remote-store=one&remote-ns=../..&group-filter=regex:((a%7B99%7D)%7B99%7D)%7B99%7D",
        "owner POST config/verify?id=weekly&store=one&outdated-after=36500&reread-after=0&requests-max=9223372036854775807",
        "owner POST admin/datastore/one/verify?outdated-after=36500&reread-after=36500&bytes-max=99999999999999999999",
    ] {
        all.push(line(odd));
    }
    Seeds::of("rest").all(all)
}

fn chunk(wid: u32, kind: &str, content: &[u8]) -> (Vec<u8>, Digest) {
    let digest = Digest::of(content);
    let blob = DataBlob::encode_plain(Bytes::copy_from_slice(content))
        .expect("short")
        .encoded();
    let target = format!(
        "POST /{kind}_chunk?wid={wid}&digest={digest}&size={}&encoded-size={}",
        content.len(),
        blob.len()
    );
    (with(&target, &blob), digest)
}

fn blob(name: &str, content: &[u8]) -> Vec<u8> {
    let target = format!("POST /blob?file-name={name}&encoded-size={}", content.len());
    with(&target, content)
}

fn manifest(files: Vec<ManifestFile>, time: i64) -> Vec<u8> {
    let time = jiff::Timestamp::from_second(time).expect("a time");
    let snapshot = format!("host/written/{time}").parse().expect("a snapshot");
    let manifest = Manifest::new(snapshot, files).expect("no name comes twice");
    let encoded = manifest.to_blob().expect("short").encoded();
    blob("index.json.blob", &encoded)
}

fn file(name: &str, size: u64, csum: Digest) -> ManifestFile {
    ManifestFile {
        name: name.parse::<ArchiveName>().expect("a name"),
        crypt_mode: CryptMode::None,
        size,
        csum: Some(csum),
    }
}

/// A whole backup: one dynamic archive, one image, one blob.
fn whole() -> Vec<Vec<u8>> {
    let (first, one) = chunk(1, "dynamic", b"new content of a client");
    let mut sum = IndexChecksum::new();
    sum.push_dynamic(23, &one);
    let sum = sum.finish();
    let (second, two) = chunk(2, "fixed", &[7; 4096]);
    let mut image = IndexChecksum::new();
    image.push_fixed(&two);
    let image = image.finish();
    let conf = DataBlob::encode_plain(Bytes::from_static(b"conf"))
        .expect("short")
        .encoded();
    vec![
        line("GET /"),
        line("GET /previous_backup_time"),
        line("POST /dynamic_index application/json\n{\"archive-name\":\"root.pxar.didx\"}"),
        line("POST /fixed_index?archive-name=disk.img.fidx&size=4096"),
        first,
        second,
        line(&format!(
            "PUT /dynamic_index application/json\n{{\"wid\":1,\"digest-list\":[\"{one}\"],\"offset-list\":[0]}}"
        )),
        line(&format!(
            "PUT /fixed_index application/json\n{{\"wid\":2,\"digest-list\":[\"{two}\"],\"offset-list\":[0]}}"
        )),
        line(&format!(
            "POST /dynamic_close?wid=1&chunk-count=1&size=23&csum={sum}"
        )),
        line(&format!(
            "POST /fixed_close?wid=2&chunk-count=1&size=4096&csum={image}"
        )),
        blob("a.conf.blob", &conf),
        manifest(
            vec![
                file("root.pxar.didx", 23, sum),
                file("disk.img.fidx", 4096, image),
                file("a.conf.blob", conf.len() as u64, Digest::of(&conf)),
            ],
            KNOWN_TIME + 60,
        ),
        line("POST /finish"),
        line("GET /"),
    ]
}

fn backups() -> Seeds {
    let mut seeds = Seeds::of("backup");
    let honest = whole();
    seeds.add("whole", joined(&honest));
    let without = |left_out: usize| {
        let mut calls = honest.clone();
        calls.remove(left_out);
        joined(&calls)
    };
    for left_out in 2..12 {
        seeds.add(&format!("without-{left_out:02}"), without(left_out));
    }
    let beside: Vec<Vec<u8>> = honest
        .iter()
        .map(|call| [b"&", &call[..]].concat())
        .collect();
    seeds.add("all-at-once", joined(&beside));
    let mut twice = honest.clone();
    twice.insert(12, line("&POST /finish"));
    seeds.add("finish-twice", joined(&twice));
    let mut cut = honest.clone();
    cut[4] = [b"!", &cut[4][..]].concat();
    seeds.add("body-breaks-off", joined(&cut));
    let known = KNOWN_DIGESTS;
    for (name, calls) in [
        ("foreign-digest", format!("POST /dynamic_index?archive-name=a.didx\u{1e}\nPUT /dynamic_index application/json\n{{\"wid\":1,\"digest-list\":[\"{}\"],\"offset-list\":[0]}}", known[0])),
        ("offsets-overflow", format!("POST /dynamic_index?archive-name=a.didx\u{1e}\nPUT /dynamic_index?wid=1&digest-list={}&offset-list=9223372036854775807", known[0])),
        ("image-huge", "POST /fixed_index?archive-name=a.fidx&size=9223372036854775807\u{1e}\nPOST /fixed_close?wid=1&chunk-count=0&size=9223372036854775807&csum=0000000000000000000000000000000000000000000000000000000000000000".to_owned()),
        ("image-no-size", format!("POST /fixed_index?archive-name=a.fidx\u{1e}\nPUT /fixed_index?wid=1&digest-list={}&offset-list=4194304", known[0])),
        ("reuse", format!("POST /fixed_index?archive-name=disk.img.fidx&size=21&reuse-csum={}", known[0])),
        ("wrong-kind", format!("POST /dynamic_index?archive-name=a.didx\u{1e}\nPOST /fixed_close?wid=1&chunk-count=0&size=0&csum={}\u{1e}\nPOST /fixed_chunk?wid=1&digest={}&size=1&encoded-size=13\n0123456789abc", known[0], known[0])),
        ("same-name", "POST /dynamic_index?archive-name=a.didx\u{1e}\nPOST /dynamic_index?archive-name=a.didx\u{1e}\n&POST /dynamic_index?archive-name=b.didx\u{1e}\n&POST /dynamic_index?archive-name=b.didx".to_owned()),
        ("names", "POST /dynamic_index?archive-name=../a.didx\u{1e}\nPOST /dynamic_index?archive-name=.didx\u{1e}\nPOST /dynamic_index?archive-name=a.fidx\u{1e}\nPOST /blob?file-name=index.json.blob&encoded-size=12\nxxxxxxxxxxxx\u{1e}\nPOST /blob?file-name=client.log.blob&encoded-size=12\nxxxxxxxxxxxx".to_owned()),
        ("sizes", "POST /dynamic_index?archive-name=a.didx\u{1e}\nPOST /dynamic_chunk?wid=1&digest=00&size=1&encoded-size=1\u{1e}\nPOST /dynamic_chunk?wid=1&digest=0000000000000000000000000000000000000000000000000000000000000000&size=16777217&encoded-size=16777260\nx\u{1e}\nPOST /blob?file-name=a.blob&encoded-size=16777260\nx".to_owned()),
        ("previous", "GET /previous?archive-name=root.pxar.didx\u{1e}\nGET /previous?archive-name=index.json.blob\u{1e}\nGET /previous?archive-name=../x.didx\u{1e}\nGET /previous?archive-name=none.blob".to_owned()),
        ("finish-at-once", "POST /finish\u{1e}\nPOST /finish\u{1e}\nPOST /dynamic_index?archive-name=a.didx".to_owned()),
        ("unknown", "GET /nosuch\u{1e}\nDELETE /finish\u{1e}\nPOST /a/b/c\u{1e}\nPUT /blob\u{1e}\nPOST /finish?x=1\u{1e}\nCONNECT /\u{1e}\nOPTIONS *".to_owned()),
        ("speedtest", "POST /speedtest\naaaaaaaaaaaaaaaaaaaaaaaaaaaaa\u{1e}\n!POST /speedtest\naaaaaaaaaaaaaaaaaaaaaaaaaaaaa".to_owned()),
        ("json", "POST /dynamic_index application/json\n[]\u{1e}\nPOST /dynamic_index application/json\n{\"archive-name\":{\"a\":1}}\u{1e}\nPOST /dynamic_index text/html\nx\u{1e}\nPOST /dynamic_index application/json; charset=x\n{\"archive-name\":\"a.didx\",\"archive-name\":\"b.didx\"}".to_owned()),
    ] {
        seeds.add(name, calls);
    }
    let encrypted = [
        &[0x7b, 0x67, 0x85, 0xbe, 0x22, 0x2d, 0x4c, 0xf0, 0, 0, 0, 0][..],
        &[0; 33],
    ]
    .concat();
    let target = format!(
        "POST /dynamic_chunk?wid=1&digest={}&size=5&encoded-size={}",
        known[0],
        encrypted.len()
    );
    seeds.add(
        "encrypted-over-plain",
        joined(&[
            line("POST /dynamic_index?archive-name=a.didx"),
            with(&target, &encrypted),
        ]),
    );
    let lying = manifest(
        vec![
            file("root.pxar.didx", 5, Digest([9; 32])),
            file("b.blob", 1, Digest([9; 32])),
        ],
        KNOWN_TIME + 60,
    );
    let mut calls = honest.clone();
    calls[11] = lying;
    seeds.add("manifest-lies", joined(&calls));
    let mut calls = honest;
    calls[11] = manifest(Vec::new(), KNOWN_TIME + 60);
    seeds.add("manifest-empty", joined(&calls));
    seeds.add(
        "manifest-other-time",
        joined(&[manifest(Vec::new(), KNOWN_TIME), line("POST /finish")]),
    );
    seeds
}

fn readers() -> Seeds {
    let [one, two] = KNOWN_DIGESTS;
    Seeds::of("reader").all([
        format!("GET /\u{1e}\nGET /download?file-name=index.json.blob\u{1e}\nGET /download?file-name=root.pxar.didx\u{1e}\nGET /chunk?digest={one}\u{1e}\nGET /chunk?digest={two}"),
        format!("GET /chunk?digest={one}"),
        format!("GET /download application/json\n{{\"file-name\":\"disk.img.fidx\"}}\u{1e}\n&GET /chunk?digest={one}\u{1e}\n&GET /chunk?digest={one}\u{1e}\n&GET /chunk?digest={two}"),
        "GET /download?file-name=notes.conf.blob\u{1e}\nGET /download?file-name=none.blob\u{1e}\nGET /download?file-name=none.didx".to_owned(),
        "GET /download?file-name=../../known/owner\u{1e}\nGET /download?file-name=..%2f..%2fowner\u{1e}\nGET /download?file-name=owner\u{1e}\nGET /download?file-name=.protected".to_owned(),
        "GET /chunk?digest=00\u{1e}\nGET /chunk\u{1e}\nGET /chunk?digest=0000000000000000000000000000000000000000000000000000000000000000&x=1".to_owned(),
        "GET /speedtest\u{1e}\nPOST /speedtest\u{1e}\nPOST /finish\u{1e}\nGET /previous?archive-name=a.didx".to_owned(),
        format!("!GET /download application/json\n{{\"file-name\":\"root.pxar.didx\"}}\u{1e}\nGET /download application/json\n{}", "x".repeat(1100)),
    ])
}

fn upgrades() -> Seeds {
    let headers = |token: usize, protocol: &str| {
        format!(
            "authorization: {}\nconnection: upgrade\nupgrade: {protocol}",
            TOKENS[token].1
        )
    };
    let (backup, reader) = (
        "proxmox-backup-protocol-v1",
        "proxmox-backup-reader-protocol-v1",
    );
    let known = format!("store=one&backup-type=host&backup-id=known&backup-time={KNOWN_TIME}");
    let fresh = format!(
        "store=one&backup-type=host&backup-id=fresh&backup-time={}&debug=1&benchmark=0&no-cache=1",
        KNOWN_TIME + 60
    );
    let mut all = vec![
        format!("/api2/json/backup?{fresh}\n{}", headers(0, backup)),
        format!(
            "//api2//json/reader/?{known}&debug=true\n{}",
            headers(1, reader)
        ),
        format!("/api2/json/backup?{fresh}\n{}", headers(2, backup)),
        format!("/api2/json/backup?{known}\n{}", headers(1, backup)),
        format!("/api2/json/reader?{known}\n{}", headers(0, backup)),
        format!("/api2/json/reader?{known}\nauthorization: {}", TOKENS[0].1),
        format!("/api2/json/backup?{fresh}\nconnection: upgrade\nupgrade: {backup}"),
        format!(
            "/api2/json/backup?{}\n{}",
            fresh.replace("host", "xx"),
            headers(0, backup)
        ),
        format!(
            "/api2/json/backup?{}&ns=a/b/c\n{}",
            fresh,
            headers(0, backup)
        ),
        format!(
            "/api2/json/backup?{}\n{}",
            fresh
                .replace("fresh", "benchmark")
                .replace("benchmark=0", "benchmark=1"),
            headers(0, backup)
        ),
        format!(
            "/api2/json/backup?{}\n{}",
            fresh.replace("store=one", "store=none"),
            headers(0, backup)
        ),
        format!(
            "/api2/json/backup?{}\n{}",
            fresh.replace("fresh", "..%2f..%2fx"),
            headers(0, backup)
        ),
        format!(
            "/api2/json/backup?store=one&store=one&backup-time=9223372036854775807\n{}",
            headers(0, backup)
        ),
        format!(
            "/api2/json/backup?backup-time=-1&{fresh}\n{}",
            headers(0, backup)
        ),
        "/health/ready".to_owned(),
        "/health/live\nexpect: 100-continue".to_owned(),
    ];
    all.push(format!(
        "/api2/json/backup?{}&{fresh}\n{}",
        "x".repeat(3072),
        headers(0, backup)
    ));
    Seeds::of("upgrade").all(all)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block without compression.
fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            block.push(text.len().min(126) as u8);
            block.extend_from_slice(&text.as_bytes()[..text.len().min(126)]);
        }
    }
    block
}

fn frames() -> Seeds {
    let head = |method: &str, path: &str| {
        block(&[
            (":method", method),
            (":scheme", "https"),
            (":authority", "a"),
            (":path", path),
        ])
    };
    let get = frame(1, 5, 1, &head("GET", "/"));
    let post = |stream| frame(1, 4, stream, &head("POST", "/speedtest"));
    let reset = |stream| frame(3, 0, stream, &8_u32.to_be_bytes());
    let rapid: Vec<u8> = (0..120)
        .flat_map(|i| [frame(1, 5, 2 * i + 1, &head("GET", "/")), reset(2 * i + 1)].concat())
        .collect();
    let open: Vec<u8> = (0..260).flat_map(|i| post(2 * i + 1)).collect();
    Seeds::of("http2").all([
        [
            get.clone(),
            frame(6, 0, 0, b"AAAAAAAA"),
            frame(7, 0, 0, &[0; 8]),
        ]
        .concat(),
        [post(1), frame(0, 0, 1, &[b'a'; 100]), frame(0, 1, 1, b"b")].concat(),
        [post(1), frame(0, 0, 1, &[b'a'; 100]), reset(1)].concat(),
        rapid,
        open,
        [frame(4, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]), get.clone()].concat(),
        [
            frame(4, 0, 0, &[0, 4, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1]),
            get.clone(),
        ]
        .concat(),
        [
            frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            frame(8, 0, 1, &[0; 4]),
        ]
        .concat(),
        [
            frame(1, 1, 1, &head("GET", "/")),
            frame(9, 0, 1, b"x"),
            frame(9, 4, 1, b""),
        ]
        .concat(),
        frame(9, 0, 1, &[0; 100]).repeat(50),
        frame(5, 4, 1, &[0; 10]),
        frame(6, 0, 0, b"AAAAAAAA").repeat(200),
        frame(4, 0, 0, b"").repeat(300),
        frame(0, 1, 1, b"data on no stream"),
        vec![0xff; 64],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        frame(
            1,
            5,
            1,
            &block(&[
                (":method", "GET"),
                (":path", "/"),
                ("content-length", "-1"),
                ("connection", "x"),
                ("te", "y"),
            ]),
        ),
        frame(1, 5, 1, &[0x3f, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        [
            frame(
                1,
                4,
                1,
                &head("POST", "/blob?file-name=a.blob&encoded-size=99"),
            ),
            frame(0, 9, 1, &[200, 1, 2, 3]),
        ]
        .concat(),
    ])
}

fn connections() -> Seeds {
    let token = TOKENS[0].1;
    let query = format!(
        "store=one&backup-type=host&backup-id=frames&backup-time={}",
        KNOWN_TIME + 60
    );
    Seeds::of("http1").all([
        "GET /api2/json/version HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        format!("GET /api2/json/version HTTP/1.1\r\nHost: a\r\nAuthorization: {token}\r\n\r\n"),
        "GET /health/live HTTP/1.1\r\n\r\nGET /health/ready HTTP/1.1\r\n\r\nGET / HTTP/1.0\r\n\r\n".to_owned(),
        "POST /api2/json/access/ticket HTTP/1.1\r\nHost: a\r\nContent-Length: 25\r\n\r\nusername=a@pbs&password=b".to_owned(),
        "POST /api2/json/access/ticket HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_owned(),
        "POST /api2/json/access/ticket HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "POST /api2/json/access/ticket HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\nx".to_owned(),
        "POST /api2/json/access/ticket HTTP/1.1\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n".to_owned(),
        format!("GET /api2/json/backup?{query} HTTP/1.1\r\nHost: a\r\nAuthorization: {token}\r\nConnection: Upgrade\r\nUpgrade: proxmox-backup-protocol-v1\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0"),
        format!("GET /api2/json/backup?{query} HTTP/1.1\r\nAuthorization: {token}\r\nConnection: Upgrade\r\nUpgrade: proxmox-backup-protocol-v1\r\n\r\nnot HTTP/2 at all"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}".to_owned(),
        format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(9000)),
        format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(300)),
        "GET http://a/api2/json/ping HTTP/1.1\r\nHost: b\r\n\r\nCONNECT a:1 HTTP/1.1\r\n\r\nOPTIONS * HTTP/1.1\r\n\r\n".to_owned(),
        " GET / HTTP/1.1\nHost:a\n\n".to_owned(),
    ])
}

/// All of them.
pub(super) fn seeds() -> Vec<Seeds> {
    vec![
        rest(),
        backups(),
        readers(),
        upgrades(),
        frames(),
        connections(),
    ]
}
