//! Reading: objects, ranges, what the server says of them, listings.

use std::{collections::BTreeMap, ops::Range};

use aws_sdk_s3::{
    config::{Builder, ResponseChecksumValidation},
    operation::{get_object::GetObjectOutput, head_object::HeadObjectOutput},
    primitives::{ByteStream, DateTime as SdkDateTime},
    types::{ChecksumMode, EncodingType, Object},
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream, stream::BoxStream};

use super::{
    Download, GetOptions, ObjectAttributes, ObjectStat, Page, S3Store, StoreError,
    encryption::worth_recording,
    holds::Shown,
    values::{decode_key, decode_sha256},
};
use crate::stores::{
    bounds::unsorted,
    error::chain,
    header_values::{content_range, decode_value, plain_etag, range_header},
};

/// S3 lists no more at once.
pub(super) const MAX_PAGE: usize = 1000;

impl S3Store {
    pub(super) async fn get_object(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        let range = match &options.range {
            // HTTP has no empty range.
            Some(range) if range.start >= range.end => return Err(StoreError::InvalidRange { place: self.object_place(key) }),
            range => range.as_ref().map(range_header),
        };
        let version = self.version_to_read(key, options.version.as_deref()).await?;
        let mut call = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(self.whole(key))
            .set_version_id(version.clone())
            .set_range(range)
            .set_if_match(options.if_match.map(|etag| format!("\"{etag}\"")))
            .set_request_payer(self.payer.clone())
            .customize()
            .interceptor(self.tag_counts.watch());
        if options.sealed {
            call = call.config_override(Builder::new().response_checksum_validation(ResponseChecksumValidation::WhenRequired));
        }
        let mut output = call.send().await.map_err(|error| self.error(key, "get", &error))?;
        let (size, length) = self.sizes(key, options.range.as_ref(), &output)?;
        let stat = ObjectStat {
            key: key.to_owned(),
            size,
            modified: self.modified(key, output.last_modified())?,
            etag: plain_etag(output.e_tag()),
            version: output.version_id().map(str::to_owned),
            sha256: options.range.is_none().then(|| decode_sha256(output.checksum_sha256())).flatten(),
            storage_class: output.storage_class().map(|class| class.as_str().to_owned()),
        };
        let mut attributes = attributes(&output).held_by(self.shown_holds(&Shown::of(&output)));
        // Tags are asked for by the version that was answered, where there is one.
        let read = stat.version.as_deref().or(version.as_deref());
        if options.attributes && self.tag_counts.may_have(output.tag_count(), read.is_some()) {
            attributes.tags = self.tags(key, read, read.is_some()).await?;
        }
        let body = self.body(key, std::mem::take(&mut output.body), length);
        Ok(Download { stat, attributes, body })
    }

    /// The version that is to be read where this one is asked for, or none; `None` for the newest.
    pub(super) async fn version_to_read(&self, key: &str, wanted: Option<&str>) -> Result<Option<String>, StoreError> {
        match wanted {
            Some(version) => Ok(Some(version.to_owned())),
            None if self.first_versions => self.first_version(key).await.map(Some),
            None => Ok(None),
        }
    }

    /// The object's size, and how many bytes the body must have.
    fn sizes(&self, key: &str, range: Option<&Range<u64>>, output: &GetObjectOutput) -> Result<(u64, u64), StoreError> {
        let length = output.content_length().and_then(|length| u64::try_from(length).ok());
        let length = length.ok_or_else(|| self.corrupt(key, "the answer names no length"))?;
        let Some(range) = range else {
            return Ok((length, length));
        };
        let answered = output.content_range().and_then(content_range);
        let (start, end, size) = answered.ok_or_else(|| self.corrupt(key, "the server did not obey the range it was asked for"))?;
        if start != range.start || end != range.end.min(size) || end - start != length {
            let detail = format!("bytes {start} to {end} of {size} came, {range:?} were asked for");
            return Err(self.corrupt(key, detail));
        }
        Ok((size, length))
    }

