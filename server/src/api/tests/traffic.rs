//! Tests of the rules of how fast clients may be.

use super::*;
use crate::pace::Paces as _;

const ALL: &str = "config/traffic-control";
const ONE: &str = "config/traffic-control/office";

#[tokio::test]
async fn rules_are_kept_shown_and_in_force_at_once() {
    let fixture = Fixture::new().await;
    let lane = fixture.daemon.traffic.lane(IpAddr::from([10, 1, 2, 3]));
    let rule = json!({
        "name": "office", "network": ["10.0.0.1/8", "192.0.2.7"], "user": [], "rate-in": "1 MiB", "burst-in": "2 MiB",
    });
    let (status, body) = fixture.own(Method::POST, ALL, rule.clone()).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert!(lane.pace().is_limited());
    let (status, _) = fixture.own(Method::POST, ALL, rule).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "it is there");
    let (_, shown) = fixture.own(Method::GET, ONE, json!({})).await;
    let expected = json!({
        "name": "office", "network": ["10.0.0.0/8", "192.0.2.7/32"], "rate-in": 1 << 20, "burst-in": 2 << 20,
    });
    assert_eq!(shown["data"], expected);

    let digest = shown["digest"].clone();
    let change = json!({ "user": ["backup@pbs"], "delete": ["burst-in"], "digest": digest });
    let (status, body) = fixture.own(Method::PUT, ONE, change.clone()).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert!(!lane.pace().is_limited(), "it is somebody else's now");
    let (status, _) = fixture.own(Method::PUT, ONE, change).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "another digest");
    lane.belongs_to(&"backup@pbs!t".parse().expect("an id"));
    assert!(lane.pace().is_limited());
    let (_, list) = fixture.own(Method::GET, ALL, json!({})).await;
    let expected = json!([{
        "name": "office", "network": ["10.0.0.0/8", "192.0.2.7/32"], "user": ["backup@pbs"], "rate-in": 1 << 20,
    }]);
    assert_eq!(list["data"], expected);
    let (status, _) = fixture.own(Method::DELETE, ONE, json!({})).await;
    assert_eq!(status, StatusCode::OK);
    assert!(!lane.pace().is_limited());
    let (status, _) = fixture.own(Method::GET, ONE, json!({})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[rstest]
#[case(json!({}), "limits nothing")]
#[case(json!({ "rate-in": "0", "rate-out": "0" }), "limits nothing")]
#[case(json!({ "rate-in": "1 KiB" }), "must be between 128 KiB and 90 GiB")]
#[case(json!({ "rate-in": "1 MiB", "burst-out": "1 MiB" }), "does nothing without rate-out")]
#[case(json!({ "rate-in": "1 MiB", "network": ["10.0.0.0/33"] }), "is no network")]
#[case(json!({ "rate-in": "1 MiB", "network": ["office"] }), "is no network")]
#[case(json!({ "rate-in": "1 MiB", "user": ["nobody"] }), "traffic-control.office.user")]
#[tokio::test]
async fn what_makes_no_sense_is_refused(#[case] settings: Value, #[case] why: &str) {
    let fixture = Fixture::new().await;
    let mut rule = settings;
    rule["name"] = json!("office");
    let (status, body) = fixture.own(Method::POST, ALL, rule).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let told = body.as_str().unwrap_or_default();
    assert!(told.contains(why), "{body}");
    assert!(fixture.daemon.config.read().traffic.is_empty());
}
