//! `holdfast prune-job`, `verify-job` and `sync-job`: what the daemon does by itself, and when.

use http::Method;
use serde_json::{Value, json};

use super::{ManageArgs, changes, given, nothing, rows};
use crate::client::output::{Column, plain, time_of};
use crate::client::progress::Progress;
use crate::client::task::follow;

/// The settings of one kind of jobs.
pub(crate) trait JobSettings: clap::Args {
    /// As in the paths of the calls.
    const KIND: &str;

    /// The columns of a list that only this kind has.
    const COLUMNS: &[Column];

    /// The parameters of a call; what is not given is null.
    fn params(&self) -> Vec<(&'static str, Value)>;
}

/// `holdfast prune-job …`, `verify-job …`, `sync-job …`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum JobCommand<S: JobSettings> {
    /// Add a job.
    Create {
        /// Its name: 3 to 32 letters, digits, '_', '.' and '-'.
        id: String,
        #[command(flatten)]
        settings: S,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// List the jobs: when they run, and how they ended.
    List {
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Show the settings of a job.
    Show {
        /// Its name.
        id: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Change the settings of a job that are given.
    Update {
        /// Its name.
        id: String,
        #[command(flatten)]
        settings: S,
        /// Set this setting back to its default; may be repeated.
        #[arg(long, value_name = "SETTING")]
        delete: Vec<String>,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Remove a job. A run that is under way goes on.
    Remove {
        /// Its name.
        id: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Run a job now, and print its log to the end.
    Run {
        /// Its name.
        id: String,
        /// Only say what a verification or a sync would ask of buckets, and what that costs.
        #[arg(long)]
        estimate: bool,
        /// Print the task's id and leave it to run.
        #[arg(long)]
        detach: bool,
        #[command(flatten)]
        manage: ManageArgs,
    },
}

/// Where and when a job works.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TargetArgs {
    /// The datastore.
    #[arg(long, value_name = "NAME")]
    store: Option<String>,
    /// The namespace, like a/b; the root if not given.
    #[arg(long, value_name = "NAMESPACE")]
    ns: Option<String>,
    /// How many levels of namespaces below it belong to it too; all if not given.
    #[arg(long, value_name = "LEVELS")]
    max_depth: Option<u64>,
    /// When it runs by itself, like "daily", "sat 18:15" or "mon..fri 02:00"; never if not given.
    #[arg(long, value_name = "EVENT")]
    schedule: Option<String>,
    /// How much later at most, drawn anew for each run.
    #[arg(long, value_name = "SECONDS")]
    jitter_seconds: Option<u64>,
    /// Whether it is kept from running by itself.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    disable: Option<bool>,
    /// One line about it.
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
}

impl TargetArgs {
    pub(super) fn params(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("store", json!(self.store)),
            ("ns", json!(self.ns)),
            ("max-depth", json!(self.max_depth)),
            ("schedule", json!(self.schedule)),
            ("jitter-seconds", json!(self.jitter_seconds)),
            ("disable", json!(self.disable)),
            ("comment", json!(self.comment)),
        ]
    }
}

/// How many snapshots of each group stay.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct KeepArgs {
    /// Keep the newest N.
    #[arg(long = "keep-last", value_name = "N")]
    last: Option<u64>,
    /// Keep the newest of each of N hours.
    #[arg(long = "keep-hourly", value_name = "N")]
    hourly: Option<u64>,
    /// Keep the newest of each of N days.
    #[arg(long = "keep-daily", value_name = "N")]
    daily: Option<u64>,
    /// Keep the newest of each of N weeks.
    #[arg(long = "keep-weekly", value_name = "N")]
    weekly: Option<u64>,
    /// Keep the newest of each of N months.
    #[arg(long = "keep-monthly", value_name = "N")]
    monthly: Option<u64>,
    /// Keep the newest of each of N years.
    #[arg(long = "keep-yearly", value_name = "N")]
    yearly: Option<u64>,
}

impl KeepArgs {
    /// The parameters of a call; what is not given is null.
    pub(crate) fn params(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("keep-last", json!(self.last)),
            ("keep-hourly", json!(self.hourly)),
            ("keep-daily", json!(self.daily)),
            ("keep-weekly", json!(self.weekly)),
            ("keep-monthly", json!(self.monthly)),
            ("keep-yearly", json!(self.yearly)),
        ]
    }
}

/// The settings of a prune job.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PruneSettings {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    keep: KeepArgs,
}

impl JobSettings for PruneSettings {
    const KIND: &str = "prune";
    const COLUMNS: &[Column] = &[("keep", |row| {
        let rules = ["last", "hourly", "daily", "weekly", "monthly", "yearly"];
        let said = rules.iter().filter_map(|rule| {
            let count = row[format!("keep-{rule}")].as_u64()?;
            Some(format!("{rule} {count}"))
        });
        said.collect::<Vec<_>>().join(", ")
    })];

