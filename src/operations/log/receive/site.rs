//! One site: everything in the order of the log, one file after the other, so that there is never a hole at the site, whenever the region is lost.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::watch;

use super::{
    ahead::{Ahead, Sealing},
    feed::{Feed, LEAST_PART_BYTES, Read, View},
    reach::last_before,
    refused,
};
use crate::{
    clock::SharedClock,
    operations::{
        OperationError,
        log::{OpenLogSite, another_is_archived},
    },
    repository::{LogName, LogPut, LogWriter},
    sources::postgres::physical::Segment,
};

/// A site that failed is tried again after this, and then after ever longer.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The first segment that a site does not have for sure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Next {
    /// The server's timeline when this was so.
    pub(super) timeline: u32,
    pub(super) number: u64,
    /// So much of it is there in parts.
    pub(super) bytes: u64,
}

/// A site, and how far it has the log.
pub(super) struct Site<'a> {
    pub(super) site: Arc<dyn OpenLogSite>,
    pub(super) feed: &'a Feed,
    pub(super) part_every: Duration,
    pub(super) clock: SharedClock,
    /// Nothing before it has begun.
    pub(super) next: &'a watch::Sender<Option<Next>>,
    writer: Option<Arc<LogWriter>>,
    /// What follows the segment that is being stored.
    ahead: Ahead,
    /// The segment of which it has parts, and as far as they go.
    part: Option<(Segment, u64)>,
    part_at: Option<Duration>,
    histories: HashSet<String>,
    /// Whether it was looked what the site has from before this run.
    looked_back: bool,
    complaint: Option<String>,
}

/// What a step came to.
#[derive(PartialEq, Eq)]
enum Step {
    /// There may be more to do.
    Done,
    /// It has all that there is, or all but a part whose time has not come.
    Idle,
    /// Nothing can be read now.
    Away,
}

impl<'a> Site<'a> {
    pub(super) fn new(
        site: Arc<dyn OpenLogSite>,
        feed: &'a Feed,
        part_every: Duration,
        clock: SharedClock,
        next: &'a watch::Sender<Option<Next>>,
    ) -> Self {
        let (writer, part, part_at, complaint) = (None, None, None, None);
        let (ahead, histories, looked_back) = (Ahead::default(), HashSet::new(), false);
        Self { site, feed, part_every, clock, next, writer, ahead, part, part_at, histories, looked_back, complaint }
    }

