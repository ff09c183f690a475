//! The probe against servers with every fault it is to find.

use super::*;
use crate::scripted::{Faults, Scripted, Step, date};
use crate::{BucketSettings, LifecycleRule, Setting, Versioning};

async fn probed(faults: Faults) -> (Scripted, Report) {
    let store = Scripted::with(faults);
    let report = probe_it(&store, None).await;
    (store, report)
}

async fn probe_it(store: &Scripted, switch: Option<Arc<AtomicBool>>) -> Report {
    let options = ProbeOptions {
        id: "x1".into(),
        clock: Arc::new(date),
        if_match_quoted: switch,
        signature_window: true,
    };
    let prefix = KeyPrefix::new("backups/").expect("a prefix");
    probe(store, &prefix, &options).await
}

#[tokio::test]
async fn a_good_server_can_do_everything_and_is_left_clean() {
    let (store, report) = probed(Faults {
        signature_minutes: Some(15),
        ..Faults::default()
    })
    .await;
    for finding in &report.findings {
        assert_eq!(finding.state, State::Ok, "{finding:?}");
    }
    assert_eq!(report.findings.len(), Check::ALL.len());
    assert_eq!(
        report.capabilities,
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
            signature_window_seconds: Some(16 * 60),
        }
    );
    assert!(report.is_usable());
    assert_eq!(store.keys(), Vec::<String>::new());
    let outside = store
        .log()
        .into_iter()
        .find(|(op, name)| op.is_mutation() && !name.starts_with("backups/.holdfast/probe/x1/"));
    assert_eq!(outside, None);
}

#[tokio::test]
async fn ignored_conditions_are_found_out() {
    let (_, report) = probed(Faults {
        ignores_if_none_match: true,
        ignores_if_match: true,
        ignores_if_match_of_deletes: true,
        ignores_conditions_of_copies: true,
        ..Faults::default()
    })
    .await;
    assert!(report.capabilities.copy && !report.capabilities.conditional_copy);
    assert!(!report.capabilities.conditional_create);
    assert_eq!(
        report.capabilities.conditional_replace,
        IfMatch::Unsupported
    );
    assert!(!report.capabilities.conditional_delete);
    for check in [
        Check::ConditionalCreate,
        Check::ConditionalReplace,
        Check::ConditionalDelete,
        Check::ConditionalCopy,
    ] {
        assert_eq!(report.state(check), Some(State::Warning), "{check:?}");
    }
    assert!(report.is_usable(), "{report}");
}

#[tokio::test]
async fn a_server_that_wants_bare_tags_gets_them() {
    let switch = Arc::new(AtomicBool::new(true));
    let store = Scripted::with(Faults {
        wants_unquoted: Some(Arc::clone(&switch)),
        ..Faults::default()
    });
    let report = probe_it(&store, Some(Arc::clone(&switch))).await;
    assert_eq!(report.capabilities.conditional_replace, IfMatch::Unquoted);
    assert!(!switch.load(Ordering::Relaxed));
}

#[tokio::test]
async fn late_listings_and_lost_metadata_make_a_bucket_unusable() {
    let (_, report) = probed(Faults {
        hides_new_keys: true,
        ..Faults::default()
    })
    .await;
    assert_eq!(report.state(Check::Listing), Some(State::Failed));
    let (_, report) = probed(Faults {
        ignores_start_after: true,
        ..Faults::default()
    })
    .await;
    assert_eq!(report.state(Check::Listing), Some(State::Failed));
    let (_, report) = probed(Faults {
        drops_metadata: true,
        ..Faults::default()
    })
    .await;
    assert_eq!(report.state(Check::Read), Some(State::Failed));
    assert!(!report.is_usable());
}

