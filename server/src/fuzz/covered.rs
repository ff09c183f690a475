//! Whether a collection of inputs makes every call there is.

use super::calls::{Call, calls};
use crate::api::{self, ApiPath};
use crate::protocol::{backup_calls, reader_calls};

/// The calls that no input makes: of those for [`rest`](super::rest), [`backup`](super::backup) and
/// [`reader`](super::reader).
pub fn calls_missed(rest: &[Vec<u8>], backup: &[Vec<u8>], reader: &[Vec<u8>]) -> Vec<String> {
    let made: Vec<Call> = rest
        .iter()
        .flat_map(|input| calls(input, "/api2/json/", true))
        .collect();
    let mut missed: Vec<String> = api::calls()
        .into_iter()
        .filter(|(method, pattern, _)| {
            let leads = |call: &Call| call.method == *method && leads_to(call, pattern);
            !made.iter().any(leads)
        })
        .map(|(method, pattern, _)| format!("{method} {pattern}"))
        .collect();
    for (named, inputs) in [(backup_calls(), backup), (reader_calls(), reader)] {
        let made: Vec<Call> = inputs
            .iter()
            .flat_map(|input| calls(input, "", false))
            .collect();
        let is_made = |method: &http::Method, name: &str| {
            let is = |call: &Call| {
                call.method == *method && call.target.path().trim_matches('/') == name
            };
            made.iter().any(is)
        };
        let never = named.iter().filter(|(method, name)| !is_made(method, name));
        missed.extend(never.map(|(method, name)| format!("{method} /{name}")));
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
