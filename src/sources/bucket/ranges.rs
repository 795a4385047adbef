//! Keys in order, several ranges of them being listed at once.
//!
//! A server tells only the next thousand keys after one, so that whoever wants all of them in turn waits for each answer before he can
//! ask again. Here the keys that nobody has listed yet are cut into ranges by guesses ([`Shape`]), close before the one who takes them, and
//! each range is listed on its own. What a guess costs that misses is the request that finds nothing; after such ones fewer guesses
//! are built on guesses, and after such that find little they go further. Pages that wait to be taken are bounded in number, so the memory is the same for ten keys and for
//! a thousand million.
//!
//! Assumes: whoever lists after a key that is not there gets what follows, for no more than a page ([`Store::seeks`]); of other stores one
//! page after the other is listed.
//!
//! [`Store::seeks`]: crate::stores::Store::seeks

use std::collections::VecDeque;

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::mpsc;

use super::{
    pages::{Cursor, Fetched, Listed, Manner, PAGE_KEYS, list},
    shape::{Sample, Shape},
};
use crate::stores::{SharedStore, StoreError};

/// Requests under way at once.
const AT_ONCE: usize = 8;

/// Pages that are here, or asked for, and not taken.
const MOST_AHEAD: usize = 32;

/// Of a page's keys every so-many-th is looked at for their shape.
const LOOKED_AT: usize = 7;

/// Pages between two cuts: the least. A little under two, so that a guess that is somewhat off does not cost a third request.
const LEAST_APART: f64 = 1.9;
/// The most.
const MOST_APART: f64 = 64.0;

/// A part of all keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Span {
    /// Not this one, and none before it.
    pub(super) after: Option<String>,
    /// This one is the last, if it is there.
    pub(super) until: Option<String>,
}

/// Where pages go: nothing comes after the last one.
pub(super) type Pages = mpsc::Sender<Result<Option<Fetched>, StoreError>>;

/// One of the ranges, in the order of their keys.
struct Range {
    span: Span,
    number: u64,
    /// Where it goes on; nothing while a request is under way, and at the end.
    cursor: Option<Cursor>,
    under_way: bool,
    sample: Option<Sample>,
    pages: VecDeque<Fetched>,
}

impl Range {
    fn is_listed(&self) -> bool {
        self.cursor.is_none() && !self.under_way
    }
}

type Answer = (u64, Result<Listed, StoreError>);

struct Lister {
    store: SharedStore,
    manner: Manner,
    at_once: usize,
    ranges: VecDeque<Range>,
    next_number: u64,
    under_way: FuturesUnordered<BoxFuture<'static, Answer>>,
    shape: Shape,
    /// Of the page that lies furthest ahead.
    newest: Option<Sample>,
    /// Pages between two cuts.
    apart: f64,
    /// Ranges that may be under way without having shown a key: each lies where the guess before it would end.
    trust: usize,
}

/// Lists all keys of a part, in order, into `pages`; ends early when nobody takes them.
pub(super) async fn list_all(store: SharedStore, manner: Manner, span: Span, pages: Pages) {
    let at_once = if store.seeks() { AT_ONCE } else { 1 };
    let mut lister = Lister {
        store,
        manner,
        at_once,
        ranges: VecDeque::new(),
        next_number: 0,
        under_way: FuturesUnordered::new(),
        shape: Shape::default(),
        newest: None,
        apart: LEAST_APART,
        trust: at_once,
    };
    lister.insert(0, span);
    let end = lister.run(&pages).await.map(|()| None);
    // The receiver is gone when the work ended early.
    let _ = pages.send(end).await;
}

impl Lister {
    async fn run(&mut self, pages: &Pages) -> Result<(), StoreError> {
        loop {
            while self.ranges.front().is_some_and(|range| range.is_listed() && range.pages.is_empty()) {
                self.ranges.pop_front();
            }
            if self.ranges.is_empty() {
                return Ok(());
            }
            while self.under_way.len() < self.at_once && self.ask_for_another() {}
            let has_page = self.ranges.front().is_some_and(|range| !range.pages.is_empty());
            tokio::select! {
                room = pages.reserve(), if has_page => {
                    let Ok(room) = room else { return Ok(()) };
                    if let Some(page) = self.ranges.front_mut().and_then(|range| range.pages.pop_front()) {
                        room.send(Ok(Some(page)));
                    }
                }
                Some((number, listed)) = self.under_way.next() => self.arrived(number, listed?),
                () = pages.closed() => return Ok(()),
            }
        }
    }

