//! `cargo sim --months N`: two daemons with a bucket each, for thirty days.
//!
//! Each night clients back up to the first, it is pruned, the second pulls from it, garbage is collected on both, and both are
//! verified; on some nights the first takes copies back, or what it has damaged. All of that begins within some minutes, under faults: requests fail, come late or twice, daemons
//! crash at steps and between them, lose power and their cache, chunks rot. Everything is the real code; the other daemon is
//! reached by calls that fail when it dies ([`far`]).
//!
//! | file | what |
//! |---|---|
//! | `plan.rs` | what a seed stands for |
//! | `side.rs`, `far.rs` | a daemon that is started again and again; the way to the other one |
//! | `night.rs`, `jobs.rs` | what a night has; each job, and what must be true of it |
//! | `keep.rs` | what a prune keeps, in other words |
//! | `end.rs` | what must be true at the end |
//! | `tally.rs` | figures |

mod end;
mod far;
mod jobs;
mod keep;
mod night;
mod plan;
mod side;
mod tally;

use std::sync::Arc;
use std::time::Duration;

use self::night::Pair;
use self::plan::{DAYS, MonthPlan};
use self::side::Side;
pub(crate) use self::tally::Tally;
use crate::world::{History, Way, World};

const DAY: Duration = Duration::from_hours(24);
/// When a night begins.
const EVENING: Duration = Duration::from_hours(20);

/// What came of a month.
pub(crate) struct Outcome {
    pub(crate) violations: Vec<String>,
    pub(crate) history: String,
    pub(crate) tally: Arc<Tally>,
}

/// Runs the month that `seed` stands for, on this thread, under a clock of its own.
pub(crate) fn run(seed: u64, print: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing from the system");
    runtime.block_on(month(MonthPlan::of(seed), print))
}

async fn month(plan: MonthPlan, print: bool) -> Outcome {
    side::watch_steps();
    let history = History::new(print);
    history.note(&format!("{plan:?}"));
    let pool = plan.pool();
    let tally = Arc::new(Tally::default());
    let side = |number: u64, name: &'static str, label: &'static str| {
        let history = history.labelled(label);
        let world = World::with(plan.scenario(number), Way::Call, pool.clone(), history);
        Side::new(name, world, Arc::clone(&tally))
    };
    let (near, near_orders) = side(0, "near", "near: ");
    let (far, far_orders) = side(1, "far", "far: ");
    let groups = plan.groups(&pool);
    let sides = [Arc::clone(&near), Arc::clone(&far)];
    let mut pair = Pair {
        plan: plan.clone(),
        sides,
        groups,
    };
    let days = async {
        pair.days(&history).await;
    };
    let (near_plan, far_plan) = (near.world.plan.clone(), far.world.plan.clone());
    tokio::select! {
        biased;
        () = near_plan.run_late() => {}
        () = far_plan.run_late() => {}
        () = Arc::clone(&near).keep_running(near_orders, plan.rng(30)) => {}
        () = Arc::clone(&far).keep_running(far_orders, plan.rng(31)) => {}
        () = days => {}
    }
    let mut violations = Vec::new();
    for side in [&near, &far] {
        let found = side.world.oracle.violations().into_iter();
        violations.extend(found.map(|what| format!("{}: {what}", side.name)));
        let faults = side.world.plan.injected();
        let benign = ["delay", "linger"];
        let faults = faults
            .iter()
            .filter(|((_, name), _)| !benign.contains(name));
        tally.add("faults", faults.map(|(_, count)| count).sum());
        tally.add("healed", side.world.oracle.healed());
    }
    tally.add("violations", violations.len() as u64);
    Outcome {
        violations,
        history: history.digest(),
        tally,
    }
}

impl Pair {
    async fn days(&mut self, history: &History) {
        let began = tokio::time::Instant::now();
        for day in 0..DAYS {
            let (evening, noon) = (DAY * day as u32 + EVENING, DAY / 2);
            tokio::time::sleep_until(began + evening).await;
            history.note(&format!("night {day}"));
            let night = tokio::time::timeout(noon, self.night(day)).await;
            if night.is_err() {
                self.sides[0].violation(&format!("night {day} does not end"));
            }
            tokio::time::sleep_until(began + evening + noon).await;
            side::disarm();
            self.look_at_lists().await;
            self.sides[0].tally.count("days");
            let mut sides = self.sides.iter();
            if sides.any(|side| !side.world.oracle.violations().is_empty()) {
                return;
            }
        }
        history.note("all is quiet");
        if tokio::time::timeout(end::END_MAX, self.end())
            .await
            .is_err()
        {
            self.sides[0].violation("the end of the month does not end");
        }
    }

    /// Each day when nothing runs: every snapshot that is to be kept is listed.
    async fn look_at_lists(&self) {
        for side in &self.sides {
            side.job(|up| jobs::list(Arc::clone(side), up)).await;
        }
    }
}
