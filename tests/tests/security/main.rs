//! Hostile clients against the real daemon over TLS: who may do what, names, sizes, floods, slowness, bombs, secrets.
//!
//! Each attack is shown to fail, to take nothing that stays taken, and to leave an honest client alone: one backs up,
//! restores and compares beside it and after it ([`world::World::beside`]). How to run it and what each attack asserts is
//! in `docs/testing/security.md`.

mod accounts;
mod bombs;
mod calls;
mod credentials;
mod crowds;
mod dawdlers;
mod floods;
mod logins;
mod matrix;
mod names;
mod row;
mod secrets;
mod sizes;
mod tenants;
mod usage;
mod world;
