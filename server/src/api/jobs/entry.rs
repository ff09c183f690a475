//! A job as it is configured, in the words of the wire.

use pbs_datastore::Namespace;
use serde_json::{Value, json};

use crate::config::{Config, JobTarget, SAMPLE_MAX, SyncDirection, SyncJob, unless_zero};
use crate::jobs::JobKind;

/// A job's settings; defaults are left out, as is everything of a job that is not there.
pub(super) fn entry(config: &Config, kind: JobKind, id: &str) -> Value {
    let mut entry = json!({});
    match kind {
        JobKind::Gc => {
            entry["store"] = json!(id);
            if let Some(datastore) = config.datastores.get(id) {
                let schedule = datastore.gc_schedule.as_ref();
                set(&mut entry, "schedule", schedule.map(ToString::to_string));
                let jitter = unless_zero(datastore.gc_jitter_seconds);
                set(&mut entry, "jitter-seconds", jitter);
            }
        }
        JobKind::Prune => {
            if let Some(job) = config.prune.get(id) {
                describe_target(&mut entry, id, &job.target);
                for (name, count) in job.keep.named() {
                    set(&mut entry, name, count);
                }
            }
        }
        JobKind::Verify => {
            if let Some(job) = config.verify.get(id) {
                describe_target(&mut entry, id, &job.target);
                entry["ignore-verified"] = json!(job.ignore_verified);
                set(&mut entry, "outdated-after", job.outdated_after);
                entry["reread-after"] = json!(job.reread_after);
                set(&mut entry, "bytes-max", unless_zero(job.bytes_max.get()));
                set(&mut entry, "requests-max", unless_zero(job.requests_max));
                let sample = (job.sample < SAMPLE_MAX).then_some(job.sample);
                set(&mut entry, "sample", sample);
            }
        }
        JobKind::Sync => {
            if let Some(job) = config.sync.get(id) {
                describe_target(&mut entry, id, &job.target);
                describe_sync(&mut entry, job);
            }
        }
    }
    entry
}

fn describe_target(entry: &mut Value, id: &str, target: &JobTarget) {
    entry["id"] = json!(id);
    entry["store"] = json!(target.store);
    set(entry, "ns", unless_root(&target.namespace));
    set(entry, "max-depth", target.max_depth);
    let schedule = target.schedule.as_ref();
    set(entry, "schedule", schedule.map(ToString::to_string));
    let jitter = unless_zero(target.jitter_seconds);
    set(entry, "jitter-seconds", jitter);
    set(entry, "disable", target.disable.then_some(true));
    set(entry, "comment", target.comment.as_deref());
}

fn describe_sync(entry: &mut Value, job: &SyncJob) {
    set(entry, "remote", job.remote.as_deref());
    entry["remote-store"] = json!(job.remote_store);
    set(entry, "remote-ns", unless_root(&job.remote_namespace));
    entry["owner"] = json!(job.owner.to_string());
    if job.direction != SyncDirection::Pull {
        entry["sync-direction"] = json!(job.direction.name());
    }
    if !job.groups.is_empty() {
        let groups = job.groups.iter().map(ToString::to_string);
        entry["group-filter"] = groups.collect::<Vec<_>>().into();
    }
    set(entry, "transfer-last", job.transfer_last);
    for (name, flag) in [
        ("remove-vanished", job.remove_vanished),
        ("resync-corrupt", job.resync_corrupt),
        ("encrypted-only", job.encrypted_only),
        ("verified-only", job.verified_only),
    ] {
        set(entry, name, flag.then_some(true));
    }
    if job.worker_threads > 1 {
        entry["worker-threads"] = json!(job.worker_threads);
    }
    for (name, size) in [
        ("rate-in", job.rate_in),
        ("burst-in", job.burst_in),
        ("rate-out", job.rate_out),
        ("burst-out", job.burst_out),
    ] {
        set(entry, name, unless_zero(size.get()));
    }
}

fn unless_root(namespace: &Namespace) -> Option<String> {
    (!namespace.is_root()).then(|| namespace.to_string())
}

/// Sets a member, unless there is nothing to set.
pub(super) fn set<T: serde::Serialize>(entry: &mut Value, name: &str, value: Option<T>) {
    if let Some(value) = value {
        entry[name] = json!(value);
    }
}
