//! Progress: when nothing goes wrong any more, everything comes to its end.
//!
//! stateright's `eventually` misses counterexamples where paths join or run in circles, so it is not used. Instead, from
//! **every** reachable state the model is run on with *helpful* actions alone (steps that go well, answers that arrive, clients
//! that leave, a restart where one is needed). That graph must have no circle, and each of its ends must be *settled*. So
//! whatever has happened, every run of helpful actions ends, and ends well: no insert waits for ever, and garbage goes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;

use stateright::Model;

use crate::trial::{Counterexample, Finding, timed};

/// A model that can say what helps, and when it has come to rest.
pub trait Settles: Model {
    /// Actions that bring things to an end; may go beyond what bounds the model otherwise.
    fn helpful(&self, state: &Self::State, actions: &mut Vec<Self::Action>);

    /// Whether nothing is left to be done; otherwise what is, in words.
    fn settled(&self, state: &Self::State) -> Result<(), &'static str>;
}

/// Name of the property.
pub const SETTLES: &str = "everything comes to an end";

/// What is known of a state in the graph of helpful actions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    OnPath,
    Good,
}

/// Checks every reachable state.
pub fn settle<M>(model: &M) -> Finding
where
    M: Settles,
    M::State: Clone + Debug + Eq + Hash,
    M::Action: Clone + Debug,
{
    let (finding, elapsed) = timed(|| run(model));
    Finding { elapsed, ..finding }
}

fn run<M>(model: &M) -> Finding
where
    M: Settles,
    M::State: Clone + Debug + Eq + Hash,
    M::Action: Clone + Debug,
{
    let mut finding = Finding::default();
    let mut reached: HashSet<M::State> = model.init_states().into_iter().collect();
    let mut queue: VecDeque<M::State> = reached.iter().cloned().collect();
    let mut known = HashMap::new();
    let mut actions = Vec::new();
    while let Some(state) = queue.pop_front() {
        if let Err((why, mut path)) = settles_from(model, &state, &mut known, &mut finding.depth) {
            path.insert(0, format!("from {state:?}"));
            path.push(why.to_owned());
            finding.counterexample = Some(Counterexample {
                property: SETTLES,
                actions: path,
            });
            break;
        }
        model.actions(&state, &mut actions);
        for action in actions.drain(..) {
            finding.states += 1;
            if let Some(next) = model.next_state(&state, action)
                && reached.insert(next.clone())
            {
                queue.push_back(next);
            }
        }
    }
    finding.unique = reached.len().max(known.len());
    finding
}

/// One state on the path, and what is still to be tried from it.
struct Visit<M: Model> {
    state: M::State,
    untried: Vec<M::Action>,
    came_by: Option<String>,
}

type Failure = (&'static str, Vec<String>);

fn settles_from<M>(
    model: &M,
    from: &M::State,
    known: &mut HashMap<M::State, Seen>,
    depth: &mut usize,
) -> Result<(), Failure>
where
    M: Settles,
    M::State: Clone + Eq + Hash,
    M::Action: Clone + Debug,
{
    if known.contains_key(from) {
        return Ok(());
    }
    let visit = |state: M::State, came_by| {
        let mut untried = Vec::new();
        model.helpful(&state, &mut untried);
        Visit::<M> {
            state,
            untried,
            came_by,
        }
    };
    let steps = |path: &[Visit<M>]| {
        path.iter()
            .filter_map(|visit| visit.came_by.clone())
            .collect()
    };
    known.insert(from.clone(), Seen::OnPath);
    let mut path = vec![visit(from.clone(), None)];
    if path[0].untried.is_empty() {
        model.settled(from).map_err(|why| (why, Vec::new()))?;
    }
    while let Some(last) = path.last_mut() {
        let Some(action) = last.untried.pop() else {
            known.insert(last.state.clone(), Seen::Good);
            path.pop();
            continue;
        };
        let Some(next) = model.next_state(&last.state, action.clone()) else {
            continue;
        };
        match known.get(&next) {
            Some(Seen::Good) => {}
            Some(Seen::OnPath) => return Err(("it goes round in circles", steps(&path))),
            None => {
                known.insert(next.clone(), Seen::OnPath);
                let visit = visit(next, Some(format!("{action:?}")));
                let ends = visit.untried.is_empty();
                path.push(visit);
                *depth = (*depth).max(path.len());
                if ends {
                    let end = &path[path.len() - 1].state;
                    model.settled(end).map_err(|why| (why, steps(&path)))?;
                }
            }
        }
    }
    Ok(())
}
