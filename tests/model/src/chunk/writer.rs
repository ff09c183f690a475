//! A writer: opens a session, inserts and adopts chunks, seals. Steps 1 to 6 are those of `chunk_store/insert.rs`.

use super::state::{BASE, Digests, Next, Phase, Sentence, State};
use super::{Action, Chunk, Rule};

/// What a writer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterStep {
    /// The session begins: its start is recorded.
    Begin,
    /// Reads which chunks the base snapshot has.
    ReadPrevious,
    /// Registers a known chunk: touches its marker under the guard.
    Adopt(usize),
    /// 1 and 2: guard taken; marker there: touched and told; otherwise on to 3.
    Insert1And2(usize),
    /// Without the joiner's rule: waits for the other's upload to be told with it.
    Insert1Join(usize),
    /// 3: upload marker touched.
    Insert3,
    /// 4: put answered, *created* or 412.
    Insert4Put,
    /// 4: put took effect, its answer is lost.
    Insert4PutAnswerLost,
    /// 4: put given up, and may still take effect.
    Insert4PutLost,
    /// 4: after a 412 a look at what is there.
    Insert4Look,
    /// 4: attempts are used up, the insert fails.
    Insert4Fail,
    /// 5: the marker appears.
    Insert5,
    /// 6: upload marker dropped, session told, guard released.
    Insert6,
    /// The connection breaks. An insert goes on, the session is open until it ends.
    Leave,
    /// The snapshot is sealed; the session ends.
    Seal,
}

use WriterStep::{
    Adopt, Begin, Insert1And2, Insert1Join, Insert3, Insert4Fail, Insert4Look, Insert4Put,
    Insert4PutAnswerLost, Insert4PutLost, Insert5, Insert6, Leave, ReadPrevious, Seal,
};

impl Chunk {
    pub(super) fn writer_actions(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let writer = &state.writers[index];
        let mut push = |step| actions.push(Action::Writer(index, step));
        if let Some((next, digest)) = writer.insert {
            match next {
                Next::Join | Next::Stuck => {}
                Next::Three => push(Insert3),
                Next::Four => {
                    push(Insert4Put);
                    push(Insert4Fail);
                    if state.left.lost > 0 && state.bucket.chunks[digest].is_none() {
                        push(Insert4PutLost);
                        push(Insert4PutAnswerLost);
                    }
                }
                Next::FourLook => push(Insert4Look),
                Next::Five => push(Insert5),
                Next::Six => push(Insert6),
            }
        }
        match writer.phase {
            Phase::Absent => push(Begin),
            Phase::Open => {
                push(Leave);
                if writer.insert.is_none() {
                    self.idle_actions(state, index, &mut push);
                }
            }
            Phase::Left | Phase::Over => {}
        }
    }

    /// What a session without insert can do.
    fn idle_actions(&self, state: &State, index: usize, push: &mut impl FnMut(WriterStep)) {
        let writer = &state.writers[index];
        for digest in 0..self.digests {
            if self.is_usable(state, digest) {
                if !writer.told.has(digest) || writer.lost.has(digest) {
                    push(Insert1And2(digest));
                }
                let marked = state.disk.marker[digest].is_some();
                if writer.knows.has(digest) && !writer.told.has(digest) && marked {
                    push(Adopt(digest));
                }
            } else if !self.follows(Rule::JoinerTouches) && self.is_guarded(state, digest) {
                push(Insert1Join(digest));
            }
        }
        if !self.follows(Rule::KnownChunksTouched) {
            for digest in writer.knows.minus(writer.told).iter() {
                push(Adopt(digest));
            }
        }
        if self.adopts && writer.knows.is_empty() && !state.snapshots[BASE].is_empty() {
            push(ReadPrevious);
        }
        if !writer.told.is_empty() && writer.lost.is_empty() {
            push(Seal);
        }
    }

    /// Whether a use gets the guard.
    fn is_usable(&self, state: &State, digest: usize) -> bool {
        let free = state.table[digest] == Sentence::Free || !self.follows(Rule::WaitForRelease);
        free && !self.is_guarded(state, digest)
    }

