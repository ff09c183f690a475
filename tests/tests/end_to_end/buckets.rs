//! The policies of `docs/buckets.md` against what a server was asked: each allows all requests of its purpose and nothing that
//! none of them needs.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use holdfast_tests::checkout;
use holdfast_tests::content::{self, compare_files};
use holdfast_tests::daemon::{COMMAND_TIME_MAX, Daemon};
use holdfast_tests::process::wait_for;
use holdfast_tests::s3_server::{BUCKET, EmbeddedS3, S3Server as _, Seen, Since};
use s3_client::{KeyPrefix, ListRequest, Put};
use serde_json::Value;

const STORE: &str = "store";
const SETTINGS: [&str; 4] = [
    "--gc-atime-cutoff-minutes",
    "0",
    "--late-request-max-seconds",
    "1",
];

/// An action on a resource, in the words of policies.
type Right = (&'static str, String);

/// The rights that a request needs; the keys of a batch are not in the log, so it stands for any key of the datastore.
fn rights(seen: &Seen) -> Result<Vec<Right>> {
    let bucket = format!("arn:aws:s3:::{BUCKET}");
    let key = if seen.key.is_empty() {
        format!("{bucket}/{STORE}/any")
    } else {
        format!("{bucket}/{}", seen.key)
    };
    Ok(match seen.operation.as_str() {
        "ListObjectsV2" | "HeadBucket" => vec![("s3:ListBucket", bucket)],
        "GetBucketVersioning" => vec![("s3:GetBucketVersioning", bucket)],
        "GetBucketLifecycleConfiguration" => vec![("s3:GetLifecycleConfiguration", bucket)],
        "GetObjectLockConfiguration" => vec![("s3:GetBucketObjectLockConfiguration", bucket)],
        "GetObject" | "HeadObject" => vec![("s3:GetObject", key)],
        "CopyObject" => vec![("s3:GetObject", key.clone()), ("s3:PutObject", key)],
        "PutObject" | "CreateMultipartUpload" | "UploadPart" | "CompleteMultipartUpload" => {
            vec![("s3:PutObject", key)]
        }
        "AbortMultipartUpload" => vec![("s3:AbortMultipartUpload", key)],
        "DeleteObject" | "DeleteObjects" => vec![("s3:DeleteObject", key)],
        // A signature that is too old, which the check tries; it is refused before anything is looked at.
        "Other" if seen.status == Some(403) => Vec::new(),
        other => bail!("no policy speaks of '{other}'"),
    })
}

/// What one policy allows: actions on resources, which may end with a star.
struct Policy(Vec<(String, String)>);

impl Policy {
    /// Those of the page, in its order.
    fn all() -> Result<Vec<Self>> {
        let page = fs::read_to_string(checkout::root().join("docs/buckets.md"))?;
        let blocks = page.split("```json\n").skip(1);
        blocks
            .map(|block| Self::parse(block.split("```").next().context("an end")?))
            .collect()
    }

    fn parse(text: &str) -> Result<Self> {
        let policy: Value = serde_json::from_str(text)?;
        let mut allowed = Vec::new();
        for statement in policy["Statement"].as_array().context("statements")? {
            let resource = statement["Resource"].as_str().context("a resource")?;
            for action in statement["Action"].as_array().context("actions")? {
                let action = action.as_str().context("an action")?;
                allowed.push((action.to_owned(), resource.to_owned()));
            }
        }
        Ok(Self(allowed))
    }

    /// The statement that allows this.
    fn allows(&self, (action, resource): &Right) -> Option<&(String, String)> {
        self.0.iter().find(|(allowed, pattern)| {
            let fits = match pattern.strip_suffix('*') {
                Some(start) => resource.starts_with(start),
                None => resource == pattern,
            };
            allowed == action && fits
        })
    }

    /// Fails unless all requests are allowed, and all that is allowed was needed.
    fn is_just_enough(&self, name: &str, requests: &[Seen]) -> Result<()> {
        let mut used = BTreeSet::new();
        for seen in requests {
            for right in rights(seen)? {
                let allowed = self.allows(&right);
                used.insert(allowed.with_context(|| format!("{name}: {right:?} for {seen:?}"))?);
            }
        }
        let idle: Vec<_> = self.0.iter().filter(|one| !used.contains(one)).collect();
        ensure!(idle.is_empty(), "{name}: nothing needs {idle:?}");
        Ok(())
    }
}

/// Damages one large chunk in the bucket.
fn damage(server: &EmbeddedS3) -> Result<()> {
    let store = server.store();
    server.runtime().block_on(async {
        let prefix = KeyPrefix::new(format!("{STORE}/.chunks/"))?;
        let listed = store.list(&ListRequest::new(prefix)).await?.value.entries;
        let largest = listed.iter().max_by_key(|entry| entry.size);
        let key = largest.context("no chunks")?.key.clone();
        let mut bytes = store
            .get(&key, None)
            .await?
            .value
            .body
            .into_bytes()
            .to_vec();
        bytes[5000] ^= 1;
        store.put(Put::new(key, Bytes::from(bytes))).await?;
        Ok(())
    })
}

struct Site {
    server: EmbeddedS3,
    daemon: Daemon,
}

impl Site {
    fn client(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.daemon.client(STORE, arguments)?.success()?.text())
    }

    fn back_up(&self, seed: u64) -> Result<()> {
        let image = self.daemon.dir().join(format!("image-{seed}"));
        content::write_image(&image, seed, 3)?;
        let (archive, id) = (format!("disk.img:{}", image.display()), format!("{seed}"));
        self.client(&["backup", &archive, "--backup-id", &id])
            .map(drop)
    }

    fn comes_back(&self, seed: u64) -> Result<()> {
        let place = tempfile::TempDir::new_in(self.daemon.dir())?;
        let target = place.path().join("back");
        let text = target.display().to_string();
        self.client(&["restore", &format!("host/{seed}"), "disk.img", &text])?;
        compare_files(&self.daemon.dir().join(format!("image-{seed}")), &target)
    }

    /// Starts it anew, without what it had in its cache.
    fn without_cache(&self) -> Result<()> {
        self.daemon.stop()?;
        fs::remove_dir_all(self.daemon.cache_dir(STORE))?;
        self.daemon.start()
    }

    /// Everything that a datastore does, but for its creation.
    fn works(&self) -> Result<()> {
        for seed in 1..=3 {
            self.back_up(seed)?;
        }
        self.client(&["group", "notes", "host/1", "the cellar"])?;
        self.client(&["group", "forget", "host/1"])?;
        let removed = wait_for(COMMAND_TIME_MAX, || {
            let log = self.client(&["gc", "start"]).ok()?;
            let status = self.daemon.client_json(STORE, &["gc", "status"]).ok()?;
            (status["removed-chunks"] != 0).then_some(log)
        });
        removed.context("no chunk was removed")?;
        self.client(&["verify"])?;
        self.client(&["verify", "--quick"])?;
        self.without_cache()?;
        self.comes_back(2)?;
        let since = Since::now(&self.server)?;
        damage(&self.server)?;
        self.daemon
            .client(STORE, &["verify", "--all"])?
            .expect_code(1)?;
        let aside = wait_for(COMMAND_TIME_MAX, || {
            let seen = since.seen().ok()?;
            (seen.of("CopyObject") > 0 && seen.of("DeleteObject") > 0).then_some(())
        });
        aside.context("the damaged chunk was not set aside")?;
        for seed in 2..=3 {
            self.back_up(seed)?;
        }
        Ok(())
    }

    /// What is done with a datastore that is only read.
    fn is_read(&self) -> Result<()> {
        self.without_cache()?;
        self.comes_back(2)?;
        self.comes_back(3)?;
        self.client(&["snapshot", "list"])?;
        self.daemon.client(STORE, &["verify"])?.expect_code(1)?;
        self.daemon
            .client(STORE, &["gc", "start"])?
            .expect_code(1)?;
        self.daemon.stop()
    }
}

