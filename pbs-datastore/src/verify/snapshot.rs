//! The files of one snapshot, and their chunks.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use jiff::Timestamp;

use super::inventory::fits;
use super::{FAULTS_LOGGED_MAX, Known, READS_MAX, Verifier, VerifyLimits};
use crate::{
    ArchiveKind, BlobError, ChunkReader, CryptMode, Digest, Env, Error, Index, IndexChunk,
    JobContext, ManifestFile, Place, Result, SnapshotRef,
};

/// Digests that are looked up at once.
pub(super) const BATCH: usize = 4096;

/// What is wrong with one snapshot, told as it is found.
struct Faults<'a> {
    job: &'a JobContext,
    count: u64,
}

impl Faults<'_> {
    fn add(&mut self, text: impl std::fmt::Display) {
        self.count += 1;
        if self.count <= FAULTS_LOGGED_MAX {
            self.job.log(text.to_string());
        } else if self.count == FAULTS_LOGGED_MAX + 1 {
            self.job.log("further faults are counted only");
        }
    }
}

/// What steps 1 to 3 found.
pub(super) struct Examined {
    pub(super) faults: u64,
    /// Everything was looked at.
    pub(super) complete: bool,
}

impl Verifier {
    /// Steps 1 to 3.
    pub(super) async fn examine(&mut self, id: &SnapshotRef, job: &JobContext) -> Result<Examined> {
        let mut complete = true;
        let mut faults = Faults { job, count: 0 };
        let snapshots = Arc::clone(self.datastore.snapshots());
        let contents = Arc::clone(snapshots.contents());
        if self.sample.is_none() && contents.stored(&id.manifest()).await?.is_none() {
            return Err(Error::NotFound(format!("finished snapshot {id}")));
        }
        snapshots.changed(id);
        let manifest = match snapshots.sealed(id).await {
            Ok(manifest) => manifest,
            Err(Error::Invalid(why)) => {
                faults.add(why);
                return Ok(Examined {
                    faults: faults.count,
                    complete: true,
                });
            }
            Err(error) => return Err(error),
        };
        for file in manifest.files() {
            job.check()?;
            let (place, kind) = (id.file(&file.name), file.name.kind());
            if kind == ArchiveKind::Blob {
                let checked = file.clone();
                let check = move |bytes| checked.check_blob(&bytes);
                if let Err(why) = self.file(&place, check, |()| true).await? {
                    faults.add(format_args!("{}: {why}", file.name));
                }
                continue;
            }
            let checked = file.clone();
            let parse = move |bytes| {
                let index = Index::parse(kind, bytes).map_err(|error| error.to_string())?;
                Ok((checked.check_index(&index).err(), index))
            };
            match self.file(&place, parse, |(why, _)| why.is_none()).await? {
                Ok((why, index)) => {
                    if let Some(why) = why {
                        faults.add(format_args!("{}: {why}", file.name));
                    }
                    complete &= self.examine_chunks(file, &index, &mut faults).await?;
                }
                Err(why) => faults.add(format_args!("{}: {why}", file.name)),
            }
        }
        Ok(Examined {
            faults: faults.count,
            complete,
        })
    }

