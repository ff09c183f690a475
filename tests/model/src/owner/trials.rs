//! Which questions are put to the model of ownership.
use super::{Rule, Owner};
use crate::rules::{Without, Rule as _};
use crate::trial::{Expect, Trial, explore};

fn trial(take_over: bool, off: &[Rule], expect: Expect) -> Trial {
    let without = Without::these(off);
    let model = Owner { starts: 2, crashes: 2, batches: 1, lost: 1, tampering: if take_over {0} else {2}, take_over, without: without.clone() };
    Trial::new("owner", if take_over {"two"} else {"one"}, &without, expect, move || explore(model.clone(), expect))
}

/// All of them.
pub fn trials(_large: bool) -> Vec<Trial> {
    let mut v = vec![];
    for t in [false, true] { 
    v.push(trial(t, &[], Expect::Holds));
    v.extend(Rule::ALL.iter().map(|r| trial(t, &[*r], Expect::Keeps(&[super::RELIED_ON_IS_STORED])))); }
    v
}
