//! Placeholder.
mod client;
fn main() {}