    /// What `judge` makes of a file as it is stored; a run that does not read everything asks for it only if the local copy is not `good`.
    async fn file<T: Send + 'static>(
        &self,
        place: &Place,
        judge: impl Fn(Bytes) -> std::result::Result<T, String> + Clone + Send + 'static,
        good: impl FnOnce(&T) -> bool,
    ) -> Result<std::result::Result<T, String>> {
        let contents = self.datastore.snapshots().contents();
        let env = self.datastore.env();
        if self.sample.is_some()
            && let Some(bytes) = contents.read(place).await?
        {
            let judge = judge.clone();
            let found = env.compute(move || judge(bytes)).await;
            if found.as_ref().is_ok_and(good) {
                return Ok(found);
            }
        }
        match contents.stored(place).await? {
            Some(bytes) => Ok(env.compute(move || judge(bytes)).await),
            None => Ok(Err("the file is missing".to_owned())),
        }
    }

    /// Answers whether all chunks were looked at.
    async fn examine_chunks(
        &mut self,
        file: &ManifestFile,
        index: &Index,
        faults: &mut Faults<'_>,
    ) -> Result<bool> {
        let last = index.len().saturating_sub(1);
        let whole = |entry| matches!(index, Index::Dynamic(_)) || entry != last;
        let encrypted = file.crypt_mode == CryptMode::Encrypt;
        let mut asked = HashSet::new();
        let mut reads = Vec::new();
        for (entry, chunk) in index.chunks().enumerate() {
            if !asked.insert(chunk.digest) {
                continue;
            }
            let whole = whole(entry);
            match self.known.get(&chunk.digest) {
                Some(Known::Present { length }) if !fits(&chunk, whole, encrypted, *length) => {
                    reads.push((chunk, whole));
                }
                Some(known) => judge(file, &chunk, whole, known, faults),
                None => reads.push((chunk, whole)),
            }
        }
        drop(asked);
        if let Some(sample) = &self.sample {
            let sorted = sample.sort(&self.datastore, encrypted, &reads, faults.job);
            let sorted = sorted.await?;
            self.progress.pass(sorted.present.len());
            for (digest, length) in sorted.present {
                self.remember(digest, Known::Present { length });
            }
            let unlimited = VerifyLimits::default();
            self.read_some(file, sorted.doubtful, unlimited, faults)
                .await?;
            reads = sorted.chosen;
        }
        self.trust_some(file, &mut reads, faults).await?;
        let left = self.read_some(file, reads, self.limits, faults).await?;
        if self.sample.is_some() {
            self.progress.pass(left);
            return Ok(true);
        }
        Ok(left == 0)
    }

    /// Reads chunks until the limits are used up; how many are left.
    async fn read_some(
        &mut self,
        file: &ManifestFile,
        reads: Vec<(IndexChunk, bool)>,
        limits: VerifyLimits,
        faults: &mut Faults<'_>,
    ) -> Result<usize> {
        if limits.is_used_up(self.progress.counts()) {
            return Ok(reads.len());
        }
        let (reader, env) = (
            self.datastore.reader().clone(),
            self.datastore.env().clone(),
        );
        let job = faults.job;
        let total = reads.len();
        let mut done = 0;
        let mut results = futures_util::stream::iter(reads)
            .map(|(chunk, whole)| {
                let (reader, env) = (reader.clone(), env.clone());
                async move {
                    job.check()?;
                    let read = read(&reader, &env, chunk).await;
                    Ok::<_, Error>((chunk, whole, read?))
                }
            })
            .buffer_unordered(READS_MAX);
        while let Some(result) = results.next().await {
            let (chunk, whole, read) = result?;
            let digest = chunk.digest;
            done += 1;
            let bytes = read.as_ref().map_or(0, |read| read.bytes);
            self.progress.read(bytes, done, total, job);
            let known = match read {
                Ok(read) => Known::Good {
                    encrypted: read.encrypted,
                    length: read.length,
                },
                Err(why) => {
                    faults.add(format_args!("{}: {why}", file.name));
                    self.note(&digest, None);
                    self.remember(digest, Known::Bad);
                    continue;
                }
            };
            judge(file, &chunk, whole, &known, faults);
            self.note(&digest, Some(&known));
            self.remember(digest, known);
            self.save_sometimes(job).await;
            if limits.is_used_up(self.progress.counts()) {
                break;
            }
        }
        Ok(total - done)
    }
}

impl Verifier {
    /// Takes out of `reads` what was found good not long ago, and judges that.
    async fn trust_some(
        &mut self,
        file: &ManifestFile,
        reads: &mut Vec<(IndexChunk, bool)>,
        faults: &mut Faults<'_>,
    ) -> Result<()> {
        let (Some(trust), Some(record)) = (self.trust, self.record.clone()) else {
            return Ok(());
        };
        let datastore = Arc::clone(&self.datastore);
        let since = datastore.env().now().checked_sub(trust);
        let since = since.unwrap_or(Timestamp::MIN);
        let mut left = Vec::with_capacity(reads.len());
        for batch in reads.chunks(BATCH) {
            faults.job.check()?;
            let digests = batch.iter().map(|(chunk, _)| chunk.digest).collect();
            let trusted = datastore
                .verified()
                .trusted(&record, digests, since)
                .await?;
            self.progress.trust(trusted.len());
            for (chunk, whole) in batch {
                let Some(seen) = trusted.get(&chunk.digest) else {
                    left.push((*chunk, *whole));
                    continue;
                };
                let known = Known::Good {
                    encrypted: seen.encrypted(),
                    length: seen.length(),
                };
                judge(file, chunk, *whole, &known, faults);
                self.remember(chunk.digest, known);
            }
        }
        *reads = left;
        Ok(())
    }

