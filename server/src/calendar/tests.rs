//! Tests of calendar events: a table, the days on which clocks change, a slow reference, and systemd where there is one.

use std::process::Command;

use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;

fn event(text: &str) -> CalendarEvent {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

/// The next `count` moments, as they are written in `zone`.
fn nexts(text: &str, after: &str, zone: &str, count: usize) -> Vec<String> {
    let (event, zone) = (event(text), TimeZone::get(zone).expect("a zone"));
    let mut after: Timestamp = after.parse().expect("a time");
    let mut found = Vec::new();
    for _ in 0..count {
        let Some(next) = event.next(after, &zone) else {
            break;
        };
        found.push(
            next.to_zoned(zone.clone())
                .strftime("%a %F %T %:z")
                .to_string(),
        );
        after = next;
    }
    found
}

#[test]
fn events_are_due_when_they_say() {
    // 2026-11-21 is a Saturday.
    let after = "2026-11-21T12:00:00Z";
    let table: &[(&str, &[&str])] = &[
        (
            "hourly",
            &["Sat 2026-11-21 13:00:00", "Sat 2026-11-21 14:00:00"],
        ),
        (
            "daily",
            &["Sun 2026-11-22 00:00:00", "Mon 2026-11-23 00:00:00"],
        ),
        (
            "weekly",
            &["Mon 2026-11-23 00:00:00", "Mon 2026-11-30 00:00:00"],
        ),
        (
            "monthly",
            &["Tue 2026-12-01 00:00:00", "Fri 2027-01-01 00:00:00"],
        ),
        (
            "quarterly",
            &["Fri 2027-01-01 00:00:00", "Thu 2027-04-01 00:00:00"],
        ),
        (
            "yearly",
            &["Fri 2027-01-01 00:00:00", "Sat 2028-01-01 00:00:00"],
        ),
        (
            "sat 18:15",
            &["Sat 2026-11-21 18:15:00", "Sat 2026-11-28 18:15:00"],
        ),
        ("Saturday 12:00", &["Sat 2026-11-28 12:00:00"]),
        (
            "*:0/30",
            &["Sat 2026-11-21 12:30:00", "Sat 2026-11-21 13:00:00"],
        ),
        (
            "0/30",
            &["Sat 2026-11-21 12:30:00", "Sat 2026-11-21 13:00:00"],
        ),
        (
            "*/20",
            &["Sat 2026-11-21 12:20:00", "Sat 2026-11-21 12:40:00"],
        ),
        (
            "mon..fri 02:00",
            &["Mon 2026-11-23 02:00:00", "Tue 2026-11-24 02:00:00"],
        ),
        ("mon-fri 02:00", &["Mon 2026-11-23 02:00:00"]),
        (
            "sat,sun 1..3,7:15",
            &["Sun 2026-11-22 01:15:00", "Sun 2026-11-22 02:15:00"],
        ),
        (
            "mon..wed 30/10",
            &["Mon 2026-11-23 00:30:00", "Mon 2026-11-23 00:40:00"],
        ),
        (
            "Sat *-1..7 15:00",
            &["Sat 2026-12-05 15:00:00", "Sat 2027-01-02 15:00:00"],
        ),
        (
            "*-*~1",
            &["Mon 2026-11-30 00:00:00", "Thu 2026-12-31 00:00:00"],
        ),
        (
            "*-02~03",
            &["Fri 2027-02-26 00:00:00", "Sun 2028-02-27 00:00:00"],
        ),
        (
            "*-*~7/2",
            &["Tue 2026-11-24 00:00:00", "Thu 2026-11-26 00:00:00"],
        ),
        (
            "sun *-*~07/1",
            &["Sun 2026-11-29 00:00:00", "Sun 2026-12-27 00:00:00"],
        ),
        ("2020-02-29", &[]),
        (
            "*-2-29",
            &["Tue 2028-02-29 00:00:00", "Sun 2032-02-29 00:00:00"],
        ),
        (
            "12-24 18:00:30",
            &["Thu 2026-12-24 18:00:30", "Fri 2027-12-24 18:00:30"],
        ),
        ("1999-01-01", &[]),
        (
            "23:59:59",
            &["Sat 2026-11-21 23:59:59", "Sun 2026-11-22 23:59:59"],
        ),
        ("10:00 Europe/Berlin", &["Sun 2026-11-22 09:00:00"]),
        ("weekly UTC", &["Mon 2026-11-23 00:00:00"]),
    ];
    for (text, expected) in table {
        let found = nexts(text, after, "UTC", expected.len().max(1));
        let expected: Vec<_> = expected
            .iter()
            .map(|time| format!("{time} +00:00"))
            .collect();
        assert_eq!(found, expected, "{text}");
        assert_eq!(event(text).to_string(), *text);
    }
}

#[test]
fn a_time_that_is_skipped_is_due_at_the_change_and_one_that_comes_twice_once() {
    let (spring, autumn) = ("2026-03-28T12:00:00Z", "2026-10-24T12:00:00Z");
    let table: &[(&str, &str, &[&str])] = &[
        (
            "02:30",
            spring,
            &[
                "Sun 2026-03-29 03:00:00 +02:00",
                "Mon 2026-03-30 02:30:00 +02:00",
            ],
        ),
        (
            "03:00",
            spring,
            &[
                "Sun 2026-03-29 03:00:00 +02:00",
                "Mon 2026-03-30 03:00:00 +02:00",
            ],
        ),
        (
            "sun 1..4:0/30",
            spring,
            &[
                "Sun 2026-03-29 01:00:00 +01:00",
                "Sun 2026-03-29 01:30:00 +01:00",
                "Sun 2026-03-29 03:00:00 +02:00",
                "Sun 2026-03-29 03:30:00 +02:00",
            ],
        ),
        (
            "02:30",
            autumn,
            &[
                "Sun 2026-10-25 02:30:00 +02:00",
                "Mon 2026-10-26 02:30:00 +01:00",
            ],
        ),
        (
            "sun 1..4:0/30",
            autumn,
            &[
                "Sun 2026-10-25 01:00:00 +02:00",
                "Sun 2026-10-25 01:30:00 +02:00",
                "Sun 2026-10-25 02:00:00 +02:00",
                "Sun 2026-10-25 02:30:00 +02:00",
                "Sun 2026-10-25 03:00:00 +01:00",
            ],
        ),
    ];
    for (text, after, expected) in table {
        let found = nexts(text, after, "Europe/Berlin", expected.len());
        assert_eq!(found, *expected, "{text} after {after}");
    }
    // In the second of two equal hours.
    assert_eq!(
        nexts("*:0/30", "2026-10-25T01:10:00Z", "Europe/Berlin", 1),
        ["Sun 2026-10-25 03:00:00 +01:00"]
    );
    // A whole day was skipped.
    assert_eq!(
        nexts("12:00", "2011-12-30T00:00:00Z", "Pacific/Apia", 2),
        [
            "Sat 2011-12-31 00:00:00 +14:00",
            "Sat 2011-12-31 12:00:00 +14:00"
        ]
    );
}

#[test]
fn what_is_wrong_is_named() {
    let table = [
        ("", "empty"),
        ("montag", "weekday 'montag'"),
        ("fri..mon", "over its end"),
        ("mon,,tue", "weekday ''"),
        ("12:70", "'70' is no minute from 0 to 59"),
        ("24:00", "'24' is no hour from 0 to 23"),
        ("*-13-1", "'13' is no month"),
        ("*-*-0", "'0' is no day"),
        ("*-*-32", "'32' is no day"),
        ("26-1-2", "'26' is no year from 1970 to 2199"),
        ("1-2-3-4", "too many parts for a date"),
        ("1:2:3:4", "too many parts for a time"),
        ("22..2:00", "'22..2' ends before it begins"),
        ("*:0/0", "'0' is no step"),
        ("*:0/-5", "'-5' is no step"),
        ("*-*~7..9/2", "both an end and a step"),
        ("18:15 sat", "'sat' has no place"),
        ("12:30 Europe/Nowhere", "no time zone 'Europe/Nowhere'"),
        ("2027-02-29", "no such day"),
        ("*-2-30 12:00", "no such day"),
        ("daily daily", "weekday 'daily'"),
        ("99999999999999999999:00", "is no hour"),
        ("12:0ä", "is no minute"),
    ];
    for (text, part) in table {
        let error = text.parse::<CalendarEvent>().expect_err(text);
        assert!(error.contains(part), "{text}: {error}");
    }
    assert!("1,".repeat(1000).parse::<CalendarEvent>().is_err());
}

#[test]
fn it_agrees_with_systemd() {
    let events = [
        "minutely",
        "hourly",
        "daily",
        "weekly",
        "monthly",
        "quarterly",
        "semiannually",
        "yearly",
        "sat 18:15",
        "*:0/30",
        "mon..fri 02:00",
        "Mon..Wed,Sat *-1..6/2-1",
        "1..3,7:15",
        "*-*~7/1",
        "*-*~07/2",
        "*-*~01..03",
        "*-02~03",
        "*-*-31",
        "05-03",
        "*:0/30:15",
        "00:00:00/7",
        "*-*-1/7",
        "1,1:0",
        "Sun *-*-1..7 4:5",
        "2027..2030/2-*-1 0:0",
        "fri *-*~7/1 23:59:59",
    ];
    let base = "2026-11-21 12:34:56 UTC";
    for text in events {
        let asked = Command::new("systemd-analyze")
            .args(["calendar", "--iterations=6", "--base-time", base, text])
            .env("TZ", "UTC")
            .env("SYSTEMD_COLORS", "0")
            .output();
        let Ok(output) = asked else {
            return;
        };
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        let times = output.lines().filter_map(|line| {
            let (name, time) = line.trim().split_once(": ")?;
            let due = name == "Next elapse" || name.starts_with("Iter. #");
            due.then(|| time.replace(" UTC", " +00:00"))
        });
        let expected: Vec<_> = times.collect();
        let found = nexts(text, "2026-11-21T12:34:56Z", "UTC", expected.len());
        assert!(!expected.is_empty(), "{text}: {output}");
        assert_eq!(found, expected, "{text}");
    }
}

fn list(max: u32) -> impl Strategy<Value = String> {
    let part = prop_oneof![
        (0..=max).prop_map(|n| n.to_string()),
        (0..=max, 0..=max).prop_map(|(a, b)| format!("{}..{}", a.min(b), a.max(b))),
        (0..=max, 1..=max).prop_map(|(a, step)| format!("{a}/{step}")),
        Just("*".to_owned()),
    ];
    proptest::collection::vec(part, 1..3).prop_map(|parts| parts.join(","))
}

proptest! {
    /// Second for second, and so for short ways only.
    #[test]
    fn nothing_is_left_out(
        days in r"mon|tue\.\.thu|sat,sun|mon\.\.sun",
        hours in list(23),
        minutes in list(59),
        seconds in list(59),
        start in 1_774_700_000_i64..1_774_800_000,
    ) {
        let zone = TimeZone::get("Europe/Berlin").expect("a zone");
        let event = event(&format!("{days} {hours}:{minutes}:{seconds}"));
        let after = Timestamp::from_second(start).expect("a time");
        let next = event.next(after, &zone).expect("there is always another day");
        prop_assert!(next > after);
        let until = next.min(after + SignedDuration::from_hours(3));
        let mut time = after + SignedDuration::from_secs(1);
        while time < until {
            let civil = zone.to_datetime(time);
            let due = event.has(civil.date()) && event.first_time(civil.time()) == Some(civil.time());
            prop_assert!(!due, "{civil} was left out");
            time += SignedDuration::from_secs(1);
        }
    }

    #[test]
    fn no_text_brings_it_down(text in ".{0,40}|[0-9*~:,./ -]{0,30}|(mon|\\*|[0-9]{1,4}|\\.\\.|/|-|~|:|,| ){0,14}") {
        if let Ok(event) = text.parse::<CalendarEvent>() {
            let after = Timestamp::from_second(1_800_000_000).expect("a time");
            if let Some(next) = event.next(after, &TimeZone::UTC) {
                prop_assert!(next > after);
            }
        }
    }
}
