//! One backup, as a client of the protocol makes it: whole, or given up on purpose.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use holdfast_tests::connection::{Connection, Entrance, Session, Trouble};
use holdfast_tests::measure::noise::Noise;
use holdfast_tests::measure::site::STORE;
use http::Method;
use pbs_datastore::{
    ArchiveKind, CryptMode, DataBlob, Digest, Index, IndexChecksum, Manifest, ManifestFile,
    SnapshotRef,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::content::{Pool, Shape};
use super::gate::Gate;
use super::ledger::{Known, Ledger, State};
use super::tally::Tally;

const PROTOCOL: &str = "proxmox-backup-protocol-v1";
/// Uploads under way at once.
const IN_FLIGHT_MAX: usize = 6;

/// What a client is up to in one backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mood {
    /// Use the last snapshot's index, and do not send what it names.
    pub(crate) incremental: bool,
    /// Gives up after so many uploads: the connection breaks.
    pub(crate) gives_up_after: Option<u64>,
    /// Resets every so manieth upload in its middle, and sends it again.
    pub(crate) resets_every: Option<u64>,
    /// Waits so long in the middle.
    pub(crate) lingers: Duration,
    /// Breaks the connection right after `finish` is sent.
    pub(crate) deaf: bool,
}

impl Mood {
    /// Draws one.
    pub(crate) fn draw(noise: &mut Noise) -> Self {
        let one_in = |noise: &mut Noise, n: u64| noise.below(n) == 0;
        Self {
            incremental: !one_in(noise, 5),
            gives_up_after: one_in(noise, 9).then(|| 1 + noise.below(12)),
            resets_every: one_in(noise, 6).then(|| 2 + noise.below(4)),
            lingers: if one_in(noise, 5) {
                Duration::from_millis(500 + noise.below(8000))
            } else {
                Duration::ZERO
            },
            deaf: one_in(noise, 25),
        }
    }
}

/// What a backup came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uploaded {
    /// Chunks that were sent.
    pub(crate) sent: u64,
    /// Chunks that the server was said to know.
    pub(crate) known: u64,
    /// Uploads that were reset on the way.
    pub(crate) resets: u64,
}

/// Parameters that name a snapshot.
pub(crate) fn snapshot_parameters(id: &SnapshotRef) -> Vec<(&'static str, String)> {
    let mut parameters = vec![
        ("backup-type", id.snapshot.group.kind.to_string()),
        ("backup-id", id.snapshot.group.id.to_string()),
        ("backup-time", id.snapshot.time.seconds().to_string()),
    ];
    if !id.namespace.is_root() {
        parameters.push(("ns", id.namespace.to_string()));
    }
    parameters
}

/// An open backup session.
pub(crate) struct Backup<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) ledger: &'a Ledger,
    pub(crate) gate: &'a Gate,
    pub(crate) tally: &'a Tally,
    pub(crate) known: &'a Known,
    pub(crate) mood: Mood,
}

