//! Faults on purpose: a [`FaultPlan`] says what goes wrong, [`FaultyStore`] lets it go wrong around any store.
//!
//! What a network and a server can do to a request (A1, I8):
//! - refuse it before it has any effect, or carry it out and answer 5xx;
//! - carry it out, now, later or never, while the answer is lost;
//! - carry it out twice, because something on the way sent it again;
//! - take its time, ask for fewer requests, or answer a read with too few or with wrong bytes;
//! - refuse some keys of a batch.
//!
//! A request whose effect comes later waits in the *plan*, with the store it is meant for: the process that sent it may
//! be gone when it arrives. [`FaultPlan::deliver_late`] lets it arrive when the test says so, a delay when tokio's clock
//! says so.
//!
//! Rules are asked first, in the order they were added. Where none applies, [`Odds`] roll dice from a seed. Nothing
//! else is random, so the same seed and the same order of requests give the same faults.

mod gate;
mod late;
mod odds;
mod request;
mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::{ErrorKind, Op};

pub use gate::Gate;
pub use late::{Delivery, Reply};
pub use odds::Odds;
pub use store::FaultyStore;

use late::Late;
use odds::Dice;

/// What becomes of a request whose answer is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It takes effect before its answer is lost.
    Now,
    /// It never does.
    Never,
    /// It does when the plan delivers it ([`FaultPlan::deliver_late`]).
    Late,
    /// It does so long after it was given up, by tokio's clock, as soon as anybody uses the plan from then on or while
    /// [`FaultPlan::run_late`] runs.
    After(Duration),
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Action {
    /// Nothing. Shields the request from later rules and from the dice.
    Pass,
    /// The request is refused without effect. `ErrorKind::Throttled` is a 503 that asks to slow down.
    Fail(ErrorKind),
    /// A 5xx answer that leaves open whether the request had its effect; `applied` says whether it had.
    FailLate {
        /// Whether the request took effect.
        applied: bool,
    },
    /// The answer is lost: *unknown* for mutations, a timeout for reads and for what has no such outcome.
    Lose(Effect),
    /// Something on the way sends it twice; the second answer arrives.
    Duplicate,
    /// Puts and conditional copies are answered with [`PutOutcome::Conflict`](crate::PutOutcome) and have no effect. Others are not concerned.
    Conflict,
    /// Waits before the request is sent.
    Delay(Duration),
    /// Waits after the request's effect, before its answer.
    Linger(Duration),
    /// The body of a GET ends after so many bytes; a listing's page after so many entries (at least one), with more
    /// to follow.
    Truncate(u64),
    /// One bit of the body of a GET is wrong, each time another.
    Garble,
    /// Keys of a deletion that the rule matches are refused; the others are deleted. Other requests are denied.
    Refuse,
    /// Keys of a deletion that the rule matches are under object lock; the others are deleted.
    Lock,
    /// The request stops before it is sent, until the gate is released.
    GateBefore(Gate),
    /// The request stops after its effect and before its answer, until the gate is released.
    GateAfter(Gate),
}

impl Action {
    fn name(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail(ErrorKind::Throttled) => "throttle",
            Self::Fail(_) => "fail",
            Self::FailLate { applied: true } => "fail-after-effect",
            Self::FailLate { applied: false } => "fail-in-doubt",
            Self::Lose(Effect::Now) => "lose-answer",
            Self::Lose(Effect::Never) => "lose-request",
            Self::Lose(Effect::Late | Effect::After(_)) => "late",
            Self::Duplicate => "duplicate",
            Self::Conflict => "conflict",
            Self::Delay(_) => "delay",
            Self::Linger(_) => "linger",
            Self::Truncate(_) => "truncate",
            Self::Garble => "garble",
            Self::Refuse => "refuse",
            Self::Lock => "lock",
            Self::GateBefore(_) => "gate-before",
            Self::GateAfter(_) => "gate-after",
        }
    }

    /// Whether the rest of the request goes on as if nothing had happened, so that further rules may apply.
    fn is_pause(&self) -> bool {
        matches!(
            self,
            Self::Delay(_) | Self::Linger(_) | Self::GateBefore(_) | Self::GateAfter(_)
        )
    }
}

