//! Texts: configuration, secrets, credentials, tickets, repositories, the index of tasks.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::auth::{Credentials, TicketKeys, UserId};
use crate::calendar::CalendarEvent;
use crate::client::repository::Repository;
use crate::config::{Config, Secrets};
use crate::tasks::read_index;

/// What the user's password is checked against.
const MARK: &str = "mark";
/// Values from this length on are in no fault by chance.
const SECRET_BYTES_MIN: usize = 12;
/// The clock of the tickets.
const NOW: i64 = 0x6AFF_0000;

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// The configuration file. Faults are at most as many as its bytes, and in words.
pub fn config(data: &[u8]) {
    let Some(text) = text(data) else { return };
    if let Err(faults) = Config::check(text) {
        assert!(!faults.is_empty(), "refused without a reason");
        assert!(
            faults.len() <= 4096 + 64 * text.len(),
            "faults are longer than the file: {}",
            faults.len()
        );
    }
}

/// A calendar event, and when it is due: each time after the one before, and at most a second's worth of looking.
pub fn calendar(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let Ok(event) = text.parse::<CalendarEvent>() else {
        return;
    };
    let again: CalendarEvent = event.to_string().parse().expect("as it was written");
    assert_eq!(again, event, "an event that is written is the same");
    let zone = TimeZone::get("Australia/Lord_Howe").expect("a zone");
    let mut after = Timestamp::from_second(NOW).expect("a time");
    for _ in 0..8 {
        let Some(next) = event.next(after, &zone) else {
            return;
        };
        assert!(next > after, "due before it was asked for");
        assert_eq!(next.subsec_nanosecond(), 0, "due within a second");
        after = next;
    }
}

/// The secrets file. Faults never repeat a value.
pub fn secrets(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let Err(faults) = Secrets::check(text) else {
        return;
    };
    assert!(!faults.is_empty(), "refused without a reason");
    for value in text.split("= \"").skip(1) {
        let value = value.split('"').next().unwrap_or_default();
        let secret = value.len() >= SECRET_BYTES_MIN
            && value.bytes().all(|byte| byte.is_ascii_alphanumeric());
        assert!(
            !secret || text.matches(value).count() > 1 || !faults.contains(value),
            "a fault repeats '{value}'"
        );
    }
}

/// The credentials of a request: lines of `NAME: VALUE` as its headers. Nothing of them is shown.
pub fn credentials(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(32) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let Some(credentials) = Credentials::of(&headers) else {
        return;
    };
    let shown = format!("{credentials:?} {}", credentials.claimed());
    match &credentials {
        Credentials::Token { id, secret } => {
            let id = id.to_string();
            assert!(
                secret.len() < 8
                    || id.contains(secret.as_str())
                    || !shown.contains(secret.as_str()),
                "a secret is shown"
            );
        }
        Credentials::Ticket { raw, csrf } => {
            ticket(raw.as_bytes());
            ticket(csrf.as_deref().unwrap_or_default().as_bytes());
        }
    }
}

/// A ticket, and a CSRF token. One that is accepted is, to the byte, one that we have issued.
pub fn ticket(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let keys = TicketKeys::new([1; 32], [2; 32]);
    if let Ok(user) = keys.verify(text, NOW, |_| Some(MARK.to_owned())) {
        let issued = (NOW - 7200..=NOW + 300).any(|at| keys.issue(&user, MARK, at) == text);
        assert!(issued, "a ticket is accepted that nobody issued");
    }
    let user: UserId = "admin@pbs".parse().expect("an id");
    if keys.verify_csrf(text, &user, NOW).is_ok() {
        let issued = (NOW - 7200..=NOW + 300).any(|at| keys.issue_csrf(&user, at) == text);
        assert!(issued, "a CSRF token is accepted that nobody issued");
    }
}

/// A repository as a client is given it. What is accepted is shown as a text that means the same.
pub fn repository(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let Ok(repository) = text.parse::<Repository>() else {
        return;
    };
    let shown = repository.to_string();
    let again: Repository = shown.parse().expect("what is shown is a repository");
    assert_eq!(again, repository, "'{shown}' is another one");
}

/// The index of finished tasks, which a crash may have torn.
pub fn task_index(data: &[u8]) {
    let dir = std::path::Path::new("/nonexistent");
    let (tasks, _) = read_index(data, dir, NOW);
    let lines = data.split(|byte| *byte == b'\n').count();
    assert!(tasks.len() <= lines, "a task needs a line");
    for task in tasks.values() {
        let upid = task.upid.to_string();
        let again: crate::tasks::Upid = upid.parse().expect("what is shown is an id");
        assert_eq!(again.to_string(), upid);
        assert!(task.end.is_some(), "a task of an earlier run has ended");
    }
}
