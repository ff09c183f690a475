//! The client: backup, restore and the commands that look after snapshots, against this daemon or any other that speaks
//! the Proxmox Backup protocol.
//!
//! The server and the account come from `PBS_REPOSITORY`, `PBS_PASSWORD` and `PBS_FINGERPRINT` (see [`repository`]).
//! Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 done with warnings.

pub(crate) mod backup;
mod benchmark;
mod catalog;
mod clock;
mod download;
#[cfg(test)]
mod fake;
mod file_sink;
mod gc;
mod group;
pub(crate) mod http;
pub(crate) mod key;
mod namespace;
pub(crate) mod output;
pub(crate) mod progress;
mod prune;
pub(crate) mod repository;
pub(crate) mod restore;
pub(crate) mod session;
pub(crate) mod snapshot;
pub(crate) mod source;
mod status;
pub(crate) mod tar;
pub(crate) mod task;
#[cfg(test)]
mod tests;
mod trust;
mod upload;
mod verify;

use std::process::ExitCode;
use std::sync::Arc;

use pbs_datastore::Namespace;

use output::{Output, OutputArgs};
use progress::Progress;
use repository::Access;
use session::Session;

/// Exit code of a command that did its work, but not all of it or not cleanly.
pub(crate) const WITH_WARNINGS: u8 = 2;

/// The commands that talk to a server, and `key`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ClientCommand {
    /// Back up directories, images and configuration files into one new snapshot.
    Backup(backup::BackupArgs),
    /// Restore an archive of a snapshot.
    Restore(restore::RestoreArgs),
    /// List, inspect, protect and forget snapshots.
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// See which files are in the directories of a snapshot, as its catalog lists them.
    #[command(subcommand)]
    Catalog(catalog::CatalogCommand),
    /// List and forget backup groups, and show or change their notes.
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Remove the snapshots of a group, or of all groups of a namespace, that no rule keeps, or show which.
    Prune(prune::PruneArgs),
    /// Have the server read snapshots back.
    Verify(verify::VerifyArgs),
    /// Show how full the datastore is.
    Status(status::StatusArgs),
    /// Show the server's version, and the id of the installation.
    Version(status::StatusArgs),
    /// Give a backup group another owner.
    ChangeOwner(group::ChangeOwnerArgs),
    /// List, create and delete namespaces.
    #[command(subcommand)]
    Namespace(namespace::NamespaceCommand),
    /// Start garbage collection, or see what the last one did.
    #[command(subcommand)]
    Gc(gc::GcCommand),
    /// List, follow and stop the server's tasks.
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Make and show encryption keys.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Measure how fast this machine and the way to the server are.
    Benchmark(benchmark::BenchmarkArgs),
}

/// Which server and account, for commands that concern no namespace.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ServerArgs {
    /// Server, account and datastore.
    #[arg(
        long,
        help = "[[user@realm[!token]@]host[:port]:]datastore; PBS_REPOSITORY if not given"
    )]
    repository: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Which server, account and namespace.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RepositoryArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Namespace, like a/b; the root if not given.
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "NAMESPACE"
    )]
    ns: Namespace,
}

impl ServerArgs {
    fn access(&self) -> anyhow::Result<Access> {
        Ok(Access::from_environment(self.repository.as_deref())?)
    }

    async fn session(&self) -> anyhow::Result<Session> {
        Ok(Session::open(&self.access()?).await?)
    }

    fn output(&self) -> Output {
        self.output.output()
    }
}

impl RepositoryArgs {
    fn access(&self) -> anyhow::Result<Access> {
        self.server.access()
    }

    async fn session(&self) -> anyhow::Result<Session> {
        self.server.session().await
    }

    fn output(&self) -> Output {
        self.server.output()
    }
}

/// Runs a command to its end and tells the person how it went.
#[expect(
    clippy::print_stderr,
    reason = "the error of a command goes to standard error"
)]
pub(crate) async fn run(command: ClientCommand) -> ExitCode {
    let progress = Arc::new(Progress::terminal());
    let result = dispatch(command, &progress).await;
    progress.finish();
    match result {
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
        Ok(()) if progress.warnings() > 0 => ExitCode::from(WITH_WARNINGS),
        Ok(()) => ExitCode::SUCCESS,
    }
}

async fn dispatch(command: ClientCommand, progress: &Arc<Progress>) -> anyhow::Result<()> {
    match command {
        ClientCommand::Backup(args) => args.run(progress).await,
        ClientCommand::Restore(args) => args.run(progress).await,
        ClientCommand::Snapshot(command) => command.run(progress).await,
        ClientCommand::Catalog(command) => command.run(progress).await,
        ClientCommand::Group(command) => command.run(progress).await,
        ClientCommand::Prune(args) => args.run(progress).await,
        ClientCommand::Verify(args) => args.run(progress).await,
        ClientCommand::Status(args) => args.status().await,
        ClientCommand::Version(args) => args.version().await,
        ClientCommand::ChangeOwner(args) => args.run().await,
        ClientCommand::Namespace(command) => command.run(progress).await,
        ClientCommand::Gc(command) => command.run(progress).await,
        ClientCommand::Task(command) => command.run(progress).await,
        ClientCommand::Key(command) => key::run(&command),
        ClientCommand::Benchmark(args) => args.run(progress).await,
    }
}
