//! The S3 operations of a bucket, on a store.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopySource,
    CreateBucketInput, CreateBucketOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject,
    EncodingType, GetBucketLifecycleConfigurationInput, GetBucketLifecycleConfigurationOutput,
    GetBucketLocationInput, GetBucketLocationOutput, GetBucketVersioningInput,
    GetBucketVersioningOutput, GetObjectInput, GetObjectLockConfigurationInput,
    GetObjectLockConfigurationOutput, GetObjectOutput, HeadBucketInput, HeadBucketOutput,
    HeadObjectInput, HeadObjectOutput, ListBucketsInput, ListBucketsOutput, ListObjectsInput,
    ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output, MetadataDirective,
    ObjectIdentifier, PutObjectInput, PutObjectOutput, Range, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::answers::{self, dated, error, invalid, key, not_implemented, tag, timestamp, version};
use super::conditions::{ReadConditions, copy_precondition, precondition, written_tag};
use super::listing::{Listed, Names, Question, collect};
use super::payload::{Bodies, Unread};
use super::{OperationName, ServeOptions, Stores, TagForm, settings};
use crate::decide::slice;
use crate::store::{
    BucketSettings, ByteRange, Copy, DeleteRequest, Object, ObjectStore, PAGE_KEYS_MAX, Put,
};
use crate::{ETag, ObjectKey, VersionId};

/// The bucket and its bounds.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) bodies: Bodies,
    pub(super) tag_form: TagForm,
    pub(super) region: String,
    name: String,
    /// All of the server, this one among them.
    stores: Arc<Stores>,
    batch_delete: bool,
    page_keys_max: usize,
}

impl Bucket {
    pub(super) fn new(
        name: String,
        store: Arc<dyn ObjectStore>,
        stores: Arc<Stores>,
        options: &ServeOptions,
    ) -> Self {
        Self {
            name,
            stores,
            store,
            bodies: Bodies::new(options.body_bytes_max, options.bodies_bytes_max),
            tag_form: options.tag_form,
            region: options.region.clone(),
            batch_delete: options.batch_delete,
            page_keys_max: options.page_keys_max.min(PAGE_KEYS_MAX),
        }
    }

    /// Names the operation for the log, and checks that it is about this bucket.
    pub(super) fn begin<T>(
        &self,
        operation: &'static str,
        request: &S3Request<T>,
        bucket: &str,
    ) -> S3Result<()> {
        if let Some(name) = request.extensions.get::<OperationName>() {
            name.set(operation);
        }
        if bucket == self.name {
            Ok(())
        } else {
            Err(S3Error::with_message(
                S3ErrorCode::NoSuchBucket,
                "The specified bucket does not exist",
            ))
        }
    }

    async fn read(
        &self,
        key: &ObjectKey,
        range: Option<&Range>,
    ) -> S3Result<crate::store::Answer<Object>> {
        let asked = match range {
            Some(Range::Int { first, last }) => Some(ByteRange {
                start: *first,
                end: last.map_or(u64::MAX, |last| last.saturating_add(1)),
            }),
            // The end of an object of unknown length: all of it is read, and cut below.
            Some(Range::Suffix { .. }) | None => None,
        };
        let mut answer = self.store.get(key, asked).await.map_err(error)?;
        if let Some(range @ Range::Suffix { .. }) = range {
            let cut = range.check(answer.value.meta.size)?;
            answer.value.body = slice(&answer.value.body, cut.start, cut.end);
        }
        Ok(answer)
    }

    /// Answers with what `pick` makes of the bucket's settings.
    async fn setting<T>(
        &self,
        pick: impl FnOnce(BucketSettings) -> S3Result<T> + Send,
    ) -> S3Result<S3Response<T>> {
        let answer = self.store.bucket_settings().await.map_err(error)?;
        Ok(dated(pick(answer.value)?, answer.date))
    }

    /// How many keys a page has, if it was `asked` for so many.
    fn keys_max(&self, asked: Option<i32>) -> S3Result<usize> {
        match asked {
            None => Ok(self.page_keys_max),
            Some(asked) => usize::try_from(asked)
                .map(|asked| asked.min(self.page_keys_max))
                .map_err(|_| invalid("max-keys must not be negative")),
        }
    }

    async fn list(&self, question: &Question) -> S3Result<Listed> {
        collect(self.store.as_ref(), question).await
    }
}

fn delete_request(object: ObjectIdentifier) -> S3Result<DeleteRequest> {
    Ok(DeleteRequest {
        key: key(object.key)?,
        if_match: object.e_tag.map(|tag| ETag::new(tag.value())),
        version: object.version_id.map(VersionId),
    })
}

