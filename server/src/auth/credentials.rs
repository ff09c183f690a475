//! What a request shows to prove who it is from (`pbs-interface.md` 2.2), before anything is checked.

use std::borrow::Cow;
use std::fmt;

use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE};
use percent_encoding::percent_decode_str;

use super::id::TokenId;

/// Cookies that hold a ticket, preferred first.
const TICKET_COOKIES: [&str; 2] = ["__Host-PBSAuthCookie", "PBSAuthCookie"];
/// The scheme of the Authorization header; followed by a blank or `=`.
const TOKEN_SCHEME: &str = "PBSAPIToken";
/// The header that accompanies a ticket in requests other than GET.
const CSRF_HEADER: &str = "csrfpreventiontoken";

/// Credentials of a request.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// `Authorization: PBSAPIToken ID:SECRET`.
    Token {
        /// The token.
        id: TokenId,
        /// The secret as sent, percent-decoded.
        secret: String,
    },
    /// A ticket in a cookie.
    Ticket {
        /// The cookie's value as sent.
        raw: String,
        /// The CSRF token, if there is one.
        csrf: Option<String>,
    },
}

impl Credentials {
    /// The credentials in `headers`. An API token counts before a cookie: a browser adds cookies by itself, a token is
    /// always meant.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        token(headers).or_else(|| {
            Some(Self::Ticket {
                raw: ticket_cookie(headers)?,
                csrf: headers
                    .get(CSRF_HEADER)
                    .and_then(|value| value.to_str().ok())
                    .map(str::to_owned),
            })
        })
    }
}

impl Credentials {
    /// Who they say it is, for the log: the token's name, as nothing of a ticket is true before it is checked.
    pub(crate) fn claimed(&self) -> String {
        match self {
            Self::Token { id, .. } => id.to_string(),
            Self::Ticket { .. } => "a ticket".to_owned(),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token { id, .. } => write!(f, "Token({id})"),
            Self::Ticket { .. } => f.write_str("Ticket(…)"),
        }
    }
}

/// The texts a cookie value may stand for: percent-decoded, and as it is. `+` is always a plus.
pub(crate) fn readings(raw: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let decoded = percent_decode_str(raw).decode_utf8().ok();
    let differs = decoded.as_deref() != Some(raw);
    decoded
        .into_iter()
        .chain(differs.then_some(Cow::Borrowed(raw)))
}

fn token(headers: &HeaderMap) -> Option<Credentials> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    let scheme = value.get(..TOKEN_SCHEME.len())?;
    if !scheme.eq_ignore_ascii_case(TOKEN_SCHEME) {
        return None;
    }
    let rest = value[TOKEN_SCHEME.len()..].strip_prefix([' ', '='])?;
    let (id, secret) = rest.trim().split_once(':')?;
    let id = percent_decode_str(id).decode_utf8().ok()?;
    let secret = percent_decode_str(secret).decode_utf8().ok()?;
    Some(Credentials::Token {
        id: id.parse().ok()?,
        secret: secret.into_owned(),
    })
}

fn ticket_cookie(headers: &HeaderMap) -> Option<String> {
    let cookies: Vec<(&str, &str)> = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .collect();
    TICKET_COOKIES.iter().find_map(|wanted| {
        cookies
            .iter()
            .find(|(name, value)| name == wanted && !value.is_empty())
            .map(|(_, value)| value.trim_matches('"').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in list {
            map.append(*name, value.parse().expect("a header value"));
        }
        map
    }

    #[rstest]
    #[case("PBSAPIToken t@pbs!tok:a7a6-589a", true)]
    #[case("PBSAPIToken=t@pbs!tok:a7a6-589a", true)]
    #[case("PBSAPIToken t@pbs%21tok:a7a6%2D589a", true)]
    #[case("pbsapitoken t@pbs!tok:a7a6-589a", true)]
    #[case("PBSAPIToken: t@pbs!tok:a7a6-589a", false)]
    #[case("PBSAPITokent@pbs!tok:a7a6-589a", false)]
    #[case("PBSAPIToken t@pbs:a7a6-589a", false)]
    #[case("PBSAPIToken t@pbs!tok", false)]
    #[case("Bearer t@pbs!tok:a7a6-589a", false)]
    fn token_headers(#[case] value: &str, #[case] valid: bool) {
        let found = Credentials::of(&headers(&[("authorization", value)]));
        let expected = Credentials::Token {
            id: "t@pbs!tok".parse().expect("a token id"),
            secret: "a7a6-589a".into(),
        };
        assert_eq!(found, valid.then_some(expected));
    }

    #[test]
    fn the_host_cookie_is_preferred_and_tokens_before_cookies() {
        let both = headers(&[
            ("cookie", "lang=de; PBSAuthCookie=old"),
            ("cookie", "__Host-PBSAuthCookie=new; x=y"),
            ("csrfpreventiontoken", "c"),
        ]);
        let expected = Credentials::Ticket {
            raw: "new".into(),
            csrf: Some("c".into()),
        };
        assert_eq!(Credentials::of(&both), Some(expected));
        let cleared = headers(&[("cookie", "__Host-PBSAuthCookie=; PBSAuthCookie=a=b")]);
        let expected = Credentials::Ticket {
            raw: "a=b".into(),
            csrf: None,
        };
        assert_eq!(Credentials::of(&cleared), Some(expected));
        let token = headers(&[
            ("cookie", "PBSAuthCookie=x"),
            ("authorization", "PBSAPIToken t@pbs!tok:s"),
        ]);
        assert!(matches!(
            Credentials::of(&token),
            Some(Credentials::Token { .. })
        ));
        assert_eq!(Credentials::of(&headers(&[("cookie", "a=b")])), None);
    }

    #[test]
    fn a_plus_is_never_a_blank() {
        let raw = "PBS:t@pbs:6B005896::a+b/c";
        let all: Vec<String> = readings(raw).map(Cow::into_owned).collect();
        assert_eq!(all, [raw]);
        let encoded = "PBS%3At@pbs%3A6B005896%3A%3Aa%2Bb/c+";
        let all: Vec<String> = readings(encoded).map(Cow::into_owned).collect();
        assert_eq!(all, ["PBS:t@pbs:6B005896::a+b/c+", encoded]);
    }
}
