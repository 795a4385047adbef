//! Receiving a server's log as it is written: whole segments as they are complete, and parts of the one that is not.
//!
//! Promises:
//! * A slot holds the log at the server until every site has confirmed it. Whatever goes away and comes back (server, site, this process),
//!   nothing is left out.
//! * The slot holds a bounded amount. Beyond that it is dropped, and this ends with an error: the server's disk is worth more than the archive.
//!   What was written beyond it while nobody received is caught up with, while that goes on.
//! * A site whose archive ends before what the server still has is told of, by name and place.
//! * At each site the log has no hole at any time: file after file.
//! * The same file that `archive_command` has pushed is a success, another one of its name an error.
//!
//! Order: bytes are on the server's disk → streamed or read, each page looked at → stored at a site and confirmed → when all sites have them:
//! the slot moves, within a segment too where the log is streamed. If we stop here, anywhere, the next run begins with the segment that the slot
//! stands in.
//!
//! Leaves out on purpose: applying anything. Commits may wait for the sites (`synchronous_standby_names`), and never for more.

mod ahead;
mod bound;
mod feed;
mod kept;
mod reach;
mod site;
mod stream;
mod way;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use tokio::sync::watch;

pub use self::way::ReceiveBy;
use self::{
    bound::{Bound, Verdict},
    feed::{Feed, Line, View},
    reach::last_before,
    site::{Next, Site},
    stream::Course,
    way::Way,
};
use super::{OpenLogSite, refused};
use crate::{
    clock::SharedClock,
    operations::OperationError,
    report::bytes,
    sources::{
        SourceError,
        postgres::{
            PostgresConfig,
            physical::{Follower, Held, Layout, Lineage, Lsn, Segment, Slot, Stand},
        },
    },
};

/// A server that is away is tried again after this, and then after ever longer.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How often a slot that does not move is touched: a server may drop one that is idle for long (`idle_replication_slot_timeout`, from 18 on).
const TOUCH_EVERY: Duration = Duration::from_secs(30);
/// Looks at the server that are remembered while the stream is behind them.
const MOST_LOOKS: usize = 64;
/// How long what is there may take to be stored when this is to end.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// What receiving needs.
pub struct ReceiveRequest {
    /// Name of the source, for errors.
    pub source: String,
    /// How to reach the server.
    pub config: PostgresConfig,
    /// Name of the slot.
    pub slot: String,
    /// By which way new bytes come.
    pub by: ReceiveBy,
    /// The slot may hold so many bytes.
    pub hold_bytes: u64,
    /// Where everything goes; at least one.
    pub sites: Vec<Arc<dyn OpenLogSite>>,
    /// How often the server is asked how far it is.
    pub interval: Duration,
    /// How often a part of the segment in progress is stored, if there is anything new.
    pub part_interval: Duration,
    /// Becomes true when this is to end.
    pub stop: watch::Receiver<bool>,
    /// The time.
    pub clock: SharedClock,
}

/// Receives the log until it is told to stop.
///
/// # Errors
/// [`OperationError::Source`] where the server cannot be followed for a reason that does not pass by itself, when the slot would hold too
/// much, and when it was lost. Whatever passes is told, and tried again.
pub async fn receive(request: ReceiveRequest) -> Result<(), OperationError> {
    let feed = Arc::new(Feed::new());
    let confirmed: Vec<watch::Sender<Option<Next>>> = request.sites.iter().map(|_| watch::Sender::new(None)).collect();
    let sites = request
        .sites
        .iter()
        .zip(&confirmed)
        .map(|(site, next)| Site::new(Arc::clone(site), &feed, request.part_interval, request.clock.clone(), next).run());
    // Owned, so that the wait below takes them along: one that is not polled any more must not hold what is wanted after it.
    let mut sites = Box::pin(join_all(sites));
    let mut server = Watched {
        request: &request,
        feed: &feed,
        confirmed: &confirmed,
        known: None,
        first: None,
        looks: VecDeque::new(),
        touched: Duration::ZERO,
        moved: None,
        bound: Bound::new(request.hold_bytes),
        way: Way::new(request.by),
    };
    tokio::select! {
        ended = server.watch() => ended.map_err(|error| OperationError::Source { name: request.source.clone(), error })?,
        _ = &mut sites => return Err(refused(&request.source, "a defect: nobody takes the log any more")),
    }
    if feed.view.borrow().is_none() {
        return Ok(());
    }
    match tokio::time::timeout(STOP_PATIENCE, sites).await {
        Ok(ends) if ends.iter().all(|has_all| *has_all) => tracing::info!("stopped; the sites have all that the server had"),
        _ => tracing::warn!("stopped before every site had everything; the slot holds the rest at the server"),
    }
    // Where it cannot be moved now, the next run finds that everything is there.
    server.way.finish().await;
    let line = feed.line.lock().await;
    if let (Some(follower), Some(to)) = (&line.follower, server.confirmed_to()) {
        let _ = follower.advance(to).await;
    }
    Ok(())
}

