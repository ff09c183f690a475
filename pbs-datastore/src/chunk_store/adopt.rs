//! Registering chunks that a session relies on and did not upload: they are named by an index of an earlier snapshot, or of one
//! that is being copied here.
//!
//! Each is touched under its guard, after the session's start was recorded (I2). A chunk of a previous snapshot of the same datastore is
//! what it was when that was made. A chunk that is named by an index from elsewhere only has the right name: somebody may have stored
//! another under it, so its nature must be the one of the archive (I11), and where a marker does not tell, a look at its first bytes does.
//!
//! Costs no S3 request, but for those looks.

use futures_util::{StreamExt as _, stream};

use super::guard::Guard;
use super::insert::{ChunkBucket, ChunkStore, nature_conflict};
use super::location::{ChunkLocation, locate};
use super::marker::{Marker, Markers, Nature};
use super::object::read_start;
use super::upload::same_nature;
use crate::error::About as _;
use crate::files::Files;
use crate::sabotage::{self, Rule};
use crate::session::SessionHandle;
use crate::step::Step;
use crate::{BlobKind, Digest, Env, Error, Result, WriterSession};

/// Known chunks touched in one batch of file work.
const ADOPT_BATCH: usize = 512;

/// Looks at what is there of unknown nature, at once.
const LOOKS_MAX: usize = 16;

/// A chunk that a session relies on, and its length before encoding.
pub(crate) type Relied = (Digest, u32);

/// What is found of a chunk.
enum Found {
    /// It is there, was touched, and the session was told.
    Told,
    Missing,
    /// A listing has shown that something is there.
    OfUnknownNature(Guard, u32),
}

/// How chunks are looked at.
#[derive(Clone, Debug)]
struct Look {
    markers: Markers,
    env: Env,
    session: SessionHandle,
    directory: bool,
    /// What they must be; `None` if they cannot be anything else.
    nature: Option<Nature>,
}

impl ChunkStore {
    /// Registers chunks of a previous snapshot. One that is missing is an error, and its caller backs up in full.
    pub(crate) async fn adopt(&self, session: &WriterSession, chunks: &[Relied]) -> Result<()> {
        if sabotage::is_off(Rule::KnownChunksTouched) {
            let handle = session.handle();
            return chunks
                .iter()
                .try_for_each(|(digest, size)| Ok(handle.tell(*digest, *size)?));
        }
        for batch in chunks.chunks(ADOPT_BATCH) {
            let missing = self.adopt_batch(session, batch, None).await?;
            if let Some(digest) = missing.first() {
                return Err(Error::ChunkMissing { digest: *digest });
            }
        }
        Ok(())
    }

    /// Registers what is there of the chunks of an archive from elsewhere, whose chunks are `nature`. Answers those that are not.
    pub(crate) async fn adopt_known(
        &self,
        session: &WriterSession,
        chunks: &[Relied],
        nature: Nature,
    ) -> Result<Vec<Digest>> {
        let mut missing = Vec::new();
        for batch in chunks.chunks(ADOPT_BATCH) {
            missing.extend(self.adopt_batch(session, batch, Some(nature)).await?);
        }
        Ok(missing)
    }

    async fn adopt_batch(
        &self,
        session: &WriterSession,
        chunks: &[Relied],
        nature: Option<Nature>,
    ) -> Result<Vec<Digest>> {
        self.ready().await;
        let look = Look {
            markers: self.markers.clone(),
            env: self.env.clone(),
            session: session.handle(),
            directory: self.bucket.is_none(),
            nature,
        };
        let mut guards = Vec::with_capacity(chunks.len());
        let mut busy = Vec::new();
        for (digest, size) in chunks {
            let guard = self.table.try_guard(*digest);
            match guard.filter(|guard| !guard.is_condemned()) {
                Some(guard) => guards.push((guard, *size)),
                None => busy.push((*digest, *size)),
            }
        }
        let mut missing = self.adopt_guarded(&look, guards).await?;
        for (digest, size) in busy {
            let guard = self.table.guard_for_use(digest).await?;
            missing.extend(self.adopt_guarded(&look, vec![(guard, size)]).await?);
        }
        Ok(missing)
    }

