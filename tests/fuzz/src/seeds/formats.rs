//! Files of the format, right and nearly right.

use bytes::Bytes;
use pbs_datastore::{
    ArchiveName, BlobKind, CATALOG_MAGIC, ChunkUploadStats, CryptKey, CryptMode, DataBlob, Digest,
    DynamicIndex, FixedIndex, KeyFile, KeyLock, Manifest, ManifestFile, VerifyOutcome, VerifyState,
};
use uuid::Uuid;

use super::Seeds;

fn key() -> CryptKey {
    CryptKey::new([7; 32])
}

fn encoded(content: &[u8], compress: bool, key: Option<&CryptKey>) -> Vec<u8> {
    let blob = DataBlob::encode(Bytes::copy_from_slice(content), compress, key, [5; 16]);
    blob.expect("short").encoded().to_vec()
}

fn blobs() -> Seeds {
    let mut seeds = Seeds::of("blob");
    let text = b"content of a blob ".repeat(20);
    let key = key();
    seeds
        .add("plain", encoded(&text, false, None))
        .add("compressed", encoded(&text, true, None))
        .add("encrypted", encoded(&text, false, Some(&key)))
        .add("encrypted-compressed", encoded(&text, true, Some(&key)))
        .add("empty", encoded(b"", false, None))
        .add("zeroes", encoded(&vec![0; 100_000], true, None));
    for kind in BlobKind::ALL {
        seeds.add(
            &format!("bare-{kind:?}"),
            [&kind.magic()[..], &[0; 40]].concat(),
        );
    }
    // A frame that claims to hold terabytes, and one whose window does.
    let claim = [
        &BlobKind::Zstd.magic()[..],
        &[0; 4],
        &[0x28, 0xb5, 0x2f, 0xfd, 0xe0],
        &[0xff; 8],
        &[1, 0, 0],
    ]
    .concat();
    seeds.add("frame-claims-much", claim);
    let window = [
        &BlobKind::Zstd.magic()[..],
        &[0; 4],
        &[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 1, 0, 0],
    ]
    .concat();
    seeds.add("frame-large-window", window);
    // Blocks of one repeated byte: 128 KiB from four bytes each.
    let mut bomb = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
    for _ in 0..200 {
        bomb.extend_from_slice(&[0x02, 0x00, 0x10, b'A']);
    }
    bomb.extend_from_slice(&[0x03, 0x00, 0x10, b'A']);
    seeds.add(
        "frame-bomb",
        [&BlobKind::Zstd.magic()[..], &[0; 4], &bomb].concat(),
    );
    let two = zstd_twice(&text);
    seeds.add("frame-twice", two);
    seeds
}

/// A blob with two frames one after the other.
fn zstd_twice(text: &[u8]) -> Vec<u8> {
    let one = encoded(text, true, None);
    [&one[..], &one[12..]].concat()
}

