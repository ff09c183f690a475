//! Reading one snapshot: the reader session as its client sees it. Nothing is handed on unchecked: files against the
//! manifest, the manifest against its signature if there is a key (none there is a warning), chunks against CRC and
//! digest.
//!
//! Chunks are fetched side by side, at most [`CHUNKS_IN_FLIGHT_MAX`] and [`BYTES_IN_FLIGHT_MAX`], and delivered in order.

use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use http::Method;
use pbs_datastore::index::INDEX_BYTES_MAX;
use pbs_datastore::{
    ArchiveName, CHUNK_BYTES_MAX, CHUNK_ENCODED_BYTES_MAX, CryptKey, CryptMode, DataBlob, Digest,
    Index, IndexChunk, Manifest, ManifestFile, Namespace, SignatureCheck, Snapshot,
};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::http::{H2, Parts, query};
use super::progress::Progress;
use super::session::{Session, Upgrade};

/// Chunks asked for and not delivered yet.
const CHUNKS_IN_FLIGHT_MAX: usize = 16;
/// Their bytes before encoding; one chunk is always allowed.
const BYTES_IN_FLIGHT_MAX: u64 = 64 << 20;

/// An open reader session.
pub(crate) struct BackupReader {
    h2: H2,
    manifest: Manifest,
    key: Option<Arc<CryptKey>>,
}

impl BackupReader {
    /// Opens the session and reads the manifest. With a key its signature is checked; a manifest that neither has one nor
    /// claims to be protected is told to `progress` as a warning, since a server could have put it in the place of another.
    ///
    /// # Errors
    /// The server's refusal; a manifest that is damaged or of another snapshot; one that was made with another key, has a
    /// wrong signature, or none although it lists files as protected.
    pub(crate) async fn begin(
        session: Session,
        namespace: &Namespace,
        snapshot: &Snapshot,
        key: Option<Arc<CryptKey>>,
        progress: &Progress,
    ) -> anyhow::Result<Self> {
        let h2 = session
            .upgrade(Upgrade::Reader, namespace, snapshot)
            .await?;
        let encoded = download(&h2, &ArchiveName::manifest(), CHUNK_ENCODED_BYTES_MAX).await?;
        let manifest = Manifest::parse(&DataBlob::parse(encoded)?)?;
        manifest.check_snapshot(snapshot)?;
        if let Some(key) = &key {
            check_signature(&manifest, key, progress)?;
        }
        Ok(Self { h2, manifest, key })
    }

    /// The file that a person means by `name`: its full name, or that without the last extension.
    ///
    /// # Errors
    /// Names the files there are.
    pub(crate) fn find(&self, name: &str) -> anyhow::Result<&ManifestFile> {
        let files = self.manifest.files();
        let found = files.iter().find(|file| {
            let full = file.name.as_str();
            full == name || full.rsplit_once('.').is_some_and(|(stem, _)| stem == name)
        });
        found.with_context(|| {
            let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
            format!(
                "{} has no archive '{name}'; it has {}",
                self.manifest.snapshot(),
                names.join(", ")
            )
        })
    }

    /// The key for a file that needs one.
    fn key_for(&self, file: &ManifestFile) -> anyhow::Result<Option<Arc<CryptKey>>> {
        match (file.crypt_mode, &self.key) {
            (CryptMode::Encrypt, None) => {
                let which = self
                    .manifest
                    .key_fingerprint()
                    .map(|key| format!(" {key}"))
                    .unwrap_or_default();
                bail!(
                    "{} is encrypted: give --keyfile with the key{which}",
                    file.name
                )
            }
            (CryptMode::Encrypt, key) => Ok(key.clone()),
            _ => Ok(None),
        }
    }

    /// The contents of a blob.
    pub(crate) async fn blob(&self, file: &ManifestFile) -> anyhow::Result<Bytes> {
        let key = self.key_for(file)?;
        let encoded = download(&self.h2, &file.name, CHUNK_ENCODED_BYTES_MAX).await?;
        let right_size = encoded.len() as u64 == file.size;
        ensure!(
            right_size && file.csum.is_none_or(|csum| csum == Digest::of(&encoded)),
            not_as_listed(file)
        );
        let blob = DataBlob::parse(encoded)?;
        blob.verify_crc()?;
        // A plain blob in the place of an encrypted one was put there by somebody without the key.
        ensure!(blob.is_encrypted() == key.is_some(), not_as_listed(file));
        blob.decode(CHUNK_BYTES_MAX, key.as_deref())
            .with_context(|| file.name.to_string())
    }

    /// An index, as the manifest lists it.
    pub(crate) async fn index(&self, file: &ManifestFile) -> anyhow::Result<Index> {
        let bytes = download(&self.h2, &file.name, INDEX_BYTES_MAX).await?;
        let index = Index::parse(file.name.kind(), bytes).with_context(|| file.name.to_string())?;
        ensure!(
            file.csum == Some(index.csum()) && index.size() == file.size,
            not_as_listed(file)
        );
        Ok(index)
    }

