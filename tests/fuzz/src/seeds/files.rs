//! Files of ours, damage to a cache directory and a bucket, archives, answers of S3 servers.

use pbs_datastore::{Digest, DynamicIndex};
use uuid::Uuid;

use super::Seeds;

fn digits(byte: &str) -> String {
    byte.repeat(32)
}

fn journal(digests: &[String]) -> String {
    format!(
        "holdfast-gc-journal 1\n{}end\n",
        digests
            .iter()
            .map(|digest| format!("{digest}\n"))
            .collect::<String>()
    )
}

fn journals() -> Seeds {
    let two = journal(&[digits("01"), digits("fe")]);
    Seeds::of("gc-journal").all([
        two.clone(),
        journal(&[]),
        String::new(),
        two.replace("end\n", ""),
        two.replace("\nend", "end"),
        two.replace('\n', "\r\n"),
        two.replace("fe", "FE"),
        two.replace(" 1\n", " 2\n"),
        two.replace("01\n", "01 \n"),
        format!("{two}{two}"),
        two.replacen("01", "0", 1),
        two.replace("end\n", "\nend\n"),
    ])
}

fn logs() -> Seeds {
    let line = "{\"name\":\"host/a/owner\",\"etag\":\"abc\",\"size\":7}\n";
    Seeds::of("mirror-log").all([
        line.to_owned(),
        format!("{line}{{\"name\":\"host/a/owner\"}}\n"),
        format!("{line}{{\"name\":\"torn"),
        format!("{line}garbage\n\n{line}"),
        "{\"name\":\"a\\u0000\\n\",\"etag\":\"\\\"q\\\"\",\"size\":18446744073709551615}\n"
            .to_owned(),
        "{\"name\":\"\",\"etag\":null,\"size\":-1,\"more\":[]}\n".to_owned(),
        "\n\n\n".to_owned(),
    ])
}

