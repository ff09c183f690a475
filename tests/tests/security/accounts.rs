//! Who there is in the world of the tests, and with which rights. All users have the administrator's password; the secret
//! of a token is made of its name.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result};
use holdfast_tests::account::authorization;
use holdfast_tests::daemon::Daemon;
use holdfast_tests::s3_server::Access;
use sha2::{Digest as _, Sha256};

/// The datastore that everything is in.
pub(crate) const STORE: &str = "vault";
/// A datastore that somebody else administers.
pub(crate) const OTHER_STORE: &str = "annex";
/// The S3 server in the configuration.
pub(crate) const S3: &str = "bucket-server";
/// Who may do everything: a token of the administrator.
pub(crate) const ADMIN: &str = "root@pbs!admin";
/// Whose groups are attacked.
pub(crate) const OWNER: &str = "owner@pbs";
/// Who backs up beside the attacks.
pub(crate) const HONEST: &str = "honest@pbs!client";
/// Who may write here too, and delete what is the own.
pub(crate) const RIVAL: &str = "rival@pbs!t";

/// Users with settings of theirs.
const USERS: [(&str, &str); 14] = [
    (OWNER, ""),
    ("honest@pbs", ""),
    ("rival@pbs", ""),
    ("nobody@pbs", ""),
    ("elsewhere@pbs", ""),
    ("barred@pbs", ""),
    ("shallow@pbs", ""),
    ("auditor@pbs", ""),
    ("reader@pbs", ""),
    ("off@pbs", "enable = false"),
    ("late@pbs", "expire = 1000000000"),
    ("gone@pbs", ""),
    ("leaving@pbs", ""),
    ("root@pam", ""),
];

/// Tokens with settings of theirs.
const TOKENS: [(&str, &str); 18] = [
    (ADMIN, ""),
    (HONEST, ""),
    (RIVAL, ""),
    ("owner@pbs!t", ""),
    ("owner@pbs!second", ""),
    ("owner@pbs!off", "enable = false"),
    ("owner@pbs!late", "expire = 1000000000"),
    ("nobody@pbs!t", ""),
    ("nobody@pbs!strong", ""),
    ("elsewhere@pbs!t", ""),
    ("barred@pbs!t", ""),
    ("shallow@pbs!t", ""),
    ("auditor@pbs!t", ""),
    ("reader@pbs!t", ""),
    ("off@pbs!t", ""),
    ("late@pbs!t", ""),
    ("gone@pbs!t", ""),
    ("root@pam!t", ""),
];

/// Place, identity, role.
const RIGHTS: [(&str, &str, &str); 37] = [
    ("/", ADMIN, "Admin"),
    ("/datastore/vault", OWNER, "DatastorePowerUser"),
    ("/datastore/vault", "owner@pbs!t", "DatastorePowerUser"),
    ("/datastore/vault", "owner@pbs!second", "DatastorePowerUser"),
    ("/", "owner@pbs!off", "Admin"),
    ("/", "owner@pbs!late", "Admin"),
    ("/datastore/vault", "honest@pbs", "DatastorePowerUser"),
    ("/datastore/vault", HONEST, "DatastorePowerUser"),
    ("/datastore/vault", "rival@pbs", "DatastorePowerUser"),
    ("/datastore/vault", RIVAL, "DatastorePowerUser"),
    ("/", "nobody@pbs!strong", "Admin"),
    ("/datastore/annex", "elsewhere@pbs", "Admin"),
    ("/datastore/annex", "elsewhere@pbs!t", "Admin"),
    ("/", "barred@pbs", "Admin"),
    ("/", "barred@pbs!t", "Admin"),
    ("/datastore", "barred@pbs", "NoAccess"),
    ("/datastore", "barred@pbs!t", "NoAccess"),
    ("/access", "barred@pbs!t", "NoAccess"),
    ("/system", "barred@pbs!t", "NoAccess"),
    ("/remote", "barred@pbs!t", "NoAccess"),
    ("/", "shallow@pbs", "shallow Admin"),
    ("/", "shallow@pbs!t", "shallow Admin"),
    ("/datastore/vault", "auditor@pbs", "DatastoreAudit"),
    ("/datastore/vault", "auditor@pbs!t", "DatastoreAudit"),
    ("/datastore/vault", "reader@pbs", "DatastoreReader"),
    ("/datastore/vault", "reader@pbs!t", "DatastoreReader"),
    ("/", "off@pbs", "Admin"),
    ("/", "off@pbs!t", "Admin"),
    ("/", "late@pbs", "Admin"),
    ("/", "late@pbs!t", "Admin"),
    ("/", "gone@pbs", "Admin"),
    ("/", "gone@pbs!t", "Admin"),
    ("/", "leaving@pbs", "Admin"),
    ("/access", "elsewhere@pbs!t", "NoAccess"),
    ("/datastore/vault/deep", "rival@pbs", "NoAccess"),
    ("/datastore/vault/deep", RIVAL, "NoAccess"),
    ("/system", "elsewhere@pbs!t", "NoAccess"),
];

