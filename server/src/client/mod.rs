//! The client: backup, restore and the commands that look after snapshots, against this daemon or any other that speaks
//! the Proxmox Backup protocol.

mod http;
mod progress;
mod repository;
mod session;
mod tar;
mod trust;
