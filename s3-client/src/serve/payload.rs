//! Bodies of writes: read whole, within bounds, and compared with what the client says they are.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::StreamExt as _;
use http::HeaderMap;
use md5::{Digest as _, Md5};
use s3s::checksum::ChecksumHasher;
use s3s::dto::{Checksum, StreamingBlob};
use s3s::{S3Error, S3ErrorCode, S3Result, TrailingHeaders};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::answers::{invalid, not_implemented};
use crate::store::Body;

/// How long a client may be silent in the middle of a body; it holds a share of the budget meanwhile.
const IDLE_TIME_MAX: Duration = Duration::from_secs(30);

/// One permit of the budget stands for so many bytes.
const PERMIT_BYTES: u64 = 1024;

/// A body that is what the client says it is. It holds its share of the budget until it is dropped.
#[derive(Debug)]
pub(super) struct Payload<'a> {
    pub(super) body: Body,
    pub(super) checksum: Checksum,
    _share: SemaphorePermit<'a>,
}

/// A body as it comes with a request.
#[derive(Debug)]
pub(super) struct Unread {
    pub(super) stream: Option<StreamingBlob>,
    pub(super) length: Option<i64>,
    pub(super) content_md5: Option<String>,
    pub(super) headers: HeaderMap,
    pub(super) trailers: Option<TrailingHeaders>,
    /// Whether the request was signed; unsigned ones come without decoding of `aws-chunked`.
    pub(super) signed: bool,
}

/// The bounds of bodies.
#[derive(Debug)]
pub(super) struct Bodies {
    one_max: u64,
    budget: Semaphore,
}

impl Bodies {
    pub(super) fn new(one_max: u64, all_max: u64) -> Self {
        let permits = usize::try_from(all_max / PERMIT_BYTES).unwrap_or(usize::MAX);
        Self {
            one_max,
            budget: Semaphore::new(permits.saturating_add(1).min(Semaphore::MAX_PERMITS)),
        }
    }

    /// Reads a body. It has to be as long as announced and to have every checksum announced.
    pub(super) async fn read(&self, unread: Unread) -> S3Result<Payload<'_>> {
        let length = self.check_length(&unread)?;
        let permits = u32::try_from(length / PERMIT_BYTES).unwrap_or(u32::MAX);
        let share = self.budget.acquire_many(permits).await;
        let share = share.map_err(|_| S3Error::new(S3ErrorCode::ServiceUnavailable))?;
        let mut hasher = announced(&unread.headers)?;
        let mut md5 = unread.content_md5.as_ref().map(|_| Md5::new());
        let mut body = Body::empty();
        let mut received = 0;
        let mut stream = unread.stream;
        while let Some(stream) = &mut stream {
            let Ok(next) = timeout(IDLE_TIME_MAX, stream.next()).await else {
                return Err(S3Error::new(S3ErrorCode::RequestTimeout));
            };
            let Some(part) = next else { break };
            let part = part.map_err(|error| {
                let message = format!("the body could not be read: {error}");
                S3Error::with_message(S3ErrorCode::IncompleteBody, message)
            })?;
            received += part.len() as u64;
            if received > length {
                return Err(S3Error::new(S3ErrorCode::IncompleteBody));
            }
            hasher.update(&part);
            if let Some(md5) = &mut md5 {
                md5.update(&part);
            }
            body.push(part);
        }
        if received != length {
            return Err(S3Error::new(S3ErrorCode::IncompleteBody));
        }
        if let (Some(md5), Some(wanted)) = (md5, &unread.content_md5) {
            check_md5(&md5.finalize(), wanted)?;
        }
        let checksum = hasher.finalize();
        let trailers = unread.trailers.and_then(|trailers| trailers.take());
        compare(&checksum, &unread.headers, trailers.as_ref())?;
        Ok(Payload {
            body,
            checksum,
            _share: share,
        })
    }

    fn check_length(&self, unread: &Unread) -> S3Result<u64> {
        let chunked = unread.headers.get(http::header::CONTENT_ENCODING);
        let chunked = chunked.and_then(|value| value.to_str().ok());
        if !unread.signed && chunked.is_some_and(|value| value.contains("aws-chunked")) {
            return Err(not_implemented(
                "an unsigned request must send its body as it is, not aws-chunked",
            ));
        }
        let length = unread.length.and_then(|length| u64::try_from(length).ok());
        let length = length.ok_or_else(|| S3Error::new(S3ErrorCode::MissingContentLength))?;
        if length > self.one_max {
            let message = format!(
                "the body has {length} bytes, this server takes {}",
                self.one_max
            );
            return Err(S3Error::with_message(S3ErrorCode::EntityTooLarge, message));
        }
        Ok(length)
    }
}

fn check_md5(found: &[u8], wanted: &str) -> S3Result<()> {
    let Ok(wanted) = BASE64_STANDARD.decode(wanted) else {
        return Err(S3Error::new(S3ErrorCode::InvalidDigest));
    };
    if wanted == found {
        Ok(())
    } else {
        Err(bad_digest("Content-MD5"))
    }
}

fn bad_digest(name: &str) -> S3Error {
    let message = format!("The {name} you specified did not match what was received");
    S3Error::with_message(S3ErrorCode::BadDigest, message)
}

/// The hashers for the checksums that are in the headers or announced as trailers.
fn announced(headers: &HeaderMap) -> S3Result<ChecksumHasher> {
    let trailers = match headers.get("x-amz-trailer") {
        Some(value) => value
            .to_str()
            .map_err(|_| invalid("x-amz-trailer is not ASCII"))?,
        None => "",
    };
    let wanted = |name: &str| {
        let mut trailers = trailers.split(',').map(str::trim);
        headers.contains_key(name) || trailers.any(|t| t.eq_ignore_ascii_case(name))
    };
    Ok(ChecksumHasher {
        crc32: wanted(CRC32).then(s3s::crypto::Checksum::new),
        crc32c: wanted(CRC32C).then(s3s::crypto::Checksum::new),
        sha1: wanted(SHA1).then(s3s::crypto::Checksum::new),
        sha256: wanted(SHA256).then(s3s::crypto::Checksum::new),
        crc64nvme: wanted(CRC64NVME).then(s3s::crypto::Checksum::new),
    })
}

const CRC32: &str = "x-amz-checksum-crc32";
const CRC32C: &str = "x-amz-checksum-crc32c";
const CRC64NVME: &str = "x-amz-checksum-crc64nvme";
const SHA1: &str = "x-amz-checksum-sha1";
const SHA256: &str = "x-amz-checksum-sha256";

/// Compares every checksum that was computed with the one that came with the body.
fn compare(checksum: &Checksum, headers: &HeaderMap, trailers: Option<&HeaderMap>) -> S3Result<()> {
    for (name, found) in [
        (CRC32, &checksum.checksum_crc32),
        (CRC32C, &checksum.checksum_crc32c),
        (CRC64NVME, &checksum.checksum_crc64nvme),
        (SHA1, &checksum.checksum_sha1),
        (SHA256, &checksum.checksum_sha256),
    ] {
        let Some(found) = found else { continue };
        let in_trailers = || trailers.and_then(|trailers| trailers.get(name));
        let Some(wanted) = headers.get(name).or_else(in_trailers) else {
            return Err(invalid(format!("{name} is announced and did not come")));
        };
        if wanted.as_bytes() != found.as_bytes() {
            return Err(bad_digest(name));
        }
    }
    Ok(())
}
