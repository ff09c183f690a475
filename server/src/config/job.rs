//! `[prune.ID]` and `[verify.ID]`: jobs that the daemon runs by itself, and what all kinds of them have. The ID is a safe id of 3 to 32 characters. The names
//! in the file are those of the fields, in kebab-case.

use pbs_datastore::{KeepOptions, NAMESPACE_DEPTH_MAX, Namespace};
use serde::Deserialize;

use super::fault::{Faults, Section};
use super::model::Config;
use super::parse::{check_comment, check_name};
use super::size::ByteCount;
use crate::calendar::CalendarEvent;

/// Longest jitter, in seconds: a day.
pub(super) const JITTER_SECONDS_MAX: u64 = 86_400;
/// How long a chunk that was found good is not read again, in days.
const REREAD_AFTER: u64 = 30;
/// All chunks.
pub(crate) const SAMPLE_MAX: u64 = 100;
/// Longest `outdated-after`, in days: a century.
pub(crate) const OUTDATED_AFTER_MAX: u64 = 36_500;
/// Most snapshots that a rule keeps.
pub(crate) const KEEP_MAX: u64 = 1 << 31;

/// What all kinds of jobs have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JobTarget {
    /// `store`: the datastore. Required.
    pub(crate) store: String,
    /// `ns`: the namespace. Default: the root.
    pub(crate) namespace: Namespace,
    /// `max-depth`: how many levels below it belong to it too, 0 to 7. Default: all.
    pub(crate) max_depth: Option<usize>,
    /// `schedule`: when it runs, a calendar event. Default: never by itself.
    pub(crate) schedule: Option<CalendarEvent>,
    /// `jitter-seconds`: how much later at most, 0 to 86400 s. Default: 0.
    pub(crate) jitter_seconds: u64,
    /// `disable`: it does not run by itself. Default: false.
    pub(crate) disable: bool,
    /// `comment`: one line of at most 256 bytes. Default: none.
    pub(crate) comment: Option<String>,
}

impl JobTarget {
    /// Levels below the namespace.
    pub(crate) fn depth(&self) -> usize {
        self.max_depth.unwrap_or(NAMESPACE_DEPTH_MAX)
    }

    /// When it runs by itself.
    pub(crate) fn active_schedule(&self) -> Option<&CalendarEvent> {
        self.schedule.as_ref().filter(|_| !self.disable)
    }
}

/// `[prune.ID]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PruneJob {
    /// Of what, and when.
    pub(crate) target: JobTarget,
    /// `keep-last`, `keep-hourly`, `keep-daily`, `keep-weekly`, `keep-monthly`, `keep-yearly`: 1 to 2147483648. At least one
    /// is required.
    pub(crate) keep: KeepOptions,
}

/// `[verify.ID]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VerifyJob {
    /// Of what, and when.
    pub(crate) target: JobTarget,
    /// `ignore-verified`: pass over snapshots that were verified and are not outdated. Default: true.
    pub(crate) ignore_verified: bool,
    /// `outdated-after`: after how many days a verification counts no more, 1 to 36500. Default: never.
    pub(crate) outdated_after: Option<u64>,
    /// `reread-after`: after how many days a chunk that was read and found good is read again, 0 to 36500; 0 is always.
    /// Default: `outdated-after`, or 30.
    pub(crate) reread_after: u64,
    /// `bytes-max`: how much of chunks one run reads at most, 0 for no limit. Default: 0.
    pub(crate) bytes_max: ByteCount,
    /// `requests-max`: how many chunks one run reads at most, 0 for no limit. Default: 0.
    pub(crate) requests_max: u64,
    /// `sample`: how many of 100 chunks are read, 0 to 100. Of the others only a list is asked for. Default: 100.
    pub(crate) sample: u64,
}

impl Config {
    /// Section, id and datastore of every job.
    pub(super) fn job_stores(&self) -> impl Iterator<Item = (&'static str, &str, &str)> {
        let prune = self
            .prune
            .iter()
            .map(|(id, job)| ("prune", id, &job.target));
        let verify = self
            .verify
            .iter()
            .map(|(id, job)| ("verify", id, &job.target));
        let sync = self.sync.iter().map(|(id, job)| ("sync", id, &job.target));
        prune
            .chain(verify)
            .chain(sync)
            .map(|(section, id, target)| (section, id.as_str(), target.store.as_str()))
    }
}

/// A namespace as the file has it.
pub(super) fn namespace<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Namespace, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

/// The settings of [`JobTarget`], as the file names them.
pub(super) const TARGET: [&str; 7] = [
    "store",
    "ns",
    "max-depth",
    "schedule",
    "jitter-seconds",
    "disable",
    "comment",
];

