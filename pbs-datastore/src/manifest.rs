//! `index.json.blob`: what a snapshot consists of. Its creation is what makes a snapshot one.
//!
//! The client writes the manifest and may sign it; the daemon changes nothing but `unprotected`, which no signature
//! covers: statistics, notes, the result of the last verification. Everything else, members of unknown names among it,
//! is kept value by value. A number that is no integer could not be kept exactly and has no canonical form, so it is
//! refused outside `unprotected`.
//!
//! Signature: HMAC over the *canonical* text of all members but `signature` and `unprotected`: no white space, members
//! sorted by the bytes of their names, arrays in order.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::blob::{BlobError, DataBlob};
use crate::crypt::{CryptKey, CryptMode, Fingerprint};
use crate::json::json_values_at_most;
use crate::safe_id::NameError;
use crate::{ArchiveKind, ArchiveName, BackupGroup, BackupTime, Digest, Index, Snapshot};

/// Longest manifest before encoding: 4 MiB, some ten thousand files.
pub const MANIFEST_BYTES_MAX: usize = 4 << 20;

/// Most JSON values in a manifest; a file has five. A value of two bytes takes some hundred in memory, and compressed a
/// manifest full of them is a few hundred bytes long, so the length alone bounds little (I9).
const VALUES_MAX: usize = 1 << 17;
/// About what a map takes for each six of its members: a node of its tree, at least half full.
const NODE_BYTES: usize = 11 * (size_of::<String>() + size_of::<Value>()) + 16;

/// Why a blob is no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The blob itself is wrong.
    #[error("the manifest cannot be read: {0}")]
    Blob(#[from] BlobError),
    /// Manifests are never encrypted.
    #[error("the manifest is encrypted, which manifests never are")]
    Encrypted,
    /// The contents are no JSON object.
    #[error("the manifest is no JSON object: {0}")]
    Json(String),
    /// More values than [`VALUES_MAX`].
    #[error("the manifest holds more than {VALUES_MAX} values")]
    TooManyValues,
    /// A member that must be there is missing or has another type.
    #[error("the manifest's member '{0}' is missing or of the wrong type")]
    Member(&'static str),
    /// A name or time that is none.
    #[error("the manifest holds a wrong name: {0}")]
    Name(#[from] NameError),
    /// A file that lacks something or claims something impossible.
    #[error("the manifest's entry for '{0}' is incomplete or wrong")]
    File(ArchiveName),
    /// One name twice.
    #[error("the manifest lists '{0}' twice")]
    Twice(ArchiveName),
    /// The manifest cannot hold its own checksum.
    #[error("the manifest lists itself")]
    ListsItself,
    /// A number that cannot be kept exactly.
    #[error("the manifest holds a number that is no integer")]
    NotAnInteger,
    /// It describes another snapshot than the one it was found in.
    #[error("the manifest is that of {actual}, not of {expected}")]
    OtherSnapshot {
        /// Where it was found.
        expected: Snapshot,
        /// What it says.
        actual: Snapshot,
    },
}

/// One file of a snapshot, as its manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Its name, which also says what kind it is.
    pub name: ArchiveName,
    /// How its contents are protected.
    pub crypt_mode: CryptMode,
    /// Blobs: bytes of the encoded file. Indexes: bytes of the archive.
    pub size: u64,
    /// Blobs: SHA-256 of the encoded file. Indexes: checksum over the entries. `None` only for blobs of clients that
    /// leave it empty; then nothing but the size and the blob's own CRC can be checked.
    pub csum: Option<Digest>,
}

impl ManifestFile {
    fn parse(value: &Value) -> Result<Self, ManifestError> {
        let member = |name| value.get(name).filter(|value| !value.is_null());
        let name = member("filename").and_then(Value::as_str);
        let name = name
            .ok_or(ManifestError::Member("filename"))?
            .parse::<ArchiveName>()?;
        if name.is_manifest() {
            return Err(ManifestError::ListsItself);
        }
        let crypt_mode = member("crypt-mode").map(CryptMode::deserialize);
        let size = member("size").and_then(Value::as_u64);
        let csum = match member("csum").and_then(Value::as_str) {
            Some("") if name.kind() == ArchiveKind::Blob => Some(None),
            Some(text) => text.parse().ok().map(Some),
            None => None,
        };
        match (crypt_mode.unwrap_or(Ok(CryptMode::None)), size, csum) {
            (Ok(crypt_mode), Some(size), Some(csum)) => Ok(Self {
                name,
                crypt_mode,
                size,
                csum,
            }),
            _ => Err(ManifestError::File(name)),
        }
    }

    /// Says what is wrong with the stored bytes of this blob: another size or checksum, or a wrong CRC.
    pub(crate) fn check_blob(&self, stored: &Bytes) -> Result<(), String> {
        let size = stored.len() as u64;
        if size != self.size {
            return Err(format!(
                "it has {size} bytes, its manifest says {}",
                self.size
            ));
        }
        if self.csum.is_some_and(|csum| csum != Digest::of(stored)) {
            return Err("its checksum is not the one in the manifest".to_owned());
        }
        let blob = DataBlob::parse(stored.clone()).map_err(|error| error.to_string())?;
        blob.verify_crc().map_err(|error| error.to_string())
    }

    /// Says what is wrong with an index that is to be this one: another size or checksum.
    pub(crate) fn check_index(&self, index: &Index) -> Result<(), String> {
        if index.size() != self.size {
            return Err("its size is not the one in the manifest".to_owned());
        }
        match self.csum {
            Some(csum) if csum != index.csum() => {
                Err("its checksum is not the one in the manifest".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn to_value(&self) -> Value {
        serde_json::json!({
            "filename": self.name,
            "crypt-mode": self.crypt_mode,
            "size": self.size,
            "csum": self.csum.map(|csum| csum.to_string()).unwrap_or_default(),
        })
    }
}

/// What the upload of a snapshot came to; kept in `unprotected.chunk_upload_stats`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkUploadStats {
    /// Chunks that were sent.
    pub count: u64,
    /// Bytes before encoding.
    pub size: u64,
    /// Bytes as sent.
    pub compressed_size: u64,
    /// Chunks that were there already.
    pub duplicates: u64,
}

/// Whether a verification found everything in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifyOutcome {
    /// Every file and chunk was there and right.
    Ok,
    /// Something was missing or wrong.
    Failed,
}

/// The result of the last verification; kept in `unprotected.verify_state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyState {
    /// The task that verified; its text holds when.
    pub upid: String,
    /// What came of it.
    pub state: VerifyOutcome,
}

/// What a key says of a manifest's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureCheck {
    /// There is none.
    Absent,
    /// It was made with this key over this manifest.
    Valid,
    /// It was made with another key, or the manifest was changed since.
    Invalid,
}

/// A manifest: all its members as they came, and the meaning of those that are known.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    members: Map<String, Value>,
    snapshot: Snapshot,
    files: Vec<ManifestFile>,
}

