//! `holdfast catalog`: what is in the directories of a snapshot. `list` asks the server for one directory; `dump` reads the whole
//! catalog itself, so it can be encrypted.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use pbs_datastore::{Catalog, CatalogEntry, CatalogKind, CatalogTable};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::RepositoryArgs;
use super::download::BackupReader;
use super::key;
use super::output::{self, Column};
use super::progress::Progress;
use super::session::snapshot_parameters;
use super::snapshot::{SnapshotChoice, rows};

/// The catalog among the archives of a snapshot.
const CATALOG: &str = "catalog.pcat1.didx";
/// Longest catalog that is read as a whole, in bytes.
const CATALOG_BYTES_MAX: u64 = 256 << 20;
/// Shortest entry of a catalog, in bytes.
const ENTRY_BYTES_MIN: usize = 3;
/// Deepest directory that is followed.
const DEPTH_MAX: usize = 2048;
/// Chunks that wait to be put together.
const CHUNKS_WAITING_MAX: usize = 4;

/// `holdfast catalog …`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum CatalogCommand {
    /// List one directory. The server reads the catalog, so it must not be encrypted.
    List {
        /// TYPE/ID/TIME, or TYPE/ID for the newest of the group.
        snapshot: SnapshotChoice,
        /// The directory, beginning with the archive, such as root.pxar.didx/etc; the list of archives if not given.
        path: Option<String>,
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// List everything.
    Dump {
        /// TYPE/ID/TIME, or TYPE/ID for the newest of the group.
        snapshot: SnapshotChoice,
        /// The key of an encrypted snapshot.
        #[arg(long, value_name = "FILE")]
        keyfile: Option<PathBuf>,
        #[command(flatten)]
        repository: RepositoryArgs,
    },
}

const COLUMNS: &[Column] = &[
    ("type", |row| output::plain(&row["type"])),
    ("size", |row| output::bytes_of(&row["size"])),
    ("modified", |row| output::time_of(&row["mtime"])),
    ("name", |row| output::plain(&row["text"])),
];

impl CatalogCommand {
    pub(super) async fn run(self, progress: &Progress) -> anyhow::Result<()> {
        match self {
            Self::List {
                snapshot,
                path,
                repository,
            } => {
                let mut session = repository.session().await?;
                let snapshot = snapshot.resolve(&mut session, &repository.ns).await?;
                let mut parameters = snapshot_parameters(&repository.ns, &snapshot);
                let path = path.filter(|path| path != "/");
                let path = path.map_or_else(|| "root".to_owned(), |path| STANDARD.encode(path));
                parameters.push(("filepath", path));
                let call = session.datastore("catalog");
                let rows = rows(&mut session.get(&call, &parameters).await?)?;
                repository.output().table(&rows, COLUMNS)
            }
            Self::Dump {
                snapshot,
                keyfile,
                repository,
            } => {
                let key = keyfile.as_deref().map(key::load).transpose()?;
                let mut session = repository.session().await?;
                let snapshot = snapshot.resolve(&mut session, &repository.ns).await?;
                let key = key.map(Arc::new);
                let reader =
                    BackupReader::begin(session, &repository.ns, &snapshot, key, progress).await?;
                let stream = whole(&reader).await?;
                repository.output().table(&dump(stream)?, COLUMNS)
            }
        }
    }
}

/// The stream of the catalog.
async fn whole(reader: &BackupReader) -> anyhow::Result<Bytes> {
    let file = reader.find(CATALOG).context(
        "there is no catalog; clients make one for directories, in the detection mode 'legacy'",
    )?;
    let index = reader.index(file).await?;
    ensure!(
        index.size() <= CATALOG_BYTES_MAX,
        "the catalog is longer than {CATALOG_BYTES_MAX} bytes; list single directories instead"
    );
    let (sink, mut source) = mpsc::channel::<Bytes>(CHUNKS_WAITING_MAX);
    let put_together = async {
        let mut stream = BytesMut::new();
        while let Some(part) = source.recv().await {
            stream.extend_from_slice(&part);
        }
        stream.freeze()
    };
    let (read, stream) = tokio::join!(reader.read(file, &index, sink), put_together);
    read?;
    Ok(stream)
}

/// All entries, each after the directory it is in.
fn dump(stream: Bytes) -> anyhow::Result<Vec<Value>> {
    let rows_max = stream.len() / ENTRY_BYTES_MIN;
    let catalog = Catalog::parse(stream)?;
    let mut rows = Vec::new();
    // What is still to be shown of each directory, from the root down.
    let mut open: Vec<(String, std::vec::IntoIter<CatalogEntry>)> = Vec::new();
    let entries = |table: CatalogTable| Ok::<_, anyhow::Error>(catalog.entries(table)?.into_iter());
    open.push((String::new(), entries(catalog.root())?));
    while let Some((place, left)) = open.last_mut() {
        let Some(entry) = left.next() else {
            open.pop();
            continue;
        };
        // Several entries may name one table, and so on further down.
        ensure!(
            rows.len() < rows_max,
            "the catalog is damaged: it lists the same directories again and again"
        );
        let path = format!("{place}/{}", String::from_utf8_lossy(&entry.name));
        let (size, mtime) = match entry.kind {
            CatalogKind::File { size, mtime } => (Some(size), Some(mtime)),
            _ => (None, None),
        };
        rows.push(json!({
            "type": entry.kind.letter().to_string(), "size": size, "mtime": mtime, "text": path,
        }));
        if let CatalogKind::Directory(table) = entry.kind {
            ensure!(
                open.len() < DEPTH_MAX,
                "the catalog is damaged: directories are more than {DEPTH_MAX} deep"
            );
            open.push((path, entries(table)?));
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory whose two entries are both the table before it, so many times; the first one holds a pipe.
    fn doubled(times: usize) -> Bytes {
        let mut stream = pbs_datastore::CATALOG_MAGIC.to_vec();
        let mut table = stream.len();
        stream.extend(b"\x04\x01p\x01x");
        for _ in 0..times {
            let start = stream.len();
            let distance = (start - table) as u8;
            let entry = |name: u8| [b'd', 1, name, distance];
            stream.extend([&[9, 2][..], &entry(b'a'), &entry(b'b')].concat());
            table = start;
        }
        stream.extend((table as u64).to_le_bytes());
        stream.into()
    }

    #[test]
    fn entries_follow_the_directory_they_are_in() {
        let rows = dump(doubled(1)).expect("a catalog");
        let paths: Vec<_> = rows.iter().map(|row| row["text"].as_str()).collect();
        assert_eq!(paths, [Some("/a"), Some("/a/x"), Some("/b"), Some("/b/x")]);
    }

    #[test]
    fn a_catalog_that_repeats_itself_has_an_end() {
        let error = dump(doubled(60)).expect_err("2^60 entries");
        assert!(error.to_string().contains("again and again"), "{error}");
    }
}
