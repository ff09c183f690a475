//! `/admin/datastore/{store}/…` about snapshots: list, files, notes, protection, removal, the client's log.

use std::sync::Arc;

use pbs_datastore::{
    BackupId, BackupTime, BackupType, CHUNK_ENCODED_BYTES_MAX, CryptMode, FileInfo, SnapshotFilter,
    SnapshotInfo, SnapshotRef, VerifyState,
};
use serde::Serialize;

use super::call::{Call, CallResult, data, done};
use super::error::ApiError;
use super::rule::{ANNOTATE, BACKUP, DELETE, LIST, LIST_FILES, Rule};
use super::shape::{Shape, always, maybe};
use super::target::{Opened, open, owner_of, take_namespace, take_snapshot};
use crate::daemon::Daemon;
use crate::tasks::Upid;

/// Largest log of a client that is taken, in bytes, as for every other blob.
pub(crate) const CLIENT_LOG_BYTES_MAX: usize = CHUNK_ENCODED_BYTES_MAX;

/// A file as clients see it. Absent members stay absent: clients read meaning into that.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct FileEntry<'a> {
    filename: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    crypt_mode: Option<CryptMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

impl<'a> From<&'a FileInfo> for FileEntry<'a> {
    fn from(file: &'a FileInfo) -> Self {
        Self {
            filename: &file.name,
            crypt_mode: file.crypt_mode,
            size: file.size,
        }
    }
}

/// A snapshot as clients see it; without `size` if it is not finished.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct SnapshotEntry<'a> {
    backup_type: BackupType,
    backup_id: &'a BackupId,
    backup_time: BackupTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verification: Option<&'a VerifyState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    files: Vec<FileEntry<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    protected: bool,
}

/// [`FileEntry`] on the wire.
pub(super) const FILE: Shape = Shape::Object(&[&[
    always("filename", Shape::Text),
    maybe("crypt-mode", Shape::Text),
    maybe("size", Shape::Integer),
]]);
/// [`SnapshotEntry`] on the wire.
pub(super) const ENTRY: Shape = Shape::Object(&[&[
    always("backup-type", Shape::Text),
    always("backup-id", Shape::Text),
    always("backup-time", Shape::Integer),
    maybe("comment", Shape::Text),
    maybe("verification", VERIFICATION),
    maybe("fingerprint", Shape::Text),
    always("files", Shape::List(&FILE)),
    maybe("size", Shape::Integer),
    maybe("owner", Shape::Text),
    always("protected", Shape::Flag),
]]);
const VERIFICATION: Shape =
    Shape::Object(&[&[always("upid", Shape::Upid), always("state", Shape::Text)]]);

/// Whether clients can read the result of a verification. It stands where whoever made the backup can write, and clients
/// give up the whole list over one task id in another shape than the usual.
fn is_shown(state: &VerifyState) -> bool {
    let upid = state.upid.parse::<Upid>();
    upid.is_ok_and(|upid| upid.to_string() == state.upid)
}

impl<'a> From<&'a SnapshotInfo> for SnapshotEntry<'a> {
    fn from(info: &'a SnapshotInfo) -> Self {
        let snapshot = &info.id.snapshot;
        Self {
            backup_type: snapshot.group.kind,
            backup_id: &snapshot.group.id,
            backup_time: snapshot.time,
            comment: info.notes.lines().next().filter(|line| !line.is_empty()),
            verification: info.verification.as_ref().filter(|state| is_shown(state)),
            fingerprint: info.fingerprint.as_ref().map(ToString::to_string),
            files: info.files.iter().map(FileEntry::from).collect(),
            size: info.size,
            owner: info.owner.as_ref().map(ToString::to_string),
            protected: info.protected,
        }
    }
}

/// `GET …/snapshots`: of one namespace, filtered by type and id; newest first within a group.
pub(crate) async fn list(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let namespace = take_namespace(&mut call.params)?;
    let filter = SnapshotFilter {
        kind: call.params.optional("backup-type")?,
        id: call.params.optional("backup-id")?,
    };
    let Opened { store, reach } = open(&daemon, &mut call, LIST, &namespace)?;
    call.params.finish()?;
    let mut infos = store.snapshots().list(&namespace, &filter).await?;
    infos.retain(|info| reach.covers(owner_of(info.owner.as_ref()).as_ref()));
    infos.sort_by(|a, b| {
        let (a, b) = (&a.id.snapshot, &b.id.snapshot);
        a.group.cmp(&b.group).then(b.time.cmp(&a.time))
    });
    let entries: Vec<SnapshotEntry<'_>> = infos.iter().map(SnapshotEntry::from).collect();
    data(&entries)
}

