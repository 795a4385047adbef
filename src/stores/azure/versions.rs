//! Versions: which a blob has, which was stored first, how all of them are removed.
//!
//! As on S3, what is locked, and read where [`super::AzureConfig::first_versions`] asks for it, is the version that was stored first:
//! Farshore writes a name once, so that whatever lies over it came from somebody else.
//!
//! What Azure does (Microsoft's "Blob versioning" and "Version-level WORM policies"; where these leave something open, what recorded
//! sessions of Microsoft's own clients show): a blob has a current version and earlier ones. Overwriting makes the current one an earlier one,
//! and so does deleting by name; then there is no current one. An earlier version is deleted by its id. The current one is not:
//! `OperationNotAllowedOnRootBlob`. While a policy holds the current version, deleting by name is refused.

use azure_core::http::Method;
use chrono::{DateTime, Utc};

use super::{
    AzureStore, ObjectStat, StoreError,
    immutability::{policy, refused_by_policy},
    request::Call,
    xml::Element,
};
use crate::stores::Lock;

/// Versions of one blob that are asked for at once; one is what there usually is.
const VERSIONS_AT_ONCE: &str = "100";
/// A page of so many versions with their properties. Bytes.
const MOST_PAGE_BYTES: usize = 4 << 20;

/// One version of a blob.
#[derive(Debug)]
pub(super) struct Version {
    /// `None` for what was written while the account kept no versions: it is asked for by its name alone.
    pub(super) id: Option<String>,
    /// Whether the blob's name means it.
    is_current: bool,
    /// When it was written, as Azure says it.
    pub(super) modified: Option<String>,
    /// The policy that holds it now.
    pub(super) lock: Option<Lock>,
    /// Whether somebody put a legal hold on it, which has no end.
    has_legal_hold: bool,
}

impl AzureStore {
    /// Every version of a blob, the one that was stored first at the beginning.
    async fn versions_of(&self, key: &str) -> Result<Vec<Version>, StoreError> {
        let whole = self.whole(key);
        let (mut versions, mut marker) = (Vec::new(), None::<String>);
        loop {
            let mut call = Call::container(Method::Get)
                .query("comp", "list")
                .query("prefix", &whole)
                .query("include", "versions,immutabilitypolicy,legalhold")
                .query("maxresults", VERSIONS_AT_ONCE);
            if let Some(marker) = marker.take() {
                call = call.query("marker", marker);
            }
            let answer = self.ask(call, key, "list versions of").await?;
            // By the site's clock, where it shows one.
            let now = answer.time("date").unwrap_or_else(|| self.clock.now());
            let document = self.document(answer, key, MOST_PAGE_BYTES).await?;
            let mut others = false;
            for blob in document.children_of("Blobs").iter().filter(|element| element.name == "Blob") {
                if blob.child("Name").and_then(Element::plain).as_deref() == Some(&*whole) {
                    versions.push(self.version(key, blob, now)?);
                } else {
                    others = true;
                }
            }
            marker = document.text_of("NextMarker").map(str::to_owned);
            // Names that begin with this one come after it.
            if others || marker.is_none() {
                break;
            }
        }
        versions.sort_by_cached_key(|version| age(version.id.as_deref()));
        Ok(versions)
    }

    fn version(&self, key: &str, blob: &Element, now: DateTime<Utc>) -> Result<Version, StoreError> {
        let properties = blob.child("Properties").ok_or_else(|| self.corrupt(key, "listed without properties"))?;
        let id = blob.text_of("VersionId").map(str::to_owned);
        let policy = policy(properties.text_of("ImmutabilityPolicyMode"), properties.text_of("ImmutabilityPolicyUntilDate"));
        let lock = policy.map_err(|detail| self.corrupt(key, detail))?.filter(|lock| lock.until > now);
        Ok(Version {
            is_current: id.is_none() || blob.text_of("IsCurrentVersion") == Some("true"),
            modified: properties.text_of("Last-Modified").map(str::to_owned),
            id,
            lock,
            has_legal_hold: properties.text_of("LegalHold") == Some("true"),
        })
    }

