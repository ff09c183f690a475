//! A bucket on a server that speaks S3, through the AWS SDK.
//!
//! The SDK builds, signs and parses; everything it would decide by itself is switched off: retries (only `retry.rs`
//! retries), timeouts and stalled-stream guards (our connector has them), streaming checksums (bodies are sent from
//! memory, uncopied, under their real SHA-256), endpoint rules (an endpoint is what the configuration says), and for requests with
//! a [`Validity`] the clock and its correction.
//!
//! Invariants: I8 (a request that was sent and not answered is `Unknown`, with `lost_at`), I9 (time, memory and
//! connections are bounded), I10 (a listing that is out of order, goes backwards or does not end is an error).

mod answer;
mod ask;
mod config;
mod delete;
mod endpoint;
mod list;
mod payload;
mod read;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use async_trait::async_trait;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::endpoint::{Endpoint, EndpointFuture, Params, ResolveEndpoint};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials as Keys, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, SharedCredentialsProvider, StalledStreamProtectionConfig,
};
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, MetadataDirective};
use aws_smithy_types::Document;
use jiff::{SignedDuration, Timestamp};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use self::answer::{Asked, Failure, failure, server_ahead_ms_max};
use self::ask::Ask;
use self::config::Address;
pub use self::config::{AwsConfig, Credentials, Secret};
pub use self::endpoint::{AwsEndpoint, BucketOutcome};
use self::payload::payload;
use crate::connector::{Connector, Network, Tcp, Traffic};
use crate::{
    Answer, Body, BucketSettings, ByteRange, Copy, DeleteOutcome, DeleteRequest, ETag, Error,
    ErrorKind, ListPage, ListRequest, Metadata, Object, ObjectKey, ObjectMeta, ObjectStore, Op,
    PUT_ID_METADATA, Part, PartOutcome, Precondition, Put, PutOutcome, UploadId, Validity,
    VersionId,
};

/// What is percent-encoded in the source of a copy: everything but unreserved characters and the slash.
const COPY_SOURCE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Every answer bounds how far the server's clock is ahead; slow ones bound it badly, so the least bound counts. It may
/// grow by this much per answer, in milliseconds, so that it follows a clock that was set.
const CLOCK_CREEP_MS: i64 = 1000;

/// The wall clock that validities are compared with.
pub type WallClock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A bucket on an S3 server.
pub struct AwsStore {
    client: Client,
    bucket: String,
    clock: WallClock,
    /// Milliseconds by which the server's clock is ahead of ours at most, from its answers; `i64::MAX` before the first.
    server_ahead_ms_max: AtomicI64,
    if_match_quoted: Arc<AtomicBool>,
    sign_payloads: bool,
    /// Cleared when the server turns out not to implement batch deletes.
    batch_delete: AtomicBool,
    traffic: Arc<Traffic>,
}

impl fmt::Debug for AwsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsStore")
            .field("bucket", &self.bucket)
            .finish_non_exhaustive()
    }
}

/// Answers every question for an endpoint with the one of the configuration.
#[derive(Debug)]
struct FixedEndpoint(Endpoint);

impl ResolveEndpoint for FixedEndpoint {
    fn resolve_endpoint<'a>(&'a self, _params: &'a Params) -> EndpointFuture<'a> {
        EndpointFuture::ready(Ok(self.0.clone()))
    }
}

fn endpoint(base: &str, region: &str) -> Endpoint {
    let scheme = HashMap::from([
        ("name".to_owned(), Document::from("sigv4".to_owned())),
        ("signingName".to_owned(), Document::from("s3".to_owned())),
        (
            "signingRegion".to_owned(),
            Document::from(region.to_owned()),
        ),
        ("disableDoubleEncoding".to_owned(), Document::from(true)),
    ]);
    Endpoint::builder()
        .url(base.to_owned())
        .property("authSchemes", vec![Document::from(scheme)])
        .build()
}

async fn credentials(from: &Credentials) -> SharedCredentialsProvider {
    match from {
        Credentials::Static {
            access_key,
            secret_key,
            session_token,
        } => SharedCredentialsProvider::new(Keys::new(
            access_key,
            secret_key.expose(),
            session_token
                .as_ref()
                .map(|token| token.expose().to_owned()),
            None,
            "configuration",
        )),
        Credentials::Environment => {
            SharedCredentialsProvider::new(DefaultCredentialsChain::builder().build().await)
        }
        Credentials::Profile { name } => SharedCredentialsProvider::new(
            ProfileFileCredentialsProvider::builder()
                .profile_name(name)
                .build(),
        ),
    }
}

