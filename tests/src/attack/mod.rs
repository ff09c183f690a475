//! Clients that follow no rules: TLS from any address of the loopback, HTTP/1.1 byte by byte, HTTP/2 frame by frame.
//!
//! Nothing here checks what it sends. Every wait is bounded, so that a server that stops answering fails a test and does
//! not hold it up.

pub mod http1;
pub mod http2;
pub mod peer;

use std::time::Duration;

/// How long one answer, or room to send, is waited for.
pub const WAIT_MAX: Duration = Duration::from_secs(30);
