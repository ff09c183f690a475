//! Who somebody is: a user `name@realm`, or a token of one, `name@realm!token`.
//!
//! Groups are owned by such an id, which is kept as text in the group's `owner` file.

use std::fmt;
use std::str::FromStr;

use crate::safe_id::{NameError, is_safe_id, serde_as_text};

/// Longest name of a token in bytes.
pub const TOKEN_NAME_BYTES_MAX: usize = 64;

/// A user: `name@realm`, 3 to 64 bytes. The name has no white space, `:`, `/` or control characters; the realm is a
/// safe id of 2 to 32 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId {
    text: String,
    at: usize,
}

impl UserId {
    /// The whole id as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part before the last `@`.
    pub fn name(&self) -> &str {
        &self.text[..self.at]
    }

    /// The part after the last `@`.
    pub fn realm(&self) -> &str {
        &self.text[self.at + 1..]
    }

    /// Whether this is the user with all privileges, `root@pam`.
    pub fn is_superuser(&self) -> bool {
        self.text == "root@pam"
    }

    /// The token `name` of this user.
    pub fn token(&self, name: &str) -> Result<TokenId, NameError> {
        if is_safe_id(name) && name.len() <= TOKEN_NAME_BYTES_MAX {
            let user = self.clone();
            return Ok(TokenId {
                user,
                name: name.to_owned(),
            });
        }
        let rule =
            "use up to 64 letters, digits, '_', '.' or '-', starting with a letter, a digit or '_'";
        Err(NameError::new("token name", rule, name))
    }
}

impl FromStr for UserId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let forbidden = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ':' | '/');
        let at = text.rfind('@').filter(|&at| {
            let (name, realm) = (&text[..at], &text[at + 1..]);
            (3..=64).contains(&text.len())
                && !name.is_empty()
                && !name.contains(forbidden)
                && is_safe_id(realm)
                && (2..=32).contains(&realm.len())
        });
        let rule = "write 'name@realm', 3 to 64 bytes, without white space, ':' or '/'";
        let at = at.ok_or_else(|| NameError::new("user id", rule, text))?;
        Ok(Self {
            text: text.to_owned(),
            at,
        })
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A token: `name@realm!token`. The token name is a safe id of at most [`TOKEN_NAME_BYTES_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId {
    user: UserId,
    name: String,
}

impl TokenId {
    /// Whose token it is.
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// The name of the token alone.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for TokenId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        // Neither realm nor token name can hold '!', so the last one is the separator.
        let Some((user, name)) = text.rsplit_once('!') else {
            let rule = "write 'name@realm!token'";
            return Err(NameError::new("token id", rule, text));
        };
        user.parse::<UserId>()?.token(name)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}!{}", self.user, self.name)
    }
}

/// A user or a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AuthId {
    /// A user.
    User(UserId),
    /// A token of a user.
    Token(TokenId),
}

impl AuthId {
    /// The user, or the user whose token it is.
    pub fn user(&self) -> &UserId {
        match self {
            Self::User(user) => user,
            Self::Token(token) => token.user(),
        }
    }

    /// Whether who has this id counts as owner of what `owner` owns: it is the same id, or the user whose token the
    /// owner is. A token does not own what its user owns.
    pub fn owns_as(&self, owner: &Self) -> bool {
        match (self, owner) {
            (Self::User(user), Self::Token(token)) => token.user() == user,
            _ => self == owner,
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

impl FromStr for AuthId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let after_realm = text
            .rsplit_once('@')
            .is_some_and(|(_, rest)| rest.contains('!'));
        if after_realm {
            text.parse().map(Self::Token)
        } else {
            text.parse().map(Self::User)
        }
    }
}

impl fmt::Display for AuthId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => fmt::Display::fmt(user, f),
            Self::Token(token) => fmt::Display::fmt(token, f),
        }
    }
}

serde_as_text!(UserId, TokenId, AuthId);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(text: &str) -> AuthId {
        text.parse().expect("a valid id")
    }

    #[test]
    fn users_and_tokens() {
        let AuthId::Token(token) = id("a.b@corp@pbs!tok") else {
            panic!("a token");
        };
        assert_eq!(token.user().name(), "a.b@corp");
        assert_eq!(token.user().realm(), "pbs");
        assert_eq!(token.name(), "tok");
        assert!(id("root@pam").user().is_superuser());
        assert!(matches!(id("a!b@pbs"), AuthId::User(_)));
    }

    #[test]
    fn odd_ids_are_refused() {
        for text in [
            "",
            "root",
            "@pam",
            "a@b",
            "a b@pam",
            "a:b@pam",
            "a/b@pam",
            "a@pam!",
            "a@pam!.",
            "a@pam!x!y",
            "a\n@pam",
            "a@pa m",
            "a@pam\n",
        ] {
            assert!(text.parse::<AuthId>().is_err(), "{text:?}");
        }
        assert!(format!("{}@pam", "a".repeat(60)).parse::<UserId>().is_ok());
        assert!(format!("{}@pam", "a".repeat(61)).parse::<UserId>().is_err());
    }

    #[test]
    fn a_user_owns_what_his_tokens_own_but_not_the_other_way_round() {
        let (user, token, other) = (id("a@pbs"), id("a@pbs!t"), id("b@pbs"));
        assert!(user.owns_as(&user) && user.owns_as(&token) && token.owns_as(&token));
        assert!(!token.owns_as(&user) && !other.owns_as(&token) && !token.owns_as(&id("a@pbs!u")));
    }

    proptest! {
        #[test]
        fn any_accepted_text_is_shown_unchanged(text in "[a-c!@:.]{0,10}") {
            if let Ok(id) = text.parse::<AuthId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
