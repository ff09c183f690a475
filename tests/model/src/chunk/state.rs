//! What there is: the bucket, the cache directory, the daemon's memory, and what is on its way.

use std::fmt;

/// A moment. Marks made at the same moment as a cutoff still protect.
pub type Tick = u8;

/// Most digests of a model.
pub const DIGESTS: usize = 2;
/// Writers of a model.
pub const WRITERS: usize = 2;
/// The snapshots of the writers, and the one that was there before.
pub const SNAPSHOTS: usize = WRITERS + 1;
/// Index of the snapshot that was there before.
pub const BASE: usize = WRITERS;

/// A set of digests.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Digests(u8);

impl Digests {
    /// Of one.
    pub fn of(digest: usize) -> Self {
        Self(1 << digest)
    }

    /// Of the first `count`.
    pub fn first(count: usize) -> Self {
        Self((1 << count) - 1)
    }

    /// Whether it holds the digest.
    pub fn has(self, digest: usize) -> bool {
        self.0 & (1 << digest) != 0
    }

    /// Whether it holds none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Puts one in.
    pub fn add(&mut self, digest: usize) {
        self.0 |= 1 << digest;
    }

    /// Takes one out.
    pub fn remove(&mut self, digest: usize) {
        self.0 &= !(1 << digest);
    }

    /// What is in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in either.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in this one only.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..DIGESTS).filter(move |digest| self.has(*digest))
    }
}

impl fmt::Debug for Digests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A stored chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Object {
    /// `LastModified`.
    pub written: Tick,
    /// It is what its digest says.
    pub good: bool,
}

/// The bucket, and requests that were given up and may still take effect (A1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// `.chunks/`.
    pub chunks: [Option<Object>; DIGESTS],
    /// Puts with `If-None-Match: *` on their way.
    pub late_puts: Digests,
    /// Deletes on their way.
    pub late_deletes: Digests,
}

/// The files of the cache directory, with their times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Disk {
    /// Markers: the object exists.
    pub marker: [Option<Tick>; DIGESTS],
    /// Upload markers.
    pub upload: [Option<Tick>; DIGESTS],
    /// Using markers.
    pub using: [Option<Tick>; DIGESTS],
    /// The digests in the journal; empty: there is none.
    pub journal: Digests,
}

/// What the chunk table says of a digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sentence {
    /// Anybody may use it.
    #[default]
    Free,
    /// Until its batch, or the recovery, releases it.
    Condemned,
    /// Until the process ends: its batch has failed.
    Abandoned,
}

/// Where a writer's session is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Not begun.
    #[default]
    Absent,
    /// Is told things.
    Open,
    /// Its connection is gone, its upload still runs.
    Left,
    /// Has ended, sealed or not.
    Over,
}

/// The next step of an insert that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Next {
    /// Without the joiner's rule: waits to be told with the upload it has joined.
    Join,
    /// Touch the upload marker.
    Three,
    /// Put.
    Four,
    /// Look at what is there already.
    FourLook,
    /// The marker.
    Five,
    /// Drop the upload marker, tell.
    Six,
    /// Without the rule: failed, and holds the guard for ever.
    Stuck,
}

/// A writer: one session that inserts, adopts and seals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Writer {
    /// Of its session.
    pub phase: Phase,
    /// When the session began.
    pub start: Tick,
    /// What it has seen in the base snapshot.
    pub knows: Digests,
    /// What it was told exists.
    pub told: Digests,
    /// What it was told and then told to be lost.
    pub lost: Digests,
    /// The insert under way.
    pub insert: Option<(Next, usize)>,
}

impl Writer {
    /// Whether it bounds the cutoff.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Left)
    }

    /// What it relies on.
    pub fn relies_on(&self) -> Digests {
        if self.phase == Phase::Open {
            self.told.minus(self.lost)
        } else {
            Digests::default()
        }
    }
}

/// How far a collection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Run {
    /// None runs.
    #[default]
    Idle,
    /// Has read the first of start and sessions.
    Started,
    /// Marks; this snapshot is next.
    Marking(u8),
    /// Has marked everything.
    Marked,
    /// Has a page of the listing and compares it with the marks.
    Listed,
    /// Acts on what the comparison found.
    Acting,
}

/// A collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Collector {
    /// How far.
    pub run: Run,
    /// When it began.
    pub start: Tick,
    /// Start of the oldest open session.
    pub oldest: Option<Tick>,
    /// Marks older than this protect nothing.
    pub cutoff: Tick,
    /// The listing: when each was written.
    pub listed: [Option<Tick>; DIGESTS],
    /// Nothing protects them.
    pub candidates: Digests,
    /// Named by an index, stored, without marker.
    pub findings: Digests,
    /// Set aside since the run began: the listing says nothing of them.
    pub aside: Digests,
}

