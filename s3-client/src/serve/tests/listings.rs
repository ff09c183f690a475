//! Listings over HTTP.

use super::{Fixture, key};
use crate::ModelOptions;
use crate::serve::ServeOptions;
use crate::store::Metadata;

const NAMES: [&str; 11] = [
    "a", "a b&<", "a/1", "a/2", "a0", "ab/x", "ü/1", "vm/10", "vm/10/a", "vm/100/a", "vm/11",
];

async fn filled(page_keys_max: usize) -> Fixture {
    let model = ModelOptions {
        page_keys_max,
        ..ModelOptions::default()
    };
    let fixture = Fixture::with(model, ServeOptions::new("bucket")).await;
    for name in NAMES {
        fixture
            .model
            .insert_raw(key(name), "xyz", Metadata::new(), None);
    }
    fixture
}

/// Keys and folders of all pages, in the order they came, folders marked by a colon.
async fn walk(fixture: &Fixture, question: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut token = String::new();
    for _ in 0..50 {
        let reply = fixture
            .get(&format!("/bucket?list-type=2{question}{token}"))
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let folders = reply.all("CommonPrefixes");
        let count: usize = reply.all("KeyCount")[0].parse().expect("a number");
        let keys = reply.all("Key");
        assert_eq!(count, keys.len() + folders.len());
        let mut page: Vec<_> = folders
            .iter()
            .map(|folder| folder.replace("<Prefix>", "").replace("</Prefix>", ":"))
            .collect();
        page.extend(keys);
        found.extend(page);
        if reply.all("IsTruncated") == ["false"] {
            return found;
        }
        token = format!(
            "&continuation-token={}",
            reply.all("NextContinuationToken")[0]
        );
    }
    panic!("the listing does not end: {found:?}");
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

#[tokio::test]
async fn pages_of_any_length_bring_every_key_once() {
    for page_keys_max in [1000, 1] {
        let fixture = filled(page_keys_max).await;
        let mut wanted: Vec<_> = NAMES
            .map(|name| name.replace('&', "&amp;").replace('<', "&lt;"))
            .into();
        wanted.sort();
        for max in ["", "&max-keys=1", "&max-keys=4", "&max-keys=11"] {
            assert_eq!(sorted(walk(&fixture, max).await), wanted, "{max}");
        }
    }
}

#[tokio::test]
async fn a_server_may_give_shorter_pages_than_it_was_asked_for() {
    let mut options = ServeOptions::new("bucket");
    options.page_keys_max = 2;
    let fixture = Fixture::with(ModelOptions::default(), options).await;
    for name in NAMES {
        let metadata = Metadata::new();
        fixture.model.insert_raw(key(name), "xyz", metadata, None);
    }
    let page = fixture.get("/bucket?list-type=2&max-keys=1000").await;
    assert_eq!(page.all("Key").len(), 2, "{}", page.text());
    assert_eq!(page.all("IsTruncated"), ["true"]);
    assert_eq!(walk(&fixture, "").await.len(), NAMES.len());
}

#[tokio::test]
async fn prefixes_may_end_anywhere() {
    let fixture = filled(1000).await;
    for (prefix, wanted) in [
        ("vm/10", vec!["vm/10", "vm/10/a", "vm/100/a"]),
        ("vm/10/", vec!["vm/10/a"]),
        ("vm/1", vec!["vm/10", "vm/10/a", "vm/100/a", "vm/11"]),
        ("a/1", vec!["a/1"]),
        ("%C3%BC", vec!["ü/1"]),
        ("zz", vec![]),
    ] {
        for max in ["", "&max-keys=1"] {
            let found = walk(&fixture, &format!("&prefix={prefix}{max}")).await;
            assert_eq!(found, wanted, "{prefix}{max}");
        }
    }
    let after = walk(&fixture, "&prefix=vm/1&start-after=vm/10/a").await;
    assert_eq!(after, ["vm/100/a", "vm/11"]);
}

#[tokio::test]
async fn folders_are_told_once() {
    for page_keys_max in [1000, 1] {
        let fixture = filled(page_keys_max).await;
        for max in ["", "&max-keys=1", "&max-keys=3"] {
            let found = walk(&fixture, &format!("&delimiter=/{max}")).await;
            let wanted = ["a", "a b&amp;&lt;", "a/:", "a0", "ab/:", "vm/:", "ü/:"];
            assert_eq!(sorted(found), wanted, "{max}");
            let found = walk(&fixture, &format!("&delimiter=/&prefix=vm/{max}")).await;
            assert_eq!(
                sorted(found),
                ["vm/10", "vm/10/:", "vm/100/:", "vm/11"],
                "{max}"
            );
        }
    }
}

#[tokio::test]
async fn names_are_encoded_on_request() {
    let fixture = filled(1000).await;
    let reply = fixture
        .get("/bucket?list-type=2&encoding-type=url&prefix=a%20")
        .await;
    assert_eq!(reply.all("Key"), ["a%20b%26%3C"]);
    assert_eq!(reply.all("EncodingType"), ["url"]);
    assert_eq!(reply.all("Size"), ["3"]);
    assert_eq!(reply.all("ETag"), ["\"d16fb36f0911f878998c136191af705e\""]);
    let nothing = fixture.get("/bucket?list-type=2&max-keys=0").await;
    assert_eq!(nothing.all("IsTruncated"), ["false"]);
    let strange = fixture
        .get("/bucket?list-type=2&continuation-token=%3F")
        .await;
    assert_eq!(strange.status, 400);
}

#[tokio::test]
async fn the_first_version_of_listings_is_there_too() {
    let fixture = filled(1000).await;
    let first = fixture.get("/bucket?prefix=vm/&max-keys=2").await;
    assert_eq!(first.all("Key"), ["vm/10", "vm/10/a"]);
    let marker = &first.all("NextMarker")[0];
    let second = fixture
        .get(&format!("/bucket?prefix=vm/&marker={marker}"))
        .await;
    assert_eq!(second.all("Key"), ["vm/100/a", "vm/11"]);
    assert_eq!(second.all("IsTruncated"), ["false"]);
}
