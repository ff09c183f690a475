//! Request paths (`pbs-interface.md` 1.2): repeated slashes collapsed, everything below `/api2/json`.

use http::Uri;
use percent_encoding::percent_decode_str;

use super::error::ApiError;

/// The one call that is answered without the prefix too.
const METRICS: &str = "metrics";
/// Longest path plus query, in bytes.
pub(crate) const TARGET_BYTES_MAX: usize = 3072;

/// The segments of a request path below `/api2/json`, percent-decoded one by one, so that an encoded slash stays within
/// its segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiPath(Vec<String>);

impl ApiPath {
    /// The path of a REST request: 414 if path and query are too long, 404 outside `/api2/json`.
    pub(crate) fn of(uri: &Uri) -> Result<Self, ApiError> {
        let segments = segments_of(uri)?;
        match segments.split_first_chunk::<2>() {
            Some(([api2, json], rest)) if api2 == "api2" && json == "json" => {
                Ok(Self(rest.to_vec()))
            }
            // Where Prometheus looks.
            _ if segments == [METRICS] => Ok(Self(segments)),
            _ => Err(not_found(uri)),
        }
    }

    /// The path of a request within an upgraded connection, which has no prefix.
    pub(crate) fn of_stream(uri: &Uri) -> Result<Self, ApiError> {
        segments_of(uri).map(Self)
    }

    /// The segments; none for the root.
    pub(crate) fn segments(&self) -> &[String] {
        &self.0
    }
}

/// The 404 of an unknown path.
pub(crate) fn not_found(uri: &Uri) -> ApiError {
    ApiError::not_found(format!("path '{}' not found", uri.path()))
}

fn segments_of(uri: &Uri) -> Result<Vec<String>, ApiError> {
    let length = uri.path().len() + uri.query().map_or(0, |query| query.len() + 1);
    if length > TARGET_BYTES_MAX {
        return Err(ApiError::uri_too_long(format!(
            "path and query have {length} bytes, at most {TARGET_BYTES_MAX} are accepted"
        )));
    }
    uri.path()
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| {
            percent_decode_str(segment)
                .decode_utf8()
                .map(std::borrow::Cow::into_owned)
                .map_err(|_| ApiError::bad_request("the path is not UTF-8"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/api2/json/version", &["version"])]
    #[case("//api2/json/access/ticket", &["access", "ticket"])]
    #[case("/api2//json///nodes/localhost//tasks/", &["nodes", "localhost", "tasks"])]
    #[case("/api2/json", &[])]
    #[case("/api2/json/?x=1", &[])]
    #[case("/api2/json/tasks/UPID%3Ax%3Aa%2Fb%5Cx3ac%2D%5F%3A", &["tasks", "UPID:x:a/b\\x3ac-_:"])]
    fn segments(#[case] target: &str, #[case] expected: &[&str]) {
        let path = ApiPath::of(&target.parse().expect("a target")).expect("found");
        assert_eq!(path.segments(), expected);
    }

    #[rstest]
    #[case("/", StatusCode::NOT_FOUND)]
    #[case("/api2", StatusCode::NOT_FOUND)]
    #[case("/api2/extjs/version", StatusCode::NOT_FOUND)]
    #[case("/api2/json/%ff", StatusCode::BAD_REQUEST)]
    fn refusals(#[case] target: &str, #[case] status: StatusCode) {
        let error = ApiPath::of(&target.parse().expect("a target")).expect_err("refused");
        assert_eq!(error.status(), status);
    }

    #[test]
    fn length_is_bounded() {
        let target = |length: usize| -> Uri {
            let head = "/api2/json/version?x=";
            let text = format!("{head}{}", "y".repeat(length - head.len()));
            text.parse().expect("a target")
        };
        assert!(ApiPath::of(&target(TARGET_BYTES_MAX)).is_ok());
        let error = ApiPath::of(&target(TARGET_BYTES_MAX + 1)).expect_err("too long");
        assert_eq!(error.status(), StatusCode::URI_TOO_LONG);
    }
}
