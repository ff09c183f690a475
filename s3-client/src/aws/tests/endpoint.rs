//! Buckets of a server: listed, made, and looked for when an answer was lost.

use super::server::{Reply, Seen, Server};
use super::{now, refusal, reply};
use std::sync::Arc;

use crate::aws::{AwsConfig, AwsEndpoint, BucketOutcome, Credentials, Secret};
use crate::{Error, ErrorKind};

fn endpoint(server: &Server, region: &str) -> AwsEndpoint {
    let credentials = Credentials::Static {
        access_key: "AKIDEXAMPLE".into(),
        secret_key: Secret::new("hush"),
        session_token: None,
    };
    let mut config = AwsConfig::new(&server.endpoint, "", credentials);
    config.region = region.to_owned();
    AwsEndpoint::new(config, Arc::new(now))
}

fn listed(names: &[&str], token: Option<&str>) -> Reply {
    let buckets = names
        .iter()
        .map(|name| format!("<Bucket><Name>{name}</Name></Bucket>"));
    let buckets: String = buckets.collect();
    let token = token.map(|token| format!("<ContinuationToken>{token}</ContinuationToken>"));
    let body = format!(
        "<ListAllMyBucketsResult><Buckets>{buckets}</Buckets>{}</ListAllMyBucketsResult>",
        token.unwrap_or_default()
    );
    reply("200 OK", "Content-Type: application/xml\r\n", &body)
}

fn denied() -> Reply {
    refusal("403 Forbidden", "AccessDenied", "Access Denied")
}

fn is_list(seen: &Seen) -> bool {
    seen.line.starts_with("GET /?")
}

/// What comes of the wish for `wanted`, and how often it was asked for.
async fn create(
    script: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static,
) -> (Result<BucketOutcome, Error>, usize) {
    let server = Server::start(script);
    let outcome = endpoint(&server, "eu-north-1")
        .create_bucket("wanted")
        .await;
    let asked = server.seen();
    let asked = asked.iter().filter(|seen| seen.line.starts_with("PUT"));
    (outcome, asked.count())
}

#[tokio::test]
async fn all_pages_of_the_list_are_read() {
    let server = Server::start(|seen, _| {
        assert!(is_list(seen), "{}", seen.line);
        if seen.line.contains("continuation-token=next") {
            listed(&["c"], None)
        } else {
            listed(&["a", "b"], Some("next"))
        }
    });
    let names = endpoint(&server, "us-east-1").list_buckets().await;
    assert_eq!(names.expect("a list"), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_list_without_an_end_is_none() {
    let server = Server::start(|_, _| listed(&["a"], Some("next")));
    let error = endpoint(&server, "us-east-1").list_buckets().await;
    assert_eq!(error.expect_err("endless").kind, ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_bucket_is_made_in_its_region_and_the_first_one_is_not_named() {
    for (region, named) in [("us-east-1", false), ("eu-north-1", true)] {
        let server = Server::start(|seen, _| {
            if is_list(seen) {
                listed(&["other"], None)
            } else {
                reply("200 OK", "Location: /wanted\r\n", "")
            }
        });
        let made = endpoint(&server, region).create_bucket("wanted").await;
        assert_eq!(made.expect("made"), BucketOutcome::Created);
        let seen = server.seen();
        let put = seen.last().expect("a request");
        assert!(put.line.starts_with("PUT /wanted"), "{}", put.line);
        let body = String::from_utf8_lossy(&put.body).into_owned();
        let constraint = format!("<LocationConstraint>{region}</LocationConstraint>");
        assert_eq!(body.contains(&constraint), named, "{region}: {body}");
        assert_eq!(body.is_empty(), !named);
    }
}

#[tokio::test]
async fn what_is_there_is_not_touched() {
    let (ours, asked) = create(|_, _| listed(&["wanted"], None)).await;
    assert_eq!((ours.expect("seen"), asked), (BucketOutcome::Ours, 0));
    // The keys may not list.
    let (there, asked) = create(|seen, _| {
        if is_list(seen) {
            denied()
        } else {
            reply("200 OK", "", "")
        }
    })
    .await;
    assert_eq!((there.expect("seen"), asked), (BucketOutcome::Somebodys, 0));
    // Nor look.
    let (refused, asked) = create(|_, _| denied()).await;
    let refused = refused.expect_err("nobody knows");
    assert_eq!((refused.kind, asked), (ErrorKind::Unauthorized, 0));
}

#[tokio::test]
async fn whose_it_is_says_the_server() {
    for (code, outcome) in [
        ("BucketAlreadyOwnedByYou", BucketOutcome::Ours),
        ("BucketAlreadyExists", BucketOutcome::Theirs),
    ] {
        let (told, asked) = create(move |seen, _| {
            if is_list(seen) {
                listed(&[], None)
            } else {
                refusal("409 Conflict", code, "there")
            }
        })
        .await;
        assert_eq!((told.expect("an outcome"), asked), (outcome, 1));
    }
    let (denied, _) = create(|seen, _| {
        if is_list(seen) {
            listed(&[], None)
        } else {
            denied()
        }
    })
    .await;
    assert_eq!(denied.expect_err("refused").kind, ErrorKind::Unauthorized);
}

#[tokio::test]
async fn after_a_lost_answer_the_bucket_is_looked_for() {
    for (after, outcome) in [
        (vec!["wanted"], BucketOutcome::Created),
        (vec![], BucketOutcome::Unknown),
    ] {
        let (told, asked) = create(move |seen, number| match (is_list(seen), number) {
            (true, 0) => listed(&[], None),
            (true, _) => listed(&after, None),
            _ => Reply::Close,
        })
        .await;
        assert_eq!((told.expect("an outcome"), asked), (outcome, 1));
    }
}

#[tokio::test]
async fn names_that_no_server_takes_are_not_sent() {
    let server = Server::start(|_, _| listed(&[], None));
    for name in [
        "ab",
        "Upper",
        "under_score",
        "-begin",
        "end.",
        "a/b",
        "",
        &"x".repeat(64),
    ] {
        let refused = endpoint(&server, "us-east-1").create_bucket(name).await;
        assert_eq!(
            refused.expect_err("refused").kind,
            ErrorKind::Other,
            "{name}"
        );
    }
    assert!(server.seen().is_empty());
}