#[tokio::test]
async fn denied_operations_are_named_as_permissions() {
    let (_, report) = probed(Faults {
        denies: vec![Op::Delete, Op::List],
        ..Faults::default()
    })
    .await;
    let finding = report.findings.last().expect("findings");
    assert_eq!(finding.check, Check::Permissions);
    assert_eq!(finding.state, State::Failed);
    assert!(
        finding.detail.ends_with("s3:DeleteObject, s3:ListBucket"),
        "{finding:?}"
    );
    let (_, report) = probed(Faults {
        denies: vec![Op::Put],
        ..Faults::default()
    })
    .await;
    assert_eq!(report.state(Check::Write), Some(State::Failed));
    assert_eq!(report.state(Check::Multipart), Some(State::Skipped));
    assert_eq!(report.findings.len(), Check::ALL.len());
}

#[tokio::test]
async fn a_bucket_that_may_not_be_asked_for_can_be_used() {
    let store = Scripted::new();
    store.then([Step::Fail(ErrorKind::Unauthorized)]);
    let report = probe_it(&store, None).await;
    assert_eq!(report.state(Check::Bucket), Some(State::Warning));
    let finding = report.findings.last().expect("findings");
    assert_eq!(finding.state, State::Warning);
    assert!(
        finding.detail.contains("a datastore needs works"),
        "{finding:?}"
    );
    assert!(report.is_usable(), "{report}");
}

#[tokio::test]
async fn absent_objects_that_are_called_forbidden_make_a_bucket_unusable() {
    let store = Scripted::new();
    // The bucket, two writes, two reads; then the object that is not there.
    let passed = std::iter::repeat_n(Step::Pass, 5);
    store.then(passed.chain([Step::Fail(ErrorKind::Unauthorized)]));
    let report = probe_it(&store, None).await;
    assert_eq!(report.state(Check::Read), Some(State::Failed));
    let finding = report.findings.last().expect("findings");
    assert_eq!(finding.state, State::Failed);
    let told = "s3:DeleteObject, s3:PutObject work; denied: allow the keys s3:ListBucket";
    assert_eq!(finding.detail, told);
}

#[tokio::test]
async fn settings_that_harm_are_told() {
    let rule = |prefix: &str, class: Option<&str>| LifecycleRule {
        id: format!("to {class:?} below {prefix}"),
        prefix: prefix.into(),
        expires: false,
        transitions: class.map(str::to_owned).into_iter().collect(),
        expires_old_versions: true,
        aborts_uploads: true,
    };
    let settings = |rules| BucketSettings {
        versioning: Setting::Known(Versioning::On),
        lifecycle: Setting::Known(rules),
        object_lock: Setting::Known(true),
    };
    for (rules, expected) in [
        (
            vec![rule("", None), rule("other/", Some("GLACIER"))],
            State::Ok,
        ),
        (vec![rule("", Some("GLACIER"))], State::Failed),
        (
            vec![rule("backups/.chunks/", Some("GLACIER"))],
            State::Failed,
        ),
    ] {
        let (_, report) = probed(Faults {
            settings: Some(settings(rules)),
            ..Faults::default()
        })
        .await;
        assert_eq!(report.state(Check::Lifecycle), Some(expected));
        assert_eq!(report.state(Check::Versioning), Some(State::Warning));
        assert!(report.capabilities.versioned && report.capabilities.object_lock);
    }
}

#[tokio::test]
async fn what_is_missing_is_a_warning_where_one_can_live_without() {
    let (_, report) = probed(Faults {
        refuses_multipart: true,
        ..Faults::default()
    })
    .await;
    assert_eq!(report.state(Check::Multipart), Some(State::Warning));
    assert_eq!(report.state(Check::SignatureWindow), Some(State::Warning));
    assert!(report.is_usable());
}

#[tokio::test]
async fn a_server_that_is_not_there_ends_the_probe() {
    let store = Scripted::new();
    store.then([Step::Fail(ErrorKind::Unavailable)]);
    let report = probe_it(&store, None).await;
    assert_eq!(store.log().len(), 1);
    assert_eq!(report.state(Check::Bucket), Some(State::Failed));
    assert_eq!(report.findings.len(), Check::ALL.len());
    let text = report.to_string();
    assert!(text.starts_with("FAILED   bucket"), "{text}");
    let json = serde_json::to_string(&report).expect("serializable");
    let read: Report = serde_json::from_str(&json).expect("readable");
    assert_eq!(read, report);
}