impl Manifest {
    /// A new manifest, unsigned and with nothing unprotected. Fails for a name that comes twice.
    pub fn new(snapshot: Snapshot, files: Vec<ManifestFile>) -> Result<Self, ManifestError> {
        let members = serde_json::json!({
            "backup-type": snapshot.group.kind,
            "backup-id": snapshot.group.id,
            "backup-time": snapshot.time,
            "files": files.iter().map(ManifestFile::to_value).collect::<Vec<_>>(),
            "signature": null,
            "unprotected": {},
        });
        Self::of(members)
    }

    /// Reads an encoded manifest of at most [`MANIFEST_BYTES_MAX`] bytes before encoding. The blob's CRC is checked.
    pub fn parse(blob: &DataBlob) -> Result<Self, ManifestError> {
        if blob.is_encrypted() {
            return Err(ManifestError::Encrypted);
        }
        blob.verify_crc()?;
        Self::from_json(&blob.decode(MANIFEST_BYTES_MAX, None)?)
    }

    /// Reads the JSON text of a manifest.
    pub fn from_json(text: &[u8]) -> Result<Self, ManifestError> {
        if json_values_at_most(text) > VALUES_MAX {
            return Err(ManifestError::TooManyValues);
        }
        let members = serde_json::from_slice(text);
        Self::of(members.map_err(|error| ManifestError::Json(error.to_string()))?)
    }

