//! Exhaustive models.
#![allow(missing_docs)]
pub mod chunk;
pub mod rules;
pub mod settle;
pub mod trial;
