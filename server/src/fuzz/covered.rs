//! Whether a collection of inputs makes every call there is.

use std::collections::BTreeSet;

use super::calls::{Call, calls};
use crate::api::{ApiPath, patterns};
use crate::protocol::{BACKUP_NAMES, READER_NAMES};

/// The calls that no input makes: of those for [`rest`](super::rest), [`backup`](super::backup) and
/// [`reader`](super::reader).
pub fn calls_missed(rest: &[Vec<u8>], backup: &[Vec<u8>], reader: &[Vec<u8>]) -> Vec<String> {
    let made: Vec<Call> = rest
        .iter()
        .flat_map(|input| calls(input, "/api2/json/", true))
        .collect();
    let mut missed: Vec<String> = patterns()
        .filter(|(method, pattern)| {
            let leads = |call: &Call| call.method == *method && leads_to(call, pattern);
            !made.iter().any(leads)
        })
        .map(|(method, pattern)| format!("{method} {pattern}"))
        .collect();
    for (names, inputs) in [(&BACKUP_NAMES[..], backup), (&READER_NAMES[..], reader)] {
        let made: BTreeSet<String> = inputs
            .iter()
            .flat_map(|input| calls(input, "", false))
            .map(|call| call.target.path().trim_matches('/').to_owned())
            .collect();
        let never = names.iter().filter(|name| !made.contains(**name));
        missed.extend(never.map(|name| format!("/{name}")));
    }
    missed
}

fn leads_to(call: &Call, pattern: &str) -> bool {
    let Ok(path) = ApiPath::of(&call.target) else {
        return false;
    };
    let pattern: Vec<&str> = pattern.split('/').collect();
    pattern.len() == path.segments().len()
        && pattern
            .iter()
            .zip(path.segments())
            .all(|(pattern, segment)| pattern.starts_with('{') || pattern == segment)
}
