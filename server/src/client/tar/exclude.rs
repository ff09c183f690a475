//! Exclude patterns in the language of `.gitignore`.
//!
//! - `*` and `?` match within one name, `[a-z]` one of a set (`[!a-z]` none of it), `\` takes the next character as it is;
//! - `**` stands for any number of directories;
//! - a pattern without a slash, or with one at its end only, matches at any depth; another slash ties it to the
//!   directory that is backed up;
//! - a slash at the end matches directories only;
//! - `!` at the start takes back what an earlier pattern excluded. The last pattern that matches decides. What lies in an
//!   excluded directory is not looked at, so it cannot be taken back.

use std::os::unix::ffi::OsStrExt;

/// Patterns in the order they were given.
#[derive(Debug, Clone, Default)]
pub(crate) struct Excludes(Vec<Rule>);

#[derive(Debug, Clone)]
struct Rule {
    components: Vec<Component>,
    directories_only: bool,
    keep: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Component {
    /// `**`
    AnyDepth,
    Name(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Byte(u8),
    AnyByte,
    AnyBytes,
    Set {
        negated: bool,
        ranges: Vec<(u8, u8)>,
    },
}

impl Excludes {
    /// Reads patterns.
    ///
    /// # Errors
    /// A sentence that names the pattern and its fault.
    pub(crate) fn parse<T: AsRef<std::ffi::OsStr>>(patterns: &[T]) -> Result<Self, String> {
        patterns
            .iter()
            .map(|pattern| Rule::parse(pattern.as_ref().as_bytes()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether the last pattern that matches `path` excludes it. `path` is relative to the directory that is backed up.
    pub(crate) fn excludes(&self, path: &[u8], is_directory: bool) -> bool {
        let names: Vec<&[u8]> = path.split(|&b| b == b'/').collect();
        self.0
            .iter()
            .rev()
            .find(|rule| {
                (is_directory || !rule.directories_only) && matches(&rule.components, &names)
            })
            .is_some_and(|rule| !rule.keep)
    }
}

impl Rule {
    fn parse(pattern: &[u8]) -> Result<Self, String> {
        let fault =
            |what: &str| format!("the pattern '{}' {what}", String::from_utf8_lossy(pattern));
        let (keep, text) = match pattern.strip_prefix(b"!") {
            Some(rest) => (true, rest),
            None => (false, pattern),
        };
        let (directories_only, text) = match text.strip_suffix(b"/") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (anchored, text) = match text.strip_prefix(b"/") {
            Some(rest) => (true, rest),
            None => (text.contains(&b'/'), text),
        };
        let mut components = Vec::new();
        if !anchored {
            components.push(Component::AnyDepth);
        }
        for name in text.split(|&b| b == b'/') {
            let component = match name {
                b"" => return Err(fault("has an empty name in it")),
                b"." | b".." => return Err(fault("must not contain '.' or '..' as a name")),
                b"**" => Component::AnyDepth,
                name => Component::Name(tokens(name).map_err(fault)?),
            };
            if component != Component::AnyDepth || components.last() != Some(&Component::AnyDepth) {
                components.push(component);
            }
        }
        Ok(Self {
            components,
            directories_only,
            keep,
        })
    }
}

fn tokens(name: &[u8]) -> Result<Vec<Token>, &'static str> {
    let mut found = Vec::new();
    let mut bytes = name.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'?' => found.push(Token::AnyByte),
            b'*' => {
                if found.last() != Some(&Token::AnyBytes) {
                    found.push(Token::AnyBytes);
                }
            }
            b'\\' => found.push(Token::Byte(
                bytes.next().ok_or("ends in a single backslash")?,
            )),
            b'[' => found.push(set(&mut bytes)?),
            byte => found.push(Token::Byte(byte)),
        }
    }
    Ok(found)
}

/// A set, after its opening bracket; a closing bracket that comes first stands for itself.
fn set(bytes: &mut std::iter::Peekable<impl Iterator<Item = u8>>) -> Result<Token, &'static str> {
    const OPEN: &str = "has a '[' without a ']' (write '\\[' for the character itself)";
    let negated = bytes.next_if(|&b| b == b'!' || b == b'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let mut first = bytes.next().ok_or(OPEN)?;
        if first == b']' && !ranges.is_empty() {
            return Ok(Token::Set { negated, ranges });
        }
        if first == b'\\' {
            first = bytes.next().ok_or(OPEN)?;
        }
        if bytes.next_if_eq(&b'-').is_none() {
            ranges.push((first, first));
        } else if bytes.peek() == Some(&b']') {
            ranges.extend([(first, first), (b'-', b'-')]);
        } else {
            ranges.push((first, bytes.next().ok_or(OPEN)?));
        }
    }
}

/// Whether `components` match all of `names`. Walks the pattern once and keeps every count of names it can have used up.
fn matches(components: &[Component], names: &[&[u8]]) -> bool {
    let mut used = vec![false; names.len() + 1];
    used[0] = true;
    for (at, component) in components.iter().enumerate() {
        match component {
            Component::AnyDepth => {
                let first = used
                    .iter()
                    .position(|&reached| reached)
                    .unwrap_or(used.len());
                // At the end of a pattern it means what lies in a directory, not the directory.
                let least = usize::from(at + 1 == components.len());
                for (count, reached) in used.iter_mut().enumerate() {
                    *reached = count >= first + least;
                }
            }
            Component::Name(tokens) => {
                for count in (0..names.len()).rev() {
                    used[count + 1] = used[count] && matches_name(tokens, names[count]);
                }
                used[0] = false;
            }
        }
    }
    used[names.len()]
}

/// Glob within one name; goes back to the last `*` only, so that the work stays quadratic at worst.
fn matches_name(tokens: &[Token], name: &[u8]) -> bool {
    let (mut token, mut byte) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while byte < name.len() {
        let here = match tokens.get(token) {
            Some(Token::AnyBytes) => {
                star = Some((token, byte));
                token += 1;
                continue;
            }
            Some(Token::AnyByte) => true,
            Some(Token::Byte(wanted)) => *wanted == name[byte],
            Some(Token::Set { negated, ranges }) => {
                ranges
                    .iter()
                    .any(|&(low, high)| (low..=high).contains(&name[byte]))
                    != *negated
            }
            None => false,
        };
        if here {
            token += 1;
            byte += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            token = at + 1;
            byte = from + 1;
        } else {
            return false;
        }
    }
    tokens[token..].iter().all(|left| *left == Token::AnyBytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excluded(patterns: &[&str], path: &str) -> bool {
        let (path, is_directory) = path
            .strip_suffix('/')
            .map_or((path, false), |path| (path, true));
        Excludes::parse(patterns)
            .unwrap()
            .excludes(path.as_bytes(), is_directory)
    }

    #[test]
    fn patterns_mean_what_gitignore_means() {
        for (pattern, matching, others) in [
            (
                "*.o",
                &["a.o", "deep/er/b.o", ".o"][..],
                &["a.oo", "o", "a.o/x"][..],
            ),
            ("/target", &["target", "target/"], &["x/target", "targets"]),
            (
                "target/",
                &["target/", "x/target/"],
                &["target", "x/target"],
            ),
            ("a/b", &["a/b"], &["x/a/b", "a/x/b", "a/b/c"]),
            (
                "a/**/b",
                &["a/b", "a/x/b", "a/x/y/b"],
                &["x/a/b", "ab", "a/xb"],
            ),
            ("**/c", &["c", "x/c", "x/y/c"], &["cc", "x/c/d"]),
            ("a/**", &["a/x", "a/x/y"], &["a", "b/a/x"]),
            ("a?c", &["abc", "x/a-c"], &["ac", "a/c", "abbc"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "x"]),
            ("[!a-c]x", &["dx", "!x"], &["ax"]),
            ("[]a-]x", &["]x", "ax", "-x"], &["bx"]),
            ("\\*\\[", &["*["], &["a["]),
            ("a*b*c", &["abc", "aXbXbXc", "abbc"], &["ab", "acb"]),
        ] {
            for path in matching {
                assert!(excluded(&[pattern], path), "{pattern} should match {path}");
            }
            for path in others {
                assert!(
                    !excluded(&[pattern], path),
                    "{pattern} should not match {path}"
                );
            }
        }
    }

    #[test]
    fn the_last_match_decides() {
        assert!(excluded(&["*.log", "!keep.log"], "a.log"));
        assert!(!excluded(&["*.log", "!keep.log"], "x/keep.log"));
        assert!(excluded(&["!keep.log", "*.log"], "keep.log"));
    }

    #[test]
    fn faults_are_named() {
        for (pattern, part) in [
            ("a//b", "empty"),
            ("", "empty"),
            ("../x", ".."),
            ("a[b", "']'"),
            ("a\\", "backslash"),
        ] {
            let fault = Excludes::parse(&[pattern]).unwrap_err();
            assert!(fault.contains(part) && fault.contains(pattern), "{fault}");
        }
    }

    #[test]
    fn names_need_not_be_utf8() {
        assert!(
            Excludes::parse(&["a*z"])
                .unwrap()
                .excludes(b"a\xff\xfez", false)
        );
    }
}
