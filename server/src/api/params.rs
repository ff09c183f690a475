//! Parameters of a request: gathered from path, query and body into one flat set, then taken out one by one
//! (`pbs-interface.md` 1.3). What nobody takes is unknown, and refused.
//!
//! ```text
//! let mut params = Params::gather(variables, query, content_type, body)?;
//! let store: DatastoreName = params.required("store")?;
//! let verbose = params.flag("verbose")?.unwrap_or(false);
//! params.finish()?;
//! ```
//!
//! A text from query or form stands for a string, an integer or a boolean, as the taker wants it. In JSON a string is a
//! string; integers and booleans may also come as strings there. `null` counts as absent.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use pbs_datastore::json_values_at_most;
use percent_encoding::percent_decode;
use serde_json::Value as Json;

use super::declared::{Declared, Taken};
use super::error::ApiError;
use super::parameter::Kind;

/// Largest body of a call that is no upload, in bytes.
pub(crate) const BODY_BYTES_MAX: usize = 512 * 1024;
/// How long such a body may take to arrive.
const BODY_TIME_MAX: Duration = Duration::from_mins(1);
/// Most parameters of one request, all values of a JSON body counted: 128 digests and 128 offsets come in one call, and room.
const VALUES_MAX: usize = 16_384;
/// A query key that only defeats caches.
const CACHE_BUSTER: &str = "_dc";

/// The values given for one name.
#[derive(Debug, Clone, PartialEq)]
enum Given {
    /// From path, query or form; at least one.
    Texts(Vec<String>),
    /// From a JSON body; never null.
    Json(Json),
}

/// The parameters of a request that nobody has taken yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params {
    given: BTreeMap<String, Given>,
    /// Holds takers against the table of calls; in debug builds only, and where there is a table.
    taken: Option<Taken>,
}

impl Params {
    /// The parameters of one request. `variables` are those of the path; `body` is empty for calls without one.
    ///
    /// A JSON body replaces the query, unless it is empty. A body without content type counts as a form.
    pub(crate) fn gather<'a>(
        variables: impl IntoIterator<Item = (&'a str, String)>,
        query: Option<&str>,
        content_type: Option<&str>,
        body: &[u8],
    ) -> Result<Self, ApiError> {
        let mut params = Self::default();
        let json = kind_of(content_type)? == BodyKind::Json && !body.trim_ascii().is_empty();
        if json {
            params.add_json(body)?;
        } else {
            params.add_texts(query.unwrap_or_default().as_bytes())?;
            if kind_of(content_type)? == BodyKind::Form {
                params.add_texts(body)?;
            }
        }
        for (name, value) in variables {
            params.add_variable(name, value)?;
        }
        Ok(params)
    }

