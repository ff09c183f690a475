//! The jobs of a night. Each is a task of the daemon that does it; what it says is compared with what the oracle knows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use pbs_datastore::{
    BackupTime, DatastoreTarget, Digest, Error, GroupRef, JobContext, KeepOptions, Namespace,
    PruneCandidate, Result, SnapshotFilter, SnapshotInfo, SnapshotRef, SyncOptions, Verified,
    Verifier, VerifyFilter, VerifyOutcome, plan_prune,
};
use rand::rngs::StdRng;

use super::far::Far;
use super::keep::{Entry, kept};
use super::side::{Side, Up};
use crate::client::{Client, kind_of};
use crate::content::Content;
use crate::copier::{counted, sync_until};
use crate::told::Told;

const OWNER: &str = "root@pam";

/// Where copies of the second store lie in the first.
pub(super) fn back() -> Namespace {
    "back".parse().expect("a valid namespace")
}

/// The name of a task that begins now.
fn upid(side: &Side, now: Timestamp) -> String {
    let (node, now) = (side.name, now.as_second());
    format!("UPID:{node}:00000001:00000002:00000003:{now:08X}:job:s:{OWNER}:")
}

fn began(upid: &str) -> Option<Timestamp> {
    let seconds = i64::from_str_radix(upid.split(':').nth(5)?, 16).ok()?;
    Timestamp::from_second(seconds).ok()
}

/// A backup of these contents.
pub(super) async fn back_up(
    side: Arc<Side>,
    up: Up,
    group: GroupRef,
    contents: Vec<Content>,
    rng: StdRng,
) -> Result<()> {
    let time = BackupTime::new(side.world.next_time()).expect("a time of this age");
    let mut client = Client {
        world: Arc::clone(&side.world),
        life: up.life,
        datastore: up.datastore,
        number: 1,
        rng,
    };
    let snapshot = group.group.at(time);
    client.back_up_as(snapshot, Some(contents)).await?;
    side.tally.count("backups");
    Ok(())
}

/// A prune of one group. What goes is what [`kept`] says, and nobody else may be gone.
pub(super) async fn prune(
    side: Arc<Side>,
    up: Up,
    group: GroupRef,
    keep: KeepOptions,
) -> Result<()> {
    let oracle = &side.world.oracle;
    let snapshots = up.datastore.snapshots();
    let promised = acknowledged(&side, &group);
    let infos = snapshots.group_snapshots(&group).await?;
    expect_listed(&side, &promised, &infos);
    let candidates: Vec<PruneCandidate> = infos.iter().map(candidate).collect();
    let entries: Vec<Entry> = infos.iter().map(entry).collect();
    let stays = kept(&entries, &keep);
    let marks = plan_prune(&candidates, &keep, &TimeZone::UTC);
    let mut left = 0;
    for (info, mark) in infos.iter().zip(marks) {
        let id = &info.id;
        if mark.keeps() != stays.contains(&id.snapshot.time.seconds()) {
            side.violation(&format!("prune: {id}: {mark:?} is not what {keep:?} says"));
        }
        if mark.keeps() || !info.state.is_root() {
            continue;
        }
        oracle.deletion_begins(id);
        match snapshots.delete(id).await {
            Ok(()) | Err(Error::NotFound(_)) => side.tally.count("removed"),
            Err(Error::Busy(_) | Error::Protected(_)) => left += 1,
            Err(error) => return Err(error),
        }
    }
    let after = snapshots.group_snapshots(&group).await?;
    let times: BTreeSet<i64> = after
        .iter()
        .map(|info| info.id.snapshot.time.seconds())
        .collect();
    for info in infos.iter().filter(|info| info.state.is_root()) {
        let time = info.id.snapshot.time.seconds();
        if stays.contains(&time) && !times.contains(&time) {
            side.violation(&format!("prune: {} is gone and was to be kept", info.id));
        }
        if !stays.contains(&time) && times.contains(&time) && left == 0 {
            side.violation(&format!("prune: {} is there and was to go", info.id));
        }
    }
    side.tally.count("prunes");
    side.world.note(&format!(
        "prune {group}: {} of {}",
        infos.len() - stays.len(),
        infos.len()
    ));
    Ok(())
}

fn candidate(info: &SnapshotInfo) -> PruneCandidate {
    PruneCandidate {
        time: info.id.snapshot.time.timestamp(),
        finished: info.state.is_root(),
        protected: info.protected,
    }
}

fn entry(info: &SnapshotInfo) -> Entry {
    Entry {
        time: info.id.snapshot.time.seconds(),
        finished: info.state.is_root(),
        protected: info.protected,
    }
}

/// The snapshots of a group that must be there.
fn acknowledged(side: &Side, group: &GroupRef) -> Vec<SnapshotRef> {
    let all = side.world.oracle.acknowledged().into_iter();
    all.map(|(id, _)| id)
        .filter(|id| id.group() == *group)
        .collect()
}

/// What must have been there before a list was asked for, and must be there still, is in it.
fn expect_listed(side: &Side, promised: &[SnapshotRef], listed: &[SnapshotInfo]) {
    let there: BTreeSet<&SnapshotRef> = listed
        .iter()
        .filter(|info| info.state.is_root())
        .map(|info| &info.id)
        .collect();
    let now: BTreeSet<SnapshotRef> = side
        .world
        .oracle
        .acknowledged()
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    for id in promised {
        if now.contains(id) && !there.contains(id) {
            side.violation(&format!("{id} is to be kept and is not listed"));
        }
    }
}

