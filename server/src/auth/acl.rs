//! Who may do what where (`pbs-interface.md` 2.4); knows no HTTP and no configuration file.
//!
//! A right is looked up by walking from `/` to the path. At each level the entries of the identity *replace* what came
//! from above; an entry that does not propagate counts on its own path only; [`Role::NoAccess`] among them clears.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::id::{AuthId, is_safe_id};
use super::privilege::{Privileges, Role};

/// Longest path, in segments: `datastore`, the store, seven levels of namespace, and room for what comes.
const SEGMENTS_MAX: usize = 16;

/// A place that rights are given on: `/` or a list of segments, such as `/datastore/store1/ns1/ns2`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct AclPath(Vec<String>);

/// A text that is no ACL path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no ACL path; it begins with '/', and the first part is one of access, datastore, remote, system, tape"
)]
pub(crate) struct AclPathError(String);

impl AclPath {
    /// A place below this one that no entry names: what may be done there may be done on whatever is not named.
    pub(crate) fn below_any(&self) -> Self {
        let mut segments = self.0.clone();
        segments.push(String::new());
        Self(segments)
    }

    /// `/`
    pub(crate) const fn root() -> Self {
        Self(Vec::new())
    }

    /// The path with these segments; the caller has checked them.
    pub(crate) fn of<S: Into<String>>(segments: impl IntoIterator<Item = S>) -> Self {
        Self(segments.into_iter().map(Into::into).collect())
    }

    /// `/datastore/{store}`
    pub(crate) fn datastore(store: &str) -> Self {
        Self::of(["datastore", store])
    }

    /// `/datastore/{store}/{ns…}`; `namespace` is `a/b/c`, empty for the root.
    pub(crate) fn namespace(store: &str, namespace: &str) -> Self {
        let levels = namespace.split('/').filter(|level| !level.is_empty());
        Self::of(["datastore", store].into_iter().chain(levels))
    }

    /// `/remote/{remote}/{store}/{ns…}`
    pub(crate) fn remote(remote: &str, store: &str, namespace: &str) -> Self {
        let levels = namespace.split('/').filter(|level| !level.is_empty());
        Self::of(["remote", remote, store].into_iter().chain(levels))
    }

    /// `/system/tasks`
    pub(crate) fn tasks() -> Self {
        Self::of(["system", "tasks"])
    }

    /// The segments, none for `/`.
    pub(crate) fn segments(&self) -> &[String] {
        &self.0
    }

    /// Whether `self` lies at or below `above`.
    pub(crate) fn is_within(&self, above: &Self) -> bool {
        self.0.starts_with(&above.0)
    }

    fn prefix(&self, length: usize) -> Self {
        Self(self.0[..length].to_vec())
    }
}

impl FromStr for AclPath {
    type Err = AclPathError;

    /// Repeated and closing slashes are dropped.
    fn from_str(text: &str) -> Result<Self, AclPathError> {
        let fault = || AclPathError(text.chars().take(80).collect());
        let inner = text.strip_prefix('/').ok_or_else(fault)?;
        let segments: Vec<String> = inner
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(str::to_owned)
            .collect();
        let known = ["access", "datastore", "remote", "system", "tape"];
        let valid = segments.len() <= SEGMENTS_MAX
            && segments
                .first()
                .is_none_or(|first| known.contains(&first.as_str()))
            && segments.iter().all(|segment| is_safe_id(segment));
        if valid {
            Ok(Self(segments))
        } else {
            Err(fault())
        }
    }
}

impl fmt::Display for AclPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("/");
        }
        self.0
            .iter()
            .try_for_each(|segment| write!(f, "/{segment}"))
    }
}

impl fmt::Debug for AclPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for AclPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AclPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn yes() -> bool {
    true
}

/// One `[[acl]]` table of the configuration: `id` has `role` on `path`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct AclEntry {
    /// Where, such as `/datastore/store1`.
    pub(crate) path: AclPath,
    /// Which user or API token.
    pub(crate) id: AuthId,
    /// Which role.
    pub(crate) role: Role,
    /// Whether the role also counts below the path. Default: true.
    #[serde(default = "yes")]
    pub(crate) propagate: bool,
}

/// What one identity has on one path.
#[derive(Debug, Clone, Copy, Default)]
struct Grant {
    /// Roles that count on the path only.
    here: Roles,
    /// Roles that count on the path and below.
    below: Roles,
}

/// The roles of one kind, summed up.
#[derive(Debug, Clone, Copy, Default)]
struct Roles {
    any: bool,
    none: bool,
    privileges: Privileges,
}

impl Roles {
    fn add(&mut self, role: Role) {
        self.any = true;
        self.none |= role == Role::NoAccess;
        self.privileges |= role.privileges();
    }

    fn and(self, other: Self) -> Self {
        Self {
            any: self.any || other.any,
            none: self.none || other.none,
            privileges: self.privileges | other.privileges,
        }
    }
}

/// All entries, arranged for lookups.
#[derive(Debug, Clone, Default)]
pub(crate) struct Acl {
    grants: BTreeMap<AuthId, BTreeMap<AclPath, Grant>>,
}

