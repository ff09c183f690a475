//! Tickets and CSRF tokens (`pbs-interface.md` 2.1): stateless, signed with keys from the secrets file.
//!
//! A ticket is `PBS:{user}:{8 upper-case hex digits of Unix time}::{base64 of an HMAC-SHA256, unpadded}`. Clients age it
//! by the digits before `::` and know nothing else of it. The signature also covers what the user's password is checked
//! against, so a new password ends all tickets. A CSRF token is `{8 hex digits}:{base64}` over time and user.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::id::UserId;
use crate::entropy::random_bytes;

/// How long a ticket is good, in seconds.
pub(crate) const TICKET_LIFE_SECONDS: i64 = 7200;
/// How far in the future a ticket's time may lie, in seconds: clocks that were set back.
const SKEW_SECONDS: i64 = 300;
/// Longest ticket that is looked at, in bytes: user id, time, signature and room.
const TICKET_BYTES_MAX: usize = 512;

const PREFIX: &str = "PBS:";

/// Why a ticket or CSRF token is not accepted. Clients hear only that it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TicketError {
    /// Not in the form of a ticket.
    #[error("malformed ticket")]
    Malformed,
    /// Too old, or from the future.
    #[error("expired ticket")]
    Expired,
    /// Not signed by us, or not for this user and password.
    #[error("invalid ticket signature")]
    Signature,
}

/// The two signing keys.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct TicketKeys {
    ticket: [u8; 32],
    csrf: [u8; 32],
}

impl TicketKeys {
    /// With these keys.
    pub(crate) fn new(ticket: [u8; 32], csrf: [u8; 32]) -> Self {
        Self { ticket, csrf }
    }

    /// New random keys.
    pub(crate) fn generate() -> Self {
        Self::new(random_bytes(), random_bytes())
    }

    /// The keys in hex, ticket key first, for the secrets file.
    pub(crate) fn to_hex(&self) -> (String, String) {
        (hex::encode(self.ticket), hex::encode(self.csrf))
    }

    /// A ticket of `user` from `now` (Unix seconds) on; `password_mark` is what the user's password is checked against.
    pub(crate) fn issue(&self, user: &UserId, password_mark: &str, now: i64) -> String {
        let text = format!("{PREFIX}{user}:{:08X}", clamp(now));
        let mac = self.ticket_mac(&text, password_mark).finalize();
        format!("{text}::{}", STANDARD_NO_PAD.encode(mac.into_bytes()))
    }

    /// The user of a ticket that is good at `now`; `password_mark` finds what the user's password is checked against,
    /// or nothing if the user may not log in.
    pub(crate) fn verify(
        &self,
        ticket: &str,
        now: i64,
        password_mark: impl FnOnce(&UserId) -> Option<String>,
    ) -> Result<UserId, TicketError> {
        if ticket.len() > TICKET_BYTES_MAX {
            return Err(TicketError::Malformed);
        }
        let (text, signature) = ticket.split_once("::").ok_or(TicketError::Malformed)?;
        let inner = text.strip_prefix(PREFIX).ok_or(TicketError::Malformed)?;
        let (user, time) = inner.rsplit_once(':').ok_or(TicketError::Malformed)?;
        let user: UserId = user.parse().map_err(|_| TicketError::Malformed)?;
        let time = parse_time(time)?;
        let signature = STANDARD_NO_PAD
            .decode(signature)
            .map_err(|_| TicketError::Malformed)?;
        let mark = password_mark(&user).ok_or(TicketError::Signature)?;
        self.ticket_mac(text, &mark)
            .verify_slice(&signature)
            .map_err(|_| TicketError::Signature)?;
        check_age(time, now)?;
        Ok(user)
    }

    /// A CSRF token of `user` from `now` (Unix seconds) on.
    pub(crate) fn issue_csrf(&self, user: &UserId, now: i64) -> String {
        let time = format!("{:08X}", clamp(now));
        let mac = self.csrf_mac(&time, user).finalize();
        format!("{time}:{}", STANDARD_NO_PAD.encode(mac.into_bytes()))
    }

    /// Whether `token` is a CSRF token of `user` that is good at `now`.
    pub(crate) fn verify_csrf(
        &self,
        token: &str,
        user: &UserId,
        now: i64,
    ) -> Result<(), TicketError> {
        let (time, signature) = token.split_once(':').ok_or(TicketError::Malformed)?;
        let signature = STANDARD_NO_PAD
            .decode(signature)
            .map_err(|_| TicketError::Malformed)?;
        self.csrf_mac(time, user)
            .verify_slice(&signature)
            .map_err(|_| TicketError::Signature)?;
        check_age(parse_time(time)?, now)
    }