/// Opens the datastore for an operation on one snapshot that `rule` allows; takes all parameters but those before.
pub(super) async fn open_at(
    daemon: &Daemon,
    mut call: Call,
    rule: Rule,
) -> Result<(Opened, SnapshotRef), ApiError> {
    let id = take_snapshot(&mut call.params)?;
    let opened = open(daemon, &mut call, rule, &id.namespace)?;
    call.params.finish()?;
    opened.demand_group(&id.group()).await?;
    Ok((opened, id))
}

/// `GET …/files`
pub(crate) async fn files(daemon: Arc<Daemon>, call: Call) -> CallResult {
    let (opened, id) = open_at(&daemon, call, LIST_FILES).await?;
    let info = opened.store.snapshots().snapshot(&id).await?;
    let entries: Vec<FileEntry<'_>> = info.files.iter().map(FileEntry::from).collect();
    data(&entries)
}

/// `GET …/notes`
pub(crate) async fn notes(daemon: Arc<Daemon>, call: Call) -> CallResult {
    let (opened, id) = open_at(&daemon, call, LIST).await?;
    data(&opened.store.snapshots().notes(&id).await?)
}

/// `PUT …/notes`
pub(crate) async fn set_notes(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let notes: String = call.params.required("notes")?;
    let (opened, id) = open_at(&daemon, call, ANNOTATE).await?;
    opened.store.snapshots().set_notes(&id, &notes).await?;
    done()
}

/// `GET …/protected`
pub(crate) async fn protected(daemon: Arc<Daemon>, call: Call) -> CallResult {
    let (opened, id) = open_at(&daemon, call, LIST).await?;
    data(&opened.store.snapshots().protected(&id).await?)
}

/// `PUT …/protected`
pub(crate) async fn set_protected(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let protected = call.params.flag("protected")?;
    let protected = protected.ok_or_else(|| {
        ApiError::bad_request("parameter verification failed: 'protected' is missing")
    })?;
    let (opened, id) = open_at(&daemon, call, ANNOTATE).await?;
    let snapshots = opened.store.snapshots();
    snapshots.set_protected(&id, protected).await?;
    done()
}

/// `DELETE …/snapshots`
pub(crate) async fn remove(daemon: Arc<Daemon>, call: Call) -> CallResult {
    let (opened, id) = open_at(&daemon, call, DELETE).await?;
    opened.store.snapshots().delete(&id).await?;
    done()
}

/// Whether the caller may send a log for the snapshot that is named.
pub(crate) async fn admit_log(daemon: Arc<Daemon>, call: Call) -> Result<(), ApiError> {
    open_at(&daemon, call, BACKUP).await.map(drop)
}

/// `POST …/upload-backup-log`: the body is a blob; a second log is refused.
pub(crate) async fn upload_log(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let blob = std::mem::take(&mut call.body);
    let (opened, id) = open_at(&daemon, call, BACKUP).await?;
    opened.store.snapshots().add_client_log(&id, blob).await?;
    done()
}

#[cfg(test)]
mod tests {
    use pbs_datastore::VerifyOutcome;
    use rstest::rstest;

    use super::*;

    const HEAD: &str = "UPID:pbs:000056A2:000BF53F:0000003B:6B00594F:verify";

    #[rstest]
    #[case("store1\\x3ahost-a:tester@pbs:", true)]
    #[case(":tester@pbs:", true)]
    #[case("store1:tester@pbs", false)]
    #[case("a b:tester@pbs:", false)]
    #[case("a:b:tester@pbs:", false)]
    fn a_verification_is_shown_only_with_a_task_id(#[case] rest: &str, #[case] shown: bool) {
        let state = |upid: String| VerifyState {
            upid,
            state: VerifyOutcome::Ok,
        };
        assert_eq!(is_shown(&state(format!("{HEAD}:{rest}"))), shown);
        assert!(!is_shown(&state("x".to_owned())));
    }
}
