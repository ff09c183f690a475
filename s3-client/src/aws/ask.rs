//! One request through the SDK: what is added to it and what is kept of its answer.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use aws_sdk_s3::client::customize::CustomizableOperation;
use aws_smithy_async::time::StaticTimeSource;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
};
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::DateTime;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::date_time::Format;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use md5::{Digest, Md5};

use crate::Validity;

/// What is kept of one request.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    /// Our clock before the request was sent.
    pub(super) asked_at: Timestamp,
    date: Arc<OnceLock<Timestamp>>,
    content_md5: bool,
}

impl Ask {
    pub(super) fn new(asked_at: Timestamp) -> Self {
        Self {
            asked_at,
            date: Arc::default(),
            content_md5: false,
        }
    }

    /// The same with a `Content-MD5`, in place of the SDK's own checksum, which not every server knows.
    pub(super) fn with_content_md5(mut self) -> Self {
        self.content_md5 = true;
        self
    }

    /// The server's date, if it answered with one.
    pub(super) fn date(&self) -> Option<Timestamp> {
        self.date.get().copied()
    }

    /// Attaches itself to a request. With a validity the request is signed with its date, uncorrected.
    pub(super) fn attach<T, E, B>(
        &self,
        operation: CustomizableOperation<T, E, B>,
        validity: Option<Validity>,
    ) -> CustomizableOperation<T, E, B> {
        let operation = operation.interceptor(self.clone());
        let Some(validity) = validity else {
            return operation;
        };
        let signed_at = StaticTimeSource::new(SystemTime::from(validity.signed_at));
        operation.config_override(
            aws_sdk_s3::Config::builder()
                .time_source(signed_at)
                .disable_clock_skew_correction(true),
        )
    }
}

#[dyn_dispatch_hint]
impl Intercept for Ask {
    fn name(&self) -> &'static str {
        "Ask"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if !self.content_md5 {
            return Ok(());
        }
        let request = context.request_mut();
        let body = request
            .body()
            .bytes()
            .ok_or("a request with Content-MD5 must be in memory")?;
        let digest = STANDARD.encode(Md5::digest(body));
        let headers = request.headers_mut();
        let others: Vec<String> = headers
            .iter()
            .map(|(name, _)| name.to_owned())
            .filter(|name| {
                name.starts_with("x-amz-checksum-") || name == "x-amz-sdk-checksum-algorithm"
            })
            .collect();
        for name in others {
            headers.remove(name);
        }
        headers.insert("content-md5", digest);
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context
            .response()
            .headers()
            .get("date")
            .and_then(|text| DateTime::from_str(text, Format::HttpDate).ok())
            .and_then(|date| Timestamp::from_second(date.secs()).ok());
        if let Some(date) = date {
            // There is one answer per request; a second one would change nothing.
            let _ = self.date.set(date);
        }
        Ok(())
    }
}
