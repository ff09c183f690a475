//! `holdfast s3`

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use http::Method;
use s3_client::Report;
use serde_json::{Value, json};

use super::password::{self, SECRET_KEY_VARIABLE};
use super::{ManageArgs, changes, given, nothing, rows};
use crate::client::output::{Column, Output, plain};

/// `holdfast s3 …`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum S3Command {
    /// Add an S3 server. With static credentials the secret key comes from the terminal, from standard input, or from
    /// the variable HOLDFAST_S3_SECRET_KEY.
    Add(Box<AddArgs>),
    /// Change the settings of an S3 server that are given, or its keys. The datastores that use it are closed and opened, unless somebody works with
    /// one of them.
    Update(Box<UpdateArgs>),
    /// List the S3 servers.
    List {
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Show the settings of an S3 server, without keys.
    Show {
        /// Its id.
        id: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Remove an S3 server that no datastore uses, with its keys.
    Remove {
        /// Its id.
        id: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// List the buckets of an S3 server that belong to the owner of the keys.
    ListBuckets {
        /// Its id.
        id: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Make a bucket, in the region of the S3 server's settings. One that is there is left as it is.
    CreateBucket {
        /// Its id.
        id: String,
        /// The bucket: 3 to 63 lower-case letters, digits, '.' and '-'.
        bucket: String,
        #[command(flatten)]
        manage: ManageArgs,
    },
    /// Try out what a bucket can do. For a datastore the result is kept and used from its next start on.
    Check(CheckArgs),
}

/// `holdfast s3 add`
#[derive(Debug, clap::Args)]
pub(crate) struct AddArgs {
    /// Its id: 3 to 32 letters, digits, '_', '.' and '-'.
    id: String,
    /// http:// or https://, host and maybe port.
    #[arg(long, value_name = "URL")]
    endpoint: String,
    /// Make the bucket part of the host name instead of the path.
    #[arg(long)]
    virtual_host_style: bool,
    /// Where the keys come from: static (given here), environment or profile. static if not given.
    #[arg(long, value_name = "KIND")]
    credentials: Option<String>,
    /// Id of the access key, with static credentials.
    #[arg(
        long,
        value_name = "ID",
        required_unless_present = "credentials",
        required_if_eq("credentials", "static")
    )]
    access_key: Option<String>,
    #[command(flatten)]
    settings: S3Settings,
    #[command(flatten)]
    manage: ManageArgs,
}

/// How an S3 server is reached, and how much is asked of it.
#[derive(Debug, clap::Args)]
pub(crate) struct S3Settings {
    /// Region to sign for.
    #[arg(long)]
    region: Option<String>,
    /// Which profile of the AWS configuration files.
    #[arg(long)]
    profile: Option<String>,
    /// PEM file with certificates to trust instead of the system's.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// SHA-256 of the only certificate to accept.
    #[arg(long, value_name = "XX:XX:…")]
    fingerprint: Option<String>,
    /// Whether uploads are hashed and the hash is signed; off only with https://, where it saves processor time.
    #[arg(long, value_name = "BOOL")]
    sign_payloads: Option<bool>,
    /// Requests in flight at most.
    #[arg(long, value_name = "COUNT")]
    requests_in_flight_max: Option<u64>,
    /// Requests per second at most; 0 for no limit.
    #[arg(long, value_name = "COUNT")]
    requests_per_second_max: Option<u64>,
    /// Bytes sent per second at most, such as "50 MiB"; 0 for no limit.
    #[arg(long, value_name = "SIZE")]
    upload_bytes_per_second_max: Option<String>,
    /// Bytes received per second at most; 0 for no limit.
    #[arg(long, value_name = "SIZE")]
    download_bytes_per_second_max: Option<String>,
    /// How long a connection may take to be made.
    #[arg(long, value_name = "SECONDS")]
    connect_timeout_seconds: Option<u64>,
    /// How long an answer may take.
    #[arg(long, value_name = "SECONDS")]
    request_timeout_seconds: Option<u64>,
    /// How often a request that may be repeated is sent at most.
    #[arg(long, value_name = "COUNT")]
    attempts_max: Option<u64>,
    /// What prices are in, such as EUR. With it tasks say what they cost.
    #[arg(long, value_name = "LETTERS")]
    price_currency: Option<String>,
    /// Price of a million requests that store, copy or list.
    #[arg(long, value_name = "PRICE")]
    price_writes: Option<String>,
    /// Price of a million requests that read.
    #[arg(long, value_name = "PRICE")]
    price_reads: Option<String>,
    /// Price of a GiB that leaves the bucket.
    #[arg(long, value_name = "PRICE")]
    price_gib_out: Option<String>,
    /// Price of a GiB that is kept for a month.
    #[arg(long, value_name = "PRICE")]
    price_gib_month: Option<String>,
    /// One line about it.
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
}

/// `holdfast s3 update`
#[derive(Debug, clap::Args)]
pub(crate) struct UpdateArgs {
    /// Its id.
    id: String,
    /// http:// or https://, host and maybe port.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Whether the bucket is part of the path, and not of the host name.
    #[arg(long, value_name = "BOOL")]
    path_style: Option<bool>,
    /// Where the keys come from: static, environment or profile.
    #[arg(long, value_name = "KIND")]
    credentials: Option<String>,
    /// Id of a new access key. The secret key comes from the terminal, from standard input, or from the variable HOLDFAST_S3_SECRET_KEY.
    #[arg(long, value_name = "ID")]
    access_key: Option<String>,
    #[command(flatten)]
    settings: S3Settings,
    /// Set this setting back to its default; may be repeated.
    #[arg(long, value_name = "SETTING")]
    delete: Vec<String>,
    #[command(flatten)]
    manage: ManageArgs,
}

/// `holdfast s3 check`
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["datastore", "s3"])))]
pub(crate) struct CheckArgs {
    /// Check the bucket of this datastore.
    datastore: Option<String>,
    /// Check a bucket of this S3 server, before there is a datastore in it.
    #[arg(long, value_name = "ID", requires = "bucket")]
    s3: Option<String>,
    /// The bucket.
    #[arg(long, requires = "s3")]
    bucket: Option<String>,
    /// Where in the bucket to try things out.
    #[arg(long, requires = "s3")]
    prefix: Option<String>,
    #[command(flatten)]
    manage: ManageArgs,
}

