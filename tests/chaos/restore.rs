//! One restore, as a client of the protocol makes it: every byte is compared with the plan.

use bytes::Bytes;
use futures_util::stream::{FuturesOrdered, StreamExt as _};
use holdfast_tests::connection::{Connection, Entrance, Session, Trouble};
use http::Method;
use pbs_datastore::{
    ArchiveKind, CHUNK_BYTES_MAX, DataBlob, Index, IndexChunk, Manifest, Snapshot,
};

use super::backup::snapshot_parameters;
use super::content::Pool;
use super::ledger::Known;

const PROTOCOL: &str = "proxmox-backup-reader-protocol-v1";
/// Chunks asked for at once.
const IN_FLIGHT_MAX: usize = 4;

/// Which part of a snapshot is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// So many chunks from there on.
    Some {
        /// Place of the first.
        first: usize,
        /// How many at most.
        count: usize,
    },
}

/// Restores and compares. Returns how many bytes were compared.
pub(crate) async fn restore(
    entrance: &Entrance,
    store: &str,
    pool: &Pool,
    known: &Known,
    part: Part,
) -> Result<u64, Trouble> {
    let connection = Connection::open(entrance).await?;
    let mut parameters = snapshot_parameters(&known.id);
    parameters.push(("store", store.to_owned()));
    parameters.push(("debug", "false".to_owned()));
    let session = connection.upgrade("reader", PROTOCOL, &parameters).await?;
    let name = known.plan.shape.archive();
    let manifest = download(&session, "index.json.blob").await?;
    let index = download(&session, name).await?;
    let index = agreed(&known.id.snapshot, name, manifest, index)?;
    if index.len() != known.plan.pieces.len() {
        return Err(Trouble::Wrong(format!(
            "{} chunks instead of {}",
            index.len(),
            known.plan.pieces.len()
        )));
    }
    let (first, count) = match part {
        Part::Whole => (0, index.len()),
        Part::Some { first, count } => (first % index.len(), count),
    };
    let wanted = index.chunks().zip(&known.plan.pieces);
    let mut wanted = wanted.skip(first).take(count);
    let mut reads = FuturesOrdered::new();
    let mut compared = 0;
    loop {
        while reads.len() < IN_FLIGHT_MAX
            && let Some((chunk, piece)) = wanted.next()
        {
            let expected = (known.plan.shape, *piece);
            let read = fetch(&session, chunk);
            reads.push_back(async move { (read.await, chunk, expected) });
        }
        let Some((content, chunk, (shape, piece))) = reads.next().await else {
            return Ok(compared);
        };
        let (content, expected) = (content?, pool.piece(shape, piece));
        if content != expected {
            return Err(Trouble::Wrong(format!(
                "chunk {} at byte {} has other content",
                chunk.digest, chunk.start
            )));
        }
        compared += content.len() as u64;
    }
}

/// The index, if it is the one that the manifest of this snapshot lists.
fn agreed(
    snapshot: &Snapshot,
    name: &str,
    manifest: Bytes,
    index: Bytes,
) -> Result<Index, Trouble> {
    let wrong = |error: &dyn std::fmt::Display| Trouble::Wrong(error.to_string());
    let manifest = DataBlob::parse(manifest).map_err(|error| wrong(&error))?;
    manifest.verify_crc().map_err(|error| wrong(&error))?;
    let manifest = Manifest::parse(&manifest).map_err(|error| wrong(&error))?;
    let checked = manifest.check_snapshot(snapshot);
    checked.map_err(|error| wrong(&error))?;
    let kind = ArchiveKind::of(name).ok_or_else(|| wrong(&"an archive's name"))?;
    let index = Index::parse(kind, index).map_err(|error| wrong(&error))?;
    let listed = manifest.files().iter().any(|file| {
        file.name.as_str() == name && file.csum == Some(index.csum()) && file.size == index.size()
    });
    if listed {
        Ok(index)
    } else {
        Err(wrong(&"the index is not the one in the manifest"))
    }
}

async fn download(session: &Session, name: &str) -> Result<Bytes, Trouble> {
    let parameters = [("file-name", name.to_owned())];
    session
        .ask(Method::GET, "download", &parameters, Bytes::new())
        .await
}

async fn fetch(session: &Session, chunk: IndexChunk) -> Result<Bytes, Trouble> {
    let parameters = [("digest", chunk.digest.to_string())];
    let encoded = session
        .ask(Method::GET, "chunk", &parameters, Bytes::new())
        .await?;
    let decoded = DataBlob::parse(encoded).and_then(|blob| blob.decode(CHUNK_BYTES_MAX, None));
    decoded.map_err(|error| Trouble::Wrong(format!("chunk {}: {error}", chunk.digest)))
}
