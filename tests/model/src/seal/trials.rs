//! Which questions are put to the model of the seal.
use super::{Rule, Seal};
use crate::rules::{Without, Rule as _};
use crate::trial::{Expect, Trial, explore};

fn trial(lost: u8, off: &[Rule], expect: Expect) -> Trial {
    let without = Without::these(off);
    let model = Seal { lost, crashes: 1, corrupt: 1, replaces: true, removals: true, without: without.clone() };
    Trial::new("seal", "one folder", &without, expect, move || explore(model.clone(), expect))
}

/// All of them.
pub fn trials(_large: bool) -> Vec<Trial> {
    let mut v = vec![trial(2, &[], Expect::Holds)];
    v.extend(Rule::ALL.iter().map(|r| trial(2, &[*r], Expect::Holds)));
    v.extend(Rule::ALL.iter().filter(|r| **r != Rule::SnapshotLocked).map(|r| trial(2, &[Rule::SnapshotLocked, *r], Expect::Holds)));
    v
}
