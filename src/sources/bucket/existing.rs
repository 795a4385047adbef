//! Whether an object that lies in the target already is the one to be restored.
//!
//! Equal sizes and equal S3 ETags mean equal bytes: such an ETag is the MD5 of the object, or of its parts with their number, or
//! (with some kinds of server-side encryption) as many random digits. Two plain MD5s that differ mean different bytes, or at
//! worst a needless write. Everything else (parts of another size; Azure; a directory, whose tags count only for itself) cannot
//! be told from ETags, and the object's bytes are read from the target and hashed: cheaper than fetching and decrypting the
//! stored ones, and never a guess. Headers, metadata and tags are compared in each case, because no ETag covers them. So is what holds
//! the object, where that is restored: less than is wanted makes it another one, more does not.

use futures_util::StreamExt;

use super::{BucketAttributes, read::Hasher, restored_locks::is_held};
use crate::{
    sources::SourceError,
    stores::{GetOptions, Holds, ObjectAttributes, ObjectStat, Store, StoreError},
};

/// Whether the target's object has the same bytes and attributes. An object that cannot be looked at does not match.
pub(super) async fn matches(
    store: &dyn Store,
    there: &ObjectStat,
    size: u64,
    wanted: &BucketAttributes,
) -> Result<bool, SourceError> {
    if there.size != size {
        return Ok(false);
    }
    let same_tag = there.etag == wanted.etag && is_digest(&there.etag);
    if !same_tag && is_md5(&there.etag) && is_md5(&wanted.etag) {
        return Ok(false);
    }
    let options = GetOptions {
        // With equal tags only the headers are of interest; an empty object has no first byte to ask for.
        range: (same_tag && size > 0).then_some(0..1),
        if_match: Some(there.etag.clone()).filter(|etag| !etag.is_empty()),
        attributes: true,
        ..GetOptions::default()
    };
    let mut download = match store.get(&there.key, options).await {
        Ok(download) => download,
        Err(StoreError::NotFound { .. } | StoreError::Changed { .. } | StoreError::Denied { .. } | StoreError::Archived { .. }) => {
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    };
    if !same_attributes(&download.attributes, &wanted.object)
        || !is_held(store, there, download.attributes.holds(), wanted.object.holds()).await?
    {
        return Ok(false);
    }
    if same_tag {
        return Ok(true);
    }
    let mut hasher = Hasher::default();
    while let Some(piece) = download.body.next().await {
        hasher.update(piece?).await?;
    }
    Ok(hasher.finish() == *wanted.blake3)
}

/// The MD5 of an object that was put in one piece, as S3 shows it.
fn is_md5(etag: &str) -> bool {
    etag.len() == 32 && etag.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// An ETag that was made from the object's bytes: an MD5, or the MD5 of several and their number.
fn is_digest(etag: &str) -> bool {
    match etag.split_once('-') {
        Some((digest, parts)) => is_md5(digest) && !parts.is_empty() && parts.bytes().all(|byte| byte.is_ascii_digit()),
        None => is_md5(etag),
    }
}

fn same_attributes(there: &ObjectAttributes, wanted: &ObjectAttributes) -> bool {
    let comparable = |attributes: &ObjectAttributes| {
        let mut attributes = attributes.clone();
        // What S3 fills in when nothing was said.
        attributes.content_type =
            attributes.content_type.filter(|kind| kind != "binary/octet-stream" && kind != "application/octet-stream");
        // Moving between classes is the target's own life-cycle, not a difference of the object.
        attributes.storage_class = None;
        // So is what it encrypts with.
        attributes.encryption = None;
        attributes.encryption_key = None;
        // What holds it is compared by itself.
        attributes.held_by(Holds::default())
    };
    comparable(there) == comparable(wanted)
}

#[cfg(test)]
mod tests {
    use super::{Holds, ObjectAttributes, is_digest, is_md5, same_attributes};

    #[test]
    fn only_plain_md5s_are_compared_as_such() {
        assert!(is_md5("d41d8cd98f00b204e9800998ecf8427e"));
        assert!(!is_md5("d41d8cd98f00b204e9800998ecf8427e-3"));
        assert!(!is_md5("12:1700000000.5:77"));
        assert!(is_digest("d41d8cd98f00b204e9800998ecf8427e-3") && is_digest("d41d8cd98f00b204e9800998ecf8427e"));
        assert!(!is_digest("0000000000000001") && !is_digest("d41d8cd98f00b204e9800998ecf8427e-"));
    }

    #[test]
    fn a_tag_of_difference_is_a_difference_and_a_storage_class_is_none() {
        let plain = ObjectAttributes { content_type: Some("binary/octet-stream".into()), ..Default::default() };
        let classed = ObjectAttributes { storage_class: Some("STANDARD_IA".into()), ..Default::default() };
        let mut tagged = classed.clone();
        tagged.tags.insert("a".into(), "b".into());
        assert!(same_attributes(&plain, &classed));
        assert!(same_attributes(&plain, &plain.clone().held_by(Holds { lock: None, legal_hold: true })));
        assert!(!same_attributes(&plain, &tagged));
    }
}
