//! Random bytes for keys, secrets and ids: always from the operating system, never from a seeded generator, because
//! whoever can replay them owns the tickets.

use rand::TryRng as _;
use rand::rngs::SysRng;

/// `N` random bytes fit for keys.
///
/// # Panics
/// If the operating system has no randomness, which leaves nothing safe to do.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SysRng
        .try_fill_bytes(&mut bytes)
        .expect("the operating system provides random bytes");
    bytes
}