    pub(super) fn writer_step(&self, state: &mut State, index: usize, step: WriterStep) {
        let now = state.now;
        match step {
            Begin => {
                state.writers[index].phase = Phase::Open;
                state.writers[index].start = now;
            }
            ReadPrevious => state.writers[index].knows = state.snapshots[BASE],
            Adopt(digest) => {
                if self.follows(Rule::KnownChunksTouched) {
                    state.disk.marker[digest] = Some(now);
                }
                state.tell(index, digest);
            }
            Insert1And2(digest) => {
                if state.disk.marker[digest].is_some() {
                    state.disk.marker[digest] = Some(now);
                    state.tell(index, digest);
                } else {
                    state.writers[index].insert = Some((Next::Three, digest));
                }
            }
            Insert1Join(digest) => state.writers[index].insert = Some((Next::Join, digest)),
            Leave => Self::leave(state, index),
            Seal => {
                state.snapshots[index] = state.writers[index].told;
                Self::end(state, index);
            }
            Insert3 | Insert4Put | Insert4PutAnswerLost | Insert4PutLost | Insert4Look
            | Insert4Fail | Insert5 | Insert6 => self.insert_step(state, index, step),
        }
    }

    fn insert_step(&self, state: &mut State, index: usize, step: WriterStep) {
        let Some((_, digest)) = state.writers[index].insert else {
            return;
        };
        let stored = state.bucket.chunks[digest];
        let next = match step {
            Insert3 => {
                if self.follows(Rule::UploadMarker) {
                    state.disk.upload[digest] = Some(state.now);
                }
                Some(Next::Four)
            }
            Insert4Put => {
                if stored.is_none() {
                    state.store(digest);
                    Some(Next::Five)
                } else {
                    Some(Next::FourLook)
                }
            }
            Insert4PutAnswerLost => {
                state.left.lost -= 1;
                state.store(digest);
                Some(Next::Four)
            }
            Insert4PutLost => {
                state.left.lost -= 1;
                state.bucket.late_puts.add(digest);
                Some(Next::Four)
            }
            Insert4Look => match stored {
                None => Some(Next::Four),
                Some(object) => {
                    // What is damaged is replaced, under the condition that it is still that.
                    if !object.good {
                        state.store(digest);
                    }
                    Some(Next::Five)
                }
            },
            Insert5 => {
                state.disk.marker[digest] = Some(state.now);
                Some(Next::Six)
            }
            Insert6 => {
                state.disk.upload[digest] = None;
                state.tell(index, digest);
                Self::tell_joiners(state, digest);
                None
            }
            Insert4Fail if !self.follows(Rule::FailureFreesGuard) => Some(Next::Stuck),
            _ => None,
        };
        state.writers[index].insert = next.map(|next| (next, digest));
        if next.is_none() {
            if step == Insert4Fail {
                Self::dismiss_joiners(state, digest);
            }
            if state.writers[index].phase == Phase::Left {
                Self::end(state, index);
            }
        }
    }

    fn tell_joiners(state: &mut State, digest: usize) {
        for index in 0..state.writers.len() {
            if state.writers[index].insert == Some((Next::Join, digest)) {
                state.writers[index].insert = None;
                state.tell(index, digest);
            }
        }
    }

    fn dismiss_joiners(state: &mut State, digest: usize) {
        for writer in &mut state.writers {
            if writer.insert == Some((Next::Join, digest)) {
                writer.insert = None;
            }
        }
    }

    fn leave(state: &mut State, index: usize) {
        let writer = &mut state.writers[index];
        writer.told = Digests::default();
        writer.lost = Digests::default();
        writer.knows = Digests::default();
        let uploading = writer.insert.is_some_and(|(next, _)| next != Next::Join);
        if uploading {
            writer.phase = Phase::Left;
        } else {
            Self::end(state, index);
        }
    }

    /// The session is over; nothing of it matters any more.
    fn end(state: &mut State, index: usize) {
        let writer = &mut state.writers[index];
        *writer = super::Writer {
            phase: Phase::Over,
            ..Default::default()
        };
    }
}
