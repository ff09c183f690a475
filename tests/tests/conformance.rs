//! What `ObjectStore` promises, on everything that claims to be one: the model, the directory bucket, our client with our
//! own server before each of them, and our client with foreign code.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use holdfast_tests::moto::Moto;
use holdfast_tests::s3_server::{BUCKET, Behind, EmbeddedS3, S3Server, in_real_time};
use s3_client::conformance::{self, Claims};
use s3_client::serve::ServeOptions;
use s3_client::{
    AwsStore, Capabilities, Check, DirectoryStore, IfMatch, KeyPrefix, ListRequest, ModelOptions,
    ModelStore, ObjectStore, ProbeOptions, Report, State, probe, wall_clock,
};
use tempfile::TempDir;

/// Properties that the suite has when everything is claimed.
const PROPERTIES: usize = 22;

async fn conforms(name: &str, store: &dyn ObjectStore, claims: Claims) {
    let prefix = KeyPrefix::new("conformance/").expect("a prefix");
    let findings = conformance::all(store, &prefix, claims).await;
    if claims == Claims::ALL {
        assert_eq!(findings.len(), PROPERTIES);
    }
    let violations: Vec<_> = findings
        .iter()
        .filter_map(|finding| Some((finding.property, finding.verdict.as_ref().err()?)))
        .collect();
    assert!(violations.is_empty(), "{name}: {violations:#?}");
}

async fn probed(store: &dyn ObjectStore, aws: Option<&AwsStore>, window: bool) -> Report {
    let options = ProbeOptions {
        id: "conformance".to_owned(),
        clock: wall_clock(),
        if_match_quoted: aws.map(AwsStore::if_match_quoted),
        signature_window: window,
    };
    let prefix = KeyPrefix::new("probe/").expect("a prefix");
    probe(store, &prefix, &options).await
}

fn everything() -> Capabilities {
    Capabilities {
        conditional_create: true,
        conditional_replace: IfMatch::Quoted,
        conditional_delete: true,
        conditional_batch_delete: true,
        batch_delete: true,
        ranges: true,
        metadata: true,
        etag_is_md5: true,
        copy: true,
        conditional_copy: true,
        multipart: true,
        versioned: false,
        object_lock: false,
        signature_window_seconds: None,
    }
}

fn directory(dir: &Path) -> std::path::PathBuf {
    dir.join("bucket")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_model_conforms() {
    let store = ModelStore::new(ModelOptions {
        clock: wall_clock(),
        ..ModelOptions::default()
    });
    conforms("model", &store, Claims::ALL).await;
    let report = probed(&store, None, false).await;
    assert!(report.is_usable(), "{report}");
    assert_eq!(report.capabilities, everything(), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_bucket_conforms() -> Result<()> {
    let dir = TempDir::new()?;
    let store = DirectoryStore::open(directory(dir.path())).await?;
    conforms("directory", &store, Claims::ALL).await;
    let report = probed(&store, None, false).await;
    assert!(report.is_usable(), "{report}");
    assert_eq!(report.capabilities, everything(), "{report}");
    // What was written is there after a restart, and in the same order.
    let all = ListRequest {
        prefix: KeyPrefix::new("")?,
        start_after: None,
        keys_max: 1000,
    };
    let before = store.list(&all).await?.value.entries;
    assert!(before.len() > 20, "{before:?}");
    drop(store);
    let store = DirectoryStore::open(directory(dir.path())).await?;
    assert_eq!(store.list(&all).await?.value.entries, before);
    Ok(())
}

fn over_http(server: &EmbeddedS3) -> Result<()> {
    server.runtime().block_on(async {
        let aws = server.access().client().await?;
        conforms(server.name(), &aws, Claims::ALL).await;
        let report = probed(&aws, Some(&aws), true).await;
        assert!(report.is_usable(), "{report}");
        let mut wanted = everything();
        wanted.signature_window_seconds = report.capabilities.signature_window_seconds;
        assert_eq!(report.capabilities, wanted, "{report}");
        // The server refuses signatures that are older than a quarter of an hour.
        let window = wanted.signature_window_seconds.unwrap_or(u64::MAX);
        assert!((840..=1860).contains(&window), "{report}");
        assert_eq!(report.state(Check::CleanUp), Some(State::Ok), "{report}");
        Ok(())
    })
}

#[test]
fn our_client_and_our_server_conform() -> Result<()> {
    over_http(&EmbeddedS3::start()?)
}

#[test]
fn our_client_and_our_server_over_a_directory_conform() -> Result<()> {
    let dir = TempDir::new()?;
    over_http(&EmbeddedS3::start_over(Behind::Directory(&directory(
        dir.path(),
    )))?)
}

#[test]
fn our_server_copies_from_one_bucket_to_another() -> Result<()> {
    let other: Arc<dyn ObjectStore> = Arc::new(ModelStore::new(in_real_time()));
    let mut options = ServeOptions::new(BUCKET);
    let stores = &mut options.neighbours;
    stores.insert("other".to_owned(), Arc::clone(&other));
    let server = EmbeddedS3::start_with(Behind::Memory(in_real_time()), options)?;
    server.runtime().block_on(async {
        let aws = server.access().client().await?;
        let prefix = KeyPrefix::new("conformance/")?;
        let from = ("other", other.as_ref());
        conformance::copies_from_another_bucket(&aws, from, &prefix).await?;
        let strange = ("strange", other.as_ref());
        let copied = conformance::copies_from_another_bucket(&aws, strange, &prefix).await;
        assert!(copied.is_err(), "there is no such bucket");
        Ok(())
    })
}

#[test]
fn keys_that_are_wrong_are_refused() -> Result<()> {
    let server = EmbeddedS3::start()?;
    let mut access = server.access();
    access.secret_key.push('x');
    let report = server.runtime().block_on(async {
        let aws = access.client().await?;
        anyhow::Ok(probed(&aws, Some(&aws), false).await)
    })?;
    assert!(!report.is_usable(), "{report}");
    assert_eq!(
        report.state(Check::Permissions),
        Some(State::Failed),
        "{report}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_and_moto_conform() -> Result<()> {
    let moto = Arc::new(Moto::start()?);
    let aws = moto.access().client().await?;
    // Conditions of copies it passes over.
    let claims = Claims {
        conditional_copy: false,
        ..Claims::ALL
    };
    conforms(moto.name(), &aws, claims).await;
    let report = probed(&aws, Some(&aws), true).await;
    assert!(report.is_usable(), "{report}");
    // In batches it deletes whatever the tag.
    let wanted = Capabilities {
        conditional_batch_delete: false,
        conditional_copy: false,
        ..everything()
    };
    assert_eq!(report.capabilities, wanted, "{report}");
    assert!(moto.seen()?.len() > 100, "the log misses requests");
    Ok(())
}
