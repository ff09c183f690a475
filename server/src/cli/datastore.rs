//! `holdfast datastore`

use std::path::PathBuf;

use anyhow::Context as _;
use http::Method;
use serde_json::{Value, json};

use super::{ManageArgs, changes, given, nothing, rows};
use crate::client::output::{Column, bytes_of, plain};
use crate::client::progress::Progress;

/// `holdfast datastore …`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum DatastoreCommand {
    /// Add a datastore in a directory or in a bucket, and open it.
    Create(Box<CreateArgs>),
    /// List the datastores.
    List {
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Show how full the datastores are.
    Usage {
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Show how many sessions read and write; which they are says: holdfast session list.
    ActiveOperations {
        /// The datastore's name.
        name: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Show the settings and the state of a datastore.
    Show {
        /// Its name.
        name: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Change the settings of a datastore that are given.
    Update(Box<UpdateArgs>),
    /// Forget a datastore, its jobs and the rights on it. What is stored in directory or bucket stays.
    Remove {
        /// Its name.
        name: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Fetch what changed in a datastore's bucket, if somebody else changes it. Every start and garbage collection do so too.
    Refresh {
        /// The datastore's name.
        name: String,
        /// Print the task's id and leave it to run.
        #[arg(long)]
        detach: bool,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Take a datastore's bucket from the daemon or server that owns it. It must not write there any more.
    TakeOver {
        /// The datastore's name.
        name: String,
        /// State that the owner before runs no more and will not run again, which shortens the waits.
        #[arg(long)]
        previous_owner_is_dead: bool,
        #[command(flatten)]
        manage: ManageArgs,
    },
}

/// `holdfast datastore create`
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("place").required(true).args(["path", "s3"])))]
pub(crate) struct CreateArgs {
    /// Its name: 3 to 32 letters, digits, '_', '.' and '-'.
    name: String,
    /// Keep the chunks in this directory; one that a Proxmox Backup Server wrote is usable as it is.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["bucket", "prefix", "cache_dir", "cache_bytes_max"])]
    path: Option<PathBuf>,
    /// Keep the chunks in a bucket of this S3 endpoint (see: holdfast s3 add).
    #[arg(long, value_name = "ID", requires_all = ["bucket", "cache_dir", "cache_bytes_max"])]
    s3: Option<String>,
    /// The bucket.
    #[arg(long)]
    bucket: Option<String>,
    /// Where in the bucket; the datastore's name if not given.
    #[arg(long)]
    prefix: Option<String>,
    /// Directory of the cache, of this datastore alone.
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Bound of the cache, such as "100 GiB"; at least 256 MiB.
    #[arg(long, value_name = "SIZE")]
    cache_bytes_max: Option<String>,
    /// One line about it.
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    /// How long an unused chunk is kept at least, in minutes.
    #[arg(long, value_name = "MINUTES")]
    gc_atime_cutoff_minutes: Option<u64>,
    /// How long a request that was given up may still take effect, in seconds.
    #[arg(long, value_name = "SECONDS")]
    late_request_max_seconds: Option<u64>,
    /// What is flushed before a backup counts as finished: none, file or filesystem.
    #[arg(long, value_name = "LEVEL")]
    sync_level: Option<String>,
    /// When garbage is collected, like "daily" or "sat 18:15"; never by itself if not given.
    #[arg(long, value_name = "EVENT")]
    gc_schedule: Option<String>,
    /// How much may be stored, such as "2 TiB"; no backup begins beyond it.
    #[arg(long, value_name = "SIZE")]
    quota: Option<String>,
    /// Verify each snapshot right after its backup; everything in it is read back.
    #[arg(long)]
    verify_new: bool,
    /// Take the bucket's prefix from whoever owns it.
    #[arg(long, conflicts_with = "path")]
    take_over: bool,
    /// With --take-over: state that the owner before runs no more and will not run again.
    #[arg(long, requires = "take_over")]
    previous_owner_is_dead: bool,
    #[command(flatten)]
    manage: ManageArgs,
}

/// `holdfast datastore update`
#[derive(Debug, clap::Args)]
pub(crate) struct UpdateArgs {
    /// Its name.
    name: String,
    /// One line about it.
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    /// When garbage is collected, like "daily" or "sat 18:15".
    #[arg(long, value_name = "EVENT")]
    gc_schedule: Option<String>,
    /// How much later at most, drawn anew for each run.
    #[arg(long, value_name = "SECONDS")]
    gc_jitter_seconds: Option<u64>,
    /// Whether each snapshot is verified right after its backup.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    verify_new: Option<bool>,
    /// How much may be stored, such as "2 TiB"; no backup begins beyond it. 0 for any amount.
    #[arg(long, value_name = "SIZE")]
    quota: Option<String>,
    /// What is refused while somebody works on it: read-only or offline, or type=offline,message=TEXT.
    #[arg(long, value_name = "MODE")]
    maintenance_mode: Option<String>,
    /// Bound of the cache, such as "100 GiB"; at least 256 MiB. Opens the datastore anew.
    #[arg(long, value_name = "SIZE")]
    cache_bytes_max: Option<String>,
    /// How long an unused chunk is kept at least, in minutes. Opens the datastore anew.
    #[arg(long, value_name = "MINUTES")]
    gc_atime_cutoff_minutes: Option<u64>,
    /// How long a request that was given up may still take effect, in seconds. Opens the datastore anew.
    #[arg(long, value_name = "SECONDS")]
    late_request_max_seconds: Option<u64>,
    /// What is flushed before a backup counts as finished: none, file or filesystem. Opens the datastore anew.
    #[arg(long, value_name = "LEVEL")]
    sync_level: Option<String>,
    /// Set this setting back to its default; may be repeated.
    #[arg(long, value_name = "SETTING")]
    delete: Vec<String>,
    #[command(flatten)]
    manage: ManageArgs,
}

impl UpdateArgs {
    fn params(&self) -> Value {
        let settings = [
            ("comment", json!(self.comment)),
            ("gc-schedule", json!(self.gc_schedule)),
            ("gc-jitter-seconds", json!(self.gc_jitter_seconds)),
            ("maintenance-mode", json!(self.maintenance_mode)),
            ("verify-new", json!(self.verify_new)),
            ("quota", json!(self.quota)),
            ("cache-bytes-max", json!(self.cache_bytes_max)),
            (
                "gc-atime-cutoff-minutes",
                json!(self.gc_atime_cutoff_minutes),
            ),
            (
                "late-request-max-seconds",
                json!(self.late_request_max_seconds),
            ),
            ("sync-level", json!(self.sync_level)),
        ];
        changes(&settings, &self.delete)
    }
}

const COLUMNS: &[Column] = &[
    ("name", |row| plain(&row["name"])),
    ("backend", |row| plain(&row["backend"])),
    ("place", place),
    ("cache", |row| bytes_of(&row["cache-bytes-max"])),
    ("state", |row| plain(&row["state"])),
    ("fault", |row| plain(&row["fault"])),
];

fn place(row: &Value) -> String {
    match row["backend"].as_str() {
        Some("s3") => format!(
            "{}: {}/{}",
            plain(&row["s3"]),
            plain(&row["bucket"]),
            plain(&row["prefix"])
        ),
        _ => plain(&row["path"]),
    }
}

/// Relative paths mean the directory of whoever types, not that of the daemon.
fn absolute(path: Option<&PathBuf>) -> anyhow::Result<Value> {
    let Some(path) = path else {
        return Ok(Value::Null);
    };
    let path = std::path::absolute(path)
        .with_context(|| format!("'{}' cannot be made absolute", path.display()))?;
    Ok(json!(path))
}

impl CreateArgs {
    fn params(&self) -> anyhow::Result<Value> {
        let backend = if self.s3.is_some() {
            "s3"
        } else {
            "filesystem"
        };
        let set = |flag: bool| if flag { json!(true) } else { Value::Null };
        Ok(given(&[
            ("name", json!(self.name)),
            ("backend", json!(backend)),
            ("path", absolute(self.path.as_ref())?),
            ("s3", json!(self.s3)),
            ("bucket", json!(self.bucket)),
            ("prefix", json!(self.prefix)),
            ("cache-dir", absolute(self.cache_dir.as_ref())?),
            ("cache-bytes-max", json!(self.cache_bytes_max)),
            ("comment", json!(self.comment)),
            (
                "gc-atime-cutoff-minutes",
                json!(self.gc_atime_cutoff_minutes),
            ),
            (
                "late-request-max-seconds",
                json!(self.late_request_max_seconds),
            ),
            ("sync-level", json!(self.sync_level)),
            ("gc-schedule", json!(self.gc_schedule)),
            ("verify-new", set(self.verify_new)),
            ("quota", json!(self.quota)),
            ("take-over", set(self.take_over)),
            ("previous-owner-is-dead", set(self.previous_owner_is_dead)),
        ]))
    }
}

const USAGE: &[Column] = &[
    ("datastore", |row| plain(&row["store"])),
    ("used", |row| bytes_of(&row["used"])),
    ("available", |row| bytes_of(&row["avail"])),
    ("total", |row| bytes_of(&row["total"])),
    ("garbage found", |row| {
        bytes_of(&row["gc-status"]["pending-bytes"])
    }),
    ("", |row| plain(&row["error"])),
];

impl DatastoreCommand {
    /// Runs the command.
    pub(super) async fn run(self, progress: &Progress) -> anyhow::Result<()> {
        match self {
            Self::Refresh {
                name,
                detach,
                manage,
            } => {
                let path = format!("admin/datastore/{name}/s3-refresh");
                let run = manage.run_task(Method::PUT, &path, nothing(), detach, progress);
                run.await
            }
            Self::Create(args) => {
                let done = format!("Datastore '{}' was added.", args.name);
                let (manage, params) = (&args.manage, args.params()?);
                manage
                    .change(Method::POST, "config/datastore", params, &done)
                    .await
            }
            Self::List { manage } => {
                let data = manage
                    .call(Method::GET, "config/datastore", nothing())
                    .await?;
                manage.output().table(&rows(data), COLUMNS)
            }
            Self::Usage { manage } => {
                let path = "status/datastore-usage";
                let data = manage.call(Method::GET, path, nothing()).await?;
                manage.output().table(&rows(data), USAGE)
            }
            Self::ActiveOperations { name, manage } => {
                let path = format!("admin/datastore/{name}/active-operations");
                let data = manage.call(Method::GET, &path, nothing()).await?;
                manage.output().members(&data)
            }
            Self::Show { name, manage } => {
                let path = format!("config/datastore/{name}");
                let data = manage.call(Method::GET, &path, nothing()).await?;
                show(&manage, &data)
            }
            Self::Update(args) => {
                let path = format!("config/datastore/{}", args.name);
                let done = format!("Datastore '{}' was changed.", args.name);
                let manage = &args.manage;
                manage
                    .change(Method::PUT, &path, args.params(), &done)
                    .await
            }
            Self::Remove { name, manage } => {
                let path = format!("config/datastore/{name}");
                let done = format!("Datastore '{name}' was removed; what it stored is untouched.");
                manage.change(Method::DELETE, &path, nothing(), &done).await
            }
            Self::TakeOver {
                name,
                previous_owner_is_dead,
                manage,
            } => {
                let path = format!("admin/datastore/{name}/take-over");
                let params = json!({ "previous-owner-is-dead": previous_owner_is_dead });
                let done = format!("Datastore '{name}' belongs to this daemon now.");
                manage.change(Method::POST, &path, params, &done).await
            }
        }
    }
}

fn show(manage: &ManageArgs, data: &Value) -> anyhow::Result<()> {
    let output = manage.output();
    output.json(data)?;
    for (name, value) in data.as_object().into_iter().flatten() {
        match name.as_str() {
            "check" => super::s3::print_report(output, &value["report"])?,
            "cache-bytes-max" => output.text(&format!("{name}: {}", bytes_of(value)))?,
            _ => output.text(&format!("{name}: {}", plain(value)))?,
        }
    }
    Ok(())
}
