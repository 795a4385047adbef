//! Versions: which there are, which was stored first, how all of them are removed; and the locks that hold them.
//!
//! What is locked, and what is read where [`super::S3Config::first_versions`] asks for it, is the version that was stored first:
//! Farshore writes a name once, so that whatever lies over it, a delete marker or other bytes, came from somebody else.

use aws_sdk_s3::{
    primitives::DateTime as SdkDateTime,
    types::{
        BucketVersioningStatus, ChecksumAlgorithm, DeleteMarkerEntry, EncodingType, ObjectLockEnabled, ObjectLockMode,
        ObjectLockRetention, ObjectLockRetentionMode, ObjectVersion as SdkVersion,
    },
};
use chrono::{DateTime, Utc};

use super::{ObjectStat, Page, S3Store, StoreError, read::MAX_PAGE, values::decode_key};
use crate::stores::{
    Lock, LockMode, LockSupport, NULL_VERSION, ObjectVersion, VersionCursor, VersionPage, Versioning, header_values::plain_etag,
};

/// Versions and markers of one page of a listing.
struct Listed {
    /// Keys within the store, each version's own; newest first within a key.
    versions: Vec<(String, SdkVersion)>,
    /// Keys with the delete markers over them; newest first within a key.
    markers: Vec<(String, DeleteMarkerEntry)>,
    /// Where the listing goes on: key (whole) and version.
    next: Option<(String, Option<String>)>,
}

/// The id as S3 writes it, which some servers leave out for what was stored without one.
fn version_id(id: Option<String>) -> String {
    id.filter(|id| !id.is_empty()).unwrap_or_else(|| NULL_VERSION.to_owned())
}

/// How S3's headers name a mode.
pub(super) fn header_mode(mode: LockMode) -> ObjectLockMode {
    match mode {
        LockMode::Governance => ObjectLockMode::Governance,
        LockMode::Compliance => ObjectLockMode::Compliance,
    }
}

/// S3 keeps whole seconds.
pub(super) fn seconds(time: DateTime<Utc>) -> SdkDateTime {
    SdkDateTime::from_secs(time.timestamp())
}

impl S3Store {
    async fn ask_versions(&self, prefix: &str, from: Option<(String, Option<String>)>, limit: usize) -> Result<Listed, StoreError> {
        let (key_marker, version_marker) = from.unzip();
        let list = self.client.list_object_versions().bucket(&self.bucket).prefix(self.whole(prefix));
        let sent = list
            .max_keys(i32::try_from(limit.min(MAX_PAGE)).unwrap_or(1000))
            .set_key_marker(key_marker.map(|key| self.whole(&key)))
            .set_version_id_marker(version_marker.flatten())
            .encoding_type(EncodingType::Url)
            .set_request_payer(self.payer.clone())
            .send()
            .await;
        let output = sent.map_err(|error| self.error(prefix, "list versions", &error))?;
        let escaped = output.encoding_type() == Some(&EncodingType::Url);
        let decoded = |raw: &str| if escaped { decode_key(raw) } else { Some(raw.to_owned()) };
        let relative = |raw: Option<&str>| {
            let raw = raw.unwrap_or_default();
            let key = decoded(raw).and_then(|whole| whole.strip_prefix(&self.prefix).map(str::to_owned));
            key.ok_or_else(|| self.corrupt(raw, "a listed key is not UTF-8, or not under the prefix"))
        };
        let mut versions = Vec::with_capacity(output.versions().len());
        for version in output.versions() {
            versions.push((relative(version.key())?, version.clone()));
        }
        let mut markers = Vec::with_capacity(output.delete_markers().len());
        for marker in output.delete_markers() {
            markers.push((relative(marker.key())?, marker.clone()));
        }
        let next = match output.next_key_marker() {
            _ if output.is_truncated() != Some(true) => None,
            None => return Err(self.corrupt(prefix, "the listing of versions says that there is more, and not where it goes on")),
            Some(raw) => {
                Some((relative(Some(raw))?, output.next_version_id_marker().filter(|id| !id.is_empty()).map(str::to_owned)))
            }
        };
        Ok(Listed { versions, markers, next })
    }

    /// Every version of one object, newest first, and every delete marker over them.
    async fn versions_of(&self, key: &str) -> Result<(Vec<SdkVersion>, Vec<String>), StoreError> {
        let (mut versions, mut markers, mut from) = (Vec::new(), Vec::new(), None);
        loop {
            let page = self.ask_versions(key, from, MAX_PAGE).await?;
            let others = page.versions.iter().any(|(other, _)| other != key);
            versions.extend(page.versions.into_iter().filter(|(found, _)| found == key).map(|(_, version)| version));
            let markers_of = page.markers.into_iter().filter(|(found, _)| found == key);
            markers.extend(markers_of.map(|(_, marker)| version_id(marker.version_id)));
            from = page.next;
            // Keys that begin with this one come after it.
            if others || from.is_none() {
                return Ok((versions, markers));
            }
        }
    }

