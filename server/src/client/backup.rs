//! `holdfast backup`: new snapshots.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use pbs_datastore::{
    BackupGroup, BackupId, BackupTime, BackupType, CryptMode, Namespace, Snapshot,
};
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use super::key::{self, Protection};
use super::output::{self, Output};
use super::progress::Progress;
use super::repository::Access;
use super::session::Session;
use super::source::{Input, Source, SourceKind};
use super::tar::{ArchiveOptions, Excludes};
use super::upload::{ArchiveSummary, BackupWriter};
use super::{RepositoryArgs, clock};

/// `holdfast backup`
#[derive(Debug, clap::Args)]
pub(crate) struct BackupArgs {
    /// What to back up: NAME.img:FILE-OR-DEVICE, NAME.tar:DIRECTORY, NAME.conf:FILE; `-` reads standard input.
    #[arg(required = true, value_name = "NAME.EXT:PATH")]
    sources: Vec<OsString>,
    #[command(flatten)]
    repository: RepositoryArgs,
    /// Kind of thing that is backed up: vm, ct or host.
    #[arg(long, default_value = "host")]
    backup_type: BackupType,
    /// Which one; the name of this host if not given.
    #[arg(long)]
    backup_id: Option<BackupId>,
    /// Time of the snapshot in Unix seconds; now if not given.
    #[arg(long)]
    backup_time: Option<i64>,
    /// Leave out what matches this pattern, in the language of .gitignore; may be repeated, the last match decides.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<OsString>,
    /// Leave out other file systems that are mounted in a directory.
    #[arg(long)]
    one_file_system: bool,
    /// Encrypt (or sign) with the key in this file.
    #[arg(long, value_name = "FILE")]
    keyfile: Option<PathBuf>,
    /// What the key is used for; `encrypt` if a key is given.
    #[arg(long, value_enum)]
    crypt_mode: Option<CryptModeArg>,
}

/// `--crypt-mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum CryptModeArg {
    /// Everything in the clear.
    None,
    /// Everything but the manifest encrypted, the manifest signed.
    Encrypt,
    /// Everything in the clear, the manifest signed.
    SignOnly,
}

impl From<CryptModeArg> for CryptMode {
    fn from(mode: CryptModeArg) -> Self {
        match mode {
            CryptModeArg::None => Self::None,
            CryptModeArg::Encrypt => Self::Encrypt,
            CryptModeArg::SignOnly => Self::SignOnly,
        }
    }
}

/// All that a backup needs to know.
#[derive(Debug, Clone)]
pub(crate) struct BackupOptions {
    /// The server and who asks.
    pub(crate) access: Access,
    /// Must exist.
    pub(crate) namespace: Namespace,
    /// Must be newer than all others of its group.
    pub(crate) snapshot: Snapshot,
    /// At least one; names differ.
    pub(crate) sources: Vec<Source>,
    /// For directories.
    pub(crate) archive: ArchiveOptions,
    /// For all of it.
    pub(crate) protection: Protection,
}

/// What a backup came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct BackupSummary {
    /// `type/id/time`
    pub(crate) snapshot: String,
    /// Logical bytes of all archives.
    pub(crate) bytes: u64,
    /// Chunks of all archives, repetitions counted.
    pub(crate) chunks: u64,
    /// Chunks that were sent.
    pub(crate) new: u64,
    /// Chunks that were not sent because the server had them.
    pub(crate) duplicates: u64,
    /// Encoded bytes that were sent.
    pub(crate) uploaded_bytes: u64,
    /// From the first connection to the answer of `finish`.
    pub(crate) seconds: f64,
    /// Things that are missing from the backup or changed under it.
    pub(crate) warnings: u64,
    /// One by one.
    pub(crate) archives: Vec<ArchiveSummary>,
}

