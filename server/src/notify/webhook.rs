//! A POST to a URL.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::uri::Scheme;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use pbs_datastore::Env;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};

use super::DeliveryError;
use super::event::{Event, render};
use crate::config::Notify;

/// How much of a refusal is told.
const REFUSAL_BYTES_MAX: usize = 512;

/// Posts the event. Redirections are not followed: the secret would go with them.
pub(super) async fn post(
    env: &Env,
    notify: &Notify,
    secret: Option<&str>,
    event: &Event,
) -> Result<(), DeliveryError> {
    let all = || {
        let json = serde_json::to_string(event);
        json.map_err(|error| DeliveryError::refused(error.to_string()))
    };
    let body = match &notify.body {
        Some(template) => render(template, event, all)?,
        None => all()?,
    };
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&body).is_ok();
    let content_type = if is_json {
        "application/json"
    } else {
        "text/plain; charset=utf-8"
    };
    let mut request = Request::post(notify.url.clone())
        .header(CONTENT_TYPE, content_type)
        .header(USER_AGENT, concat!("holdfast/", env!("CARGO_PKG_VERSION")));
    if let Some(secret) = secret {
        let value = HeaderValue::from_str(secret);
        let mut value =
            value.map_err(|_| DeliveryError::refused("the secret cannot be a header"))?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    let request = request.body(Full::new(Bytes::from(body)));
    let request = request.map_err(|error| DeliveryError::refused(error.to_string()))?;
    let client = Client::builder(TokioExecutor::new()).build(connector(env, &notify.url).await?);
    let answer = client.request(request).await;
    let answer = answer.map_err(|error| {
        // With its causes; by itself it says no more than that there was an error.
        DeliveryError::transient(format!("{:#}", anyhow::Error::new(error)))
    })?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let said = beginning(answer.into_body()).await;
    let why = format!("{status}: {}", String::from_utf8_lossy(&said).trim());
    let later = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    Err(if status.is_server_error() || later.contains(&status) {
        DeliveryError::transient(why)
    } else {
        DeliveryError::refused(why)
    })
}

/// The first bytes of what is said about a refusal.
async fn beginning(mut body: Incoming) -> Vec<u8> {
    let mut said = Vec::new();
    while said.len() < REFUSAL_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        said.extend_from_slice(frame.data_ref().map_or(&[][..], |data| &data[..]));
    }
    said.truncate(REFUSAL_BYTES_MAX);
    said
}

async fn connector(env: &Env, url: &Uri) -> Result<HttpsConnector<HttpConnector>, DeliveryError> {
    let mut roots = RootCertStore::empty();
    if url.scheme() == Some(&Scheme::HTTPS) {
        let found = env.compute(rustls_native_certs::load_native_certs).await;
        roots.add_parsable_certificates(found.certs);
    }
    let provider = aws_lc_rs::default_provider();
    let config =
        ClientConfig::builder_with_provider(provider.into()).with_safe_default_protocol_versions();
    let config =
        config.map_err(|error| DeliveryError::refused(format!("TLS cannot be set up: {error}")))?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http();
    Ok(connector.enable_http1().build())
}