    fn insert(&mut self, index: usize, span: Span) {
        let cursor = Some(Cursor::after(self.manner, span.after.as_deref()));
        let range = Range { span, number: self.next_number, cursor, under_way: false, sample: None, pages: VecDeque::new() };
        self.next_number += 1;
        self.ranges.insert(index, range);
    }

    /// Sends the most useful request that there is room for; false if there is none.
    fn ask_for_another(&mut self) -> bool {
        let ahead = self.under_way.len() + self.ranges.iter().map(|range| range.pages.len()).sum::<usize>();
        // What is wanted next is never held up by what is wanted later.
        let waited_for = self.ranges.front().is_some_and(|range| range.pages.is_empty() && range.cursor.is_some());
        if ahead >= MOST_AHEAD && !waited_for {
            return false;
        }
        let index = match self.ranges.iter().position(|range| range.cursor.is_some()) {
            Some(index) => index,
            None if self.at_once == 1 => return false,
            None => match self.cut() {
                Some(index) => index,
                None => return false,
            },
        };
        let Some(range) = self.ranges.get_mut(index) else { return false };
        let Some(cursor) = range.cursor.take() else { return false };
        range.under_way = true;
        let (store, number) = (self.store.clone(), range.number);
        // A task of its own: reading a page takes a processor for milliseconds.
        let listed = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move { list(&store, cursor).await }));
        let place = self.store.describe();
        self.under_way.push(Box::pin(async move {
            let listed = listed.await.unwrap_or_else(|error| {
                Err(StoreError::Other { place, action: "list", detail: format!("a task of this program ended: {error}") })
            });
            (number, listed)
        }));
        true
    }

    /// Cuts the first range that a guess can cut while its next page is under way; gives the index of the new one.
    fn cut(&mut self) -> Option<usize> {
        if self.ranges.iter().filter(|range| range.under_way && range.sample.is_none()).count() >= self.trust {
            return None;
        }
        let mut before: Option<&Sample> = None;
        let found = self.ranges.iter().enumerate().find_map(|(index, range)| {
            let sample = range.sample.as_ref().or(before).or(self.newest.as_ref());
            before = range.sample.as_ref().or(before);
            if !range.under_way {
                return None;
            }
            let sample = sample?;
            // What is under way takes one page from where the range has got to.
            let (from, pages) = match &range.sample {
                Some(own) => (own.last.as_str(), 1.0 + self.apart),
                None => (range.span.after.as_deref()?, self.apart),
            };
            let guess = |pages: f64| self.shape.ahead(sample, from, pages * PAGE_KEYS as f64);
            let cut = guess(pages)?;
            // Of a range with an end more than a page must be left behind the cut.
            let is_worth_it = match &range.span.until {
                // Guesses do not always grow: the end of what was seen may lie before what lies there.
                Some(until) => cut < *until && guess(pages + 1.0).is_some_and(|further| further < *until),
                None => true,
            };
            is_worth_it.then_some((index, cut))
        });
        let (index, cut) = found?;
        let until = self.ranges.get_mut(index)?.span.until.replace(cut.clone());
        self.insert(index + 1, Span { after: Some(cut), until });
        Some(index + 1)
    }

    fn arrived(&mut self, number: u64, listed: Listed) {
        let Listed { fetched, sample, next } = listed;
        fetched.objects.iter().step_by(LOOKED_AT).for_each(|object| self.shape.see(&object.key));
        if let Some(sample) = &sample {
            self.shape.see(&sample.first);
            self.shape.see(&sample.last);
            if self.newest.as_ref().is_none_or(|newest| newest.last < sample.last) {
                self.newest = Some(sample.clone());
            }
        }
        let Some(range) = self.ranges.iter_mut().find(|range| range.number == number) else { return };
        range.under_way = false;
        let until = range.span.until.as_deref();
        let is_at_its_end = sample.as_ref().is_some_and(|sample| until.is_some_and(|until| until < &*sample.last));
        range.cursor = next.filter(|_| !is_at_its_end);
        let page = fetched.until(until);
        let is_guessed = range.sample.is_none() && until.is_some();
        range.sample = sample.or(range.sample.take());
        let found = page.objects.len();
        if !page.is_empty() {
            range.pages.push_back(page);
        }
        if !is_guessed {
            return;
        }
        if found == 0 {
            // Both its ends lie where there are no keys: so do perhaps those of the ones behind it.
            self.trust = (self.trust / 2).max(1);
        } else {
            self.trust = (self.trust + 1).min(self.at_once);
            let is_short = found < PAGE_KEYS / 4;
            self.apart = if is_short { (self.apart * 1.5).min(MOST_APART) } else { (self.apart * 0.95).max(LEAST_APART) };
        }
    }
}

#[cfg(test)]
mod tests;
