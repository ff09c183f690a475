//! Privileges and the roles that bundle them (`pbs-interface.md` 2.4).

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! privileges {
    ($($variant:ident = $name:literal,)*) => {
        /// One thing that can be allowed on a path.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub(crate) enum Privilege {
            $(
                #[doc = concat!("`", $name, "`")]
                $variant,
            )*
        }

        impl Privilege {
            /// Every privilege, in the order of the bits.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name on the wire.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

privileges! {
    SysAudit = "Sys.Audit",
    SysModify = "Sys.Modify",
    SysPowerManagement = "Sys.PowerManagement",
    SysConsole = "Sys.Console",
    DatastoreAllocate = "Datastore.Allocate",
    DatastoreAudit = "Datastore.Audit",
    DatastoreModify = "Datastore.Modify",
    DatastoreRead = "Datastore.Read",
    DatastoreVerify = "Datastore.Verify",
    DatastoreBackup = "Datastore.Backup",
    DatastorePrune = "Datastore.Prune",
    PermissionsModify = "Permissions.Modify",
    RemoteAudit = "Remote.Audit",
    RemoteModify = "Remote.Modify",
    RemoteRead = "Remote.Read",
    RemoteDatastoreBackup = "Remote.DatastoreBackup",
    RemoteDatastoreModify = "Remote.DatastoreModify",
    RemoteDatastorePrune = "Remote.DatastorePrune",
    TapeAudit = "Tape.Audit",
    TapeModify = "Tape.Modify",
    TapeRead = "Tape.Read",
    TapeWrite = "Tape.Write",
    RealmAllocate = "Realm.Allocate",
}

impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of privileges.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Privileges(u32);

impl Privileges {
    /// The empty set.
    pub(crate) const NONE: Self = Self(0);
    /// Every privilege there is.
    pub(crate) const ALL: Self = Self((1 << Privilege::ALL.len()) - 1);

    /// The set of the listed ones.
    pub(crate) const fn of(list: &[Privilege]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < list.len() {
            bits |= 1 << list[i] as u32;
            i += 1;
        }
        Self(bits)
    }

    /// Whether `privilege` is in the set.
    pub(crate) const fn contains(self, privilege: Privilege) -> bool {
        self.0 & (1 << privilege as u32) != 0
    }

    /// Whether the sets have a privilege in common.
    pub(crate) const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether the set is empty.
    #[cfg(test)]
    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members, in the order of [`Privilege::ALL`].
    pub(crate) fn iter(self) -> impl Iterator<Item = Privilege> {
        Privilege::ALL
            .iter()
            .copied()
            .filter(move |privilege| self.contains(*privilege))
    }
}

impl BitOr for Privileges {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Privileges {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for Privileges {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Debug for Privileges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.iter().map(Privilege::name))
            .finish()
    }
}

macro_rules! roles {
    ($($variant:ident = $privileges:expr,)*) => {
        /// A named bundle of privileges.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(crate) enum Role {
            $(
                #[doc = concat!("`", stringify!($variant), "`")]
                $variant,
            )*
        }

        impl Role {
            /// Every role.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name on the wire and in the configuration.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant),)*
                }
            }

            /// What the role allows.
            pub(crate) fn privileges(self) -> Privileges {
                match self {
                    $(Self::$variant => $privileges,)*
                }
            }
        }
    };
}

use Privilege as P;

roles! {
    Admin = Privileges::ALL,
    Audit = Privileges::of(&[P::SysAudit, P::DatastoreAudit]),
    NoAccess = Privileges::NONE,
    DatastoreAdmin = Privileges::of(&[
        P::DatastoreAudit, P::DatastoreModify, P::DatastoreRead, P::DatastoreVerify, P::DatastoreBackup, P::DatastorePrune,
    ]),
    DatastoreReader = Privileges::of(&[P::DatastoreAudit, P::DatastoreVerify, P::DatastoreRead]),
    DatastoreBackup = Privileges::of(&[P::DatastoreBackup]),
    DatastorePowerUser = Privileges::of(&[P::DatastoreBackup, P::DatastorePrune]),
    DatastoreAudit = Privileges::of(&[P::DatastoreAudit]),
    RemoteAudit = Privileges::of(&[P::RemoteAudit]),
    RemoteAdmin = Privileges::of(&[P::RemoteAudit, P::RemoteModify, P::RemoteRead]),
    RemoteSyncOperator = Privileges::of(&[P::RemoteAudit, P::RemoteRead]),
    RemoteSyncPushOperator = Privileges::of(&[P::RemoteAudit, P::RemoteDatastoreBackup]),
    RemoteDatastorePowerUser = Privileges::of(&[
        P::RemoteAudit, P::RemoteDatastoreBackup, P::RemoteDatastorePrune,
    ]),
    RemoteDatastoreAdmin = Privileges::of(&[
        P::RemoteAudit, P::RemoteDatastoreBackup, P::RemoteDatastorePrune, P::RemoteDatastoreModify,
    ]),
    TapeAudit = Privileges::of(&[P::TapeAudit]),
    TapeAdmin = Privileges::of(&[P::TapeAudit, P::TapeModify, P::TapeRead, P::TapeWrite]),
    TapeOperator = Privileges::of(&[P::TapeAudit, P::TapeRead, P::TapeWrite]),
    TapeReader = Privileges::of(&[P::TapeAudit, P::TapeRead]),
}

/// A text that names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no role; the roles are {list}", list = role_names())]
pub(crate) struct RoleError(String);

fn role_names() -> String {
    let names: Vec<&str> = Role::ALL.iter().map(|role| role.name()).collect();
    names.join(", ")
}

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        Self::ALL
            .iter()
            .copied()
            .find(|role| role.name() == text)
            .ok_or_else(|| RoleError(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Role {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_privilege_has_its_own_bit() {
        let mut seen = Privileges::NONE;
        for privilege in Privilege::ALL {
            let one = Privileges::of(&[*privilege]);
            assert!(!seen.intersects(one), "{privilege}");
            seen |= one;
        }
        assert_eq!(seen, Privileges::ALL);
    }

    #[test]
    fn roles_are_found_by_name() {
        for role in Role::ALL {
            assert_eq!(role.name().parse(), Ok(*role));
        }
        assert!("admin".parse::<Role>().is_err());
        let all_but_allocate = Role::DatastoreAdmin.privileges();
        let datastore: Vec<Privilege> = Privilege::ALL
            .iter()
            .copied()
            .filter(|privilege| privilege.name().starts_with("Datastore."))
            .collect();
        for privilege in datastore {
            assert_eq!(
                all_but_allocate.contains(privilege),
                privilege != Privilege::DatastoreAllocate
            );
        }
    }
}