    fn of(members: Value) -> Result<Self, ManifestError> {
        let Value::Object(members) = members else {
            return Err(ManifestError::Json("it is another JSON value".to_owned()));
        };
        let integers =
            |(name, value): (&String, &Value)| name == "unprotected" || holds_integers(value);
        if !members.iter().all(integers) {
            return Err(ManifestError::NotAnInteger);
        }
        let text = |name| {
            members
                .get(name)
                .and_then(Value::as_str)
                .ok_or(ManifestError::Member(name))
        };
        let group = BackupGroup::new(text("backup-type")?.parse()?, text("backup-id")?.parse()?);
        let time = members.get("backup-time").and_then(Value::as_i64);
        let time = BackupTime::new(time.ok_or(ManifestError::Member("backup-time"))?)?;
        let files = members.get("files").and_then(Value::as_array);
        let files = files
            .ok_or(ManifestError::Member("files"))?
            .iter()
            .map(ManifestFile::parse);
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let mut names: Vec<_> = files.iter().map(|file| &file.name).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ManifestError::Twice(pair[0].clone()));
        }
        let unprotected = members.get("unprotected");
        if unprotected.is_some_and(|value| !value.is_object() && !value.is_null()) {
            return Err(ManifestError::Member("unprotected"));
        }
        Ok(Self {
            snapshot: group.at(time),
            files,
            members,
        })
    }

    /// About how many bytes of memory it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let members = self.members.iter().map(memory_of).sum::<usize>();
        let nodes = self.members.len().div_ceil(6) * NODE_BYTES;
        let name = |file: &ManifestFile| file.name.as_str().len();
        let files = self.files.iter().map(name).sum::<usize>();
        members + nodes + files + self.files.len() * size_of::<ManifestFile>()
    }

    /// The manifest as it is stored: indented JSON, compressed, not encrypted.
    pub fn to_blob(&self) -> Result<DataBlob, ManifestError> {
        let text =
            serde_json::to_vec_pretty(&self.members).expect("JSON values always have a text");
        if text.len() > MANIFEST_BYTES_MAX {
            return Err(BlobError::ContentsTooLong(MANIFEST_BYTES_MAX).into());
        }
        Ok(DataBlob::encode(text.into(), true, None, [0; 16])?)
    }

    /// The snapshot it describes.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Fails unless it describes `expected`.
    pub fn check_snapshot(&self, expected: &Snapshot) -> Result<(), ManifestError> {
        if self.snapshot == *expected {
            return Ok(());
        }
        Err(ManifestError::OtherSnapshot {
            expected: expected.clone(),
            actual: self.snapshot.clone(),
        })
    }

    /// The files in the order of the manifest, without the manifest itself and the client's log.
    pub fn files(&self) -> &[ManifestFile] {
        &self.files
    }

    /// The file `name`.
    pub fn file(&self, name: &ArchiveName) -> Option<&ManifestFile> {
        self.files.iter().find(|file| file.name == *name)
    }

    /// The sizes of all files together, as lists show them.
    pub fn size(&self) -> u64 {
        self.files
            .iter()
            .fold(0, |sum, file| sum.saturating_add(file.size))
    }

    /// Whether there is a signature, right or not.
    pub fn is_signed(&self) -> bool {
        self.signature().is_some()
    }

    fn signature(&self) -> Option<&str> {
        self.members.get("signature").and_then(Value::as_str)
    }

    /// The text that is signed.
    pub fn canonical_json(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let signed = self
            .members
            .iter()
            .filter(|(name, _)| *name != "signature" && *name != "unprotected");
        write_canonical_object(signed, &mut text);
        text
    }

    /// Signs it, and names the key in `unprotected`.
    pub fn sign(&mut self, key: &CryptKey) {
        let signature = hex::encode(key.sign(&self.canonical_json()));
        self.members
            .insert("signature".to_owned(), signature.into());
        self.set("key-fingerprint", &key.fingerprint());
    }

    /// What `key` says of the signature.
    pub fn verify_signature(&self, key: &CryptKey) -> SignatureCheck {
        let Some(signature) = self.signature() else {
            return SignatureCheck::Absent;
        };
        match hex::decode(signature) {
            Ok(bytes) if key.verify(&self.canonical_json(), &bytes) => SignatureCheck::Valid,
            _ => SignatureCheck::Invalid,
        }
    }

    /// The statistics of the upload; `None` if absent or unreadable, like all that is unprotected.
    pub fn chunk_upload_stats(&self) -> Option<ChunkUploadStats> {
        ChunkUploadStats::deserialize(self.unprotected("chunk_upload_stats")?).ok()
    }

    /// Notes down the statistics of the upload.
    pub fn set_chunk_upload_stats(&mut self, stats: &ChunkUploadStats) {
        self.set("chunk_upload_stats", stats);
    }

    /// The key that was in use, if one was.
    pub fn key_fingerprint(&self) -> Option<Fingerprint> {
        self.unprotected("key-fingerprint")?.as_str()?.parse().ok()
    }

    /// The user's notes, empty if there are none.
    pub fn notes(&self) -> &str {
        self.unprotected("notes")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// Replaces the user's notes; empty ones are removed.
    pub fn set_notes(&mut self, notes: &str) {
        self.set("notes", &Some(notes).filter(|notes| !notes.is_empty()));
    }

    /// What the last verification came to.
    pub fn verify_state(&self) -> Option<VerifyState> {
        VerifyState::deserialize(self.unprotected("verify_state")?).ok()
    }

    /// Notes down, or forgets, the result of a verification.
    pub fn set_verify_state(&mut self, state: Option<&VerifyState>) {
        self.set("verify_state", &state);
    }

    /// Whether both say the same of what is in the snapshot: all but what is unprotected, and the signature.
    pub(crate) fn is_same_backup(&self, other: &Self) -> bool {
        self.signature() == other.signature() && self.canonical_json() == other.canonical_json()
    }

    /// Takes over what is unprotected from another manifest of the same backup.
    pub(crate) fn take_unprotected(&mut self, other: &Self) {
        match other.members.get("unprotected") {
            Some(theirs) => self
                .members
                .insert("unprotected".to_owned(), theirs.clone()),
            None => self.members.remove("unprotected"),
        };
    }

    fn unprotected(&self, name: &str) -> Option<&Value> {
        self.members.get("unprotected")?.get(name)
    }

    /// Sets a member of `unprotected`, or removes it if it is null.
    fn set(&mut self, name: &str, value: &impl Serialize) {
        let value = serde_json::to_value(value).expect("our own types have a JSON form");
        let unprotected = self.members.entry("unprotected").or_insert(Value::Null);
        if unprotected.is_null() {
            *unprotected = Value::Object(Map::new());
        }
        let members = unprotected
            .as_object_mut()
            .expect("made an object above, or checked when read");
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.to_owned(), value);
        }
    }
}

