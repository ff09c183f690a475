//! A configuration with several faults: all of them are told at once, and changing it while the daemon runs does not
//! stop it.

use std::fs;

use anyhow::{Result, ensure};
use holdfast_tests::daemon::{COMMAND_TIME_MAX, Daemon};
use holdfast_tests::process::run;

#[test]
fn all_faults_are_told_at_once() -> Result<()> {
    let daemon = Daemon::set_up(&[])?;
    daemon.edit_config(|text| {
        format!(
            "{text}
[datastore.bad]
backend = \"s3\"
s3 = \"server\"
cache-dir = \"relative\"
cache-bytes-max = \"1 KiB\"
gc-atime-cutoff-minutes = 99999

[datastore.other]
backend = \"s3\"
s3 = \"nobody\"
bucket = \"backups\"
cache-dir = \"/var/cache/other\"
cache-bytes-max = \"1 GiB\"

[datastore.third]
backend = \"s3\"
s3 = \"hidden\"

[s3.server]
endpoint = \"ftp://example\"
colour = \"blue\"

[[acl]]
path = \"/\"
id = \"root@pbs\"
role = \"Emperor\"
"
        )
    })?;
    let secrets = daemon.config().with_file_name("secrets.toml");
    let kept = fs::read_to_string(&secrets)?;
    fs::write(&secrets, format!("{kept}\n[keys-of-nobody]\n"))?;
    let told = run(&mut daemon.serve_command(), b"", COMMAND_TIME_MAX)?.expect_code(1)?;
    for word in [
        "nobody",
        "[s3.hidden]",
        "keys-of-nobody",
        "bucket",
        "cache-dir",
        "cache-bytes-max",
        "gc-atime-cutoff-minutes",
        "endpoint",
        "colour",
        "Emperor",
    ] {
        ensure!(told.stderr.contains(word), "'{word}' is not told: {told}");
    }
    let told = daemon.manage(&["datastore", "list"])?.expect_code(1)?;
    ensure!(told.stderr.contains("Emperor"), "{told}");
    Ok(())
}

#[test]
fn wrong_usage_is_told_apart() -> Result<()> {
    let daemon = Daemon::set_up(&[])?;
    daemon.manage(&["datastore", "create"])?.expect_code(2)?;
    let told = daemon
        .manage(&["datastore", "show", "nothing"])?
        .expect_code(1)?;
    ensure!(told.stderr.contains("nothing"), "{told}");
    let told = daemon.manage(&["acl", "set", "/", "nobody@pbs", "Admin"])?;
    ensure!(told.code == Some(1), "{told}");
    Ok(())
}