type KeyTest = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// A rule: which requests, which of them, and what goes wrong. Without more words it concerns the first match only.
#[derive(Clone)]
pub struct Fault {
    ops: Vec<Op>,
    key: Option<KeyTest>,
    skip: u64,
    times: u64,
    action: Action,
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault")
            .field("ops", &self.ops)
            .field("skip", &self.skip)
            .field("times", &self.times)
            .field("action", &self.action)
            .finish_non_exhaustive()
    }
}

impl Fault {
    /// Requests of one kind.
    pub fn on(op: Op) -> Self {
        Self::on_each(&[op])
    }

    /// Requests of several kinds; none means all.
    pub fn on_each(ops: &[Op]) -> Self {
        Self {
            ops: ops.to_vec(),
            key: None,
            skip: 0,
            times: 1,
            action: Action::Pass,
        }
    }

    /// Only of this key. A listing has its prefix for a key; a deletion matches if one of its keys does; a copy if
    /// source or target does.
    #[must_use]
    pub fn key(self, key: impl Into<String>) -> Self {
        let wanted = key.into();
        self.key_where(move |key| key == wanted)
    }

    /// Only of keys that begin with this.
    #[must_use]
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        self.key_where(move |key| key.starts_with(&prefix))
    }

    /// Only of keys that contain this.
    #[must_use]
    pub fn containing(self, part: impl Into<String>) -> Self {
        let part = part.into();
        self.key_where(move |key| key.contains(&part))
    }

    /// Only of keys for which `test` says so.
    #[must_use]
    pub fn key_where(mut self, test: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.key = Some(Arc::new(test));
        self
    }

    /// Lets the first `count` matches pass.
    #[must_use]
    pub fn skip(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// Concerns the `n`th match, counted from 1.
    #[must_use]
    pub fn nth(self, n: u64) -> Self {
        self.skip(n.saturating_sub(1))
    }

    /// Concerns so many matches, after those skipped.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.times = count;
        self
    }

    /// Concerns every match, after those skipped.
    #[must_use]
    pub fn always(self) -> Self {
        self.times(u64::MAX)
    }

    /// What goes wrong.
    #[must_use]
    pub fn then(mut self, action: Action) -> Self {
        self.action = action;
        self
    }

    fn matches_key(&self, key: &str) -> bool {
        self.key.as_ref().is_none_or(|test| test(key))
    }

    fn matches(&self, op: Op, keys: &[&str]) -> bool {
        (self.ops.is_empty() || self.ops.contains(&op))
            && keys.iter().any(|key| self.matches_key(key))
    }
}

/// Names a rule that was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultId(u64);

/// A rule that was added, and how often it matched.
struct Rule {
    id: FaultId,
    fault: Fault,
    matched: u64,
}

#[derive(Default)]
struct State {
    serial: u64,
    rules: Vec<Rule>,
    dice: Option<Dice>,
    injected: BTreeMap<(Op, &'static str), u64>,
    late: Vec<Late>,
    strays: BTreeMap<Op, Strays>,
}

/// Requests that did not reach the store exactly once. One that is late counts as soon as it can never arrive any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strays {
    /// Requests that never reached it.
    pub unsent: u64,
    /// Requests that reached it twice.
    pub doubled: u64,
}

/// What goes wrong, for any number of stores. Clones are the same plan.
#[derive(Clone, Default)]
pub struct FaultPlan {
    state: Arc<Mutex<State>>,
    queued: Arc<Notify>,
}

impl fmt::Debug for FaultPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("FaultPlan")
            .field("rules", &state.rules.len())
            .field("late", &state.late.len())
            .field("injected", &state.injected)
            .finish_non_exhaustive()
    }
}

/// What is to happen to one request.
#[derive(Debug, Default)]
struct Script {
    before: Vec<Action>,
    action: Option<Action>,
    after: Vec<Action>,
    /// For a deletion: which of its keys the action concerns.
    keys: Vec<bool>,
}

impl FaultPlan {
    /// A plan in which nothing goes wrong.
    pub fn new() -> Self {
        Self::default()
    }