    /// Delivers the contents of `index`, the archive `file`, to `sink`, chunk by chunk in order. Ends early, without an
    /// error, when the receiver is gone: it knows why.
    pub(crate) async fn read(
        &self,
        file: &ManifestFile,
        index: &Index,
        sink: mpsc::Sender<Bytes>,
    ) -> anyhow::Result<()> {
        let key = self.key_for(file)?;
        let mut left = index.chunks();
        let mut next = left.next();
        let mut fetching = FuturesOrdered::new();
        let mut sizes = VecDeque::new();
        let mut in_flight = 0;
        loop {
            while let Some(chunk) = next.take() {
                let full = in_flight + chunk.len() > BYTES_IN_FLIGHT_MAX
                    || fetching.len() >= CHUNKS_IN_FLIGHT_MAX;
                if full && !fetching.is_empty() {
                    next = Some(chunk);
                    break;
                }
                in_flight += chunk.len();
                sizes.push_back(chunk.len());
                fetching.push_back(self.fetch(chunk, key.clone()));
                next = left.next();
            }
            let Some(content) = fetching.next().await else {
                return Ok(());
            };
            in_flight -= sizes.pop_front().unwrap_or(0);
            if sink.send(content?).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn fetch(&self, chunk: IndexChunk, key: Option<Arc<CryptKey>>) -> anyhow::Result<Bytes> {
        let target = format!("/chunk?{}", query(&[("digest", chunk.digest.to_string())]));
        let answer = self.h2.send(
            Method::GET,
            &target,
            Parts::empty(),
            CHUNK_ENCODED_BYTES_MAX,
        );
        let encoded = answer
            .await
            .with_context(|| format!("chunk {} cannot be read", chunk.digest))?;
        let decoded = spawn_blocking(move || decode(encoded, &chunk, key.as_deref()));
        decoded
            .await?
            .with_context(|| format!("chunk {} is damaged", chunk.digest))
    }
}

fn check_signature(manifest: &Manifest, key: &CryptKey, progress: &Progress) -> anyhow::Result<()> {
    let (snapshot, ours) = (manifest.snapshot(), key.fingerprint());
    if let Some(theirs) = manifest.key_fingerprint().filter(|theirs| *theirs != ours) {
        bail!("{snapshot} was made with the key {theirs}, the given one is {ours}");
    }
    let protected = manifest
        .files()
        .iter()
        .any(|file| file.crypt_mode != CryptMode::None);
    match manifest.verify_signature(key) {
        SignatureCheck::Valid => {}
        SignatureCheck::Invalid => {
            bail!("the signature of {snapshot} is wrong: its manifest was changed after it was made")
        }
        SignatureCheck::Absent if protected => {
            bail!("the signature of {snapshot} is missing: its manifest was changed after it was made")
        }
        SignatureCheck::Absent => progress.warn(&format!(
            "{snapshot} is neither encrypted nor signed, so the given key proves nothing: if it was made with a key, it is not what was backed up"
        )),
    }
    Ok(())
}

fn not_as_listed(file: &ManifestFile) -> String {
    format!(
        "{} is not what the manifest lists: it is damaged or was replaced",
        file.name
    )
}

async fn download(h2: &H2, name: &ArchiveName, bytes_max: usize) -> anyhow::Result<Bytes> {
    let target = format!("/download?{}", query(&[("file-name", name.to_string())]));
    let answer = h2.send(Method::GET, &target, Parts::empty(), bytes_max);
    answer
        .await
        .with_context(|| format!("{name} cannot be read"))
}

/// The part of the archive that is in a chunk.
fn decode(encoded: Bytes, chunk: &IndexChunk, key: Option<&CryptKey>) -> anyhow::Result<Bytes> {
    let blob = DataBlob::parse(encoded)?;
    blob.verify_crc()?;
    ensure!(
        blob.is_encrypted() == key.is_some(),
        "it is encrypted in another way than the manifest says"
    );
    let content = blob.decode(CHUNK_BYTES_MAX, key)?;
    let digest = key.map_or_else(|| Digest::of(&content), |key| key.chunk_digest(&content));
    ensure!(
        digest == chunk.digest,
        "its contents have the digest {digest}"
    );
    // The last chunk of an image may be longer than the image.
    ensure!(
        content.len() as u64 >= chunk.len(),
        "it is shorter than the index says"
    );
    Ok(content.slice(..chunk.len() as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(crypt_mode: CryptMode) -> Manifest {
        let file = ManifestFile {
            name: "root.tar.didx".parse().expect("a name"),
            crypt_mode,
            size: 0,
            csum: Some(Digest::of(b"")),
        };
        let snapshot = "host/a/2023-11-14T22:13:20Z".parse().expect("a snapshot");
        Manifest::new(snapshot, vec![file]).expect("a manifest")
    }

    #[test]
    fn a_key_proves_nothing_without_a_signature() {
        let key = CryptKey::new([7; 32]);
        let check = |manifest: &Manifest| {
            let progress = Progress::silent();
            let result = check_signature(manifest, &key, &progress);
            (result.is_ok(), progress.warnings())
        };
        assert_eq!(check(&manifest(CryptMode::None)), (true, 1));
        assert_eq!(check(&manifest(CryptMode::Encrypt)), (false, 0));
        for mode in [CryptMode::None, CryptMode::SignOnly, CryptMode::Encrypt] {
            let mut signed = manifest(mode);
            signed.sign(&key);
            assert_eq!(check(&signed), (true, 0));
            let mut other = manifest(mode);
            other.sign(&CryptKey::new([8; 32]));
            assert_eq!(check(&other), (false, 0));
        }
    }
}