    /// The id of the version that was stored first.
    pub(super) async fn first_version(&self, key: &str) -> Result<String, StoreError> {
        let (mut versions, _) = self.versions_of(key).await?;
        let first = versions.pop().ok_or_else(|| StoreError::NotFound { place: self.object_place(key) })?;
        Ok(version_id(first.version_id))
    }

    /// The version of each key that was stored first, as a page of a listing.
    pub(super) async fn list_first_versions(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let mut from = start_after.map(|after| (after.to_owned(), None));
        let mut objects: Vec<ObjectStat> = Vec::new();
        loop {
            let page = self.ask_versions(prefix, from, MAX_PAGE).await?;
            for (key, version) in page.versions {
                if key.is_empty() || start_after.is_some_and(|after| *key <= *after) {
                    continue;
                }
                match objects.last() {
                    Some(last) if last.key == key => {
                        // An older one.
                        objects.pop();
                    }
                    // The key before is complete.
                    Some(last) if last.key < key && objects.len() >= limit => return Ok(Page { objects, more: true }),
                    Some(last) if last.key > key => return Err(self.unsorted(prefix, &last.key, &key)),
                    _ => {}
                }
                objects.push(self.listed_version(key, &version)?);
            }
            match page.next {
                Some(next) => from = Some(next),
                None => return Ok(Page { objects, more: false }),
            }
        }
    }

    fn listed_version(&self, key: String, version: &SdkVersion) -> Result<ObjectStat, StoreError> {
        let size = version.size().and_then(|size| u64::try_from(size).ok());
        Ok(ObjectStat {
            size: size.ok_or_else(|| self.corrupt(&key, "listed without a size"))?,
            modified: self.modified(&key, version.last_modified())?,
            etag: plain_etag(version.e_tag()),
            version: version.version_id().map(str::to_owned),
            sha256: None,
            storage_class: version.storage_class().map(|class| class.as_str().to_owned()),
            key,
        })
    }

    /// A page of versions and markers, as the room promises it. An object whose name is the prefix itself is none of the store's.
    pub(super) async fn page_of_versions(
        &self,
        prefix: &str,
        from: Option<&VersionCursor>,
        limit: usize,
    ) -> Result<VersionPage, StoreError> {
        let from = from.map(|cursor| (cursor.key.clone(), cursor.version.clone()));
        let page = self.ask_versions(prefix, from, limit).await?;
        let mut versions = Vec::with_capacity(page.versions.len() + page.markers.len());
        for (key, version) in page.versions.into_iter().filter(|(key, _)| !key.is_empty()) {
            let latest = version.is_latest() == Some(true);
            let mut stat = self.listed_version(key, &version)?;
            stat.version = Some(version_id(stat.version));
            versions.push(ObjectVersion { stat, marker: false, latest });
        }
        for (key, marker) in page.markers.into_iter().filter(|(key, _)| !key.is_empty()) {
            let stat = ObjectStat {
                modified: self.modified(&key, marker.last_modified())?,
                key,
                size: 0,
                etag: String::new(),
                version: Some(version_id(marker.version_id.clone())),
                sha256: None,
                storage_class: None,
            };
            versions.push(ObjectVersion { stat, marker: true, latest: marker.is_latest() == Some(true) });
        }
        // The SDK tells versions and markers apart before it tells their order; within a key both keep theirs.
        versions.sort_by(|one, other| one.stat.key.cmp(&other.stat.key));
        Ok(VersionPage { versions, next: page.next.map(|(key, version)| VersionCursor { key, version }) })
    }

    /// Whether the bucket keeps versions.
    pub(super) async fn ask_versioning(&self) -> Result<Versioning, StoreError> {
        let sent = self.client.get_bucket_versioning().bucket(&self.bucket).send().await;
        let output = sent.map_err(|error| self.error("", "read the versioning of", &error))?;
        let remedy =
            || format!("aws s3api put-bucket-versioning --bucket {} --versioning-configuration Status=Enabled", self.bucket);
        Ok(match output.status() {
            Some(BucketVersioningStatus::Enabled) => Versioning::Enabled,
            Some(BucketVersioningStatus::Suspended) => Versioning::Suspended { remedy: remedy() },
            _ => Versioning::Off { remedy: remedy() },
        })
    }

