//! The decorator that carries a plan out.

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::late::{Late, Reply};
use super::odds::Dice;
use super::request::Mutation;
use super::{Action, Effect, FaultPlan, Script};
use crate::decide::slice;
use crate::store::{
    Answer, Body, BucketSettings, ByteRange, Copy, DeleteRequest, ListPage, ListRequest, Metadata,
    Object, ObjectMeta, ObjectStore, Part, PartOutcome, Put, UploadId, Validity,
};
use crate::{DeleteOutcome, Error, ErrorKind, ObjectKey, Op, Precondition, PutOutcome};

/// Any store, with what the plan says going wrong.
#[derive(Clone, Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    plan: FaultPlan,
}

impl FaultyStore {
    /// Lets `plan` go wrong around `inner`. Late requests go to `inner`, past all faults.
    pub fn new(inner: Arc<dyn ObjectStore>, plan: FaultPlan) -> Self {
        Self { inner, plan }
    }

    /// The plan.
    pub fn plan(&self) -> &FaultPlan {
        &self.plan
    }

    async fn pause(&self, script: &mut Script) {
        for action in script.before.drain(..) {
            match action {
                Action::Delay(time) => sleep(time).await,
                Action::GateBefore(gate) => gate.pass().await,
                _ => {}
            }
        }
        // Whatever arrived in the meantime arrived before this request.
        self.plan.deliver_due().await;
    }

    async fn mutate(&self, request: Mutation) -> Result<Answer<Reply>, Error> {
        let mut script = self.plan.script(request.op(), &request.keys());
        let on_its_way = OnItsWay {
            faulty: self,
            request: Some(request),
        };
        self.pause(&mut script).await;
        let result = self.carry_out(on_its_way.arrived(), &script).await;
        linger(&script).await;
        result
    }

    async fn carry_out(&self, request: Mutation, script: &Script) -> Result<Answer<Reply>, Error> {
        let inner = self.inner.as_ref();
        match &script.action {
            Some(Action::Fail(kind)) => {
                self.plan.unsent(request.op());
                Err(request.error(*kind, "injected: refused"))
            }
            Some(Action::FailLate { applied }) => {
                let mut error = request.error(ErrorKind::Unavailable, "injected: 500 in doubt");
                error.maybe_applied = true;
                if *applied {
                    drop(request.send(inner).await);
                } else {
                    self.plan.unsent(request.op());
                }
                Err(error)
            }
            Some(Action::Lose(effect)) => self.lose(request, *effect).await,
            Some(Action::Duplicate) => {
                self.plan.doubled(request.op());
                drop(request.clone().send(inner).await);
                let mut second = request.send(inner).await;
                match &mut second {
                    Ok(answer) => answer.lost_at = Some(Instant::now()),
                    Err(error) => error.lost_at = Some(Instant::now()),
                }
                second
            }
            Some(Action::Conflict) if request.may_conflict() => {
                self.plan.unsent(request.op());
                Ok(Answer::new(Reply::Put(PutOutcome::Conflict), None))
            }
            Some(Action::Refuse) => {
                let refused = DeleteOutcome::Refused("injected: AccessDenied".to_owned());
                self.refuse_keys(request, script, refused).await
            }
            Some(Action::Lock) => {
                self.refuse_keys(request, script, DeleteOutcome::Locked)
                    .await
            }
            _ => request.send(inner).await,
        }
    }

    async fn lose(&self, request: Mutation, effect: Effect) -> Result<Answer<Reply>, Error> {
        let lost = request.lost();
        let due = match effect {
            Effect::Now => {
                drop(request.send(self.inner.as_ref()).await);
                return request_lost_now(lost);
            }
            Effect::Never => {
                self.plan.unsent(request.op());
                return lost;
            }
            Effect::Late => None,
            Effect::After(time) => Some(Instant::now() + time),
        };
        let store = Arc::clone(&self.inner);
        self.plan.queue(Late {
            request,
            store,
            due,
        });
        lost
    }