    fn ticket_mac(&self, text: &str, password_mark: &str) -> Hmac<Sha256> {
        let mut mac = keyed(&self.ticket);
        mac.update(text.as_bytes());
        mac.update(&[0]);
        mac.update(password_mark.as_bytes());
        mac
    }

    fn csrf_mac(&self, time: &str, user: &UserId) -> Hmac<Sha256> {
        let mut mac = keyed(&self.csrf);
        mac.update(time.as_bytes());
        mac.update(b":");
        mac.update(user.as_str().as_bytes());
        mac
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKeys(…)")
    }
}

/// Whether a password is in truth a ticket, sent to be renewed.
pub(crate) fn looks_like_ticket(password: &str) -> bool {
    password.starts_with(PREFIX)
}

fn keyed(key: &[u8; 32]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("an HMAC takes keys of any length")
}

/// Eight hex digits hold the times until 2106.
fn clamp(seconds: i64) -> i64 {
    seconds.clamp(0, i64::from(u32::MAX))
}

fn parse_time(digits: &str) -> Result<i64, TicketError> {
    let upper_hex = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
    if digits.len() == 8 && digits.bytes().all(upper_hex) {
        i64::from_str_radix(digits, 16).map_err(|_| TicketError::Malformed)
    } else {
        Err(TicketError::Malformed)
    }
}

fn check_age(time: i64, now: i64) -> Result<(), TicketError> {
    if (-SKEW_SECONDS..=TICKET_LIFE_SECONDS).contains(&(now - time)) {
        Ok(())
    } else {
        Err(TicketError::Expired)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const NOW: i64 = 0x6B00_5896;

    fn user() -> UserId {
        "tester@pbs".parse().expect("a user id")
    }

    fn verify(keys: &TicketKeys, ticket: &str, now: i64) -> Result<UserId, TicketError> {
        keys.verify(ticket, now, |_| Some("hash".into()))
    }

    #[test]
    fn tickets_have_the_shape_that_clients_can_age() {
        let ticket = TicketKeys::generate().issue(&user(), "hash", NOW);
        let (head, signature) = ticket.split_once("::").expect("two colons");
        assert_eq!(head, "PBS:tester@pbs:6B005896");
        assert_eq!(signature.len(), 43);
        assert!(!signature.contains([':', ' ', '=', ';']));
        assert!(looks_like_ticket(&ticket));
    }

    #[rstest]
    #[case(0, Ok(()))]
    #[case(7200, Ok(()))]
    #[case(7201, Err(TicketError::Expired))]
    #[case(-300, Ok(()))]
    #[case(-301, Err(TicketError::Expired))]
    fn age(#[case] later: i64, #[case] expected: Result<(), TicketError>) {
        let keys = TicketKeys::generate();
        let ticket = keys.issue(&user(), "hash", NOW);
        assert_eq!(verify(&keys, &ticket, NOW + later).map(|_| ()), expected);
        let csrf = keys.issue_csrf(&user(), NOW);
        assert_eq!(keys.verify_csrf(&csrf, &user(), NOW + later), expected);
    }

    #[test]
    fn nothing_but_the_issued_ticket_is_accepted() {
        let keys = TicketKeys::generate();
        let ticket = keys.issue(&user(), "hash", NOW);
        assert_eq!(verify(&keys, &ticket, NOW), Ok(user()));
        let forged = [
            ticket.replace("tester", "tester2"),
            ticket.replace("6B005896", "6B005897"),
            ticket.replace("6B005896", "6b005896"),
            ticket.replace("PBS:", "PVE:"),
            format!("{ticket}="),
            ticket[..ticket.len() - 4].to_owned(),
            "PBS:tester@pbs:60000000::AAAA".to_owned(),
            String::new(),
            "PBS:".repeat(300),
        ];
        for forgery in forged {
            assert!(verify(&keys, &forgery, NOW).is_err(), "{forgery}");
        }
        let others = TicketKeys::generate();
        assert_eq!(verify(&others, &ticket, NOW), Err(TicketError::Signature));
        let new_password = keys.verify(&ticket, NOW, |_| Some("another hash".into()));
        assert_eq!(new_password, Err(TicketError::Signature));
        let unknown = keys.verify(&ticket, NOW, |_| None);
        assert_eq!(unknown, Err(TicketError::Signature));
    }

    #[test]
    fn a_csrf_token_is_its_users_and_no_ticket() {
        let keys = TicketKeys::generate();
        let token = keys.issue_csrf(&user(), NOW);
        let other = "other@pbs".parse().expect("a user id");
        assert!(keys.verify_csrf(&token, &other, NOW).is_err());
        assert!(keys.verify_csrf("", &user(), NOW).is_err());
        assert!(verify(&keys, &token, NOW).is_err());
        let ticket = keys.issue(&user(), "hash", NOW);
        assert!(keys.verify_csrf(&ticket, &user(), NOW).is_err());
    }
}
