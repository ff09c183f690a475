//! What is gone at the source, and removed from the target if that is asked for.
//!
//! A group goes if it is missing at the source when the run comes by and when it ends, if it is still ours, and with the snapshots it had at
//! the first look: what came into it meanwhile stays, and the group with it.

use super::GroupFilter;
use super::run::{Run, fatal};
use crate::{BackupTime, Error, GroupRef, Namespace, Result};

/// A group of the target that the source does not have.
#[derive(Debug)]
pub(super) struct Vanished {
    /// Its namespace at the source; `None` if that is gone, too.
    source: Option<Namespace>,
    group: GroupRef,
    /// Its snapshots when the run came by.
    seen: Vec<BackupTime>,
}

impl Run<'_> {
    /// A group that has vanished, as it is now.
    pub(super) async fn vanished(
        &self,
        source: Option<Namespace>,
        group: GroupRef,
    ) -> Result<Vanished> {
        let seen = self.read(|| self.target.snapshots(&group));
        let seen = seen.await?.iter().map(|there| there.time).collect();
        Ok(Vanished {
            source,
            group,
            seen,
        })
    }

    /// Step 3 for groups and namespaces.
    pub(super) async fn remove_vanished(
        &self,
        mut groups: Vec<Vanished>,
        mut namespaces: Vec<Namespace>,
    ) -> Result<()> {
        // One that has come back meanwhile stays.
        let back = self.pairs().await?;
        namespaces.retain(|namespace| back.iter().all(|pair| pair.target != *namespace));
        for namespace in &namespaces {
            match self.target.groups(namespace).await {
                Ok(there) => {
                    for there in there {
                        if self.is_ours(&there)
                            && GroupFilter::select(&self.options.groups, &there.group)
                        {
                            let group = GroupRef::new(namespace.clone(), there.group);
                            groups.push(self.vanished(None, group).await?);
                        }
                    }
                }
                Err(error) => {
                    fatal(&error)?;
                    self.fail(format!("groups of {}: {error}", namespace.in_words()));
                }
            }
        }
        if self.state().seen == 0 && !groups.is_empty() {
            let why = format!(
                "the source shows no finished snapshot at all: the {} groups that only the target has are kept; remove them by hand if that is meant",
                groups.len()
            );
            self.job.log(why.clone());
            self.count(|counts| counts.warnings.push(why));
            return Ok(());
        }
        for vanished in groups {
            self.job.check()?;
            if let Err(error) = self.remove_group(&vanished).await {
                fatal(&error)?;
                self.fail(format!("group {} was not removed: {error}", vanished.group));
            }
        }
        // Inner ones first.
        for namespace in namespaces.iter().rev() {
            match self.target.remove_namespace(namespace).await {
                Ok(true) => {
                    self.job.log(format!("namespace '{namespace}' was removed"));
                    self.count(|counts| counts.removed_namespaces += 1);
                }
                Ok(false) => self.job.log(format!(
                    "namespace '{namespace}' is gone at the source, and kept: something is left in it"
                )),
                Err(error) => {
                    fatal(&error)?;
                    self.fail(format!("namespace '{namespace}' was not removed: {error}"));
                }
            }
        }
        Ok(())
    }

    /// Removes a group that has vanished, if it is as it was when the run came by.
    async fn remove_group(&self, vanished: &Vanished) -> Result<()> {
        let Vanished {
            source,
            group,
            seen,
        } = vanished;
        let there = self.target.groups(&group.namespace).await?;
        let ours = there
            .iter()
            .any(|there| there.group == group.group && self.is_ours(there));
        let back = match source {
            Some(namespace) => {
                let groups = self.source.groups(namespace).await?;
                groups.contains(&group.group)
            }
            None => false,
        };
        if back || !ours {
            self.job.log(format!(
                "group {group}: kept, it has come back at the source, or is not ours any more"
            ));
            return Ok(());
        }
        let stats = match self.target.remove_group(group, seen).await {
            Err(Error::NotFound(_)) => return Ok(()),
            result => result?,
        };
        self.job.log(format!(
            "group {group}: gone at the source, {} snapshots removed",
            stats.removed_snapshots
        ));
        self.count(|counts| {
            counts.removed_snapshots += stats.removed_snapshots;
            counts.removed_groups += stats.removed_groups;
            counts.protected += stats.protected_snapshots;
        });
        Ok(())
    }
}