    /// A plan that rolls dice from `seed`.
    pub fn random(seed: u64, odds: Odds) -> Self {
        let plan = Self::new();
        plan.state().dice = Some(Dice::new(seed, odds));
        plan
    }

    /// Adds a rule behind those there are.
    pub fn add(&self, fault: Fault) -> FaultId {
        let mut state = self.state();
        state.serial += 1;
        let id = FaultId(state.serial);
        state.rules.push(Rule {
            id,
            fault,
            matched: 0,
        });
        id
    }

    /// Stops what `fault` matches before it is sent. (The rule's own action is replaced.)
    pub fn stop_before(&self, fault: Fault) -> Gate {
        let gate = Gate::new();
        self.add(fault.then(Action::GateBefore(gate.clone())));
        gate
    }

    /// Stops what `fault` matches after its effect and before its answer. (The rule's own action is replaced.)
    pub fn stop_after(&self, fault: Fault) -> Gate {
        let gate = Gate::new();
        self.add(fault.then(Action::GateAfter(gate.clone())));
        gate
    }

    /// Removes a rule; requests it has stopped stay stopped.
    pub fn remove(&self, id: FaultId) {
        self.state().rules.retain(|rule| rule.id != id);
    }

    /// Removes all rules and puts the dice away, as at the end of a simulation. Late requests stay queued.
    pub fn calm(&self) {
        let mut state = self.state();
        state.rules.clear();
        state.dice = None;
    }

    /// Replaces the odds, the dice rolling on; no effect on a plan without dice.
    pub fn set_odds(&self, odds: Odds) {
        if let Some(dice) = &mut self.state().dice {
            dice.odds = odds;
        }
    }

    /// How often a rule was asked about a request it matches, those skipped and those past its end included.
    pub fn matched(&self, id: FaultId) -> u64 {
        let state = self.state();
        let rule = state.rules.iter().find(|rule| rule.id == id);
        rule.map_or(0, |rule| rule.matched)
    }

    /// How often each fault was injected, by kind of request and name of the fault.
    pub fn injected(&self) -> BTreeMap<(Op, &'static str), u64> {
        self.state().injected.clone()
    }

    /// How many requests of each kind did not reach the store exactly once. What its sender has counted is what the store
    /// has counted, and those that never came, less those that came twice; and [`late`](Self::late) ones on their way.
    pub fn strays(&self) -> BTreeMap<Op, Strays> {
        self.state().strays.clone()
    }

    fn unsent(&self, op: Op) {
        self.state().strays.entry(op).or_default().unsent += 1;
    }

    fn doubled(&self, op: Op) {
        self.state().strays.entry(op).or_default().doubled += 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides what happens to a request, and counts it.
    fn script(&self, op: Op, keys: &[&str]) -> Script {
        let mut state = self.state();
        let mut script = Script::default();
        for rule in &mut state.rules {
            if !rule.fault.matches(op, keys) {
                continue;
            }
            rule.matched += 1;
            let end = rule.fault.skip.saturating_add(rule.fault.times);
            if rule.matched <= rule.fault.skip || rule.matched > end {
                continue;
            }
            if rule.fault.action.is_pause() {
                script.before.push(rule.fault.action.clone());
                continue;
            }
            script.keys = keys.iter().map(|key| rule.fault.matches_key(key)).collect();
            script.action = Some(rule.fault.action.clone());
            break;
        }
        if script.action.is_none()
            && let Some(dice) = &mut state.dice
        {
            dice.roll(op, keys.len(), &mut script);
        }
        for action in script.before.iter().chain(&script.action) {
            *state.injected.entry((op, action.name())).or_insert(0) += 1;
        }
        drop(state);
        let (after, before) = script
            .before
            .into_iter()
            .partition(|action| matches!(action, Action::GateAfter(_) | Action::Linger(_)));
        (script.before, script.after) = (before, after);
        script
    }

    /// How many answers were garbled so far.
    fn garbled(&self) -> u64 {
        let garble = (Op::Get, Action::Garble.name());
        self.state().injected.get(&garble).copied().unwrap_or(0)
    }

    /// Counts a fault that no script has decided.
    fn count(&self, op: Op, name: &'static str) {
        *self.state().injected.entry((op, name)).or_insert(0) += 1;
    }
}