    async fn adopt_guarded(&self, look: &Look, guards: Vec<(Guard, u32)>) -> Result<Vec<Digest>> {
        let looking = look.clone();
        let (mut missing, doubtful) = self
            .env
            .io(move |files: &dyn Files| {
                let (mut missing, mut doubtful) = (Vec::new(), Vec::new());
                for (guard, size) in guards {
                    let digest = guard.digest();
                    match looking.adopt(files, guard, size)? {
                        Found::Told => Step::Adopted.passed(),
                        Found::Missing => missing.push(digest),
                        Found::OfUnknownNature(guard, size) => doubtful.push((guard, size)),
                    }
                }
                Ok::<_, Error>((missing, doubtful))
            })
            .await?;
        // Each under its own guard alone: a guard is held over requests of its own chunk only.
        let doubtful: Vec<Relied> = doubtful
            .into_iter()
            .map(|(guard, size)| (guard.digest(), size))
            .collect();
        let mut looks = stream::iter(doubtful)
            .map(|chunk| self.adopt_doubtful(look, chunk))
            .buffer_unordered(LOOKS_MAX);
        while let Some(absent) = looks.next().await {
            missing.extend(absent?);
        }
        Ok(missing)
    }

    /// One chunk of which a listing has shown that something is there; answers it if it is not.
    async fn adopt_doubtful(&self, look: &Look, (digest, size): Relied) -> Result<Option<Digest>> {
        let guard = self.table.guard_for_use(digest).await?;
        let looking = look.clone();
        let found = self
            .env
            .io(move |files: &dyn Files| looking.adopt(files, guard, size))
            .await?;
        Ok(match (found, &self.bucket) {
            (Found::Told, _) => None,
            (Found::OfUnknownNature(guard, size), Some(bucket)) => {
                let known = self.learn_nature(bucket, guard, size, look).await?;
                (!known).then_some(digest)
            }
            (Found::Missing | Found::OfUnknownNature(..), _) => Some(digest),
        })
    }

    /// Looks at the first bytes of an object and notes down what it is; `false` if that is no chunk of the expected nature.
    async fn learn_nature(
        &self,
        bucket: &ChunkBucket,
        guard: Guard,
        size: u32,
        look: &Look,
    ) -> Result<bool> {
        let digest = guard.digest();
        let ChunkLocation::Object(key) = locate(&bucket.layout, &digest);
        let asked = self.env.now();
        let start = read_start(&*bucket.store, &key).await?;
        // Nothing is there, or nothing that has eight bytes: whoever uploads it looks closer.
        let kind = start.and_then(|start| start.kind);
        let Some(found) = kind.map(|kind| Nature::of(kind.is_encrypted())) else {
            return Ok(false);
        };
        if look.nature.is_some_and(|nature| nature != found) {
            return Ok(false);
        }
        let (guard, kept) = bucket.cache.insert(guard, &[], found, asked, asked).await;
        kept?;
        look.session.tell(digest, size)?;
        drop(guard);
        Ok(true)
    }
}

impl Look {
    /// Touches one chunk under its guard and tells the session, if it is there and what it must be.
    fn adopt(&self, files: &dyn Files, guard: Guard, size: u32) -> Result<Found> {
        let (markers, digest) = (&self.markers, guard.digest());
        let path = markers.path(&digest);
        if sabotage::is_off(Rule::CopiedChunksTouched) && self.nature.is_some() {
            let marker = markers.get(files, &digest).about(&path)?;
            if marker.is_none_or(|marker| self.directory && marker.size == 0) {
                return Ok(Found::Missing);
            }
            self.session.tell(digest, size)?;
            return Ok(Found::Told);
        }
        if self.directory || self.nature.is_some() {
            // An empty chunk file of a directory holds nothing.
            let marker = markers.get(files, &digest).about(&path)?;
            let Some(marker) = marker.filter(|marker| !self.directory || marker.size > 0) else {
                return Ok(Found::Missing);
            };
            let nature = self
                .nature
                .filter(|_| !sabotage::is_off(Rule::CopiedNatureChecked));
            if let Some(nature) = nature {
                match self.nature_of(files, &digest, &marker)? {
                    Nature::Unknown if self.directory => return Ok(Found::Missing),
                    Nature::Unknown => return Ok(Found::OfUnknownNature(guard, size)),
                    found if found != nature => return Err(nature_conflict(digest, nature)),
                    _ => {}
                }
            }
        }
        if !markers.touch(files, &digest, self.env.now()).about(&path)? {
            return Ok(Found::Missing);
        }
        self.session.tell(digest, size)?;
        Ok(Found::Told)
    }

    /// What a chunk is: in a bucket's cache the marker tells, in a directory the chunk itself.
    fn nature_of(&self, files: &dyn Files, digest: &Digest, marker: &Marker) -> Result<Nature> {
        if !self.directory {
            return Ok(marker.nature);
        }
        let path = self.markers.path(digest);
        let start = files.read_at(&path, 0, 8).about(&path)?;
        Ok([BlobKind::Plain, BlobKind::Encrypted]
            .into_iter()
            .find(|kind| same_nature(&start, *kind))
            .map_or(Nature::Unknown, |kind| Nature::of(kind.is_encrypted())))
    }
}
