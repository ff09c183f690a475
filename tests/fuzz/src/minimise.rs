//! A finding, cut down to what it needs.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::judge::Finding;
use crate::targets::Target;
use crate::worker::{Order, employ};

/// Attempts at most; each is a process.
const ATTEMPTS_MAX: u32 = 400;
/// Time at most.
const TIME_MAX: Duration = Duration::from_secs(45);

/// What happens to `data` in a process of its own.
pub fn alone(target: &'static Target, data: &[u8]) -> Result<Option<Finding>> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), data)?;
    let order = Order {
        target,
        only: Some(file.path().to_owned()),
        seed: 0,
        first: 0,
        time: Duration::ZERO,
    };
    Ok(employ(&order)?.finding)
}

/// The shortest part of `data` that was seen to end at the same place; `None` if `data` alone does not.
pub fn minimise(target: &'static Target, data: &[u8], place: &str) -> Result<Option<Vec<u8>>> {
    let same = |data: &[u8]| -> Result<bool> {
        Ok(alone(target, data)?.is_some_and(|finding| finding.place == place))
    };
    if !same(data)? {
        return Ok(None);
    }
    #[expect(clippy::disallowed_methods, reason = "the bound is on real time")]
    let start = Instant::now();
    let (mut data, mut attempts) = (data.to_vec(), 0);
    let mut length = data.len().div_ceil(2);
    while length > 0 {
        let mut at = 0;
        while at < data.len() {
            if attempts >= ATTEMPTS_MAX || start.elapsed() > TIME_MAX {
                return Ok(Some(data));
            }
            attempts += 1;
            let mut shorter = data.clone();
            shorter.drain(at..(at + length).min(data.len()));
            if same(&shorter)? {
                data = shorter;
            } else {
                at += length;
            }
        }
        length /= 2;
    }
    Ok(Some(data))
}