fn refused(why: String) -> Error {
    Error::new(ErrorKind::Other, Op::Bucket, "", why)
}

/// The SDK's client for `address`, a bucket's or the server's own, and what it moves.
async fn client(
    network: Arc<dyn Network>,
    config: &AwsConfig,
    address: Result<Address, String>,
) -> Result<(Client, Arc<Traffic>), Error> {
    let faults = config.faults_of_server();
    if !faults.is_empty() {
        return Err(refused(faults.join("; ")));
    }
    let address = address.map_err(refused)?;
    let traffic = Arc::new(Traffic::default());
    let transport = config.transport().map_err(refused)?;
    let connector =
        Connector::new(transport, address.https, network, Arc::clone(&traffic)).map_err(refused)?;
    let sdk = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(config.region.clone()))
        .endpoint_resolver(FixedEndpoint(endpoint(&address.base, &config.region)))
        .credentials_provider(credentials(&config.credentials).await)
        .http_client(connector)
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .disable_s3_express_session_auth(true)
        .build();
    Ok((Client::from_conf(sdk), traffic))
}

impl AwsStore {
    /// Makes a client for the bucket of `config`; sends nothing yet. `clock` is compared with the end of a
    /// [`Validity`], after correction by what the server's answers tell of its clock.
    ///
    /// Errors: an invalid configuration, or certificates that cannot be read; the message holds every fault.
    pub async fn connect(config: AwsConfig, clock: WallClock) -> Result<Self, Error> {
        Self::connect_over(Arc::new(Tcp), config, clock).await
    }

    /// As [`connect`](Self::connect), over a network of the caller's.
    pub async fn connect_over(
        network: Arc<dyn Network>,
        config: AwsConfig,
        clock: WallClock,
    ) -> Result<Self, Error> {
        let faults = config.validate();
        if !faults.is_empty() {
            return Err(refused(faults.join("; ")));
        }
        let (client, traffic) = client(network, &config, config.address()).await?;
        Ok(Self {
            client,
            bucket: config.bucket,
            clock,
            server_ahead_ms_max: AtomicI64::new(i64::MAX),
            if_match_quoted: Arc::new(AtomicBool::new(config.if_match_quoted)),
            sign_payloads: config.sign_payloads,
            batch_delete: AtomicBool::new(true),
            traffic,
        })
    }

    /// Bytes on the wire and connections made by this client.
    pub fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }

    /// The switch between quoted and unquoted tags in `If-Match`, which the probe turns to find out what works.
    pub fn if_match_quoted(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.if_match_quoted)
    }

    fn ask(&self) -> Ask {
        Ask::new((self.clock)())
    }

    fn answer<T>(&self, ask: &Ask, value: T) -> Answer<T> {
        if let Some(date) = ask.date() {
            let ahead = server_ahead_ms_max(date, ask.asked_at);
            let merge = |known: i64| Some(ahead.min(known.saturating_add(CLOCK_CREEP_MS)));
            let order = Ordering::Relaxed;
            // The closure always answers, so this cannot fail.
            let _ = self.server_ahead_ms_max.fetch_update(order, order, merge);
        }
        Answer::new(value, ask.date())
    }

    /// Whether the server's clock may have passed the end of the validity.
    fn is_expired(&self, validity: Option<Validity>) -> bool {
        let Some(validity) = validity else {
            return false;
        };
        let ahead = match self.server_ahead_ms_max.load(Ordering::Relaxed) {
            i64::MAX => SignedDuration::ZERO,
            ahead => SignedDuration::from_millis(ahead),
        };
        (self.clock)()
            .checked_add(ahead)
            .map_or(true, |now| now >= validity.expires)
    }

    fn tag_text(&self, etag: &ETag) -> String {
        if self.if_match_quoted.load(Ordering::Relaxed) {
            etag.quoted()
        } else {
            etag.as_str().to_owned()
        }
    }

    /// The headers `If-None-Match` and `If-Match` of a write.
    fn conditions(&self, precondition: &Precondition) -> (Option<String>, Option<String>) {
        match precondition {
            Precondition::None => (None, None),
            Precondition::Absent => (Some("*".into()), None),
            Precondition::Matches(etag) => (None, Some(self.tag_text(etag))),
        }
    }

    /// What a write that did not simply succeed came to.
    fn write_outcome(
        &self,
        ask: &Ask,
        asked: Asked<'_>,
        validity: Option<Validity>,
        failure: Failure,
    ) -> Result<Answer<PutOutcome>, Error> {
        match failure {
            Failure::PreconditionFailed => Ok(self.answer(ask, PutOutcome::Exists)),
            Failure::Conflict(_) => Ok(self.answer(ask, PutOutcome::Conflict)),
            Failure::Lost { reason, at, .. } => {
                tracing::debug!(op = asked.op.name(), key = asked.key, reason, "answer lost");
                let mut answer = self.answer(ask, PutOutcome::Unknown);
                answer.lost_at = Some(at);
                Ok(answer)
            }
            Failure::Answered(error)
                if validity.is_some() && error.kind == ErrorKind::ClockSkewed =>
            {
                Ok(self.answer(ask, PutOutcome::Expired))
            }
            Failure::Answered(error) => Err(error),
        }
    }
}

