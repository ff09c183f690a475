//! Multipart uploads of a directory bucket.
//!
//! `uploads/<id>/upload.json` holds key and metadata, `uploads/<id>/<number>` the MD5 of a part (16 bytes) and the part.
//! Completion joins the parts into one file in `staging/`, commits it like any other write, and then removes the
//! upload's folder. A crash between the two leaves the object and the upload; completing or aborting it again is fine.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Inner;
use super::tree::failed;
use crate::decide::{
    PART_BYTES_MIN, check_part_number, check_parts, etag_of, etag_of_parts, invalid_part,
    no_such_upload, part_too_small, stored_metadata,
};
use crate::store::{Body, Metadata, Part, PartOutcome, UploadId};
use crate::{ETag, Error, ErrorKind, ObjectKey, Op, Precondition, PutOutcome};

const TAG_BYTES: u64 = 16;

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Upload {
    key: String,
    metadata: Metadata,
}

/// A part on disk, positioned at its content.
struct StoredPart {
    file: File,
    size: u64,
}

impl Inner {
    pub(super) fn create_multipart(
        &self,
        key: ObjectKey,
        metadata: Metadata,
    ) -> Result<UploadId, Error> {
        const OP: Op = Op::CreateMultipart;
        let metadata = stored_metadata(OP, &key, metadata, None)?;
        let io = |error| failed(OP, key.as_str(), error);
        let upload = Upload {
            key: key.as_str().to_owned(),
            metadata,
        };
        let json = serde_json::to_vec(&upload).expect("texts can be written as JSON");
        let (id, folder) = self.new_upload_folder().map_err(io)?;
        let mut staged = self.tree.stage().map_err(io)?;
        staged.write(&json).map_err(io)?;
        let finished = staged.finish().map_err(io)?;
        finished
            .rename_to(&folder.join("upload.json"))
            .map_err(io)?;
        self.tree.sync_path(&folder).map_err(io)?;
        Ok(UploadId(id))
    }

    /// A folder nobody had before: its name is the time, and a number that tells apart what happens at the same time.
    fn new_upload_folder(&self) -> io::Result<(String, PathBuf)> {
        loop {
            let now = (self.clock)().as_millisecond();
            let id = format!("{now:x}-{:x}", self.tree.next_serial());
            let folder = self.tree.upload_path(&id);
            match fs::create_dir(&folder) {
                Ok(()) => {
                    self.tree.sync_path(&self.tree.upload_path(""))?;
                    return Ok((id, folder));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The folder and metadata of an upload of `key`.
    fn upload(
        &self,
        op: Op,
        key: &ObjectKey,
        upload: &UploadId,
    ) -> Result<(PathBuf, Metadata), Error> {
        let id = &upload.0;
        let named_by_us = !id.is_empty() && id.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit());
        if !named_by_us {
            return Err(no_such_upload(op, key));
        }
        let folder = self.tree.upload_path(id);
        let json = match fs::read(folder.join("upload.json")) {
            Ok(json) => json,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(no_such_upload(op, key));
            }
            Err(error) => return Err(failed(op, key.as_str(), error)),
        };
        match serde_json::from_slice::<Upload>(&json) {
            Ok(upload) if upload.key == key.as_str() => Ok((folder, upload.metadata)),
            Ok(_) => Err(no_such_upload(op, key)),
            Err(error) => Err(failed(op, key.as_str(), error.into())),
        }
    }

    pub(super) fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        body: &Body,
    ) -> Result<PartOutcome, Error> {
        const OP: Op = Op::UploadPart;
        let io = |error| failed(OP, key.as_str(), error);
        check_part_number(key, number)?;
        let (folder, _) = self.upload(OP, key, upload)?;
        let etag = etag_of(body);
        let tag = etag.as_md5().expect("the tag of one body is its MD5");
        let mut staged = self.tree.stage().map_err(io)?;
        staged.write(&tag).map_err(io)?;
        for part in body.parts() {
            staged.write(part).map_err(io)?;
        }
        let finished = staged.finish().map_err(io)?;
        match finished.rename_to(&folder.join(number.to_string())) {
            // Completed or aborted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(no_such_upload(OP, key));
            }
            result => result.map_err(io)?,
        }
        self.tree.sync_path(&folder).map_err(io)?;
        Ok(PartOutcome::Stored(Part { number, etag }))
    }

    pub(super) fn complete_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[Part],
        precondition: &Precondition,
    ) -> Result<PutOutcome, Error> {
        const OP: Op = Op::CompleteMultipart;
        let io = |error| failed(OP, key.as_str(), error);
        check_parts(key, parts)?;
        let (folder, metadata) = self.upload(OP, key, upload)?;
        let mut stored = Vec::with_capacity(parts.len());
        for part in parts {
            let path = folder.join(part.number.to_string());
            let found = open_part(&path, &part.etag).map_err(io)?;
            stored.push(found.ok_or_else(|| invalid_part(key, part.number))?);
        }
        let all_but_last = stored.iter().zip(parts).take(parts.len() - 1);
        for (found, part) in all_but_last {
            if found.size < PART_BYTES_MIN {
                return Err(part_too_small(key, part.number));
            }
        }
        if self.refuses(key, precondition) {
            return Ok(PutOutcome::Exists);
        }
        let size = stored.iter().map(|part| part.size).sum();
        let etag = etag_of_parts(parts.iter().map(|part| &part.etag));
        let header = self.header(key, etag, size, metadata);
        let mut staged = self.tree.stage().map_err(io)?;
        staged.write(&header.encode()).map_err(io)?;
        for part in &stored {
            staged.append(&part.file, part.size).map_err(io)?;
        }
        let outcome = self.commit(OP, staged, header, precondition, None)?;
        if matches!(outcome, PutOutcome::Created { .. }) {
            // The object is there whatever becomes of the leftovers.
            if let Err(error) = fs::remove_dir_all(&folder) {
                tracing::warn!(upload = %upload.0, %error, "leftovers of a multipart upload stay on disk");
            }
        }
        Ok(outcome)
    }

    pub(super) fn abort_multipart(&self, key: &ObjectKey, upload: &UploadId) -> Result<(), Error> {
        const OP: Op = Op::AbortMultipart;
        let folder = match self.upload(OP, key, upload) {
            Ok((folder, _)) => folder,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed(OP, key.as_str(), error))
            }
            _ => Ok(()),
        }
    }
}

/// Opens a part if it is there and has this tag.
fn open_part(path: &std::path::Path, etag: &ETag) -> io::Result<Option<StoredPart>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut tag = [0; TAG_BYTES as usize];
    file.read_exact(&mut tag)?;
    if etag.as_md5() != Some(tag) {
        return Ok(None);
    }
    let size = file.metadata()?.len() - TAG_BYTES;
    Ok(Some(StoredPart { file, size }))
}
