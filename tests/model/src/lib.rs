//! Small exhaustive models of Holdfast's protocols, with a switch for every rule.
//!
//! A model is a protocol as a state machine, cut down to what its question needs: one or two digests, two writers, a
//! collection or two, some crashes, some lost answers. [stateright] visits **every** state that it can reach, in every
//! interleaving. Actions carry the step numbers of the module headers of the code and of `docs/protocols`.
//!
//! Every rule of a protocol is a [`rules::Rule`], and every rule is a switch. A [`trial::Trial`] is one question: with these
//! rules off, are the invariants kept? For each rule there is a trial that expects the counterexample; for rules that are a
//! second line there is one that shows that they are, and one in which both lines are off. Assumptions (A1 and others) are
//! switches too: without them something is lost.
//!
//! | model | question |
//! |---|---|
//! | [`chunk`] | inserts against collections, crashes, power loss, late requests, corrupt chunks set aside |
//! | [`cache`] | fills, eviction and reads beside a collection |
//! | [`roots`] | snapshots and sessions while a collection reads them |
//! | [`seal`] | two sessions that write one snapshot, lost answers, removals |
//! | [`owner`] | take-over, copies and losses of the cache directory, starts and stops |
//! | [`nature`] | a forged encrypted chunk under the digest of a plain one |
//!
//! [`design`] says where each rule is that was found to be needed, or redundant, when the protocols were designed.
//! `docs/testing/models.md` says why one may believe all this; `cargo models` prints it.

pub mod cache;
pub mod chunk;
pub mod design;
pub mod nature;
pub mod owner;
pub mod roots;
pub mod rules;
pub mod seal;
pub mod settle;
pub mod trial;

use trial::Trial;

/// All trials of all models, with `large` also those that take minutes.
pub fn trials(large: bool) -> Vec<Trial> {
    let models = [
        chunk::trials::trials,
        cache::trials::trials,
        roots::trials::trials,
        seal::trials::trials,
        owner::trials::trials,
        nature::trials::trials,
    ];
    models.into_iter().flat_map(|model| model(large)).collect()
}
