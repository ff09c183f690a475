//! The kinds of jobs that are sections of the configuration, and their settings.

use serde_json::Value;

use super::entry::entry;
use super::rights::{self, Extent};
use crate::api::call::Call;
use crate::api::error::ApiError;
use crate::api::settings::Settings;
use crate::auth::Principal;
use crate::config::Config;
use crate::daemon::Daemon;
use crate::jobs::{JobKey, JobKind};

/// Most elements of a list.
const LIST_MAX: usize = 128;

/// A kind of jobs.
pub(super) struct Section {
    pub(super) kind: JobKind,
    /// `/config/KIND`, `/config/KIND/{id}`, `/admin/KIND`, `/admin/KIND/{id}/run`.
    pub(super) paths: [&'static str; 4],
    texts: &'static [&'static str],
    lists: &'static [&'static str],
    numbers: &'static [&'static str],
    sizes: &'static [&'static str],
    flags: &'static [&'static str],
    /// Known elsewhere, and the daemon's own matter here.
    ignored: &'static [&'static str],
}

/// All of them.
pub(super) static ALL: &[Section] = &[PRUNE, VERIFY, SYNC];

const PRUNE: Section = Section {
    kind: JobKind::Prune,
    paths: [
        "config/prune",
        "config/prune/{id}",
        "admin/prune",
        "admin/prune/{id}/run",
    ],
    texts: &["store", "ns", "schedule", "comment"],
    lists: &[],
    numbers: &[
        "max-depth",
        "jitter-seconds",
        "keep-last",
        "keep-hourly",
        "keep-daily",
        "keep-weekly",
        "keep-monthly",
        "keep-yearly",
    ],
    sizes: &[],
    flags: &["disable"],
    ignored: &[],
};

const VERIFY: Section = Section {
    kind: JobKind::Verify,
    paths: [
        "config/verify",
        "config/verify/{id}",
        "admin/verify",
        "admin/verify/{id}/run",
    ],
    texts: &["store", "ns", "schedule", "comment"],
    lists: &[],
    numbers: &[
        "max-depth",
        "jitter-seconds",
        "outdated-after",
        "reread-after",
        "requests-max",
        "sample",
    ],
    sizes: &["bytes-max"],
    flags: &["disable", "ignore-verified"],
    ignored: &["read-threads", "verify-threads"],
};

const SYNC: Section = Section {
    kind: JobKind::Sync,
    paths: [
        "config/sync",
        "config/sync/{id}",
        "admin/sync",
        "admin/sync/{id}/run",
    ],
    texts: &[
        "store",
        "ns",
        "schedule",
        "comment",
        "owner",
        "remote",
        "remote-store",
        "remote-ns",
        "sync-direction",
    ],
    lists: SYNC_LISTS,
    numbers: &[
        "max-depth",
        "jitter-seconds",
        "transfer-last",
        "worker-threads",
    ],
    sizes: SYNC_SIZES,
    flags: &[
        "disable",
        "remove-vanished",
        "resync-corrupt",
        "encrypted-only",
        "verified-only",
    ],
    ignored: &["run-on-mount", "unmount-on-done"],
};

const SYNC_LISTS: &[&str] = &["group-filter"];
const SYNC_SIZES: &[&str] = &["rate-in", "burst-in", "rate-out", "burst-out"];

/// Takes the settings of a sync that is no job: what a job has but for when it runs, and which way.
pub(in crate::api) fn take_sync(call: &mut Call) -> Result<Settings, ApiError> {
    let mut settings = Settings::default();
    let params = &mut call.params;
    settings.take_texts(
        params,
        &["store", "ns", "remote", "remote-store", "remote-ns"],
    )?;
    settings.take_lists(params, SYNC_LISTS, LIST_MAX)?;
    settings.take_numbers(params, &["max-depth", "transfer-last", "worker-threads"])?;
    settings.take_sizes(params, SYNC_SIZES)?;
    for flag in SYNC.flags.iter().filter(|flag| **flag != "disable") {
        settings.take_flag(params, flag)?;
    }
    Ok(settings)
}

impl Section {
    pub(super) fn name(&self) -> &'static str {
        self.kind.name()
    }

    pub(super) fn none(&self, id: &str) -> ApiError {
        ApiError::bad_request(format!("there is no {}", JobKey::new(self.kind, id)))
    }

    /// Every setting that a change may name.
    pub(super) fn properties(&self) -> impl Iterator<Item = &'static str> {
        [self.texts, self.lists, self.numbers, self.sizes, self.flags]
            .into_iter()
            .flatten()
            .copied()
    }

    pub(super) fn take(&self, call: &mut Call) -> Result<Settings, ApiError> {
        let mut settings = Settings::default();
        call.params.ignore(self.ignored);
        settings.take_texts(&mut call.params, self.texts)?;
        settings.take_lists(&mut call.params, self.lists, LIST_MAX)?;
        settings.take_numbers(&mut call.params, self.numbers)?;
        settings.take_sizes(&mut call.params, self.sizes)?;
        for flag in self.flags {
            settings.take_flag(&mut call.params, flag)?;
        }
        Ok(settings)
    }

    /// A job as it is configured.
    pub(super) fn find(&self, config: &Config, id: &str) -> Result<Value, ApiError> {
        let there = match self.kind {
            JobKind::Gc => false,
            JobKind::Prune => config.prune.contains_key(id),
            JobKind::Verify => config.verify.contains_key(id),
            JobKind::Sync => config.sync.contains_key(id),
        };
        if there {
            Ok(entry(config, self.kind, id))
        } else {
            Err(self.none(id))
        }
    }

    /// A job that the caller may change and run: what is below its namespace does not count, for it may be made
    /// smaller, and run as far as the own rights go. To whoever does not even see it there is no such job.
    pub(super) fn demand_job(
        &self,
        daemon: &Daemon,
        who: &Principal,
        config: &Config,
        id: &str,
    ) -> Result<Value, ApiError> {
        let job = self.find(config, id)?;
        match rights::demand(daemon, who, self.kind, &job, Extent::Top) {
            Ok(()) => Ok(job),
            Err(refusal) if rights::sees(daemon, who, &job) => Err(refusal),
            Err(_) => Err(self.none(id)),
        }
    }
}
