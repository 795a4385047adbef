//! What has not changed, for all sites at once: the entries from before, walked in step.
//!
//! An entry is offered to its source only if every site that takes part has it, alike, and can adopt its chunks; every other one is
//! read again, once, and each site stores of it what it lacks. So a site that missed a night catches up with what it missed.

use std::cmp::Ordering;

use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};

use super::{
    earlier,
    fan_out::{Lists, encode},
    site::Site,
};
use crate::{
    operations::exchange::exchange,
    progress::Problem,
    repository::{EntryRecord, RepositoryError},
    sources::{Content, Entry, ExchangeError, Shard},
};

/// The entries of one site.
struct Cursor<'a> {
    number: usize,
    site: &'a Site<'a>,
    entries: BoxStream<'static, Result<EntryRecord, RepositoryError>>,
    head: Option<EntryRecord>,
}

/// What became of a step at one site.
enum Step<T> {
    Done(T),
    /// Nothing more can be adopted here, and so nowhere.
    Ended,
    /// The site was left behind.
    Left,
}

impl Cursor<'_> {
    fn step<T>(&self, source: &str, done: Result<T, RepositoryError>) -> Step<T> {
        match done {
            Ok(done) => Step::Done(done),
            // Costs time, not the backup: what comes after is read from the source again.
            Err(error) if error.is_damage() => {
                let message = format!("the earlier point's list cannot be read to its end; what follows is read again: {error}");
                self.site.problem_with_source(Problem::new(source, message));
                Step::Ended
            }
            Err(error) => {
                self.site.failure.set(error);
                Step::Left
            }
        }
    }

    /// Makes sure that there is a head.
    async fn look(&mut self, source: &str) -> Step<()> {
        if self.head.is_some() {
            return Step::Done(());
        }
        let next = self.entries.try_next().await;
        match self.step(source, next) {
            Step::Done(Some(record)) => {
                self.head = Some(record);
                Step::Done(())
            }
            Step::Done(None) | Step::Ended => Step::Ended,
            Step::Left => Step::Left,
        }
    }

    /// Whether every chunk of the record can be adopted here.
    async fn has(&mut self, source: &str, record: &EntryRecord) -> Step<bool> {
        match &record.content {
            Some(list) => {
                let has = self.site.writer.has(&self.site.reader, list).await;
                self.step(source, has)
            }
            None => Step::Done(true),
        }
    }
}

struct Together<'a> {
    source: String,
    sites: usize,
    cursors: Vec<Cursor<'a>>,
}

/// The entries of a source from before that every site can adopt, sorted by path. Nothing where a site has none.
pub(super) fn adoptable<'a>(
    sites: &'a [Site<'a>],
    source: &str,
    kind: &str,
    shard: Option<&Shard>,
) -> Option<BoxStream<'a, Result<Entry, ExchangeError>>> {
    let (after, until) = shard.map_or((None, None), |shard| (shard.after.clone(), shard.until.clone()));
    let cursor = |(number, site): (usize, &'a Site<'a>)| {
        Some(Cursor { number, site, entries: earlier::entries(site, source, kind, after.as_deref())?, head: None })
    };
    let cursors = sites.iter().enumerate().filter(|(_, site)| site.is_living()).map(cursor).collect::<Option<Vec<_>>>()?;
    let together = Together { source: source.to_owned(), sites: sites.len(), cursors };
    let entries = stream::try_unfold(together, |mut together| async move {
        Ok(together.next().await.map_err(exchange)?.map(|entry| (entry, together)))
    });
    // What lies outside belongs to other shards: it is neither unchanged nor gone.
    let begins = move |entry: &Entry| after.as_ref().is_none_or(|after| entry.path > *after);
    let ends = move |entry: &Entry| until.as_ref().is_none_or(|until| entry.path <= *until);
    let within = entries
        .try_skip_while(move |entry| std::future::ready(Ok(!begins(entry))))
        .try_take_while(move |entry| std::future::ready(Ok(ends(entry))));
    Some(within.boxed())
}

/// The facts of the earlier snapshot of a source, if all sites have the very same one.
pub(super) fn facts(sites: &[Site<'_>], source: &str, kind: &str) -> Option<serde_json::Value> {
    let mut each = sites.iter().filter(|site| site.is_living()).map(|site| Some(&site.earlier_snapshot(source, kind)?.facts));
    let first = each.next()??;
    each.all(|facts| facts == Some(first)).then(|| first.clone())
}

impl Together<'_> {
    async fn next(&mut self) -> Result<Option<Entry>, RepositoryError> {
        loop {
            self.cursors.retain(|cursor| cursor.site.is_living());
            if !self.meet().await {
                return Ok(None);
            }
            if self.cursors.iter().any(|cursor| cursor.head.is_none()) {
                continue;
            }
            let records: Vec<EntryRecord> = self.cursors.iter_mut().filter_map(|cursor| cursor.head.take()).collect();
            let Some(first) = records.first() else { return Ok(None) };
            if !records.iter().all(|record| is_alike(first, record)) {
                continue;
            }
            match self.all_have(&records).await {
                Step::Done(true) => return Ok(Some(self.entry(records))),
                Step::Done(false) | Step::Left => {}
                Step::Ended => {
                    self.cursors.clear();
                    return Ok(None);
                }
            }
        }
    }

    /// Goes forward until all heads have the same path, or some are to be looked for again. False at the end.
    async fn meet(&mut self) -> bool {
        for cursor in &mut self.cursors {
            match cursor.look(&self.source).await {
                Step::Done(()) => {}
                // Its turn comes again without it.
                Step::Left => return true,
                Step::Ended => {
                    self.cursors.clear();
                    return false;
                }
            }
        }
        let path = |cursor: &Cursor<'_>| cursor.head.as_ref().map(|record| record.path.clone());
        let Some(greatest) = self.cursors.iter().filter_map(path).max() else { return false };
        for cursor in &mut self.cursors {
            if cursor.head.as_ref().is_some_and(|record| record.path.cmp(&greatest) == Ordering::Less) {
                cursor.head = None;
            }
        }
        true
    }

    async fn all_have(&mut self, records: &[EntryRecord]) -> Step<bool> {
        for (cursor, record) in self.cursors.iter_mut().zip(records) {
            match cursor.has(&self.source, record).await {
                Step::Done(true) => {}
                other => return other,
            }
        }
        Step::Done(true)
    }

    fn entry(&self, records: Vec<EntryRecord>) -> Entry {
        let mut lists: Lists = vec![None; self.sites];
        let mut entry = Entry::new(Vec::new(), String::new());
        let mut size = None;
        for (cursor, record) in self.cursors.iter().zip(records) {
            entry.modified = record.modified_at();
            size = record.content.as_ref().map(|_| record.size.unwrap_or(0));
            lists[cursor.number] = record.content;
            (entry.path, entry.kind, entry.attributes) = (record.path, record.kind, record.attributes);
        }
        entry.content = size.map(|size| Content { size, reference: encode(&lists) });
        entry
    }
}

/// Whether two sites have the same of an entry, as far as can be told without its bytes.
fn is_alike(left: &EntryRecord, right: &EntryRecord) -> bool {
    let has_content = left.content.is_some() == right.content.is_some();
    has_content
        && (&left.path, &left.kind, &left.modified, &left.size, &left.attributes)
            == (&right.path, &right.kind, &right.modified, &right.size, &right.attributes)
}
