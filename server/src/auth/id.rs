//! Names of users, API tokens and both (`pbs-interface.md` 2.3).
//!
//! `name@realm` is a user, `name@realm!token` one of the user's API tokens. A text is never both: a realm holds no `!`
//! and a token name no `@`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Shortest and longest user id, in bytes.
const USER_ID_BYTES: std::ops::RangeInclusive<usize> = 3..=64;
/// Shortest and longest realm, in bytes.
const REALM_BYTES: std::ops::RangeInclusive<usize> = 2..=32;
/// Longest token name, in bytes.
const TOKEN_NAME_BYTES_MAX: usize = 64;

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IdError {
    /// Not `name@realm`.
    #[error(
        "'{0}' is no user id, which is NAME@REALM of 3 to 64 characters, the name without blanks, ':' and '/'"
    )]
    User(String),
    /// Not `user!name`.
    #[error(
        "'{0}' is no token id, which is NAME@REALM!TOKEN, the token's name of letters, digits, '_', '.' and '-'"
    )]
    Token(String),
}

/// First character a letter, a digit or `_`, the others also `.` or `-`.
pub(crate) fn is_safe_id(text: &str) -> bool {
    let mut bytes = text.bytes();
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    bytes.next().is_some_and(word) && bytes.all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A user: `name@realm`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct UserId {
    text: String,
    at: usize,
}

impl UserId {
    /// The superuser, who has all privileges; the superuser's tokens have not.
    pub(crate) fn root() -> Self {
        Self {
            text: "root@pam".into(),
            at: 4,
        }
    }

    /// Whether this is [`UserId::root`].
    pub(crate) fn is_root(&self) -> bool {
        self.text == "root@pam"
    }

    /// The part before the realm.
    pub(crate) fn name(&self) -> &str {
        &self.text[..self.at]
    }

    /// The realm.
    pub(crate) fn realm(&self) -> &str {
        &self.text[self.at + 1..]
    }

    /// `name@realm`.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for UserId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let fault = || IdError::User(shortened(text));
        let (name, realm) = text.rsplit_once('@').ok_or_else(fault)?;
        let bad =
            |c: char| c.is_whitespace() || c.is_control() || c == ':' || c == '/' || c == '\u{7f}';
        let valid = USER_ID_BYTES.contains(&text.len())
            && !name.is_empty()
            && !name.contains(bad)
            && REALM_BYTES.contains(&realm.len())
            && is_safe_id(realm);
        if valid {
            Ok(Self {
                text: text.to_owned(),
                at: name.len(),
            })
        } else {
            Err(fault())
        }
    }
}

/// An API token: `name@realm!token`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TokenId {
    user: UserId,
    name: String,
}

impl TokenId {
    /// The token `name` of `user`.
    pub(crate) fn new(user: UserId, name: &str) -> Result<Self, IdError> {
        if is_safe_id(name) && name.len() <= TOKEN_NAME_BYTES_MAX {
            Ok(Self {
                user,
                name: name.to_owned(),
            })
        } else {
            Err(IdError::Token(shortened(&format!("{user}!{name}"))))
        }
    }

    /// Whose token it is.
    pub(crate) fn user(&self) -> &UserId {
        &self.user
    }

    /// The part after `!`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for TokenId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let fault = || IdError::Token(shortened(text));
        let (user, name) = text.rsplit_once('!').ok_or_else(fault)?;
        let user = user.parse().map_err(|_| fault())?;
        Self::new(user, name).map_err(|_| fault())
    }
}

/// Who acts: a user, or one of a user's API tokens.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum AuthId {
    /// A user.
    User(UserId),
    /// An API token.
    Token(TokenId),
}

impl AuthId {
    /// The superuser, as whom the daemon's own jobs run.
    pub(crate) fn root() -> Self {
        Self::User(UserId::root())
    }

    /// The user, or the user whose token it is.
    pub(crate) fn user(&self) -> &UserId {
        match self {
            Self::User(user) => user,
            Self::Token(token) => token.user(),
        }
    }