    fn body(&self, key: &str, body: ByteStream, length: u64) -> BoxStream<'static, Result<Bytes, StoreError>> {
        let place = self.object_place(key);
        stream::unfold(Some((body, length, place)), async |state| {
            let (mut body, left, place) = state?;
            let broken = |detail: String, place| StoreError::Unavailable { place, detail };
            match body.next().await {
                Some(Ok(bytes)) => match left.checked_sub(bytes.len() as u64) {
                    Some(left) => Some((Ok(bytes), Some((body, left, place)))),
                    None => Some((Err(StoreError::Corrupt { place, detail: "more bytes came than were stated".to_owned() }), None)),
                },
                None if left == 0 => None,
                None => Some((Err(broken(format!("the body ended {left} bytes short"), place)), None)),
                Some(Err(error)) => {
                    let detail = chain(&error);
                    // The SDK compares the stored checksum after the last byte.
                    let mismatch = left == 0 || detail.contains("checksum mismatch");
                    let error = if mismatch { StoreError::Corrupt { place, detail } } else { broken(detail, place) };
                    Some((Err(error), None))
                }
            }
        })
        .boxed()
    }

    pub(super) async fn head_object(&self, key: &str) -> Result<ObjectStat, StoreError> {
        let output = self.head(key, None, "stat").await?;
        let size = output.content_length().and_then(|length| u64::try_from(length).ok());
        Ok(ObjectStat {
            key: key.to_owned(),
            size: size.ok_or_else(|| self.corrupt(key, "the answer names no length"))?,
            modified: self.modified(key, output.last_modified())?,
            etag: plain_etag(output.e_tag()),
            version: output.version_id().map(str::to_owned),
            sha256: decode_sha256(output.checksum_sha256()),
            storage_class: output.storage_class().map(|class| class.as_str().to_owned()),
        })
    }

    /// What the server says of a version of an object, or of the one that is read where none is named.
    pub(super) async fn head(
        &self,
        key: &str,
        version: Option<&str>,
        action: &'static str,
    ) -> Result<HeadObjectOutput, StoreError> {
        let head = self.client.head_object().bucket(&self.bucket).key(self.whole(key)).checksum_mode(ChecksumMode::Enabled);
        let head = head.set_version_id(self.version_to_read(key, version).await?).set_request_payer(self.payer.clone());
        match head.customize().interceptor(self.tag_counts.watch()).send().await {
            Ok(output) => Ok(output),
            Err(error) => {
                let meaning = self.error(key, action, &error);
                // The answer to a HEAD has no body that would say which of the credentials, the clock and the rights is wrong.
                let unexplained = matches!(meaning, StoreError::Denied { .. } | StoreError::Other { .. });
                Err(if unexplained { self.explained(key).await.unwrap_or(meaning) } else { meaning })
            }
        }
    }

    /// Asks for one byte to learn why a HEAD failed.
    pub(super) async fn explained(&self, key: &str) -> Option<StoreError> {
        let get = self.client.get_object().bucket(&self.bucket).key(self.whole(key)).range("bytes=0-0");
        let get = get.set_request_payer(self.payer.clone());
        get.send().await.err().map(|error| self.error(key, "stat", &error))
    }

    pub(super) async fn list_objects(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let whole_prefix = self.whole(prefix);
        // The key `p/` of a store with prefix `p` would be the empty key; starting after it leaves it out.
        let after = match start_after {
            Some(after) => Some(self.whole(after)),
            None if self.prefix.is_empty() => None,
            None => Some(self.prefix.clone()),
        };
        let limit = i32::try_from(limit.min(MAX_PAGE)).unwrap_or(1000);
        let list = self.client.list_objects_v2().bucket(&self.bucket).prefix(&whole_prefix).max_keys(limit);
        let list = list.set_request_payer(self.payer.clone());
        // XML cannot hold control characters, so keys come escaped.
        let sent = list.set_start_after(after).encoding_type(EncodingType::Url).send().await;
        let output = sent.map_err(|error| self.error(prefix, "list", &error))?;
        let escaped = output.encoding_type() == Some(&EncodingType::Url);
        let mut objects = Vec::with_capacity(output.contents().len());
        for object in output.contents() {
            let stat = self.listed(object, escaped)?;
            let earlier = objects.last().map_or(start_after, |last: &ObjectStat| Some(last.key.as_str()));
            if let Some(earlier) = earlier.filter(|earlier| **earlier >= *stat.key) {
                return Err(self.unsorted(prefix, earlier, &stat.key));
            }
            objects.push(stat);
        }
        let more = output.is_truncated().unwrap_or(false);
        if more && objects.is_empty() {
            return Err(self.corrupt(prefix, "the listing says that there is more, and shows nothing to go on from"));
        }
        Ok(Page { objects, more })
    }

    /// The `Date` of the answer to the smallest of requests.
    pub(super) async fn server_time(&self) -> Result<DateTime<Utc>, StoreError> {
        let date = self.response_date();
        let list = self.client.list_objects_v2().bucket(&self.bucket).prefix(&self.prefix).max_keys(1);
        let list = list.set_request_payer(self.payer.clone());
        let sent = list.customize().interceptor(date.clone()).send().await;
        sent.map_err(|error| self.error("", "list", &error))?;
        date.stated().ok_or_else(|| self.corrupt("", "the server's answers carry no Date: its time is not known"))
    }

    pub(super) fn unsorted(&self, prefix: &str, earlier: &str, later: &str) -> StoreError {
        unsorted(&self.place, prefix, "S3's", earlier, later)
    }

    fn listed(&self, object: &Object, escaped: bool) -> Result<ObjectStat, StoreError> {
        let raw = object.key().unwrap_or_default();
        let whole = if escaped { decode_key(raw) } else { Some(raw.to_owned()) };
        let key = whole.as_deref().and_then(|whole| whole.strip_prefix(&self.prefix));
        let key = key.ok_or_else(|| self.corrupt(raw, "a listed key is not UTF-8, or not under the prefix"))?;
        let size = object.size().and_then(|size| u64::try_from(size).ok());
        Ok(ObjectStat {
            key: key.to_owned(),
            size: size.ok_or_else(|| self.corrupt(key, "listed without a size"))?,
            modified: self.modified(key, object.last_modified())?,
            etag: plain_etag(object.e_tag()),
            version: None,
            sha256: None,
            storage_class: object.storage_class().map(|class| class.as_str().to_owned()),
        })
    }

    pub(super) fn modified(&self, key: &str, time: Option<&SdkDateTime>) -> Result<DateTime<Utc>, StoreError> {
        time.and_then(|time| DateTime::from_timestamp(time.secs(), time.subsec_nanos()))
            .ok_or_else(|| self.corrupt(key, "the answer names no time of modification"))
    }
}

fn attributes(output: &GetObjectOutput) -> ObjectAttributes {
    let text = |value: Option<&str>| value.filter(|value| !value.is_empty()).map(str::to_owned);
    let metadata = output.metadata().into_iter().flatten();
    ObjectAttributes {
        content_type: text(output.content_type()),
        cache_control: text(output.cache_control()),
        content_disposition: text(output.content_disposition()),
        content_encoding: text(output.content_encoding()),
        content_language: text(output.content_language()),
        storage_class: text(output.storage_class().map(|class| class.as_str())),
        metadata: metadata.map(|(name, value)| (name.to_lowercase(), decode_value(value))).collect(),
        tags: BTreeMap::new(),
        encryption: worth_recording(output.server_side_encryption()),
        encryption_key: text(output.ssekms_key_id()),
        ..ObjectAttributes::default()
    }
}
