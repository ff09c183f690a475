//! `figures sync`: a pull from a far server beside raw GETs of the same bodies over the same line.
//!
//! In turn, several times: raw GETs of as many objects, so many at a time, from an S3 server that is as far away; then `holdfast pull` of a
//! snapshot of so many chunks into a new datastore, the time of the whole command. What was pulled is verified.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pbs_datastore::{
    ArchiveName, Backend, BackupRequest, CryptMode, DataBlob, Datastore, DatastoreConfig, Digest,
    Env, IndexChecksum, IndexKind, Manifest, ManifestFile, MemoryBudget, Namespace, OpenOptions,
    SyncLevel,
};
use serde_json::json;
use tokio::time::Instant;

use super::arguments::CommonArgs;
use super::far::FarLine;
use super::noise::Image;
use super::raw::{Objects, Raw};
use super::report::{Report, median};
use super::site::S3Process;
use crate::daemon::Daemon;
use crate::process::say;
use crate::s3_server::Access;

/// How much longer a pull may take than raw GETs.
const RATIO_MAX: f64 = 1.5;
/// Chunks that are uploaded before they are named in the index.
const BATCH: usize = 64;
/// How long the end of the datastore that is made may take.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(20);

/// A pull against raw GETs over a long line.
#[derive(Clone, Debug, clap::Args)]
pub struct CopiesArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Pairs of runs.
    #[arg(long, default_value_t = 3)]
    pairs: u64,
    /// Chunks of the snapshot.
    #[arg(long, default_value_t = 10_000)]
    chunks: u64,
    /// Bytes of each.
    #[arg(long, default_value_t = 64 << 10, value_name = "BYTES")]
    chunk_bytes: usize,
    /// From a question to its answer, at least.
    #[arg(long, default_value_t = 100, value_name = "MS")]
    round_trip_ms: u64,
    /// Raw requests at a time; a pull has as many chunks on their way.
    #[arg(long, default_value_t = 64)]
    concurrency: usize,
}

impl CopiesArgs {
    /// Measures and prints.
    pub fn run(&self) -> Result<ExitCode> {
        self.common.begin()?;
        let image = Image {
            seed: self.common.seed,
            pieces: self.chunks,
            piece_bytes: self.chunk_bytes,
        };
        let round_trip = Duration::from_millis(self.round_trip_ms);
        let (source, target) = (Daemon::set_up(&[])?, Daemon::set_up(&[])?);
        fill(&source.store_dir("source"), &image)?;
        source.start()?;
        source.add_directory_store("source", &[])?;
        target.start()?;
        let line = FarLine::to(source.address()?, round_trip)?;
        let port = line.address().port().to_string();
        let settings = ["--host", "127.0.0.1", "--port", &port, "--auth-id"];
        let who = [source.user(), "--fingerprint", source.fingerprint()];
        let add = [&["remote", "add", "far"], &settings[..], &who].concat();
        target
            .manage_with(&add, &format!("{}\n", source.password()))?
            .success()?;

        let s3 = S3Process::start_without_log(&target.dir().join("bucket"))?;
        let far_s3 = FarLine::to(s3.address(), round_trip)?;
        let slow = Access {
            endpoint: format!("http://{}", far_s3.address()),
            ..s3.access().clone()
        };
        let raw = Raw::connect(&slow, s3.access(), self.concurrency)?;
        let objects = Objects::of(&image, "raw/")?;
        raw.put(&objects)?;
        let (mut gets, mut pulls) = (Vec::new(), Vec::new());
        for number in 0..self.pairs.max(1) {
            nix::unistd::sync();
            let get = raw.get(&objects)?.as_secs_f64();
            nix::unistd::sync();
            let pull = pull(&target, &format!("copy{number}"), self.chunks)?.as_secs_f64();
            say(&format!(
                "pair {}: get {get:.2} s, pull {pull:.2} s",
                number + 1
            ));
            gets.push(get);
            pulls.push(pull);
        }
        Ok(self.report(&gets, &pulls).print())
    }

