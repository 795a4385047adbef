//! Writing: blobs, blocks, the container itself.

use azure_core::http::Method;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};

use super::{
    AzureStore, ObjectAttributes, ObjectStat, PutOptions, StoreError, UploadedPart,
    immutability::{held, locked},
    request::{COMPLETE_ANSWER, Call},
    values::{encode_name, encode_tag, unfit},
};
use crate::stores::{
    bounds::{check_body, hashed, sha256},
    header_values::{encode_tags, encode_value},
    tiers::azure_tier,
};

/// Azure joins no more blocks.
const MOST_BLOCKS: u32 = 50_000;

/// CRC-64 as Azure wants it (Microsoft's "Put Blob": the polynomial of CRC-64/NVME, the bytes in little-endian order).
fn crc64(body: &[u8]) -> String {
    STANDARD.encode(checksum(CrcAlgorithm::Crc64Nvme, body).to_le_bytes())
}

impl AzureStore {
    pub(super) async fn put_blob(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        self.fits(key, "put")?;
        let PutOptions { if_absent, sha256, sealed: _, attributes, lock } = options;
        if let Some(lock) = lock {
            self.check_lock(lock)?;
        }
        let size = body.len() as u64;
        let (place, owned) = (self.place.clone(), key.to_owned());
        // Azure knows no SHA-256: a stated one is held against the body here, and the CRC-64 holds for the way.
        let work = move |body: &Bytes| check_body(&place, &owned, body, sha256).map(|()| crc64(body));
        let crc = hashed(&self.place, key, "put", &body, work).await??;
        let call = Call::blob(Method::Put, &self.whole(key))
            .header("x-ms-blob-type", "BlockBlob")
            .header("x-ms-content-crc64", crc)
            .optional("if-none-match", if_absent.then_some("*"));
        let mut call = described(call, &attributes).body(body);
        if let Some(lock) = lock {
            call = locked(call, lock);
        }
        let answer = self.ask(call, key, "put").await.map_err(|error| refused(error, if_absent))?;
        Ok(ObjectStat { storage_class: tier(&attributes).map(str::to_owned), ..self.stat_of(key, size, &answer)? })
    }

    /// Refuses what would be stored under another name, or not at all.
    fn fits(&self, key: &str, action: &'static str) -> Result<(), StoreError> {
        match unfit(key) {
            None => Ok(()),
            Some(why) => {
                let detail = format!("Azure cannot hold this key ({why}); give the object another key, or keep it elsewhere");
                Err(StoreError::Other { place: self.object_place(key), action, detail })
            }
        }
    }

    /// An upload is only a name until its first block; its attributes travel with the list of blocks, at the end.
    pub(super) fn begin_blocks(&self, key: &str, attributes: ObjectAttributes) -> Result<String, StoreError> {
        self.fits(key, "begin an upload")?;
        let upload = format!("{:032x}", rand::random::<u128>());
        self.uploads().insert(upload.clone(), attributes);
        Ok(upload)
    }