/// Whether all numbers in it are integers that we hold exactly.
fn holds_integers(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_i64() || number.is_u64(),
        Value::Array(values) => values.iter().all(holds_integers),
        Value::Object(members) => members.values().all(holds_integers),
        _ => true,
    }
}

fn write_canonical(value: &Value, text: &mut Vec<u8>) {
    match value {
        Value::Object(members) => write_canonical_object(members.iter(), text),
        Value::Array(values) => {
            text.push(b'[');
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    text.push(b',');
                }
                write_canonical(value, text);
            }
            text.push(b']');
        }
        plain => serde_json::to_writer(text, plain).expect("writing to memory does not fail"),
    }
}

/// Sorts by the bytes of the names, whatever order the map has.
fn write_canonical_object<'a>(
    members: impl Iterator<Item = (&'a String, &'a Value)>,
    text: &mut Vec<u8>,
) {
    let mut members: Vec<_> = members.collect();
    members.sort_unstable_by_key(|(name, _)| name.as_bytes());
    text.push(b'{');
    for (i, (name, value)) in members.into_iter().enumerate() {
        if i > 0 {
            text.push(b',');
        }
        serde_json::to_writer(&mut *text, name).expect("writing to memory does not fail");
        text.push(b':');
        write_canonical(value, text);
    }
    text.push(b'}');
}

/// A value with its name, and with all that it holds, beyond its place in the map.
fn memory_of((name, value): (&String, &Value)) -> usize {
    name.len() + memory_of_value(value)
}

fn memory_of_value(value: &Value) -> usize {
    let inside = match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(memory_of_value).sum(),
        Value::Object(members) => {
            let nodes = members.len().div_ceil(6) * NODE_BYTES;
            nodes + members.iter().map(memory_of).sum::<usize>()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    size_of::<Value>() + inside
}

#[cfg(test)]
mod tests;
