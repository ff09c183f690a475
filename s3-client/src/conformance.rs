//! What [`ObjectStore`] promises, one function per property, to be run against anything that claims to be one.
//!
//! Every function works below a prefix of its own that nobody else may use, asks through the trait only, and answers
//! the first thing that is not as promised. They leave their objects behind; whoever chose the prefix cleans it up.

mod listing;
mod parts;
#[cfg(test)]
mod tests;
mod writes;

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use crate::store::{Body, ListRequest, ObjectStore, Put};
use crate::{ETag, Error, KeyError, KeyPrefix, ObjectKey, PutOutcome};

pub use listing::{
    keys_with_odd_characters, list_after_write_and_delete, list_neighbours, list_order_and_paging,
    list_start_after,
};
pub use parts::{
    conditional_copy, copies, copies_from_another_bucket, multipart, multipart_condition,
};
pub use writes::{
    absent_key, batch_delete, concurrent_creators, conditional_create, conditional_delete,
    conditional_overwrite, dates, empty_body, metadata, overwrite, put_id, ranges, roundtrip,
};

/// What the store at hand claims beyond the minimum; what it does not claim is not tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// [`Precondition::Absent`](crate::Precondition) on puts.
    pub conditional_create: bool,
    /// [`Precondition::Matches`](crate::Precondition) on puts.
    pub conditional_overwrite: bool,
    /// `if_match` on deletions.
    pub conditional_delete: bool,
    /// More than one key in a deletion.
    pub batch_delete: bool,
    /// Server-side copies.
    pub copies: bool,
    /// [`Precondition::Absent`](crate::Precondition) on copies.
    pub conditional_copy: bool,
    /// Multipart uploads.
    pub multipart: bool,
    /// Keys with a `+`, a `%`, a space, `&`, `<` or characters beyond ASCII.
    pub odd_keys: bool,
}

impl Claims {
    /// Everything the trait has.
    pub const ALL: Self = Self {
        conditional_create: true,
        conditional_overwrite: true,
        conditional_delete: true,
        batch_delete: true,
        copies: true,
        conditional_copy: true,
        multipart: true,
        odd_keys: true,
    };
}

/// What is not as promised.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

impl From<Error> for Violation {
    fn from(error: Error) -> Self {
        Self(format!("unexpected error: {error}"))
    }
}

impl From<KeyError> for Violation {
    fn from(error: KeyError) -> Self {
        Self(format!("the prefix leaves no room for keys: {error}"))
    }
}

/// What a property came to.
pub type Verdict = Result<(), Violation>;

/// A property by name.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The function's name.
    pub property: &'static str,
    /// What it answered.
    pub verdict: Verdict,
}

/// Runs every property that `claims` includes, each below a folder of `below` named after it. Everything is run, also
/// after a violation.
pub async fn all(store: &dyn ObjectStore, below: &KeyPrefix, claims: Claims) -> Vec<Finding> {
    type Run<'a> = Pin<Box<dyn Future<Output = Verdict> + Send + 'a>>;
    type Property = for<'a> fn(&'a dyn ObjectStore, &'a KeyPrefix) -> Run<'a>;
    macro_rules! properties {
        ($($claimed:expr => $name:ident),* $(,)?) => {
            [$(($claimed, stringify!($name), (|store, below| Box::pin($name(store, below))) as Property)),*]
        };
    }
    let properties = properties![
        true => roundtrip,
        true => overwrite,
        true => empty_body,
        true => metadata,
        true => put_id,
        true => ranges,
        true => absent_key,
        true => dates,
        claims.conditional_create => conditional_create,
        claims.conditional_create => concurrent_creators,
        claims.conditional_overwrite => conditional_overwrite,
        claims.conditional_delete => conditional_delete,
        claims.batch_delete => batch_delete,
        true => list_order_and_paging,
        true => list_start_after,
        true => list_neighbours,
        true => list_after_write_and_delete,
        claims.odd_keys => keys_with_odd_characters,
        claims.copies => copies,
        claims.conditional_copy => conditional_copy,
        claims.multipart => multipart,
        claims.multipart && claims.conditional_create => multipart_condition,
    ];
    let mut findings = Vec::new();
    for (claimed, property, run) in properties {
        if claimed {
            let verdict = match below.child(property) {
                Ok(below) => run(store, &below).await,
                Err(error) => Err(error.into()),
            };
            findings.push(Finding { property, verdict });
        }
    }
    findings
}

/// Fails with `what` unless it holds.
fn ensure(holds: bool, what: impl FnOnce() -> String) -> Verdict {
    if holds {
        Ok(())
    } else {
        Err(Violation(what()))
    }
}

/// Fails unless both are equal.
fn same<T: PartialEq + fmt::Debug>(what: &str, found: &T, wanted: &T) -> Verdict {
    ensure(found == wanted, || {
        format!("{what}: {found:?} instead of {wanted:?}")
    })
}

/// The tag of a put that has to succeed.
fn created(outcome: PutOutcome) -> Result<ETag, Violation> {
    match outcome {
        PutOutcome::Created { etag, .. } => Ok(etag),
        other => Err(Violation(format!("a put came to {other:?}"))),
    }
}

/// Puts an object that nothing forbids.
async fn write(
    store: &dyn ObjectStore,
    key: &ObjectKey,
    body: impl Into<Body>,
) -> Result<ETag, Violation> {
    created(store.put(Put::new(key.clone(), body)).await?.value)
}

/// The content of an object that has to be there.
async fn content(store: &dyn ObjectStore, key: &ObjectKey) -> Result<Vec<u8>, Violation> {
    let object = store.get(key, None).await?.value;
    Ok(object.body.into_bytes().to_vec())
}

/// All keys below a prefix, in pages of at most `keys_max`.
async fn list_all(
    store: &dyn ObjectStore,
    prefix: &KeyPrefix,
    start_after: Option<String>,
    keys_max: usize,
) -> Result<Vec<String>, Violation> {
    let mut request = ListRequest {
        prefix: prefix.clone(),
        start_after,
        keys_max,
    };
    let mut keys = Vec::new();
    loop {
        let page = store.list(&request).await?.value;
        ensure(page.entries.len() <= keys_max, || {
            format!(
                "a page of {} entries, {keys_max} were asked for",
                page.entries.len()
            )
        })?;
        keys.extend(
            page.entries
                .into_iter()
                .map(|entry| entry.key.as_str().to_owned()),
        );
        if !page.truncated {
            return Ok(keys);
        }
        let last = keys.last().cloned();
        ensure(last.is_some() && last != request.start_after, || {
            "a truncated page without progress".to_owned()
        })?;
        request.start_after = last;
    }
}
