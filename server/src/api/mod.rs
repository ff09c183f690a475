//! The plumbing below every call: paths, parameters, answers. Used by the REST tree and by the calls within upgraded
//! connections alike; knows no endpoint.

mod envelope;
mod error;
mod params;
mod path;
mod router;

#[expect(unused_imports, reason = "the surface for the endpoints")]
pub(crate) use self::{
    envelope::{Delays, Reply},
    error::ApiError,
    params::{BODY_BYTES_MAX, Params, read_body},
    path::{ApiPath, TARGET_BYTES_MAX, not_found},
    router::{Route, Router},
};
