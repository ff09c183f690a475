//! A daemon, its cache directory, and the record in the bucket.

/// What the bucket says of the time before the last start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Settled {
    /// Nothing of it is on its way.
    #[default]
    Settled,
    /// Requests may be.
    Unclean,
    /// Its owner may even be alive, with a pass in hand.
    TakenOver,
}

/// `.in-use`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// Which instance.
    pub holder: u8,
    /// Which start of it.
    pub start: u8,
    /// Rises before deletes.
    pub epoch: u8,
    /// Id of the last clean stop; 0: none since the start.
    pub stop: u8,
    /// The last owner stopped cleanly.
    pub clean: bool,
    /// What the last start waits for.
    pub pending: Settled,
    /// Until then it answers nothing: what its directory knew is lost.
    pub unanswered: bool,
}

/// A cache directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Directory {
    /// There is one.
    pub exists: bool,
    /// The last start that held the prefix.
    pub start: u8,
    /// A start that the bucket may know.
    pub starting: u8,
    /// The epoch.
    pub epoch: u8,
    /// The last clean stop.
    pub stop: u8,
    /// The chunk's marker.
    pub marker: bool,
    /// The journal names the chunk.
    pub journal: bool,
}

/// How far a start is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Starting {
    /// It does not run.
    #[default]
    Down,
    /// Step 3 is done.
    Noted,
    /// Step 4 is done; its markers are to be dropped.
    Dropping,
    /// Step 4 is done; the directory is to agree.
    Agreeing,
    /// It runs.
    Up,
}

/// What a daemon waits for after its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Wait {
    /// Nothing.
    #[default]
    Over,
    /// T.
    Late,
    /// W + T.
    LateAndWindow,
}

/// How far a batch of deletes is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stage {
    /// There is none.
    #[default]
    None,
    /// Condemned and journalled.
    Condemned,
    /// The fence has confirmed.
    Fenced,
    /// The epoch is raised in the bucket.
    EpochInBucket,
    /// And in the directory.
    Confirmed,
    /// Deleted.
    Deleted,
    /// The marker is removed.
    Forgotten,
}

/// A daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Daemon {
    /// How far its start is.
    pub starting: Starting,
    /// The id of its start.
    pub start: u8,
    /// The record that its start has read.
    pub found: Option<Record>,
    /// Its directory was trusted.
    pub trusted: bool,
    /// It answers nothing before its wait is over.
    pub unanswered: bool,
    /// What it waits for.
    pub wait: Wait,
    /// A session of it was told of the chunk.
    pub told: bool,
    /// It has confirmed its ownership and may act on that.
    pub pass: bool,
    /// The same, for a seal.
    pub seal_pass: bool,
    /// The batch under way.
    pub stage: Stage,
    /// The recovery of the journal holds the chunk.
    pub recovering: bool,
}

impl Daemon {
    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        self.starting == Starting::Up
    }

    /// Whether nobody is told of the chunk.
    pub fn is_condemned(&self) -> bool {
        self.recovering || self.stage != Stage::None
    }

    /// Whether it answers nothing yet.
    pub fn holds_back(&self) -> bool {
        self.unanswered && self.wait != Wait::Over
    }
}
