//! Clients that back up: in full, incrementally, the same again and again, giving up half-way, resetting streams.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pbs_datastore::{
    ArchiveKind, ArchiveName, Backup, BackupRequest, BackupTime, CryptMode, DataBlob, Datastore,
    Digest, Error, Index, IndexChecksum, IndexKind, Manifest, ManifestFile, Namespace, Result,
    Snapshot,
};
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::content::{Content, Pool};
use crate::life::Life;
use crate::world::World;

/// Longest time between two backups of a client.
const THINK_MAX: Duration = Duration::from_mins(4);

/// Longest pause of a client in the middle of a backup.
const PAUSE_MAX: Duration = Duration::from_secs(40);

/// One client in one life.
pub(crate) struct Client {
    pub(crate) world: Arc<World>,
    pub(crate) life: Life,
    pub(crate) datastore: Arc<Datastore>,
    pub(crate) number: u64,
    pub(crate) rng: StdRng,
}

fn archive() -> ArchiveName {
    "root.pxar.didx".parse().expect("a valid name")
}

/// One backup under way, with what the oracle knows it by.
struct Running {
    backup: Arc<Backup>,
    session: u64,
    wid: u16,
    /// Chunks of the previous backup that the daemon has promised.
    known: BTreeSet<Digest>,
}

