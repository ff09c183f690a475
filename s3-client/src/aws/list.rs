//! One page of a listing.
//!
//! Keys travel percent-encoded, since XML cannot carry every character. What does not fit together (order, prefix,
//! start, an endless last page) is an error, because a listing that is not complete proves nothing (I10).

use aws_sdk_s3::types::{EncodingType, ObjectStorageClass};
use percent_encoding::percent_decode_str;

use super::answer::{Asked, failure};
use super::{AwsStore, length, modified, storage_class};
use crate::{
    Answer, ETag, Error, ErrorKind, ListEntry, ListPage, ListRequest, ObjectKey, Op, PAGE_KEYS_MAX,
};

/// Undoes form encoding: a plus is a space, `%2B` a plus.
fn decoded(text: &str) -> Result<String, String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| format!("the key '{text}' is not UTF-8"))
}

/// What is wrong with a page, if anything.
fn fault(request: &ListRequest, page: &ListPage) -> Option<String> {
    let mut last = request.start_after.as_deref();
    for entry in &page.entries {
        let key = entry.key.as_str();
        if last.is_some_and(|last| key <= last) {
            return Some(format!(
                "'{key}' is listed after '{}': the server ignores start-after or the order of keys",
                last.unwrap_or_default()
            ));
        }
        if !key.starts_with(request.prefix.as_str()) {
            return Some(format!("'{key}' lies outside of the prefix"));
        }
        last = Some(key);
    }
    if page.truncated && page.entries.is_empty() {
        return Some("an empty page that is said to have a next one".into());
    }
    None
}

impl AwsStore {
    pub(super) async fn list_objects(
        &self,
        wanted: &ListRequest,
    ) -> Result<Answer<ListPage>, Error> {
        let asked = Asked::new(Op::List, wanted.prefix.as_str());
        let corrupt = |what: String| asked.error(ErrorKind::Corrupt, what);
        let ask = self.ask();
        let prefix = Some(wanted.prefix.as_str()).filter(|prefix| !prefix.is_empty());
        let keys_max = wanted.keys_max.clamp(1, PAGE_KEYS_MAX);
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .encoding_type(EncodingType::Url)
            .max_keys(i32::try_from(keys_max).expect("at most 1000"))
            .set_prefix(prefix.map(str::to_owned))
            .set_start_after(wanted.start_after.clone())
            .customize();
        let output = ask
            .attach(request, None)
            .send()
            .await
            .map_err(|error| failure(&error, asked).into_error(asked))?;
        let is_encoded = output.encoding_type() == Some(&EncodingType::Url);
        let mut entries = Vec::with_capacity(output.contents().len());
        for object in output.contents() {
            let text = object.key().unwrap_or_default();
            let key = if is_encoded {
                decoded(text).map_err(corrupt)?
            } else {
                text.to_owned()
            };
            let key = match ObjectKey::new(key) {
                Ok(key) => key,
                // Nobody of us has written it, and no request could name it.
                Err(error) => {
                    tracing::warn!("an object in the bucket is passed over: {error}");
                    continue;
                }
            };
            entries.push(ListEntry {
                key,
                size: length(object.size())
                    .ok_or_else(|| corrupt(format!("'{text}' has no size")))?,
                etag: ETag::new(object.e_tag().unwrap_or_default()),
                last_modified: modified(object.last_modified(), ask.date()),
                storage_class: storage_class(
                    object.storage_class().map(ObjectStorageClass::as_str),
                ),
            });
        }
        let truncated = output
            .is_truncated()
            .ok_or_else(|| corrupt("the page does not tell whether it is the last".into()))?;
        let page = ListPage { entries, truncated };
        match fault(wanted, &page) {
            Some(what) => Err(corrupt(what)),
            None => Ok(self.answer(&ask, page)),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::KeyPrefix;

    #[test]
    fn form_encoding_is_undone() {
        assert_eq!(decoded("a+b%2Bc%20%C3%BC/x"), Ok("a b+c ü/x".into()));
        assert!(decoded("%FF").is_err());
    }

    #[test]
    fn pages_that_do_not_fit_are_told() {
        let mut request = ListRequest::new(KeyPrefix::new("p/").expect("a prefix"));
        request.start_after = Some("p/b".into());
        let page = |keys: &[&str], truncated| ListPage {
            entries: keys
                .iter()
                .map(|key| ListEntry {
                    key: ObjectKey::new(*key).expect("a key"),
                    size: 0,
                    etag: ETag::new(""),
                    last_modified: Timestamp::UNIX_EPOCH,
                    storage_class: None,
                })
                .collect(),
            truncated,
        };
        assert_eq!(fault(&request, &page(&["p/c", "p/d"], true)), None);
        assert_eq!(fault(&request, &page(&[], false)), None);
        assert!(fault(&request, &page(&["p/b"], false)).is_some());
        assert!(fault(&request, &page(&["p/d", "p/c"], false)).is_some());
        assert!(fault(&request, &page(&["q/d"], false)).is_some());
        assert!(fault(&request, &page(&[], true)).is_some());
    }
}
