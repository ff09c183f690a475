//! Exhaustive models.
#![allow(missing_docs)]
pub mod chunk;
pub mod roots;
pub mod rules;
pub mod seal;
pub mod settle;
pub mod trial;
