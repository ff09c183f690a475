//! Files of the format. Where a checksum or a tag would stop nearly every input, the input is read a second time with it
//! put right.

use std::collections::BTreeSet;
use std::time::Instant;

use bytes::Bytes;
use pbs_datastore::{
    ArchiveKind, CHUNK_BYTES_MAX, Catalog, CatalogKind, CatalogTable, CryptKey, DataBlob, Digest,
    DynamicIndex, FixedIndex, Index, KeyFile, MANIFEST_BYTES_MAX, Manifest, SignatureCheck,
    VerifyOutcome, VerifyState,
};

/// What contents may grow to here: a thousandth of what a hostile frame can claim.
const CONTENTS_BYTES_MAX: usize = 1 << 20;
/// Tables of a catalog that are read.
const TABLES_MAX: usize = 256;
/// Work of a key file's derivation that fits into the time of an input; more is refused or slow by intent.
const ROUNDS_MAX: u64 = 10_000;

fn key() -> CryptKey {
    CryptKey::new([7; 32])
}

/// A blob: what is recognised is the same bytes again; what is decoded is bounded, and encoded again says the same.
pub(super) fn blob(data: &[u8]) {
    let Ok(blob) = DataBlob::parse(Bytes::copy_from_slice(data)) else {
        return;
    };
    assert_eq!(blob.encoded(), data, "a blob is the bytes it was read from");
    assert_eq!(blob.encoded_len(), data.len());
    decoded(&blob);
    let mended = blob.with_computed_crc();
    mended.verify_crc().expect("it was put right");
    decoded(&mended);
    let (header, payload) = mended.parts();
    let again = DataBlob::parse([header, payload].concat().into()).expect("a blob");
    assert_eq!(again.encoded(), mended.encoded());
    if again.is_encrypted() {
        // The key's own tag, so that what lies behind the cipher is reached.
        let plain = payload_as_plain(&again);
        let sealed = DataBlob::encode(plain.clone(), false, Some(&key()), [3; 16]).expect("short");
        let opened = sealed.decode(CHUNK_BYTES_MAX, Some(&key())).expect("ours");
        assert_eq!(opened, plain);
    }
}

fn payload_as_plain(blob: &DataBlob) -> Bytes {
    blob.parts().1
}

fn decoded(blob: &DataBlob) {
    let key = key();
    if let Ok(contents) = blob.decode(CONTENTS_BYTES_MAX, Some(&key)) {
        assert!(
            contents.len() <= CONTENTS_BYTES_MAX,
            "more than was asked for"
        );
        let again = DataBlob::encode(contents.clone(), true, Some(&key), [9; 16]).expect("short");
        assert_eq!(
            again.decode(CONTENTS_BYTES_MAX, Some(&key)).as_ref(),
            Ok(&contents)
        );
        if !blob.is_encrypted() {
            let digest = Digest::of(&contents);
            blob.verify_chunk(&digest, Some(contents.len() as u64))
                .expect("its own digest and length");
            assert!(
                blob.verify_chunk(&digest, Some(contents.len() as u64 + 1))
                    .is_err(),
                "another length"
            );
            assert!(
                blob.verify_chunk(&Digest([0; 32]), None).is_err(),
                "another digest"
            );
        }
    }
    let _ = blob.verify_chunk(&Digest([0; 32]), None);
}

/// A fixed index: parts lie side by side and fill the image; written again it is the same but for the header's free parts.
pub(super) fn fixed_index(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let Ok(index) = FixedIndex::parse(bytes) else {
        return;
    };
    assert_eq!(index.as_bytes(), data);
    let digests: Vec<Digest> = (0..index.len())
        .map(|i| index.chunk(i).expect("there").digest)
        .collect();
    let again = FixedIndex::encode(
        &index.uuid(),
        index.ctime(),
        index.size(),
        index.chunk_size(),
        &digests,
    );
    let again = again.expect("its own parts");
    assert_eq!(again[4096..], data[4096..]);
    let again = FixedIndex::parse(again).expect("ours");
    assert_eq!((again.csum(), again.size()), (index.csum(), index.size()));
    assert_eq!(again.header_csum(), again.csum());
    covers(&index.into());
}

