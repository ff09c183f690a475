//! The conditions and ranges of requests.

use http::{HeaderMap, HeaderValue, header};
use s3s::dto::{self, ETagCondition};
use s3s::{S3Error, S3ErrorCode, S3Result};

use super::TagForm;
use super::answers::{invalid, not_implemented, timestamp};
use crate::store::ObjectMeta;
use crate::{ETag, Precondition};

/// The precondition of a write.
pub(super) fn precondition(
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
    headers: &HeaderMap,
    form: TagForm,
) -> S3Result<Precondition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Precondition::None),
        (None, Some(ETagCondition::Any)) => Ok(Precondition::Absent),
        (None, Some(_)) => Err(not_implemented("If-None-Match of a write must be '*'")),
        (Some(condition), None) => Ok(Precondition::Matches(written_tag(
            &condition, headers, form,
        )?)),
        (Some(_), Some(_)) => Err(invalid(
            "a write has either If-Match or If-None-Match, not both",
        )),
    }
}

/// The precondition of a copy, which the operation's own fields do not tell.
pub(super) fn copy_precondition(headers: &HeaderMap, form: TagForm) -> S3Result<Precondition> {
    let condition = |name| {
        let value: Option<&HeaderValue> = headers.get(name);
        let parsed = value.map(|value| ETagCondition::parse_http_header(value.as_bytes()));
        parsed
            .transpose()
            .map_err(|_| invalid("a condition is no tag"))
    };
    let (if_match, if_none_match) = (
        condition(header::IF_MATCH)?,
        condition(header::IF_NONE_MATCH)?,
    );
    precondition(if_match, if_none_match, headers, form)
}

/// The tag that a write or deletion asks for.
pub(super) fn written_tag(
    condition: &ETagCondition,
    headers: &HeaderMap,
    form: TagForm,
) -> S3Result<ETag> {
    let Some(tag) = condition.as_etag() else {
        return Err(not_implemented("If-Match of a write must be a tag"));
    };
    let raw = headers.get(header::IF_MATCH).map(HeaderValue::as_bytes);
    let quoted = raw.is_some_and(|raw| raw.starts_with(b"\""));
    let understood = match form {
        TagForm::Any => true,
        TagForm::Quoted => quoted,
        TagForm::Bare => !quoted,
    };
    if understood {
        Ok(ETag::new(tag.value()))
    } else {
        Err(S3Error::with_message(
            S3ErrorCode::PreconditionFailed,
            "At least one of the preconditions you specified did not hold",
        ))
    }
}

/// The conditions of a read.
#[derive(Debug, Default)]
pub(super) struct ReadConditions {
    /// `If-Match`.
    pub(super) tag: Option<ETagCondition>,
    /// `If-None-Match`.
    pub(super) other_tag: Option<ETagCondition>,
    /// `If-Modified-Since`.
    pub(super) modified_since: Option<dto::Timestamp>,
    /// `If-Unmodified-Since`.
    pub(super) unmodified_since: Option<dto::Timestamp>,
}

impl ReadConditions {
    /// Fails with 412 or 304 unless they hold. As in RFC 9110, a tag has precedence over a date.
    pub(super) fn check(&self, meta: &ObjectMeta) -> S3Result<()> {
        let matches = |condition: &ETagCondition| {
            let tag = condition.as_etag();
            tag.is_none_or(|tag| tag.value() == meta.etag.as_str())
        };
        let modified = timestamp(meta.last_modified);
        let unchanged = match (&self.tag, &self.unmodified_since) {
            (Some(condition), _) => matches(condition),
            (None, Some(since)) => modified <= *since,
            (None, None) => true,
        };
        if !unchanged {
            return Err(S3Error::with_message(
                S3ErrorCode::PreconditionFailed,
                "At least one of the preconditions you specified did not hold",
            ));
        }
        let news = match (&self.other_tag, &self.modified_since) {
            (Some(condition), _) => !matches(condition),
            (None, Some(since)) => modified > *since,
            (None, None) => true,
        };
        if news {
            Ok(())
        } else {
            Err(S3Error::new(S3ErrorCode::NotModified))
        }
    }
}