/// [`TARGET`] as written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct RawTarget {
    store: Option<String>,
    #[serde(deserialize_with = "namespace")]
    ns: Namespace,
    max_depth: Option<u64>,
    schedule: Option<CalendarEvent>,
    jitter_seconds: u64,
    disable: bool,
    comment: Option<String>,
}

pub(super) fn read_target(faults: &mut Faults<'_>, section: &mut Section) -> Option<JobTarget> {
    let raw = section.read::<RawTarget>(faults)?;
    check_comment(faults, section, raw.comment.as_deref());
    if let Some(depth) = raw.max_depth {
        let depths = 0..=NAMESPACE_DEPTH_MAX as u64;
        section.bounded(faults, "max-depth", &depth, &depths);
    }
    let jitter = 0..=JITTER_SECONDS_MAX;
    section.bounded(faults, "jitter-seconds", &raw.jitter_seconds, &jitter);
    Some(JobTarget {
        store: section.required(faults, "store", raw.store)?,
        namespace: raw.ns,
        max_depth: raw.max_depth.map(|depth| depth as usize),
        schedule: raw.schedule,
        jitter_seconds: raw.jitter_seconds,
        disable: raw.disable,
        comment: raw.comment,
    })
}

/// `[prune.ID]` without its target, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawPrune {
    #[serde(rename = "keep-last")]
    last: Option<u64>,
    #[serde(rename = "keep-hourly")]
    hourly: Option<u64>,
    #[serde(rename = "keep-daily")]
    daily: Option<u64>,
    #[serde(rename = "keep-weekly")]
    weekly: Option<u64>,
    #[serde(rename = "keep-monthly")]
    monthly: Option<u64>,
    #[serde(rename = "keep-yearly")]
    yearly: Option<u64>,
}

pub(super) fn read_prune(
    faults: &mut Faults<'_>,
    config: &mut Config,
    id: String,
    section: &mut Section,
) {
    check_name(faults, section, &id);
    let target = read_target(faults, &mut section.split(&TARGET));
    let Some(raw) = section.read::<RawPrune>(faults) else {
        return;
    };
    let keep = KeepOptions {
        last: raw.last,
        hourly: raw.hourly,
        daily: raw.daily,
        weekly: raw.weekly,
        monthly: raw.monthly,
        yearly: raw.yearly,
    };
    for (key, count) in keep.named() {
        if let Some(count) = count {
            section.bounded(faults, key, &count, &(1..=KEEP_MAX));
        }
    }
    if keep.keeps_all() {
        section.fault_here(
            faults,
            "keeps everything: say at least one of keep-last, keep-hourly, keep-daily, keep-weekly, keep-monthly and keep-yearly",
        );
    }
    if let Some(target) = target {
        config.prune.insert(id, PruneJob { target, keep });
    }
}

/// `[verify.ID]` without its target, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct RawVerify {
    ignore_verified: Option<bool>,
    outdated_after: Option<u64>,
    reread_after: Option<u64>,
    bytes_max: Option<ByteCount>,
    requests_max: u64,
    sample: Option<u64>,
}

pub(super) fn read_verify(
    faults: &mut Faults<'_>,
    config: &mut Config,
    id: String,
    section: &mut Section,
) {
    check_name(faults, section, &id);
    let target = read_target(faults, &mut section.split(&TARGET));
    let Some(raw) = section.read::<RawVerify>(faults) else {
        return;
    };
    if let Some(days) = raw.outdated_after {
        section.bounded(faults, "outdated-after", &days, &(1..=OUTDATED_AFTER_MAX));
    }
    if let Some(days) = raw.reread_after {
        section.bounded(faults, "reread-after", &days, &(0..=OUTDATED_AFTER_MAX));
    }
    let sample = raw.sample.unwrap_or(SAMPLE_MAX);
    section.bounded(faults, "sample", &sample, &(0..=SAMPLE_MAX));
    if let Some(target) = target {
        let reread_after = raw.reread_after.or(raw.outdated_after);
        let bounded = raw.requests_max > 0 || raw.bytes_max.is_some_and(|max| max.get() > 0);
        if bounded && reread_after == Some(0) {
            section.fault(
                faults,
                "reread-after",
                "must not be 0 with limits: every run would read the same chunks and come no further",
            );
        }
        let job = VerifyJob {
            reread_after: reread_after.unwrap_or(REREAD_AFTER),
            target,
            ignore_verified: raw.ignore_verified.unwrap_or(true),
            outdated_after: raw.outdated_after,
            bytes_max: raw.bytes_max.unwrap_or(ByteCount(0)),
            requests_max: raw.requests_max,
            sample,
        };
        config.verify.insert(id, job);
    }
}
