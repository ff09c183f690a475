//! Reading objects and what is known of them.
//!
//! Servers leave out headers, and some ignore ranges; both is lived with. A body that has not the announced length is
//! [`ErrorKind::Corrupt`].

use std::collections::HashMap;

use aws_sdk_s3::types::StorageClass;
use bytes::Bytes;

use super::answer::{Asked, failure};
use super::{AwsStore, length, modified, storage_class, version_id};
use crate::{
    Answer, Body, ByteRange, ETag, Error, ErrorKind, Metadata, Object, ObjectKey, ObjectMeta, Op,
};

fn user_metadata(from: Option<&HashMap<String, String>>) -> Metadata {
    from.into_iter()
        .flatten()
        .map(|(name, value)| (name.to_lowercase(), value.clone()))
        .collect()
}

/// Size of the whole object from `bytes 0-9/100`.
fn size_in_range(header: &str) -> Option<u64> {
    header.rsplit_once('/')?.1.trim().parse().ok()
}

/// The bytes asked for and the size of the whole object, or what does not fit.
fn cut_to_range(
    body: Bytes,
    content_length: Option<u64>,
    content_range: Option<&str>,
    range: Option<ByteRange>,
) -> Result<(Bytes, u64), String> {
    let got = body.len() as u64;
    if let Some(announced) = content_length
        && announced != got
    {
        return Err(format!("{announced} bytes announced, {got} received"));
    }
    let Some(range) = range else {
        return Ok((body, got));
    };
    let Some(header) = content_range else {
        // The server does not know ranges and sent everything.
        let start = range.start.min(got) as usize;
        let end = range.end.min(got) as usize;
        return Ok((body.slice(start..end), got));
    };
    let size = size_in_range(header).ok_or_else(|| format!("Content-Range '{header}'"))?;
    let wanted = range.end.min(size).saturating_sub(range.start);
    if wanted != got {
        return Err(format!("{wanted} bytes of a range wanted, {got} received"));
    }
    Ok((body, size))
}

impl AwsStore {
    pub(super) async fn get_object(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
    ) -> Result<Answer<Object>, Error> {
        let asked = Asked::new(Op::Get, key.as_str());
        if range.is_some_and(|range| range.end <= range.start) {
            return Err(asked.error(ErrorKind::Other, "an empty range"));
        }
        let ask = self.ask().verbatim();
        let request = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .set_range(range.map(|range| format!("bytes={}-{}", range.start, range.end - 1)))
            .customize();
        let output = ask
            .attach(request, None)
            .send()
            .await
            .map_err(|error| failure(&error, asked).into_error(asked))?;
        let mut meta = ObjectMeta {
            size: 0,
            etag: ETag::new(output.e_tag().unwrap_or_default()),
            version: version_id(output.version_id()),
            last_modified: modified(output.last_modified(), ask.date()),
            storage_class: storage_class(output.storage_class().map(StorageClass::as_str)),
            metadata: user_metadata(output.metadata()),
        };
        let content_length = length(output.content_length());
        let content_range = output.content_range().map(str::to_owned);
        let body = output
            .body
            .collect()
            .await
            .map_err(|error| asked.error(ErrorKind::Corrupt, error.to_string()))?
            .into_bytes();
        let (body, size) = cut_to_range(body, content_length, content_range.as_deref(), range)
            .map_err(|what| asked.error(ErrorKind::Corrupt, what))?;
        meta.size = size;
        let object = Object {
            meta,
            body: Body::from(body),
        };
        Ok(self.answer(&ask, object))
    }

    pub(super) async fn head_object(&self, key: &ObjectKey) -> Result<Answer<ObjectMeta>, Error> {
        let asked = Asked::new(Op::Head, key.as_str());
        let ask = self.ask();
        let request = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .customize();
        let output = ask
            .attach(request, None)
            .send()
            .await
            .map_err(|error| failure(&error, asked).into_error(asked))?;
        let size = length(output.content_length())
            .ok_or_else(|| asked.error(ErrorKind::Corrupt, "no Content-Length"))?;
        let meta = ObjectMeta {
            size,
            etag: ETag::new(output.e_tag().unwrap_or_default()),
            version: version_id(output.version_id()),
            last_modified: modified(output.last_modified(), ask.date()),
            storage_class: storage_class(output.storage_class().map(StorageClass::as_str)),
            metadata: user_metadata(output.metadata()),
        };
        Ok(self.answer(&ask, meta))
    }
}
