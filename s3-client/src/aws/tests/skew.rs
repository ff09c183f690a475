//! The clock of this machine is wrong.

use jiff::SignedDuration;

use super::server::Server;
use super::*;
use crate::wall_clock;

/// The server refuses, and its answer tells the time; later requests are signed with that time. So a clock that was a day
/// off at the start costs one request, and one that is set right costs nothing.
#[tokio::test]
async fn a_clock_that_is_a_day_off_is_made_up_for() {
    for hours in [24, -24] {
        let theirs = wall_clock()() + SignedDuration::from_hours(hours);
        let date = theirs.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let server = Server::start(move |_, before| {
            let head = format!("Date: {date}\r\nContent-Type: application/xml\r\n");
            let body = "<Error><Code>RequestTimeTooSkewed</Code><Message>old</Message></Error>";
            match before {
                0 => reply_dated("403 Forbidden", &head, body),
                _ => reply_dated("200 OK", &format!("{head}ETag: \"abc\"\r\n"), ""),
            }
        });
        let store = server.store().await;
        let refused = store.put(put("a")).await.expect_err("an error");
        assert_eq!(refused.kind, ErrorKind::ClockSkewed);
        let told = refused.to_string();
        assert!(
            told.contains("the clocks of this machine and of the server"),
            "{told}"
        );
        let answer = store.put(put("a")).await.expect("an answer");
        assert!(matches!(answer.value, PutOutcome::Created { .. }));
        let signed = server.seen()[1].header("x-amz-date").map(ToOwned::to_owned);
        let day = theirs.strftime("%Y%m%dT%H").to_string();
        assert!(signed.is_some_and(|signed| signed.starts_with(&day[..8])));
    }
}

fn reply_dated(status: &str, head: &str, body: &str) -> Reply {
    let length = body.len();
    Reply::Say(format!(
        "HTTP/1.1 {status}\r\n{head}Content-Length: {length}\r\n\r\n{body}"
    ))
}
