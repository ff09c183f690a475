//! Requests that were given up and may still take effect (A1).

use std::sync::Arc;

use tokio::time::{Instant, sleep_until};

use super::FaultPlan;
use super::request::Mutation;
use crate::store::{ObjectStore, PartOutcome, UploadId};
use crate::{DeleteOutcome, Error, Op, PutOutcome};

/// What a mutation came to, whichever it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A put, a copy, or the end of a multipart upload.
    Put(PutOutcome),
    /// A deletion.
    Delete(Vec<DeleteOutcome>),
    /// The start of a multipart upload.
    Upload(UploadId),
    /// A part.
    Part(PartOutcome),
    /// The abandonment of a multipart upload.
    Done,
}

/// A request on its way, with the store it is meant for.
#[derive(Debug)]
pub(super) struct Late {
    pub(super) request: Mutation,
    pub(super) store: Arc<dyn ObjectStore>,
    /// When it arrives by itself; `None` only when delivered.
    pub(super) due: Option<Instant>,
}

/// A late request that has arrived.
#[derive(Debug)]
pub struct Delivery {
    /// What it was.
    pub op: Op,
    /// The keys it concerned.
    pub keys: Vec<String>,
    /// What the store answered; nobody but the test hears it.
    pub reply: Result<Reply, Error>,
}

impl FaultPlan {
    /// How many requests are still on their way.
    pub fn late(&self) -> usize {
        self.state().late.len()
    }

    /// Lets all late requests arrive, in the order they were sent.
    pub async fn deliver_late(&self) -> Vec<Delivery> {
        self.deliver_late_matching(|_, _| true).await
    }

    /// Lets those late requests arrive of which `test` says so for one of their keys.
    pub async fn deliver_late_matching(&self, test: impl Fn(Op, &str) -> bool) -> Vec<Delivery> {
        self.deliver(|late| {
            let op = late.request.op();
            late.request.keys().iter().any(|key| test(op, key))
        })
        .await
    }

    /// Lets those late requests arrive whose time has come.
    pub async fn deliver_due(&self) -> Vec<Delivery> {
        let now = Instant::now();
        self.deliver(|late| late.due.is_some_and(|due| due <= now))
            .await
    }

    /// Forgets all late requests: they never take effect. Answers how many there were.
    pub fn drop_late(&self) -> usize {
        let dropped = std::mem::take(&mut self.state().late);
        for late in &dropped {
            self.unsent(late.request.op());
        }
        dropped.len()
    }

    /// Delivers late requests as their time comes, for ever; to be run beside a test and dropped at its end.
    pub async fn run_late(&self) {
        loop {
            let queued = self.queued.notified();
            let next = self.state().late.iter().filter_map(|late| late.due).min();
            match next {
                Some(due) => tokio::select! {
                    biased;
                    () = sleep_until(due) => {}
                    () = queued => {}
                },
                None => queued.await,
            }
            self.deliver_due().await;
        }
    }

    pub(super) fn queue(&self, late: Late) {
        self.state().late.push(late);
        self.queued.notify_one();
    }

    /// One at a time, so that whoever is cancelled here loses none that has not been sent.
    async fn deliver(&self, arrives: impl Fn(&Late) -> bool) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        while let Some(Late { request, store, .. }) = self.take_late(&arrives) {
            let op = request.op();
            let keys = request.keys().into_iter().map(str::to_owned).collect();
            let answer = request.send(store.as_ref()).await;
            let reply = answer.map(|answer| answer.value);
            deliveries.push(Delivery { op, keys, reply });
        }
        deliveries
    }

    /// The next to arrive: by time, then in the order they were sent.
    fn take_late(&self, arrives: impl Fn(&Late) -> bool) -> Option<Late> {
        let late = &mut self.state().late;
        let arriving = late.iter().enumerate().filter(|(_, late)| arrives(late));
        let (next, _) = arriving.min_by_key(|(position, late)| (late.due, *position))?;
        Some(late.remove(next))
    }
}