fn starts() -> Seeds {
    let mut seeds = Seeds::of("start");
    let list = |files: &[&str]| files.join("\u{1e}\n");
    let journalled = journal(&[digits("ab")]);
    let known = "2b7a8b".to_owned();
    let local = "{\"instance\":\"i\",\"start\":\"s\",\"counter\":1,\"epoch\":1}";
    let held = |more: &str| {
        format!(
            "{{\"hostname\":\"elsewhere\",\"mode\":\"single\",\"instance\":\"x\",\"start\":\"y\",\"counter\":7,\"epoch\":2{more}}}"
        )
    };
    for (name, files) in [
        ("nothing", list(&[])),
        ("crash", list(&["!crash"])),
        (
            "journal",
            list(&[&format!("cache/.holdfast/gc-journal\n{journalled}")]),
        ),
        (
            "journal-torn",
            list(&["cache/.holdfast/gc-journal\nholdfast-gc-journal 1\nabc"]),
        ),
        (
            "journal-directory",
            list(&["cache/.holdfast/gc-journal/x\n"]),
        ),
        ("owner-missing", list(&["-cache/.holdfast/owner.json"])),
        (
            "owner-other",
            list(&[&format!("cache/.holdfast/owner.json\n{local}")]),
        ),
        (
            "owner-garbage",
            list(&["cache/.holdfast/owner.json\n\u{0}\u{0}"]),
        ),
        (
            "in-use-other",
            list(&[&format!("bucket/store/.in-use\n{}", held(""))]),
        ),
        (
            "in-use-top",
            list(&[
                "bucket/store/.in-use\n{\"mode\":\"single\",\"installation\":\"0123456789abcdef0123456789abcdef\",\"instance\":\"x\",\"counter\":18446744073709551615,\"epoch\":18446744073709551615,\"clean-stop\":true}",
            ]),
        ),
        (
            "in-use-mode",
            list(&[&format!(
                "bucket/store/.in-use\n{}",
                held("").replace("single", "shared")
            )]),
        ),
        (
            "in-use-proxmox",
            list(&["bucket/store/.in-use\n{\"hostname\":\"pbs\"}"]),
        ),
        ("in-use-gone", list(&["-bucket/store/.in-use"])),
        (
            "format-newer",
            list(&["bucket/store/.holdfast/format\n{\"version\":2,\"minimum-reader\":2}"]),
        ),
        (
            "format-features",
            list(&[
                "bucket/store/.holdfast/format\n{\"version\":1,\"minimum-reader\":1,\"features\":{\"collect\":[\"x\"],\"write\":[\"y\"]}}",
            ]),
        ),
        ("mirror-gone", list(&["-cache/.cnt"])),
        (
            "mirror-log-gone",
            list(&["-cache/.holdfast/contents.log", "!crash"]),
        ),
        (
            "mirror-log-garbage",
            list(&[
                "cache/.holdfast/contents.log\n{\"name\":\"host/known/owner\",\"etag\":\"x\",\"size\":3}\n",
            ]),
        ),
        (
            "mirror-index-damaged",
            list(&["cache/.cnt/host/known/2024-12-01T00:00:00Z/root.pxar.didx\nshort"]),
        ),
        (
            "mirror-owner",
            list(&["cache/.cnt/host/known/owner\nnobody\n"]),
        ),
        (
            "mirror-strange",
            list(&[
                "cache/.cnt/host/known/2024-12-01T00:00:00Z/strange.file\nx",
                "cache/.cnt/ns/a/b/c\nx",
                "cache/.cnt/vm/../x\n",
            ]),
        ),
        ("markers-gone", list(&["-cache/.chunks"])),
        (
            "markers-strange",
            list(&[
                "cache/.chunks/zzzz/x\n1",
                "cache/.chunks/0000\nfile",
                "cache/.chunks/abab/a.bad\n",
                &format!("cache/.chunks/0000/{}\n", digits("ab")),
            ]),
        ),
        (
            "marker-false",
            list(&[
                &format!("cache/.chunks/abab/{}\nno blob", digits("ab")),
                &format!("cache/.holdfast/uploads/{}\n", digits("ab")),
                &format!("cache/.holdfast/using/{}\n", digits("ab")),
            ]),
        ),
        (
            "uploads-strange",
            list(&[
                "cache/.holdfast/uploads/x\n",
                "cache/.holdfast/using/a/b\n",
                "cache/.holdfast/tmp/left\n",
                "cache/.holdfast/strange\n",
            ]),
        ),
        (
            "objects-strange",
            list(&[
                "bucket/store/.chunks/0000/x\n",
                "bucket/store/.chunks/y\n",
                "bucket/store/.cnt/host/known/x/y/z\n",
                "bucket/store/.cnt/ns/a\n",
                "bucket/store/x\n",
                &format!("bucket/store/.chunks/abab/{}.0.bad\n", digits("ab")),
            ]),
        ),
        (
            "objects-unsealed",
            list(&[
                "bucket/store/.cnt/host/left/2024-01-01T00:00:00Z/root.pxar.didx\nx",
                "bucket/store/.cnt/host/left/owner\nroot@pam\n",
                "!crash",
            ]),
        ),
        (
            "manifest-garbage",
            list(&[
                "bucket/store/.cnt/host/other/2024-01-01T00:00:00Z/index.json.blob\nx",
                "bucket/store/.cnt/host/other/owner\n\n",
            ]),
        ),
        (
            "manifest-gone",
            list(&["-bucket/store/.cnt/host/known/2024-12-01T00:00:00Z/index.json.blob"]),
        ),
        (
            "index-garbage",
            list(&["bucket/store/.cnt/host/known/2024-12-01T00:00:00Z/root.pxar.didx\nx"]),
        ),
        (
            "namespaces",
            list(&[
                "bucket/store/.cnt/ns/a/.namespace\n",
                "bucket/store/.cnt/ns/a/ns/b/ns/c/ns/d/ns/e/ns/f/ns/g/ns/h/.namespace\n",
                "bucket/store/.cnt/ns/../.namespace\n",
            ]),
        ),
        (
            "status",
            list(&[
                "cache/.gc-status\n{\"disk-bytes\":18446744073709551615,\"pending-bytes\":18446744073709551615}",
                &format!("cache/{known}\nx"),
            ]),
        ),
    ] {
        seeds.add(name, files);
    }
    // An index of the same length that names other chunks: nothing but its checksum tells it from the right one.
    let entries = [(34, Digest([1; 32])), (48, Digest([2; 32]))];
    let other = DynamicIndex::encode(&Uuid::nil(), 0, &entries).expect("an index");
    let name = b"cache/.cnt/host/known/2024-12-01T00:00:00Z/root.pxar.didx\n";
    for (crash, seed) in [
        ("", "mirror-index-exchanged"),
        ("!crash\u{1e}\n", "mirror-index-exchanged-crash"),
    ] {
        seeds.add(seed, [crash.as_bytes(), name, &other].concat());
    }
    seeds
}

/// A header of an archive.
fn header(name: &str, kind: u8, size: u64, link: &str) -> Vec<u8> {
    let mut block = vec![0; 512];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000001\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let text = format!("{sum:06o}\0 ");
    block[148..156].copy_from_slice(text.as_bytes());
    block
}

fn padded(content: &[u8]) -> Vec<u8> {
    let mut content = content.to_vec();
    content.resize(content.len().next_multiple_of(512), 0);
    content
}

