//! A request within an upgraded connection: path, parameters and body.
//!
//! Uploads have their parameters in the query. All other calls have them in the query or in a JSON or form body.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Uri};
use hyper::body::{Body as _, Incoming};
use pbs_datastore::ArchiveName;

use super::answer::Refusal;
use super::flow::{BodyFault, read_body};
use super::memory::Claims;
use super::session::Progress;
use crate::api::{ApiError, ApiPath, BODY_BYTES_MAX, Params};
use crate::auth::is_safe_id;

/// A request whose parameters were not looked at yet.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// The only segment of the path; empty for the root.
    pub(crate) name: String,
    uri: Uri,
    content_type: Option<String>,
    pub(crate) body: Incoming,
}

impl Call {
    /// Looks at the path. None of the two protocols has one of two segments.
    pub(crate) fn of(request: Request<Incoming>) -> Result<Self, Refusal> {
        let (head, body) = request.into_parts();
        let path = ApiPath::of_stream(&head.uri)?;
        let name = match path.segments() {
            [] => String::new(),
            [name] => name.clone(),
            _ => return Err(Refusal::path(head.uri.path())),
        };
        let content_type = head.headers.get(CONTENT_TYPE);
        let content_type = content_type
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        Ok(Self {
            method: head.method,
            name,
            uri: head.uri,
            content_type,
            body,
        })
    }

    /// The refusal of a path or method that does not exist.
    pub(crate) fn unknown(&self) -> Refusal {
        Refusal::path(self.uri.path())
    }

    /// The parameters of an upload; the body stays unread.
    pub(crate) fn upload(self) -> Result<(Params, Incoming), Refusal> {
        let params =
            Params::gather([], self.uri.query(), None, &[]).map_err(Refusal::parameters)?;
        Ok((params, self.body))
    }

    /// The parameters of a call that is no upload. Its body is read under a claim too.
    pub(crate) async fn params(
        self,
        claims: &Claims,
        progress: &Progress,
    ) -> Result<Params, Refusal> {
        let body = if self.body.is_end_stream() {
            Bytes::new()
        } else {
            let announced = self.body.size_hint().exact();
            let longest = BODY_BYTES_MAX as u64;
            let bytes = announced.unwrap_or(longest).min(longest);
            let _claim = claims.take(bytes).await.ok_or_else(no_memory)?;
            let likely = announced.map_or(0, |_| bytes as usize);
            read_body(self.body, BODY_BYTES_MAX, likely, progress).await?
        };
        gather(&self.uri, self.content_type.as_deref(), &body)
    }

    /// The same with a body of a few bytes.
    pub(crate) async fn params_small(
        self,
        bytes_max: usize,
        progress: &Progress,
    ) -> Result<Params, Refusal> {
        let body = read_body(self.body, bytes_max, 0, progress).await?;
        gather(&self.uri, self.content_type.as_deref(), &body)
    }
}

/// A body, or a file to answer with, that got no memory for a long time.
pub(super) fn no_memory() -> ApiError {
    ApiError::unavailable(
        "there is no memory for it; raise memory-budget-bytes or run fewer sessions at once",
    )
}

fn gather(uri: &Uri, content_type: Option<&str>, body: &[u8]) -> Result<Params, Refusal> {
    Params::gather([], uri.query(), content_type, body).map_err(Refusal::parameters)
}

impl From<BodyFault> for Refusal {
    fn from(fault: BodyFault) -> Self {
        ApiError::bad_request(fault.to_string()).into()
    }
}

/// Takes parameters; what is wrong with them is refused before the call begins.
pub(crate) fn take<T>(
    mut params: Params,
    take: impl FnOnce(&mut Params) -> Result<T, ApiError>,
) -> Result<T, Refusal> {
    let taken = take(&mut params).and_then(|taken| params.finish().map(|()| taken));
    taken.map_err(Refusal::parameters)
}

/// Takes the text of a file name; malformed ones are refused here, those with a strange extension by [`archive_name`].
pub(crate) fn take_file_name(params: &mut Params, name: &str) -> Result<String, ApiError> {
    let text: String = params.required(name)?;
    if is_safe_id(&text) {
        Ok(text)
    } else {
        Err(ApiError::bad_request(format!(
            "parameter verification failed: '{name}' is no file name"
        )))
    }
}

/// The name of a file of a snapshot.
pub(crate) fn archive_name(text: &str) -> Result<ArchiveName, Refusal> {
    text.parse()
        .map_err(|_| ApiError::bad_request(format!("unknown archive type: \"{text}\"")).into())
}

/// A row in a protocol's table of calls: method, name below `/`, what the call does.
pub(super) type CallRow<A> = (Method, &'static str, A);

/// What a call does; `None` if the table has none of its method and name.
pub(super) fn find<A: Copy>(table: &[CallRow<A>], call: &Call) -> Option<A> {
    let row = table
        .iter()
        .find(|(method, name, _)| *method == call.method && *name == call.name);
    row.map(|(_, _, action)| *action)
}

/// Method and name of every row.
pub(super) fn listed<A>(table: &[CallRow<A>]) -> Vec<(Method, &'static str)> {
    let row = |(method, name, _): &CallRow<A>| (method.clone(), *name);
    table.iter().map(row).collect()
}

/// The answer to `GET /`: the names below it, sorted.
pub(super) fn directory<A>(table: &[CallRow<A>]) -> Result<crate::api::Reply, ApiError> {
    let mut names: Vec<&str> = table.iter().map(|(_, name, _)| *name).collect();
    names.retain(|name| !name.is_empty());
    names.sort_unstable();
    names.dedup();
    let list: Vec<_> = names
        .iter()
        .map(|name| serde_json::json!({ "subdir": name }))
        .collect();
    crate::api::Reply::new(&list)
}
