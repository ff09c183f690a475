//! One question to a model: with these rules, at this size, does it keep its promises?

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use stateright::{Checker, Expectation, HasDiscoveries, Model, Property};

use crate::rules::{Rule, Without};

/// What a trial must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No property is violated in any reachable state, and everything that must be reachable is.
    Holds,
    /// These properties are not violated in any reachable state; others may be.
    Keeps(&'static [&'static str]),
    /// One of these properties is violated.
    Breaks(&'static [&'static str]),
}

/// A run of actions that violates a property.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// Which property.
    pub property: &'static str,
    /// What happens, one action a line.
    pub actions: Vec<String>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Finding {
    /// States generated, repetitions included.
    pub states: usize,
    /// Different states.
    pub unique: usize,
    /// Longest run of actions.
    pub depth: usize,
    /// How long it took.
    pub elapsed: Duration,
    /// The first violation met.
    pub counterexample: Option<Counterexample>,
    /// What should have been reachable and was not.
    pub unreached: Vec<&'static str>,
}

/// A model with a name, a size and a choice of rules, and what is expected of it.
pub struct Trial {
    /// The model's name.
    pub model: &'static str,
    /// Scenario and switches.
    pub name: String,
    /// The rules that are off, as in `Debug`.
    pub off: Vec<String>,
    /// What it must come to.
    pub expect: Expect,
    run: Box<dyn Fn() -> Finding + Send + Sync>,
}

impl fmt::Debug for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.model, self.name)
    }
}

impl Trial {
    /// A trial whose question `run` answers.
    pub fn new(
        model: &'static str,
        scenario: &str,
        without: &Without<impl Rule>,
        expect: Expect,
        run: impl Fn() -> Finding + Send + Sync + 'static,
    ) -> Self {
        Self {
            model,
            name: format!("{scenario}, {without}"),
            off: without
                .rules()
                .iter()
                .map(|rule| format!("{rule:?}"))
                .collect(),
            expect,
            run: Box::new(run),
        }
    }

    /// Asks.
    pub fn run(&self) -> Finding {
        (self.run)()
    }

    /// Whether the finding is the expected one; otherwise what is wrong with it, in words.
    pub fn judge(&self, finding: &Finding) -> Result<(), String> {
        match (self.expect, &finding.counterexample) {
            (Expect::Holds, None) if finding.unreached.is_empty() => Ok(()),
            (Expect::Holds, None) => Err(format!(
                "{self:?}: never reached: {}",
                finding.unreached.join(", ")
            )),
            (Expect::Keeps(_), None) => Ok(()),
            (Expect::Holds | Expect::Keeps(_), Some(found)) => Err(format!(
                "{self:?}: violates '{}':\n{}",
                found.property,
                found.actions.join("\n")
            )),
            (Expect::Breaks(names), Some(found)) if names.contains(&found.property) => Ok(()),
            (Expect::Breaks(names), _) => Err(format!(
                "{self:?}: expected a violation of {}, found none in {} states",
                names.join(" or "),
                finding.unique
            )),
        }
    }
}

/// Measures how long something takes.
#[expect(
    clippy::disallowed_methods,
    reason = "no replay depends on it: it is only shown"
)]
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = std::time::Instant::now();
    let result = work();
    (result, began.elapsed())
}

/// Explores every state that a model can reach, or for an expected violation until one is found.
///
/// A search for a violation runs on one thread, breadth first, so it finds the same each time; [`shorten`] leaves of it what
/// matters.
pub fn explore<M>(model: M, expect: Expect) -> Finding
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: fmt::Debug + Clone + PartialEq + std::hash::Hash + Send + Sync + 'static,
    M::Action: fmt::Debug + Clone + PartialEq + Send + Sync + 'static,
{
    let any_of = |names: &[&'static str]| {
        HasDiscoveries::AnyOf(names.iter().copied().collect::<BTreeSet<_>>())
    };
    let (threads, finish) = match expect {
        Expect::Holds => (2, HasDiscoveries::AnyFailures),
        Expect::Keeps(names) => (2, any_of(names)),
        Expect::Breaks(names) => (1, any_of(names)),
    };
    let (checker, elapsed) = timed(|| {
        let checker = model.clone().checker();
        checker
            .threads(threads)
            .finish_when(finish)
            .spawn_bfs()
            .join()
    });
    let mut finding = Finding {
        states: checker.state_count(),
        unique: checker.unique_state_count(),
        depth: checker.max_depth(),
        elapsed,
        ..Finding::default()
    };
    for property in model.properties() {
        let found = checker.discovery(property.name);
        match (&property.expectation, found) {
            (Expectation::Sometimes, None) => finding.unreached.push(property.name),
            (Expectation::Sometimes, Some(_)) | (_, None) => {}
            (_, Some(path)) => {
                let wanted = match expect {
                    Expect::Holds => true,
                    Expect::Keeps(names) | Expect::Breaks(names) => names.contains(&property.name),
                };
                if wanted && finding.counterexample.is_none() {
                    let actions = shorten(&model, &property, path.into_actions());
                    finding.counterexample = Some(Counterexample {
                        property: property.name,
                        actions: actions.iter().map(|action| format!("{action:?}")).collect(),
                    });
                }
            }
        }
    }
    finding
}

/// Leaves out of a run of actions what is not needed for the violation: no action of the result can be spared.
fn shorten<M>(model: &M, property: &Property<M>, mut actions: Vec<M::Action>) -> Vec<M::Action>
where
    M: Model,
    M::Action: Clone + PartialEq,
{
    if let Some(length) = violation(model, property, &actions) {
        actions.truncate(length);
    }
    let mut index = actions.len();
    while index > 0 {
        index -= 1;
        let mut fewer = actions.clone();
        fewer.remove(index);
        if let Some(length) = violation(model, property, &fewer) {
            fewer.truncate(length);
            actions = fewer;
            index = actions.len();
        }
    }
    actions
}

/// After how many of the actions the property is violated, if they can happen from some beginning.
fn violation<M>(model: &M, property: &Property<M>, actions: &[M::Action]) -> Option<usize>
where
    M: Model,
    M::Action: Clone + PartialEq,
{
    let holds = property.condition;
    model.init_states().into_iter().find_map(|mut state| {
        let mut possible = Vec::new();
        for (done, action) in actions.iter().enumerate() {
            if !holds(model, &state) {
                return Some(done);
            }
            possible.clear();
            model.actions(&state, &mut possible);
            if !possible.contains(action) {
                return None;
            }
            state = model.next_state(&state, action.clone())?;
        }
        (!holds(model, &state)).then_some(actions.len())
    })
}