impl Client {
    /// Backs up until the world stops.
    pub(crate) async fn run(mut self) {
        while !self.world.is_stopping() {
            let world = Arc::clone(&self.world);
            world.think(&mut self.rng, THINK_MAX).await;
            if world.is_stopping() {
                return;
            }
            if let Err(error) = self.back_up().await {
                world.note(&format!("client {}: {}", self.number, kind_of(&error)));
            }
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    async fn pause(&mut self) {
        if self.chance(30) {
            let millis = self.rng.random_range(0..PAUSE_MAX.as_millis() as u64);
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
    }

    fn snapshot(&mut self) -> Snapshot {
        let group = self.rng.random_range(0..self.world.scenario.groups);
        let group = format!("host/group-{group}").parse::<pbs_datastore::BackupGroup>();
        let time = BackupTime::new(self.world.next_time()).expect("a time of this age");
        group.expect("a valid group").at(time)
    }

    /// One backup.
    async fn back_up(&mut self) -> Result<()> {
        let snapshot = self.snapshot();
        self.back_up_as(snapshot, None).await
    }

    /// One backup, of these contents or of any; whatever becomes of it, the oracle knows.
    pub(crate) async fn back_up_as(
        &mut self,
        snapshot: Snapshot,
        contents: Option<Vec<Content>>,
    ) -> Result<()> {
        let request = BackupRequest {
            namespace: Namespace::root(),
            snapshot,
            author: "root@pam".parse().expect("a valid user"),
            benchmark: false,
            no_cache: self.chance(20),
        };
        let backup = self.datastore.begin_backup(request).await?;
        let oracle = Arc::clone(&self.world.oracle);
        let session = oracle.session_begins(self.life.number, backup.state());
        let mut running = Running {
            backup: Arc::clone(&backup),
            session,
            wid: 0,
            known: BTreeSet::new(),
        };
        let result = self.write(&mut running, contents).await;
        let reason = match &result {
            Ok(()) => "done",
            Err(_) => "the client gave up",
        };
        backup.end(reason).await;
        oracle.session_ends(session);
        result
    }

    async fn write(&mut self, running: &mut Running, contents: Option<Vec<Content>>) -> Result<()> {
        if running.backup.previous_time().is_some() && self.chance(60) {
            self.adopt(running).await?;
        }
        running.wid = running.backup.create_dynamic(&archive()).await?;
        self.pause().await;
        if self.world.scenario.forger && self.number == 0 {
            self.forge(running).await;
        }
        let contents = contents.unwrap_or_else(|| self.choose());
        let mut entries = Vec::new();
        let mut offset = 0;
        for content in &contents {
            if self.chance(4) {
                return Err(Error::Stopped);
            }
            let known = running.known.contains(&content.digest);
            if !known || self.chance(10) {
                self.upload(running, content).await?;
            }
            entries.push((content.digest, offset));
            offset += content.data.len() as u64;
            self.pause().await;
        }
        running
            .backup
            .append(running.wid, IndexKind::Dynamic, &entries)
            .await?;
        let csum = self.close(running, &entries, offset).await?;
        let encrypted = contents.iter().all(Content::is_encrypted);
        let mode = if encrypted {
            CryptMode::Encrypt
        } else {
            CryptMode::None
        };
        self.finish(running, mode, csum, offset, &entries).await
    }

    /// Registers the chunks of the backup before as known.
    async fn adopt(&mut self, running: &mut Running) -> Result<()> {
        let bytes = match running.backup.previous(&archive()).await {
            Ok(bytes) => bytes,
            // The client backs up in full.
            Err(error @ (Error::ChunkMissing { .. } | Error::Invalid(_))) => {
                self.world.note(&format!(
                    "client {}: no base: {}",
                    self.number,
                    kind_of(&error)
                ));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let index = match Index::parse(ArchiveKind::Dynamic, bytes) {
            Ok(index) => index,
            Err(error) => {
                self.world
                    .oracle
                    .violation(format!("a previous index cannot be read: {error}"));
                return Ok(());
            }
        };
        for chunk in index.chunks() {
            running.known.insert(chunk.digest);
            self.world.oracle.told(running.session, chunk.digest);
        }
        Ok(())
    }

    /// What is to be backed up this time.
    fn choose(&mut self) -> Vec<Content> {
        let pool = self.world.pool.contents.clone();
        let share = [20, 50, 90][self.rng.random_range(0..3)];
        let first = pool[self.rng.random_range(0..pool.len())].clone();
        // Most archives are encrypted or not as a whole.
        let mixed = self.chance(20);
        let mut chosen: Vec<_> = pool
            .iter()
            .filter(|content| mixed || content.is_encrypted() == first.is_encrypted())
            .filter(|_| self.chance(share))
            .cloned()
            .collect();
        if chosen.is_empty() {
            chosen.push(first);
        }
        if self.chance(20) {
            chosen.push(chosen[0].clone());
        }
        chosen
    }

    /// Uploads something encrypted under the digest of a plain chunk, which must never harm the plain one (I11).
    async fn forge(&mut self, running: &Running) {
        let pool = &self.world.pool;
        let content = &pool.contents[self.rng.random_range(0..pool.contents.len())];
        if content.is_encrypted() {
            // Nobody without the key can tell which of two encrypted blobs is the right one.
            return;
        }
        let (encoded, size) = (Pool::forgery(content), content.data.len() as u32);
        let uploaded = running
            .backup
            .upload(
                running.wid,
                IndexKind::Dynamic,
                content.digest,
                size,
                encoded,
            )
            .await;
        let came =
            uploaded.map_or_else(|error| kind_of(&error), |inserted| format!("{inserted:?}"));
        self.world.note(&format!("forger: {came}"));
    }

    async fn upload(&mut self, running: &Running, content: &Content) -> Result<()> {
        let form = self.rng.random_range(0..content.forms.len());
        let upload = |form: usize| {
            let (backup, wid) = (Arc::clone(&running.backup), running.wid);
            let (digest, size) = (content.digest, content.data.len() as u32);
            let encoded = content.forms[form].clone();
            async move {
                backup
                    .upload(wid, IndexKind::Dynamic, digest, size, encoded)
                    .await
            }
        };
        if self.chance(6) {
            // The stream is reset; the client sends the chunk again.
            let millis = self.rng.random_range(0..50);
            let cut = Duration::from_millis(millis);
            let _ = tokio::time::timeout(cut, upload(form)).await;
        }
        let inserted = upload(form).await?;
        self.world.oracle.told(running.session, content.digest);
        let digest = content.digest.to_string();
        self.world.note(&format!(
            "client {}: {inserted:?} {}",
            self.number,
            &digest[..8]
        ));
        Ok(())
    }

    async fn close(
        &mut self,
        running: &Running,
        entries: &[(Digest, u64)],
        size: u64,
    ) -> Result<Digest> {
        let mut sum = IndexChecksum::new();
        for (n, (digest, _)) in entries.iter().enumerate() {
            let end = entries.get(n + 1).map_or(size, |(_, start)| *start);
            sum.push_dynamic(end, digest);
        }
        let csum = sum.finish();
        let count = entries.len() as u64;
        running
            .backup
            .close(running.wid, IndexKind::Dynamic, count, size, csum)
            .await?;
        Ok(csum)
    }

    /// Adds a file that is no archive.
    async fn blob(&mut self, running: &Running) -> Result<ManifestFile> {
        let content = format!("settings of client {}", self.number);
        let blob = DataBlob::encode_plain(content.into()).expect("it is short");
        let name: ArchiveName = "settings.conf.blob".parse().expect("a valid name");
        let encoded = blob.encoded();
        let file = ManifestFile {
            name: name.clone(),
            crypt_mode: CryptMode::None,
            size: encoded.len() as u64,
            csum: Some(Digest::of(&encoded)),
        };
        running.backup.blob(&name, encoded).await?;
        Ok(file)
    }

    async fn finish(
        &mut self,
        running: &Running,
        crypt_mode: CryptMode,
        csum: Digest,
        size: u64,
        entries: &[(Digest, u64)],
    ) -> Result<()> {
        let id = running.backup.snapshot().clone();
        let mut files = vec![ManifestFile {
            name: archive(),
            crypt_mode,
            size,
            csum: Some(csum),
        }];
        if self.chance(40) {
            files.push(self.blob(running).await?);
        }
        let manifest = Manifest::new(id.snapshot.clone(), files).expect("two files");
        let blob = manifest.to_blob().expect("it is small").encoded();
        running.backup.blob(&ArchiveName::manifest(), blob).await?;
        self.pause().await;
        if self.chance(8) {
            return Err(Error::Stopped);
        }
        let digests = entries.iter().map(|(digest, _)| *digest).collect();
        self.world
            .oracle
            .finish_begins(running.session, &id, digests);
        running.backup.finish().await?;
        self.world.oracle.finished(running.session, &id);
        self.world
            .note(&format!("client {}: sealed {id}", self.number));
        Ok(())
    }
}

/// The kind of an error, without what differs between two runs of one seed.
pub(crate) fn kind_of(error: &Error) -> String {
    match error {
        Error::Store(error) => format!("Store({:?} {:?})", error.kind, error.op),
        other => {
            let text = format!("{other:?}");
            let end = text.find([' ', '(', '{']).unwrap_or(text.len());
            text[..end].to_owned()
        }
    }
}
