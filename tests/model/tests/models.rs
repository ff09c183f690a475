//! Every model keeps its promises with all rules on, and breaks one without each rule.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_model::design::{Item, LOSES, REDUNDANT, TOGETHER};
use holdfast_model::rules::Rule;
use holdfast_model::trial::{Expect, Trial};
use holdfast_model::{cache, chunk, nature, owner, roots, seal};

/// Runs all trials of a model and names all that do not come to what they must.
fn run(trials: Vec<Trial>) {
    let failures: Vec<_> = trials
        .iter()
        .filter_map(|trial| trial.judge(&trial.run()).err())
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn inserts_against_collections() {
    run(chunk::trials::trials(false));
}

#[test]
fn cache_beside_a_collection() {
    run(cache::trials::trials(false));
}

#[test]
fn roots_that_change_while_they_are_read() {
    run(roots::trials::trials(false));
}

#[test]
fn seals_with_rivals_and_lost_answers() {
    run(seal::trials::trials(false));
}

#[test]
fn owners_and_their_directories() {
    run(owner::trials::trials(false));
}

#[test]
fn natures_of_chunks() {
    run(nature::trials::trials(false));
}

/// Rules that save work, or a second read, and no chunk.
const SAVES_WORK_ONLY: &[&str] = &["StartNotedFirst", "LeaseUntilUploadEnds", "GroupLocked"];

fn assert_every_rule_is_tried<R: Rule>(trials: &[Trial]) {
    for rule in R::ALL {
        let name = format!("{rule:?}");
        let off = |trial: &&Trial| trial.off.contains(&name);
        let breaks = trials
            .iter()
            .filter(off)
            .any(|trial| matches!(trial.expect, Expect::Breaks(_)));
        let saves = SAVES_WORK_ONLY.contains(&name.as_str());
        assert!(
            breaks != saves,
            "{name}: no trial expects a counterexample without it"
        );
        let alone = |trial: &&Trial| trial.off == [name.clone()];
        assert!(
            trials.iter().any(|trial| alone(&trial)),
            "{name}: never off alone"
        );
    }
}

#[test]
fn every_rule_is_a_switch_that_bites() {
    assert_every_rule_is_tried::<chunk::Rule>(&chunk::trials::trials(false));
    assert_every_rule_is_tried::<cache::Rule>(&cache::trials::trials(false));
    assert_every_rule_is_tried::<roots::Rule>(&roots::trials::trials(false));
    assert_every_rule_is_tried::<seal::Rule>(&seal::trials::trials(false));
    assert_every_rule_is_tried::<owner::Rule>(&owner::trials::trials(false));
    assert_every_rule_is_tried::<nature::Rule>(&nature::trials::trials(false));
}

#[test]
fn what_the_design_found_is_shown_by_a_trial() {
    let mut trials = BTreeMap::<_, BTreeSet<_>>::new();
    for trial in holdfast_model::trials(false) {
        let breaks = matches!(trial.expect, Expect::Breaks(_));
        trials
            .entry((trial.model, trial.off))
            .or_default()
            .insert(breaks);
    }
    let shown = |item: &Item, breaks: bool| {
        let off = item.off.iter().map(|rule| (*rule).to_owned()).collect();
        let found = trials.get(&(item.model, off));
        assert!(
            found.is_some_and(|kinds| kinds.contains(&breaks)),
            "{item:?}"
        );
    };
    for item in LOSES.iter().chain(TOGETHER) {
        shown(item, true);
    }
    for item in REDUNDANT {
        shown(item, false);
    }
}