    /// Deletes the keys that are not concerned and answers `refusal` for the others.
    async fn refuse_keys(
        &self,
        request: Mutation,
        script: &Script,
        refusal: DeleteOutcome,
    ) -> Result<Answer<Reply>, Error> {
        let Mutation::Delete(requests, validity) = &request else {
            self.plan.unsent(request.op());
            return Err(request.error(ErrorKind::Unauthorized, "injected: AccessDenied"));
        };
        let concerned = |position: usize| script.keys.get(position).copied().unwrap_or(false);
        let rest: Vec<DeleteRequest> = requests
            .iter()
            .enumerate()
            .filter(|(position, _)| !concerned(*position))
            .map(|(_, request)| request.clone())
            .collect();
        let answer = if rest.is_empty() {
            self.plan.unsent(request.op());
            Answer::new(Vec::new(), None)
        } else {
            self.inner.delete(&rest, *validity).await?
        };
        let count = requests.len();
        Ok(answer.map(|outcomes| {
            let mut outcomes = outcomes.into_iter();
            let merged = (0..count).map(|position| {
                if concerned(position) {
                    refusal.clone()
                } else {
                    outcomes.next().unwrap_or(DeleteOutcome::Unknown)
                }
            });
            Reply::Delete(merged.collect())
        }))
    }

    /// A read; `spoil` does to its answer what the action asks for.
    async fn read<T>(
        &self,
        op: Op,
        key: &str,
        send: impl Future<Output = Result<Answer<T>, Error>>,
        spoil: impl FnOnce(T, &Action) -> T,
    ) -> Result<Answer<T>, Error> {
        let mut script = self.plan.script(op, &[key]);
        let asked = Asked {
            plan: &self.plan,
            op,
        };
        self.pause(&mut script).await;
        let result = match &script.action {
            Some(Action::Fail(kind)) => Err(Error::new(*kind, op, key, "injected: refused")),
            Some(Action::FailLate { .. }) => {
                let message = "injected: 500";
                Err(Error::new(ErrorKind::Unavailable, op, key, message))
            }
            Some(Action::Lose(_)) => {
                let message = "injected: the answer was lost";
                Err(Error::new(ErrorKind::Timeout, op, key, message))
            }
            Some(Action::Refuse | Action::Lock) => {
                let message = "injected: AccessDenied";
                Err(Error::new(ErrorKind::Unauthorized, op, key, message))
            }
            action => {
                asked.arrived();
                let answer = send.await;
                match action {
                    Some(action) => answer.map(|answer| answer.map(|value| spoil(value, action))),
                    None => answer,
                }
            }
        };
        linger(&script).await;
        result
    }
}

/// A read that has not reached the store.
struct Asked<'a> {
    plan: &'a FaultPlan,
    op: Op,
}

impl Asked<'_> {
    fn arrived(self) {
        std::mem::forget(self);
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.plan.unsent(self.op);
    }
}

/// What a request meets between its effect and its answer.
async fn linger(script: &Script) {
    for action in &script.after {
        match action {
            Action::Linger(time) => sleep(*time).await,
            Action::GateAfter(gate) => gate.pass().await,
            _ => {}
        }
    }
}

/// A mutation that has been sent and has not arrived. Its sender may go away; the request need not.
struct OnItsWay<'a> {
    faulty: &'a FaultyStore,
    request: Option<Mutation>,
}

impl OnItsWay<'_> {
    fn arrived(mut self) -> Mutation {
        self.request.take().expect("it arrives once")
    }
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        let Some(request) = self.request.take() else {
            return;
        };
        let plan = &self.faulty.plan;
        let dice = plan.state().dice.as_mut().and_then(Dice::orphaned);
        if let Some(after) = dice {
            plan.count(request.op(), "orphan");
            plan.queue(Late {
                request,
                store: Arc::clone(&self.faulty.inner),
                due: Some(Instant::now() + after),
            });
        } else {
            plan.unsent(request.op());
        }
    }
}

/// The loss is noticed after the effect, not before.
fn request_lost_now(lost: Result<Answer<Reply>, Error>) -> Result<Answer<Reply>, Error> {
    let now = Some(Instant::now());
    match lost {
        Ok(mut answer) => {
            answer.lost_at = now;
            Ok(answer)
        }
        Err(mut error) => {
            error.lost_at = now;
            Err(error)
        }
    }
}

