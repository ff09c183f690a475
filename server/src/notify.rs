//! Tells people and programs how tasks end, and when a datastore cannot be used: by mail and by webhook.
//!
//! The end of a task goes into a queue, so that nothing waits for a mail server; from there to each `[notify.ID]` that wants it. A delivery that fails
//! for the way there is tried again, [`PAUSES`] later; whether one whose answer was lost arrived nobody knows, so it may come twice, with the same `id`.
//! A refusal is final. What is in the queue or waits for its next attempt when the daemon stops is lost; what a task did is in its
//! log in any case. Tasks that a crash cut off are told of at the next start.
//!
//! Tasks that end while the daemon stops are nobody's concern and are not told of.

mod event;
mod mail;
mod webhook;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};

pub(crate) use self::event::Event;
use crate::auth::ClearSecret;
use crate::config::Notify;
use crate::daemon::Daemon;
use crate::stores::StoreState;
use crate::tasks::TaskInfo;

/// Ends of tasks that wait to be told of.
const QUEUE: usize = 1024;
/// Deliveries under way, pauses included.
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
/// How often datastores are looked at.
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
    let slots = Arc::new(Semaphore::new(DELIVERIES_MAX));
    let mut faults: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let events = tokio::select! {
            biased;
            () = daemon.shutdown.requested() => return,
            task = ended.recv() => match task {
                Some(task) => Event::of_task(&daemon, &task).await.into_iter().collect(),
                None => return,
            },
            () = tokio::time::sleep(LOOK_EVERY) => look(&daemon, &mut faults),
        };
        for event in events {
            spread(&daemon, &slots, event);
        }
    }
}

/// What has changed about the datastores since the last look.
fn look(daemon: &Daemon, faults: &mut BTreeMap<String, String>) -> Vec<Event> {
    let mut events = Vec::new();
    for name in daemon.config.read().datastores.keys() {
        let fault = match daemon.stores.state(name) {
            Some(StoreState::Faulty { fault, .. } | StoreState::Lost { fault, .. }) => Some(fault),
            Some(StoreState::Open(_)) => None,
            // Nothing is known yet, or it was closed on purpose.
            _ => continue,
        };
        let before = faults.get(name);
        match fault {
            Some(fault) if before != Some(&fault) => {
                events.push(Event::of_fault(daemon, name, &fault));
                faults.insert(name.clone(), fault);
            }
            None if before.is_some() => {
                events.push(Event::of_recovery(daemon, name));
                faults.remove(name);
            }
            _ => {}
        }
    }
    events
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

/// Begins to deliver an event to all who want it.
fn spread(daemon: &Arc<Daemon>, slots: &Arc<Semaphore>, event: Event) {
    let (event, config) = (Arc::new(event), daemon.config.read());
    for (id, notify) in &config.notify {
        if !wants(notify, &event) {
            continue;
        }
        let Ok(slot) = Arc::clone(slots).try_acquire_owned() else {
            tracing::warn!(
                to = id,
                title = event.title,
                "not told: too many messages wait to be delivered"
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

/// Delivers until that succeeds or there is no sense in it.
async fn insist(daemon: &Daemon, id: &str, notify: &Notify, event: &Event) {
    let mut pauses = PAUSES.iter();
    loop {
        // Whoever waits for the stop waits for this attempt, too.
        let Some(working) = daemon.shutdown.begin_work() else {
            return;
        };
        let error = match deliver(daemon, id, notify, event).await {
            Ok(()) => return,
            Err(error) => error,
        };
        let Some(pause) = pauses.next().filter(|_| error.transient) else {
            tracing::error!(to = id, title = event.title, %error, "not told");
            return;
        };
        tracing::warn!(to = id, title = event.title, %error, "not told yet; tried again in {} s", pause.as_secs());
        drop(working);
        tokio::select! {
            () = daemon.shutdown.requested() => return,
            () = tokio::time::sleep(*pause) => {}
        }
    }
}

/// One attempt.
pub(crate) async fn deliver(
    daemon: &Daemon,
    id: &str,
    notify: &Notify,
    event: &Event,
) -> Result<(), DeliveryError> {
    if cfg!(feature = "fuzz") {
        // Whatever an input names is not called.
        return Err(DeliveryError::refused("there is no network"));
    }
    let secret = daemon.secrets.read().notify.get(id).cloned();
    let secret = secret.as_ref().map(ClearSecret::reveal);
    let attempt = async {
        if notify.is_mail() {
            mail::send(notify, secret, event).await
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
