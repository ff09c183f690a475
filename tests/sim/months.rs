//! Many months, a few at a time, and what came of them as a table.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::month::{Outcome, Tally, run};
use crate::{Arguments, SHOWN_MAX, THREADS};

/// Runs one month and prints its history.
pub(crate) fn replay(seed: u64) -> ExitCode {
    let outcome = run(seed, true);
    println!("month {seed}: history {}", outcome.history);
    println!("{}", Tally::heading());
    println!("{}", outcome.tally.line(&seed.to_string()));
    for violation in &outcome.violations {
        println!("VIOLATION {violation}");
    }
    ExitCode::from(u8::from(!outcome.violations.is_empty()))
}

/// Runs the months that were asked for.
pub(crate) fn all(arguments: &Arguments, began: Instant) -> ExitCode {
    let next = AtomicU64::new(arguments.first);
    let end = arguments.first + arguments.months;
    let found: Mutex<Vec<(u64, Outcome)>> = Mutex::default();
    let violated = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while violated.load(Ordering::Acquire) < arguments.violations_max as u64 {
                    let seed = next.fetch_add(1, Ordering::AcqRel);
                    if seed >= end {
                        break;
                    }
                    let outcome = run(seed, false);
                    violated.fetch_add(u64::from(!outcome.violations.is_empty()), Ordering::AcqRel);
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.push((seed, outcome));
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_unstable_by_key(|(seed, _)| *seed);
    if arguments.histories {
        for (seed, outcome) in &found {
            println!("{seed} {}", outcome.history);
        }
    } else {
        table(&found);
        let seconds = began.elapsed().as_secs_f64();
        println!("{} months, {seconds:.0} s", found.len());
    }
    let mut bad = 0;
    for (seed, outcome) in &found {
        bad += u64::from(!outcome.violations.is_empty());
        for violation in outcome.violations.iter().take(SHOWN_MAX) {
            println!("SIM_MONTH={seed}: {violation}");
        }
    }
    println!("{bad} months with violations");
    ExitCode::from(u8::from(bad > 0))
}

fn table(found: &[(u64, Outcome)]) {
    println!("{}", Tally::heading());
    let total = Tally::default();
    for (seed, outcome) in found {
        println!("{}", outcome.tally.line(&seed.to_string()));
        total.merge(&outcome.tally);
    }
    println!("{}", total.line("all"));
}
