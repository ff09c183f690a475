//! What a run may touch: everything, or what the rights of whoever started it cover.

use pbs_datastore::{Datastore, GroupInfo, Namespace};

use crate::api::{Reach, Rule, owner_of};
use crate::auth::{AclPath, Authority, Principal};

/// The place of a run as its task's id has it.
pub(super) fn place(store: &str, namespace: &Namespace) -> String {
    if namespace.is_root() {
        store.to_owned()
    } else {
        format!("{store}:{namespace}")
    }
}

/// What a run may touch. Rights are looked at while it runs.
#[derive(Debug, Clone)]
pub(crate) enum Scope {
    /// Everything: a job of the daemon's own.
    All,
    /// What `rule` allows this caller.
    Of(Principal, Rule),
}

impl Scope {
    /// Everything, or what `who` may do by `rule`.
    pub(super) fn of(who: Option<&Principal>, rule: Rule) -> Self {
        who.map_or(Self::All, |who| Self::Of(who.clone(), rule))
    }

    /// How far the run may go in a namespace; `None` for not at all.
    fn reach(&self, authority: &Authority, store: &str, namespace: &Namespace) -> Option<Reach> {
        match self {
            Self::All => Some(Reach::All),
            Self::Of(who, rule) => {
                let path = AclPath::namespace(store, &namespace.to_string());
                rule.reach(authority.privileges(who, &path), who)
            }
        }
    }

    /// The groups within reach in a namespace and `depth` levels below it, in order.
    pub(super) async fn groups(
        &self,
        authority: &Authority,
        store: &Datastore,
        namespace: &Namespace,
        depth: usize,
    ) -> pbs_datastore::Result<Vec<GroupInfo>> {
        let snapshots = store.snapshots();
        if !snapshots.has_namespace(namespace).await? {
            let what = format!("namespace '{namespace}'");
            return Err(pbs_datastore::Error::NotFound(what));
        }
        let mut groups = Vec::new();
        for namespace in snapshots.namespaces(namespace, depth).await? {
            let Some(reach) = self.reach(authority, store.name().as_str(), &namespace) else {
                continue;
            };
            let all = match snapshots.groups(&namespace).await {
                Ok(all) => all,
                // It was removed meanwhile.
                Err(pbs_datastore::Error::NotFound(_)) => continue,
                Err(error) => return Err(error),
            };
            let covered = |group: &GroupInfo| reach.covers(owner_of(group.owner.as_ref()).as_ref());
            groups.extend(all.into_iter().filter(covered));
        }
        Ok(groups)
    }
}