/// A dynamic index, likewise.
pub(super) fn dynamic_index(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let Ok(index) = DynamicIndex::parse(bytes) else {
        return;
    };
    assert_eq!(index.as_bytes(), data);
    let entries: Vec<(u64, Digest)> = (0..index.len())
        .map(|i| {
            index
                .chunk(i)
                .map(|chunk| (chunk.end, chunk.digest))
                .expect("there")
        })
        .collect();
    let again =
        DynamicIndex::encode(&index.uuid(), index.ctime(), &entries).expect("its own parts");
    assert_eq!(again[4096..], data[4096..]);
    let again = DynamicIndex::parse(again).expect("ours");
    assert_eq!((again.csum(), again.size()), (index.csum(), index.size()));
    covers(&index.into());
}

fn covers(index: &Index) {
    let mut end = 0;
    for (i, chunk) in index.chunks().enumerate() {
        assert_eq!(chunk.start, end, "chunks lie side by side");
        assert!(chunk.end > chunk.start && chunk.end - chunk.start <= CHUNK_BYTES_MAX as u64);
        assert_eq!(index.chunk_at(chunk.start), Some(i));
        assert_eq!(index.chunk_at(chunk.end - 1), Some(i));
        assert_eq!(index.range(i), Some(chunk.start..chunk.end));
        end = chunk.end;
    }
    assert_eq!(end, index.size(), "chunks fill the archive");
    assert_eq!(index.chunk_at(end), None);
    assert_eq!(index.chunk(index.len()), None);
    for range in [
        0..end,
        0..u64::MAX,
        end / 2..end / 2 + 1,
        end..u64::MAX,
        end / 2..end / 2,
    ] {
        let covering = index.covering(range.clone());
        assert!(covering.end <= index.len());
        if range.start < range.end.min(end) {
            let (first, last) = (covering.start, covering.end - 1);
            assert!(index.range(first).expect("there").contains(&range.start));
            assert!(
                index
                    .range(last)
                    .expect("there")
                    .contains(&(range.end.min(end) - 1))
            );
        } else {
            assert!(covering.is_empty());
        }
    }
    for kind in [ArchiveKind::Fixed, ArchiveKind::Dynamic, ArchiveKind::Blob] {
        let _ = Index::parse(kind, index.as_bytes().clone());
    }
}

/// A manifest as JSON or as a blob: written again it says the same; signing it makes a signature that holds, and what is not
/// protected may change under it.
pub(super) fn manifest(data: &[u8]) {
    if let Ok(blob) = DataBlob::parse(Bytes::copy_from_slice(data)) {
        if let Ok(manifest) = Manifest::parse(&blob.with_computed_crc()) {
            said_again(manifest);
        }
        return;
    }
    if let Ok(manifest) = Manifest::from_json(data) {
        said_again(manifest);
    }
}

