//! What a site has of a source from before: the point to build on, and the parts of runs since that made none.

use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};

use super::site::Site;
use crate::{
    repository::{EntryRecord, Part, Point, Repository, RepositoryError, Snapshot},
    stores::StoreError,
};

type Entries = BoxStream<'static, Result<EntryRecord, RepositoryError>>;

/// Runs whose parts are looked at, the newest ones: each is one more list to walk.
const MOST_RUNS: usize = 4;

/// The parts of runs after this point, newest first; of those that `is_wanted` chooses by the run's name. One that cannot be read costs time and nothing
/// else.
pub(super) async fn parts_since(
    repository: &Repository,
    policy: &str,
    point: Option<&Point>,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Part>, RepositoryError> {
    let mut parts = Vec::new();
    for name in repository.last_parts(policy).await? {
        if !is_wanted(&name.run) {
            continue;
        }
        if point.is_some_and(|point| name.named_at <= point.finished_at) {
            continue;
        }
        match repository.part(&name).await {
            Ok(part) => parts.push(part),
            Err(error) => tracing::warn!(%error, key = name.key, "what an earlier run had read is not used"),
        }
        if parts.len() == MOST_RUNS {
            break;
        }
    }
    Ok(parts)
}

fn of_source<'a>(snapshots: &'a [Snapshot], source: &str, kind: &str) -> Option<&'a Snapshot> {
    snapshots.iter().find(|snapshot| snapshot.source == source && snapshot.kind == kind)
}

/// The entries of a source at a site after a path, sorted: of each path the one that was read last. Nothing where there is no list at all.
pub(super) fn entries(site: &Site<'_>, source: &str, kind: &str, after: Option<&[u8]>) -> Option<Entries> {
    let of = |snapshot: &Snapshot| match after {
        Some(after) => site.reader.entries_near(snapshot, after),
        None => site.reader.entries(snapshot),
    };
    let parts = site.unfinished.iter().filter_map(|part| of_source(&part.snapshots, source, kind));
    let mut lists: Vec<Entries> = parts.map(|snapshot| hint(of(snapshot))).collect();
    lists.extend(site.earlier_snapshot(source, kind).map(|snapshot| unless_archived(of(snapshot))));
    match lists.len() {
        0 => None,
        1 => lists.pop(),
        _ => Some(united(lists)),
    }
}

/// A list of a run that did not finish: it ends where it cannot be read.
fn hint(entries: Entries) -> Entries {
    until(entries, RepositoryError::is_damage, "the rest of what an earlier run had read is not used")
}

/// The newest point's list: it ends where the rest of it lies in an archive. What comes after is read from its source again.
fn unless_archived(entries: Entries) -> Entries {
    let is_archived = |error: &RepositoryError| matches!(error.root(), RepositoryError::Store(StoreError::Archived { .. }));
    until(entries, is_archived, "the rest of the newest point's list is not used, and what it names is read again")
}

/// A list that ends at the first such error, of which this is logged; any other one is its reader's.
fn until(entries: Entries, is_end: impl Fn(&RepositoryError) -> bool + Send + 'static, said: &'static str) -> Entries {
    let whole = entries.take_while(move |record| {
        let end = record.as_ref().err().filter(|error| is_end(error));
        if let Some(error) = end {
            tracing::warn!(%error, "{said}");
        }
        std::future::ready(end.is_none())
    });
    whole.boxed()
}

/// Several sorted lists as one. Of a path that several have, the first list's record counts.
fn united(lists: Vec<Entries>) -> Entries {
    let heads = lists.into_iter().map(|list| (None, list)).collect::<Vec<(Option<EntryRecord>, Entries)>>();
    stream::try_unfold(heads, |mut heads| async move {
        for (head, list) in &mut heads {
            if head.is_none() {
                *head = list.try_next().await?;
            }
        }
        let least = heads.iter().filter_map(|(head, _)| head.as_ref()).map(|record| &record.path).min().cloned();
        let Some(least) = least else { return Ok(None) };
        let mut found = None;
        for (head, _) in &mut heads {
            if head.as_ref().is_some_and(|record| record.path == least) {
                let record = head.take();
                found = found.or(record);
            }
        }
        Ok(found.map(|record| (record, heads)))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, TryStreamExt, stream};

    use super::{Entries, EntryRecord, RepositoryError, hint, united};

    fn record(path: &str, kind: &str) -> EntryRecord {
        EntryRecord { path: path.into(), kind: kind.into(), modified: None, size: None, content: None, attributes: Vec::new() }
    }

    fn list(kind: &str, paths: &[&str]) -> Entries {
        stream::iter(paths.iter().map(|path| Ok(record(path, kind))).collect::<Vec<_>>()).boxed()
    }

    #[tokio::test]
    async fn of_each_path_the_record_of_the_first_list_counts() {
        let lists = vec![list("new", &["b", "d"]), list("old", &["a", "b"]), list("point", &["a", "b", "c", "e"])];
        let all: Vec<EntryRecord> = united(lists).try_collect().await.unwrap();
        let found: Vec<_> =
            all.iter().map(|record| (String::from_utf8_lossy(&record.path).into_owned(), record.kind.as_str())).collect();
        let wanted = [("a", "old"), ("b", "new"), ("c", "point"), ("d", "new"), ("e", "point")];
        assert_eq!(found, wanted.map(|(path, kind)| (path.to_owned(), kind)));
    }

    #[tokio::test]
    async fn a_hint_ends_at_damage_and_the_others_go_on() {
        let damage = RepositoryError::Damaged { place: "p".into(), detail: "d".into() };
        let broken = list("new", &["a"]).chain(stream::iter([Err(damage)])).boxed();
        let all: Vec<EntryRecord> = united(vec![hint(broken), list("point", &["a", "b"])]).try_collect().await.unwrap();
        assert_eq!(all.iter().map(|record| record.kind.as_str()).collect::<Vec<_>>(), ["new", "point"]);
    }
}
