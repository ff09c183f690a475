//! How far a long piece of work has come, in figures, said every now and then.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::{Env, JobContext};

/// How often it is said.
const EVERY: Duration = Duration::from_secs(10);

/// When it is time to say how far one is.
#[derive(Debug)]
pub(crate) struct Pace {
    env: Env,
    begun: Instant,
    told: Instant,
}

impl Pace {
    /// From now on.
    pub(crate) fn new(env: &Env) -> Self {
        let begun = env.instant();
        Self {
            env: env.clone(),
            begun,
            told: begun,
        }
    }

    /// Whether it is time: how long it has taken since the beginning.
    pub(crate) fn due(&mut self) -> Option<Duration> {
        let now = self.env.instant();
        if now.duration_since(self.told) < EVERY {
            return None;
        }
        self.told = now;
        Some(now.duration_since(self.begun))
    }
}

/// Counts what several hands do, and logs how far they are.
#[derive(Debug)]
pub(crate) struct Progress {
    job: JobContext,
    /// Such as `swept`.
    what: &'static str,
    /// All parts of the work, where that is known.
    total: Option<u64>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pace: Pace,
    parts: u64,
    chunks: u64,
}

impl Progress {
    /// Nothing done yet of `total` parts.
    pub(crate) fn new(env: &Env, job: &JobContext, what: &'static str, total: Option<u64>) -> Self {
        Self {
            job: job.clone(),
            what,
            total,
            state: Mutex::new(State {
                pace: Pace::new(env),
                parts: 0,
                chunks: 0,
            }),
        }
    }

    /// So many more parts are done, with so many chunks in them.
    pub(crate) fn add(&self, parts: u64, chunks: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.parts += parts;
        state.chunks += chunks;
        let Some(taken) = state.pace.due() else {
            return;
        };
        let line = self.line(&state, taken);
        drop(state);
        self.job.log(line);
    }

    fn line(&self, state: &State, taken: Duration) -> String {
        let rate = state.chunks as f64 / taken.as_secs_f64().max(0.001);
        let figures = format!("{} chunks, {rate:.0} per second", state.chunks);
        match self.total {
            Some(total) if state.parts > 0 => {
                let done = state.parts as f64 / total.max(1) as f64;
                let left = taken.as_secs_f64() * (1.0 - done).max(0.0) / done;
                format!(
                    "{} {:.0} %: {figures}, about {} left",
                    self.what,
                    100.0 * done,
                    duration(left)
                )
            }
            _ => format!("{} {figures}", self.what),
        }
    }
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::*;
    use crate::files::OsFiles;

    #[tokio::test(start_paused = true)]
    async fn it_is_said_every_ten_seconds() {
        let env = Env::simulated(Timestamp::UNIX_EPOCH, 1, Arc::new(OsFiles));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let log = {
            let lines = Arc::clone(&lines);
            Arc::new(move |line| lines.lock().unwrap().push(line))
        };
        let (_stop, stopped) = tokio::sync::watch::channel(false);
        let job = JobContext::new(log, stopped);
        let swept = Progress::new(&env, &job, "swept", Some(1000));
        let marked = Progress::new(&env, &job, "marked", None);
        for _ in 0..25 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            swept.add(10, 500);
        }
        marked.add(1, 250);
        let lines = lines.lock().unwrap();
        assert_eq!(
            *lines,
            [
                "swept 10 %: 5000 chunks, 500 per second, about 2 min left",
                "swept 20 %: 10000 chunks, 500 per second, about 2 min left",
                "marked 250 chunks, 10 per second",
            ]
        );
        assert_eq!(duration(59.4), "59 s");
        assert_eq!(duration(7384.0), "2 h 3 min");
    }
}
