//! One request through the SDK: what is added to it and what is kept of its answer.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::client::customize::CustomizableOperation;
use aws_smithy_async::time::StaticTimeSource;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextMut, BeforeDeserializationInterceptorContextRef,
    BeforeTransmitInterceptorContextMut,
};
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::DateTime;
use aws_smithy_types::body::SdkBody;
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
    verbatim: bool,
    root: Option<&'static str>,
    payload: Option<PayloadSigningOverride>,
}

impl Ask {
    pub(super) fn new(asked_at: Timestamp) -> Self {
        Self {
            asked_at,
            date: Arc::default(),
            content_md5: false,
            verbatim: false,
            root: None,
            payload: None,
        }
    }

    /// The same for a body of which is known what is to be signed.
    pub(super) fn with_payload(mut self, payload: PayloadSigningOverride) -> Self {
        self.payload = Some(payload);
        self
    }

    /// The same with a `Content-MD5`, in place of the SDK's own checksum, which not every server knows.
    pub(super) fn with_content_md5(mut self) -> Self {
        self.content_md5 = true;
        self
    }

    /// The same for an answer whose body is an object's content.
    pub(super) fn verbatim(mut self) -> Self {
        self.verbatim = true;
        self
    }

    /// The same for an answer whose XML has this root, which some servers call `...Response`.
    pub(super) fn with_root(mut self, root: &'static str) -> Self {
        self.root = Some(root);
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
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(payload) = &self.payload {
            config.interceptor_state().store_put(payload.clone());
        }
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

    /// Makes well-meant XML what the SDK's parser accepts.
    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if self.verbatim && context.response().status().is_success() {
            return Ok(());
        }
        let body = context.response_mut().body_mut();
        if let Some(xml) = body.bytes().and_then(|xml| mended(xml, self.root)) {
            *body = SdkBody::from(xml);
        }
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

/// XML without the white space that some servers send before it (to keep a connection alive, or by accident), and with
/// its root called `root` if it is called `...Response`. `None` if nothing has to be changed.
fn mended(xml: &[u8], root: Option<&str>) -> Option<Vec<u8>> {
    let trimmed = xml.trim_ascii_start();
    let renamed = root.and_then(|root| renamed(std::str::from_utf8(trimmed).ok()?, root));
    match renamed {
        Some(text) => Some(text.into_bytes()),
        None if trimmed.len() < xml.len() => Some(trimmed.to_vec()),
        None => None,
    }
}

fn renamed(xml: &str, root: &str) -> Option<String> {
    let element = match xml.strip_prefix("<?xml") {
        Some(rest) => rest.split_once("?>")?.1.trim_start(),
        None => xml,
    };
    let inside = element.strip_prefix('<')?;
    let name = inside.split(|c: char| c.is_whitespace() || c == '>' || c == '/');
    let name = name.into_iter().next()?;
    if !name.ends_with("Response") {
        return None;
    }
    let rest = &inside[name.len()..];
    let rest = match rest.rsplit_once("</") {
        Some((content, end)) if end.trim_end().trim_end_matches('>').trim_end() == name => {
            format!("{content}</{root}>")
        }
        _ => rest.to_owned(),
    };
    Some(format!("<{root}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mend(xml: &str) -> Option<String> {
        let mended = mended(xml.as_bytes(), Some("R"))?;
        Some(String::from_utf8(mended).expect("text"))
    }

    #[test]
    fn roots_and_white_space_are_mended() {
        assert_eq!(mend("<R><a/></R>"), None);
        assert_eq!(mend("<Error><Code>x</Code></Error>"), None);
        assert_eq!(mend(" \n<R/>"), Some("<R/>".into()));
        let xml = "<?xml version='1.0'?>\n<XResponse xmlns='u'><a>1</a></XResponse>\n";
        assert_eq!(mend(xml), Some("<R xmlns='u'><a>1</a></R>".into()));
        assert_eq!(mend("<XResponse/>"), Some("<R/>".into()));
        assert_eq!(mend("<XResponse"), Some("<R".into()));
        assert_eq!(mend("<"), None);
        assert_eq!(mend(""), None);
    }
}