/// The content range of an answer that brings these bytes of an object of `size`.
fn content_range(bytes: &std::ops::Range<u64>, size: u64) -> String {
    let last = bytes.end.saturating_sub(1);
    format!("bytes {}-{last}/{size}", bytes.start)
}

fn no_versions(version: Option<&String>) -> S3Result<()> {
    match version {
        None => Ok(()),
        Some(_) => Err(not_implemented("versions cannot be read")),
    }
}

fn names(encoding: Option<&EncodingType>) -> Names {
    Names(encoding.is_some_and(|encoding| encoding.as_str() == EncodingType::URL))
}

#[async_trait]
impl S3 for Bucket {
    async fn put_object(
        &self,
        req: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        self.begin("PutObject", &req, &req.input.bucket)?;
        let input = req.input;
        let condition = precondition(
            input.if_match,
            input.if_none_match,
            &req.headers,
            self.tag_form,
        )?;
        let key = key(input.key)?;
        let unread = Unread {
            stream: input.body,
            length: input.content_length,
            content_md5: input.content_md5,
            headers: req.headers,
            trailers: req.trailing_headers,
            signed: req.credentials.is_some(),
        };
        let payload = self.bodies.read(unread).await?;
        let mut put = Put::new(key, payload.body).when(condition);
        put.metadata = input.metadata.unwrap_or_default().into_iter().collect();
        let answer = self.store.put(put).await.map_err(error)?;
        let (etag, version_id, date) = answers::put(answer)?;
        let checksum = payload.checksum;
        let output = PutObjectOutput {
            e_tag: Some(tag(&etag)),
            version_id: version(version_id),
            checksum_crc32: checksum.checksum_crc32,
            checksum_crc32c: checksum.checksum_crc32c,
            checksum_crc64nvme: checksum.checksum_crc64nvme,
            checksum_sha1: checksum.checksum_sha1,
            checksum_sha256: checksum.checksum_sha256,
            ..PutObjectOutput::default()
        };
        Ok(dated(output, date))
    }

