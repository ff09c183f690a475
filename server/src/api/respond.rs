//! From an HTTP request to an answer: route, credentials, parameters, rights to an upload, its body, endpoint, audit line.
//!
//! A body that is content is read only when its sender may send it, under a claim for its announced length, and only
//! [`UPLOADS_AT_ONCE`] at a time, so that slow senders never hold more than a small part of the memory.
//!
//! A request that changes something runs to its end even if its sender goes away, and a stop of the daemon waits for
//! it. One that only reads ends with its connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::json;

use super::call::{Access, BodyKind, Call, CallResult, Caller, Endpoint, UploadPlace, data};
use super::error::ApiError;
use super::params::{BODY_BYTES_MAX, Params};
use super::path::{ApiPath, not_found};
use super::router::Route;
use crate::app::{ApiBody, collect, whole};
use crate::auth::Principal;
use crate::daemon::Daemon;

/// Parameters whose values are in no log. The address of a webhook is often all that keeps others from posting there.
const HIDDEN: &[&str] = &[
    "password",
    "secret",
    "secret-key",
    "access-key",
    "notes",
    "url",
];
/// Largest body of a caller who need not be known, in bytes.
const ANYONE_BYTES_MAX: usize = 16 << 10;
/// How many uploads are read at once. Logs of clients are small, and senders do not wait for each other for long.
pub(crate) const UPLOADS_AT_ONCE: usize = 2;
/// How long an upload waits for its turn, and then for memory.
const UPLOAD_WAIT_MAX: Duration = Duration::from_mins(1);
/// How long an upload may take.
const UPLOAD_TIME_MAX: Duration = Duration::from_secs(30);

