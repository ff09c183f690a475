//! The two protocols within upgraded connections: writing a snapshot, and reading one.
//!
//! Path of a request: [`crate::app`] (listener, TLS, HTTP/1.1) → [`admission`] (checks, 101, the session's life) →
//! [`connection`] (HTTP/2) → [`backup`] or [`reader`] (the calls). [`flow`] and [`memory`] bound what all of this holds in
//! memory; [`session`] shows who is connected. [`download`] reads a snapshot for one answer over HTTP/1.1.

mod admission;
mod answer;
mod backup;
mod call;
mod connection;
mod download;
mod flow;
mod memory;
mod reader;
mod served;
mod session;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    admission::{Access, Protocol, ProtocolName},
    backup::calls as backup_calls,
    download::{Download, DownloadBody, DownloadOf, UnpackTurns, missing},
    memory::{ProtocolMemory, WINDOWS_BYTES_SET_ASIDE},
    reader::calls as reader_calls,
    session::{SessionKind, SessionReport, SessionSubject, SessionTable},
};