    pub(super) async fn put_block(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<UploadedPart, StoreError> {
        if number == 0 || number > MOST_BLOCKS {
            let detail = format!("part {number} is not between 1 and {MOST_BLOCKS}");
            return Err(StoreError::Other { place: self.object_place(key), action: "upload a part", detail });
        }
        let (sha256, crc) = hashed(&self.place, key, "upload a part", &body, |body| (sha256(body), crc64(body))).await?;
        let call = Call::blob(Method::Put, &self.whole(key))
            .query("comp", "block")
            .query("blockid", block_id(upload, number))
            .header("x-ms-content-crc64", crc.clone())
            .body(body);
        self.ask(call, key, "upload a part").await?;
        Ok(UploadedPart { number, etag: crc, sha256 })
    }

    pub(super) async fn commit_blocks(
        &self,
        key: &str,
        upload: &str,
        parts: &[UploadedPart],
        if_absent: bool,
    ) -> Result<ObjectStat, StoreError> {
        let place = || self.object_place(key);
        let Some(attributes) = self.uploads().get(upload).cloned() else {
            return Err(StoreError::NotFound { place: place() });
        };
        let mut list = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
        for part in parts {
            list.push_str(&format!("<Latest>{}</Latest>", block_id(upload, part.number)));
        }
        list.push_str("</BlockList>");
        let call = Call::blob(Method::Put, &self.whole(key))
            .query("comp", "blocklist")
            .header("x-ms-content-crc64", crc64(list.as_bytes()))
            .optional("if-none-match", if_absent.then_some("*"));
        let call = described(call, &attributes).body(Bytes::from(list)).answered_within(COMPLETE_ANSWER);
        let stored = match self.ask(call, key, "complete an upload").await.map_err(|error| refused(error, if_absent)) {
            // The answer names no size.
            Ok(_) => self.head_blob(key).await?,
            // The blocks are gone: somebody else stored the blob, or the server tidied up.
            Err(StoreError::Other { detail, .. }) if detail.starts_with("InvalidBlockList") => {
                return Err(match self.head_blob(key).await {
                    Ok(_) if if_absent => StoreError::AlreadyExists { place: place() },
                    Ok(_) | Err(StoreError::NotFound { .. }) => StoreError::NotFound { place: place() },
                    Err(error) => error,
                });
            }
            Err(error) => return Err(error),
        };
        self.uploads().remove(upload);
        Ok(stored)
    }

    pub(super) async fn create_container(&self) -> Result<(), StoreError> {
        // Asked first: whoever may only use it may not make it.
        match self.server_time().await {
            Err(StoreError::NoSuchPlace { .. }) => {}
            answered => return answered.map(|_| ()),
        }
        match self.ask(Call::container(Method::Put), "", "create").await {
            Ok(_) => Ok(()),
            Err(StoreError::Other { detail, .. }) if detail.starts_with("ContainerAlreadyExists") => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// A failed condition of a write that wants nothing to be there means that something is. So does the refusal of an identity that may make new
/// blobs and overwrite none, if the server looks at its rights before the condition.
fn refused(error: StoreError, if_absent: bool) -> StoreError {
    match error {
        StoreError::Changed { place } if if_absent => StoreError::AlreadyExists { place },
        StoreError::Denied { place, detail, .. } if if_absent && detail.starts_with("UnauthorizedBlobOverwrite") => {
            StoreError::AlreadyExists { place }
        }
        error => error,
    }
}

/// All ids of a blob's blocks must be of one length. Those of an upload begin with its own, so that uploads do not meet.
fn block_id(upload: &str, number: u32) -> String {
    STANDARD.encode(format!("{upload}{number:08}"))
}

fn tier(attributes: &ObjectAttributes) -> Option<&'static str> {
    attributes.storage_class.as_deref().and_then(azure_tier)
}

/// A request with what travels beside the bytes.
fn described(call: Call, attributes: &ObjectAttributes) -> Call {
    let mut call = call
        .optional("x-ms-blob-content-type", attributes.content_type.as_deref())
        .optional("x-ms-blob-cache-control", attributes.cache_control.as_deref())
        .optional("x-ms-blob-content-disposition", attributes.content_disposition.as_deref())
        .optional("x-ms-blob-content-encoding", attributes.content_encoding.as_deref())
        .optional("x-ms-blob-content-language", attributes.content_language.as_deref())
        .optional("x-ms-access-tier", tier(attributes));
    let tags = attributes.tags.iter().map(|(name, value)| (encode_tag(name), encode_tag(value))).collect();
    call = call.optional("x-ms-tags", encode_tags(&tags));
    for (name, value) in &attributes.metadata {
        call = call.header(format!("x-ms-meta-{}", encode_name(name)), encode_value(value));
    }
    held(call, attributes.holds())
}

#[cfg(test)]
mod tests {
    use super::{StoreError, block_id, crc64, refused};

    #[test]
    fn the_checksum_is_that_of_the_documentation() {
        // The check value of CRC-64/NVME, ae8b14860a799888, in little-endian order.
        assert_eq!(crc64(b"123456789"), "iJh5CoYUi64=");
    }

    #[test]
    fn all_block_ids_are_equally_long_and_differ() {
        let upload = "f".repeat(32);
        let ids = [1, 9, 50_000].map(|number| block_id(&upload, number));
        assert!(ids.iter().all(|id| id.len() == ids[0].len()) && ids[0] != ids[1]);
    }

    #[test]
    fn whoever_may_not_overwrite_is_told_that_something_is_there() {
        let denied = || StoreError::Denied {
            place: "p".to_owned(),
            action: "put",
            detail: "UnauthorizedBlobOverwrite: This request is not authorized to perform blob overwrites., HTTP 403".to_owned(),
        };
        assert!(matches!(refused(denied(), true), StoreError::AlreadyExists { .. }));
        assert!(matches!(refused(denied(), false), StoreError::Denied { .. }));
    }
}