    /// Remembers beyond this run what a chunk was found to be.
    fn note(&self, digest: &Digest, known: Option<&Known>) {
        let Some(record) = &self.record else {
            return;
        };
        match known {
            Some(Known::Good { encrypted, length }) => {
                record.note(digest, *encrypted, *length, self.datastore.env().now());
            }
            Some(Known::Bad | Known::Present { .. }) | None => record.forget(digest),
        }
    }
}

/// What a chunk that was read means for a file that needs it.
fn judge(
    file: &ManifestFile,
    chunk: &IndexChunk,
    whole: bool,
    known: &Known,
    faults: &mut Faults<'_>,
) {
    let digest = &chunk.digest;
    let encrypted = file.crypt_mode == CryptMode::Encrypt;
    match known {
        Known::Bad => faults.add(format_args!("{}: chunk {digest} is known bad", file.name)),
        Known::Good {
            encrypted: found, ..
        } if *found != encrypted => {
            let words = |encrypted| {
                if encrypted {
                    "encrypted"
                } else {
                    "not encrypted"
                }
            };
            faults.add(format_args!(
                "{}: chunk {digest} is {}, the file is {}",
                file.name,
                words(*found),
                words(encrypted)
            ));
        }
        // Of what is encrypted nobody here knows the length. The end of an image may be stored as a full chunk.
        Known::Good {
            encrypted: false,
            length,
        } if chunk.len() != *length && (whole || chunk.len() > *length) => {
            faults.add(format_args!(
                "{}: chunk {digest} has {length} bytes, the index says {}",
                file.name,
                chunk.len()
            ));
        }
        Known::Good { .. } | Known::Present { .. } => {}
    }
}

/// A chunk that was read and is whole.
struct ChunkRead {
    encrypted: bool,
    /// Of its content; if that is encrypted, as the index has it.
    length: u64,
    /// As it is stored.
    bytes: u64,
}

/// Reads one chunk, or says what is wrong with it. The outer error is that of the way to it.
async fn read(
    reader: &ChunkReader,
    env: &Env,
    entry: IndexChunk,
) -> Result<std::result::Result<ChunkRead, String>> {
    let chunk = match reader.read_stored(&entry.digest, Some(entry.len())).await {
        Ok(chunk) => chunk,
        Err(error @ (Error::ChunkMissing { .. } | Error::ChunkCorrupt { .. })) => {
            return Ok(Err(error.to_string()));
        }
        Err(error) => return Err(error),
    };
    let mut read = ChunkRead {
        length: entry.len(),
        encrypted: chunk.is_encrypted(),
        bytes: chunk.encoded_len() as u64,
    };
    let check = move || chunk.verify_chunk(&entry.digest, Some(entry.len()));
    Ok(match env.compute(check).await {
        Ok(()) => Ok(read),
        // The digest is right: it is the index that is wrong, or names a full chunk for the short end of an image.
        Err(BlobError::SizeMismatch { actual, .. }) => {
            read.length = actual;
            Ok(read)
        }
        Err(error) => Err(format!("chunk {}: {error}", entry.digest)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_length_is_the_fault_of_the_index_that_has_it() {
        let file = |crypt_mode| ManifestFile {
            name: "a.fidx".parse().unwrap(),
            crypt_mode,
            size: 1,
            csum: None,
        };
        let job = JobContext::detached();
        let known = |encrypted| Known::Good {
            encrypted,
            length: 100,
        };
        let (plain, encrypted) = (CryptMode::None, CryptMode::Encrypt);
        // Whether it is the short end of an image, what the index says, and the faults.
        for (mode, whole, says, expected) in [
            (plain, true, 100, 0),
            (plain, true, 99, 1),
            (plain, true, 101, 1),
            (plain, false, 99, 0),
            (plain, false, 101, 1),
            (encrypted, true, 101, 0),
        ] {
            let chunk = IndexChunk {
                digest: Digest::of(b"x"),
                start: 7,
                end: 7 + says,
            };
            let mut faults = Faults {
                job: &job,
                count: 0,
            };
            let known = known(mode == encrypted);
            judge(&file(mode), &chunk, whole, &known, &mut faults);
            assert_eq!(faults.count, expected, "{mode:?} {whole} {says}");
        }
    }
}
