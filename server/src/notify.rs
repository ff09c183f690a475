//! Tells people and programs how tasks end, when a datastore cannot be used, and when an account is locked: by mail and by webhook.
//!
//! The end of a task goes into a queue, so that nothing waits for a mail server; from there to each `[notify.ID]` that wants it. A delivery that fails
//! for the way there is tried again, [`PAUSES`] later; whether one whose answer was lost arrived nobody knows, so it may come twice, with the same `id`.
//! A refusal is final, and so is a change of the settings. What is in the queue or waits for its next attempt when the daemon stops is lost; what a task did is in its
//! log in any case. Tasks that a crash cut off are told of at the next start.
//!
//! Tasks that end while the daemon stops are nobody's concern and are not told of.

mod event;
mod mail;
mod webhook;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::MissedTickBehavior;

pub(crate) use self::event::{Event, check_template};
use crate::auth::{ClearSecret, UserId};
use crate::config::Notify;
use crate::daemon::Daemon;
use crate::stores::StoreState;
use crate::tasks::TaskInfo;

/// Ends of tasks that wait to be told of.
const QUEUE: usize = 1024;
/// Deliveries to one who is told that are under way, pauses included.
const DELIVERIES_MAX: usize = 64;
/// Before the second and each further attempt of a delivery.
const PAUSES: [Duration; 4] = [
    Duration::from_secs(2),
    Duration::from_mins(1),
    Duration::from_mins(10),
    Duration::from_hours(1),
];
/// How long one attempt may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(30);
/// How often datastores and accounts are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Why a message was not delivered.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(crate) struct DeliveryError {
    why: String,
    /// The same may be accepted later.
    transient: bool,
}

impl DeliveryError {
    fn transient(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            transient: true,
        }
    }

    fn refused(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            transient: false,
        }
    }
}

/// Takes note of the ends of tasks from now on.
fn listen(daemon: &Arc<Daemon>) -> mpsc::Receiver<TaskInfo> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (shutdown, lost) = (daemon.shutdown.clone(), AtomicU64::new(0));
    daemon.tasks.listen(Box::new(move |task| {
        if !shutdown.is_requested() && sender.try_send(task).is_err() {
            let lost = lost.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::warn!(
                lost,
                "too many tasks end at once: not all of them are told of"
            );
        }
    }));
    receiver
}

/// Tells of what happens until the daemon stops.
pub(crate) async fn run_notifier(daemon: Arc<Daemon>) {
    let mut ended = listen(&daemon);
    let mut slots = Slots::default();
    let mut seen = Seen::default();
    let mut look_again = tokio::time::interval(LOOK_EVERY);
    look_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = daemon.shutdown.requested() => return,
            _ = look_again.tick() => {
                for event in seen.look(&daemon) {
                    spread(&daemon, &mut slots, event);
                }
            }
            task = ended.recv() => {
                let Some(task) = task else {
                    return;
                };
                if let Some(mut event) = Event::of_task(&daemon, &task)
                    && is_wanted(&daemon, &event)
                {
                    event.read_log(&daemon, &task.upid).await;
                    spread(&daemon, &mut slots, event);
                }
            }
        }
    }
}

/// What is told and still so.
#[derive(Default)]
struct Seen {
    faulty: BTreeSet<String>,
    locked: BTreeSet<UserId>,
}

impl Seen {
    /// What has changed about datastores and accounts since the last look.
    fn look(&mut self, daemon: &Daemon) -> Vec<Event> {
        let mut events = Vec::new();
        let config = daemon.config.read();
        let faulty = &mut self.faulty;
        faulty.retain(|name| config.datastores.contains_key(name));
        for name in config.datastores.keys() {
            match daemon.stores.state(name) {
                Some(StoreState::Faulty { fault, .. } | StoreState::Lost { fault, .. })
                    if faulty.insert(name.clone()) =>
                {
                    events.push(Event::of_fault(daemon, name, &fault));
                }
                Some(StoreState::Open(_)) if faulty.remove(name) => {
                    events.push(Event::of_recovery(daemon, name));
                }
                // Told already; or nothing is known yet, or it was closed on purpose.
                _ => {}
            }
        }
        let locked: BTreeSet<UserId> = daemon.authority.locked_users().into_iter().collect();
        let new: Vec<UserId> = locked.difference(&self.locked).cloned().collect();
        if !new.is_empty() {
            events.push(Event::of_locks(daemon, &new));
        }
        self.locked = locked;
        events
    }
}

