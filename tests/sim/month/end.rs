//! The end of a month: nothing goes wrong any more, both daemons are started anew, and what is damaged is mended. Then
//! - what a prune keeps is there, on both sides, and nothing else;
//! - all that [`quiet`] asks of one store holds for each: every snapshot is restored and compared, through the daemon
//!   and from what is stored alone, and nothing that nobody needs and that is older than the cutoff is left;
//! - what one side has whole the other has whole as well;
//! - the counters of requests agree with those of the server, see [`Pair::compare_counters`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pbs_datastore::{Namespace, Place, SnapshotRef};
use s3_client::{Op, Strays};

use super::jobs::{self, Copies, Look, back};
use super::night::Pair;
use super::side::{Order, disarm};
use crate::oracle::Truth;
use crate::quiet;
use crate::scenario::{LATE, WINDOW};

/// Rounds in which what is damaged is found and mended: each needs the other side's to be known.
const ROUNDS: usize = 3;

impl Pair {
    /// See the page of this module.
    pub(super) async fn end(&self) {
        disarm();
        for side in &self.sides {
            side.world.calm();
        }
        // Longer than any late request, and than what a start may have to wait for.
        let settled = (LATE + WINDOW) * 4;
        tokio::time::sleep(settled).await;
        for side in &self.sides {
            side.up().await;
            side.order(Order::Restart);
            tokio::time::sleep(settled).await;
        }
        self.mend_all().await;
        self.last_night().await;
        if self.is_violated() {
            return;
        }
        let check = |side: usize| async move {
            let side = &self.sides[side];
            let up = side.up().await;
            quiet::check(&side.world, up.life, up.datastore).await;
        };
        futures_util::future::join(check(0), check(1)).await;
        for side in 0..2 {
            self.check_leftovers(side);
            self.check_damage(side);
            self.compare_counters(side);
        }
    }

    fn is_violated(&self) -> bool {
        let mut sides = self.sides.iter();
        sides.any(|side| !side.world.oracle.violations().is_empty())
    }

    fn expect(&self, side: usize, came: bool, what: &str) {
        if !came {
            self.sides[side].violation(&format!("{what} although all is quiet"));
        }
    }

    async fn verify_all(&self, rng: &mut rand::rngs::StdRng) {
        for side in 0..2 {
            let verified = self.again(side, rng, |side, up, _| jobs::verify(side, up, Look::All));
            let came = verified.await.is_some();
            self.expect(side, came, "a verification fails");
            // What was found is being set aside.
            tokio::time::sleep(LATE * 4).await;
        }
    }

    /// Everything is read, and what the other side has is brought again.
    async fn mend_all(&self) {
        let rng = &mut self.plan.rng(20);
        for round in 0..ROUNDS {
            self.verify_all(rng).await;
            let mend = self.mend(rng);
            for side in [0, 1, 0] {
                self.sync(side, &mend, rng).await;
            }
            if round == 0 {
                for group in 0..self.groups.len() {
                    let (place, contents) = (self.groups[group].place(), self.contents(group));
                    let came = self.again(0, rng, |side, up, rng| {
                        jobs::back_up(side, up, place.clone(), contents.clone(), rng)
                    });
                    // A client that gives up is no fault.
                    came.await;
                }
            }
        }
    }

    /// The last prune and the last sync leave on both sides what is to be kept, and nothing else.
    async fn last_night(&self) {
        let rng = &mut self.plan.rng(21);
        let came = self.prune(0, rng).await;
        self.expect(0, came, "a prune fails");
        let last = Copies {
            resync_corrupt: true,
            ..self.pull(rng)
        };
        let came = self.sync(1, &last, rng).await;
        self.expect(1, came || self.is_anything_damaged(), "a sync fails");
        if self.plan.keep_far.is_some() {
            let came = self.prune(1, rng).await;
            self.expect(1, came, "a prune fails");
        }
        let copies = Copies {
            target: back(),
            remove_vanished: true,
            ..last
        };
        let came = self.sync(0, &copies, rng).await;
        self.expect(0, came || self.is_anything_damaged(), "a sync fails");
        self.verify_all(rng).await;
        if !self.is_anything_damaged() {
            self.compare_lists().await;
        }
    }

    fn is_anything_damaged(&self) -> bool {
        let mut sides = self.sides.iter();
        sides.any(|side| !side.world.oracle.damaged().is_empty())
    }