/// The secret of a token.
pub(crate) fn secret_of(token: &str) -> String {
    let hash = hex::encode(Sha256::digest(token));
    let (a, b, c, d) = (&hash[..8], &hash[8..12], &hash[12..16], &hash[16..28]);
    format!("{a}-{b}-4000-{c}-{d}")
}

/// The header that a token is shown in.
pub(crate) fn token_header(token: &str, secret: &str) -> (String, String) {
    ("Authorization".to_owned(), authorization(token, secret))
}

/// Writes all of it, two datastores and an S3 server into the files of a daemon that does not run.
pub(crate) fn write(daemon: &Daemon, s3: &Access) -> Result<()> {
    let mut config = String::new();
    for store in [STORE, OTHER_STORE] {
        let path = daemon.store_dir(store);
        let path = path.display();
        writeln!(
            config,
            "[datastore.{store}]\nbackend = \"filesystem\"\npath = \"{path}\"\ngc-atime-cutoff-minutes = 0"
        )?;
    }
    writeln!(config, "[s3.{S3}]\nendpoint = {:?}", s3.endpoint)?;
    for (kind, accounts) in [("user", &USERS[..]), ("token", &TOKENS[..])] {
        for (id, settings) in accounts {
            writeln!(config, "[{kind}.\"{id}\"]\n{settings}")?;
        }
    }
    for (path, id, role) in RIGHTS {
        let role_name = role.trim_start_matches("shallow ");
        let propagate = role_name == role;
        writeln!(
            config,
            "[[acl]]\npath = \"{path}\"\nid = \"{id}\"\nrole = \"{role_name}\"\npropagate = {propagate}"
        )?;
    }
    daemon.edit_config(|text| format!("{text}\n{config}"))?;

    let file = daemon.config().with_file_name("secrets.toml");
    let text = fs::read_to_string(&file)?;
    let hash = text
        .lines()
        .find_map(|line| line.strip_prefix("\"root@pbs\" = "))
        .context("no password of the administrator")?
        .to_owned();
    let mut passwords = "[passwords]\n".to_owned();
    for (user, _) in USERS {
        writeln!(passwords, "\"{user}\" = {hash}")?;
    }
    let mut text = text.replacen("[passwords]\n", &passwords, 1);
    writeln!(text, "\n[tokens]")?;
    for (token, _) in TOKENS {
        let kept = hex::encode(Sha256::digest(secret_of(token)));
        writeln!(text, "\"{token}\" = \"hashed:{kept}\"")?;
    }
    writeln!(
        text,
        "[s3.{S3}]\naccess-key = {:?}\nsecret-key = {:?}",
        s3.access_key, s3.secret_key
    )?;
    fs::write(&file, text)?;
    Ok(())
}
