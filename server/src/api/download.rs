//! `GET /admin/datastore/{store}/download` and `…/download-decoded`: a file of a snapshot, as it is stored or what is in it.
//!
//! The answer is sent while the file is read, and holds the snapshot for so long ([`Download`]). A file that cannot be read to
//! its end breaks the connection.

use std::sync::Arc;

use pbs_datastore::ArchiveName;

use super::call::{Answer, Call, CallResult};
use super::error::ApiError;
use super::parameter::{Parameter, text};
use super::rule::READ;
use super::snapshots::open_at;
use crate::daemon::Daemon;
use crate::protocol::{Download, DownloadOf};

/// Which file.
pub(super) const FILE_NAME: Parameter = text(
    "file-name",
    "The file, with its whole name, such as index.json.blob",
)
.required();

/// Opens the snapshot that is named, for whoever may read it; takes all parameters but those before.
pub(super) async fn open_to_read(daemon: &Arc<Daemon>, call: Call) -> Result<Download, ApiError> {
    let (author, caller, line) = (call.who()?.id().clone(), call.caller, call.line.clone());
    let (opened, snapshot) = open_at(daemon, call, READ).await?;
    let of = DownloadOf {
        store: opened.store,
        snapshot,
        author,
        caller,
        line,
    };
    Download::begin(daemon, of).await
}

/// `GET …/download`
pub(crate) async fn download(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let name: ArchiveName = call.params.required(FILE_NAME.name)?;
    let download = open_to_read(&daemon, call).await?;
    let body = download.stored(&name).await?;
    Ok(Answer::File {
        name: name.to_string(),
        body,
    })
}

/// `GET …/download-decoded`: the name of the answer is that of the file without its last extension.
pub(crate) async fn download_decoded(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let name: ArchiveName = call.params.required(FILE_NAME.name)?;
    let download = open_to_read(&daemon, call).await?;
    let body = download.decoded(&name).await?;
    let name = name.as_str();
    let name = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    Ok(Answer::File {
        name: name.to_owned(),
        body,
    })
}
