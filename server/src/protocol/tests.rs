//! The two protocols over real TLS on the loopback, with a datastore in memory.

mod calls;
mod fixture;
mod lifecycle;
mod raw;
mod refusals;
mod streams;
