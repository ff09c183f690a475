//! From an HTTP request to an answer: route, credentials, parameters, endpoint, audit line.
//!
//! A request that changes something runs to its end even if its sender goes away, and a stop of the daemon waits for
//! it. One that only reads ends with its connection.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use pbs_datastore::MemoryPermit;
use serde_json::json;

use super::call::{Access, BodyKind, Call, CallResult, Caller, Endpoint, data};
use super::error::ApiError;
use super::params::Params;
use super::path::{ApiPath, not_found};
use super::router::Route;
use crate::auth::{Credentials, Principal};
use crate::daemon::Daemon;

/// Parameters whose values are in no log.
const HIDDEN: &[&str] = &["password", "secret-key", "access-key", "notes"];
/// Largest body of a caller who need not be known, in bytes.
const ANYONE_BYTES_MAX: usize = 16 << 10;
/// How long an upload waits for memory.
const MEMORY_WAIT_MAX: std::time::Duration = std::time::Duration::from_mins(1);
/// How long an upload may take.
const UPLOAD_TIME_MAX: std::time::Duration = std::time::Duration::from_mins(5);

impl Daemon {
    /// Answers a request below `/api2/json`, however it came. Refusals are held back as long as their kind asks for.
    pub(crate) async fn respond<B>(
        self: &Arc<Self>,
        request: Request<B>,
        caller: Caller,
    ) -> Response<Bytes>
    where
        B: Body + Send,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        match self.answer(&head, body, caller).await {
            Ok(answer) => answer.into_response(),
            Err(error) => self.delays.refuse(error).await,
        }
    }

    /// Who sent a request, proven.
    pub(crate) fn identify(&self, head: &Parts, caller: Caller) -> Result<Principal, ApiError> {
        if caller == Caller::Owner {
            return Ok(Principal::daemon());
        }
        let credentials = Credentials::of(&head.headers);
        Ok(self
            .authority
            .authenticate(&head.method, credentials.as_ref())?)
    }

    async fn answer<B>(self: &Arc<Self>, head: &Parts, body: B, caller: Caller) -> CallResult
    where
        B: Body + Send,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let path = ApiPath::of(&head.uri)?;
        let routes = self.routes.clone();
        let route = routes.find(&head.method, path.segments());
        let (endpoint, variables) = match route {
            Route::Endpoint {
                endpoint,
                variables,
            } => (endpoint, variables),
            other => {
                self.identify(head, caller)?;
                return elsewhere(&other, head);
            }
        };
        let principal = match endpoint.access {
            Access::Anyone => None,
            Access::Known => Some(self.identify(head, caller)?),
        };
        let (params, body, memory) = self.gather(endpoint, variables, head, body).await?;
        let call = Call {
            principal,
            caller,
            params,
            body,
            memory,
        };
        if head.method == Method::GET {
            return endpoint.run(self.clone(), call).await;
        }
        self.change(head, &path, call).await
    }

    /// The parameters of a request, and its body if that is an upload.
    async fn gather<B>(
        &self,
        endpoint: &Endpoint,
        variables: Vec<(&str, String)>,
        head: &Parts,
        body: B,
    ) -> Result<(Params, Bytes, Option<MemoryPermit>), ApiError>
    where
        B: Body + Send,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let bytes_max = match (endpoint.body, endpoint.access) {
            (BodyKind::Upload(bytes_max), _) => bytes_max,
            (BodyKind::Params, Access::Known) => {
                let params = Params::of_request(variables, head, body).await?;
                return Ok((params, Bytes::new(), None));
            }
            (BodyKind::Params, Access::Anyone) => {
                let short = Limited::new(body, ANYONE_BYTES_MAX);
                let params = Params::of_request(variables, head, short).await?;
                return Ok((params, Bytes::new(), None));
            }
        };
        let params = Params::gather(variables, head.uri.query(), None, &[])?;
        let memory = self.budget.take(bytes_max as u64, MEMORY_WAIT_MAX).await;
        let memory =
            memory.ok_or_else(|| ApiError::unavailable("too much is going on, try again later"))?;
        let body = read_upload(body, bytes_max).await?;
        Ok((params, body, Some(memory)))
    }

    /// Runs a call that changes something, and writes down who asked for what and how it ended.
    async fn change(self: &Arc<Self>, head: &Parts, path: &ApiPath, call: Call) -> CallResult {
        let work = self.shutdown.begin_work();
        let work = work.ok_or_else(|| ApiError::unavailable("the daemon is stopping"))?;
        let who = call
            .principal
            .as_ref()
            .map_or_else(|| "-".to_owned(), |who| who.id().to_string());
        let (from, asked) = (call.caller, call.params.summary(HIDDEN));
        let (method, segments) = (head.method.clone(), path.segments().to_vec());
        let daemon = self.clone();
        let running = self.env.spawn(async move {
            let _work = work;
            let place = segments.join("/");
            let result = match daemon.routes.clone().find(&method, &segments) {
                Route::Endpoint { endpoint, .. } => endpoint.run(daemon, call).await,
                _ => Err(ApiError::not_found(format!("path '{place}' not found"))),
            };
            match &result {
                Ok(_) => {
                    tracing::info!(target: "audit", %who, %from, call = %format_args!("{method} {place}"), asked, "done");
                }
                Err(error) => {
                    let status = error.status().as_u16();
                    tracing::warn!(
                        target: "audit", %who, %from, call = %format_args!("{method} {place}"), asked, status,
                        %error, "refused"
                    );
                }
            }
            result
        });
        running.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a call failed");
            Err(ApiError::internal(
                "the call failed; the daemon's log says why",
            ))
        })
    }
}

/// The answer to a request that leads to no endpoint.
fn elsewhere(route: &Route<'_, Endpoint>, head: &Parts) -> CallResult {
    match route {
        Route::Directory(names) => {
            let list: Vec<_> = names.iter().map(|name| json!({ "subdir": name })).collect();
            data(&list)
        }
        Route::MethodNotAllowed => Err(ApiError::method_not_allowed(format!(
            "method {} is not possible on '{}'",
            head.method,
            head.uri.path()
        ))),
        Route::NotFound | Route::Endpoint { .. } => Err(not_found(&head.uri)),
    }
}

async fn read_upload<B>(body: B, bytes_max: usize) -> Result<Bytes, ApiError>
where
    B: Body + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let limited = Limited::new(body, bytes_max);
    match tokio::time::timeout(UPLOAD_TIME_MAX, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            format!("the upload is larger than {bytes_max} bytes"),
        )),
        Ok(Err(error)) => Err(ApiError::bad_request(format!(
            "the upload could not be read: {error}"
        ))),
        Err(_) => Err(ApiError::timeout("the upload did not arrive in time")),
    }
}

/// Runs `work`, which waits for the disk, where that does no harm.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, crate::config::ConfigError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => {
            tracing::error!(%error, "a change of the configuration failed");
            Err(ApiError::internal("the configuration could not be changed"))
        }
    }
}