    /// The token, if it is one.
    pub(crate) fn token(&self) -> Option<&TokenId> {
        match self {
            Self::User(_) => None,
            Self::Token(token) => Some(token),
        }
    }

    /// Whether `self`, as owner of a group, counts as owned by `identity`: the same id, or a token of the user
    /// `identity`. A token does not own what its user or another token owns.
    pub(crate) fn is_owned_by(&self, identity: &Self) -> bool {
        match (self, identity) {
            (Self::Token(owner), Self::User(user)) => owner.user() == user,
            _ => self == identity,
        }
    }
}

/// Whether `identity` owns what belongs to `owner` (`pbs-interface.md` 2.5).
pub(crate) fn owns(owner: &AuthId, identity: &AuthId) -> bool {
    owner.is_owned_by(identity)
}

impl FromStr for AuthId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if let Ok(user) = text.parse() {
            return Ok(Self::User(user));
        }
        if text.contains('!') {
            text.parse().map(Self::Token)
        } else {
            Err(IdError::User(shortened(text)))
        }
    }
}

impl From<UserId> for AuthId {
    fn from(user: UserId) -> Self {
        Self::User(user)
    }
}

impl From<TokenId> for AuthId {
    fn from(token: TokenId) -> Self {
        Self::Token(token)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}!{}", self.user, self.name)
    }
}

impl fmt::Display for AuthId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => user.fmt(f),
            Self::Token(token) => token.fmt(f),
        }
    }
}

macro_rules! text_form {
    ($($id:ident),*) => {$(
        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $id {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $id {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

text_form!(UserId, TokenId, AuthId);

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("root@pam", true)]
    #[case("a@pbs", true)]
    #[case("mail@home@pbs", true)]
    #[case("with!mark@pbs", true)]
    #[case("jörg@pbs", true)]
    #[case("@pbs", false)]
    #[case("root", false)]
    #[case("root@p", false)]
    #[case("root@pa m", false)]
    #[case("ro ot@pam", false)]
    #[case("ro:ot@pam", false)]
    #[case("ro/ot@pam", false)]
    #[case("ro\u{1}ot@pam", false)]
    #[case("root@-pam", false)]
    fn user_ids(#[case] text: &str, #[case] valid: bool) {
        assert_eq!(text.parse::<UserId>().is_ok(), valid);
        if valid {
            assert_eq!(text.parse::<UserId>().expect("valid").as_str(), text);
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let name = "n".repeat(60);
        assert!(format!("{name}@pbs").parse::<UserId>().is_ok());
        assert!(format!("{name}x@pbs").parse::<UserId>().is_err());
        assert!(format!("a@{}", "r".repeat(33)).parse::<UserId>().is_err());
    }

    #[test]
    fn a_text_is_a_user_or_a_token() {
        let token: AuthId = "tester@pbs!tok".parse().expect("a token");
        assert_eq!(token.token().expect("a token").name(), "tok");
        assert_eq!(token.user().as_str(), "tester@pbs");
        assert_eq!(token.to_string(), "tester@pbs!tok");
        let user: AuthId = "a!b@pbs".parse().expect("a user");
        assert!(user.token().is_none());
        assert!("tester@pbs!".parse::<AuthId>().is_err());
        assert!("tester@pbs!-x".parse::<AuthId>().is_err());
        assert!("tester!x".parse::<AuthId>().is_err());
    }

    #[rstest]
    #[case("u@pbs", "u@pbs", true)]
    #[case("u@pbs!t", "u@pbs", true)]
    #[case("u@pbs!t", "u@pbs!t", true)]
    #[case("u@pbs", "u@pbs!t", false)]
    #[case("u@pbs!t", "u@pbs!s", false)]
    #[case("v@pbs!t", "u@pbs", false)]
    fn ownership(#[case] owner: &str, #[case] identity: &str, #[case] expected: bool) {
        let owner = owner.parse().expect("an id");
        let identity = identity.parse().expect("an id");
        assert_eq!(owns(&owner, &identity), expected);
    }
}
