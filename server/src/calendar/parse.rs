//! Reading calendar events; the grammar is on the page of [`super`].

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::field::{DaysOfMonth, Field, Span};
use super::{CalendarEvent, YEAR_MAX, YEAR_MIN};

/// Longest text.
const BYTES_MAX: usize = 256;

const WEEKDAYS: [&str; 7] = [
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
];

const SHORTHANDS: [(&str, &str); 11] = [
    ("minutely", "*-*-* *:*"),
    ("hourly", "*-*-* *:0"),
    ("daily", "*-*-* 0:0"),
    ("weekly", "mon *-*-* 0:0"),
    ("monthly", "*-*-1 0:0"),
    ("quarterly", "*-1,4,7,10-1 0:0"),
    ("semiannually", "*-1,7-1 0:0"),
    ("semi-annually", "*-1,7-1 0:0"),
    ("yearly", "*-1-1 0:0"),
    ("annually", "*-1-1 0:0"),
    ("anually", "*-1-1 0:0"),
];

/// Which numbers a part may have, and what it is called.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    min: i16,
    max: i16,
}

const YEARS: Kind = kind("year", YEAR_MIN, YEAR_MAX);
const MONTHS: Kind = kind("month", 1, 12);
const DAYS: Kind = kind("day", 1, 31);
const HOURS: Kind = kind("hour", 0, 23);
const MINUTES: Kind = kind("minute", 0, 59);
const SECONDS: Kind = kind("second", 0, 59);

const fn kind(name: &'static str, min: i16, max: i16) -> Kind {
    Kind { name, min, max }
}

pub(super) fn event(text: &str) -> Result<CalendarEvent, String> {
    if text.len() > BYTES_MAX {
        return Err(format!(
            "a calendar event has at most {BYTES_MAX} characters"
        ));
    }
    let wrong = |why: String| {
        format!(
            "'{text}' is no calendar event: {why}; write it like 'daily', 'sat 18:15' or 'mon..fri *:0/30'"
        )
    };
    let mut words: Vec<_> = text.split_ascii_whitespace().collect();
    let mut zone = None;
    if let [.., last] = words[..]
        && let Some(found) = zone_of(last)
    {
        zone = Some(found);
        words.pop();
    }
    let long = |word: &&str| {
        SHORTHANDS
            .iter()
            .find(|(short, _)| short.eq_ignore_ascii_case(word))
    };
    if let [word] = &words[..]
        && let Some((_, long)) = long(word)
    {
        words = long.split(' ').collect();
    }
    let mut event = CalendarEvent {
        text: text.trim().to_owned(),
        weekdays: 0x7f,
        years: all(YEARS),
        months: all(MONTHS),
        days: DaysOfMonth::FromBegin(all(DAYS)),
        hours: Field::one(0),
        minutes: Field::one(0),
        seconds: Field::one(0),
        zone,
    };
    let mut words = words.into_iter().peekable();
    if words.peek().is_none() {
        return Err(wrong("it is empty".to_owned()));
    }
    if let Some(word) = words.next_if(|word| word.starts_with(|first: char| first.is_alphabetic()))
    {
        event.weekdays = weekdays(word).map_err(wrong)?;
    }
    if let Some(word) = words.next_if(|word| !word.contains(':') && word.contains(['-', '~'])) {
        date(word, &mut event).map_err(wrong)?;
    }
    if let Some(word) = words.next() {
        time(word, &mut event).map_err(wrong)?;
    }
    match words.next() {
        Some(word) if word.contains('/') && word.starts_with(|c: char| c.is_alphabetic()) => {
            Err(wrong(format!("there is no time zone '{word}'")))
        }
        Some(word) => Err(wrong(format!("'{word}' has no place in it"))),
        None if event.next(Timestamp::UNIX_EPOCH, &TimeZone::UTC).is_none() => {
            Err(wrong("there is no such day".to_owned()))
        }
        None => Ok(event),
    }
}

fn zone_of(word: &str) -> Option<TimeZone> {
    let named =
        word == "UTC" || (word.contains('/') && word.starts_with(|c: char| c.is_alphabetic()));
    named.then(|| TimeZone::get(word).ok()).flatten()
}

fn all(kind: Kind) -> Field {
    Field::all(kind.min, kind.max)
}

