//! Exhaustive models.
#![allow(missing_docs)]
pub mod cache;
pub mod chunk;
pub mod owner;
pub mod roots;
pub mod rules;
pub mod seal;
pub mod settle;
pub mod trial;
