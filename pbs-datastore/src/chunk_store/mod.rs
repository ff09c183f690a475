//! Where chunks are: markers, guards, insert, reads.

pub(crate) mod guard;
pub(crate) mod marker;
