//! Which groups a sync concerns (interface 8.1): `[include:|exclude:]type:TYPE`, `…group:TYPE/ID`, `…regex:EXPRESSION`. A group is meant if
//! no filter includes anything or one includes it, and none excludes it.

use std::fmt;
use std::str::FromStr;

use regex::{Regex, RegexBuilder};

use crate::{BackupGroup, BackupType};

/// Longest text of a filter, in bytes.
const TEXT_BYTES_MAX: usize = 512;
/// Memory of one compiled expression.
const PROGRAM_BYTES_MAX: usize = 1 << 20;

/// One filter.
#[derive(Clone, Debug)]
pub struct GroupFilter {
    text: String,
    exclude: bool,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Type(BackupType),
    Group(BackupGroup),
    Regex(Regex),
}

/// A text that is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no group filter: {why}")]
pub struct GroupFilterError {
    text: String,
    why: String,
}

impl PartialEq for GroupFilter {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for GroupFilter {}

impl GroupFilter {
    /// Whether these filters mean a group.
    pub fn select(filters: &[Self], group: &BackupGroup) -> bool {
        let (mut includes, mut included) = (false, false);
        for filter in filters {
            let matches = filter.matches(group);
            if filter.exclude && matches {
                return false;
            }
            if !filter.exclude {
                includes = true;
                included |= matches;
            }
        }
        included || !includes
    }

    fn matches(&self, group: &BackupGroup) -> bool {
        match &self.what {
            What::Type(kind) => group.kind == *kind,
            What::Group(one) => group == one,
            What::Regex(regex) => regex.is_match(&group.to_string()),
        }
    }
}

impl fmt::Display for GroupFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for GroupFilter {
    type Err = GroupFilterError;

    fn from_str(text: &str) -> Result<Self, GroupFilterError> {
        let fault = |why: String| GroupFilterError {
            text: text.chars().take(80).collect(),
            why,
        };
        if text.len() > TEXT_BYTES_MAX {
            return Err(fault(format!("it is longer than {TEXT_BYTES_MAX} bytes")));
        }
        let (exclude, rest) = match text.strip_prefix("exclude:") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("include:").unwrap_or(text)),
        };
        let what = match rest.split_once(':') {
            Some(("type", kind)) => kind.parse().map(What::Type).map_err(|e| e.to_string()),
            Some(("group", group)) => group.parse().map(What::Group).map_err(|e| e.to_string()),
            Some(("regex", expression)) => RegexBuilder::new(expression)
                .size_limit(PROGRAM_BYTES_MAX)
                .build()
                .map(What::Regex)
                .map_err(|error| last_line(&error.to_string())),
            _ => Err("write type:vm, group:vm/100 or regex:^vm/1, with include: or exclude: before it if need be".to_owned()),
        };
        Ok(Self {
            text: text.to_owned(),
            exclude,
            what: what.map_err(fault)?,
        })
    }
}

/// An expression's error is a drawing of several lines; the last one says it.
fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or(text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&[], "vm/1 ct/1 host/a")]
    #[case(&["type:vm"], "vm/1")]
    #[case(&["include:type:vm", "group:host/a"], "vm/1 host/a")]
    #[case(&["exclude:type:vm"], "ct/1 host/a")]
    #[case(&["regex:/1$"], "vm/1 ct/1")]
    #[case(&["regex:/1$", "exclude:group:ct/1"], "vm/1")]
    #[case(&["exclude:regex:.", "type:vm"], "")]
    #[case(&["group:vm/10"], "")]
    fn groups_are_selected(#[case] filters: &[&str], #[case] expected: &str) {
        let filters: Vec<GroupFilter> = filters.iter().map(|text| text.parse().unwrap()).collect();
        let selected: Vec<&str> = ["vm/1", "ct/1", "host/a"]
            .into_iter()
            .filter(|group| GroupFilter::select(&filters, &group.parse().unwrap()))
            .collect();
        assert_eq!(selected.join(" "), expected);
    }

    #[rstest]
    #[case("")]
    #[case("vm")]
    #[case("type:lxc")]
    #[case("group:vm")]
    #[case("include:exclude:type:vm")]
    #[case("regex:(")]
    #[case("regex:((a{1000}){1000}){1000}")]
    fn odd_texts_are_refused(#[case] text: &str) {
        let error = text.parse::<GroupFilter>().unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
    }
}
