//! `cargo models`: runs every trial and prints what the models show. Ends with an error if a trial does not come to what it
//! must.
//!
//! Options: `--large` (bigger sizes too), `--short` (counterexamples in length only), and any word to run only the trials
//! whose name contains it.

use std::io::{self, Write};
use std::process::ExitCode;

use holdfast_model::trial::{Expect, Finding, Trial};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments, &mut io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

fn run(arguments: &[String], out: &mut impl Write) -> io::Result<bool> {
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let words: Vec<_> = arguments
        .iter()
        .filter(|word| !word.starts_with("--"))
        .collect();
    let mut trials = holdfast_model::trials(has("--large"));
    trials.retain(|trial| {
        let name = format!("{trial:?}");
        words.iter().all(|word| name.contains(word.as_str()))
    });
    let (breaks, holds): (Vec<_>, Vec<_>) = trials
        .iter()
        .partition(|trial| matches!(trial.expect, Expect::Breaks(_)));
    let mut failures = Vec::new();
    writeln!(
        out,
        "{:>11} {:>11} {:>6} {:>8}  nothing is lost",
        "states", "unique", "depth", "seconds"
    )?;
    for trial in holds {
        let finding = trial.run();
        writeln!(out, "{}  {trial:?}", figures(&finding))?;
        failures.extend(trial.judge(&finding).err());
    }
    writeln!(out)?;
    for trial in breaks {
        let finding = trial.run();
        show_counterexample(out, trial, &finding, has("--short"))?;
        failures.extend(trial.judge(&finding).err());
    }
    for failure in &failures {
        writeln!(out, "FAILED {failure}")?;
    }
    writeln!(out, "{} trials, {} failed", trials.len(), failures.len())?;
    Ok(failures.is_empty())
}

fn figures(finding: &Finding) -> String {
    format!(
        "{:>11} {:>11} {:>6} {:>8.2}",
        finding.states,
        finding.unique,
        finding.depth,
        finding.elapsed.as_secs_f64()
    )
}

fn show_counterexample(
    out: &mut impl Write,
    trial: &Trial,
    finding: &Finding,
    short: bool,
) -> io::Result<()> {
    let Some(found) = &finding.counterexample else {
        return writeln!(
            out,
            "{trial:?}: NO COUNTEREXAMPLE in {} states",
            finding.unique
        );
    };
    writeln!(
        out,
        "{trial:?}\n    violates '{}' after {} actions",
        found.property,
        found.actions.len()
    )?;
    if !short {
        for action in &found.actions {
            writeln!(out, "      {action}")?;
        }
    }
    Ok(())
}
