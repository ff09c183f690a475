//! Placeholder.
#![allow(
    dead_code,
    reason = "the modules are wired together by the command line"
)]

mod client;
#[tokio::main]
async fn main() -> std::process::ExitCode {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(subcommand)]
        command: client::ClientCommand,
    }
    let cli = <Cli as clap::Parser>::parse();
    client::run(cli.command).await
}