/// Two reads in a row are not garbled in the same `place`.
fn spoil_object(mut object: Object, action: &Action, place: usize) -> Object {
    match action {
        Action::Truncate(bytes) => {
            let end = (*bytes).min(object.body.len().saturating_sub(1));
            object.body = slice(&object.body, 0, end);
        }
        Action::Garble if !object.body.is_empty() => {
            let mut bytes = object.body.into_bytes().to_vec();
            let place = (bytes.len() / 2 + place) % bytes.len();
            bytes[place] ^= 0x10;
            object.body = Bytes::from(bytes).into();
        }
        _ => {}
    }
    object
}

fn spoil_page(mut page: ListPage, action: &Action) -> ListPage {
    if let Action::Truncate(entries) = action {
        let keep = (*entries).max(1) as usize;
        if keep < page.entries.len() {
            page.entries.truncate(keep);
            page.truncated = true;
        }
    }
    page
}

/// The answer in the type of its request; `pick` knows the kind of reply that such a request has.
fn outcome<T>(answer: Answer<Reply>, pick: impl FnOnce(Reply) -> Option<T>) -> Answer<T> {
    answer.map(|reply| pick(reply).expect("a request is answered with its own kind of reply"))
}

fn put_outcome(reply: Reply) -> Option<PutOutcome> {
    match reply {
        Reply::Put(outcome) => Some(outcome),
        _ => None,
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put(&self, put: Put) -> Result<Answer<PutOutcome>, Error> {
        Ok(outcome(self.mutate(Mutation::Put(put)).await?, put_outcome))
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
    ) -> Result<Answer<Object>, Error> {
        let send = self.inner.get(key, range);
        let spoil =
            |object, action: &Action| spoil_object(object, action, self.plan.garbled() as usize);
        self.read(Op::Get, key.as_str(), send, spoil).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Answer<ObjectMeta>, Error> {
        let send = self.inner.head(key);
        self.read(Op::Head, key.as_str(), send, |meta, _| meta)
            .await
    }

    async fn delete(
        &self,
        requests: &[DeleteRequest],
        validity: Option<Validity>,
    ) -> Result<Answer<Vec<DeleteOutcome>>, Error> {
        let request = Mutation::Delete(requests.to_vec(), validity);
        Ok(outcome(self.mutate(request).await?, |reply| match reply {
            Reply::Delete(outcomes) => Some(outcomes),
            _ => None,
        }))
    }

    async fn list(&self, request: &ListRequest) -> Result<Answer<ListPage>, Error> {
        let send = self.inner.list(request);
        self.read(Op::List, request.prefix.as_str(), send, spoil_page)
            .await
    }

    async fn copy(&self, copy: Copy) -> Result<Answer<PutOutcome>, Error> {
        Ok(outcome(
            self.mutate(Mutation::Copy(copy)).await?,
            put_outcome,
        ))
    }

    async fn create_multipart(
        &self,
        key: &ObjectKey,
        metadata: Metadata,
    ) -> Result<Answer<UploadId>, Error> {
        let request = Mutation::Create(key.clone(), metadata);
        Ok(outcome(self.mutate(request).await?, |reply| match reply {
            Reply::Upload(id) => Some(id),
            _ => None,
        }))
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        body: Body,
    ) -> Result<Answer<PartOutcome>, Error> {
        let request = Mutation::Part(key.clone(), upload.clone(), number, body);
        Ok(outcome(self.mutate(request).await?, |reply| match reply {
            Reply::Part(outcome) => Some(outcome),
            _ => None,
        }))
    }

    async fn complete_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[Part],
        precondition: Precondition,
    ) -> Result<Answer<PutOutcome>, Error> {
        let request = Mutation::Complete(key.clone(), upload.clone(), parts.to_vec(), precondition);
        Ok(outcome(self.mutate(request).await?, put_outcome))
    }

    async fn abort_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
    ) -> Result<Answer<()>, Error> {
        let request = Mutation::Abort(key.clone(), upload.clone());
        Ok(outcome(self.mutate(request).await?, |reply| match reply {
            Reply::Done => Some(()),
            _ => None,
        }))
    }

    async fn head_bucket(&self) -> Result<Answer<()>, Error> {
        let send = self.inner.head_bucket();
        self.read(Op::Bucket, "", send, |(), _| ()).await
    }

    async fn bucket_settings(&self) -> Result<Answer<BucketSettings>, Error> {
        let send = self.inner.bucket_settings();
        self.read(Op::Bucket, "", send, |settings, _| settings)
            .await
    }
}
