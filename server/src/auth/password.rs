//! Password hashes: Argon2id in PHC text form, at most [`HASHES_AT_ONCE`] computed at a time, each on the blocking pool.
//!
//! A check costs the same whether the user exists or not, so that time tells nobody which users there are.

use std::sync::Arc;

use argon2::password_hash::PasswordHasher as _;
use argon2::password_hash::PasswordVerifier as _;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::entropy::random_bytes;

/// Each hash takes 19 MiB and a core for tens of milliseconds; more at once would starve the backups.
const HASHES_AT_ONCE: usize = 2;
/// How many checks may wait for their turn, some ten seconds' worth; beyond it a check is refused.
const WAITING_MAX: usize = 512;
/// Longest password that is looked at, in bytes.
pub(crate) const PASSWORD_BYTES_MAX: usize = 1024;
/// Shortest password that can be set, in bytes.
pub(crate) const PASSWORD_BYTES_MIN: usize = 8;

/// Why a password could not be hashed or checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PasswordError {
    /// Too many checks are waiting.
    #[error("too many logins at once, try again later")]
    Busy,
    /// Shorter than [`PASSWORD_BYTES_MIN`] or longer than [`PASSWORD_BYTES_MAX`].
    #[error("a password has {PASSWORD_BYTES_MIN} to {PASSWORD_BYTES_MAX} characters")]
    Length,
    /// The computation failed, for want of memory.
    #[error("the password hash could not be computed")]
    Failed,
}

/// Computes and checks password hashes.
#[derive(Debug, Clone)]
pub(crate) struct Passwords {
    params: Params,
    turns: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    /// The hash of a random text, checked when there is no other.
    decoy: Arc<str>,
}

impl Passwords {
    /// With the recommended cost: 19 MiB, two passes. Blocks for one hash.
    #[cfg(not(feature = "fuzz"))]
    pub(crate) fn new() -> Self {
        Self::with_params(Params::default())
    }

    /// With the least cost: thousands of daemons are made there.
    #[cfg(feature = "fuzz")]
    pub(crate) fn new() -> Self {
        let least = Params::new(Params::MIN_M_COST, 1, 1, None);
        Self::with_params(least.unwrap_or_default())
    }

    /// With another cost, for tests.
    pub(crate) fn with_params(params: Params) -> Self {
        let decoy = hash(&params, &random_bytes::<16>()).expect("the parameters are valid");
        Self {
            params,
            turns: Arc::new(Semaphore::new(HASHES_AT_ONCE)),
            queue: Arc::new(Semaphore::new(HASHES_AT_ONCE + WAITING_MAX)),
            decoy: decoy.into(),
        }
    }

    /// Refuses a password that is too short or too long to be set.
    #[expect(clippy::unused_self, reason = "asked of whoever hashes")]
    pub(crate) fn check_length(&self, password: &str) -> Result<(), PasswordError> {
        if (PASSWORD_BYTES_MIN..=PASSWORD_BYTES_MAX).contains(&password.len()) {
            return Ok(());
        }
        Err(PasswordError::Length)
    }

    /// The PHC text to store for `password`.
    pub(crate) async fn hash(&self, password: &str) -> Result<String, PasswordError> {
        self.check_length(password)?;
        let turn = self.turn().await?;
        let (params, password) = (self.params.clone(), password.to_owned());
        on_blocking_pool(turn, move || hash(&params, password.as_bytes())).await?
    }

    /// The same where no runtime is at hand. Blocks for the hash.
    pub(crate) fn hash_blocking(&self, password: &str) -> Result<String, PasswordError> {
        self.check_length(password)?;
        hash(&self.params, password.as_bytes())
    }

