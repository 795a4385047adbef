//! The log as the server streams it: into what is kept of it, at the pace of the site that is furthest, and back to the server how far all sites are.
//!
//! A site that is slower, or comes back, reads what is not kept any more over the ordinary session. So nothing depends on the stream but how
//! soon new bytes are there, and what they cost.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::task::AbortOnDropHandle;

use super::{feed::Feed, site::Next};
use crate::{
    clock::SharedClock,
    sources::{
        SourceError,
        postgres::physical::{
            Layout, Lineage, Lsn, Segment,
            replication::{Event, Progress, Replication},
        },
    },
};

/// How often the server is told how far we are where nothing changes, also while nothing is read: it ends whoever says nothing for
/// `wal_sender_timeout` (a minute unless somebody set it).
const TELL_EVERY: Duration = Duration::from_secs(1);
/// A server that has said nothing for so long is asked whether it is there,
const ASK_AFTER: Duration = Duration::from_secs(10);
/// and given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// New bytes of the segment in progress are shown to the sites so often at most; a whole segment at once.
const SHOW_EVERY: Duration = Duration::from_millis(100);

/// Of each site the first segment that it does not have.
pub(super) type Confirmed = Vec<watch::Receiver<Option<Next>>>;

/// What a stream is about.
pub(super) struct Course {
    pub(super) layout: Layout,
    pub(super) lineage: Arc<Lineage>,
    /// The segment that it begins with.
    pub(super) first: Segment,
    /// As far as the slot has let go. The server would take less for the word that it holds more again.
    pub(super) held: Lsn,
}

/// How a stream ended.
#[derive(Debug)]
pub(super) struct End {
    pub(super) why: Why,
    /// Whether anything came over it.
    pub(super) has_brought: bool,
}

#[derive(Debug)]
pub(super) enum Why {
    /// It was told to.
    Told,
    /// Its timeline ended.
    Timeline,
    Broken(SourceError),
}

/// A stream that runs. Dropped, it is cut.
pub(super) struct Streaming {
    /// The timeline that it is on.
    pub(super) timeline: u32,
    stop: watch::Sender<bool>,
    task: AbortOnDropHandle<End>,
    end: Option<End>,
}

impl Streaming {
    pub(super) fn start(
        replication: Replication,
        course: Course,
        feed: &Arc<Feed>,
        confirmed: Confirmed,
        clock: SharedClock,
    ) -> Self {
        feed.kept().begin(course.layout, course.first, feed.most_kept(course.layout));
        let (stop, stopped) = watch::channel(false);
        let timeline = course.first.timeline;
        let stream = Stream {
            replication,
            feed: Arc::clone(feed),
            course,
            confirmed,
            clock,
            pending: None,
            told: Lsn(0),
            has_brought: false,
        };
        let task = AbortOnDropHandle::new(tokio::spawn(stream.run(stopped)));
        Self { timeline, stop, task, end: None }
    }

    /// Comes back when it has ended; may be given up.
    pub(super) async fn ended(&mut self) {
        if self.end.is_none() {
            let defect = |error: tokio::task::JoinError| {
                let (subject, detail) = ("the stream of the log".to_owned(), format!("a defect: {error}"));
                End { why: Why::Broken(SourceError::Unreachable { subject, detail }), has_brought: false }
            };
            self.end = Some((&mut self.task).await.unwrap_or_else(defect));
        }
    }

    /// How it ended, if it has.
    pub(super) fn end(&mut self) -> Option<End> {
        self.end.take()
    }

    /// Tells the server for the last time how far all sites are, and ends it.
    pub(super) async fn finish(mut self) {
        self.stop.send_replace(true);
        self.ended().await;
    }
}

struct Stream {
    replication: Replication,
    feed: Arc<Feed>,
    course: Course,
    confirmed: Confirmed,
    clock: SharedClock,
    /// What has come and has no room yet. While it waits nothing is read.
    pending: Option<(Lsn, Bytes)>,
    /// What the server was told is stored.
    told: Lsn,
    has_brought: bool,
}

impl Stream {
    async fn run(mut self, mut stop: watch::Receiver<bool>) -> End {
        let why = match self.stream(&mut stop).await {
            Ok(why) => why,
            Err(error) => Why::Broken(error),
        };
        let has_brought = self.has_brought;
        if matches!(why, Why::Told) {
            // Where that fails the slot stays where it is, and more is received again than need be.
            let _ = self.tell(false).await;
        }
        if !matches!(why, Why::Broken(_)) {
            self.replication.leave().await;
        }
        End { why, has_brought }
    }