fn weekdays(word: &str) -> Result<u8, String> {
    let mut bits = 0;
    for part in word.split(',') {
        let (first, last) = match part.split_once("..").or_else(|| part.split_once('-')) {
            Some((first, last)) => (weekday(first)?, weekday(last)?),
            None => (weekday(part)?, weekday(part)?),
        };
        if first > last {
            return Err(format!(
                "the week begins on Monday, and '{part}' goes over its end"
            ));
        }
        for day in first..=last {
            bits |= 1 << day;
        }
    }
    Ok(bits)
}

fn weekday(word: &str) -> Result<usize, String> {
    let lower = word.to_ascii_lowercase();
    let named = |name: &&str| **name == lower || (lower.len() == 3 && name.starts_with(&lower));
    let found = WEEKDAYS.iter().position(named);
    found.ok_or_else(|| format!("there is no weekday '{word}'"))
}

fn date(word: &str, event: &mut CalendarEvent) -> Result<(), String> {
    let (before, days, from_end) = match word.rsplit_once('~') {
        Some((before, days)) => (Some(before), days, true),
        None => match word.rsplit_once('-') {
            Some((before, days)) => (Some(before), days, false),
            None => (None, word, false),
        },
    };
    event.days = if from_end {
        DaysOfMonth::FromEnd(list(days, DAYS, Repeat::Down)?)
    } else {
        DaysOfMonth::FromBegin(list(days, DAYS, Repeat::Up)?)
    };
    let before: Vec<_> = before
        .map(|before| before.split('-').collect())
        .unwrap_or_default();
    match before[..] {
        [] | [""] => {}
        [month] => event.months = list(month, MONTHS, Repeat::Up)?,
        [year, month] => {
            event.years = list(year, YEARS, Repeat::Up)?;
            event.months = list(month, MONTHS, Repeat::Up)?;
        }
        _ => return Err(format!("'{word}' has too many parts for a date")),
    }
    Ok(())
}

fn time(word: &str, event: &mut CalendarEvent) -> Result<(), String> {
    let parts: Vec<_> = word.split(':').collect();
    let (hours, minutes, seconds) = match parts[..] {
        [minutes] => (None, minutes, None),
        [hours, minutes] => (Some(hours), minutes, None),
        [hours, minutes, seconds] => (Some(hours), minutes, Some(seconds)),
        _ => return Err(format!("'{word}' has too many parts for a time")),
    };
    event.hours = match hours {
        Some(hours) => list(hours, HOURS, Repeat::Up)?,
        None => all(HOURS),
    };
    event.minutes = list(minutes, MINUTES, Repeat::Up)?;
    if let Some(seconds) = seconds {
        event.seconds = list(seconds, SECONDS, Repeat::Up)?;
    }
    Ok(())
}

/// Which way `n/step` goes: days from the end of a month come closer to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Up,
    Down,
}

fn list(text: &str, kind: Kind, repeat: Repeat) -> Result<Field, String> {
    let spans = text.split(',').map(|part| span(part, kind, repeat));
    Ok(Field(spans.collect::<Result<_, _>>()?))
}

fn span(part: &str, kind: Kind, repeat: Repeat) -> Result<Span, String> {
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(number(step, "step", 1, kind.max.max(1))?)),
        None => (part, None),
    };
    let value = |text| number(text, kind.name, kind.min, kind.max);
    let (first, last) = match range.split_once("..") {
        Some((first, last)) => (value(first)?, value(last)?),
        None if range == "*" => (kind.min, kind.max),
        None => {
            let first = value(range)?;
            let last = match (step, repeat) {
                (None, _) => first,
                (Some(_), Repeat::Up) => kind.max,
                (Some(step), Repeat::Down) => {
                    let nearest = (first - kind.min) % step + kind.min;
                    return Ok(Span {
                        first: nearest,
                        last: first,
                        step,
                    });
                }
            };
            (first, last)
        }
    };
    if first > last {
        return Err(format!("'{part}' ends before it begins"));
    }
    if repeat == Repeat::Down && step.is_some() {
        return Err(format!(
            "'{part}' counts from the end of a month and cannot have both an end and a step"
        ));
    }
    Ok(Span {
        first,
        last,
        step: step.unwrap_or(1),
    })
}

fn number(text: &str, name: &str, min: i16, max: i16) -> Result<i16, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let value: Option<i16> = digits.then(|| text.parse().ok()).flatten();
    let value = value.filter(|value| (min..=max).contains(value));
    value.ok_or_else(|| format!("'{text}' is no {name} from {min} to {max}"))
}
