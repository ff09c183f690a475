//! What happened: counts for the table, sentences of refusals, and violations, any of which fails the run.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_tests::process::say;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::sentences;

/// Violations whose texts are kept.
const VIOLATIONS_KEPT: usize = 50;
/// Lines of the diary, the last ones.
const DIARY_LINES_MAX: usize = 500;
/// Different sentences that are kept.
const SENTENCES_KEPT: usize = 400;

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Violation {
    /// What was acknowledged, or is listed, cannot be read, or has other content.
    Loss,
    /// There is something that was deleted, or that nobody finished.
    Revival,
    /// The daemon ended by itself or panicked.
    Crash,
    /// No progress, or no answer.
    Hang,
    /// A refusal with a sentence that nothing that was done here explains.
    Sentence,
    /// More memory than allowed.
    Memory,
    /// What should have been collected is still there at the end.
    Garbage,
    /// The run itself broke a rule of its own, such as A1: it proves nothing.
    Run,
}

impl Violation {
    /// In the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Loss => "losses",
            Self::Revival => "snapshots that should not be there",
            Self::Crash => "crashes of the daemon",
            Self::Hang => "hangs",
            Self::Sentence => "refusals that nothing explains",
            Self::Memory => "excesses of memory",
            Self::Garbage => "garbage that stays",
            Self::Run => "faults of the run itself",
        }
    }

    pub(crate) const ALL: [Self; 8] = [
        Self::Loss,
        Self::Revival,
        Self::Crash,
        Self::Hang,
        Self::Sentence,
        Self::Memory,
        Self::Garbage,
        Self::Run,
    ];
}

#[derive(Debug, Default)]
struct Inner {
    counts: BTreeMap<String, u64>,
    sentences: BTreeMap<String, u64>,
    violations: BTreeMap<Violation, u64>,
    texts: Vec<String>,
    diary: VecDeque<String>,
}

/// Counts of everything.
#[derive(Debug)]
pub(crate) struct Tally {
    began: Instant,
    inner: Mutex<Inner>,
    violated: AtomicBool,
    last_success: Mutex<Instant>,
}

impl Tally {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            inner: Mutex::default(),
            violated: AtomicBool::new(false),
            last_success: Mutex::new(Instant::now()),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since the beginning.
    pub(crate) fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// One more.
    pub(crate) fn count(&self, what: &str) {
        self.add(what, 1);
    }

    /// So many more.
    pub(crate) fn add(&self, what: &str, count: u64) {
        let mut inner = self.inner();
        if let Some(sum) = inner.counts.get_mut(what) {
            *sum += count;
        } else {
            inner.counts.insert(what.to_owned(), count);
        }
    }

    /// The largest so far.
    pub(crate) fn at_least(&self, what: &str, value: u64) {
        let mut inner = self.inner();
        let largest = inner.counts.entry(what.to_owned()).or_default();
        *largest = value.max(*largest);
    }

    /// How many.
    pub(crate) fn of(&self, what: &str) -> u64 {
        self.inner().counts.get(what).copied().unwrap_or(0)
    }

    /// All counts whose names begin with `prefix`, without it.
    pub(crate) fn below(&self, prefix: &str) -> BTreeMap<String, u64> {
        let inner = self.inner();
        let below = inner.counts.iter().filter_map(|(what, count)| {
            let what = what.strip_prefix(prefix)?;
            Some((what.to_owned(), *count))
        });
        below.collect()
    }

    /// The daemon refused something with a status and a sentence. A sentence that nothing explains is a violation, and
    /// one that says that something of a snapshot is lost a loss.
    pub(crate) fn refused(&self, doing: &str, status: u16, sentence: &str) {
        let shape = sentences::shape(sentence);
        {
            let mut inner = self.inner();
            let key = format!("{doing}: {status} {shape}");
            if inner.sentences.len() < SENTENCES_KEPT || inner.sentences.contains_key(&key) {
                *inner.sentences.entry(key).or_default() += 1;
            }
        }
        match sentences::judge(doing, sentence) {
            sentences::Judgement::Expected => {}
            sentences::Judgement::Loss => {
                self.violation(Violation::Loss, format!("{doing}: {status} {sentence}"));
            }
            sentences::Judgement::Unknown => {
                self.violation(Violation::Sentence, format!("{doing}: {status} {sentence}"));
            }
        }
    }

    /// Notes a violation, and says so at once.
    pub(crate) fn violation(&self, what: Violation, text: impl Into<String>) {
        let text = format!("{:.1} s: {}: {}", self.seconds(), what.name(), text.into());
        self.violated.store(true, Ordering::Release);
        let mut inner = self.inner();
        *inner.violations.entry(what).or_default() += 1;
        if inner.texts.len() < VIOLATIONS_KEPT {
            say(&format!("VIOLATION at {text}"));
            inner.texts.push(text);
        }
    }

    /// Remembers when something was done, for the report.
    pub(crate) fn diary(&self, what: &str) {
        let line = format!("{:.1} s: {what}", self.seconds());
        let mut inner = self.inner();
        if inner.diary.len() == DIARY_LINES_MAX {
            inner.diary.pop_front();
        }
        inner.diary.push_back(line);
    }

    /// Whether there is any.
    pub(crate) fn is_violated(&self) -> bool {
        self.violated.load(Ordering::Acquire)
    }

    /// How many of one kind.
    pub(crate) fn violations(&self, what: Violation) -> u64 {
        self.inner().violations.get(&what).copied().unwrap_or(0)
    }

    /// Their texts.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.inner().texts.clone()
    }

    /// A client has got what it wanted.
    pub(crate) fn progress(&self) {
        *self
            .last_success
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long no client has got what it wanted.
    pub(crate) fn silence(&self) -> Duration {
        let last = self
            .last_success
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        last.elapsed()
    }

    /// Everything, for the JSON.
    pub(crate) fn json(&self) -> Value {
        let inner = self.inner();
        json!({
            "counts": inner.counts,
            "sentences": inner.sentences,
            "violations": inner.texts,
            "diary": inner.diary,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_refusals_and_losses_are_violations() {
        let tally = Tally::new();
        tally.refused("backup", 503, "the daemon is stopping");
        assert!(!tally.is_violated());
        tally.refused("backup", 500, "the moon is full");
        assert_eq!(tally.violations(Violation::Sentence), 1);
        let digest = "ab".repeat(32);
        tally.refused("restore", 400, &format!("chunk {digest} is missing"));
        assert_eq!(tally.violations(Violation::Loss), 1);
        tally.count("kill: now");
        tally.add("kill: later", 2);
        assert_eq!(tally.below("kill: ").values().sum::<u64>(), 3);
    }
}
