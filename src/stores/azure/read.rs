//! Reading: blobs, ranges, what the server says of them, tags.

use std::{collections::BTreeMap, ops::Range};

use azure_core::http::{Method, response::PinnedStream};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream, stream::BoxStream};

use super::{
    AzureStore, Download, GetOptions, ObjectAttributes, ObjectStat, StoreError,
    request::{Answer, Call},
    values::decode,
};
use crate::stores::{
    error::chain,
    header_values::{content_range, decode_value, plain_etag, range_header},
};

/// Ten tags of 128 and 256 characters, escaped. Bytes.
const MOST_TAG_BYTES: usize = 256 << 10;

impl AzureStore {
    pub(super) async fn get_blob(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        let range = match &options.range {
            // HTTP has no empty range.
            Some(range) if range.start >= range.end => return Err(StoreError::InvalidRange { place: self.object_place(key) }),
            range => range.as_ref().map(range_header),
        };
        let version = self.version_to_read(key, options.version.as_deref()).await?;
        let call = Call::blob(Method::Get, &self.whole(key))
            .version(version.as_deref())
            .optional("x-ms-range", range)
            .optional("if-match", options.if_match.map(|etag| format!("\"{etag}\"")));
        let answer = self.ask(call, key, "get").await?;
        let (size, length) = self.sizes(key, options.range.as_ref(), &answer)?;
        let stat = self.stat_of(key, size, &answer)?;
        // That a policy makes no sense does not keep the bytes from being read.
        let mut attributes = attributes(&answer, &stat).held_by(self.shown_holds(key, &answer).unwrap_or_default());
        // The count is sent where there are tags and the identity may see them.
        if options.attributes && answer.number("x-ms-tag-count").is_some_and(|count| count > 0) {
            attributes.tags = self.tags(key, version.as_deref()).await?;
        }
        let body = self.pieces(key, answer.body, length);
        Ok(Download { stat, attributes, body })
    }

    pub(super) async fn head_blob(&self, key: &str) -> Result<ObjectStat, StoreError> {
        let version = self.version_to_read(key, None).await?;
        let answer = self.ask(Call::blob(Method::Head, &self.whole(key)).version(version.as_deref()), key, "stat").await?;
        let size = answer.number("content-length").ok_or_else(|| self.corrupt(key, "the answer names no length"))?;
        self.stat_of(key, size, &answer)
    }

    /// What the headers say of a blob.
    pub(super) fn stat_of(&self, key: &str, size: u64, answer: &Answer) -> Result<ObjectStat, StoreError> {
        let modified: Option<DateTime<Utc>> = answer.time("last-modified");
        let inferred = answer.header("x-ms-access-tier-inferred") == Some("true");
        Ok(ObjectStat {
            key: key.to_owned(),
            size,
            modified: modified.ok_or_else(|| self.corrupt(key, "the answer names no time of modification"))?,
            etag: plain_etag(answer.header("etag")),
            version: answer.header("x-ms-version-id").map(str::to_owned),
            sha256: None,
            storage_class: answer.header("x-ms-access-tier").filter(|_| !inferred).map(str::to_owned),
        })
    }

    /// The blob's size, and how many bytes the body must have.
    fn sizes(&self, key: &str, range: Option<&Range<u64>>, answer: &Answer) -> Result<(u64, u64), StoreError> {
        let length = answer.number("content-length").ok_or_else(|| self.corrupt(key, "the answer names no length"))?;
        let Some(range) = range else {
            return Ok((length, length));
        };
        let stated = answer.header("content-range");
        // Azure answers 416 where a range begins beyond the end; its emulator answers with no byte.
        let whole = stated.and_then(|stated| stated.rsplit_once('/')).map_or(Some(length), |(_, size)| size.parse().ok());
        if whole.is_some_and(|size| range.start >= size) {
            return Err(StoreError::InvalidRange { place: self.object_place(key) });
        }
        let answered = stated.and_then(content_range);
        let (start, end, size) = answered.ok_or_else(|| self.corrupt(key, "the server did not obey the range it was asked for"))?;
        if start != range.start || end != range.end.min(size) || end - start != length {
            let detail = format!("bytes {start} to {end} of {size} came, {range:?} were asked for");
            return Err(self.corrupt(key, detail));
        }
        Ok((size, length))
    }

    fn pieces(&self, key: &str, body: PinnedStream, length: u64) -> BoxStream<'static, Result<Bytes, StoreError>> {
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
                Some(Err(error)) => Some((Err(broken(chain(&error), place)), None)),
            }
        })
        .boxed()
    }

    async fn tags(&self, key: &str, version: Option<&str>) -> Result<BTreeMap<String, String>, StoreError> {
        let call = Call::blob(Method::Get, &self.whole(key)).query("comp", "tags").version(version);
        let answer = self.ask(call, key, "get the tags of").await?;
        let document = self.document(answer, key, MOST_TAG_BYTES).await?;
        let set = document.children_of("TagSet").iter();
        let text = |tag: &super::xml::Element, name: &str| decode(tag.text_of(name).unwrap_or_default());
        Ok(set.map(|tag| (text(tag, "Key"), text(tag, "Value"))).collect())
    }
}

fn attributes(answer: &Answer, stat: &ObjectStat) -> ObjectAttributes {
    let text = |name| answer.header(name).filter(|value| !value.is_empty()).map(str::to_owned);
    let metadata = answer.headers_below("x-ms-meta-");
    ObjectAttributes {
        content_type: text("content-type"),
        cache_control: text("cache-control"),
        content_disposition: text("content-disposition"),
        content_encoding: text("content-encoding"),
        content_language: text("content-language"),
        storage_class: stat.storage_class.clone(),
        metadata: metadata.map(|(name, value)| (decode(&name.to_lowercase()), decode_value(value))).collect(),
        tags: BTreeMap::new(),
        ..ObjectAttributes::default()
    }
}
