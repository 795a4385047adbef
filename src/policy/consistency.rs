//! What only shows when the pieces of a policy are held against each other: names, references, places within places.

use std::{collections::BTreeMap, path::Path as FilePath, time::Duration};

use super::{
    Limits, LockModePolicy, Retention, SitePolicy, SourceKind, SourcePolicy, StorePolicy,
    document::{Document, Findings, Path},
    structure::similar,
};

/// Each name once per array. Names are read from the document, since the rest of an element may be beyond understanding.
pub fn unique_names(array: &str, document: &Document<'_>, findings: &mut Findings<'_>) {
    let mut first_at: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, name) in document.names(array).into_iter().enumerate() {
        let Some(name) = name.filter(|name| !name.is_empty()) else { continue };
        match first_at.get(name) {
            Some(first) => {
                let path = Path::root().key(array).index(index).key("name");
                findings.add(&path, format!("is the name of {array} #{} already; every {array} needs its own", first + 1));
            }
            None => {
                first_at.insert(name, index);
            }
        }
    }
}

/// A reference from a cross-check or a probe to a source of kind `kind`.
pub fn reference(
    name: Option<&str>,
    kind: &str,
    sources: &[SourcePolicy],
    document: &Document<'_>,
    path: &Path,
    findings: &mut Findings<'_>,
) {
    let Some(name) = name else { return };
    if let Some(source) = sources.iter().find(|source| source.name == name) {
        if source.kind.word() != kind {
            findings.add(path, format!("is a source of kind {}; should be one of kind {kind}", source.kind.word()));
        }
        return;
    }
    let known: Vec<&str> = document.names("source").into_iter().flatten().collect();
    if known.contains(&name) {
        // It is there and was reported as broken; nothing can be said about its kind.
        return;
    }
    findings.add(
        path,
        match similar(name, &known) {
            Some(guess) => format!("is no source of this policy; did you mean \"{guess}\"?"),
            None => format!("is no source of this policy; should be the name of a [[source]] of kind {kind}"),
        },
    );
}

/// A repository must not lie within what is protected (each backup would capture the ones before it), nor what is protected
/// within the repository, nor two sites in one place.
pub fn separate_places(sources: &[(Path, SourcePolicy)], sites: &[(Path, StorePolicy)], findings: &mut Findings<'_>) {
    for (index, (place, site)) in sites.iter().enumerate() {
        let path = place.key("store");
        for (_, other) in sites.iter().take(index) {
            if overlap(site, other) {
                findings.add(
                    &path,
                    format!("lies in the same place as another site, {}; a second site must be elsewhere", other.place()),
                );
            }
        }
        for (_, source) in sources {
            match &source.kind {
                SourceKind::Bucket(bucket) if overlap(site, &bucket.store) => findings.add(
                    &path,
                    format!(
                        "overlaps the source {} ({}): backups would capture backups, and lie beside what they protect; use another bucket, best in another region",
                        source.name,
                        bucket.store.place()
                    ),
                ),
                SourceKind::Files(files) => {
                    if let StorePolicy::Filesystem(filesystem) = site
                        && let Some(within) = files.paths.iter().find(|path| nested(path, &filesystem.path))
                    {
                        findings.add(
                            &path,
                            format!(
                                "overlaps {} of the source {}: backups would capture backups; put the repository elsewhere, best on another machine",
                                within.display(),
                                source.name
                            ),
                        );
                    }
                }
                SourceKind::Bucket(_) | SourceKind::Postgres(_) | SourceKind::Command(_) => {}
            }
        }
    }
}

/// A lock only where the store has such a thing and it holds, and not shorter than points are kept: the last days of a point would be the
/// ones in which it can be deleted.
pub fn locks(sites: &[(Path, SitePolicy)], findings: &mut Findings<'_>) {
    for (path, site) in sites {
        let Some(lock) = site.lock else { continue };
        let path = path.key("lock");
        if matches!(site.store, StorePolicy::Filesystem(_)) {
            findings.add(
                &path,
                "a directory cannot be locked: whoever owns a file can delete it; use a bucket with Object Lock (kind = \"s3\") or a container with version-level immutability (kind = \"azure\"), or leave it out",
            );
        }
        if matches!(site.store, StorePolicy::Azure(_)) && lock.mode == LockModePolicy::Governance {
            findings.add(
                &path.key("mode"),
                "governance holds nothing on Azure: whoever may set such a (there: unlocked) policy, as the agent must, may remove it, too; \
                 make it \"compliance\"",
            );
        }
        if Duration::from_secs(u64::from(lock.days) * 24 * 3600) < site.retention.keep_within {
            findings.add(
                &path.key("days"),
                format!(
                    "is shorter than retention.keep_within ({}): points that are to be kept could be deleted; make it as long",
                    humantime::format_duration(site.retention.keep_within)
                ),
            );
        }
    }
}

/// What prune dooms must outlast every backup that may rely on it.
pub fn grace(retention: &Retention, sites: &[(Path, SitePolicy)], limits: &Limits, findings: &mut Findings<'_>) {
    let Some(longest) = limits.backup_time else { return };
    let mut at = |path: &Path| {
        findings.add(
            &path.key("retention").key("grace"),
            format!(
                "is shorter than limits.backup_time ({}): prune could delete what a backup at work builds on; make it longer",
                humantime::format_duration(longest)
            ),
        );
    };
    if longest > retention.grace {
        at(&Path::root());
    }
    for (path, site) in sites {
        // One that is the policy's was said there.
        if longest > site.retention.grace && site.retention.grace != retention.grace {
            at(path);
        }
    }
}

fn overlap(left: &StorePolicy, right: &StorePolicy) -> bool {
    match (left, right) {
        (StorePolicy::Filesystem(left), StorePolicy::Filesystem(right)) => nested(&left.path, &right.path),
        (StorePolicy::S3(left), StorePolicy::S3(right)) => {
            // One bucket name may exist at two providers, so the endpoint belongs to the place; the region does not.
            let server =
                |endpoint: &Option<String>| endpoint.as_deref().map(|endpoint| endpoint.trim_end_matches('/').to_lowercase());
            left.bucket == right.bucket
                && server(&left.endpoint) == server(&right.endpoint)
                && nested(FilePath::new(&left.prefix), FilePath::new(&right.prefix))
        }
        (StorePolicy::Azure(left), StorePolicy::Azure(right)) => {
            left.account == right.account
                && left.container == right.container
                && nested(FilePath::new(&left.prefix), FilePath::new(&right.prefix))
        }
        (StorePolicy::Filesystem(_) | StorePolicy::S3(_) | StorePolicy::Azure(_), _) => false,
    }
}

fn nested(left: &FilePath, right: &FilePath) -> bool {
    left.starts_with(right) || right.starts_with(left)
}