fn created(etag: Option<&str>, version: Option<&str>) -> PutOutcome {
    PutOutcome::Created {
        etag: ETag::new(etag.unwrap_or_default()),
        version: version_id(version),
    }
}

/// Servers without versioning may say `null`.
fn version_id(text: Option<&str>) -> Option<VersionId> {
    text.filter(|text| !text.is_empty() && *text != "null")
        .map(|text| VersionId(text.to_owned()))
}

/// A missing or senseless date becomes the date of the answer, which is the newest it can be.
fn modified(date: Option<&DateTime>, answered: Option<Timestamp>) -> Timestamp {
    date.and_then(|date| {
        Timestamp::new(date.secs(), i32::try_from(date.subsec_nanos()).unwrap_or(0)).ok()
    })
    .or(answered)
    .unwrap_or(Timestamp::MAX)
}

/// The standard class has no name, however the server calls it.
fn storage_class(name: Option<&str>) -> Option<String> {
    name.filter(|name| !name.is_empty() && *name != "STANDARD")
        .map(str::to_owned)
}

fn length(value: Option<i64>) -> Option<u64> {
    value.and_then(|value| u64::try_from(value).ok())
}

#[async_trait]
impl ObjectStore for AwsStore {
    async fn put(&self, put: Put) -> Result<Answer<PutOutcome>, Error> {
        let mut asked = Asked::new(Op::Put, put.key.as_str());
        asked.if_match = matches!(put.precondition, Precondition::Matches(_));
        if self.is_expired(put.validity) {
            return Ok(Answer::new(PutOutcome::Expired, None));
        }
        let (body, signing) = payload(put.body, self.sign_payloads);
        let ask = self.ask().with_payload(signing);
        let (if_none_match, if_match) = self.conditions(&put.precondition);
        let mut metadata: HashMap<String, String> = put.metadata.into_iter().collect();
        if let Some(id) = put.put_id {
            metadata.insert(PUT_ID_METADATA.to_owned(), id.0);
        }
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(put.key.as_str())
            .set_if_none_match(if_none_match)
            .set_if_match(if_match)
            .set_metadata(Some(metadata))
            .body(body)
            .customize();
        match ask.attach(request, put.validity).send().await {
            Ok(output) => Ok(self.answer(&ask, created(output.e_tag(), output.version_id()))),
            Err(error) => self.write_outcome(&ask, asked, put.validity, failure(&error, asked)),
        }
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
    ) -> Result<Answer<Object>, Error> {
        self.get_object(key, range).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Answer<ObjectMeta>, Error> {
        self.head_object(key).await
    }

    async fn delete(
        &self,
        requests: &[DeleteRequest],
        validity: Option<Validity>,
    ) -> Result<Answer<Vec<DeleteOutcome>>, Error> {
        self.delete_objects(requests, validity).await
    }

    async fn list(&self, request: &ListRequest) -> Result<Answer<ListPage>, Error> {
        self.list_objects(request).await
    }

    async fn copy(&self, copy: Copy) -> Result<Answer<PutOutcome>, Error> {
        let asked = Asked::new(Op::Copy, copy.target.as_str());
        if self.is_expired(copy.validity) {
            return Ok(Answer::new(PutOutcome::Expired, None));
        }
        let ask = self.ask();
        let source = format!(
            "{}/{}",
            copy.bucket.as_ref().unwrap_or(&self.bucket),
            utf8_percent_encode(copy.source.as_str(), COPY_SOURCE)
        );
        let (if_none_match, if_match) = self.conditions(&copy.precondition);
        let request = self
            .client
            .copy_object()
            .bucket(&self.bucket)
            .key(copy.target.as_str())
            .copy_source(source)
            .set_if_none_match(if_none_match)
            .set_if_match(if_match)
            .metadata_directive(MetadataDirective::Replace)
            .set_metadata(Some(copy.metadata.into_iter().collect()))
            .customize();
        match ask.attach(request, copy.validity).send().await {
            Ok(output) => {
                let etag = output
                    .copy_object_result()
                    .and_then(|result| result.e_tag());
                Ok(self.answer(&ask, created(etag, output.version_id())))
            }
            Err(error) => self.write_outcome(&ask, asked, copy.validity, failure(&error, asked)),
        }
    }

    async fn create_multipart(
        &self,
        key: &ObjectKey,
        metadata: Metadata,
    ) -> Result<Answer<UploadId>, Error> {
        let asked = Asked::new(Op::CreateMultipart, key.as_str());
        let ask = self.ask();
        let request = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(key.as_str())
            .set_metadata(Some(metadata.into_iter().collect()))
            .customize();
        let output = ask
            .attach(request, None)
            .send()
            .await
            .map_err(|error| failure(&error, asked).into_error(asked))?;
        let id = output
            .upload_id()
            .filter(|id| !id.is_empty())
            .ok_or_else(|| asked.error(ErrorKind::Corrupt, "no upload id"))?;
        Ok(self.answer(&ask, UploadId(id.to_owned())))
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        body: Body,
    ) -> Result<Answer<PartOutcome>, Error> {
        let asked = Asked::new(Op::UploadPart, key.as_str());
        let (body, signing) = payload(body, self.sign_payloads);
        let ask = self.ask().with_payload(signing);
        let request = self
            .client
            .upload_part()
            .bucket(&self.bucket)
            .key(key.as_str())
            .upload_id(&upload.0)
            .part_number(i32::from(number))
            .body(body)
            .customize();
        match ask.attach(request, None).send().await {
            Ok(output) => {
                let etag = ETag::new(output.e_tag().unwrap_or_default());
                let stored = PartOutcome::Stored(Part { number, etag });
                Ok(self.answer(&ask, stored))
            }
            Err(error) => match failure(&error, asked) {
                Failure::Lost { at, .. } => {
                    let mut answer = self.answer(&ask, PartOutcome::Unknown);
                    answer.lost_at = Some(at);
                    Ok(answer)
                }
                other => Err(other.into_error(asked)),
            },
        }
    }

    async fn complete_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[Part],
        precondition: Precondition,
    ) -> Result<Answer<PutOutcome>, Error> {
        let asked = Asked::new(Op::CompleteMultipart, key.as_str());
        let ask = self.ask().with_root("CompleteMultipartUploadResult");
        let (if_none_match, if_match) = self.conditions(&precondition);
        let parts = parts.iter().map(|part| {
            CompletedPart::builder()
                .part_number(i32::from(part.number))
                .e_tag(part.etag.quoted())
                .build()
        });
        let request = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(key.as_str())
            .upload_id(&upload.0)
            .set_if_none_match(if_none_match)
            .set_if_match(if_match)
            .multipart_upload(
                CompletedMultipartUpload::builder()
                    .set_parts(Some(parts.collect()))
                    .build(),
            )
            .customize();
        match ask.attach(request, None).send().await {
            Ok(output) => Ok(self.answer(&ask, created(output.e_tag(), output.version_id()))),
            Err(error) => self.write_outcome(&ask, asked, None, failure(&error, asked)),
        }
    }

    async fn abort_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
    ) -> Result<Answer<()>, Error> {
        let asked = Asked::new(Op::AbortMultipart, key.as_str());
        let ask = self.ask();
        let request = self
            .client
            .abort_multipart_upload()
            .bucket(&self.bucket)
            .key(key.as_str())
            .upload_id(&upload.0)
            .customize();
        match ask.attach(request, None).send().await {
            Ok(_) => Ok(self.answer(&ask, ())),
            Err(error) => match failure(&error, asked).into_error(asked) {
                error if error.kind == ErrorKind::NotFound => Ok(self.answer(&ask, ())),
                error => Err(error),
            },
        }
    }

    async fn head_bucket(&self) -> Result<Answer<()>, Error> {
        let asked = Asked::new(Op::Bucket, "");
        let ask = self.ask();
        let request = self.client.head_bucket().bucket(&self.bucket).customize();
        ask.attach(request, None)
            .send()
            .await
            .map_err(|error| failure(&error, asked).into_error(asked))?;
        Ok(self.answer(&ask, ()))
    }

    async fn bucket_settings(&self) -> Result<Answer<BucketSettings>, Error> {
        self.read_bucket_settings().await
    }
}