    /// Stores what there is, for as long as there may be more. Returns whether it has everything of the last view.
    pub(super) async fn run(mut self) -> bool {
        let mut views = self.feed.view.subscribe();
        let mut pause = FIRST_PAUSE;
        loop {
            let Some(view) = views.borrow_and_update().clone() else {
                if views.changed().await.is_err() {
                    return false;
                }
                continue;
            };
            self.begin(&view);
            let is_last = view.is_last;
            let stepped = self.step(&view).await;
            if !matches!(stepped, Ok(Step::Done)) {
                // What was sealed is stored at once or not at all: its key is kept for a while only.
                self.ahead.clear();
            }
            match stepped {
                Ok(Step::Done) => {
                    pause = FIRST_PAUSE;
                    if self.complaint.take().is_some() {
                        tracing::info!(site = self.site.name(), "takes the log again");
                    }
                }
                Ok(step) if is_last => return step == Step::Idle,
                Ok(_) => self.wait(&mut views, self.until_part()).await,
                Err(error) => {
                    self.writer = None;
                    self.complain(error.to_string());
                    if is_last {
                        return false;
                    }
                    self.wait_out(&mut views, pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Waits for another view, at most so long.
    async fn wait(&self, views: &mut watch::Receiver<Option<View>>, most: Duration) {
        let _ = tokio::time::timeout(most, views.changed()).await;
    }

    /// Waits so long, or until the end is near.
    async fn wait_out(&self, views: &mut watch::Receiver<Option<View>>, pause: Duration) {
        let ends = views.wait_for(|view| view.as_ref().is_some_and(|view| view.is_last));
        let _ = tokio::time::timeout(pause, ends).await;
    }

    fn until_part(&self) -> Duration {
        let since = self.part_at.map_or(self.part_every, |at| self.clock.monotonic().saturating_sub(at));
        self.part_every.saturating_sub(since).max(Duration::from_millis(50))
    }

    /// Where to go on: on another timeline from where that one begins, and never before what the server has.
    fn begin(&mut self, view: &View) {
        let before = *self.next.borrow();
        let mut number = before.map_or(view.first, |next| next.number);
        if let Some(differs) = before.and_then(|next| view.lineage.differs_from(view.layout, next.timeline)) {
            number = number.min(differs);
        }
        if number < view.first {
            let name = |number| view.layout.name(view.lineage.segment(view.layout, number));
            tracing::error!(
                site = self.site.name(),
                "the server has no log before {}, and the site does not have {} and what follows it: the archive has a gap. Make a backup now, which begins behind it",
                name(view.first),
                name(number)
            );
            number = view.first;
        }
        self.goes_on(view, number);
    }

    fn goes_on(&self, view: &View, number: u64) {
        let segment = view.lineage.segment(view.layout, number);
        let bytes = self.part.filter(|(of, _)| *of == segment).map_or(0, |(_, to)| to);
        let next = Some(Next { timeline: view.lineage.timeline(), number, bytes });
        if self.next.send_if_modified(|before| std::mem::replace(before, next) != next) {
            self.feed.stored.notify_one();
        }
    }

    fn complain(&mut self, message: String) {
        if self.complaint.as_ref() != Some(&message) {
            tracing::warn!(site = self.site.name(), "does not take the log, which waits at the server: {message}");
            self.complaint = Some(message);
        }
    }

    /// Stores one file more.
    async fn step(&mut self, view: &View) -> Result<Step, OperationError> {
        if !self.looked_back {
            self.look_back(view).await?;
            self.looked_back = true;
        }
        for (file, bytes) in view.histories.iter() {
            if self.histories.contains(file) {
                continue;
            }
            let name = LogName::new(view.layout.system, file).ok_or_else(|| refused(file, "is no history"))?;
            self.put(&name, bytes.clone(), None).await?;
            self.histories.insert(file.clone());
            return Ok(Step::Done);
        }
        let next = self.next.borrow().map_or(view.first, |next| next.number);
        let segment = view.lineage.segment(view.layout, next);
        if next < view.layout.segment_of(view.end) { self.whole(view, segment).await } else { self.part(view, segment).await }
    }

    /// Says so if the site's archive ends before what the server still has: the slot was dropped, or lost, while nobody received.
    async fn look_back(&mut self, view: &View) -> Result<(), OperationError> {
        let repository = Arc::clone(self.opened().await?.repository());
        let Some(last) = last_before(&repository, view.layout, &view.lineage, view.first).await? else { return Ok(()) };
        if last.number + 1 < view.first {
            tracing::error!(
                site = self.site.name(),
                "the archive has a gap: the site has nothing between {} and {}, and the server does not have it any more. Make a backup now (`farshore backup`), which begins behind it",
                view.layout.name(last),
                view.layout.name(view.lineage.segment(view.layout, view.first))
            );
        }
        Ok(())
    }

    async fn whole(&mut self, view: &View, segment: Segment) -> Result<Step, OperationError> {
        let (layout, name) = (view.layout, view.layout.name(segment));
        let bytes = match self.feed.read(layout, segment, 0, layout.segment_bytes).await {
            Read::Bytes(bytes) => bytes,
            Read::Away => return Ok(Step::Away),
            Read::Gone(why) if segment.number < view.held => {
                tracing::error!(
                    site = self.site.name(),
                    "{why}: the archive has a gap at {name}. Make a backup now, which begins behind it"
                );
                self.goes_on(view, segment.number + 1);
                return Ok(Step::Done);
            }
            Read::Gone(why) => return Err(refused(name, format!("{why}, although the slot holds it"))),
        };
        let file = LogName::new(layout.system, &name).ok_or_else(|| refused(&name, "is no name of a segment"))?;
        let writer = self.opened().await?;
        // Of one that is behind nobody here knows when the server was done with it.
        let ended_at = view.ended_at().filter(|_| !view.goes_on_after(segment.number));
        let now = self.clock.monotonic();
        let own = match self.ahead.take(segment, &bytes, now) {
            Some(own) => own,
            None => Sealing::begin(&writer, file.clone(), bytes, ended_at),
        };
        let put = async { writer.put_sealed(own.sealed().await?).await };
        let fill = async {
            // Nothing is sealed ahead for a site that did not take the last one.
            if self.complaint.is_none() {
                self.ahead.fill(&writer, self.feed, view, segment, now).await;
            }
        };
        let (stored, ()) = tokio::join!(put, fill);
        confirmed(stored?, &file)?;
        self.part = None;
        self.goes_on(view, segment.number + 1);
        Ok(Step::Done)
    }

    async fn part(&mut self, view: &View, segment: Segment) -> Result<Step, OperationError> {
        let (layout, to) = (view.layout, view.end.0 % view.layout.segment_bytes);
        let from = self.part.filter(|(of, _)| *of == segment).map_or(0, |(_, to)| to);
        let is_due = view.is_last
            || view.is_awaited
            || self.part_at.is_none_or(|at| self.clock.monotonic().saturating_sub(at) >= self.part_every);
        // The server may be behind what was read of another one, before it was replaced.
        let is_there = segment.number == layout.segment_of(view.end) && to > from && to >= LEAST_PART_BYTES;
        if !is_there || !is_due {
            return Ok(Step::Idle);
        }
        let name = layout.name(segment);
        let bytes = match self.feed.read(layout, segment, from, to).await {
            Read::Bytes(bytes) => bytes,
            Read::Away => return Ok(Step::Away),
            Read::Gone(why) => return Err(refused(name, why)),
        };
        let file = LogName::part(layout.system, &name, &(from..to)).ok_or_else(|| refused(&name, "is no name of a segment"))?;
        let began = self.clock.monotonic();
        self.put(&file, bytes, view.ended_at()).await?;
        (self.part, self.part_at) = (Some((segment, to)), Some(began));
        self.goes_on(view, segment.number);
        Ok(Step::Done)
    }

    /// Stores a file, of which we know when the server's log ended there; it is confirmed when this returns.
    async fn put(&mut self, name: &LogName, bytes: Bytes, ended_at: Option<DateTime<Utc>>) -> Result<(), OperationError> {
        confirmed(self.opened().await?.put_ended(name, bytes, ended_at).await?, name)
    }

    async fn opened(&mut self) -> Result<Arc<LogWriter>, OperationError> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => Arc::new(self.site.open().await?),
        };
        Ok(Arc::clone(self.writer.insert(writer)))
    }
}

fn confirmed(put: LogPut, name: &LogName) -> Result<(), OperationError> {
    match put {
        LogPut::Stored | LogPut::There => Ok(()),
        LogPut::Other { place } => Err(another_is_archived(place, name)),
    }
}
