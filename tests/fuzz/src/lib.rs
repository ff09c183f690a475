//! Hostile input: every parser and every endpoint of Holdfast as a function over bytes, inputs that are kept, and a
//! program that makes more of them.
//!
//! A [target](targets::Target) panics when something that must hold does not. Whatever else happens to an input is judged
//! by [`judge`]: time, memory, and what the daemon logs as its own fault. `cargo hostile` replays the corpus and mutates it
//! ([`mutate`]) in processes of their own ([`worker`]), which may die; what made them is cut down ([`minimise`]) and kept.

pub mod corpus;
pub mod judge;
pub mod libfuzzer_run;
pub mod minimise;
pub mod mutate;
pub mod report;
pub mod seeds;
pub mod targets;
pub mod worker;
