//! `holdfast setup`: a new state directory, complete or not at all.
//!
//! Order of writing: 1. secrets with the administrator's password hash (0600); 2. certificate and key; 3. the id of the
//! instance; 4. the configuration. Only the last makes it a set-up; a crash before leaves files that the next attempt
//! names.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use pbs_datastore::Env;
use serde_json::json;
use toml_edit::{Array, DocumentMut, value};

use crate::auth::{AclEntry, AclPath, Passwords, Role, UserId};
use crate::client::output::OutputArgs;
use crate::config::{self, Config, ConfigStore, Secrets, SecretsStore};
use crate::daemon::{CONFIG_NAME, DirectoryLock, hostname, secrets_file};
use crate::entropy::random_bytes;
use crate::instance::InstanceId;
use crate::tls::ServerTls;

/// The administrator.
const ADMINISTRATOR: &str = "root@pbs";

/// `holdfast setup`
#[derive(Debug, clap::Args)]
pub(crate) struct SetupArgs {
    /// Directory for configuration, secrets, certificate and task logs; made if it is missing.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Address and port to listen on; may be repeated. All addresses, port 8007, if not given.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<SocketAddr>,
    /// Name of this machine in certificate and task ids; its host name if not given.
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// What a person or a script must know, and is told once.
#[derive(Debug)]
pub(super) struct NewSetup {
    /// The configuration file.
    pub(super) config: PathBuf,
    /// The administrator's password.
    pub(super) password: String,
    /// SHA-256 of the certificate.
    pub(super) fingerprint: String,
    /// Where the daemon will listen.
    pub(super) listen: Vec<SocketAddr>,
}

impl SetupArgs {
    /// Makes the set-up and prints what is needed to use it.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let made = self.make(&Env::system())?;
        let listen: Vec<String> = made.listen.iter().map(ToString::to_string).collect();
        let output = self.output.output();
        output.json(&json!({
            "config": made.config,
            "user": ADMINISTRATOR,
            "password": made.password,
            "fingerprint": made.fingerprint,
            "listen": listen,
        }))?;
        let config = made.config.display();
        let lines = [
            format!("configuration: {config}"),
            format!("listens on:    {}", listen.join(", ")),
            format!("administrator: {ADMINISTRATOR}"),
            format!("password:      {}", made.password),
            format!("fingerprint:   {}", made.fingerprint),
            String::new(),
            "The password is shown only this once. Next:".to_owned(),
            format!("  holdfast datastore create NAME --path DIR --config {config}"),
            format!("  holdfast serve --config {config}"),
        ];
        lines.iter().try_for_each(|line| output.text(line))
    }

    /// Makes the set-up.
    pub(super) fn make(&self, env: &Env) -> anyhow::Result<NewSetup> {
        let dir = create_directory(&self.dir)?;
        let config_file = dir.join(CONFIG_NAME);
        refuse_existing(
            &config_file,
            "is set up already; remove the directory to begin anew",
        )?;
        let _lock = DirectoryLock::take(&dir)?;
        refuse_existing(
            &config_file,
            "is set up already; remove the directory to begin anew",
        )?;
        refuse_existing(
            &secrets_file(&dir),
            "is left of a set-up that did not finish; remove it, then try again",
        )?;
        let text = self.config_text()?;
        // Faults of the options are found before anything is written.
        let checked = Config::check(&text).map_err(|faults| anyhow::anyhow!(faults))?;

        // 1. Secrets.
        // Hex: nothing to quote in a shell, and nothing that looks like an option.
        let password = hex::encode(random_bytes::<16>());
        let hash = Passwords::new()
            .hash_blocking(&password)
            .context("the administrator's password")?;
        SecretsStore::create(&secrets_file(&dir), &secrets_text(&hash)?)?;
        // 2. Certificate and key.
        let tls = ServerTls::load_or_create(&dir, &hostname(&checked), env.now())?;
        // 3. The instance.
        InstanceId::load_or_create(&dir)?;
        // 4. The configuration.
        let store = ConfigStore::create(&config_file, &text)?;
        Ok(NewSetup {
            config: store.path().to_owned(),
            password,
            fingerprint: tls.fingerprint().to_string(),
            listen: checked.server.listen,
        })
    }

    fn config_text(&self) -> anyhow::Result<String> {
        let mut document = DocumentMut::new();
        document["server"] = toml_edit::table();
        if !self.listen.is_empty() {
            let listen: Array = self.listen.iter().map(ToString::to_string).collect();
            document["server"]["listen"] = value(listen);
        }
        if let Some(name) = &self.hostname {
            document["server"]["hostname"] = value(name);
        }
        let refused = |error: String| anyhow::anyhow!(error);
        let user: UserId = ADMINISTRATOR.parse()?;
        let account = config::section(&mut document, "user", user.as_str()).map_err(refused)?;
        config::set(account, "comment", Some("administrator"));
        let entry = AclEntry {
            path: AclPath::root(),
            id: user.into(),
            role: Role::Admin,
            propagate: true,
        };
        config::add_acl(&mut document, &entry).map_err(refused)?;
        Ok(format!(
            "# Configuration of Holdfast; docs/operations.md explains every setting.\n\n{document}"
        ))
    }
}

fn create_directory(dir: &Path) -> anyhow::Result<PathBuf> {
    let mut builder = fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make the directory '{}'", dir.display()))?;
    fs::canonicalize(dir).with_context(|| format!("cannot use the directory '{}'", dir.display()))
}

fn refuse_existing(path: &Path, why: &str) -> anyhow::Result<()> {
    if path
        .try_exists()
        .with_context(|| format!("cannot look at '{}'", path.display()))?
    {
        bail!("'{}' {why}", path.display());
    }
    Ok(())
}

fn secrets_text(hash: &str) -> anyhow::Result<String> {
    let mut document: DocumentMut = Secrets::new_text().parse()?;
    document["passwords"] = toml_edit::table();
    document["passwords"][ADMINISTRATOR] = value(hash);
    Ok(document.to_string())
}