const COLUMNS: &[Column] = &[
    ("id", |row| plain(&row["id"])),
    ("endpoint", |row| plain(&row["endpoint"])),
    ("region", |row| plain(&row["region"])),
    ("credentials", |row| plain(&row["credentials"])),
    ("comment", |row| plain(&row["comment"])),
];

const BUCKETS: &[Column] = &[("bucket", |row| plain(&row["name"]))];

impl S3Settings {
    fn params(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("region", json!(self.region)),
            ("profile", json!(self.profile)),
            ("ca-file", json!(self.ca_file)),
            ("fingerprint", json!(self.fingerprint)),
            ("sign-payloads", json!(self.sign_payloads)),
            ("requests-in-flight-max", json!(self.requests_in_flight_max)),
            (
                "requests-per-second-max",
                json!(self.requests_per_second_max),
            ),
            (
                "upload-bytes-per-second-max",
                json!(self.upload_bytes_per_second_max),
            ),
            (
                "download-bytes-per-second-max",
                json!(self.download_bytes_per_second_max),
            ),
            (
                "connect-timeout-seconds",
                json!(self.connect_timeout_seconds),
            ),
            (
                "request-timeout-seconds",
                json!(self.request_timeout_seconds),
            ),
            ("attempts-max", json!(self.attempts_max)),
            ("price-currency", json!(self.price_currency)),
            ("price-writes", json!(self.price_writes)),
            ("price-reads", json!(self.price_reads)),
            ("price-gib-out", json!(self.price_gib_out)),
            ("price-gib-month", json!(self.price_gib_month)),
            ("comment", json!(self.comment)),
        ]
    }
}

/// The secret key that belongs to an access key, if one is given.
fn secret_key(access_key: Option<&String>) -> anyhow::Result<Option<String>> {
    let read = access_key.map(|_| password::read(SECRET_KEY_VARIABLE, "Secret key", false));
    read.transpose()
}