    /// The parameters of a whole request that is no upload; reads its body, of at most `bytes_max` bytes.
    pub(crate) async fn of_request<B>(
        variables: impl IntoIterator<Item = (&str, String)>,
        head: &http::request::Parts,
        body: B,
        bytes_max: usize,
    ) -> Result<Self, ApiError>
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let content_type = match head.headers.get(http::header::CONTENT_TYPE) {
            None => None,
            Some(value) => Some(
                value
                    .to_str()
                    .map_err(|_| ApiError::bad_request("the content type is not a text"))?,
            ),
        };
        let body = read_body(body, bytes_max).await?;
        Self::gather(variables, head.uri.query(), content_type, &body)
    }

    /// The same, of a call that is declared so. Debug builds assert that it is.
    pub(crate) fn of_call(mut self, declared: &Arc<Declared>) -> Self {
        if cfg!(debug_assertions) {
            self.taken = Some(Taken::none_of(declared.clone()));
        }
        self
    }

    /// Takes what was given for a name that is declared to hold something `fitting`.
    fn take(&mut self, name: &str, fitting: impl FnOnce(Kind) -> bool) -> Option<Given> {
        if let Some(taken) = &mut self.taken {
            taken.note(name, fitting);
        }
        self.given.remove(name)
    }

    /// That a call needs a parameter.
    fn demand(&self, name: &str) {
        if let Some(taken) = &self.taken {
            taken.demand(name);
        }
    }

    fn add_json(&mut self, body: &[u8]) -> Result<(), ApiError> {
        // Before they are made: a body of many small objects would take eighty times its length.
        check_count(json_values_at_most(body))?;
        let members: serde_json::Map<String, Json> =
            serde_json::from_slice(body).map_err(|error| {
                ApiError::bad_request(format!("the body is no JSON object: {error}"))
            })?;
        let given = members.into_iter().filter(|(_, value)| !value.is_null());
        self.given
            .extend(given.map(|(name, value)| (name, Given::Json(value))));
        Ok(())
    }

    fn add_texts(&mut self, encoded: &[u8]) -> Result<(), ApiError> {
        let pairs = encoded.split(|byte| *byte == b'&');
        for (count, pair) in pairs.filter(|pair| !pair.is_empty()).enumerate() {
            check_count(count)?;
            let split = pair.iter().position(|byte| *byte == b'=');
            let (name, value) = match split {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &[][..]),
            };
            let (name, value) = (decode(name)?, decode(value)?);
            if name == CACHE_BUSTER {
                continue;
            }
            match self
                .given
                .entry(name)
                .or_insert_with(|| Given::Texts(Vec::new()))
            {
                Given::Texts(texts) => texts.push(value),
                Given::Json(_) => return Err(ApiError::bad_request("mixed parameter sources")),
            }
        }
        Ok(())
    }

    /// A variable of the path may be repeated elsewhere if it says the same.
    fn add_variable(&mut self, name: &str, value: String) -> Result<(), ApiError> {
        let texts = Given::Texts(vec![value.clone()]);
        match self.given.insert(name.to_owned(), texts) {
            None => Ok(()),
            Some(Given::Texts(texts)) if texts == [value.as_str()] => Ok(()),
            Some(Given::Json(Json::String(text))) if text == value => Ok(()),
            Some(_) => Err(ApiError::bad_request(format!(
                "parameter '{name}' differs from the path"
            ))),
        }
    }

    /// Takes one text.
    fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name, Kind::is_text) {
            None => Ok(None),
            Some(Given::Texts(texts)) => single(name, texts).map(Some),
            Some(Given::Json(Json::String(text))) => Ok(Some(text)),
            Some(Given::Json(_)) => Err(invalid(name, "must be a string")),
        }
    }

    /// Takes a parameter that may be absent.
    pub(crate) fn optional<T>(&mut self, name: &str) -> Result<Option<T>, ApiError>
    where
        T: FromStr,
        T::Err: Display,
    {
        self.text(name)?
            .map(|text| text.parse().map_err(|error| invalid(name, error)))
            .transpose()
    }

    /// Takes a parameter that must be there.
    pub(crate) fn required<T>(&mut self, name: &str) -> Result<T, ApiError>
    where
        T: FromStr,
        T::Err: Display,
    {
        self.demand(name);
        self.optional(name)?.ok_or_else(|| missing(name))
    }

    /// Takes an integer within `bounds` that may be absent.
    pub(crate) fn integer(
        &mut self,
        name: &str,
        bounds: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let (least, most) = (*bounds.start(), *bounds.end());
        let fitting = |kind| matches!(kind, Kind::Integer(a, b) if (a, b) == (least, most));
        let value = match self.take(name, fitting) {
            None => return Ok(None),
            Some(Given::Json(value)) => json_integer(&value),
            Some(Given::Texts(texts)) => text_integer(&single(name, texts)?),
        };
        let value = value.ok_or_else(|| invalid(name, "must be an integer"))?;
        check_bounds(name, value, &bounds).map(Some)
    }

    /// Takes an integer within `bounds` that must be there.
    pub(crate) fn required_integer(
        &mut self,
        name: &str,
        bounds: RangeInclusive<i64>,
    ) -> Result<i64, ApiError> {
        self.demand(name);
        self.integer(name, bounds)?.ok_or_else(|| missing(name))
    }

    /// Takes a boolean that may be absent.
    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        let value = match self.take(name, |kind| matches!(kind, Kind::Flag)) {
            None => return Ok(None),
            Some(Given::Json(Json::Bool(value))) => Some(value),
            Some(Given::Json(Json::String(text))) => text_flag(&text),
            Some(Given::Json(Json::Number(number))) => match number.as_i64() {
                Some(0) => Some(false),
                Some(1) => Some(true),
                _ => None,
            },
            Some(Given::Json(_)) => None,
            Some(Given::Texts(texts)) => text_flag(&single(name, texts)?),
        };
        value
            .map(Some)
            .ok_or_else(|| invalid(name, "must be a boolean"))
    }

    /// Takes a list of at most `max` elements; absent is empty.
    pub(crate) fn list<T>(&mut self, name: &str, max: usize) -> Result<Vec<T>, ApiError>
    where
        T: FromStr,
        T::Err: Display,
    {
        let fitting = |kind| matches!(kind, Kind::List(most) if most == max);
        let texts = match self.take(name, fitting) {
            None => Vec::new(),
            Some(Given::Texts(texts)) => texts,
            Some(Given::Json(Json::Array(list))) => list
                .into_iter()
                .map(|element| match element {
                    Json::String(text) => Ok(text),
                    _ => Err(invalid(name, "must be a list of strings")),
                })
                .collect::<Result<_, _>>()?,
            Some(Given::Json(_)) => return Err(invalid(name, "must be a list")),
        };
        check_length(name, texts.len(), max)?;
        texts
            .iter()
            .map(|text| text.parse().map_err(|error| invalid(name, error)))
            .collect()
    }

    /// Takes a list of at most `max` integers within `bounds`; absent is empty.
    pub(crate) fn integers(
        &mut self,
        name: &str,
        bounds: &RangeInclusive<i64>,
        max: usize,
    ) -> Result<Vec<i64>, ApiError> {
        // No call of the table has one.
        let values: Vec<Option<i64>> = match self.take(name, |_| false) {
            None => Vec::new(),
            Some(Given::Texts(texts)) => texts.iter().map(|text| text_integer(text)).collect(),
            Some(Given::Json(Json::Array(list))) => list.iter().map(json_integer).collect(),
            Some(Given::Json(_)) => return Err(invalid(name, "must be a list")),
        };
        check_length(name, values.len(), max)?;
        values
            .into_iter()
            .map(|value| {
                let value = value.ok_or_else(|| invalid(name, "must be a list of integers"))?;
                check_bounds(name, value, bounds)
            })
            .collect()
    }

    /// Drops parameters that are accepted and mean nothing here.
    pub(crate) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.take(name, |kind| matches!(kind, Kind::Ignored));
        }
    }

    /// What was asked for, for the log: names with values, shortened; of the names in `hidden` no value.
    pub(crate) fn summary(&self, hidden: &[&str]) -> String {
        let shorten = |text: &str| text.chars().take(80).collect::<String>();
        let pairs = self.given.iter().take(16).map(|(name, given)| {
            let value = match given {
                _ if hidden.contains(&name.as_str()) => "…".to_owned(),
                Given::Texts(texts) => texts.join(","),
                Given::Json(Json::String(text)) => text.clone(),
                Given::Json(value) => value.to_string(),
            };
            format!("{}={:?}", shorten(name), shorten(&value))
        });
        pairs.collect::<Vec<_>>().join(" ")
    }

    /// Refuses what nobody has taken.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        if let Some(taken) = &self.taken {
            taken.finish();
        }
        if self.given.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = self
            .given
            .keys()
            .take(8)
            .map(|name| format!("'{}'", name.chars().take(40).collect::<String>()))
            .collect();
        let names = names.join(", ");
        Err(ApiError::bad_request(format!(
            "parameter verification failed: unknown parameter {names}"
        )))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyKind {
    Form,
    Json,
}