fn indexes() -> [Seeds; 2] {
    let digests: Vec<Digest> = (0..3_u8).map(|i| Digest([i; 32])).collect();
    let uuid = Uuid::from_bytes([6; 16]);
    let fixed = |size, chunk, digests: &[Digest]| {
        FixedIndex::encode(&uuid, 1_700_000_000, size, chunk, digests).expect("an index")
    };
    let mut first = Seeds::of("fixed-index");
    let whole = fixed(3 << 22, 4 << 20, &digests);
    let field = |at: usize, value: u64| {
        let mut bytes = whole.to_vec();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    first
        .add("three", &whole)
        .add("partial", fixed((2 << 22) + 1, 4 << 20, &digests))
        .add("empty", fixed(0, 4 << 20, &[]))
        .add("small-chunks", fixed(5, 2, &digests))
        .add("cut-off", &whole[..whole.len() - 1])
        .add("header-only", &whole[..4096])
        .add("size-huge", field(64, u64::MAX))
        .add("size-top", field(64, 1 << 63))
        .add("chunk-zero", field(72, 0))
        .add("chunk-huge", field(72, 1 << 63))
        .add("chunk-one", field(72, 1));
    let mut second = Seeds::of("dynamic-index");
    let entries = [
        (1 << 20, digests[0]),
        (5 << 20, digests[1]),
        ((5 << 20) + 1, digests[2]),
    ];
    let whole = DynamicIndex::encode(&uuid, -1, &entries).expect("an index");
    let end = |i: usize, value: u64| {
        let mut bytes = whole.to_vec();
        let at = 4096 + 40 * i;
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    second
        .add("three", &whole)
        .add(
            "empty",
            DynamicIndex::encode(&uuid, 0, &[]).expect("an index"),
        )
        .add("cut-off", &whole[..whole.len() - 1])
        .add("back", end(1, 5))
        .add("same", end(1, 1 << 20))
        .add("end-huge", end(2, u64::MAX))
        .add("too-long", end(0, 17 << 20));
    [first, second]
}

fn manifests() -> Seeds {
    let mut seeds = Seeds::of("manifest");
    let file = |name: &str, crypt_mode| ManifestFile {
        name: name.parse::<ArchiveName>().expect("a name"),
        crypt_mode,
        size: 4711,
        csum: Some(Digest([1; 32])),
    };
    let files = vec![
        file("root.pxar.didx", CryptMode::None),
        file("disk.img.fidx", CryptMode::Encrypt),
        file("qemu.conf.blob", CryptMode::SignOnly),
    ];
    let snapshot = "vm/100/2026-11-20T12:00:00Z".parse().expect("a snapshot");
    let mut manifest = Manifest::new(snapshot, files).expect("no name comes twice");
    let json = |manifest: &Manifest| {
        let blob = manifest.to_blob().expect("short");
        blob.decode(1 << 20, None).expect("plain").to_vec()
    };
    seeds.add("unsigned", json(&manifest));
    manifest.sign(&key());
    manifest.set_notes("line\nsecond line");
    manifest.set_chunk_upload_stats(&ChunkUploadStats::default());
    manifest.set_verify_state(Some(&VerifyState {
        upid: "UPID:pbs:00000001:00000002:00000003:00000004:verify:one:root@pam:".to_owned(),
        state: VerifyOutcome::Ok,
    }));
    let text = json(&manifest);
    seeds
        .add("signed", &text)
        .add("signed-blob", manifest.to_blob().expect("short").encoded())
        .add("plain-blob", encoded(&text, false, None))
        .add("encrypted-blob", encoded(&text, true, Some(&key())));
    let head = r#"{"backup-type":"host","backup-id":"a","backup-time":1"#;
    for (name, rest) in [
        ("no-files", "}".to_owned()),
        ("files-twice", r#","files":[{"filename":"a.blob","size":1,"csum":""},{"filename":"a.blob","size":1,"csum":""}]}"#.to_owned()),
        ("lists-itself", r#","files":[{"filename":"index.json.blob","size":1,"csum":""}]}"#.to_owned()),
        ("floats", r#","files":[],"more":{"a":[1.5,{"b":1e400}]}}"#.to_owned()),
        ("deep", format!(r#","files":[],"more":{}{}}}"#, "[".repeat(120), "]".repeat(120))),
        ("deeper", format!(r#","files":[],"more":{}{}}}"#, "[".repeat(5000), "]".repeat(5000))),
        ("members-twice", r#","backup-id":"b","files":[],"files":[]}"#.to_owned()),
        ("surrogates", r#","files":[],"more":"\ud800\udc00 \u0000"}"#.to_owned()),
        ("unprotected-text", r#","files":[],"unprotected":"x"}"#.to_owned()),
        ("unprotected-odd", r#","files":[],"unprotected":{"notes":7,"verify_state":[],"chunk_upload_stats":{"count":-1}}}"#.to_owned()),
        ("sizes-overflow", r#","files":[{"filename":"a.didx","size":18446744073709551615,"csum":"0000000000000000000000000000000000000000000000000000000000000000"},{"filename":"b.didx","size":18446744073709551615,"csum":"0000000000000000000000000000000000000000000000000000000000000000"}]}"#.to_owned()),
    ] {
        seeds.add(name, format!("{head}{rest}"));
    }
    manifest_bombs(&mut seeds);
    seeds
}

/// Manifests of nearly the largest length, which compressed are short: what they take in memory decides.
fn manifest_bombs(seeds: &mut Seeds) {
    let head = r#"{"backup-type":"host","backup-id":"a","backup-time":1,"files":["#;
    for (name, one, within) in [
        ("arrays", "[0],", "more"),
        ("objects", "{\"\":0},", "more"),
        ("numbers", "0,", "unprotected-more"),
    ] {
        let many = one.repeat((4 << 20) / one.len() - 40);
        let text = format!("{head}],\"{within}\":[{}]}}", many.trim_end_matches(','));
        seeds.add(
            &format!("bomb-{name}"),
            encoded(text.as_bytes(), true, None),
        );
    }
    let file = |i: usize| format!("{{\"filename\":\"{i}.blob\",\"size\":0,\"csum\":\"\"}},");
    let many: String = (0..80_000).map(file).collect();
    let text = format!("{head}{}]}}", many.trim_end_matches(','));
    seeds.add("bomb-files", encoded(text.as_bytes(), true, None));
}

fn key_files() -> Seeds {
    let mut seeds = Seeds::of("key-file");
    let plain = KeyFile::new(
        &key(),
        None,
        Some("hint".to_owned()),
        jiff::Timestamp::UNIX_EPOCH,
    )
    .expect("a key file");
    let lock = KeyLock {
        passphrase: "secret",
        salt: [1; 32],
        iv: [2; 16],
    };
    let locked =
        KeyFile::new(&key(), Some(&lock), None, jiff::Timestamp::UNIX_EPOCH).expect("a key file");
    let cheap = plain.to_json().replace(
        "\"kdf\":null",
        r#""kdf":{"Scrypt":{"n":16,"r":1,"p":1,"salt":"AQID"}}"#,
    );
    seeds
        .add("plain", plain.to_json())
        .add("locked", locked.to_json())
        .add("cheap", &cheap)
        .add(
            "cheap-long",
            cheap.replace(
                "\"data\":\"",
                "\"data\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            ),
        )
        .add(
            "rounds",
            plain
                .to_json()
                .replace("\"kdf\":null", r#""kdf":{"PBKDF2":{"iter":7,"salt":""}}"#),
        )
        .add(
            "rounds-many",
            plain.to_json().replace(
                "\"kdf\":null",
                r#""kdf":{"PBKDF2":{"iter":4294967295,"salt":""}}"#,
            ),
        )
        .add(
            "memory-much",
            plain.to_json().replace(
                "\"kdf\":null",
                r#""kdf":{"Scrypt":{"n":18446744073709551615,"r":8,"p":1,"salt":""}}"#,
            ),
        );
    seeds
}

fn number(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn table(entries: &[Vec<u8>]) -> Vec<u8> {
    let body = [number(entries.len() as u64), entries.concat()].concat();
    [number(body.len() as u64), body].concat()
}

fn entry(kind: u8, name: &str, rest: &[u8]) -> Vec<u8> {
    [
        &[kind],
        &number(name.len() as u64)[..],
        name.as_bytes(),
        rest,
    ]
    .concat()
}

fn catalogs() -> Seeds {
    let mut seeds = Seeds::of("catalog");
    let files = table(&[
        entry(
            b'f',
            "file",
            &[number(1 << 40), number(1_700_000_000)].concat(),
        ),
        entry(b'f', "old", &[number(5), vec![0x85, 0x80, 0]].concat()),
        entry(b'l', "link", b""),
        entry(b'h', "hard", b""),
        entry(b'b', "block", b""),
        entry(b'c', "char", b""),
        entry(b'p', "pipe", b""),
        entry(b's', "socket", b""),
    ]);
    let whole =
        |root: &[u8], at: u64| [&CATALOG_MAGIC[..], &files, root, &at.to_le_bytes()].concat();
    let at = 8 + files.len() as u64;
    let root = |distance: u64| table(&[entry(b'd', "root.pxar.didx", &number(distance))]);
    seeds
        .add("tree", whole(&root(files.len() as u64), at))
        .add("to-itself", whole(&root(0), at))
        .add("before-all", whole(&root(at + 1), at))
        .add("into-the-middle", whole(&root(3), at))
        .add("root-at-end", whole(&root(1), u64::MAX))
        .add("root-in-magic", whole(&root(1), 0))
        .add(
            "many-entries",
            whole(
                &[vec![6], number(u64::MAX >> 30), vec![b'l', 1, b'a']].concat(),
                at,
            ),
        )
        .add("endless-number", whole(&[0x80; 30], at))
        .add("bare", CATALOG_MAGIC);
    seeds
}

/// All of them.
pub(super) fn seeds() -> Vec<Seeds> {
    let [fixed, dynamic] = indexes();
    vec![
        blobs(),
        fixed,
        dynamic,
        manifests(),
        key_files(),
        catalogs(),
    ]
}
