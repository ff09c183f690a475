//! The command line: what the binary can be asked to do.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 done with warnings,
//! or wrong usage.

mod account;
mod acl;
mod calls;
mod datastore;
pub(crate) mod job;
mod link;
mod notify;
mod pages;
mod password;
mod remote;
mod s3;
pub(crate) mod serve;
mod session;
mod setup;
mod sync;
#[cfg(test)]
mod tests;
mod token;
mod traffic;
mod user;

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use self::job::{JobCommand, PruneSettings, VerifySettings};
use self::link::Link;
use crate::client::ClientCommand;
use crate::client::output::{Output, OutputArgs, print};
use crate::client::progress::Progress;
use crate::daemon::CONFIG_FILE;
use crate::embedded_s3::S3ServerArgs;
use crate::parent;
use crate::quickstart::QuickstartArgs;

/// Backup chunk store that speaks the Proxmox Backup protocol.
#[derive(Debug, clap::Parser)]
#[command(name = "holdfast", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// All commands: those that run the daemon and administer it, and those of the client.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a new set-up: configuration, secrets, certificate and an administrator.
    Setup(setup::SetupArgs),
    /// Run the daemon.
    Serve(serve::ServeArgs),
    /// Add, list and remove datastores, and take one over.
    #[command(subcommand)]
    Datastore(datastore::DatastoreCommand),
    /// Jobs that remove the snapshots which no rule keeps.
    #[command(subcommand)]
    PruneJob(JobCommand<PruneSettings>),
    /// Jobs that read snapshots back.
    #[command(subcommand)]
    VerifyJob(JobCommand<VerifySettings>),
    /// Jobs that copy snapshots from or to another datastore.
    #[command(subcommand)]
    SyncJob(JobCommand<sync::SyncSettings>),
    /// Copy snapshots from another server, or from another datastore of this one, now.
    Pull(sync::SyncArgs),
    /// Copy snapshots to another server now.
    Push(sync::SyncArgs),
    /// Add, list, change, remove and look into the other servers that snapshots are copied from and to.
    #[command(subcommand)]
    Remote(remote::RemoteCommand),
    /// Add, list, change, remove and try out who is told how tasks end.
    #[command(subcommand)]
    Notify(notify::NotifyCommand),
    /// List and end the sessions that read or write snapshots.
    #[command(subcommand)]
    Session(session::SessionCommand),
    /// Add, list, remove and check S3 servers, and list and make their buckets.
    #[command(subcommand)]
    S3(s3::S3Command),
    /// Add, list, change and remove rules of how fast clients may be.
    #[command(subcommand)]
    Traffic(traffic::TrafficCommand),
    /// Add, list, change and remove users.
    #[command(subcommand)]
    User(user::UserCommand),
    /// Add, list and remove API tokens.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Give rights, list them, and take them away.
    #[command(subcommand)]
    Acl(acl::AclCommand),
    #[command(flatten)]
    Client(ClientCommand),
    /// See everything work on this machine: an S3 server, the daemon, backups, garbage collection, restores.
    Quickstart(QuickstartArgs),
    /// Print what a shell needs to complete commands and options.
    Completions(pages::CompletionsArgs),
    /// Write man pages, one for each command.
    Man(pages::ManArgs),
    /// Print the figures of the daemon as Prometheus reads them.
    Metrics(MetricsArgs),
    /// Print the REST API of the daemon as an OpenAPI document; no daemon is needed.
    Openapi,
    /// Serve a directory as an S3 bucket.
    #[command(name = "s3-server", hide = true)]
    S3Server(S3ServerArgs),
    /// Print every call that the daemon answers, as JSON.
    #[command(hide = true)]
    Calls,
}

/// `holdfast metrics`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct MetricsArgs {
    /// The daemon's configuration file.
    #[arg(long, env = "HOLDFAST_CONFIG", default_value = CONFIG_FILE, value_name = "FILE")]
    config: PathBuf,
}

impl MetricsArgs {
    async fn run(self) -> anyhow::Result<()> {
        let link = Link::open(&self.config).await?;
        link.demand_running()?;
        let figures = link.text("metrics").await;
        link.close().await;
        print(figures?.trim_end())
    }
}