    /// The version that was stored first.
    pub(super) async fn first_version(&self, key: &str) -> Result<Version, StoreError> {
        let first = self.versions_of(key).await?.into_iter().next();
        first.ok_or_else(|| StoreError::NotFound { place: self.object_place(key) })
    }

    /// The version that is to be read where this one is asked for, or none; `None` for the current one.
    pub(super) async fn version_to_read(&self, key: &str, wanted: Option<&str>) -> Result<Option<String>, StoreError> {
        match wanted {
            Some(version) => Ok(Some(version.to_owned())),
            None if self.first_versions => Ok(self.first_version(key).await?.id),
            None => Ok(None),
        }
    }

    /// The current version cannot be deleted in one step: by its name it only becomes an earlier one. So what holds any version is looked
    /// for before anything is touched; a refused deletion must not hide what it cannot remove. If we stop between the two steps, the
    /// bytes stay and cost their storage until this is called once more.
    pub(super) async fn delete_all_versions(&self, key: &str) -> Result<(), StoreError> {
        let versions = self.versions_of(key).await?;
        if let Some(lock) = versions.iter().filter_map(|version| version.lock).max_by_key(|lock| lock.until) {
            return Err(StoreError::Locked { place: self.object_place(key), until: lock.until });
        }
        if versions.iter().any(|version| version.has_legal_hold) {
            let detail = "a legal hold keeps it, until whoever set it takes it away".to_owned();
            return Err(StoreError::Denied { place: self.object_place(key), action: "delete", detail });
        }
        let (current, earlier): (Vec<_>, Vec<_>) = versions.into_iter().partition(|version| version.is_current);
        for version in earlier {
            self.delete_version(key, version.id.as_deref()).await?;
        }
        for version in current {
            self.delete_version(key, None).await?;
            if version.id.is_some() {
                self.delete_version(key, version.id.as_deref()).await?;
            }
        }
        Ok(())
    }

    /// Deletes a version by its id, or the blob by its name; succeeds if it is gone.
    pub(super) async fn delete_version(&self, key: &str, version: Option<&str>) -> Result<(), StoreError> {
        let call = Call::blob(Method::Delete, &self.whole(key)).version(version);
        match self.ask(call, key, "delete").await {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) if refused_by_policy(&error) => Err(match self.lock_of_version(key, version).await {
                Ok(Some(lock)) => StoreError::Locked { place: self.object_place(key), until: lock.until },
                // Until when is not known: what the server said is.
                Ok(None) | Err(_) => error,
            }),
            Err(error) => Err(error),
        }
    }
}

/// Versions in the order in which they came to be: ids are times. What has none was written last, after somebody turned versioning off, or
/// is the only one.
pub(super) fn age(id: Option<&str>) -> (bool, Option<DateTime<Utc>>, Option<String>) {
    let time = id.and_then(|id| DateTime::parse_from_rfc3339(id).ok()).map(|time| time.to_utc());
    (id.is_none(), time, id.map(str::to_owned))
}

/// Of two listed versions of one key, whether the first is the older.
pub(super) fn is_older(left: &ObjectStat, right: &ObjectStat) -> bool {
    age(left.version.as_deref()) < age(right.version.as_deref())
}

#[cfg(test)]
mod tests {
    use super::age;

    #[test]
    fn versions_are_ordered_by_the_time_that_their_ids_are() {
        let mut ids = [
            None,
            Some("2026-11-26T07:00:00.1000000Z"),
            Some("2026-11-26T07:00:00.0200000Z"),
            Some("2025-01-01T00:00:00.0000000Z"),
        ];
        ids.sort_by_cached_key(|id| age(*id));
        assert_eq!(
            ids,
            [
                Some("2025-01-01T00:00:00.0000000Z"),
                Some("2026-11-26T07:00:00.0200000Z"),
                Some("2026-11-26T07:00:00.1000000Z"),
                None
            ]
        );
    }
}