    pub(super) async fn delete_all_versions(&self, key: &str) -> Result<(), StoreError> {
        let (versions, markers) = self.versions_of(key).await?;
        // The data first: if a lock refuses, nothing else was touched.
        let ids = versions.into_iter().map(|version| version_id(version.version_id));
        for id in ids.chain(markers) {
            let delete = self.client.delete_object().bucket(&self.bucket).key(self.whole(key)).version_id(&id);
            let Err(error) = delete.set_request_payer(self.payer.clone()).send().await else { continue };
            match self.error(key, "delete", &error) {
                StoreError::NotFound { .. } => {}
                transient if transient.is_transient() => return Err(transient),
                refused => return Err(self.lock_of_version(key, &id).await.map_or(refused, |lock| self.locked(key, lock))),
            }
        }
        Ok(())
    }

    fn locked(&self, key: &str, lock: Lock) -> StoreError {
        StoreError::Locked { place: self.object_place(key), until: lock.until }
    }

    /// What holds a version, as far as this identity may know: servers use one word for a lock and for a missing right.
    async fn lock_of_version(&self, key: &str, version: &str) -> Option<Lock> {
        self.retention(key, Some(version)).await.ok().flatten()
    }

    pub(super) async fn retention(&self, key: &str, version: Option<&str>) -> Result<Option<Lock>, StoreError> {
        let ask = self.client.get_object_retention().bucket(&self.bucket).key(self.whole(key));
        let ask = ask.set_version_id(version.map(str::to_owned));
        let output = match ask.set_request_payer(self.payer.clone()).send().await {
            Ok(output) => output,
            Err(error) => return self.unless_none(key, "read the lock of", &error).map(|()| None),
        };
        let Some(retention) = output.retention() else { return Ok(None) };
        let mode = match retention.mode() {
            Some(ObjectLockRetentionMode::Compliance) => LockMode::Compliance,
            Some(ObjectLockRetentionMode::Governance) => LockMode::Governance,
            _ => return Ok(None),
        };
        let until = retention.retain_until_date().and_then(|until| DateTime::from_timestamp(until.secs(), until.subsec_nanos()));
        let until = until.ok_or_else(|| self.corrupt(key, "a lock without an end was answered"))?;
        Ok((until > self.clock.now()).then_some(Lock { mode, until }))
    }

    pub(super) async fn read_lock(&self, key: &str) -> Result<Option<Lock>, StoreError> {
        let version = self.first_version(key).await?;
        self.retention(key, Some(&version)).await
    }

    pub(super) async fn lengthen_lock(&self, key: &str, lock: Lock) -> Result<Lock, StoreError> {
        let version = self.first_version(key).await?;
        let present = self.retention(key, Some(&version)).await?;
        if let Some(present) = present.filter(|present| present.covers(&lock)) {
            return Ok(present);
        }
        let wanted = present.map_or(lock, |present| present.joined(&lock));
        self.put_retention(key, &version, wanted).await?;
        Ok(wanted)
    }

    pub(super) async fn put_retention(&self, key: &str, version: &str, lock: Lock) -> Result<(), StoreError> {
        let mode = match lock.mode {
            LockMode::Governance => ObjectLockRetentionMode::Governance,
            LockMode::Compliance => ObjectLockRetentionMode::Compliance,
        };
        let retention = ObjectLockRetention::builder().mode(mode).retain_until_date(seconds(lock.until)).build();
        let put = self.client.put_object_retention().bucket(&self.bucket).key(self.whole(key)).version_id(version);
        let put = put.checksum_algorithm(ChecksumAlgorithm::Sha256).retention(retention).set_request_payer(self.payer.clone());
        put.send().await.map(|_| ()).map_err(|error| self.error(key, "extend the lock of", &error))
    }

    pub(super) async fn ask_lock_support(&self) -> Result<LockSupport, StoreError> {
        let versioning = self.client.get_bucket_versioning().bucket(&self.bucket).send().await;
        let versioned = match versioning {
            Ok(output) => output.status() == Some(&BucketVersioningStatus::Enabled),
            Err(error) => match self.error("", "read the versioning of", &error) {
                StoreError::Unsupported { .. } => false,
                meaning => return Err(meaning),
            },
        };
        let configuration = self.client.get_object_lock_configuration().bucket(&self.bucket).send().await;
        let object_lock = match configuration {
            Ok(output) => {
                let enabled = output.object_lock_configuration().and_then(|configuration| configuration.object_lock_enabled());
                enabled == Some(&ObjectLockEnabled::Enabled)
            }
            Err(error) => match self.error("", "read the Object Lock configuration of", &error) {
                StoreError::Unsupported { .. } | StoreError::NotFound { .. } => false,
                // A bucket without one has no such configuration: said with different codes.
                StoreError::Other { .. } => false,
                meaning => return Err(meaning),
            },
        };
        Ok(LockSupport { versioned, object_lock, remedy: None })
    }
}
