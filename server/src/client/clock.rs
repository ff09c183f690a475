//! The client's clock. The commands run beside no simulation, so it is the system's.

use jiff::Timestamp;

/// Now.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the client asks for the time"
)]
pub(super) fn now() -> Timestamp {
    Timestamp::now()
}