    async fn get_object(
        &self,
        req: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        self.begin("GetObject", &req, &req.input.bucket)?;
        let input = req.input;
        no_versions(input.version_id.as_ref())?;
        let key = key(input.key)?;
        let answer = self.read(&key, input.range.as_ref()).await?;
        let Object { meta, body } = answer.value;
        let conditions = ReadConditions {
            tag: input.if_match,
            other_tag: input.if_none_match,
            modified_since: input.if_modified_since,
            unmodified_since: input.if_unmodified_since,
        };
        conditions.check(&meta)?;
        let part = input.range.as_ref().map(|range| range.check(meta.size));
        let part = part.transpose()?;
        let promised = part
            .as_ref()
            .map_or(meta.size, |part| part.end.saturating_sub(part.start));
        let output = GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(promised as i64),
            content_range: part.map(|part| content_range(&part, meta.size)),
            content_type: Some("application/octet-stream".to_owned()),
            e_tag: Some(tag(&meta.etag)),
            last_modified: Some(timestamp(meta.last_modified)),
            metadata: Some(meta.metadata.into_iter().collect()),
            storage_class: meta.storage_class.map(Into::into),
            version_id: version(meta.version),
            body: Some(answers::content(body, promised)),
            ..GetObjectOutput::default()
        };
        Ok(dated(output, answer.date))
    }

    async fn head_object(
        &self,
        req: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.begin("HeadObject", &req, &req.input.bucket)?;
        let input = req.input;
        no_versions(input.version_id.as_ref())?;
        let key = key(input.key)?;
        let answer = self.store.head(&key).await.map_err(error)?;
        let meta = answer.value;
        let conditions = ReadConditions {
            tag: input.if_match,
            other_tag: input.if_none_match,
            modified_since: input.if_modified_since,
            unmodified_since: input.if_unmodified_since,
        };
        conditions.check(&meta)?;
        let output = HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(meta.size as i64),
            content_type: Some("application/octet-stream".to_owned()),
            e_tag: Some(tag(&meta.etag)),
            last_modified: Some(timestamp(meta.last_modified)),
            metadata: Some(meta.metadata.into_iter().collect()),
            storage_class: meta.storage_class.map(Into::into),
            version_id: version(meta.version),
            ..HeadObjectOutput::default()
        };
        Ok(dated(output, answer.date))
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.begin("DeleteObject", &req, &req.input.bucket)?;
        let if_match = match &req.input.if_match {
            Some(condition) => Some(written_tag(condition, &req.headers, self.tag_form)?),
            None => None,
        };
        let request = DeleteRequest {
            key: key(req.input.key)?,
            if_match,
            version: req.input.version_id.clone().map(VersionId),
        };
        let answer = self.store.delete(&[request], None).await.map_err(error)?;
        let outcome = answer.value.into_iter().next();
        let outcome = outcome.ok_or_else(|| S3Error::new(S3ErrorCode::InternalError))?;
        match answers::deletion(outcome)? {
            None => {
                let output = DeleteObjectOutput {
                    version_id: req.input.version_id,
                    ..DeleteObjectOutput::default()
                };
                Ok(dated(output, answer.date))
            }
            Some((code, why)) => Err(S3Error::with_message(code, why)),
        }
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.begin("DeleteObjects", &req, &req.input.bucket)?;
        if !self.batch_delete {
            return Err(not_implemented("DeleteObjects is not implemented"));
        }
        let quiet = req.input.delete.quiet.unwrap_or(false);
        let objects = req.input.delete.objects;
        if objects.is_empty() || objects.len() > PAGE_KEYS_MAX {
            let message = "a batch deletes 1 to 1000 objects";
            return Err(S3Error::with_message(S3ErrorCode::MalformedXML, message));
        }
        let requests = objects.into_iter().map(delete_request);
        let requests = requests.collect::<S3Result<Vec<_>>>()?;
        let answer = self.store.delete(&requests, None).await.map_err(error)?;
        let mut deleted = Vec::new();
        let mut errors = Vec::new();
        for (request, outcome) in requests.into_iter().zip(answer.value) {
            let key = Some(request.key.as_str().to_owned());
            let version_id = version(request.version);
            match answers::deletion(outcome)? {
                None if quiet => {}
                None => deleted.push(DeletedObject {
                    key,
                    version_id,
                    ..DeletedObject::default()
                }),
                Some((code, why)) => errors.push(s3s::dto::Error {
                    code: Some(code.as_str().to_owned()),
                    key,
                    message: Some(why),
                    version_id,
                }),
            }
        }
        let output = DeleteObjectsOutput {
            deleted: Some(deleted),
            errors: Some(errors),
            ..DeleteObjectsOutput::default()
        };
        Ok(dated(output, answer.date))
    }

    async fn copy_object(
        &self,
        req: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        self.begin("CopyObject", &req, &req.input.bucket)?;
        let input = req.input;
        if input.copy_source_if_match.is_some()
            || input.copy_source_if_none_match.is_some()
            || input.copy_source_if_modified_since.is_some()
            || input.copy_source_if_unmodified_since.is_some()
        {
            return Err(not_implemented("the source of a copy has no conditions"));
        }
        let CopySource::Bucket {
            bucket,
            key: source,
            version_id: None,
        } = input.copy_source
        else {
            return Err(not_implemented("only current objects can be copied"));
        };
        let Some(from) = self.stores.get(&*bucket) else {
            return Err(S3Error::new(S3ErrorCode::NoSuchBucket));
        };
        let condition = copy_precondition(&req.headers, self.tag_form)?;
        let source = key(source.into())?;
        let replace = input
            .metadata_directive
            .is_some_and(|directive| directive.as_str() == MetadataDirective::REPLACE);
        let metadata = if replace {
            input.metadata.unwrap_or_default().into_iter().collect()
        } else {
            let head = from.head(&source).await.map_err(error)?;
            head.value.metadata
        };
        let target = key(input.key)?;
        let answer = if *bucket == *self.name {
            let copy = Copy::new(source, target).when(condition);
            self.store.copy(Copy { metadata, ..copy }).await
        } else {
            // Stores know nothing of each other.
            let object = from.get(&source, None).await.map_err(error)?;
            let object = object.value.whole(&source, None).map_err(error)?;
            let put = Put::new(target, object.body).when(condition);
            self.store.put(Put { metadata, ..put }).await
        };
        let answer = answer.map_err(error)?;
        let (etag, version_id, date) = answers::put(answer)?;
        let output = CopyObjectOutput {
            copy_object_result: Some(CopyObjectResult {
                e_tag: Some(tag(&etag)),
                last_modified: date.map(timestamp),
                ..CopyObjectResult::default()
            }),
            version_id: version(version_id),
            ..CopyObjectOutput::default()
        };
        Ok(dated(output, date))
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.begin("ListObjectsV2", &req, &req.input.bucket)?;
        let input = req.input;
        let names = names(input.encoding_type.as_ref());
        let continued = match &input.continuation_token {
            None => None,
            Some(token) => {
                let text = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
                let text = text.and_then(|text| String::from_utf8(text).ok());
                Some(text.ok_or_else(|| invalid("the continuation token is not one of ours"))?)
            }
        };
        let question = Question {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            start_after: continued.or_else(|| input.start_after.clone()),
            keys_max: self.keys_max(input.max_keys)?,
        };
        let listed = self.list(&question).await?;
        let next = listed.next.as_ref();
        let output = ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(names.encode(&question.prefix)),
            max_keys: Some(question.keys_max as i32),
            key_count: Some(listed.count() as i32),
            continuation_token: input.continuation_token,
            is_truncated: Some(next.is_some()),
            next_continuation_token: next.map(|next| BASE64_URL_SAFE_NO_PAD.encode(next)),
            delimiter: input.delimiter.map(|delimiter| names.encode(&delimiter)),
            start_after: input.start_after.map(|after| names.encode(&after)),
            encoding_type: input.encoding_type,
            contents: Some(names.objects(listed.entries)),
            common_prefixes: Some(names.folders(listed.folders)),
            ..ListObjectsV2Output::default()
        };
        Ok(dated(output, listed.date))
    }

    async fn list_objects(
        &self,
        req: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        self.begin("ListObjects", &req, &req.input.bucket)?;
        let input = req.input;
        let names = names(input.encoding_type.as_ref());
        let question = Question {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            start_after: input.marker.clone(),
            keys_max: self.keys_max(input.max_keys)?,
        };
        let listed = self.list(&question).await?;
        let output = ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(names.encode(&question.prefix)),
            marker: Some(names.encode(input.marker.as_deref().unwrap_or_default())),
            max_keys: Some(question.keys_max as i32),
            is_truncated: Some(listed.next.is_some()),
            next_marker: listed.next.as_deref().map(|next| names.encode(next)),
            delimiter: input.delimiter.map(|delimiter| names.encode(&delimiter)),
            encoding_type: input.encoding_type,
            contents: Some(names.objects(listed.entries)),
            common_prefixes: Some(names.folders(listed.folders)),
            ..ListObjectsOutput::default()
        };
        Ok(dated(output, listed.date))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.create_upload(req).await
    }

    async fn upload_part(
        &self,
        req: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.receive_part(req).await
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        self.complete_upload(req).await
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.abort_upload(req).await
    }

    async fn head_bucket(
        &self,
        req: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.begin("HeadBucket", &req, &req.input.bucket)?;
        let answer = self.store.head_bucket().await.map_err(error)?;
        let output = HeadBucketOutput {
            bucket_region: Some(self.region.clone()),
            ..HeadBucketOutput::default()
        };
        Ok(dated(output, answer.date))
    }

    async fn list_buckets(
        &self,
        req: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        self.begin("ListBuckets", &req, &self.name)?;
        let bucket = |name: &String| s3s::dto::Bucket {
            name: Some(name.clone()),
            ..s3s::dto::Bucket::default()
        };
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(self.stores.keys().map(bucket).collect()),
            ..ListBucketsOutput::default()
        }))
    }

    /// There is one bucket, and there will be no other.
    async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        match self.begin("CreateBucket", &req, &req.input.bucket) {
            Ok(()) => Err(S3Error::with_message(
                S3ErrorCode::BucketAlreadyOwnedByYou,
                "this is the bucket that is served",
            )),
            Err(_) => Err(not_implemented(
                "this server has one bucket and makes no other",
            )),
        }
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.begin("GetBucketLocation", &req, &req.input.bucket)?;
        Ok(S3Response::new(settings::location(&self.region)))
    }

    async fn get_bucket_versioning(
        &self,
        req: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        self.begin("GetBucketVersioning", &req, &req.input.bucket)?;
        self.setting(|known| settings::versioning(known.versioning))
            .await
    }

    async fn get_bucket_lifecycle_configuration(
        &self,
        req: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
        self.begin("GetBucketLifecycleConfiguration", &req, &req.input.bucket)?;
        self.setting(|known| settings::lifecycle(known.lifecycle))
            .await
    }

    async fn get_object_lock_configuration(
        &self,
        req: S3Request<GetObjectLockConfigurationInput>,
    ) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
        self.begin("GetObjectLockConfiguration", &req, &req.input.bucket)?;
        self.setting(|known| settings::object_lock(known.object_lock))
            .await
    }
}