/// How far a delete batch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stage {
    /// There is none.
    #[default]
    None,
    /// Step 1 is done.
    Condemned,
    /// Step 2 is done.
    Journalled,
    /// Step 4 is done.
    Deleted,
    /// The first half of step 5 is done: markers are removed.
    Forgotten,
    /// Step 5 is done: that is durable.
    Durable,
    /// Step 6 is done: nothing can come late.
    Waited,
    /// Step 7 is done: the journal is gone.
    Cleared,
    /// Without the rule: released before the journal is cleared.
    ReleasedEarly,
}

/// The delete batch under way, of a collection or of a chunk that is set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Batch {
    /// How far.
    pub stage: Stage,
    /// What it condemned.
    pub digests: Digests,
    /// Keys of which no answer says that they are deleted.
    pub doubtful: Digests,
    /// It sets a chunk aside.
    pub aside: bool,
}

/// What may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Left {
    /// The clock may advance.
    pub ticks: u8,
    /// Collections.
    pub runs: u8,
    /// Crashes.
    pub crashes: u8,
    /// Lost answers.
    pub lost: u8,
    /// Failures of the local disk in a batch.
    pub faults: u8,
    /// Readers that find a corrupt object.
    pub reports: u8,
}

/// Promises that were broken on the way here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Broken {
    /// I1: somebody was told of a chunk that is not stored.
    pub told_falsely: bool,
    /// I2: a chunk that is relied upon was deleted.
    pub deleted_in_use: bool,
    /// I5: somebody was told of a condemned chunk.
    pub told_condemned: bool,
}

/// Everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// `Env`'s wall clock.
    pub now: Tick,
    /// S3.
    pub bucket: Bucket,
    /// The cache directory.
    pub disk: Disk,
    /// What of it a loss of power leaves; kept only where that is modelled.
    pub synced: Disk,
    /// The daemon runs.
    pub up: bool,
    /// It was started after a crash, and T has not passed since.
    pub settling: bool,
    /// The chunk table.
    pub table: [Sentence; DIGESTS],
    /// What the recovery holds condemned.
    pub recovering: Digests,
    /// Sessions.
    pub writers: [Writer; WRITERS],
    /// Sealed snapshots.
    pub snapshots: [Digests; SNAPSHOTS],
    /// Chunks of sealed snapshots that were corrupt and are gone.
    pub damaged: Digests,
    /// The collection.
    pub collector: Collector,
    /// The delete batch.
    pub batch: Batch,
    /// Reports of corrupt chunks that wait to be acted on.
    pub reports: u8,
    /// What may still happen.
    pub left: Left,
    /// What should not have happened.
    pub broken: Broken,
}

impl State {
    /// What somebody relies on: sealed snapshots, and open sessions by what they were told.
    pub fn relied_on(&self) -> Digests {
        let sealed = self
            .snapshots
            .iter()
            .fold(Digests::default(), |all, one| all.or(*one));
        let told = self
            .writers
            .iter()
            .fold(Digests::default(), |all, one| all.or(one.relies_on()));
        sealed.minus(self.damaged).or(told)
    }

    /// Tells a session that a chunk is there.
    pub fn tell(&mut self, writer: usize, digest: usize) {
        if self.writers[writer].phase != Phase::Open {
            return;
        }
        self.broken.told_falsely |= self.bucket.chunks[digest].is_none();
        self.broken.told_condemned |= self.table[digest] != Sentence::Free;
        self.writers[writer].told.add(digest);
        self.writers[writer].lost.remove(digest);
    }

    /// Tells all open sessions that a chunk is lost.
    pub fn announce_lost(&mut self, digest: usize) {
        for writer in &mut self.writers {
            if writer.is_open() && writer.told.has(digest) {
                writer.lost.add(digest);
            }
        }
    }

    /// A put takes effect.
    pub fn store(&mut self, digest: usize) {
        self.bucket.chunks[digest] = Some(Object {
            written: self.now,
            good: true,
        });
        self.damaged.remove(digest);
    }

    /// A delete takes effect.
    pub fn delete(&mut self, digest: usize) {
        if let Some(object) = self.bucket.chunks[digest].take() {
            if !object.good {
                self.damaged.add(digest);
            }
            self.broken.deleted_in_use |= self.relied_on().has(digest);
        }
    }
}