fn archives() -> Seeds {
    let end = vec![0; 1024];
    let file = |name: &str| [header(name, b'0', 4, ""), padded(b"evil")].concat();
    let pax = |records: &str| {
        [
            header("x", b'x', records.len() as u64, ""),
            padded(records.as_bytes()),
        ]
        .concat()
    };
    let whole = |parts: &[Vec<u8>]| [parts.concat(), end.clone()].concat();
    let mut seeds = Seeds::of("tar-restore");
    seeds
        .add("plain", whole(&[header("./", b'5', 0, ""), header("d/", b'5', 0, ""), file("d/f"), header("d/l", b'2', 0, "f"), header("d/h", b'1', 0, "d/f"), header("p", b'6', 0, "")]))
        .add("up", whole(&[file("../outside/new"), file("a/../../outside/new")]))
        .add("absolute", whole(&[file("/precious")]))
        .add("through-link", whole(&[header("l", b'2', 0, "../outside"), file("l/precious"), file("l/new")]))
        .add("through-links", whole(&[header("a", b'2', 0, "."), header("a/b", b'2', 0, "../outside"), file("a/b/new")]))
        .add("link-then-directory", whole(&[header("l", b'2', 0, "../outside"), header("l/", b'5', 0, ""), file("l/new")]))
        .add("hard-link-up", whole(&[header("h", b'1', 0, "../outside/precious"), file("h")]))
        .add("hard-link-of-link", whole(&[header("l", b'2', 0, "../outside/precious"), header("h", b'1', 0, "l"), file("h")]))
        .add("same-name", whole(&[file("f"), header("f", b'5', 0, ""), file("f"), header("f", b'2', 0, "f"), file("f")]))
        .add("size-huge", whole(&[header("f", b'0', 0o77_777_777_777, "")]))
        .add("pax-path", whole(&[pax("24 path=../outside/new2\n"), file("f")]))
        .add("pax-sparse", whole(&[pax("22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n29 GNU.sparse.realsize=4096\n25 GNU.sparse.name=sparse\n"), [header("s", b'0', 516, ""), padded(b"1\n100\n4\n"), padded(b"data")].concat()]))
        .add("pax-sparse-huge", whole(&[pax("22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n44 GNU.sparse.realsize=9223372036854775807\n"), [header("s", b'0', 516, ""), padded(b"2\n9223372036854775803\n4\n0\n0\n"), padded(b"data")].concat()]))
        .add("pax-size", whole(&[pax("28 size=18446744073709551615\n"), file("f")]))
        .add("pax-damaged", whole(&[pax("99999999999 path=x\n"), file("f"), pax("3\n"), file("g")]))
        .add("pax-xattr", whole(&[pax("30 SCHILY.xattr.user.a%25%3D=x\n"), file("f")]))
        .add("pax-times", whole(&[pax("39 mtime=-9223372036854775808.999999999\n"), file("f")]))
        .add("device", whole(&[header("dev", b'3', 0, ""), header("blk", b'4', 0, "")]))
        .add("gnu-long", whole(&[header("././@LongLink", b'L', 16, ""), padded(b"../outside/longn"), file("f")]))
        .add("cut-off", &file("f")[..700])
        .add("no-end", file("f"));
    seeds
}