/// Whether somebody wants to hear of an event.
fn wants(notify: &Notify, event: &Event) -> bool {
    let kind = match &event.task {
        Some(task) if notify.tasks.is_empty() => !matches!(&*task.kind, "backup" | "reader"),
        Some(task) => notify.tasks.contains(&task.kind),
        None => true,
    };
    let store = event.store.as_ref();
    let store = notify.stores.is_empty() || store.is_some_and(|name| notify.stores.contains(name));
    !notify.disable && event.heard_by >= notify.level && kind && store
}

fn is_wanted(daemon: &Daemon, event: &Event) -> bool {
    let config = daemon.config.read();
    config.notify.values().any(|notify| wants(notify, event))
}

/// Deliveries under way, pauses included, to each who is told: one who cannot be reached is in nobody else's way.
#[derive(Default)]
struct Slots(BTreeMap<String, Arc<Semaphore>>);

impl Slots {
    fn take(&mut self, id: &str) -> Option<OwnedSemaphorePermit> {
        let slots = self.0.entry(id.to_owned());
        let slots = slots.or_insert_with(|| Arc::new(Semaphore::new(DELIVERIES_MAX)));
        Arc::clone(slots).try_acquire_owned().ok()
    }
}

/// Begins to deliver an event to all who want it.
fn spread(daemon: &Arc<Daemon>, slots: &mut Slots, event: Event) {
    let (event, config) = (Arc::new(event), daemon.config.read());
    for (id, notify) in &config.notify {
        if !wants(notify, &event) {
            continue;
        }
        let Some(slot) = slots.take(id) else {
            tracing::warn!(
                to = id,
                title = event.title,
                "not told: too many messages to the same wait to be delivered"
            );
            continue;
        };
        let (daemon, event) = (Arc::clone(daemon), Arc::clone(&event));
        let (id, notify) = (id.clone(), notify.clone());
        let env = daemon.env.clone();
        drop(env.spawn(async move {
            insist(&daemon, &id, &notify, &event).await;
            drop(slot);
        }));
    }
}

/// Delivers until that succeeds or there is no sense in it, such as when the settings were changed meanwhile.
async fn insist(daemon: &Daemon, id: &str, notify: &Notify, event: &Event) {
    let mut pauses = PAUSES.iter();
    loop {
        // A new secret is written after its settings, so one that was read before old settings is theirs.
        let secret = secret_of(daemon, id);
        if daemon.config.read().notify.get(id) != Some(notify) {
            return;
        }
        // Whoever waits for the stop waits for this attempt, too.
        let Some(working) = daemon.shutdown.begin_work() else {
            return;
        };
        let error = match deliver(daemon, notify, secret, event).await {
            Ok(()) => return,
            Err(error) => error,
        };
        drop(working);
        let Some(pause) = pauses.next().filter(|_| error.transient) else {
            tracing::error!(to = id, title = event.title, %error, "not told");
            return;
        };
        tracing::warn!(to = id, title = event.title, %error, "not told yet; tried again in {} s", pause.as_secs());
        tokio::select! {
            () = daemon.shutdown.requested() => return,
            () = tokio::time::sleep(*pause) => {}
        }
    }
}

/// The secret of one who is told. Read it before the settings it goes with.
pub(crate) fn secret_of(daemon: &Daemon, id: &str) -> Option<ClearSecret> {
    daemon.secrets.read().notify.get(id).cloned()
}

/// One attempt.
pub(crate) async fn deliver(
    daemon: &Daemon,
    notify: &Notify,
    secret: Option<ClearSecret>,
    event: &Event,
) -> Result<(), DeliveryError> {
    if cfg!(feature = "fuzz") {
        // Whatever an input names is not called.
        return Err(DeliveryError::refused("there is no network"));
    }
    let secret = secret.as_ref().map(ClearSecret::reveal);
    let attempt = async {
        if notify.is_mail() {
            mail::send(&daemon.env, notify, secret, event).await
        } else {
            webhook::post(&daemon.env, notify, secret, event).await
        }
    };
    let limit = ATTEMPT_MAX.as_secs();
    let attempt = tokio::time::timeout(ATTEMPT_MAX, attempt).await;
    attempt.unwrap_or_else(|_| {
        Err(DeliveryError::transient(format!(
            "no answer within {limit} s"
        )))
    })
}
