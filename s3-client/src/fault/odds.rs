//! Faults by chance, for simulations: the same seed and the same order of requests give the same faults.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Action, Effect, Script};
use crate::{ErrorKind, Op};

/// How likely each fault is for one request, from 0 to 1. Those for one kind of request should not add up to more than 1;
/// what is over has no effect. The default is 0 throughout.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Odds {
    /// Any request fails without effect (5xx).
    pub fail: f64,
    /// Any request is asked to slow down.
    pub throttle: f64,
    /// A mutation takes effect and is answered with 5xx.
    pub fail_after: f64,
    /// A mutation takes effect and its answer is lost; a read times out.
    pub lose_answer: f64,
    /// A mutation is lost without effect; a read times out.
    pub lose_request: f64,
    /// A mutation's answer is lost and it takes effect later, after up to [`late_max`](Self::late_max).
    pub late: f64,
    /// A mutation is carried out twice.
    pub duplicate: f64,
    /// A put is answered with 409.
    pub conflict: f64,
    /// A GET brings too few bytes.
    pub truncate: f64,
    /// A GET brings wrong bytes.
    pub garble: f64,
    /// One key of a deletion is refused (drawn for each key).
    pub refuse_key: f64,
    /// Any request takes up to [`delay_max`](Self::delay_max) longer, whatever else happens to it.
    pub delay: f64,
    /// Any request's answer takes up to [`delay_max`](Self::delay_max) longer, after its effect.
    pub linger: f64,
    /// A mutation whose sender goes away while it is on its way arrives all the same, after up to
    /// [`late_max`](Self::late_max).
    pub orphan: f64,
    /// Longest time between giving a request up and its effect. The bound T of A1 has to be longer.
    pub late_max: Duration,
    /// Longest delay of a request.
    pub delay_max: Duration,
}

impl Odds {
    /// The same small chance for everything but wrong bytes and delays.
    pub fn evenly(chance: f64, late_max: Duration) -> Self {
        Self {
            fail: chance,
            throttle: chance,
            fail_after: chance,
            lose_answer: chance,
            lose_request: chance,
            late: chance,
            duplicate: chance,
            conflict: chance,
            refuse_key: chance,
            late_max,
            ..Self::default()
        }
    }
}

/// The dice and their odds.
#[derive(Debug)]
pub(super) struct Dice {
    pub(super) odds: Odds,
    rng: StdRng,
}

impl Dice {
    pub(super) fn new(seed: u64, odds: Odds) -> Self {
        Self {
            odds,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Decides about one request over `keys` keys to which no rule applied.
    pub(super) fn roll(&mut self, op: Op, keys: usize, script: &mut Script) {
        let odds = self.odds;
        if self.chance(odds.delay) {
            let delay = self.up_to(odds.delay_max);
            script.before.push(Action::Delay(delay));
        }
        if self.chance(odds.linger) {
            let time = self.up_to(odds.delay_max);
            script.before.push(Action::Linger(time));
        }
        let point: f64 = self.rng.random();
        let mut below = 0.0;
        let drawn = candidates(op, &odds)
            .into_iter()
            .find(|(chance, _)| {
                below += chance;
                point < below
            })
            .map(|(_, action)| action);
        script.action = match drawn {
            Some(Action::Lose(Effect::After(longest))) => {
                Some(Action::Lose(Effect::After(self.up_to(longest))))
            }
            Some(Action::Truncate(_)) => Some(Action::Truncate(self.rng.random_range(0..4096))),
            drawn => drawn,
        };
        if op == Op::Delete && script.action.is_none() && odds.refuse_key > 0.0 {
            script.keys = (0..keys).map(|_| self.chance(odds.refuse_key)).collect();
            if script.keys.contains(&true) {
                script.action = Some(Action::Refuse);
            }
        }
    }

    /// After what time a mutation arrives that was on its way when its sender went; `None` if it never does.
    pub(super) fn orphaned(&mut self) -> Option<Duration> {
        self.chance(self.odds.orphan)
            .then(|| self.up_to(self.odds.late_max))
    }

    fn chance(&mut self, odds: f64) -> bool {
        odds > 0.0 && self.rng.random_bool(odds.min(1.0))
    }

    fn up_to(&mut self, longest: Duration) -> Duration {
        let millis = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.rng.random_range(0..=millis))
    }
}

/// The faults a request may meet, in a fixed order.
fn candidates(op: Op, odds: &Odds) -> Vec<(f64, Action)> {
    let mut candidates = vec![
        (odds.fail, Action::Fail(ErrorKind::Unavailable)),
        (odds.throttle, Action::Fail(ErrorKind::Throttled)),
        (odds.lose_answer, Action::Lose(Effect::Now)),
        (odds.lose_request, Action::Lose(Effect::Never)),
    ];
    if op.is_mutation() {
        candidates.push((odds.fail_after, Action::FailLate { applied: true }));
        candidates.push((odds.late, Action::Lose(Effect::After(odds.late_max))));
        candidates.push((odds.duplicate, Action::Duplicate));
    }
    match op {
        Op::Put | Op::CompleteMultipart => candidates.push((odds.conflict, Action::Conflict)),
        Op::Get => {
            candidates.push((odds.truncate, Action::Truncate(0)));
            candidates.push((odds.garble, Action::Garble));
        }
        _ => {}
    }
    candidates
}
