//! Calendar events: when jobs run, in the words of systemd's timers that administrators know.
//!
//! ```text
//! event    = shorthand [zone] | [weekdays] [date] [time] [zone]      at least one of weekdays, date and time
//! weekdays = day[..day] {, day[..day]}                               mon, Monday, mon..fri, sat,sun
//! date     = [[year -] month -] days                                 *-*-1, 12-24, 2027-1..6-15
//! days     = list | ~list                                            ~1 is the last day of the month, *-*~7/1 the last seven
//! time     = hours : minutes [: seconds] | minutes                   18:15, *:0/30, 0/30
//! list     = * | part {, part}
//! part     = n | n..m | n/step | n..m/step | */step
//! ```
//!
//! What is left out of the date is every day, of the time midnight. A list of minutes alone, and `*/step`, are additions to
//! systemd's grammar that this field is used to. Zones are those of the IANA database, and `UTC`; without one the zone of the
//! machine counts.
//!
//! **Changes of the clocks.** A time that a change skips is due at the moment of the change, once, however many are skipped. A
//! time that comes twice is due the first time.

mod field;
mod parse;

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use serde::{Deserialize, Deserializer};

use self::field::{DaysOfMonth, Field};

/// The years in which anything is due.
const YEAR_MIN: i16 = 1970;
const YEAR_MAX: i16 = 2199;

/// A calendar event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CalendarEvent {
    /// As it was written.
    text: String,
    /// Monday is bit 0.
    weekdays: u8,
    years: Field,
    months: Field,
    days: DaysOfMonth,
    hours: Field,
    minutes: Field,
    seconds: Field,
    /// `None` is that of the machine.
    zone: Option<TimeZone>,
}

impl fmt::Display for CalendarEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for CalendarEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for CalendarEvent {
    type Err = String;

    /// Errors: a sentence that names the part that is wrong.
    fn from_str(text: &str) -> Result<Self, String> {
        parse::event(text)
    }
}

impl CalendarEvent {
    /// The first moment after `after` at which the event is due; `None` if there is none up to the end of 2199. `zone` is
    /// used if the event has none of its own.
    pub(crate) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let zone = self.zone.as_ref().unwrap_or(zone);
        let mut civil = zone.to_datetime(after);
        // Later moments have later civil times but where the clocks go back: there some times lie behind us already.
        loop {
            civil = self.next_civil(civil)?;
            let due = moment(civil, zone)?;
            if due > after {
                return Some(due);
            }
        }
    }

    fn next_civil(&self, after: DateTime) -> Option<DateTime> {
        let mut date = after.date();
        let mut from = second_after(after.time());
        while date.year() <= YEAR_MAX {
            if let Some(start) = from
                && self.has(date)
                && let Some(time) = self.first_time(start)
            {
                return Some(date.to_datetime(time));
            }
            date = self.day_after(date)?;
            from = Some(Time::midnight());
        }
        None
    }

    fn has(&self, date: Date) -> bool {
        let weekday = date.weekday().to_monday_zero_offset();
        self.years.has(date.year())
            && self.months.has(date.month().into())
            && self.weekdays >> weekday & 1 == 1
            && self.days.has(date.day(), date.days_in_month())
    }

    /// The next day, past months and years that do not count.
    fn day_after(&self, date: Date) -> Option<Date> {
        let next = if !self.years.has(date.year()) {
            date.last_of_year()
        } else if !self.months.has(date.month().into()) {
            date.last_of_month()
        } else {
            date
        };
        next.tomorrow().ok()
    }

    /// The first time of a day that is due, not before `start`.
    fn first_time(&self, start: Time) -> Option<Time> {
        let (hour, minute, second) = (start.hour(), start.minute(), start.second());
        let time = |hour: i16, minute: i16, second: i16| {
            Time::new(hour as i8, minute as i8, second as i8, 0).ok()
        };
        let h = self.hours.at_or_after(hour.into())?;
        if h > i16::from(hour) {
            return time(h, self.minutes.first()?, self.seconds.first()?);
        }
        if let Some(m) = self.minutes.at_or_after(minute.into()) {
            if m > i16::from(minute) {
                return time(h, m, self.seconds.first()?);
            }
            if let Some(s) = self.seconds.at_or_after(second.into()) {
                return time(h, m, s);
            }
            if let Some(m) = self.minutes.at_or_after(m + 1) {
                return time(h, m, self.seconds.first()?);
            }
        }
        let h = self.hours.at_or_after(h + 1)?;
        time(h, self.minutes.first()?, self.seconds.first()?)
    }
}

/// `None` if the day is over.
fn second_after(time: Time) -> Option<Time> {
    let whole = Time::new(time.hour(), time.minute(), time.second(), 0).ok()?;
    whole.checked_add(jiff::SignedDuration::from_secs(1)).ok()
}

/// The moment of a civil time.
fn moment(civil: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(civil);
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => {
            ambiguous.earlier().ok()
        }
        AmbiguousOffset::Gap { .. } => {
            // What the earlier rule makes of a skipped time lies after the change, what the later one makes before it.
            let before = ambiguous.earlier().ok()?;
            zone.following(before)
                .next()
                .map(|change| change.timestamp())
        }
    }
}

#[cfg(test)]
mod tests;
