//! Which request meets which fault: drawn from a seed, request by request.
//!
//! The sequence of faults is the same for equal seeds. Which request is the first, the second and so on is not: that
//! depends on processors and disks.
//!
//! Every few seconds the weather changes: fair, rough, stormy, and now and then nothing gets through at all.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use holdfast_tests::measure::noise::Noise;
use tokio::time::Instant;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing but a short delay.
    None(Duration),
    /// It is held back. Should the client go away meanwhile it is sent all the same: late.
    Delay(Duration),
    /// Request and answer trickle.
    Slow(Duration),
    /// 503 SlowDown; the server does not see it.
    Throttle,
    /// The connection breaks; the server does not see it.
    CutBefore,
    /// The server gets the head and part of the body, then both connections break.
    CutBody,
    /// The server carries it out, the connection breaks before the answer.
    CutAfter,
    /// The connection breaks in the middle of the answer.
    CutAnswer,
    /// The connection breaks first; the server gets the request so much later.
    Late(Duration),
    /// 502 of a gateway first; the server gets the request so much later.
    Gateway(Duration),
    /// The server gets it twice before there is an answer, which is that of the second if `second`.
    Twice {
        /// Which answer is passed on.
        second: bool,
    },
    /// The server carries it out, the connection breaks before the answer, and so much later the server gets it again.
    TwiceLate(Duration),
    /// The server carries it out, and nobody answers until the client gives up.
    Silent,
    /// Of a batch of deletes: it is carried out, but the answer says of some keys that they were refused.
    Refuse,
}

impl Fault {
    /// In the table; `None` for no fault.
    pub(crate) fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::None(_) => return None,
            Self::Delay(_) => "delayed",
            Self::Slow(_) => "trickled",
            Self::Throttle => "throttled",
            Self::CutBefore => "cut before the request",
            Self::CutBody => "half delivered",
            Self::CutAfter => "cut before the answer",
            Self::CutAnswer => "cut in the answer",
            Self::Late(_) => "cut, delivered late",
            Self::Gateway(_) => "502, delivered late",
            Self::Twice { .. } => "delivered twice",
            Self::TwiceLate(_) => "cut, delivered again late",
            Self::Silent => "never answered",
            Self::Refuse => "deleted, but told refused",
        })
    }
}

/// Kinds of requests that faults prefer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A batch of deletes.
    DeleteBatch,
    /// Single delete; PUT of a manifest or of the record of ownership.
    Delicate,
    /// Everything else.
    Plain,
}

impl Target {
    /// Of a request.
    pub(crate) fn of(method: &str, target: &str) -> Self {
        let path = target.split('?').next().unwrap_or_default();
        match method {
            "POST" if target.contains("delete") => Self::DeleteBatch,
            "DELETE" => Self::Delicate,
            "PUT" if path.ends_with("/index.json.blob") || path.ends_with("/.in-use") => {
                Self::Delicate
            }
            _ => Self::Plain,
        }
    }

    /// Requests of a thousand that meet a fault.
    fn faults_per_thousand(self, sky: Sky) -> u64 {
        match self {
            // There is one for each collection, and much depends on it.
            Self::DeleteBatch => sky.faults_per_thousand().max(600),
            Self::Delicate => 2 * sky.faults_per_thousand(),
            Self::Plain => sky.faults_per_thousand(),
        }
    }
}

/// How it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sky {
    Fair,
    Rough,
    Stormy,
    Outage,
}

impl Sky {
    /// Requests of a thousand that meet a fault.
    fn faults_per_thousand(self) -> u64 {
        match self {
            Self::Fair => 12,
            Self::Rough => 45,
            Self::Stormy => 130,
            Self::Outage => 1000,
        }
    }
}

#[derive(Debug)]
struct State {
    noise: Noise,
    sky: Sky,
    until: Instant,
    calm: bool,
    #[cfg(test)]
    next: Option<Fault>,
}

/// Draws faults.
#[derive(Debug)]
pub(crate) struct Weather {
    late_max: Duration,
    state: Mutex<State>,
}

impl Weather {
    /// Calm until [`Weather::set_calm`] says otherwise. Nothing is delivered later than `late_max`.
    pub(crate) fn new(seed: u64, late_max: Duration) -> Self {
        Self {
            late_max,
            state: Mutex::new(State {
                noise: Noise::branch(seed, 0x0077_6561),
                sky: Sky::Fair,
                until: Instant::now(),
                calm: true,
                #[cfg(test)]
                next: None,
            }),
        }
    }

