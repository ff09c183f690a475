//! `holdfast snapshot`: list, files, download, forget, upload-log, notes, protected.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, bail};
use pbs_datastore::{ArchiveName, BackupGroup, BackupTime, DataBlob, Namespace, Snapshot};
use serde_json::{Value, json};

use super::RepositoryArgs;
use super::file_sink::FileSink;
use super::key;
use super::output::{self, Column};
use super::progress::Progress;
use super::session::{Session, group_parameters, namespace_parameters, snapshot_parameters};
use crate::entropy::random_bytes;

/// `holdfast snapshot …`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum SnapshotCommand {
    /// List the snapshots of a namespace, or of one group.
    List {
        /// TYPE/ID
        group: Option<BackupGroup>,
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// List the files of a snapshot.
    Files {
        /// TYPE/ID/TIME, or TYPE/ID for the newest of the group.
        snapshot: SnapshotChoice,
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// Download a file of a snapshot as it is stored, or what is in it. `holdfast restore` checks more, and knows keys.
    Download {
        /// TYPE/ID/TIME, or TYPE/ID for the newest of the group.
        snapshot: SnapshotChoice,
        /// The file, with its whole name, as `holdfast snapshot files` lists it.
        file: ArchiveName,
        /// The file to write; `-` writes to standard output.
        target: PathBuf,
        /// What is in it: the contents of a blob, or of a whole archive. The server reads them, so they must not be encrypted.
        #[arg(long)]
        decoded: bool,
        /// Replace the file if it exists.
        #[arg(long)]
        overwrite: bool,
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// Remove a snapshot. Its chunks go with the next garbage collection.
    Forget {
        /// TYPE/ID/TIME
        snapshot: Snapshot,
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// Add the log of a backup to its snapshot, encrypted if a key is given.
    UploadLog {
        /// TYPE/ID/TIME
        snapshot: Snapshot,
        /// The log.
        file: PathBuf,
        /// Encrypt it with the key in this file.
        #[arg(long, value_name = "FILE")]
        keyfile: Option<PathBuf>,
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// Show the notes of a snapshot, or replace them.
    Notes {
        /// TYPE/ID/TIME, or TYPE/ID for the newest of the group.
        snapshot: SnapshotChoice,
        /// The new notes; empty text removes them.
        text: Option<String>,
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// Show whether a snapshot is protected from removal, or change that.
    Protected {
        /// TYPE/ID/TIME, or TYPE/ID for the newest of the group.
        snapshot: SnapshotChoice,
        /// true or false
        protected: Option<bool>,
        #[command(flatten)]
        repository: RepositoryArgs,
    },
}

/// A snapshot, or a group, which stands for its newest one where a single one is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SnapshotChoice {
    /// This one.
    Exact(Snapshot),
    /// Those of this group.
    Group(BackupGroup),
}

impl FromStr for SnapshotChoice {
    type Err = pbs_datastore::NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.matches('/').count() == 1 {
            text.parse().map(Self::Group)
        } else {
            text.parse().map(Self::Exact)
        }
    }
}

impl SnapshotChoice {
    /// The snapshot that is meant.
    ///
    /// # Errors
    /// A group without a finished snapshot.
    pub(super) async fn resolve(
        &self,
        session: &mut Session,
        namespace: &Namespace,
    ) -> anyhow::Result<Snapshot> {
        let group = match self {
            Self::Exact(snapshot) => return Ok(snapshot.clone()),
            Self::Group(group) => group,
        };
        let path = session.datastore("snapshots");
        let mut list = session
            .get(&path, &group_parameters(namespace, group))
            .await?;
        let times = rows(&mut list)?
            .into_iter()
            .filter(is_finished)
            .filter_map(|row| row["backup-time"].as_i64());
        let newest = times
            .max()
            .with_context(|| format!("{group} has no finished snapshot"))?;
        Ok(group.at(BackupTime::new(newest)?))
    }
}

/// Snapshots whose backup still runs, or was broken off, have no size.
fn is_finished(row: &Value) -> bool {
    row["size"].is_u64()
}

/// The rows of a list.
pub(super) fn rows(envelope: &mut Value) -> anyhow::Result<Vec<Value>> {
    rows_of(envelope["data"].take())
}

/// The same of the data itself.
pub(super) fn rows_of(data: Value) -> anyhow::Result<Vec<Value>> {
    match data {
        Value::Array(rows) => Ok(rows),
        _ => bail!("the server's answer is not understood: it is no list"),
    }
}

const COLUMNS: &[Column] = &[
    ("snapshot", name_of),
    ("size", |row| output::bytes_of(&row["size"])),
    ("files", files_of),
    ("protected", |row| {
        if row["protected"] == true {
            "yes".into()
        } else {
            String::new()
        }
    }),
    ("verified", |row| {
        output::plain(&row["verification"]["state"])
    }),
    ("notes", |row| output::plain(&row["comment"])),
];

const FILE_COLUMNS: &[Column] = &[
    ("file", |row| output::plain(&row["filename"])),
    ("size", |row| output::bytes_of(&row["size"])),
    ("encryption", |row| output::plain(&row["crypt-mode"])),
];

/// A snapshot as a person names it.
pub(super) fn name_of(row: &Value) -> String {
    let time = output::time_of(&row["backup-time"]);
    format!(
        "{}/{}/{time}",
        output::plain(&row["backup-type"]),
        output::plain(&row["backup-id"])
    )
}

/// The archives as a person names them.
pub(super) fn files_of(row: &Value) -> String {
    let files = row["files"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    // Groups list plain names, snapshots objects.
    let names = files
        .iter()
        .filter_map(|file| file.as_str().or_else(|| file["filename"].as_str()));
    let names = names.filter(|name| *name != "index.json.blob" && *name != "client.log.blob");
    names
        .map(|name| name.rsplit_once('.').map_or(name, |(stem, _)| stem))
        .collect::<Vec<_>>()
        .join(" ")
}

impl SnapshotCommand {
    pub(super) async fn run(self, progress: &Progress) -> anyhow::Result<()> {
        match self {
            Self::List { group, repository } => {
                let mut session = repository.session().await?;
                let path = session.datastore("snapshots");
                let parameters = group.map_or_else(
                    || namespace_parameters(&repository.ns),
                    |group| group_parameters(&repository.ns, &group),
                );
                let mut rows = rows(&mut session.get(&path, &parameters).await?)?;
                rows.sort_by_key(|row| {
                    let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
                    (
                        text("backup-type"),
                        text("backup-id"),
                        row["backup-time"].as_i64(),
                    )
                });
                repository.output().table(&rows, COLUMNS)
            }
            Self::Files {
                snapshot,
                repository,
            } => {
                let (mut session, parameters) = select(&snapshot, &repository).await?;
                let path = session.datastore("files");
                let rows = rows(&mut session.get(&path, &parameters).await?)?;
                repository.output().table(&rows, FILE_COLUMNS)
            }
            Self::Download {
                snapshot,
                file,
                target,
                decoded,
                overwrite,
                repository,
            } => {
                let call = if decoded {
                    "download-decoded"
                } else {
                    "download"
                };
                let (mut session, mut parameters) = select(&snapshot, &repository).await?;
                parameters.push(("file-name", file.to_string()));
                let sink = FileSink::open(&target, overwrite)?;
                let path = session.datastore(call);
                let body = session.download(&path, &parameters).await?;
                let bytes = sink.take(body, progress, file.as_str()).await?;
                if target.as_os_str() == "-" {
                    return Ok(());
                }
                let text = format!("{file}: {}", output::bytes(bytes));
                let value = json!({ "file": file.as_str(), "bytes": bytes });
                repository.output().value(&value, &text)
            }
            Self::Forget {
                snapshot,
                repository,
            } => {
                let mut session = repository.session().await?;
                let path = session.datastore("snapshots");
                session
                    .delete(&path, &snapshot_parameters(&repository.ns, &snapshot))
                    .await?;
                repository
                    .output()
                    .value(&Value::Null, &format!("{snapshot} is removed"))
            }
            Self::UploadLog {
                snapshot,
                file,
                keyfile,
                repository,
            } => upload_log(&snapshot, &file, keyfile.as_deref(), &repository).await,
            Self::Notes {
                snapshot,
                text,
                repository,
            } => attribute("notes", &snapshot, text.map(Value::from), &repository).await,
            Self::Protected {
                snapshot,
                protected,
                repository,
            } => {
                attribute(
                    "protected",
                    &snapshot,
                    protected.map(Value::from),
                    &repository,
                )
                .await
            }
        }
    }
}

/// Adds the log of a backup to its snapshot.
async fn upload_log(
    snapshot: &Snapshot,
    file: &Path,
    keyfile: Option<&Path>,
    repository: &RepositoryArgs,
) -> anyhow::Result<()> {
    let log =
        std::fs::read(file).with_context(|| format!("'{}' cannot be read", file.display()))?;
    let key = keyfile.map(key::load).transpose()?;
    let blob = DataBlob::encode(log.into(), true, key.as_ref(), random_bytes())?;
    let mut session = repository.session().await?;
    let path = session.datastore("upload-backup-log");
    let parameters = snapshot_parameters(&repository.ns, snapshot);
    let done = session.upload(&path, &parameters, blob.encoded()).await?;
    let text = format!("the log was added to {snapshot}");
    repository.output().value(&done, &text)
}

/// A session, and the parameters that name the chosen snapshot.
async fn select(
    choice: &SnapshotChoice,
    repository: &RepositoryArgs,
) -> anyhow::Result<(Session, Vec<(&'static str, String)>)> {
    let mut session = repository.session().await?;
    let snapshot = choice.resolve(&mut session, &repository.ns).await?;
    Ok((session, snapshot_parameters(&repository.ns, &snapshot)))
}

/// Shows something that belongs to a snapshot, or changes it.
async fn attribute(
    name: &str,
    choice: &SnapshotChoice,
    new: Option<Value>,
    repository: &RepositoryArgs,
) -> anyhow::Result<()> {
    let (mut session, parameters) = select(choice, repository).await?;
    let path = session.datastore(name);
    let Some(new) = new else {
        let value = session.get(&path, &parameters).await?["data"].take();
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), |text| text.trim_end().to_owned());
        return repository.output().value(&value, &text);
    };
    let mut body = json!({});
    for (name, value) in parameters {
        body[name] = value.into();
    }
    body[name] = new;
    session.put(&path, &body).await?;
    repository.output().value(&Value::Null, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_means_its_newest_snapshot() {
        let exact = "host/web/2023-11-14T22:13:20Z";
        assert_eq!(
            exact.parse(),
            Ok(SnapshotChoice::Exact(exact.parse().unwrap()))
        );
        assert_eq!(
            "host/web".parse(),
            Ok(SnapshotChoice::Group("host/web".parse().unwrap()))
        );
        for wrong in ["host", "host/web/today", "disk/web", "host/../x"] {
            assert!(wrong.parse::<SnapshotChoice>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn archives_are_listed_as_they_are_restored() {
        let row = json!({"files": [
            {"filename": "root.tar.didx"}, {"filename": "index.json.blob"}, {"filename": "x.conf.blob"}
        ]});
        assert_eq!(files_of(&row), "root.tar x.conf");
        assert_eq!(files_of(&json!({"files": ["disk.img.fidx"]})), "disk.img");
    }
}
