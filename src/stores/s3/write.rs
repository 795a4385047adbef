//! Writing: objects, multipart uploads, deletion, the bucket itself.

use std::sync::atomic::Ordering;

use aws_sdk_s3::{
    config::{Config, http::HttpResponse},
    error::{ProvideErrorMetadata, SdkError},
    operation::{create_bucket::CreateBucketError, head_bucket::HeadBucketError},
    primitives::ByteStream,
    types::{
        BucketLocationConstraint, ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, CreateBucketConfiguration,
        ObjectLockLegalHoldStatus, StorageClass,
    },
};
use bytes::Bytes;

use super::{
    ObjectAttributes, ObjectStat, PutOptions, S3Encryption, S3Store, StoreError, UploadedPart,
    config::joining,
    values::{Checksum, crc32c, encode_crc32c, encode_sha256},
    versions::{header_mode, seconds},
};
use crate::stores::{
    MAX_SINGLE_PUT_BYTES,
    bounds::{hashed, sha256},
    header_values::{encode_tags, encode_value, plain_etag},
    tiers::s3_class,
};

impl S3Store {
    pub(super) async fn put_object(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        let size = body.len() as u64;
        if size > MAX_SINGLE_PUT_BYTES {
            let detail = format!("{size} bytes in one put, where at most {MAX_SINGLE_PUT_BYTES} may go");
            return Err(StoreError::Other { place: self.object_place(key), action: "put", detail });
        }
        if options.sealed && options.sha256.is_none() && self.takes_crc32c.load(Ordering::Relaxed) {
            let checksum = Checksum::Crc32C(hashed(&self.place, key, "put", &body, |body| crc32c(body)).await?);
            return match self.put_checked(key, body.clone(), options.clone(), checksum).await {
                // It may know no such checksum: servers say that in many ways, and have stored nothing.
                Err(StoreError::Unsupported { .. } | StoreError::Corrupt { .. } | StoreError::Other { .. }) => {
                    let done = self.put_hashed(key, body, options).await?;
                    self.takes_crc32c.store(false, Ordering::Relaxed);
                    Ok(done)
                }
                done => done,
            };
        }
        self.put_hashed(key, body, options).await
    }

    async fn put_hashed(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        let sha256 = match options.sha256 {
            Some(sha256) => sha256,
            None => hashed(&self.place, key, "put", &body, |body| sha256(body)).await?,
        };
        self.put_checked(key, body, options, Checksum::Sha256(sha256)).await
    }