impl Backup<'_> {
    /// Makes it, and writes what was told into the ledger.
    pub(crate) async fn run(&self, entrance: &Entrance) -> Result<Uploaded, Trouble> {
        let connection = Connection::open(entrance).await?;
        let mut parameters = snapshot_parameters(&self.known.id);
        parameters.push(("store", STORE.to_owned()));
        parameters.push(("debug", "false".to_owned()));
        parameters.push(("benchmark", "false".to_owned()));
        let session = connection.upgrade("backup", PROTOCOL, &parameters).await?;
        let mut done = Uploaded::default();
        let mut known = BTreeSet::new();
        if self.mood.incremental {
            known = self.previous(&session).await?;
        }
        let file = self.archive(&session, known, &mut done).await?;
        let manifest = Manifest::new(self.known.id.snapshot.clone(), vec![file]);
        let manifest = manifest.and_then(|manifest| manifest.to_blob());
        let manifest = manifest.map_err(|error| Trouble::Wrong(error.to_string()))?;
        let encoded = manifest.encoded();
        let parameters = [
            ("file-name", "index.json.blob".to_owned()),
            ("encoded-size", encoded.len().to_string()),
        ];
        session
            .call(Method::POST, "blob", &parameters, encoded)
            .await?;
        self.ledger.note(&self.known.id, State::Asked);
        let finish = session.call(Method::POST, "finish", &[], Bytes::new());
        if self.mood.deaf {
            // Long enough for the request to be on its way, not always for its answer.
            return match timeout(Duration::from_millis(3), finish).await {
                Ok(told) => self.told(told).map(|()| done),
                Err(_) => Err(Trouble::Chosen("connection broken after finish")),
            };
        }
        self.told(finish.await).map(|()| done)
    }

    /// The answer to `finish`.
    fn told(&self, told: Result<Value, Trouble>) -> Result<(), Trouble> {
        told?;
        self.ledger.note(&self.known.id, State::Acknowledged);
        Ok(())
    }

    /// The digests of the last snapshot's archive of the same name; none if there is no such thing.
    async fn previous(&self, session: &Session) -> Result<BTreeSet<Digest>, Trouble> {
        let time = session
            .call(Method::GET, "previous_backup_time", &[], Bytes::new())
            .await?;
        if time.is_null() {
            return Ok(BTreeSet::new());
        }
        let name = self.known.plan.shape.archive();
        let parameters = [("archive-name", name.to_owned())];
        let answer = session.ask(Method::GET, "previous", &parameters, Bytes::new());
        let index = match answer.await {
            Ok(index) => index,
            // A previous snapshot that cannot be used costs time, never the backup.
            Err(Trouble::Refused { status, sentence }) => {
                self.tally.refused("previous", status, &sentence);
                return Ok(BTreeSet::new());
            }
            Err(trouble) => return Err(trouble),
        };
        let kind = ArchiveKind::of(name).unwrap_or(ArchiveKind::Dynamic);
        let index = Index::parse(kind, index)
            .map_err(|error| Trouble::Wrong(format!("the previous index: {error}")))?;
        Ok(index.chunks().map(|chunk| chunk.digest).collect())
    }

    /// Uploads the archive.
    async fn archive(
        &self,
        session: &Session,
        mut known: BTreeSet<Digest>,
        done: &mut Uploaded,
    ) -> Result<ManifestFile, Trouble> {
        let plan = &self.known.plan;
        let name = plan.shape.archive();
        let kind = match plan.shape {
            Shape::Stream => "dynamic",
            Shape::Image => "fixed",
        };
        let pieces = plan.pieces.iter();
        let pieces: Vec<Bytes> = pieces.map(|n| self.pool.piece(plan.shape, *n)).collect();
        let size: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let mut parameters = vec![("archive-name", name.to_owned())];
        if plan.shape == Shape::Image {
            parameters.push(("size", size.to_string()));
        }
        let index = format!("{kind}_index");
        let wid = session
            .call(Method::POST, &index, &parameters, Bytes::new())
            .await?;
        let mut csum = IndexChecksum::new();
        let (mut digests, mut offsets, mut end) = (Vec::new(), Vec::new(), 0);
        let mut uploads = FuturesUnordered::new();
        for (place, piece) in pieces.into_iter().enumerate() {
            let digest = Digest::of(&piece);
            digests.push(digest);
            offsets.push(end);
            end += piece.len() as u64;
            match plan.shape {
                Shape::Stream => csum.push_dynamic(end, &digest),
                Shape::Image => csum.push_fixed(&digest),
            }
            if place == plan.pieces.len() / 2 && !self.mood.lingers.is_zero() {
                drain(&mut uploads, 0).await?;
                self.gate.linger(self.mood.lingers).await;
            }
            if !known.insert(digest) {
                done.known += 1;
                continue;
            }
            if self.mood.gives_up_after == Some(done.sent) {
                return Err(Trouble::Chosen("backup given up"));
            }
            done.sent += 1;
            let resets = self
                .mood
                .resets_every
                .is_some_and(|n| done.sent.is_multiple_of(n));
            done.resets += u64::from(resets);
            let upload = upload(session, kind, &wid, digest, piece, resets);
            drain(&mut uploads, IN_FLIGHT_MAX - 1).await?;
            uploads.push(upload);
        }
        drain(&mut uploads, 0).await?;
        let body = json!({ "wid": wid, "digest-list": digests, "offset-list": offsets });
        let body = Bytes::from(body.to_string());
        session.call(Method::PUT, &index, &[], body).await?;
        let csum = csum.finish();
        let parameters = [
            ("wid", wid.to_string()),
            ("chunk-count", digests.len().to_string()),
            ("size", size.to_string()),
            ("csum", csum.to_string()),
        ];
        let close = format!("{kind}_close");
        session
            .call(Method::POST, &close, &parameters, Bytes::new())
            .await?;
        let name = name.parse();
        Ok(ManifestFile {
            name: name.map_err(|_| Trouble::Wrong("an archive's name".to_owned()))?,
            crypt_mode: CryptMode::None,
            size,
            csum: Some(csum),
        })
    }
}

/// Waits until at most `most` uploads are under way.
async fn drain<F: Future<Output = Result<(), Trouble>>>(
    uploads: &mut FuturesUnordered<F>,
    most: usize,
) -> Result<(), Trouble> {
    while uploads.len() > most {
        if let Some(done) = uploads.next().await {
            done?;
        }
    }
    Ok(())
}

/// Sends a chunk; with `reset` its stream is reset once, somewhere on the way, before it is sent again.
async fn upload(
    session: &Session,
    kind: &str,
    wid: &Value,
    digest: Digest,
    piece: Bytes,
    reset: bool,
) -> Result<(), Trouble> {
    let size = piece.len();
    let blob = DataBlob::encode(piece, true, None, [0; 16]);
    let encoded = blob
        .map_err(|error| Trouble::Wrong(error.to_string()))?
        .encoded();
    let parameters = [
        ("wid", wid.to_string()),
        ("digest", digest.to_string()),
        ("size", size.to_string()),
        ("encoded-size", encoded.len().to_string()),
    ];
    let name = format!("{kind}_chunk");
    let send = || session.call(Method::POST, &name, &parameters, encoded.clone());
    if reset {
        // The digest's own bytes say when: the same in every run.
        let pause = Duration::from_millis(u64::from(digest.as_bytes()[0]) / 8);
        if let Ok(told) = timeout(pause, send()).await {
            told?;
        }
    }
    let told = send().await?;
    if told.as_str() != Some(&*digest.to_string()) {
        return Err(Trouble::Wrong(format!(
            "chunk {digest} was acknowledged as {told}"
        )));
    }
    Ok(())
}