    fn params(&self) -> Vec<(&'static str, Value)> {
        [self.target.params(), self.keep.params()].concat()
    }
}

/// The settings of a verification job.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct VerifySettings {
    #[command(flatten)]
    target: TargetArgs,
    /// Whether snapshots that were verified and are not outdated are passed over; true if not given.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    ignore_verified: Option<bool>,
    /// After how many days a verification counts no more; never if not given.
    #[arg(long, value_name = "DAYS")]
    outdated_after: Option<u64>,
    /// After how many days a chunk that was found good is read again, 0 for always; as outdated-after, or 30, if not given.
    #[arg(long, value_name = "DAYS")]
    reread_after: Option<u64>,
    /// How much of chunks one run reads at most, such as "50 GiB"; 0 for no limit.
    #[arg(long, value_name = "SIZE")]
    bytes_max: Option<String>,
    /// How many chunks one run reads at most; 0 for no limit.
    #[arg(long, value_name = "N")]
    requests_max: Option<u64>,
    /// How many of 100 chunks are read, chosen anew by each run; that the others are there is seen in the bucket's list. 0 reads none.
    #[arg(long, value_name = "PERCENT")]
    sample: Option<u64>,
}

impl JobSettings for VerifySettings {
    const KIND: &str = "verify";
    const COLUMNS: &[Column] = &[("outdated after", |row| {
        let days = row["outdated-after"].as_u64();
        days.map_or_else(|| "never".to_owned(), |days| format!("{days} days"))
    })];

    fn params(&self) -> Vec<(&'static str, Value)> {
        let mut params = self.target.params();
        params.extend([
            ("ignore-verified", json!(self.ignore_verified)),
            ("outdated-after", json!(self.outdated_after)),
            ("reread-after", json!(self.reread_after)),
            ("bytes-max", json!(self.bytes_max)),
            ("requests-max", json!(self.requests_max)),
            ("sample", json!(self.sample)),
        ]);
        params
    }
}

const COLUMNS: &[Column] = &[
    ("job", |row| plain(&row["id"])),
    ("datastore", |row| match row["ns"].as_str() {
        Some(namespace) => format!("{}:{namespace}", plain(&row["store"])),
        None => plain(&row["store"]),
    }),
    ("schedule", |row| {
        if row["disable"] == true {
            format!("{} (disabled)", plain(&row["schedule"]))
        } else {
            plain(&row["schedule"])
        }
    }),
    ("next run", |row| time_of(&row["next-run"])),
    ("last run ended", |row| time_of(&row["last-run-endtime"])),
    ("last state", |row| plain(&row["last-run-state"])),
];

impl<S: JobSettings> JobCommand<S> {
    /// Runs the command.
    pub(super) async fn run(self, progress: &Progress) -> anyhow::Result<()> {
        let kind = S::KIND;
        let one = |id: &str| format!("config/{kind}/{id}");
        match self {
            Self::Create {
                id,
                settings,
                manage,
            } => {
                let mut params = given(&settings.params());
                params["id"] = json!(id);
                let done = format!("The {kind} job '{id}' was added.");
                let path = format!("config/{kind}");
                manage.change(Method::POST, &path, params, &done).await
            }
            Self::List { manage } => {
                let path = format!("admin/{kind}");
                let data = manage.call(Method::GET, &path, nothing()).await?;
                let columns = [COLUMNS, S::COLUMNS].concat();
                manage.output().table(&rows(data), &columns)
            }
            Self::Show { id, manage } => {
                let data = manage.call(Method::GET, &one(&id), nothing()).await?;
                manage.output().members(&data)
            }
            Self::Update {
                id,
                settings,
                delete,
                manage,
            } => {
                let params = changes(&settings.params(), &delete);
                let done = format!("The {kind} job '{id}' was changed.");
                manage.change(Method::PUT, &one(&id), params, &done).await
            }
            Self::Remove { id, manage } => {
                let done = format!("The {kind} job '{id}' was removed.");
                let path = one(&id);
                manage.change(Method::DELETE, &path, nothing(), &done).await
            }
            Self::Run {
                id,
                estimate,
                detach,
                manage,
            } => {
                let path = format!("admin/{kind}/{id}/run");
                let params = given(&[("estimate", json!(estimate.then_some(true)))]);
                manage
                    .run_task(Method::POST, &path, params, detach, progress)
                    .await
            }
        }
    }
}

impl ManageArgs {
    /// Makes a call that starts a task, and prints the log of that to the end.
    pub(super) async fn run_task(
        &self,
        method: Method,
        path: &str,
        params: Value,
        detach: bool,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        let mut link = self.link().await?;
        let result = async {
            link.demand_running()?;
            let upid = link.call(method, path, params).await?;
            match upid.as_str() {
                Some(text) if !detach => follow(&mut link, text, self.output(), progress).await,
                _ => self.output().value(&upid, &plain(&upid)),
            }
        }
        .await;
        link.close().await;
        result
    }
}