fn said_again(mut manifest: Manifest) {
    let _ = manifest.verify_signature(&key());
    let _ = (
        manifest.size(),
        manifest.notes(),
        manifest.chunk_upload_stats(),
        manifest.key_fingerprint(),
    );
    let names: BTreeSet<_> = manifest.files().iter().map(|file| &file.name).collect();
    assert_eq!(names.len(), manifest.files().len(), "no name comes twice");
    for file in manifest.files().iter().take(64) {
        assert!(!file.name.is_manifest());
        assert_eq!(manifest.file(&file.name), Some(file));
    }
    let Ok(blob) = manifest.to_blob() else {
        // Indented it may be longer than is allowed.
        return;
    };
    let again = Manifest::parse(&blob).expect("our own");
    assert_eq!(again, manifest, "a manifest that is stored is the same");
    manifest.sign(&key());
    manifest.set_notes("noted");
    manifest.set_verify_state(Some(&VerifyState {
        upid: "UPID".to_owned(),
        state: VerifyOutcome::Failed,
    }));
    let Ok(blob) = manifest.to_blob() else { return };
    assert!(blob.encoded_len() <= MANIFEST_BYTES_MAX + 44);
    let again = Manifest::parse(&blob).expect("our own");
    assert_eq!(again.verify_signature(&key()), SignatureCheck::Valid);
    assert_eq!(
        again.verify_signature(&CryptKey::new([8; 32])),
        SignatureCheck::Invalid
    );
    assert_eq!(
        (again.notes(), again.snapshot()),
        ("noted", manifest.snapshot())
    );
    assert_eq!(again.files(), manifest.files());
}

/// A key file: written again it is the same, and shows nothing of its key. One that asks for much work is not unlocked.
pub(super) fn key_file(data: &[u8]) {
    let Ok(file) = KeyFile::parse(data) else {
        return;
    };
    let text = file.to_json();
    let again = KeyFile::parse(text.as_bytes()).expect("our own");
    assert_eq!(again, file);
    assert!(format!("{file:?}").len() < 200, "a key file is shown");
    if affordable(&text) {
        let key = file.unlock(Some("secret"));
        if let (Ok(key), Some(claimed)) = (&key, file.fingerprint()) {
            assert_eq!(
                key.fingerprint(),
                claimed,
                "a key with another fingerprint is handed out"
            );
        }
        let _ = file.unlock(None);
    } else {
        // However much it asks for, saying no is cheap where the bounds say no; nothing else is tried.
        let began = now();
        if !file.is_locked() {
            let _ = file.unlock(None);
        }
        assert!(began.elapsed().as_secs() < 60);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the time an input takes is real time"
)]
fn now() -> Instant {
    Instant::now()
}

fn affordable(text: &str) -> bool {
    let value: serde_json::Value = serde_json::from_str(text).expect("our own");
    let kdf = &value["kdf"];
    let number = |value: &serde_json::Value| value.as_u64().unwrap_or(0);
    let scrypt = &kdf["Scrypt"];
    let work = number(&scrypt["n"])
        .saturating_mul(number(&scrypt["r"]).max(1))
        .saturating_mul(number(&scrypt["p"]).max(1));
    work <= ROUNDS_MAX && number(&kdf["PBKDF2"]["iter"]) <= ROUNDS_MAX
}

/// A catalog: tables end, no entry leads in circles, and entries are no more than there are bytes.
pub(super) fn catalog(data: &[u8]) {
    let Ok(catalog) = Catalog::parse(Bytes::copy_from_slice(data)) else {
        return;
    };
    let mut open = vec![(catalog.root(), 0_usize)];
    let mut tables = 0;
    while let Some((table, depth)) = open.pop() {
        tables += 1;
        if tables > TABLES_MAX {
            return;
        }
        assert!(depth <= data.len(), "a catalog leads in circles");
        let Ok(entries) = catalog.entries(table) else {
            continue;
        };
        assert!(entries.len() <= data.len(), "more entries than bytes");
        for entry in &entries {
            assert!(
                !entry.name.is_empty() && !entry.name.contains(&b'/') && &entry.name[..] != b".."
            );
            let _ = entry.kind.letter();
            if let CatalogKind::Directory(child) = entry.kind {
                open.push((child, depth + 1));
            }
        }
        found(
            &catalog,
            table,
            entries.first().map(|entry| entry.name.clone()),
        );
    }
}

fn found(catalog: &Catalog, table: CatalogTable, name: Option<Bytes>) {
    if let Some(name) = name {
        let entry = catalog.find(table, &name).expect("read before");
        assert_eq!(entry.expect("the first of that name").name, name);
    }
}
