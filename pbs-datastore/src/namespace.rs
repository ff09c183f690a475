//! Namespaces: nested folders of backup groups.
//!
//! Text form `a/b`, the root being the empty text; path form `ns/a/ns/b/`. The path form keeps namespaces and backup
//! types apart, since no backup type is called `ns`.

use std::fmt;
use std::str::FromStr;

use crate::safe_id::{NameError, is_safe_id, serde_as_text};

/// Deepest nesting of namespaces.
pub const NAMESPACE_DEPTH_MAX: usize = 7;
/// Longest text form in bytes.
pub const NAMESPACE_BYTES_MAX: usize = 256;
/// Longest component that may be created, in bytes. Longer ones that exist already are read.
pub const NAMESPACE_COMPONENT_BYTES_MAX: usize = 32;

const KIND: &str = "namespace";
const RULE: &str = "use up to 7 components joined by '/', 256 bytes in all, each of letters, digits, '_', '.' or '-' \
                    and starting with a letter, a digit or '_'";

/// A namespace: at most [`NAMESPACE_DEPTH_MAX`] safe ids, at most [`NAMESPACE_BYTES_MAX`] bytes as text. The order is
/// that of the components, so a namespace comes before all that lies below it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Vec<String>);

impl Namespace {
    /// The namespace that holds all others.
    pub fn root() -> Self {
        Self::default()
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The namespace in a sentence: `namespace 'a/b'`, or `the root namespace`, which has no name.
    pub fn in_words(&self) -> String {
        if self.is_root() {
            "the root namespace".to_owned()
        } else {
            format!("namespace '{self}'")
        }
    }

    /// The components, outermost first.
    pub fn components(&self) -> &[String] {
        &self.0
    }

    /// Number of components; 0 for the root.
    pub fn depth(&self) -> usize {
        self.0.len()
    }

    /// The innermost component, or `None` for the root.
    pub fn name(&self) -> Option<&str> {
        self.0.last().map(String::as_str)
    }

    /// The namespace around this one, or `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        let (_, outer) = self.0.split_last()?;
        Some(Self(outer.to_vec()))
    }

    /// The namespace `name` within this one. Fails when the result is too deep or too long.
    pub fn child(&self, name: &str) -> Result<Self, NameError> {
        let mut components = self.0.clone();
        components.push(name.to_owned());
        Self::of(components)
    }

    /// Like [`child`](Self::child), for a namespace that is to be created: its name may have at most
    /// [`NAMESPACE_COMPONENT_BYTES_MAX`] bytes.
    pub fn new_child(&self, name: &str) -> Result<Self, NameError> {
        if name.len() > NAMESPACE_COMPONENT_BYTES_MAX {
            let rule = "the name of a new namespace has at most 32 characters";
            return Err(NameError::new("name of a namespace", rule, name));
        }
        self.child(name)
    }

    /// This namespace with all components of `inner` below it.
    pub fn join(&self, inner: &Self) -> Result<Self, NameError> {
        Self::of(self.0.iter().chain(&inner.0).cloned().collect())
    }

    /// Whether this is `outer` or lies below it.
    pub fn is_within(&self, outer: &Self) -> bool {
        self.0.starts_with(&outer.0)
    }

    /// What has to be joined to `outer` to get this namespace, or `None` if it does not lie within `outer`.
    pub fn strip(&self, outer: &Self) -> Option<Self> {
        self.0
            .strip_prefix(&outer.0[..])
            .map(|inner| Self(inner.to_vec()))
    }

    /// `ns/a/ns/b/`, or nothing for the root: what a key or path starts with.
    pub fn path_prefix(&self) -> String {
        let mut path = String::new();
        for name in &self.0 {
            path.extend(["ns/", name, "/"]);
        }
        path
    }

    /// Checks the components one by one and all together.
    pub(crate) fn of(components: Vec<String>) -> Result<Self, NameError> {
        let length = components.iter().map(|name| name.len() + 1).sum::<usize>();
        let fits = components.len() <= NAMESPACE_DEPTH_MAX && length <= NAMESPACE_BYTES_MAX + 1;
        if fits && components.iter().all(|name| is_safe_id(name)) {
            return Ok(Self(components));
        }
        Err(NameError::new(KIND, RULE, &components.join("/")))
    }
}

impl FromStr for Namespace {
    type Err = NameError;

    /// Reads `a/b`; the empty text is the root. Slashes at either end are refused.
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Ok(Self::root());
        }
        if text.len() > NAMESPACE_BYTES_MAX {
            return Err(NameError::new(KIND, RULE, text));
        }
        Self::of(text.split('/').map(str::to_owned).collect())
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

serde_as_text!(Namespace);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_named_in_sentences_though_it_has_no_name() {
        assert_eq!(Namespace::root().in_words(), "the root namespace");
        assert_eq!(ns("a/b").in_words(), "namespace 'a/b'");
    }

    fn ns(text: &str) -> Namespace {
        text.parse().expect("a valid namespace")
    }

    #[test]
    fn text_and_path_forms() {
        assert_eq!(ns("").path_prefix(), "");
        assert_eq!(ns("a/b").path_prefix(), "ns/a/ns/b/");
        assert_eq!(ns("a/b").to_string(), "a/b");
        assert_eq!(ns("a/b").parent(), Some(ns("a")));
        assert_eq!(ns("a").parent(), Some(Namespace::root()));
        assert_eq!(ns("").parent(), None);
    }

    #[test]
    fn odd_texts_are_refused() {
        for text in [
            "/",
            "a/",
            "/a",
            "a//b",
            "..",
            "a/../b",
            ".ns",
            "1/2/3/4/5/6/7/8",
        ] {
            assert!(text.parse::<Namespace>().is_err(), "{text:?}");
        }
        assert_eq!(ns("1/2/3/4/5/6/7").depth(), 7);
    }

    #[test]
    fn lengths_are_bounded() {
        let long = format!("{}/{}", "a".repeat(128), "b".repeat(127));
        assert_eq!(ns(&long).to_string().len(), NAMESPACE_BYTES_MAX);
        assert!(format!("{long}b").parse::<Namespace>().is_err());
        assert!(ns(&long).child("c").is_err());
        assert!(ns("a").new_child(&"b".repeat(32)).is_ok());
        assert!(ns("a").new_child(&"b".repeat(33)).is_err());
    }

    #[test]
    fn a_sibling_with_a_longer_name_is_not_within() {
        assert!(ns("a/b").is_within(&ns("a")));
        assert!(!ns("ab").is_within(&ns("a")));
        assert_eq!(ns("a/b").strip(&ns("a")), Some(ns("b")));
        assert_eq!(ns("ab").strip(&ns("a")), None);
        assert_eq!(ns("a").join(&ns("b/c")), Ok(ns("a/b/c")));
    }
}