/// All snapshots of a side, each of which that must be there is.
pub(super) async fn list(side: Arc<Side>, up: Up) -> Result<Vec<SnapshotInfo>> {
    let all = side.world.oracle.acknowledged().into_iter();
    let promised: Vec<SnapshotRef> = all.map(|(id, _)| id).collect();
    let snapshots = up.datastore.snapshots();
    let mut listed = Vec::new();
    for namespace in snapshots.namespaces(&Namespace::root(), 1).await? {
        let all = SnapshotFilter::default();
        listed.extend(snapshots.list(&namespace, &all).await?);
    }
    expect_listed(&side, &promised, &listed);
    Ok(listed)
}

/// Which copies a sync brings.
#[derive(Clone, Debug)]
pub(super) struct Copies {
    pub(super) origin: Namespace,
    pub(super) target: Namespace,
    pub(super) resync_corrupt: bool,
    pub(super) remove_vanished: bool,
    pub(super) workers: usize,
    pub(super) break_odds: f64,
    /// After what time it is stopped.
    pub(super) patience: Option<Duration>,
}

/// A sync from the other daemon; whether nothing failed.
pub(super) async fn sync(
    side: Arc<Side>,
    up: Up,
    other: Arc<Side>,
    copies: Copies,
    rng: StdRng,
) -> Result<bool> {
    if let Some(name) = copies.target.name() {
        let snapshots = up.datastore.snapshots();
        snapshots.create_namespace(&Namespace::root(), name).await?;
    }
    let source = Far::new(&other, rng, copies.break_odds);
    let target = Told {
        world: Arc::clone(&side.world),
        originals: Arc::clone(&other.world.oracle),
        origin: copies.origin.clone(),
        target: DatastoreTarget::new(
            Arc::clone(&up.datastore),
            OWNER.parse().expect("a valid user"),
            side.name,
        ),
    };
    let options = SyncOptions {
        source: copies.origin,
        target: copies.target.clone(),
        depth: 0,
        resync_corrupt: copies.resync_corrupt,
        remove_vanished: copies.remove_vanished,
        workers: copies.workers,
        ..SyncOptions::default()
    };
    let stop = async {
        match copies.patience {
            Some(patience) => tokio::time::sleep(patience).await,
            None => std::future::pending().await,
        }
    };
    let env = up.datastore.env().clone();
    let counts = sync_until(&source, &target, &options, &env, stop).await?;
    side.tally.count("syncs");
    side.tally.add("copied", counts.added);
    side.tally.add("mended", counts.mended);
    side.world.note(&format!(
        "sync to '{}': {}",
        copies.target,
        counted(&counts)
    ));
    for failure in &counts.failures {
        side.world.note(&format!("sync: {failure}"));
    }
    Ok(counts.failures.is_empty())
}

/// How a verification looks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Look {
    /// Every chunk of every snapshot.
    All,
    /// Snapshots whose result is so many days old, and chunks that were not read for three.
    Outdated(u64),
    /// So many of 100 chunks.
    Sample(u64),
}

/// A verification. What is damaged must be found by whoever reads everything, and what never was may not be.
pub(super) async fn verify(side: Arc<Side>, up: Up, look: Look) -> Result<()> {
    let oracle = Arc::clone(&side.world.oracle);
    let all = list(Arc::clone(&side), up.clone()).await?;
    let now = up.datastore.env().now();
    let filter = VerifyFilter {
        ignore_verified: matches!(look, Look::Outdated(_)),
        outdated_after: match look {
            Look::Outdated(days) => Some(days),
            _ => None,
        },
    };
    let mut verifier = Verifier::new(Arc::clone(&up.datastore));
    match look {
        Look::All => {}
        Look::Outdated(_) => verifier = verifier.trusting(Some(3)),
        Look::Sample(percent) => verifier = verifier.sampling(percent),
    }
    let (upid, job) = (upid(&side, now), JobContext::detached());
    let damaged = oracle.damaged();
    let mut results = [0; 3];
    for info in filter.select(all, now, began) {
        let id = info.id;
        let verified = match verifier.verify(&id, &upid, &job).await {
            Ok(verified) => verified,
            // It is being removed, or is.
            Err(Error::NotFound(_) | Error::Busy(_)) => continue,
            Err(error) => return Err(error),
        };
        let digests = oracle.digests_of(&id).unwrap_or_default();
        let still = |digest: &&Digest| damaged.contains(digest) && oracle.is_damaged(digest);
        match verified {
            Verified::Done(VerifyOutcome::Ok) => {
                results[0] += 1;
                if let (Look::All, Some(digest)) = (look, digests.iter().find(still)) {
                    side.violation(&format!(
                        "{id} was verified although chunk {digest} is damaged"
                    ));
                }
            }
            Verified::Done(VerifyOutcome::Failed) => {
                results[1] += 1;
                if !oracle.was_damaged() {
                    side.violation(&format!(
                        "{id} failed its verification and nothing is damaged"
                    ));
                }
            }
            Verified::Present | Verified::OutOfLimits => results[2] += 1,
        }
    }
    verifier.end(&job).await;
    side.tally.count("verifications");
    let [whole, failed, present] = results;
    side.world.note(&format!(
        "verification: {look:?}: whole {whole}, failed {failed}, present {present}"
    ));
    Ok(())
}

/// Protects a snapshot, or no longer does.
pub(super) async fn protect(
    side: Arc<Side>,
    up: Up,
    id: SnapshotRef,
    protected: bool,
) -> Result<()> {
    let oracle = &side.world.oracle;
    side.world
        .note(&format!("to be protected {protected}: {id}"));
    if !protected {
        oracle.protect(&id, false);
    }
    let result = up.datastore.snapshots().set_protected(&id, protected).await;
    if protected && result.is_ok() {
        oracle.protect(&id, true);
    }
    let came = result.as_ref().map_or_else(kind_of, |()| "done".to_owned());
    side.world
        .note(&format!("protected {protected}: {id}: {came}"));
    result
}