    /// Without any faults, or with.
    pub(crate) fn set_calm(&self, calm: bool) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .calm = calm;
    }

    /// Lets this happen to the next request.
    #[cfg(test)]
    pub(crate) fn force(&self, fault: Fault) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next = Some(fault);
    }

    /// What happens to the next request.
    pub(crate) fn draw(&self, target: Target) -> Fault {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        #[cfg(test)]
        if let Some(fault) = state.next.take() {
            return fault;
        }
        if state.calm {
            return Fault::None(Duration::ZERO);
        }
        let now = Instant::now();
        if now >= state.until {
            let (sky, time) = next_sky(&mut state.noise);
            state.sky = sky;
            state.until = now + time;
        }
        let sky = state.sky;
        draw(&mut state.noise, sky, target, self.late_max)
    }
}

fn next_sky(noise: &mut Noise) -> (Sky, Duration) {
    let millis = |noise: &mut Noise, least: u64, most: u64| {
        Duration::from_millis(least + noise.below(most - least))
    };
    match noise.below(10) {
        0..=3 => (Sky::Fair, millis(noise, 1500, 6000)),
        4..=6 => (Sky::Rough, millis(noise, 1500, 6000)),
        7..=8 => (Sky::Stormy, millis(noise, 1000, 4000)),
        _ => (Sky::Outage, millis(noise, 200, 1500)),
    }
}

fn draw(noise: &mut Noise, sky: Sky, target: Target, late_max: Duration) -> Fault {
    if noise.below(1000) >= target.faults_per_thousand(sky) {
        return Fault::None(Duration::from_millis(noise.below(8)));
    }
    let coin = noise.below(2) == 0;
    match sky {
        Sky::Outage if coin => return Fault::Throttle,
        Sky::Outage => return Fault::CutBefore,
        _ => {}
    }
    let mut up_to = |most: Duration| {
        let most = (most.as_millis() as u64).max(2);
        Duration::from_millis(1 + noise.below(most))
    };
    let (late, short) = (up_to(late_max), up_to(late_max / 4));
    let kind = match target {
        Target::DeleteBatch => noise.below(190),
        _ => noise.below(100),
    };
    match kind {
        100..=129 => Fault::Refuse,
        0..=21 => Fault::Delay(late),
        22..=27 => Fault::Slow(short),
        28..=37 => Fault::Throttle,
        38..=44 => Fault::CutBefore,
        45..=51 => Fault::CutBody,
        52..=60 => Fault::CutAnswer,
        61..=68 | 130..=154 => Fault::Late(late),
        69..=75 => Fault::Gateway(late),
        76..=82 => Fault::Twice { second: coin },
        83..=90 | 155..=189 => Fault::TwiceLate(late),
        91 => Fault::Silent,
        _ => Fault::CutAfter,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn equal_seeds_give_equal_faults_of_every_kind() {
        let all = |seed| -> Vec<Fault> {
            let mut noise = Noise::new(seed);
            let late = Duration::from_secs(3);
            let skies = [Sky::Fair, Sky::Rough, Sky::Stormy, Sky::Outage];
            (0..8000)
                .map(|i| draw(&mut noise, skies[i % 4], Target::DeleteBatch, late))
                .collect()
        };
        assert_eq!(all(1), all(1));
        assert_ne!(all(1), all(2));
        let kinds: BTreeSet<_> = all(1).into_iter().map(Fault::name).collect();
        assert_eq!(kinds.len(), 14);
        let late = all(1).into_iter().filter_map(|fault| match fault {
            Fault::Late(time) | Fault::TwiceLate(time) | Fault::Gateway(time) => Some(time),
            _ => None,
        });
        assert!(late.max() <= Some(Duration::from_millis(3001)));
    }

    #[test]
    fn requests_are_recognised() {
        for (method, target, kind) in [
            ("POST", "/backups?delete=", Target::DeleteBatch),
            ("POST", "/backups/?delete", Target::DeleteBatch),
            ("DELETE", "/backups/main/x", Target::Delicate),
            (
                "PUT",
                "/backups/main/.cnt/host/a/t/index.json.blob?x-id=PutObject",
                Target::Delicate,
            ),
            ("PUT", "/backups/main/.in-use", Target::Delicate),
            ("PUT", "/backups/main/.chunks/0000/00", Target::Plain),
            ("GET", "/backups/main/.in-use", Target::Plain),
        ] {
            assert_eq!(Target::of(method, target), kind, "{method} {target}");
        }
    }

    #[test]
    fn calm_weather_is_calm() {
        let weather = Weather::new(1, Duration::from_secs(1));
        for _ in 0..1000 {
            assert_eq!(
                weather.draw(Target::DeleteBatch),
                Fault::None(Duration::ZERO)
            );
        }
    }
}
