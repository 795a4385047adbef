//! Listings: by name and, of one blob, from the oldest version on; with what `include` asks for and nothing else.

use std::{collections::BTreeMap, fmt::Write};

use super::{
    Answer, Request,
    state::{Version, http_time},
};

pub fn page(blobs: &BTreeMap<String, Vec<Version>>, request: &Request) -> Answer {
    let prefix = request.query("prefix").unwrap_or_default();
    let include: Vec<&str> = request.query("include").unwrap_or_default().split(',').collect();
    let most: usize = request.query("maxresults").map_or(5000, |most| most.parse().unwrap());
    // A marker is where the next page begins.
    let from = request.query("marker").and_then(|marker| marker.split_once('|'));
    let all = blobs.iter().flat_map(|(name, versions)| versions.iter().map(move |version| (name, version)));
    let mut wanted = all.filter(|(name, version)| {
        name.starts_with(prefix)
            && (version.is_current || include.contains(&"versions"))
            && from.is_none_or(|from| (name.as_str(), version.id.as_str()) >= from)
    });
    let mut document = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs>");
    for (name, version) in wanted.by_ref().take(most) {
        write_blob(&mut document, name, version, &include);
    }
    document.push_str("</Blobs><NextMarker>");
    if let Some((name, version)) = wanted.next() {
        document.push_str(&escaped(&format!("{name}|{}", version.id)));
    }
    document.push_str("</NextMarker></EnumerationResults>");
    Answer { body: document.into(), ..Answer::new(200).with("content-type", "application/xml") }
}

fn write_blob(document: &mut String, name: &str, version: &Version, include: &[&str]) {
    write!(document, "<Blob><Name>{}</Name>", escaped(name)).unwrap();
    if include.contains(&"versions") {
        write!(document, "<VersionId>{}</VersionId>", version.id).unwrap();
        if version.is_current {
            document.push_str("<IsCurrentVersion>true</IsCurrentVersion>");
        }
    }
    write!(
        document,
        "<Properties><Last-Modified>{}</Last-Modified><Etag>{}</Etag><Content-Length>{}</Content-Length>",
        http_time(version.modified),
        version.id,
        version.body.len()
    )
    .unwrap();
    if let Some(policy) = version.policy.filter(|_| include.contains(&"immutabilitypolicy")) {
        let mode = if policy.is_locked { "locked" } else { "unlocked" };
        write!(
            document,
            "<ImmutabilityPolicyUntilDate>{}</ImmutabilityPolicyUntilDate><ImmutabilityPolicyMode>{mode}</ImmutabilityPolicyMode>",
            http_time(policy.until)
        )
        .unwrap();
    }
    if version.archived.is_some() {
        document.push_str("<AccessTier>Archive</AccessTier>");
    }
    if include.contains(&"legalhold") {
        write!(document, "<LegalHold>{}</LegalHold>", version.is_held).unwrap();
    }
    document.push_str("</Properties></Blob>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