impl Daemon {
    /// Answers a request below `/api2/json`, however it came. Refusals are held back as long as their kind asks for. A request
    /// that came over a connection has its [`Line`](crate::places::Line) among its extensions.
    pub(crate) async fn respond<B>(
        self: &Arc<Self>,
        request: Request<B>,
        caller: Caller,
    ) -> Response<ApiBody>
    where
        B: Body + Send,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        match self.answer(&head, body, caller).await {
            Ok(answer) => answer.into_response(),
            Err(error) => whole(self.delays.refuse(error).await),
        }
    }

    /// The same for a caller within this process, who takes the whole body at once.
    pub(crate) async fn respond_whole<B>(
        self: &Arc<Self>,
        request: Request<B>,
        caller: Caller,
    ) -> Response<Bytes>
    where
        B: Body + Send,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let answer = collect(self.respond(request, caller).await).await;
        answer.unwrap_or_else(|error| {
            ApiError::unavailable(format!("the answer broke off: {error}")).into_response()
        })
    }

    /// Who sent a request, proven.
    pub(crate) fn identify(&self, head: &Parts, caller: Caller) -> Result<Principal, ApiError> {
        let Caller::Network(address) = caller else {
            return Ok(Principal::daemon());
        };
        let now = self.clock.unix_seconds();
        self.strangers.identify(&self.authority, head, address, now)
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
        let params = match (endpoint.body, endpoint.access) {
            (BodyKind::Upload(bytes_max), _) => {
                let params = Params::gather(variables, head.uri.query(), None, &[])?;
                let params = params.of_call(&endpoint.declared);
                let call = Call::without_body(principal, caller, params);
                return self
                    .take_upload(endpoint, head, call, body, bytes_max)
                    .await;
            }
            (BodyKind::Params, access) => {
                let bytes_max = match access {
                    Access::Known => BODY_BYTES_MAX,
                    Access::Anyone => ANYONE_BYTES_MAX,
                };
                Params::of_request(variables, head, body, bytes_max).await?
            }
        };
        let params = params.of_call(&endpoint.declared);
        let mut call = Call::without_body(principal, caller, params);
        if head.method == Method::GET {
            let accept = head.headers.get(ACCEPT).map(HeaderValue::as_bytes);
            call.accept = String::from_utf8_lossy(accept.unwrap_or_default()).into_owned();
            call.line = head.extensions.get().cloned().unwrap_or_default();
            return endpoint.run(self.clone(), call).await;
        }
        let record = Record::of(head, &call, endpoint.access);
        self.change(head, call, record).await
    }

    /// Reads the body of a call and runs it, if the caller may send it.
    async fn take_upload<B>(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        head: &Parts,
        mut call: Call,
        body: B,
        bytes_max: usize,
    ) -> CallResult
    where
        B: Body + Send,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let record = Record::of(head, &call, endpoint.access);
        let asked = Call::without_body(call.principal.clone(), call.caller, call.params.clone());
        let read = async {
            endpoint.admit(self.clone(), asked).await?;
            let bytes = body.size_hint().upper().unwrap_or(bytes_max as u64);
            if bytes > bytes_max as u64 {
                return Err(too_large(bytes_max));
            }
            let place = self.upload_place(bytes).await;
            let place = place
                .ok_or_else(|| ApiError::unavailable("too much is going on, try again later"))?;
            Ok((read_upload(body, bytes_max).await?, place))
        };
        match read.await {
            Ok((content, place)) => {
                call.body = content;
                call.held = Some(place);
                self.change(head, call, record).await
            }
            Err(error) => {
                record.refused(self, &error);
                Err(error)
            }
        }
    }

    /// A turn and memory for an upload of `bytes`; `None` if that takes too long.
    async fn upload_place(&self, bytes: u64) -> Option<UploadPlace> {
        let turn = self.uploads.clone().acquire_owned();
        let turn = tokio::time::timeout(UPLOAD_WAIT_MAX, turn)
            .await
            .ok()?
            .ok()?;
        Some(UploadPlace {
            _memory: self.budget.take(bytes, UPLOAD_WAIT_MAX).await?,
            _place: turn,
        })
    }

    /// Runs a call that changes something, and writes down who asked for what and how it ended.
    async fn change(self: &Arc<Self>, head: &Parts, call: Call, record: Record) -> CallResult {
        let work = self.shutdown.begin_work();
        let work = work.ok_or_else(|| ApiError::unavailable("the daemon is stopping"))?;
        let method = head.method.clone();
        let segments = ApiPath::of(&head.uri)?.segments().to_vec();
        let daemon = self.clone();
        let running = self.env.spawn(async move {
            let _work = work;
            let result = match daemon.routes.clone().find(&method, &segments) {
                Route::Endpoint { endpoint, .. } => endpoint.run(daemon.clone(), call).await,
                _ => Err(ApiError::not_found("no such path")),
            };
            match &result {
                Ok(_) => record.done(),
                Err(error) => record.refused(&daemon, error),
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

/// What the audit line of a call says. The path stands there as it was sent: decoded it could hold line breaks, and pass
/// for a line of its own.
///
/// What anyone may ask for has no line of its own, or anyone could fill the log: a login writes down that it was granted,
/// and logins that are refused are counted by address.
struct Record {
    of_anyone: bool,
    who: String,
    from: Caller,
    call: String,
    asked: String,
}

impl Record {
    fn of(head: &Parts, call: &Call, access: Access) -> Self {
        let who = call.principal.as_ref();
        Self {
            of_anyone: access == Access::Anyone,
            who: who.map_or_else(|| "-".to_owned(), |who| who.id().to_string()),
            from: call.caller,
            call: format!("{} {}", head.method, head.uri.path()),
            asked: call.params.summary(HIDDEN),
        }
    }

    fn done(&self) {
        let Self {
            who,
            from,
            call,
            asked,
            of_anyone,
        } = self;
        if *of_anyone {
            return;
        }
        tracing::info!(target: "audit", %who, %from, %call, asked, "done");
    }

    fn refused(&self, daemon: &Daemon, error: &ApiError) {
        let Self {
            who,
            from,
            call,
            asked,
            of_anyone,
        } = self;
        let status = error.status().as_u16();
        if *of_anyone && let Caller::Network(address) = from {
            // A call that makes no sense is no attempt.
            if status != 400 {
                let now = daemon.clock.unix_seconds();
                daemon.strangers.refused(*address, asked, now);
            }
            return;
        }
        tracing::warn!(target: "audit", %who, %from, %call, asked, status, %error, "refused");
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

fn too_large(bytes_max: usize) -> ApiError {
    ApiError::bad_request(format!("the upload is larger than {bytes_max} bytes"))
}

async fn read_upload<B>(body: B, bytes_max: usize) -> Result<Bytes, ApiError>
where
    B: Body + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let limited = Limited::new(body, bytes_max);
    match tokio::time::timeout(UPLOAD_TIME_MAX, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(bytes_max)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_in_no_log() {
        let query = "name=hook&url=https://a.b/hush&secret=hush&password=hush&secret-key=hush";
        let params = Params::gather([], Some(query), None, &[]).expect("parameters");
        let asked = params.summary(HIDDEN);
        assert!(asked.contains("hook") && !asked.contains("hush"), "{asked}");
    }

    #[test]
    fn nobody_writes_a_line_of_the_audit_log() {
        let request = Request::delete("/api2/json/access/users/x%0AINFO%20audit:%20done")
            .body(())
            .expect("a request");
        let (head, ()) = request.into_parts();
        let path = ApiPath::of(&head.uri).expect("a path");
        assert!(path.segments()[2].contains('\n'), "calls see it decoded");
        let params = Params::gather([], Some("a=b%0Ac"), None, &[]).expect("parameters");
        let record = Record::of(
            &head,
            &Call::without_body(None, Caller::Owner, params),
            Access::Known,
        );
        let Record { call, asked, .. } = record;
        assert!(!call.contains(char::is_control), "{call}");
        assert!(!asked.contains(char::is_control), "{asked}");
    }
}
