//! Tests of parameters.

use http::StatusCode;
use http_body_util::Full;
use rstest::rstest;

use super::*;

const FORM: Option<&str> = Some("application/x-www-form-urlencoded");
const JSON: Option<&str> = Some("application/json");

fn query(text: &str) -> Params {
    Params::gather([], Some(text), None, b"").expect("gathered")
}

fn json(text: &str) -> Params {
    Params::gather([], None, JSON, text.as_bytes()).expect("gathered")
}

#[test]
fn every_source_is_read() {
    let variables = [("store", "store1".to_owned())];
    let mut params = Params::gather(variables, Some("a=1&_dc=99"), FORM, b"b=x+y%2B").expect("ok");
    assert_eq!(params.required::<String>("store"), Ok("store1".into()));
    assert_eq!(params.integer("a", 0..=9), Ok(Some(1)));
    assert_eq!(params.required::<String>("b"), Ok("x y+".into()));
    assert_eq!(params.finish(), Ok(()));
}

#[rstest]
#[case(JSON)]
#[case(Some("application/json; charset=UTF-8"))]
#[case(Some("Application/JSON"))]
fn a_json_body_replaces_the_query(#[case] content_type: Option<&str>) {
    let mut params =
        Params::gather([], Some("a=1"), content_type, br#"{"b":2,"c":null}"#).expect("gathered");
    assert_eq!(params.integer("a", 0..=9), Ok(None));
    assert_eq!(params.integer("b", 0..=9), Ok(Some(2)));
    assert_eq!(params.optional::<String>("c"), Ok(None));
    assert_eq!(params.finish(), Ok(()));
}

#[rstest]
#[case(b"".as_slice())]
#[case(b" \n")]
fn an_empty_json_body_is_none(#[case] body: &[u8]) {
    let mut params = Params::gather([], Some("a=1"), JSON, body).expect("gathered");
    assert_eq!(params.integer("a", 0..=9), Ok(Some(1)));
}

#[rstest]
#[case(JSON, b"[1]".as_slice())]
#[case(JSON, b"{")]
#[case(JSON, b"\"x\"")]
#[case(Some("text/plain"), b"x")]
#[case(Some("multipart/form-data; boundary=x"), b"x")]
#[case(FORM, b"a=%ff")]
fn bad_bodies(#[case] content_type: Option<&str>, #[case] body: &[u8]) {
    let error = Params::gather([], None, content_type, body).expect_err("refused");
    assert_eq!(error.status(), StatusCode::BAD_REQUEST);
}

#[test]
fn a_path_variable_may_be_repeated_but_not_contradicted() {
    let variables = || [("store", "one".to_owned())];
    assert!(Params::gather(variables(), Some("store=one"), None, b"").is_ok());
    assert!(Params::gather(variables(), None, JSON, br#"{"store":"one"}"#).is_ok());
    assert!(Params::gather(variables(), Some("store=two"), None, b"").is_err());
    assert!(Params::gather(variables(), Some("store=one&store=one"), None, b"").is_err());
    assert!(Params::gather(variables(), None, JSON, br#"{"store":1}"#).is_err());
}

#[rstest]
#[case("1", Some(true))]
#[case("On", Some(true))]
#[case("YES", Some(true))]
#[case("true", Some(true))]
#[case("0", Some(false))]
#[case("off", Some(false))]
#[case("No", Some(false))]
#[case("False", Some(false))]
#[case("", None)]
#[case("2", None)]
#[case("y", None)]
fn flags(#[case] text: &str, #[case] expected: Option<bool>) {
    let taken = query(&format!("f={text}")).flag("f");
    assert_eq!(taken.ok().flatten(), expected);
    let taken = json(&format!(r#"{{"f":"{text}"}}"#)).flag("f");
    assert_eq!(taken.ok().flatten(), expected);
}

#[test]
fn a_json_body_of_very_many_values_is_refused_wherever_they_are() {
    let gathered = |text: &str| Params::gather([], None, JSON, text.as_bytes()).map(|_| ());
    let list = |one: &str, count: usize| format!(r#"{{"a":[{}]}}"#, vec![one; count].join(","));
    assert_eq!(gathered(&list("1", VALUES_MAX - 10)), Ok(()));
    for one in ["1", r#"{"":0}"#, "[0]"] {
        let refused = gathered(&list(one, VALUES_MAX)).expect_err("too many");
        assert_eq!(refused.message(), "too many parameters", "{one}");
    }
}

#[test]
fn native_json_values() {
    assert_eq!(json(r#"{"f":true}"#).flag("f"), Ok(Some(true)));
    assert!(json(r#"{"f":[]}"#).flag("f").is_err());
    assert_eq!(json(r#"{"n":"12"}"#).integer("n", 0..=20), Ok(Some(12)));
    assert!(json(r#"{"n":1.5}"#).integer("n", 0..=20).is_err());
    assert!(json(r#"{"s":5}"#).optional::<String>("s").is_err());
    let mut params = json(r#"{"digests":["a","b"],"offsets":[0,4194304]}"#);
    let digests: Vec<String> = params.list("digests", 2).expect("a list");
    assert_eq!(digests, ["a", "b"]);
    let offsets = params.integers("offsets", &(0..=i64::MAX), 2);
    assert_eq!(offsets, Ok(vec![0, 4_194_304]));
}

#[rstest]
#[case("5", Some(5))]
#[case("-5", Some(-5))]
#[case("+5", None)]
#[case("5.0", None)]
#[case("", None)]
#[case("0x5", None)]
#[case("99999999999999999999", None)]
#[case("11", None)]
fn integers(#[case] text: &str, #[case] expected: Option<i64>) {
    let encoded = text.replace('+', "%2B");
    let taken = query(&format!("n={encoded}")).integer("n", -10..=10);
    assert_eq!(taken.ok().flatten(), expected);
}

#[test]
fn repeated_keys_are_lists_and_nothing_else() {
    let mut params = query("s=ok&s=error&n=1&n=2");
    let list: Vec<String> = params.list("s", 4).expect("a list");
    assert_eq!(list, ["ok", "error"]);
    assert!(params.integer("n", 0..=9).is_err());
    assert!(query("s=a&s=b").list::<String>("s", 1).is_err());
    assert_eq!(query("").list::<String>("s", 1), Ok(Vec::new()));
}

#[test]
fn what_is_left_over_or_missing_is_named() {
    let error = query("bogus=1&ns=").finish().expect_err("left over");
    assert_eq!(error.status(), StatusCode::BAD_REQUEST);
    assert!(error.message().contains("'bogus', 'ns'"), "{error}");
    let error = query("").required::<String>("store").expect_err("missing");
    assert!(error.message().contains("'store'"), "{error}");
    let error = query("id=x").required::<crate::auth::UserId>("id");
    assert!(error.expect_err("no user id").message().contains("'id'"));
    let mut params = query("debug=1");
    params.ignore(&["debug"]);
    assert_eq!(params.finish(), Ok(()));
}

#[tokio::test]
async fn bodies_are_bounded() {
    let body = Full::new(Bytes::from(vec![b'x'; BODY_BYTES_MAX]));
    assert_eq!(
        read_body(body, BODY_BYTES_MAX).await.expect("read").len(),
        BODY_BYTES_MAX
    );
    let body = Full::new(Bytes::from(vec![b'x'; BODY_BYTES_MAX + 1]));
    let error = read_body(body, BODY_BYTES_MAX)
        .await
        .expect_err("too large");
    assert_eq!(error.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_whole_request_is_read() {
    let request = http::Request::post("/api2/json/access/ticket?x=1")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from_static(br#"{"username":"a@pbs"}"#)))
        .expect("a request");
    let (head, body) = request.into_parts();
    let params =
        Params::of_request([("node", "localhost".into())], &head, body, BODY_BYTES_MAX).await;
    let mut params = params.expect("gathered");
    assert_eq!(params.required::<String>("username"), Ok("a@pbs".into()));
    assert_eq!(params.required::<String>("node"), Ok("localhost".into()));
    assert_eq!(params.finish(), Ok(()), "the query does not count");
}