fn kind_of(content_type: Option<&str>) -> Result<BodyKind, ApiError> {
    let essence = content_type.unwrap_or_default().split(';').next();
    let essence = essence.unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "" | "application/x-www-form-urlencoded" => Ok(BodyKind::Form),
        "application/json" => Ok(BodyKind::Json),
        _ => Err(ApiError::bad_request(
            "the body must be a form or JSON (application/x-www-form-urlencoded or application/json)",
        )),
    }
}

/// Reads the body of a call that is no upload. One that is announced too large is not waited for.
async fn read_body<B>(body: B, bytes_max: usize) -> Result<Bytes, ApiError>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let too_large = || ApiError::bad_request(format!("the body is larger than {bytes_max} bytes"));
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large());
    }
    let limited = Limited::new(body, bytes_max);
    match tokio::time::timeout(BODY_TIME_MAX, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(ApiError::bad_request(format!(
            "the body could not be read: {error}"
        ))),
        Err(_) => Err(ApiError::timeout("the body did not arrive in time")),
    }
}

fn decode(encoded: &[u8]) -> Result<String, ApiError> {
    let blanks: Vec<u8> = encoded
        .iter()
        .map(|byte| if *byte == b'+' { b' ' } else { *byte })
        .collect();
    percent_decode(&blanks)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| ApiError::bad_request("a parameter is not UTF-8"))
}

fn single(name: &str, texts: Vec<String>) -> Result<String, ApiError> {
    match <[String; 1]>::try_from(texts) {
        Ok([text]) => Ok(text),
        Err(_) => Err(invalid(name, "is given more than once")),
    }
}

fn text_integer(text: &str) -> Option<i64> {
    // A leading '+' or blanks are accepted by nobody else.
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'-');
    plain.then(|| text.parse().ok()).flatten()
}

fn json_integer(value: &Json) -> Option<i64> {
    match value {
        Json::Number(number) => number.as_i64(),
        Json::String(text) => text_integer(text),
        _ => None,
    }
}

fn text_flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "on" | "yes" | "true" => Some(true),
        "0" | "off" | "no" | "false" => Some(false),
        _ => None,
    }
}

fn check_bounds(name: &str, value: i64, bounds: &RangeInclusive<i64>) -> Result<i64, ApiError> {
    if bounds.contains(&value) {
        return Ok(value);
    }
    let (low, high) = (bounds.start(), bounds.end());
    Err(invalid(name, format!("must be between {low} and {high}")))
}

fn check_length(name: &str, length: usize, max: usize) -> Result<(), ApiError> {
    if length > max {
        return Err(invalid(name, format!("must have at most {max} elements")));
    }
    Ok(())
}

fn check_count(values: usize) -> Result<(), ApiError> {
    if values > VALUES_MAX {
        return Err(ApiError::bad_request("too many parameters"));
    }
    Ok(())
}

fn missing(name: &str) -> ApiError {
    ApiError::bad_request(format!(
        "parameter verification failed: '{name}' is missing"
    ))
}

fn invalid(name: &str, why: impl Display) -> ApiError {
    ApiError::bad_request(format!("parameter verification failed: '{name}': {why}"))
}

#[cfg(test)]
mod tests;
