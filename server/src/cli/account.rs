//! What users and API tokens have in common on the command line.

use anyhow::bail;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

/// The settings of a user or of an API token.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct AccountSettings {
    /// Until when it can be used, like 2027-01-31 (that day's beginning here) or 2027-01-31T18:00:00Z; never for ever.
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    expire: Option<i64>,
    /// One line about it.
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
}

impl AccountSettings {
    /// As a call takes them; those that were not given are null.
    pub(super) fn params(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("expire", json!(self.expire)),
            ("comment", json!(self.comment)),
        ]
    }
}

/// A row without the member is enabled.
pub(super) fn enabled(row: &Value) -> String {
    let enabled = row["enable"].as_bool().unwrap_or(true);
    if enabled { "yes" } else { "no" }.to_owned()
}

/// When an account ends, for a person.
pub(super) fn expires(row: &Value) -> String {
    match row["expire"].as_i64() {
        None | Some(0) => String::new(),
        Some(_) => crate::client::output::time_of(&row["expire"]),
    }
}

/// Unix seconds of a time as a person writes it; 0 for never.
fn expiry(text: &str) -> anyhow::Result<i64> {
    if text == "never" {
        return Ok(0);
    }
    let time = if let Ok(time) = text.parse::<Timestamp>() {
        time.as_second()
    } else if let Ok(day) = text.parse::<Date>() {
        day.to_zoned(TimeZone::system())?.timestamp().as_second()
    } else if let Ok(seconds) = text.parse() {
        seconds
    } else {
        bail!("write it like 2027-01-31, 2027-01-31T18:00:00Z or never");
    };
    if time <= 0 {
        bail!("that is no time to come; write never for an account that does not expire");
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("never", Some(0))]
    #[case("2027-01-31T18:00:00Z", Some(1_801_418_400))]
    #[case("2027-01-31T18:00:00+01:00", Some(1_801_414_800))]
    #[case("1801418400", Some(1_801_418_400))]
    #[case("0", None)]
    #[case("-5", None)]
    #[case("tomorrow", None)]
    #[case("", None)]
    fn times_are_read(#[case] text: &str, #[case] expected: Option<i64>) {
        assert_eq!(expiry(text).ok(), expected, "{text}");
    }

    #[test]
    fn a_day_begins_here() {
        let day = expiry("2027-01-31").expect("a day");
        let noon = expiry("2027-01-31T12:00:00Z").expect("a time");
        assert!((day - noon).abs() <= 26 * 3600);
    }
}
