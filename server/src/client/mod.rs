//! The client: backup, restore and the commands that look after snapshots, against this daemon or any other that speaks
//! the Proxmox Backup protocol.

mod progress;
mod tar;