    fn report(&self, gets: &[f64], pulls: &[f64]) -> Report {
        let mut report = Report::new("sync");
        report.detail("chunks", self.chunks);
        report.detail("chunk-bytes", self.chunk_bytes);
        report.detail("round-trip-ms", self.round_trip_ms);
        report.detail("concurrency", self.concurrency);
        for (key, what, seconds) in [
            ("get-seconds", "raw GETs, median", gets),
            ("pull-seconds", "pull, median", pulls),
        ] {
            let shown = format!(
                "{:.2} s, {:.0} chunks/s",
                median(seconds),
                self.chunks as f64 / median(seconds)
            );
            report.note(key, json!(seconds), what, shown);
        }
        let ratios: Vec<f64> = pulls
            .iter()
            .zip(gets)
            .map(|(pull, get)| pull / get)
            .collect();
        let middle = median(&ratios);
        report.detail("ratios", json!(ratios));
        report.check(
            "ratio",
            middle,
            "pull / raw GETs",
            format!("{middle:.3}"),
            &format!("≤ {RATIO_MAX:.2}"),
            middle <= RATIO_MAX,
        );
        report
    }
}

/// Pulls the snapshot into a new datastore. Returns how long the command took.
fn pull(target: &Daemon, store: &str, chunks: u64) -> Result<Duration> {
    target.add_directory_store(store, &[])?;
    let arguments = ["pull", "--store", store, "--remote", "far"];
    let arguments = [&arguments[..], &["--remote-store", "source"]].concat();
    let began = Instant::now();
    let log = target.manage(&arguments)?.success()?.text();
    let taken = began.elapsed();
    let expected = format!("chunks brought: {chunks},");
    ensure!(log.contains(&expected), "{log}");
    target.client(store, &["verify", "--all"])?.success()?;
    Ok(taken)
}

/// Makes a directory datastore with one snapshot, whose chunks are the pieces of the image.
fn fill(dir: &Path, image: &Image) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let mut config = DatastoreConfig::new("source", Backend::Directory(dir.to_owned()));
        config.sync_level = SyncLevel::None;
        let options = OpenOptions {
            hostname: "figures".to_owned(),
            installation: "figures".to_owned(),
            take_over: false,
            previous_owner_is_dead: false,
            budget: MemoryBudget::new(256 << 20),
        };
        let datastore = Datastore::open(Env::system(), config, None, options).await?;
        back_up(&datastore, image).await?;
        ensure!(datastore.close(CLOSE_TIME_MAX).await?, "it does not close");
        Ok(())
    })
}

async fn back_up(datastore: &Arc<Datastore>, image: &Image) -> Result<()> {
    let snapshot: pbs_datastore::Snapshot = "host/far/2023-11-14T22:13:20Z".parse()?;
    let request = BackupRequest {
        namespace: Namespace::root(),
        snapshot: snapshot.clone(),
        author: "root@pam".parse()?,
        benchmark: false,
        no_cache: false,
    };
    let backup = datastore.begin_backup(request).await?;
    let (kind, name) = (IndexKind::Dynamic, "root.tar.didx".parse::<ArchiveName>()?);
    let wid = backup.create_dynamic(&name).await?;
    let (mut csum, mut offset, mut entries) = (IndexChecksum::new(), 0, Vec::new());
    for number in 0..image.pieces {
        let piece = image.piece(number);
        let (digest, length) = (Digest::of(&piece), piece.len() as u64);
        let blob = DataBlob::encode_plain(piece)?.encoded();
        let size = u32::try_from(length).context("a short piece")?;
        backup.upload(wid, kind, digest, size, blob).await?;
        entries.push((digest, offset));
        offset += length;
        csum.push_dynamic(offset, &digest);
        if entries.len() == BATCH {
            backup.append(wid, kind, &entries).await?;
            entries.clear();
        }
    }
    let csum = csum.finish();
    backup.append(wid, kind, &entries).await?;
    backup.close(wid, kind, image.pieces, offset, csum).await?;
    let file = ManifestFile {
        name,
        crypt_mode: CryptMode::None,
        size: offset,
        csum: Some(csum),
    };
    let manifest = Manifest::new(snapshot, vec![file])?.to_blob()?.encoded();
    backup.blob(&ArchiveName::manifest(), manifest).await?;
    backup.finish().await?;
    backup.end("done").await;
    Ok(())
}