/// Names and bytes of the histories of timelines.
type Histories = Arc<Vec<(String, Bytes)>>;

/// What went wrong at the server.
enum Trouble {
    /// It may pass by itself.
    Passes(SourceError),
    /// This ends.
    Ends(SourceError),
}

impl From<SourceError> for Trouble {
    fn from(error: SourceError) -> Self {
        Self::Passes(error)
    }
}

/// The server, as far as it is known.
struct Watched<'a> {
    request: &'a ReceiveRequest,
    feed: &'a Arc<Feed>,
    /// Of each site the first segment that it does not have.
    confirmed: &'a [watch::Sender<Option<Next>>],
    /// Its log, and what it came out of.
    known: Option<(Layout, Arc<Lineage>, Histories)>,
    /// The first segment to begin with, and the first that the slot holds. Nothing until that is known of this connection.
    first: Option<(u64, u64)>,
    /// When the server was asked, and how far its log was then. Of those that the stream has passed only the last.
    looks: VecDeque<(DateTime<Utc>, Lsn)>,
    /// When the slot was moved or touched last.
    touched: Duration,
    /// As far as it was moved.
    moved: Option<Lsn>,
    /// How much it may hold.
    bound: Bound,
    /// By which way new bytes come.
    way: Way,
}

impl Watched<'_> {
    /// Follows the server until this is to end; then the last view is published.
    async fn watch(&mut self) -> Result<(), SourceError> {
        let mut stop = self.request.stop.clone();
        let (mut pause, mut complaint) = (FIRST_PAUSE, None);
        loop {
            let is_last = *stop.borrow();
            let wait = match self.look(is_last).await {
                Ok(()) => {
                    if complaint.take().is_some() {
                        tracing::info!("the server is there again; the log goes on where it stopped");
                    }
                    pause = FIRST_PAUSE;
                    self.request.interval
                }
                Err(Trouble::Ends(error)) => return Err(error),
                // What is wrong from the beginning an operator has to mend.
                Err(Trouble::Passes(error))
                    if self.feed.view.borrow().is_none() && !matches!(error, SourceError::Unreachable { .. }) =>
                {
                    return Err(error);
                }
                Err(Trouble::Passes(error)) => {
                    self.feed.line.lock().await.follower = None;
                    self.cut();
                    let message = error.to_string();
                    if complaint.as_ref() != Some(&message) {
                        tracing::warn!("the log cannot be followed now, and is tried again: {message}");
                        complaint = Some(message);
                    }
                    if is_last {
                        self.feed.view.send_modify(|view| view.iter_mut().for_each(|view| view.is_last = true));
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    pause
                }
            };
            if is_last {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.way.ended() => {}
                // Whoever would say it is gone: it is to end, too.
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
    }

    /// One look at the server.
    async fn look(&mut self, is_last: bool) -> Result<(), Trouble> {
        let feed = self.feed;
        let mut line = feed.line.lock().await;
        if line.follower.is_none() {
            self.cut();
            self.bound.reconnected();
            line.forget();
            let follower = Follower::connect(&self.request.config, self.request.slot.clone()).await?;
            self.same_cluster(&follower)?;
            self.way.check(&follower, &self.request.config).await?;
            line.follower = Some(follower);
        }
        let Line { follower: Some(follower), .. } = &*line else { unreachable!("it was made above") };
        let asked_at = self.request.clock.now();
        let stand = follower.stand().await?;
        self.lineage(follower, stand).await?;
        let (from, is_awaited) = self.slot(follower, stand).await?;
        if is_awaited && !feed.view.borrow().as_ref().is_some_and(|view| view.is_awaited) {
            tracing::info!("the server has commits wait until every site has them (synchronous_standby_names)");
        }
        let (Some((layout, lineage, histories)), Some((first, held))) = (&self.known, self.first) else {
            unreachable!("both were made above")
        };
        let (layout, lineage, histories) = (*layout, Arc::clone(lineage), Arc::clone(histories));
        let segment = self.goes_on(layout, &lineage, first);
        let course = Course { layout, lineage: Arc::clone(&lineage), first: segment, held: from };
        let confirmed = self.confirmed.iter().map(watch::Sender::subscribe).collect();
        self.way.see_to(follower, &self.request.config, (feed, confirmed, &self.request.clock), course).await?;
        // At the end the sites get what the server has, whatever of it has come by then.
        let streamed = if self.way.is_streaming() && !is_last { feed.kept().end_on(lineage.timeline()) } else { None };
        let end = streamed.unwrap_or(stand.end);
        // What a standby has says nothing of when it was committed.
        if !stand.is_standby {
            self.looks.push_back((asked_at, stand.end));
        }
        forget_passed(&mut self.looks, end);
        let looks = self.looks.iter().copied().collect();
        feed.view.send_replace(Some(View { layout, end, looks, lineage, histories, first, held, is_awaited, is_last }));
        Ok(())
    }

    /// There is no connection any more.
    fn cut(&mut self) {
        self.first = None;
        self.looks.clear();
        self.way.cut();
        self.feed.kept().forget();
    }

    /// The segment that a stream begins with now: behind what was streamed before, or what the site needs that is furthest. The others read what
    /// they need until they are there.
    fn goes_on(&self, layout: Layout, lineage: &Lineage, first: u64) -> Segment {
        let needed = |timeline, number: u64| lineage.differs_from(layout, timeline).map_or(number, |differs| number.min(differs));
        let sites = self.confirmed.iter().filter_map(|next| *next.borrow()).map(|next| needed(next.timeline, next.number));
        let kept = self.feed.kept();
        let streamed = kept.timeline().zip(kept.end()).map(|(timeline, end)| needed(timeline, layout.segment_of(end)));
        lineage.segment(layout, sites.chain(streamed).max().unwrap_or(first).max(first))
    }

    fn same_cluster(&self, follower: &Follower) -> Result<(), SourceError> {
        match &self.known {
            Some((layout, ..)) if *layout != follower.layout() => Err(SourceError::Unfit {
                subject: follower.describe().to_owned(),
                detail: format!(
                    "it is the cluster {} now, and was {}: see where the policy's url leads; if that is meant, start this anew",
                    follower.layout().system,
                    layout.system
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Learns which timelines there are, if there is another one than was known.
    async fn lineage(&mut self, follower: &Follower, stand: Stand) -> Result<(), SourceError> {
        if self.known.as_ref().is_some_and(|(_, lineage, _)| lineage.timeline() == stand.timeline) {
            return Ok(());
        }
        let histories = follower.histories(&follower.files().await?).await?;
        let own = format!("{:08X}.history", stand.timeline);
        let history = histories.iter().find(|(name, _)| *name == own).map(|(_, bytes)| bytes.as_slice());
        let lineage = Lineage::parse(stand.timeline, history).ok_or_else(|| SourceError::Unfit {
            subject: format!("pg_wal/{own}"),
            detail: "is no history of timelines; see the server's log".to_owned(),
        })?;
        if let Some((_, before, _)) = &self.known {
            tracing::info!(
                from = before.timeline(),
                to = stand.timeline,
                "the server is on another timeline, and the log goes on there"
            );
        }
        // What was read of the same segments may be another timeline's only by name: names differ.
        let histories = histories.into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
        self.known = Some((follower.layout(), Arc::new(lineage), Arc::new(histories)));
        Ok(())
    }

    /// Sees to the slot: that it is there, holds what is needed, and not more than it may. Returns from where on it holds the log, and whether
    /// commits wait for the sites.
    async fn slot(&mut self, follower: &Follower, stand: Stand) -> Result<(Lsn, bool), Trouble> {
        let (Slot { mut held, is_awaited, .. }, mut is_new) = (follower.slot().await?, false);
        if held == Held::Nothing {
            if self.first.is_some() || self.moved.is_some() {
                tracing::warn!(
                    slot = self.request.slot,
                    "the slot is not there: this is another server, or somebody dropped it; it is made"
                );
            }
            // One that holds nothing is of no use.
            follower.drop_slot().await?;
            follower.hold().await?;
            (held, is_new) = (follower.slot().await?.held, true);
        }
        let from = match held {
            Held::From(from) => from,
            Held::Nothing | Held::Lost => {
                follower.drop_slot().await?;
                return Err(self.ended(follower, "the server has given up the slot (max_slot_wal_keep_size, or idle_replication_slot_timeout), and removed log that not every site has", stand).await);
            }
        };
        if self.first.is_none() || is_new {
            self.first = Some(self.begin(follower, from, is_new).await?);
        }
        let now = self.request.clock.monotonic();
        let to = self.confirmed_to().filter(|to| *to > from);
        let needed = to.unwrap_or(from);
        // What the server keeps for itself is not held by us.
        let held_bytes = if needed < stand.redo { stand.end.0.saturating_sub(needed.0) } else { 0 };
        match self.bound.judge(held_bytes, needed, now) {
            Verdict::Keep => {}
            Verdict::CatchUp => tracing::warn!(
                slot = self.request.slot,
                "the slot holds {} of log at the server, more than `hold` ({}) allows: nobody received it. It is caught up with now; should the sites not keep up, the slot is dropped. If the server's disk cannot wait, stop this, and there: SELECT pg_drop_replication_slot('{}')",
                bytes(held_bytes),
                bytes(self.request.hold_bytes),
                self.request.slot
            ),
            Verdict::Drop(why) => {
                self.way.cut();
                follower.drop_slot().await?;
                let detail = format!("{why}, and was dropped, so that the server's disk does not fill");
                return Err(self.ended(follower, &detail, stand).await);
            }
        }
        if to.is_some() && to != self.moved || now.saturating_sub(self.touched) >= TOUCH_EVERY {
            // While the log is streamed, the server is told there, and this changes nothing.
            follower.advance(needed).await?;
            (self.moved, self.touched) = (Some(needed), now);
        }
        if self.way.is_streaming() {
            self.moved = Some(needed);
        }
        Ok((from, is_awaited))
    }

    /// Where to begin: at what the slot holds; with a slot that is new, at the oldest segment from which the log is there without a hole.
    async fn begin(&self, follower: &Follower, from: Lsn, is_new: bool) -> Result<(u64, u64), SourceError> {
        let Some((layout, lineage, _)) = &self.known else { unreachable!("the server was looked at before") };
        let held = layout.segment_of(from);
        let mut first = held;
        if is_new {
            let files = follower.files().await?;
            let is_there = |number: u64| files.contains(&layout.name(lineage.segment(*layout, number)));
            while first > 0 && is_there(first - 1) {
                first -= 1;
            }
        }
        if self.confirmed.iter().all(|next| next.borrow().is_none()) {
            let name = layout.name(lineage.segment(*layout, first));
            tracing::info!(slot = self.request.slot, "follows {} from {name} on", follower.describe());
        }
        Ok((first, held))
    }

    /// As far as every site has all segments.
    fn confirmed_to(&self) -> Option<Lsn> {
        let (layout, lineage, _) = self.known.as_ref()?;
        // A site that goes by another timeline may have to go back.
        let next = |next: &watch::Sender<Option<Next>>| (*next.borrow()).filter(|next| next.timeline == lineage.timeline());
        let nexts: Option<Vec<u64>> = self.confirmed.iter().map(|site| next(site).map(|next| next.number)).collect();
        nexts?.into_iter().min().map(|next| Lsn(next * layout.segment_bytes))
    }

    /// The error that says from where on the archive has a gap.
    async fn ended(&self, follower: &Follower, what: &str, stand: Stand) -> Trouble {
        let last = self.name(follower.layout().segment_of(stand.end));
        let sites = self.request.sites.iter().zip(self.confirmed).map(|(site, next)| async move {
            let next = *next.borrow();
            match next {
                Some(next) => format!("site {} has all before {}", site.name(), self.name(next.number)),
                None => self.archived_at(site.as_ref(), stand).await,
            }
        });
        Trouble::Ends(SourceError::Unfit {
            subject: follower.describe().to_owned(),
            detail: format!(
                "{what}: {}; the server is in {last}, so that the archive has a gap in between. See why the site did not take the log, make a backup now (`farshore backup`), which begins behind the gap, and start this again",
                join_all(sites).await.join(", ")
            ),
        })
    }

    /// What a site has that this run has sent nothing to, in words.
    async fn archived_at(&self, site: &dyn OpenLogSite, stand: Stand) -> String {
        let Some((layout, lineage, _)) = &self.known else { unreachable!("the server was looked at before") };
        let last = async {
            let writer = site.open().await?;
            last_before(writer.repository(), *layout, lineage, layout.segment_of(stand.end)).await
        };
        let name = site.name();
        match tokio::time::timeout(STOP_PATIENCE, last).await {
            Ok(Ok(Some(last))) => format!("site {name} has the log to {}", layout.name(last)),
            Ok(Ok(None)) => format!("site {name} has nothing of this log"),
            Ok(Err(error)) => format!("site {name} cannot be asked what it has ({error})"),
            Err(_) => format!("site {name} does not answer what it has"),
        }
    }

    fn name(&self, number: u64) -> String {
        self.known.as_ref().map_or_else(String::new, |(layout, lineage, _)| layout.name(lineage.segment(*layout, number)))
    }
}

/// Of the looks that the log has passed only the last is wanted.
fn forget_passed(looks: &mut VecDeque<(DateTime<Utc>, Lsn)>, end: Lsn) {
    while looks.get(1).is_some_and(|(_, at)| *at <= end) {
        looks.pop_front();
    }
    // A stream that does not come along passes none of them: one a second, of which the oldest will do.
    looks.truncate(MOST_LOOKS);
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use chrono::{DateTime, TimeDelta};

    use super::{Lsn, MOST_LOOKS, feed::known_at, forget_passed};

    #[test]
    fn a_moment_is_known_only_of_a_log_that_has_all_from_before_it() {
        let at = |second: i64| DateTime::UNIX_EPOCH + TimeDelta::seconds(second);
        let mut looks = VecDeque::from([(at(1), Lsn(10)), (at(2), Lsn(20)), (at(3), Lsn(30))]);
        let known = |looks: &mut VecDeque<_>, end| {
            forget_passed(looks, end);
            known_at(looks.make_contiguous(), end)
        };
        assert_eq!(known(&mut looks, Lsn(9)), None);
        assert_eq!(known(&mut looks, Lsn(10)), Some(at(1)));
        assert_eq!(known(&mut looks, Lsn(25)), Some(at(2)));
        assert_eq!(looks.len(), 2, "what is passed is forgotten");
        assert_eq!(known_at(looks.make_contiguous(), Lsn(30)), Some(at(3)), "the stream has come along meanwhile");
        looks.extend((4..2 * MOST_LOOKS as i64).map(|second| (at(second), Lsn(99))));
        assert_eq!(known(&mut looks, Lsn(30)), Some(at(3)));
        assert_eq!(looks.len(), MOST_LOOKS);
        assert_eq!(known(&mut looks, Lsn(99)), Some(at(MOST_LOOKS as i64 + 2)));
    }
}