/// Which set-up a management command is about, and how it prints.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ManageArgs {
    /// The daemon's configuration file. The daemon may run or not.
    #[arg(long, env = "HOLDFAST_CONFIG", default_value = CONFIG_FILE, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

impl ManageArgs {
    async fn link(&self) -> anyhow::Result<Link> {
        Link::open(&self.config).await
    }

    fn output(&self) -> Output {
        self.output.output()
    }

    /// Makes one call and answers its data.
    async fn call(&self, method: http::Method, path: &str, params: Value) -> anyhow::Result<Value> {
        let link = self.link().await?;
        let result = link.call(method, path, params).await;
        link.close().await;
        result
    }

    /// Makes a call that changes something; tells a person that it is done, and a program what came of it.
    async fn change(
        &self,
        method: http::Method,
        path: &str,
        params: Value,
        done: &str,
    ) -> anyhow::Result<()> {
        let data = self.call(method, path, params).await?;
        self.output().value(&data, done)
    }
}

/// `params` without those that are null.
fn given(params: &[(&str, Value)]) -> Value {
    let given = params.iter().filter(|(_, value)| !value.is_null());
    Value::Object(
        given
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
    )
}

/// The parameters of a change: what is given, and which settings get their defaults again.
fn changes(params: &[(&str, Value)], delete: &[String]) -> Value {
    let mut params = given(params);
    if !delete.is_empty() {
        params["delete"] = json!(delete);
    }
    params
}

/// No parameters.
fn nothing() -> Value {
    json!({})
}

/// The rows of a list.
fn rows(data: Value) -> Vec<Value> {
    match data {
        Value::Array(rows) => rows,
        _ => Vec::new(),
    }
}

/// Runs a command to its end.
pub(crate) fn run(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    if let Err(error) = parent::follow_if_told() {
        return failed(&error.into());
    }
    let code = runtime.block_on(async {
        let result = match cli.command {
            Command::Client(command) => return crate::client::run(command).await,
            Command::Setup(args) => args.run(),
            Command::Serve(args) => args.run().await,
            Command::Datastore(command) => {
                return watched(async |p| command.run(p).await).await;
            }
            Command::PruneJob(command) => return watched(async |p| command.run(p).await).await,
            Command::VerifyJob(command) => return watched(async |p| command.run(p).await).await,
            Command::SyncJob(command) => return watched(async |p| command.run(p).await).await,
            Command::Pull(args) => return watched(async |p| args.run("pull", p).await).await,
            Command::Push(args) => return watched(async |p| args.run("push", p).await).await,
            Command::Remote(command) => command.run().await,
            Command::Notify(command) => command.run().await,
            Command::Session(command) => command.run().await,
            Command::S3(command) => command.run().await,
            Command::Traffic(command) => command.run().await,
            Command::User(command) => command.run().await,
            Command::Token(command) => command.run().await,
            Command::Acl(command) => command.run().await,
            Command::Quickstart(args) => args.run().await,
            Command::S3Server(args) => args.run().await,
            Command::Completions(args) => args.run(),
            Command::Man(args) => args.run(),
            Command::Metrics(args) => args.run().await,
            Command::Openapi => calls::print_openapi(),
            Command::Calls => calls::print_calls(),
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        }
    });
    // A thread may wait for standard input.
    runtime.shutdown_background();
    code
}

/// Runs a command that may end with warnings.
async fn watched(command: impl AsyncFnOnce(&Progress) -> anyhow::Result<()>) -> ExitCode {
    let progress = Progress::terminal();
    let result = command(&progress).await;
    progress.finish();
    match result {
        Err(error) => failed(&error),
        Ok(()) if progress.warnings() > 0 => ExitCode::from(crate::client::WITH_WARNINGS),
        Ok(()) => ExitCode::SUCCESS,
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the error of a command goes to standard error"
)]
fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("Error: {}", told(error));
    ExitCode::FAILURE
}

/// An error with its causes; some name their cause themselves, which then is not told twice.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
