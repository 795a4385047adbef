//! Listings: pages by Azure's markers, for callers who go by keys.
//!
//! Azure goes on from a marker of its own and not from a key. So the store remembers, for the latest pages, after which key which marker
//! goes on: whoever lists from the last key of a page, as every caller does, pays for his page alone. A key that no remembered page leads to
//! costs the pages before it, in the same memory.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
};

use azure_core::http::Method;
use chrono::{DateTime, Utc};

use super::{
    AzureStore, ObjectStat, Page, StoreError,
    request::{Call, http_time},
    versions::is_older,
    xml::Element,
};
use crate::stores::{bounds::unsorted, header_values::plain_etag};

/// As many as S3 lists at once, so that callers' memory is the same.
const MAX_PAGE: usize = 1000;
/// A page of the longest names, escaped. Bytes.
const MOST_PAGE_BYTES: usize = 32 << 20;
/// Listings that may go on at once without paying twice.
const MOST_MARKERS: usize = 64;

/// Where listings go on: the newest last.
#[derive(Debug, Default)]
pub(super) struct Markers(Mutex<VecDeque<Marker>>);

#[derive(Debug, Clone)]
struct Marker {
    prefix: String,
    /// The marker goes on after this key.
    key: String,
    marker: String,
}

impl Markers {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Marker>> {
        // Each change leaves a list of whole markers.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The one that comes closest before what lies after a key.
    fn nearest(&self, prefix: &str, after: &str) -> Option<Marker> {
        let all = self.lock();
        all.iter().filter(|one| one.prefix == prefix && *one.key <= *after).max_by(|left, right| left.key.cmp(&right.key)).cloned()
    }

    fn remember(&self, prefix: &str, key: &str, marker: &str) {
        let mut all = self.lock();
        all.retain(|one| one.prefix != prefix || one.key != key);
        if all.len() == MOST_MARKERS {
            all.pop_front();
        }
        all.push_back(Marker { prefix: prefix.to_owned(), key: key.to_owned(), marker: marker.to_owned() });
    }
}

impl AzureStore {
    pub(super) async fn list_blobs(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let whole_prefix = self.whole(prefix);
        let limit = limit.min(MAX_PAGE);
        let mut objects: Vec<ObjectStat> = Vec::new();
        let known = start_after.and_then(|after| self.markers.nearest(&whole_prefix, after));
        let (mut marker, mut last) = known.map(|known| (known.marker, known.key)).unzip();
        // What lies before the start is passed over in large pages.
        let mut count = if start_after.is_none() || marker.is_some() { limit } else { MAX_PAGE };
        loop {
            let mut call = Call::container(Method::Get).query("comp", "list").query("prefix", &whole_prefix);
            call = call.query("maxresults", count.max(1).to_string());
            if self.first_versions {
                call = call.query("include", "versions");
            }
            if let Some(marker) = marker.take() {
                call = call.query("marker", marker);
            }
            let answer = self.ask(call, prefix, "list").await?;
            let document = self.document(answer, prefix, MOST_PAGE_BYTES).await?;
            for blob in document.children_of("Blobs").iter().filter(|element| element.name == "Blob") {
                let stat = self.listed(blob)?;
                let again = self.first_versions && last.as_ref() == Some(&stat.key);
                if let Some(earlier) = last.as_ref().filter(|earlier| **earlier >= stat.key && !again) {
                    return Err(unsorted(&self.place, prefix, "Azure's", earlier, &stat.key));
                }
                last = Some(stat.key.clone());
                // The blob `p/` of a store with prefix `p` would be the empty key.
                if stat.key.is_empty() || start_after.is_some_and(|after| *stat.key <= *after) {
                    continue;
                }
                let full = objects.len() == limit;
                match objects.last_mut().filter(|_| again) {
                    Some(kept) if is_older(&stat, kept) => *kept = stat,
                    Some(_) => {}
                    None if full => return Ok(Page { objects, more: true }),
                    None => objects.push(stat),
                }
            }
            let Some(next) = document.text_of("NextMarker") else {
                return Ok(Page { objects, more: false });
            };
            if let Some(last) = &last {
                self.markers.remember(&whole_prefix, last, next);
            }
            // A page may be shorter than asked for, or empty. Of the last key there may be more versions.
            if objects.len() == limit && !self.first_versions {
                return Ok(Page { objects, more: true });
            }
            if !objects.is_empty() {
                count = if self.first_versions { limit } else { limit - objects.len() };
            }
            marker = Some(next.to_owned());
        }
    }

    /// The `Date` of the answer to the smallest of requests.
    pub(super) async fn server_time(&self) -> Result<DateTime<Utc>, StoreError> {
        let call = Call::container(Method::Get).query("comp", "list").query("prefix", &self.prefix).query("maxresults", "1");
        let answer = self.ask(call, "", "list").await?;
        answer.time("date").ok_or_else(|| self.corrupt("", "the server's answers carry no Date: its time is not known"))
    }

    fn listed(&self, blob: &Element) -> Result<ObjectStat, StoreError> {
        let whole = blob.child("Name").and_then(Element::plain);
        let key = whole.as_deref().and_then(|whole| whole.strip_prefix(&self.prefix));
        let key = key.ok_or_else(|| self.corrupt("", "a listed name is not UTF-8, or not under the prefix"))?;
        let properties = blob.child("Properties").ok_or_else(|| self.corrupt(key, "listed without properties"))?;
        let size = properties.text_of("Content-Length").and_then(|size| size.parse().ok());
        let modified = properties.text_of("Last-Modified").and_then(http_time);
        let inferred = properties.text_of("AccessTierInferred") == Some("true");
        Ok(ObjectStat {
            key: key.to_owned(),
            size: size.ok_or_else(|| self.corrupt(key, "listed without a size"))?,
            modified: modified.ok_or_else(|| self.corrupt(key, "the answer names no time of modification"))?,
            etag: plain_etag(properties.text_of("Etag")),
            version: blob.text_of("VersionId").map(str::to_owned),
            sha256: None,
            storage_class: properties.text_of("AccessTier").filter(|_| !inferred).map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST_MARKERS, Markers};

    #[test]
    fn a_listing_goes_on_from_the_nearest_page_of_its_own_prefix() {
        let markers = Markers::default();
        for (prefix, key, marker) in [("p/", "b", "1"), ("p/", "d", "2"), ("q/", "c", "3")] {
            markers.remember(prefix, key, marker);
        }
        let nearest = |prefix, after| markers.nearest(prefix, after).map(|found| found.marker);
        assert_eq!(nearest("p/", "a"), None);
        assert_eq!(nearest("p/", "c").as_deref(), Some("1"));
        assert_eq!(nearest("p/", "d").as_deref(), Some("2"));
        assert_eq!(nearest("r/", "d"), None);
    }

    #[test]
    fn only_the_latest_pages_are_remembered() {
        let markers = Markers::default();
        for number in 0..=MOST_MARKERS {
            markers.remember("p/", &format!("{number:03}"), "m");
        }
        assert_eq!(markers.lock().len(), MOST_MARKERS);
        assert!(markers.nearest("p/", "000").is_none());
    }
}