#[test]
fn policies_allow_what_is_needed_and_nothing_else() -> Result<()> {
    let policies = Policy::all()?;
    let [check, operation, reading] = &policies[..] else {
        bail!("{} policies", policies.len());
    };
    let site = Site {
        server: EmbeddedS3::start()?,
        daemon: Daemon::set_up(&[])?,
    };
    let Site { server, daemon } = &site;
    daemon.add_s3("embedded", &server.access(), &[])?;
    daemon.start()?;
    daemon.explain(|| {
        let since = Since::now(server)?;
        daemon.add_s3_store("embedded", STORE, &SETTINGS)?;
        daemon.manage(&["s3", "check", STORE])?.success()?;
        check.is_just_enough("check", &since.seen()?.0)?;

        let since = Since::now(server)?;
        site.works()?;
        let seen = since.seen()?.0;
        operation.is_just_enough("operation", &seen)?;
        ensure!(reading.is_just_enough("backups", &seen).is_err());

        let mode = ["--maintenance-mode", "read-only"];
        daemon
            .manage(&[&["datastore", "update", STORE][..], &mode].concat())?
            .success()?;
        let since = Since::now(server)?;
        site.is_read()?;
        reading.is_just_enough("reading", &since.seen()?.0)
    });
    Ok(())
}
