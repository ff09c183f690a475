//! Multipart uploads over HTTP.

use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CompletedPart, CreateMultipartUploadInput,
    CreateMultipartUploadOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::answers::{self, dated, error, invalid, key, tag, version};
use super::bucket::Bucket;
use super::conditions::precondition;
use super::payload::Unread;
use crate::ETag;
use crate::store::{Part, UploadId};

impl Bucket {
    pub(super) async fn create_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.begin("CreateMultipartUpload", &req, &req.input.bucket)?;
        let input = req.input;
        let metadata = input.metadata.unwrap_or_default().into_iter().collect();
        let key = key(input.key)?;
        let answer = self.store.create_multipart(&key, metadata).await;
        let answer = answer.map_err(error)?;
        let UploadId(id) = answer.value;
        let output = CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(key.as_str().to_owned()),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        };
        Ok(dated(output, answer.date))
    }

    pub(super) async fn receive_part(
        &self,
        req: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.begin("UploadPart", &req, &req.input.bucket)?;
        let input = req.input;
        let key = key(input.key)?;
        let number = part_number(Some(input.part_number))?;
        let unread = Unread {
            stream: input.body,
            length: input.content_length,
            content_md5: input.content_md5,
            headers: req.headers,
            trailers: req.trailing_headers,
            signed: req.credentials.is_some(),
        };
        let payload = self.bodies.read(unread).await?;
        let upload = UploadId(input.upload_id);
        let answer = self
            .store
            .upload_part(&key, &upload, number, payload.body)
            .await;
        let (etag, date) = answers::part(answer.map_err(error)?)?;
        let checksum = payload.checksum;
        let output = UploadPartOutput {
            e_tag: Some(tag(&etag)),
            checksum_crc32: checksum.checksum_crc32,
            checksum_crc32c: checksum.checksum_crc32c,
            checksum_crc64nvme: checksum.checksum_crc64nvme,
            checksum_sha1: checksum.checksum_sha1,
            checksum_sha256: checksum.checksum_sha256,
            ..UploadPartOutput::default()
        };
        Ok(dated(output, date))
    }

    pub(super) async fn complete_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        self.begin("CompleteMultipartUpload", &req, &req.input.bucket)?;
        let input = req.input;
        let condition = precondition(
            input.if_match,
            input.if_none_match,
            &req.headers,
            self.tag_form,
        )?;
        let parts = input.multipart_upload.and_then(|upload| upload.parts);
        let parts = parts.unwrap_or_default().into_iter().map(part);
        let parts = parts.collect::<S3Result<Vec<Part>>>()?;
        let key = key(input.key)?;
        let upload = UploadId(input.upload_id);
        let answer = self
            .store
            .complete_multipart(&key, &upload, &parts, condition)
            .await;
        let (etag, version_id, date) = answers::put(answer.map_err(error)?)?;
        let output = CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(key.as_str().to_owned()),
            e_tag: Some(tag(&etag)),
            version_id: version(version_id),
            ..CompleteMultipartUploadOutput::default()
        };
        Ok(dated(output, date))
    }

    pub(super) async fn abort_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.begin("AbortMultipartUpload", &req, &req.input.bucket)?;
        let key = key(req.input.key)?;
        let upload = UploadId(req.input.upload_id);
        let answer = self.store.abort_multipart(&key, &upload).await;
        let answer = answer.map_err(error)?;
        Ok(dated(AbortMultipartUploadOutput::default(), answer.date))
    }
}

fn part_number(number: Option<i32>) -> S3Result<u16> {
    let number = number.and_then(|number| u16::try_from(number).ok());
    number.ok_or_else(|| invalid("a part number is from 1 to 10,000"))
}

fn part(part: CompletedPart) -> S3Result<Part> {
    let number = part_number(part.part_number)?;
    match part.e_tag {
        Some(tag) => Ok(Part {
            number,
            etag: ETag::new(tag.value()),
        }),
        None => Err(S3Error::with_message(
            S3ErrorCode::MalformedXML,
            "a part has no tag",
        )),
    }
}