impl Acl {
    /// The ACL of these entries; their order does not matter.
    pub(crate) fn new<'a>(entries: impl IntoIterator<Item = &'a AclEntry>) -> Self {
        let mut grants: BTreeMap<AuthId, BTreeMap<AclPath, Grant>> = BTreeMap::new();
        for entry in entries {
            let of_id = grants.entry(entry.id.clone()).or_default();
            let grant = of_id.entry(entry.path.clone()).or_default();
            if entry.propagate {
                grant.below.add(entry.role);
            } else {
                grant.here.add(entry.role);
            }
        }
        Self { grants }
    }

    /// What the entries of `id` itself give on `path`. Neither the superuser nor the bound of a token by its user is
    /// considered here.
    pub(crate) fn granted(&self, id: &AuthId, path: &AclPath) -> Privileges {
        let Some(of_id) = self.grants.get(id) else {
            return Privileges::NONE;
        };
        let mut privileges = Privileges::NONE;
        for length in 0..=path.segments().len() {
            let Some(grant) = of_id.get(&path.prefix(length)) else {
                continue;
            };
            let roles = if length == path.segments().len() {
                grant.here.and(grant.below)
            } else {
                grant.below
            };
            if roles.none {
                privileges = Privileges::NONE;
            } else if roles.any {
                privileges = roles.privileges;
            }
        }
        privileges
    }

    /// The paths at or below `above` on which `id` has entries.
    pub(crate) fn paths_of(&self, id: &AuthId, above: &AclPath) -> Vec<AclPath> {
        self.grants
            .get(id)
            .into_iter()
            .flat_map(BTreeMap::keys)
            .filter(|path| path.is_within(above))
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::auth::privilege::Privilege;

    fn entry(path: &str, role: Role, propagate: bool) -> AclEntry {
        AclEntry {
            path: path.parse().expect("a path"),
            id: "u@pbs".parse().expect("an id"),
            role,
            propagate,
        }
    }

    #[rstest]
    #[case("/", true)]
    #[case("/datastore", true)]
    #[case("//datastore//s/", true)]
    #[case("/system/tasks", true)]
    #[case("datastore", false)]
    #[case("/nonsense", false)]
    #[case("/datastore/a b", false)]
    #[case("/datastore/../x", false)]
    #[case("", false)]
    fn paths(#[case] text: &str, #[case] valid: bool) {
        assert_eq!(text.parse::<AclPath>().is_ok(), valid);
    }

    #[test]
    fn namespaces_are_segments() {
        let path = AclPath::namespace("s", "a/b");
        assert_eq!(path.to_string(), "/datastore/s/a/b");
        assert_eq!(AclPath::namespace("s", ""), AclPath::datastore("s"));
        assert!(path.is_within(&AclPath::datastore("s")));
        assert!(!AclPath::datastore("s2").is_within(&AclPath::datastore("s")));
    }

    #[rstest]
    // From above, unless it does not propagate.
    #[case(vec![entry("/", Role::Admin, true)], "/datastore/s", Privileges::ALL)]
    #[case(vec![entry("/", Role::Admin, false)], "/datastore/s", Privileges::NONE)]
    #[case(vec![entry("/", Role::Admin, false)], "/", Privileges::ALL)]
    // The nearer level replaces, it does not add.
    #[case(
        vec![entry("/", Role::Admin, true), entry("/datastore/s", Role::DatastoreAudit, true)],
        "/datastore/s/n",
        Role::DatastoreAudit.privileges()
    )]
    // What counts on the exact path only does not hide what comes from above on the paths below.
    #[case(
        vec![entry("/datastore", Role::DatastoreReader, true), entry("/datastore/s", Role::DatastoreBackup, false)],
        "/datastore/s/n",
        Role::DatastoreReader.privileges()
    )]
    #[case(
        vec![entry("/datastore", Role::DatastoreReader, true), entry("/datastore/s", Role::DatastoreBackup, false)],
        "/datastore/s",
        Role::DatastoreBackup.privileges()
    )]
    // NoAccess clears, whatever else the level gives; a deeper level may give again.
    #[case(
        vec![entry("/", Role::Admin, true), entry("/datastore/s", Role::NoAccess, true), entry("/datastore/s", Role::Admin, true)],
        "/datastore/s",
        Privileges::NONE
    )]
    #[case(
        vec![entry("/datastore/s", Role::NoAccess, true), entry("/datastore/s/n", Role::DatastoreBackup, true)],
        "/datastore/s/n/m",
        Role::DatastoreBackup.privileges()
    )]
    // Several roles on one level add up.
    #[case(
        vec![entry("/datastore/s", Role::DatastoreBackup, true), entry("/datastore/s", Role::DatastoreAudit, true)],
        "/datastore/s",
        Privileges::of(&[Privilege::DatastoreBackup, Privilege::DatastoreAudit])
    )]
    // A sibling whose name begins alike is another place.
    #[case(vec![entry("/datastore/s", Role::Admin, true)], "/datastore/s2", Privileges::NONE)]
    fn lookups(#[case] entries: Vec<AclEntry>, #[case] path: &str, #[case] expected: Privileges) {
        let acl = Acl::new(&entries);
        let id = "u@pbs".parse().expect("an id");
        assert_eq!(acl.granted(&id, &path.parse().expect("a path")), expected);
        let stranger = "v@pbs".parse().expect("an id");
        let path = path.parse().expect("a path");
        assert_eq!(acl.granted(&stranger, &path), Privileges::NONE);
    }
}