/// Makes one snapshot. It exists when this returns without an error, also if there were warnings.
///
/// # Errors
/// The first that ends the backup; then there is no snapshot.
pub(crate) async fn run(
    options: &BackupOptions,
    progress: &Arc<Progress>,
) -> anyhow::Result<BackupSummary> {
    check(&options.sources)?;
    let started = Instant::now();
    let warnings = progress.warnings();
    let session = Session::open(&options.access).await?;
    let mut writer = BackupWriter::begin(
        session,
        &options.namespace,
        options.snapshot.clone(),
        options.protection.clone(),
        progress,
    )
    .await?;
    let mut archives = Vec::new();
    for source in &options.sources {
        let bytes = source.bytes()?;
        progress.begin(source.archive.as_str(), bytes);
        let archive = source.archive.clone();
        archives.push(match source.kind {
            SourceKind::Blob => {
                writer
                    .upload_blob(archive, source.read_small().await?)
                    .await?
            }
            SourceKind::Image | SourceKind::Tar => {
                let feed = source.feed(bytes, &options.archive, progress);
                writer.upload_index(archive, bytes, feed, progress).await?
            }
        });
    }
    progress.finish();
    writer.finish().await?;
    let sum = |what: fn(&ArchiveSummary) -> u64| archives.iter().map(what).sum();
    Ok(BackupSummary {
        snapshot: options.snapshot.to_string(),
        bytes: sum(|archive| archive.bytes),
        chunks: sum(|archive| archive.chunks),
        new: sum(|archive| archive.new),
        duplicates: sum(|archive| archive.duplicates),
        uploaded_bytes: sum(|archive| archive.uploaded_bytes),
        seconds: started.elapsed().as_secs_f64(),
        warnings: progress.warnings() - warnings,
        archives,
    })
}

fn check(sources: &[Source]) -> anyhow::Result<()> {
    for (at, source) in sources.iter().enumerate() {
        if sources[..at]
            .iter()
            .any(|other| other.archive == source.archive)
        {
            bail!("two archives are called {}", source.archive);
        }
        source.check()?;
    }
    if sources
        .iter()
        .filter(|source| source.input == Input::Stdin)
        .count()
        > 1
    {
        bail!("only one archive can be read from standard input");
    }
    Ok(())
}

impl BackupArgs {
    /// Makes the backup and prints its summary.
    pub(super) async fn run(self, progress: &Arc<Progress>) -> anyhow::Result<()> {
        let output = self.repository.output();
        let options = self.options()?;
        let summary = run(&options, progress).await?;
        print(&summary, output)
    }

    fn options(self) -> anyhow::Result<BackupOptions> {
        let sources = self
            .sources
            .iter()
            .map(|text| Source::parse(text))
            .collect::<Result<Vec<_>, _>>();
        let excludes = Excludes::parse(&self.exclude).map_err(anyhow::Error::msg)?;
        let id = match self.backup_id {
            Some(id) => id,
            None => host_name()?,
        };
        let time = self.backup_time.unwrap_or_else(|| clock::now().as_second());
        let key = self.keyfile.as_deref().map(key::load).transpose()?;
        Ok(BackupOptions {
            access: self.repository.access()?,
            namespace: self.repository.ns,
            snapshot: BackupGroup::new(self.backup_type, id).at(BackupTime::new(time)?),
            sources: sources.map_err(anyhow::Error::msg)?,
            archive: ArchiveOptions {
                excludes,
                one_file_system: self.one_file_system,
            },
            protection: Protection::new(self.crypt_mode.map(CryptMode::from), key)?,
        })
    }
}

fn host_name() -> anyhow::Result<BackupId> {
    let name = nix::unistd::gethostname()
        .context("the name of this host is not known: give --backup-id")?;
    let name = name.to_string_lossy().into_owned();
    name.parse().with_context(|| {
        format!("this host is called '{name}', which cannot be a backup id: give --backup-id")
    })
}

fn print(summary: &BackupSummary, output: Output) -> anyhow::Result<()> {
    let mut lines = vec![summary.snapshot.clone()];
    for archive in &summary.archives {
        lines.push(match archive.chunks {
            0 => format!("  {}: {}", archive.name, output::bytes(archive.bytes)),
            _ => format!(
                "  {}: {} in {} chunks, {} new ({} sent), {} known",
                archive.name,
                output::bytes(archive.bytes),
                archive.chunks,
                archive.new,
                output::bytes(archive.uploaded_bytes),
                archive.duplicates
            ),
        });
    }
    lines.push(format!(
        "{} in {:.1} s, {} warnings",
        output::bytes(summary.bytes),
        summary.seconds,
        summary.warnings
    ));
    output.value(&json!(summary), &lines.join("\n"))
}
