//! Tests of the conformance suite.

use std::sync::Arc;

use super::*;
use crate::{ModelOptions, ModelStore, Support};

fn prefix() -> KeyPrefix {
    KeyPrefix::new("conformance/").expect("a prefix")
}

fn violated(findings: &[Finding]) -> Vec<&'static str> {
    let violations = findings.iter().filter(|finding| finding.verdict.is_err());
    violations.map(|finding| finding.property).collect()
}

#[tokio::test]
async fn the_model_keeps_every_promise() {
    let store = ModelStore::default();
    let findings = all(&store, &prefix(), Claims::ALL).await;
    assert_eq!(findings.len(), 22);
    for finding in &findings {
        assert_eq!(finding.verdict, Ok(()), "{}", finding.property);
    }
}

#[tokio::test]
async fn short_pages_keep_every_promise() {
    let store = ModelStore::new(ModelOptions {
        page_keys_max: 2,
        tells_absent: true,
        ..ModelOptions::default()
    });
    let findings = all(&store, &prefix(), Claims::ALL).await;
    assert_eq!(violated(&findings), Vec::<&str>::new());
}

#[tokio::test]
async fn a_server_that_ignores_conditions_is_found_out() {
    let store = ModelStore::new(ModelOptions {
        conditional_create: Support::Ignored,
        conditional_overwrite: Support::Ignored,
        conditional_delete: Support::Ignored,
        conditional_copy: Support::Ignored,
        ..ModelOptions::default()
    });
    let findings = all(&store, &prefix(), Claims::ALL).await;
    assert_eq!(
        violated(&findings),
        [
            "conditional_create",
            "concurrent_creators",
            "conditional_overwrite",
            "conditional_delete",
            "conditional_copy",
            "multipart_condition"
        ]
    );
}

#[tokio::test]
async fn what_is_not_claimed_is_not_tried() {
    let store = ModelStore::new(ModelOptions {
        conditional_create: Support::Refused,
        conditional_overwrite: Support::Refused,
        conditional_delete: Support::Refused,
        batch_delete: Support::Refused,
        copies: Support::Refused,
        multipart: Support::Refused,
        ..ModelOptions::default()
    });
    let claims = Claims {
        conditional_create: false,
        conditional_overwrite: false,
        conditional_delete: false,
        batch_delete: false,
        copies: false,
        conditional_copy: false,
        multipart: false,
        odd_keys: true,
    };
    let findings = all(&store, &prefix(), claims).await;
    assert_eq!(violated(&findings), Vec::<&str>::new());
    assert_eq!(
        violated(&all(&store, &prefix(), Claims::ALL).await).len(),
        9
    );
}

#[tokio::test]
async fn copies_come_from_another_bucket_of_the_model() {
    let (store, other) = (ModelStore::default(), Arc::new(ModelStore::default()));
    store.add_neighbour("other", Arc::clone(&other));
    let from = ("other", &*other as &dyn ObjectStore);
    let verdict = copies_from_another_bucket(&store, from, &prefix()).await;
    assert_eq!(verdict, Ok(()));
    let strange = ("strange", &*other as &dyn ObjectStore);
    let verdict = copies_from_another_bucket(&store, strange, &prefix()).await;
    assert!(verdict.is_err());
}

#[tokio::test]
async fn lost_metadata_dates_and_listings_are_found_out() {
    let store = ModelStore::new(ModelOptions {
        metadata: Support::Ignored,
        dates: false,
        list_lag: std::time::Duration::from_hours(1),
        ..ModelOptions::default()
    });
    let found = violated(&all(&store, &prefix(), Claims::ALL).await).join(" ");
    for property in ["metadata", "put_id", "dates", "list_after_write_and_delete"] {
        assert!(found.contains(property), "{property} in {found}");
    }
}