    /// Whether `password` belongs to `stored`. Without a stored hash the answer is no, after the same work.
    pub(crate) async fn verify(
        &self,
        password: &str,
        stored: Option<&str>,
    ) -> Result<bool, PasswordError> {
        let turn = self.turn().await?;
        let parsed = stored.and_then(|text| PasswordHash::new(text).ok());
        if stored.is_some() && parsed.is_none() {
            tracing::error!("a stored password hash is damaged; set that user's password anew");
        }
        let known = parsed.is_some();
        let expected = match parsed {
            Some(parsed) => parsed,
            None => PasswordHash::new(&self.decoy).map_err(|_| PasswordError::Failed)?,
        };
        let fits = password.len() <= PASSWORD_BYTES_MAX;
        let tried = if fits {
            password.to_owned()
        } else {
            String::new()
        };
        let matches = on_blocking_pool(turn, move || {
            Argon2::default()
                .verify_password(tried.as_bytes(), &expected)
                .is_ok()
        })
        .await?;
        Ok(matches && known && fits)
    }

    /// A place in the bounded queue, then one of the turns.
    async fn turn(&self) -> Result<[OwnedSemaphorePermit; 2], PasswordError> {
        let place = self.queue.clone().try_acquire_owned();
        let place = place.map_err(|_| PasswordError::Busy)?;
        let turn = self.turns.clone().acquire_owned().await;
        Ok([turn.map_err(|_| PasswordError::Busy)?, place])
    }
}

/// Runs `work` on the blocking pool; the turn ends with the work, even if nobody waits for it any more.
async fn on_blocking_pool<T: Send + 'static>(
    turn: [OwnedSemaphorePermit; 2],
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PasswordError> {
    let task = tokio::task::spawn_blocking(move || {
        let result = work();
        drop(turn);
        result
    });
    task.await.map_err(|_| PasswordError::Failed)
}

fn hash(params: &Params, password: &[u8]) -> Result<String, PasswordError> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
        .hash_password_with_salt(password, &random_bytes::<16>())
        .map(|hash| hash.to_string())
        .map_err(|_| PasswordError::Failed)
}

/// Hashes that cost next to nothing, for tests.
#[cfg(test)]
pub(crate) fn cheap() -> Passwords {
    Passwords::with_params(Params::new(Params::MIN_M_COST, 1, 1, None).expect("valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_is_argon2id_and_matches_its_password_only() {
        let passwords = cheap();
        let stored = passwords.hash("correct horse").await.expect("hashed");
        assert!(stored.starts_with("$argon2id$v=19$"));
        assert_ne!(
            stored,
            passwords.hash("correct horse").await.expect("hashed")
        );
        let check = |password: &'static str, stored: Option<String>| {
            let passwords = passwords.clone();
            async move {
                passwords
                    .verify(password, stored.as_deref())
                    .await
                    .expect("checked")
            }
        };
        assert!(check("correct horse", Some(stored.clone())).await);
        assert!(!check("correct horses", Some(stored.clone())).await);
        assert!(!check("correct horse", None).await);
        assert!(!check("correct horse", Some("$argon2id$nonsense".into())).await);
    }

    #[tokio::test]
    async fn lengths_are_bounded() {
        let passwords = cheap();
        assert_eq!(passwords.hash("short").await, Err(PasswordError::Length));
        let long = "x".repeat(PASSWORD_BYTES_MAX + 1);
        assert_eq!(passwords.hash(&long).await, Err(PasswordError::Length));
        let stored = passwords
            .hash("x".repeat(10).as_str())
            .await
            .expect("hashed");
        let verified = passwords.verify(&long, Some(&stored)).await;
        assert_eq!(verified, Ok(false));
    }

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let passwords = cheap();
        let mut held = Vec::new();
        for _ in 0..HASHES_AT_ONCE {
            held.push(passwords.turn().await.expect("a turn"));
        }
        let mut waiting = Vec::new();
        for _ in 0..WAITING_MAX {
            let mut turn = Box::pin(passwords.turn());
            assert!(futures_util::poll!(&mut turn).is_pending());
            waiting.push(turn);
        }
        assert_eq!(
            passwords.verify("any password", None).await,
            Err(PasswordError::Busy)
        );
        held.pop();
        let third = waiting.remove(0).await;
        assert!(third.is_ok(), "a freed turn goes to who waits");
    }
}
