//! What hostile bytes reach in this crate, as functions over bytes (`tests/fuzz`).
//!
//! Each panics when what it asserts does not hold; that the bytes are refused is a result like any other. The daemon of
//! these functions is a real one without sockets, on one thread and a clock that stands still while there is work; it
//! lives on from one input to the next as long as an input changed nothing that others rely on.

mod archive;
mod calls;
mod covered;
mod faults;
mod rest;
mod sessions;
mod texts;
mod wire;
mod world;

pub use self::{
    archive::tar_restore,
    calls::records,
    covered::calls_missed,
    faults::take_faults,
    rest::rest,
    sessions::{backup, backup_finished, reader},
    texts::{calendar, config, credentials, repository, secrets, task_index, ticket},
    wire::{http1, http2, upgrade},
    world::{KNOWN_DIGESTS, KNOWN_TIME, TOKENS},
};
