//! Listings as S3 has them, from listings as the store has them: prefixes that end anywhere, and folders.

use std::borrow::Cow;
use std::collections::BTreeSet;

use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::S3Result;
use s3s::dto;

use super::answers::{error, invalid, tag, timestamp};
use crate::KeyPrefix;
use crate::store::{ListEntry, ListRequest, ObjectStore, PAGE_KEYS_MAX};

/// What `encoding-type=url` leaves as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/');

/// Sorts behind every key that begins with what is in front of it.
const LAST: char = char::MAX;

/// What is asked for.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) prefix: String,
    pub(super) delimiter: Option<String>,
    /// A key, or what an earlier page ended with.
    pub(super) start_after: Option<String>,
    pub(super) keys_max: usize,
}

/// A page.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) entries: Vec<ListEntry>,
    pub(super) folders: BTreeSet<String>,
    /// Where the next page starts, if there is one.
    pub(super) next: Option<String>,
    pub(super) date: Option<Timestamp>,
}

impl Listed {
    pub(super) fn count(&self) -> usize {
        self.entries.len() + self.folders.len()
    }
}

/// Asks the store as often as it takes.
pub(super) async fn collect(store: &dyn ObjectStore, question: &Question) -> S3Result<Listed> {
    let keys_max = question.keys_max.min(PAGE_KEYS_MAX);
    if keys_max == 0 {
        return Ok(Listed::default());
    }
    let delimiter = question
        .delimiter
        .as_deref()
        .filter(|text| !text.is_empty());
    let folder_end = question.prefix.rfind('/').map_or(0, |slash| slash + 1);
    let prefix =
        KeyPrefix::new(&question.prefix[..folder_end]).map_err(|e| invalid(e.to_string()))?;
    let mut walk = Walk {
        question,
        delimiter,
        keys_max,
        passed: question
            .start_after
            .as_deref()
            .and_then(|after| after.strip_suffix(LAST))
            .map(str::to_owned),
        resume: None,
        listed: Listed::default(),
    };
    let mut request = ListRequest {
        start_after: start(&prefix, question),
        prefix,
        keys_max,
    };
    loop {
        // One more than wanted tells whether there is more.
        request.keys_max = (keys_max - walk.listed.count() + 1).min(PAGE_KEYS_MAX);
        let answer = store.list(&request).await.map_err(error)?;
        walk.listed.date = answer.date;
        let truncated = answer.value.truncated;
        let mut jumped = false;
        for entry in answer.value.entries {
            request.start_after = Some(entry.key.as_str().to_owned());
            match walk.step(entry) {
                Step::Next => {}
                Step::Jump(to) => {
                    request.start_after = Some(to);
                    jumped = true;
                    break;
                }
                Step::Done => return Ok(walk.listed),
            }
        }
        if !truncated && !jumped {
            return Ok(walk.listed);
        }
        let plain = delimiter.is_none() && request.prefix.as_str() == question.prefix;
        if truncated && plain && walk.listed.count() == keys_max {
            walk.listed.next = walk.resume;
            return Ok(walk.listed);
        }
    }
}

/// What to do after an entry.
enum Step {
    Next,
    /// Go on behind this text.
    Jump(String),
    Done,
}

/// A page being put together.
struct Walk<'a> {
    question: &'a Question,
    delimiter: Option<&'a str>,
    keys_max: usize,
    /// A folder that was told already, here or at the end of the page before.
    passed: Option<String>,
    /// Where the next page has to start.
    resume: Option<String>,
    listed: Listed,
}

impl Walk<'_> {
    fn step(&mut self, entry: ListEntry) -> Step {
        let key = entry.key.as_str();
        let prefix = self.question.prefix.as_str();
        if !key.starts_with(prefix) {
            return if key < prefix { Step::Next } else { Step::Done };
        }
        if self
            .passed
            .as_ref()
            .is_some_and(|folder| key.starts_with(folder))
        {
            return Step::Next;
        }
        if self.listed.count() == self.keys_max {
            self.listed.next = self.resume.take();
            return Step::Done;
        }
        let delimiter = self.delimiter;
        let Some(folder) = delimiter.and_then(|delimiter| folder(key, prefix, delimiter)) else {
            self.resume = Some(key.to_owned());
            self.listed.entries.push(entry);
            return Step::Next;
        };
        let behind = format!("{folder}{LAST}");
        self.passed = Some(folder.to_owned());
        self.listed.folders.insert(folder.to_owned());
        self.resume = Some(behind.clone());
        Step::Jump(behind)
    }
}

/// Where to start so that the first key is not far in front of those asked for.
fn start(prefix: &KeyPrefix, question: &Question) -> Option<String> {
    let wanted = &question.prefix;
    let before = match wanted[prefix.as_str().len()..].chars().last() {
        None => None,
        Some(last) => {
            let head = &wanted[..wanted.len() - last.len_utf8()];
            let lower = char::from_u32((last as u32).wrapping_sub(1));
            Some(match lower {
                Some(lower) => format!("{head}{lower}{LAST}"),
                None => head.to_owned(),
            })
        }
    };
    before.max(question.start_after.clone())
}

/// The folder a key is in, its prefix and delimiter included.
fn folder<'a>(key: &'a str, prefix: &str, delimiter: &str) -> Option<&'a str> {
    let rest = &key[prefix.len()..];
    let at = rest.find(delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}

/// Encodes names for XML if the client asked for it.
pub(super) struct Names(pub(super) bool);

impl Names {
    pub(super) fn encode(&self, name: &str) -> String {
        let encoded = if self.0 {
            Cow::from(utf8_percent_encode(name, PLAIN))
        } else {
            Cow::from(name)
        };
        encoded.into_owned()
    }

    pub(super) fn objects(&self, entries: Vec<ListEntry>) -> Vec<dto::Object> {
        let object = |entry: ListEntry| dto::Object {
            key: Some(self.encode(entry.key.as_str())),
            size: Some(entry.size as i64),
            e_tag: Some(tag(&entry.etag)),
            last_modified: Some(timestamp(entry.last_modified)),
            storage_class: Some(
                entry
                    .storage_class
                    .unwrap_or_else(|| "STANDARD".to_owned())
                    .into(),
            ),
            ..dto::Object::default()
        };
        entries.into_iter().map(object).collect()
    }

    pub(super) fn folders(&self, folders: BTreeSet<String>) -> Vec<dto::CommonPrefix> {
        let folder = |name: String| dto::CommonPrefix {
            prefix: Some(self.encode(&name)),
        };
        folders.into_iter().map(folder).collect()
    }
}