    /// What is listed where.
    async fn compare_lists(&self) {
        let mut lists = Vec::new();
        for (n, side) in self.sides.iter().enumerate() {
            let listed = side.job(|up| jobs::list(Arc::clone(side), up)).await;
            let Some(Ok(listed)) = listed else {
                return self.expect(n, false, "a list fails");
            };
            let finished = listed.into_iter().filter(|info| info.state.is_root());
            // Also one whose protection was asked for by a daemon that died before it knew.
            let list = finished.map(|info| (info.id, info.protected));
            lists.push(list.collect::<BTreeMap<_, _>>());
        }
        let only = |side: usize, namespace: &Namespace| -> BTreeSet<SnapshotRef> {
            let list = lists[side].keys();
            list.filter(|id| id.namespace == *namespace)
                .cloned()
                .collect()
        };
        let is_protected = |side: usize, id: &SnapshotRef| lists[side].get(id) == Some(&true);
        let far = only(1, &Namespace::root());
        if self.plan.keep_far.is_none() {
            let near = only(0, &Namespace::root());
            let missing: Vec<_> = near.difference(&far).collect();
            let extra: Vec<_> = far
                .difference(&near)
                .filter(|id| !is_protected(1, id))
                .collect();
            if !missing.is_empty() || !extra.is_empty() {
                self.sides[1].violation(&format!(
                    "what the sync leaves is not what its source has: {missing:?} missing, {extra:?} too many"
                ));
            }
        }
        let copies = only(0, &back());
        let extra = copies.iter().find(|id| {
            let original = SnapshotRef::new(Namespace::root(), id.snapshot.clone());
            !far.contains(&original) && !is_protected(0, id)
        });
        if let Some(id) = extra {
            self.sides[0].violation(&format!("{id} has vanished at its source and is there"));
        }
    }

    /// Nothing lies in the bucket that has no name in the layout, and nothing set aside.
    fn check_leftovers(&self, side: usize) {
        let side = &self.sides[side];
        let Truth::Bucket(model, layout) = side.world.oracle.truth() else {
            return;
        };
        for key in model.objects().keys() {
            match layout.parse(key) {
                None => side.violation(&format!("'{key}' is left in the bucket")),
                Some(Place::Bad(digest, _)) if !side.world.oracle.is_damaged(&digest) => {
                    side.violation(&format!("'{key}' is left, and its chunk is whole"));
                }
                Some(_) => {}
            }
        }
        for (key, upload) in model.open_uploads() {
            side.violation(&format!("upload {upload:?} of '{key}' is left open"));
        }
    }

    /// What the other side has whole is whole here.
    fn check_damage(&self, side: usize) {
        let (here, there) = (
            &self.sides[side].world.oracle,
            &self.sides[1 - side].world.oracle,
        );
        for (id, digests) in here.acknowledged() {
            let root = id.namespace.is_root();
            let damaged = digests.iter().find(|digest| here.is_damaged(digest));
            let whole = there
                .digests_of(&id)
                .is_some_and(|digests| digests.iter().all(|digest| there.holds(digest)))
                && there.acknowledged().iter().any(|(other, _)| *other == id);
            if let Some(digest) = damaged.filter(|_| root && whole) {
                self.sides[side].violation(&format!(
                    "{id} is whole on the other side and chunk {digest} of it was not mended"
                ));
            }
        }
    }

    /// For each kind of request: what all lives of the daemon have counted, less what never reached the server, and what
    /// reached it twice, is what the server has counted. What went astray is in the books of the fault plan; nothing is on its way any
    /// more.
    fn compare_counters(&self, side: usize) {
        let side = &self.sides[side];
        let plan = &side.world.plan;
        if plan.late() > 0 {
            side.violation("a request is still on its way");
        }
        let (counted, strays) = (side.requests(), plan.strays());
        for op in Op::ALL {
            let Strays { unsent, doubled } = strays.get(&op).copied().unwrap_or_default();
            let ours = counted.op(op).requests;
            let theirs = side.world.model.count(op);
            side.tally.add("requests", theirs);
            if ours + doubled != theirs + unsent {
                side.violation(&format!(
                    "{op:?}: the daemon has counted {ours}, of which {unsent} were lost and {doubled} came twice, and the server {theirs}"
                ));
            }
        }
    }
}

/// How long all that may take: every wait is bounded.
pub(super) const END_MAX: Duration = Duration::from_hours(24 * 40);