    async fn put_checked(&self, key: &str, body: Bytes, options: PutOptions, checksum: Checksum) -> Result<ObjectStat, StoreError> {
        let size = body.len() as u64;
        let PutOptions { if_absent, attributes, lock, .. } = options;
        let storage_class = attributes.storage_class.clone();
        let lock = lock.or(attributes.lock);
        let date = self.response_date();
        let encryption = self.encryption.as_ref();
        let mut request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.whole(key))
            .set_if_none_match(if_absent.then(|| "*".to_owned()))
            // Ceph keeps and verifies the checksum only if the algorithm is named as well.
            .checksum_algorithm(checksum.algorithm())
            .set_checksum_sha256(checksum.sha256().as_ref().map(encode_sha256))
            .set_checksum_crc32_c(checksum.crc32c().map(encode_crc32c))
            .set_object_lock_mode(lock.map(|lock| header_mode(lock.mode)))
            .set_object_lock_retain_until_date(lock.map(|lock| seconds(lock.until)))
            .set_object_lock_legal_hold_status(attributes.legal_hold.then_some(ObjectLockLegalHoldStatus::On))
            .set_tagging(encode_tags(&attributes.tags))
            .set_content_type(attributes.content_type)
            .set_cache_control(attributes.cache_control)
            .set_content_disposition(attributes.content_disposition)
            .set_content_encoding(attributes.content_encoding)
            .set_content_language(attributes.content_language)
            .set_server_side_encryption(encryption.map(S3Encryption::word))
            .set_ssekms_key_id(encryption.and_then(S3Encryption::key))
            .set_bucket_key_enabled(encryption.and_then(S3Encryption::bucket_key))
            .set_request_payer(self.payer.clone())
            .set_storage_class(attributes.storage_class.as_deref().and_then(s3_class).map(StorageClass::from));
        for (name, value) in &attributes.metadata {
            request = request.metadata(name, encode_value(value));
        }
        let sent =
            request.body(ByteStream::from(body)).customize().interceptor(date.clone()).disable_payload_signing().send().await;
        match sent {
            Ok(output) => Ok(ObjectStat {
                key: key.to_owned(),
                size,
                modified: date.get(),
                etag: plain_etag(output.e_tag()),
                version: output.version_id().map(str::to_owned),
                sha256: checksum.sha256(),
                storage_class,
            }),
            Err(error) => Err(self.refused(key, "put", if_absent, &error).await),
        }
    }

    /// What it means that a write was refused.
    async fn refused<E>(&self, key: &str, action: &'static str, if_absent: bool, error: &SdkError<E, HttpResponse>) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let conflict = error.as_service_error().and_then(ProvideErrorMetadata::code) == Some("ConditionalRequestConflict")
            || error.raw_response().is_some_and(|response| response.status().as_u16() == 409);
        match self.error(key, action, error) {
            StoreError::Changed { place } if if_absent => StoreError::AlreadyExists { place },
            // Two writers met. Usually the other one won; if nobody did, this one may try again.
            meaning if if_absent && conflict => match self.head_object(key).await {
                Ok(_) => StoreError::AlreadyExists { place: self.object_place(key) },
                Err(StoreError::NotFound { place }) => {
                    StoreError::Unavailable { place, detail: format!("another writer was at the same key: {meaning}") }
                }
                Err(_) => meaning,
            },
            meaning => meaning,
        }
    }

    pub(super) async fn delete_object(&self, key: &str) -> Result<(), StoreError> {
        match self
            .client
            .delete_object()
            .bucket(&self.bucket)
            .key(self.whole(key))
            .set_request_payer(self.payer.clone())
            .send()
            .await
        {
            Ok(_) => Ok(()),
            Err(error) => match self.error(key, "delete", &error) {
                StoreError::NotFound { .. } => Ok(()),
                meaning => Err(meaning),
            },
        }
    }

    pub(super) async fn create_multipart(&self, key: &str, attributes: ObjectAttributes) -> Result<String, StoreError> {
        let encryption = self.encryption.as_ref();
        let mut request = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(self.whole(key))
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .set_object_lock_mode(attributes.lock.map(|lock| header_mode(lock.mode)))
            .set_object_lock_retain_until_date(attributes.lock.map(|lock| seconds(lock.until)))
            .set_object_lock_legal_hold_status(attributes.legal_hold.then_some(ObjectLockLegalHoldStatus::On))
            .set_tagging(encode_tags(&attributes.tags))
            .set_content_type(attributes.content_type)
            .set_cache_control(attributes.cache_control)
            .set_content_disposition(attributes.content_disposition)
            .set_content_encoding(attributes.content_encoding)
            .set_content_language(attributes.content_language)
            .set_server_side_encryption(encryption.map(S3Encryption::word))
            .set_ssekms_key_id(encryption.and_then(S3Encryption::key))
            .set_bucket_key_enabled(encryption.and_then(S3Encryption::bucket_key))
            .set_request_payer(self.payer.clone())
            .set_storage_class(attributes.storage_class.as_deref().and_then(s3_class).map(StorageClass::from));
        for (name, value) in &attributes.metadata {
            request = request.metadata(name, encode_value(value));
        }
        let output = request.send().await.map_err(|error| self.error(key, "begin an upload", &error))?;
        output.upload_id.ok_or_else(|| self.corrupt(key, "the server began an upload without an id"))
    }

    pub(super) async fn put_part(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<UploadedPart, StoreError> {
        let sha256 = hashed(&self.place, key, "upload a part", &body, |body| sha256(body)).await?;
        let sent = self
            .client
            .upload_part()
            .bucket(&self.bucket)
            .key(self.whole(key))
            .upload_id(upload)
            .part_number(self.part_number(key, number)?)
            .set_request_payer(self.payer.clone())
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .checksum_sha256(encode_sha256(&sha256))
            .body(ByteStream::from(body))
            .customize()
            .disable_payload_signing()
            .send()
            .await;
        let output = sent.map_err(|error| self.error(key, "upload a part", &error))?;
        Ok(UploadedPart { number, etag: plain_etag(output.e_tag()), sha256 })
    }

    fn part_number(&self, key: &str, number: u32) -> Result<i32, StoreError> {
        i32::try_from(number).map_err(|_| StoreError::Other {
            place: self.object_place(key),
            action: "upload a part",
            detail: format!("part {number} is beyond the 10,000 that an upload may have"),
        })
    }

    pub(super) async fn complete_multipart(
        &self,
        key: &str,
        upload: &str,
        parts: &[UploadedPart],
        if_absent: bool,
    ) -> Result<ObjectStat, StoreError> {
        let mut listed = Vec::with_capacity(parts.len());
        for part in parts {
            listed.push(
                CompletedPart::builder()
                    .part_number(self.part_number(key, part.number)?)
                    .e_tag(format!("\"{}\"", part.etag))
                    .checksum_sha256(encode_sha256(&part.sha256))
                    .build(),
            );
        }
        let sent = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(self.whole(key))
            .upload_id(upload)
            .set_if_none_match(if_absent.then(|| "*".to_owned()))
            .set_request_payer(self.payer.clone())
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(listed)).build())
            .customize()
            .config_override(Config::builder().timeout_config(joining()))
            .send()
            .await;
        match sent {
            // The answer names neither size nor time.
            Ok(_) => self.head_object(key).await,
            Err(error) => Err(self.refused(key, "complete an upload", if_absent, &error).await),
        }
    }

    pub(super) async fn abort_multipart(&self, key: &str, upload: &str) -> Result<(), StoreError> {
        let abort = self.client.abort_multipart_upload().bucket(&self.bucket).key(self.whole(key)).upload_id(upload);
        match abort.set_request_payer(self.payer.clone()).send().await {
            Ok(_) => Ok(()),
            Err(error) => match self.error(key, "abort an upload", &error) {
                StoreError::NotFound { .. } => Ok(()),
                meaning => Err(meaning),
            },
        }
    }

    pub(super) async fn create_bucket(&self, locking: bool) -> Result<(), StoreError> {
        match self.client.head_bucket().bucket(&self.bucket).send().await {
            Ok(_) => return Ok(()),
            Err(error) if missing(&error) => {}
            Err(error) => return Err(self.error("", "look at", &error)),
        }
        // With Object Lock a bucket is made versioned.
        let mut create =
            self.client.create_bucket().bucket(&self.bucket).set_object_lock_enabled_for_bucket(locking.then_some(true));
        if self.region != "us-east-1" {
            // us-east-1 is the one region that must not be named (S3's documentation of CreateBucket).
            let location = BucketLocationConstraint::from(self.region.as_str());
            create = create.create_bucket_configuration(CreateBucketConfiguration::builder().location_constraint(location).build());
        }
        match create.send().await {
            Ok(_) => Ok(()),
            Err(error) => match error.as_service_error() {
                Some(CreateBucketError::BucketAlreadyOwnedByYou(_)) => Ok(()),
                Some(CreateBucketError::BucketAlreadyExists(_)) => Err(StoreError::Denied {
                    place: self.place.clone(),
                    action: "create",
                    detail: "a bucket of this name exists and belongs to somebody else; choose another name".to_owned(),
                }),
                _ => Err(self.error("", "create", &error)),
            },
        }
    }
}

fn missing(error: &SdkError<HeadBucketError, HttpResponse>) -> bool {
    error.raw_response().is_some_and(|response| response.status().as_u16() == 404)
}