impl AddArgs {
    fn params(&self) -> anyhow::Result<Value> {
        let mut params = self.settings.params();
        params.extend([
            ("id", json!(self.id)),
            ("endpoint", json!(self.endpoint)),
            (
                "path-style",
                json!(self.virtual_host_style.then_some(false)),
            ),
            ("credentials", json!(self.credentials)),
            ("access-key", json!(self.access_key)),
            ("secret-key", json!(secret_key(self.access_key.as_ref())?)),
        ]);
        Ok(given(&params))
    }
}

impl UpdateArgs {
    fn params(&self) -> anyhow::Result<Value> {
        let mut params = self.settings.params();
        params.extend([
            ("endpoint", json!(self.endpoint)),
            ("path-style", json!(self.path_style)),
            ("credentials", json!(self.credentials)),
            ("access-key", json!(self.access_key)),
            ("secret-key", json!(secret_key(self.access_key.as_ref())?)),
        ]);
        Ok(changes(&params, &self.delete))
    }
}

impl S3Command {
    /// Runs the command.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Add(args) => {
                let done = format!("S3 endpoint '{}' was added.", args.id);
                let params = args.params()?;
                args.manage
                    .change(Method::POST, "config/s3", params, &done)
                    .await
            }
            Self::Update(args) => {
                let path = format!("config/s3/{}", args.id);
                let done = format!("S3 endpoint '{}' was changed.", args.id);
                let params = args.params()?;
                args.manage.change(Method::PUT, &path, params, &done).await
            }
            Self::List { manage } => {
                let data = manage.call(Method::GET, "config/s3", nothing()).await?;
                manage.output().table(&rows(data), COLUMNS)
            }
            Self::Show { id, manage } => {
                let path = format!("config/s3/{id}");
                let data = manage.call(Method::GET, &path, nothing()).await?;
                manage.output().members(&data)
            }
            Self::Remove { id, manage } => {
                let path = format!("config/s3/{id}");
                let done = format!("S3 endpoint '{id}' was removed.");
                manage.change(Method::DELETE, &path, nothing(), &done).await
            }
            Self::ListBuckets { id, manage } => {
                let path = format!("config/s3/{id}/list-buckets");
                let data = manage.call(Method::GET, &path, nothing()).await?;
                manage.output().table(&rows(data), BUCKETS)
            }
            Self::CreateBucket { id, bucket, manage } => {
                let path = format!("admin/s3/{id}/create-bucket");
                let params = json!({ "bucket": bucket });
                let made = manage.call(Method::POST, &path, params).await?;
                let told = match made["created"].as_bool() {
                    Some(true) => format!("The bucket '{bucket}' was made."),
                    _ => format!("The bucket '{bucket}' is there already, and is yours."),
                };
                manage.output().value(&made, &told)
            }
            Self::Check(args) => args.run().await,
        }
    }
}

impl CheckArgs {
    /// Fails, after the report, if the bucket cannot hold a datastore.
    async fn run(self) -> anyhow::Result<()> {
        let (path, params) = match (&self.datastore, &self.s3) {
            (Some(name), _) => (format!("admin/datastore/{name}/s3-check"), nothing()),
            (None, Some(id)) => {
                let bucket = ("bucket", json!(self.bucket));
                let prefix = ("store-prefix", json!(self.prefix));
                (format!("admin/s3/{id}/check"), given(&[bucket, prefix]))
            }
            (None, None) => bail!("name a datastore, or --s3 and --bucket"),
        };
        let data = self.manage.call(Method::PUT, &path, params).await?;
        let output = self.manage.output();
        output.json(&data)?;
        print_report(output, &data)?;
        let report: Report = serde_json::from_value(data).context("the report cannot be read")?;
        if report.is_usable() {
            Ok(())
        } else {
            bail!("the bucket cannot be used as it is")
        }
    }
}

/// Shows a report to a person.
pub(super) fn print_report(output: Output, report: &Value) -> anyhow::Result<()> {
    let report: Report =
        serde_json::from_value(report.clone()).context("the report cannot be read")?;
    output.text(report.to_string().trim_end())
}