fn answers() -> Seeds {
    let entry = |key: &str| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-11-20T12:00:00.000Z</LastModified><ETag>\"a\"</ETag><Size>5</Size><StorageClass>STANDARD</StorageClass></Contents>"
        )
    };
    let list = |more: &str| {
        format!(
            "200 OK\ncontent-type: application/xml\n\n<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><Name>bucket</Name><MaxKeys>1000</MaxKeys>{more}</ListBucketResult>"
        )
    };
    let one = entry(&format!("store/.chunks/0000/{}", digits("00")));
    let lists = [
        list(&format!("<IsTruncated>false</IsTruncated>{one}")),
        list(&format!("<IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>{one}")),
        list("<IsTruncated>true</IsTruncated>"),
        list(&one),
        list(&format!("<IsTruncated>false</IsTruncated>{}", entry("elsewhere"))),
        list(&format!("<IsTruncated>false</IsTruncated>{}{}", entry("store/.chunks/b"), entry("store/.chunks/a"))),
        list(&format!("<IsTruncated>false</IsTruncated>{}", entry("store/.chunks/%00&#10;&amp;"))),
        list("<IsTruncated>false</IsTruncated><Contents><Size>-1</Size></Contents>"),
        list("<IsTruncated>false</IsTruncated><EncodingType>url</EncodingType>"),
        "200 OK\n\n".to_owned(),
        "200 OK\n\n<!DOCTYPE l [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]><ListBucketResult><Name>&b;</Name></ListBucketResult>".to_owned(),
        "200 OK\ncontent-length: 5000\n\n<ListBucketResult>".to_owned(),
        "200 OK\ntransfer-encoding: chunked\ncontent-length: 0\n\nffffffff\r\n<ListBucketResult>".to_owned(),
        format!("200 OK\n\n{}", "<a>".repeat(2000)),
    ];
    let deletes = [
        "<DeleteResult><Deleted><Key>store/a</Key></Deleted><Deleted><Key>store/b&amp;&lt;&gt;</Key></Deleted><Error><Key>store/c</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>",
        "<DeleteResult></DeleteResult>",
        "<DeleteResult><Deleted><Key>elsewhere</Key></Deleted><Error><Code>InternalError</Code></Error></DeleteResult>",
        "<DeleteResult><Deleted><Key>store/a</Key></Deleted><Error><Key>store/a</Key><Code>SlowDown</Code></Error></DeleteResult>",
        "<Error><Code>InternalError</Code></Error>",
    ]
    .map(|body| format!("200 OK\n\n{body}"));
    let error = |status: &str, code: &str| {
        format!(
            "{status}\nx-amz-request-id: 1\n\n<Error><Code>{code}</Code><Message>m</Message><RequestId>1</RequestId></Error>"
        )
    };
    let object = "200 OK\netag: \"abc\"\nlast-modified: Fri, 20 Nov 2026 12:00:00 GMT\nx-amz-meta-holdfast-put-id: p\nx-amz-version-id: v\nx-amz-storage-class: GLACIER\ndate: Fri, 20 Nov 2026 12:00:03 GMT\n\nhello".to_owned();
    let mut seeds = Seeds::of("s3-answer");
    let mut add = |kind: u8, answer: &str| {
        let name = format!("{kind:02}-{:03}", seeds.made.len());
        seeds.add(&name, [&[kind], answer.as_bytes()].concat());
    };
    for list in &lists {
        add(0, list);
        add(1, list);
    }
    for answer in &deletes {
        add(2, answer);
        add(8, answer);
    }
    for kind in 0..13 {
        add(kind, &object);
        for (status, code) in [
            ("404 Not Found", "NoSuchKey"),
            ("412 Precondition Failed", "PreconditionFailed"),
            ("409 Conflict", "ConditionalRequestConflict"),
            ("503 Slow Down", "SlowDown"),
            ("403 Forbidden", "RequestTimeTooSkewed"),
            ("301 Moved", "PermanentRedirect"),
            ("500 X", ""),
        ] {
            add(kind, &error(status, code));
        }
    }
    for kind in [3, 4] {
        for change in [
            object.replace("hello", "hello, longer"),
            object.replace("\n\nhello", "\ncontent-length: 9\n\nhello"),
            object.replace("200 OK", "206 Partial\ncontent-range: bytes 1-3/5"),
            object.replace(
                "200 OK",
                "206 Partial\ncontent-range: bytes 9-1/18446744073709551615",
            ),
            object.replace("Fri, 20", "Xxx, 99"),
            object.replace("\"abc\"", ""),
            object.replace("\n\nhello", "\nx-amz-checksum-crc32: AAAAAA==\n\nhello"),
            object.replace("200 OK", "100 Continue"),
            object.replace("200 OK", "999 Odd"),
            object.replace(
                "\n\nhello",
                "\ntransfer-encoding: chunked\n\n5\r\nhello\r\n0\r\n\r\n",
            ),
            object.replace("\n\nhello", "\ncontent-encoding: gzip\n\nhello"),
        ] {
            add(kind, &change);
        }
    }
    add(
        9,
        "200 OK\n\n<CopyObjectResult><ETag>\"a\"</ETag><LastModified>2026-11-20T12:00:00.000Z</LastModified></CopyObjectResult>",
    );
    add(9, "200 OK\n\n<Error><Code>InternalError</Code></Error>");
    add(
        10,
        "200 OK\n\n<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>",
    );
    add(
        10,
        "200 OK\n\n<InitiateMultipartUploadResult></InitiateMultipartUploadResult>",
    );
    add(
        11,
        "200 OK\n\n<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
    );
    add(
        11,
        "200 OK\n\n<LifecycleConfiguration><Rule><ID>r</ID><Status>Enabled</Status><Filter><Prefix>x</Prefix></Filter><Expiration><Days>1</Days></Expiration></Rule></LifecycleConfiguration>",
    );
    add(
        12,
        "200 OK\n\n<CompleteMultipartUploadResult><ETag>\"a-1\"</ETag></CompleteMultipartUploadResult>",
    );
    add(12, "200 OK\n\n<Error><Code>NoSuchUpload</Code></Error>");
    seeds
}

/// All of them.
pub(super) fn seeds() -> Vec<Seeds> {
    vec![journals(), logs(), starts(), archives(), answers()]
}
