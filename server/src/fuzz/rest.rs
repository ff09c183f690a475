//! The calls below `/api2/json`: every path, every parameter, every body, by people with all and with no rights.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::Full;

use super::calls::{Call, calls};
use super::world::{After, PEER, TOKENS, World, in_world};
use crate::api::{Caller, Params};
use crate::auth::UserId;

/// Longer than any call may take.
const ANSWER_MAX: Duration = Duration::from_hours(1);
/// Longest answer to anything that fits into an input, in bytes.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Calls that are open to anyone.
const OPEN: [&str; 3] = ["access/ticket", "access/domains", "ping"];
/// Parameters that name a place on this machine or on the network.
const PLACES: [&str; 5] = ["path", "cache-dir", "ca-file", "endpoint", "profile"];
/// An address where nobody listens.
const NOWHERE: &str = "http://127.0.0.1:1";

/// A list of calls, each beginning with who asks: `owner` (the control socket), one of [`TOKENS`], `login` (an
/// administrator's ticket), or nobody. No call is answered with 500, no secret is in an answer, who may change nothing
/// changes nothing, and the daemon goes on.
pub fn rest(data: &[u8]) {
    in_world(async |world| {
        let mut after = After::Unchanged;
        for call in calls(data, "/api2/json/", true) {
            if may_change(world, &call).await {
                after = After::Changed;
            }
        }
        after
    });
}

/// Makes a call; whether it may have changed what others rely on.
async fn may_change(world: &World, call: &Call) -> bool {
    let Some((request, caller)) = request(world, call) else {
        return false;
    };
    if leaves(world, call) {
        return false;
    }
    let answer = world.daemon.respond_whole(request, caller);
    let answer = tokio::time::timeout(ANSWER_MAX, answer).await;
    let answer = answer.expect("a call is answered");
    let status = answer.status().as_u16();
    tracing::info!(target: "hostile", who = call.who, method = %call.method, target = %call.target, status, "answered");
    check(call, &answer);
    let privileged = ["owner", "admin", "backup", "login"].contains(&call.who.as_str());
    privileged && call.method != Method::GET && answer.status().is_success()
}

fn check(call: &Call, answer: &Response<Bytes>) {
    let (status, body) = (answer.status().as_u16(), answer.body());
    let what = || format!("{} {} by '{}'", call.method, call.target, call.who);
    assert!(status < 500 || status == 503, "{}: {status}", what());
    assert!(
        body.len() <= ANSWER_BYTES_MAX,
        "{}: an answer of {} bytes",
        what(),
        body.len()
    );
    if !["owner", "admin", "backup", "nobody", "login"].contains(&call.who.as_str()) {
        let open = OPEN
            .iter()
            .any(|open| call.target.path().trim_end_matches('/').ends_with(open));
        assert!(
            !answer.status().is_success() || open,
            "{}: a stranger gets in",
            what()
        );
    }
    let sent = |secret: &[u8]| {
        contains(call.target.to_string().as_bytes(), secret) || contains(&call.body, secret)
    };
    for (_, header) in TOKENS {
        let secret = header.rsplit(':').next().unwrap_or_default().as_bytes();
        assert!(
            !contains(body, secret) || sent(secret),
            "{}: a secret leaks",
            what()
        );
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn request(world: &World, call: &Call) -> Option<(Request<Full<Bytes>>, Caller)> {
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri(call.target.clone())
        .body(Full::new(call.body.clone()))
        .ok()?;
    let headers = request.headers_mut();
    if !call.content_type.is_empty() {
        let value = HeaderValue::from_bytes(&call.content_type).ok()?;
        headers.insert(CONTENT_TYPE, value);
    }
    let mut caller = Caller::Network(PEER.ip());
    match call.who.as_str() {
        "owner" => caller = Caller::Owner,
        "login" => {
            let keys = world.daemon.secrets.read().keys.clone();
            let (user, now) = (
                "admin@pbs".parse::<UserId>().ok()?,
                world.daemon.clock.unix_seconds(),
            );
            let mark = world.daemon.secrets.read().passwords.get(&user).cloned();
            let ticket = keys.issue(&user, &mark.unwrap_or_default(), now);
            let cookie = HeaderValue::try_from(format!("PBSAuthCookie={ticket}")).ok()?;
            headers.insert(COOKIE, cookie);
            let csrf = HeaderValue::try_from(keys.issue_csrf(&user, now)).ok()?;
            headers.insert("csrfpreventiontoken", csrf);
        }
        who => {
            if let Some((_, token)) = TOKENS.iter().find(|(name, _)| *name == who) {
                headers.insert(AUTHORIZATION, HeaderValue::from_static(token));
            }
        }
    }
    Some((request, caller))
}

/// Whether a call names a place outside the world: a directory of this machine, or an address. The daemon would go there,
/// as it was told to.
fn leaves(world: &World, call: &Call) -> bool {
    let content_type = std::str::from_utf8(&call.content_type).ok();
    let content_type = content_type.filter(|text| !text.is_empty());
    let Ok(params) = Params::gather([], call.target.query(), content_type, &call.body) else {
        return false;
    };
    let inside = |text: &str| {
        let below = world.dir.path().join("more");
        let below = below.to_str().is_some_and(|below| text.starts_with(below));
        (below && !text.contains(".."))
            || text.starts_with(NOWHERE) && text[NOWHERE.len()..].is_empty()
    };
    PLACES.iter().any(|name| {
        let given = params.clone().optional::<String>(name);
        given.is_ok_and(|given| given.is_some_and(|text| !inside(&text)))
    })
}