    async fn stream(&mut self, stop: &mut watch::Receiver<bool>) -> Result<Why, SourceError> {
        let feed = Arc::clone(&self.feed);
        let (mut tell, mut show) = (interval(TELL_EVERY), interval(SHOW_EVERY));
        tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
        show.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut heard, mut is_unseen) = (self.clock.monotonic(), false);
        self.show();
        loop {
            let is_complete = self.keep()?;
            let is_awaited = || feed.view.borrow().as_ref().is_some_and(|view| view.is_awaited);
            if is_complete || is_unseen && !self.replication.has_more() && is_awaited() {
                self.show();
                is_unseen = false;
            }
            tokio::select! {
                event = self.replication.next(), if self.pending.is_none() => {
                    heard = self.clock.monotonic();
                    match event? {
                        Event::Log { at, bytes } => {
                            self.pending = Some((at, bytes));
                            self.has_brought = true;
                            is_unseen = true;
                        }
                        Event::Alive { is_asked: true } => self.tell(false).await?,
                        Event::Alive { is_asked: false } => {}
                        Event::Ended => {
                            self.show();
                            self.replication.end().await?;
                            return Ok(Why::Timeline);
                        }
                    }
                }
                _ = show.tick(), if is_unseen => {
                    self.show();
                    is_unseen = false;
                }
                () = feed.stored.notified() => {
                    if self.stored().is_some_and(|stored| stored > self.told) {
                        self.tell(false).await?;
                    }
                }
                _ = tell.tick() => {
                    let now = self.clock.monotonic();
                    if self.pending.is_some() {
                        // What the server says meanwhile waits behind what has no room.
                        heard = now;
                    }
                    let silent = now.saturating_sub(heard);
                    if silent >= PATIENCE {
                        return Err(SourceError::Unreachable {
                            subject: "the stream of the log".to_owned(),
                            detail: format!("the server says nothing for {} s: see whether it and the way to it are well", silent.as_secs()),
                        });
                    }
                    self.tell(silent >= ASK_AFTER).await?;
                }
                () = async { drop(stop.wait_for(|stop| *stop).await) } => return Ok(Why::Told),
            }
        }
    }

    /// Keeps what has come, as far as there is room.
    fn keep(&mut self) -> Result<bool, SourceError> {
        let next = self.confirmed.iter().filter_map(|next| *next.borrow()).map(|next| next.number).max();
        let Some((at, bytes)) = &mut self.pending else { return Ok(false) };
        let before = bytes.len();
        let taken = self.feed.kept().take(*at, bytes, next.unwrap_or(0));
        at.0 += (before - bytes.len()) as u64;
        let is_complete = taken.map_err(|detail| SourceError::Unfit {
            subject: "the stream of the log".to_owned(),
            detail: format!("{detail}; it is not archived. See the server's log"),
        })?;
        self.pending.take_if(|(_, bytes)| bytes.is_empty());
        Ok(is_complete)
    }

    /// Shows the sites how far the log has come. What is asked for at the end is more, and stays.
    fn show(&self) {
        let timeline = self.course.lineage.timeline();
        let Some(end) = self.feed.kept().end() else { return };
        self.feed.view.send_if_modified(|view| match view {
            Some(view) if !view.is_last && view.end < end && view.lineage.timeline() == timeline => {
                view.end = end;
                true
            }
            _ => false,
        });
    }

    /// As far as every site has the log, parts among it; nothing while one goes by another timeline, and may have to go back.
    fn stored(&self) -> Option<Lsn> {
        let Course { layout, lineage, held, .. } = &self.course;
        let stored = |next: &watch::Receiver<Option<Next>>| {
            let next = (*next.borrow()).filter(|next| next.timeline == lineage.timeline())?;
            Some(Lsn(next.number * layout.segment_bytes + next.bytes))
        };
        let all: Option<Vec<Lsn>> = self.confirmed.iter().map(stored).collect();
        all?.into_iter().min().filter(|stored| stored >= held)
    }

    /// Tells the server how far we are: never less than before.
    async fn tell(&mut self, is_asking: bool) -> Result<(), SourceError> {
        self.told = self.told.max(self.stored().unwrap_or(Lsn(0)));
        let received = self.feed.kept().end().unwrap_or(Lsn(0));
        self.replication.report(Progress { received, stored: self.told }, self.clock.now(), is_asking).await
    }
}
