//! S3 servers that can do less, or do it their own way. What matters is found out by the check, and worked around or
//! refused in words.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::daemon::Daemon;
use holdfast_tests::process::wait_for;
use holdfast_tests::s3_server::{BUCKET, Behind, EmbeddedS3, S3Server as _, in_real_time};
use jiff::SignedDuration;
use s3_client::serve::{ServeOptions, TagForm};
use s3_client::{ModelOptions, Support};

use super::{ENDPOINT, SETTINGS, STORE, backup, collect, comes_back, image, snapshots};

/// Backups, restores, a deletion and collections.
fn is_good_enough(model: ModelOptions, serving: ServeOptions) -> Result<()> {
    let server = EmbeddedS3::start_with(Behind::Memory(model), serving)?;
    let daemon = Daemon::set_up(&[])?;
    daemon.add_s3(ENDPOINT, &server.access(), &[])?;
    daemon.add_s3_store(ENDPOINT, STORE, &SETTINGS)?;
    daemon.start()?;
    daemon.explain(|| {
        let (image_one, source_one) = image(&daemon, 1, 6)?;
        let (image_two, source_two) = image(&daemon, 2, 6)?;
        let first = backup(&daemon, &source_one, "one")?.success()?.json()?;
        backup(&daemon, &source_two, "two")?.success()?;
        backup(&daemon, &source_two, "again")?.success()?;
        comes_back(&daemon, "one", &image_one)?;
        comes_back(&daemon, "again", &image_two)?;
        // A change of the manifest is a compare-and-swap, or what stands in for it.
        daemon
            .client(STORE, &["snapshot", "notes", "host/two", "kept"])?
            .success()?;
        let name = first["snapshot"].as_str().context("a name")?;
        daemon
            .client(STORE, &["snapshot", "forget", name])?
            .success()?;
        let mut removed = 0;
        let gone = wait_for(Duration::from_mins(1), || {
            let (_, status) = collect(&daemon).ok()?;
            removed += status["removed-chunks"].as_u64()?;
            (removed >= 5).then_some(())
        });
        ensure!(gone.is_some(), "only {removed} chunks were removed");
        comes_back(&daemon, "two", &image_two)?;
        ensure!(snapshots(&daemon)? == 2, "the others are there");
        let notes = daemon.client_json(STORE, &["snapshot", "notes", "host/two"])?;
        ensure!(notes == "kept", "{notes}");
        Ok(())
    });
    daemon.stop()
}

#[test]
fn one_that_ignores_conditions_is_found_out_and_used_without() -> Result<()> {
    let model = ModelOptions {
        conditional_create: Support::Ignored,
        conditional_overwrite: Support::Ignored,
        conditional_delete: Support::Ignored,
        ..in_real_time()
    };
    is_good_enough(model, ServeOptions::new(BUCKET))
}

#[test]
fn one_that_refuses_conditions_copies_and_parts_is_used_without() -> Result<()> {
    let model = ModelOptions {
        conditional_create: Support::Refused,
        conditional_overwrite: Support::Refused,
        conditional_delete: Support::Refused,
        copies: Support::Refused,
        multipart: Support::Refused,
        ..in_real_time()
    };
    is_good_enough(model, ServeOptions::new(BUCKET))
}

#[test]
fn one_with_short_pages_bare_tags_and_no_batches_is_used_as_it_is() -> Result<()> {
    let model = ModelOptions {
        page_keys_max: 3,
        tells_absent: true,
        ..in_real_time()
    };
    let mut serving = ServeOptions::new(BUCKET);
    serving.tag_form = TagForm::Bare;
    serving.batch_delete = false;
    is_good_enough(model, serving)
}

#[test]
fn one_whose_clock_is_wrong_is_refused_in_words() -> Result<()> {
    let now = s3_client::wall_clock();
    let model = ModelOptions {
        clock: std::sync::Arc::new(move || {
            now()
                .saturating_add(SignedDuration::from_hours(1))
                .unwrap_or_default()
        }),
        ..in_real_time()
    };
    let server = EmbeddedS3::start_over(Behind::Memory(model))?;
    let daemon = Daemon::set_up(&[])?;
    daemon.add_s3(ENDPOINT, &server.access(), &[])?;
    daemon.start()?;
    daemon.explain(|| {
        let check = ["s3", "check", "--s3", ENDPOINT, "--bucket", BUCKET];
        let told = daemon.manage(&check)?.expect_code(1)?;
        ensure!(
            told.text().contains("NTP") && told.text().contains("clock"),
            "{told}"
        );
        let told = daemon
            .create_s3_store(ENDPOINT, STORE, &SETTINGS)?
            .expect_code(1)?;
        ensure!(told.stderr.contains("clock"), "{told}");
        Ok(())
    });
    daemon.stop()
}
