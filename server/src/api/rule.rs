//! What each operation on a datastore's contents needs (`pbs-interface.md` 2.5), as one table.
//!
//! Most operations are allowed with a *full* privilege, or with a *partial* one on what the caller owns. Lists are
//! filtered by that instead of being refused.

use super::error::ApiError;
use crate::auth::{AclPath, AuthId, Authority, Principal, Privilege, Privileges};

/// Which privileges an operation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Any of these suffices.
    full: Privileges,
    /// Any of these suffices on what the caller owns.
    own: Privileges,
}

/// How far a rule lets a caller go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Everything.
    All,
    /// What belongs to this identity, or to a token of it.
    Own(Principal),
}

impl Reach {
    /// Whether something of this owner is within reach; what has no readable owner is so only for those who reach all.
    pub(crate) fn covers(&self, owner: Option<&AuthId>) -> bool {
        match self {
            Self::All => true,
            Self::Own(who) => owner.is_some_and(|owner| who.owns(owner)),
        }
    }

    /// Refuses what is out of reach. Whether it exists, and whose it is, is not told.
    pub(crate) fn demand(&self, owner: Option<&AuthId>) -> Result<(), ApiError> {
        if self.covers(owner) {
            return Ok(());
        }
        Err(ApiError::forbidden(
            "permission check failed: there is no such backup group, or it belongs to somebody else",
        ))
    }
}

const fn rule(full: &[Privilege], own: &[Privilege]) -> Rule {
    Rule {
        full: Privileges::of(full),
        own: Privileges::of(own),
    }
}

use Privilege as P;

/// List groups and snapshots; read notes and protection.
pub(crate) const LIST: Rule = rule(&[P::DatastoreAudit], &[P::DatastoreBackup]);
/// List the files of a snapshot.
pub(crate) const LIST_FILES: Rule = rule(
    &[P::DatastoreAudit, P::DatastoreRead],
    &[P::DatastoreBackup],
);
/// Read what is in the files of a snapshot.
pub(crate) const READ: Rule = rule(&[P::DatastoreRead], &[P::DatastoreBackup]);
/// Change notes and protection.
pub(crate) const ANNOTATE: Rule = rule(&[P::DatastoreModify], &[P::DatastoreBackup]);
/// Give a group another owner; what is own, only within the own user.
pub(crate) const CHANGE_OWNER: Rule = rule(&[P::DatastoreModify], &[P::DatastoreBackup]);
/// Delete snapshots and groups.
pub(crate) const DELETE: Rule = rule(&[P::DatastoreModify], &[P::DatastorePrune]);
/// Backup sessions, and logs added to a backup: only into own groups, whatever else the caller may do.
pub(crate) const BACKUP: Rule = rule(&[], &[P::DatastoreBackup]);
/// Start garbage collection, create and delete namespaces.
pub(crate) const MODIFY: Rule = rule(&[P::DatastoreModify], &[]);
/// Verify; what is own, too.
pub(crate) const VERIFY: Rule = rule(&[P::DatastoreVerify], &[P::DatastoreBackup]);
/// See the state of garbage collection.
pub(crate) const AUDIT: Rule = rule(&[P::DatastoreAudit], &[]);
/// See a namespace in a list.
pub(crate) const SEE_NAMESPACE: Privileges = Privileges::of(&[
    P::DatastoreAudit,
    P::DatastoreModify,
    P::DatastoreRead,
    P::DatastoreBackup,
]);
/// See how full a datastore is.
pub(crate) const SEE_SPACE: Privileges = Privileges::of(&[P::DatastoreAudit, P::DatastoreBackup]);

impl Rule {
    /// Whether it is about operations that change nothing.
    pub(crate) fn only_reads(self) -> bool {
        [LIST, LIST_FILES, READ, AUDIT].contains(&self)
    }

    /// How far `who` may go in a namespace (`a/b/c`, empty for the root) of a datastore; refused if nowhere.
    pub(crate) fn check(
        self,
        authority: &Authority,
        who: &Principal,
        store: &str,
        namespace: &str,
    ) -> Result<Reach, ApiError> {
        let path = AclPath::namespace(store, namespace);
        let granted = authority.privileges(who, &path);
        self.reach(granted, who)
            .ok_or_else(|| missing(&path, self.full | self.own))
    }

    /// How far these privileges let `who` go, if anywhere.
    pub(crate) fn reach(self, granted: Privileges, who: &Principal) -> Option<Reach> {
        if granted.intersects(self.full) {
            Some(Reach::All)
        } else if granted.intersects(self.own) {
            Some(Reach::Own(who.clone()))
        } else {
            None
        }
    }
}

/// Refuses whoever has none of `any` on `path`.
pub(crate) fn require(
    authority: &Authority,
    who: &Principal,
    path: &AclPath,
    any: &[Privilege],
) -> Result<(), ApiError> {
    let any = Privileges::of(any);
    if authority.privileges(who, path).intersects(any) {
        return Ok(());
    }
    Err(missing(path, any))
}

fn missing(path: &AclPath, any: Privileges) -> ApiError {
    let names: Vec<&str> = any.iter().map(Privilege::name).collect();
    ApiError::forbidden(format!(
        "permission check failed: {} on {path} is needed",
        names.join(" or ")
    ))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::auth::Role;

    /// `a` all, `o` own only, `-` nothing; roles in the order Admin, DatastoreReader, DatastoreBackup,
    /// DatastorePowerUser, DatastoreAudit, NoAccess.
    #[rstest]
    #[case(LIST, "aaooa-")]
    #[case(LIST_FILES, "aaooa-")]
    #[case(READ, "aaoo--")]
    #[case(ANNOTATE, "a-oo--")]
    #[case(DELETE, "a--o--")]
    #[case(BACKUP, "o-oo--")]
    #[case(MODIFY, "a-----")]
    #[case(AUDIT, "aa--a-")]
    fn roles_reach_what_the_table_says(#[case] rule: Rule, #[case] expected: &str) {
        let who = Principal::of("u@pbs");
        let roles = [
            Role::Admin,
            Role::DatastoreReader,
            Role::DatastoreBackup,
            Role::DatastorePowerUser,
            Role::DatastoreAudit,
            Role::NoAccess,
        ];
        let reached: String = roles
            .iter()
            .map(|role| match rule.reach(role.privileges(), &who) {
                Some(Reach::All) => 'a',
                Some(Reach::Own(_)) => 'o',
                None => '-',
            })
            .collect();
        assert_eq!(reached, expected);
    }

    #[test]
    fn own_reach_covers_own_tokens_and_nothing_else() {
        let own = Reach::Own(Principal::of("u@pbs"));
        let id = |text: &str| text.parse::<AuthId>().expect("an id");
        assert!(own.covers(Some(&id("u@pbs"))));
        assert!(own.covers(Some(&id("u@pbs!t"))));
        assert!(!own.covers(Some(&id("v@pbs"))));
        assert!(!own.covers(None));
        assert!(Reach::All.covers(None));
        let token = Reach::Own(Principal::of("u@pbs!t"));
        let others = token.demand(Some(&id("u@pbs")));
        assert!(others.is_err());
        assert_eq!(others, token.demand(None), "nobody learns what there is");
    }
}
