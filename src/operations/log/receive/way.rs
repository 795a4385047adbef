//! By which way new bytes come: streamed, or read over the ordinary session; and when that changes.

use std::{sync::Arc, time::Duration};

use super::{
    Trouble,
    feed::Feed,
    stream::{Confirmed, Course, End, Streaming, Why},
};
use crate::{
    clock::SharedClock,
    sources::{
        SourceError,
        postgres::{
            PostgresConfig,
            physical::{Follower, Lsn, replication::Unstreamed},
        },
    },
};

/// A stream that came to nothing, for a reason that may pass, is tried again after this, and then after ever longer: each try is a line in the
/// server's log.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The server knows of its next timeline a moment after the stream of the one before has ended.
const TIMELINE_PAUSE: Duration = Duration::from_secs(1);

/// By which way the log is received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReceiveBy {
    /// Streamed, and over SQL where the server does not let that through.
    #[default]
    Auto,
    /// Streamed; where that cannot be, it fails.
    Stream,
    /// Over SQL.
    Sql,
}

/// What decides it.
pub(super) struct Way {
    by: ReceiveBy,
    running: Option<Streaming>,
    /// Not let through: not tried again in this session.
    is_refused: bool,
    not_before: Duration,
    pause: Duration,
    complaint: Option<String>,
    /// Whether it was said that it streams.
    is_told: bool,
}

impl Way {
    pub(super) fn new(by: ReceiveBy) -> Self {
        Self {
            by,
            running: None,
            is_refused: false,
            not_before: Duration::ZERO,
            pause: FIRST_PAUSE,
            complaint: None,
            is_told: false,
        }
    }

    /// Looks whether the log can be streamed where it must be, before a slot is made that nobody would move.
    pub(super) async fn check(&self, follower: &Follower, config: &PostgresConfig) -> Result<(), SourceError> {
        if self.by == ReceiveBy::Stream {
            follower.lets_stream(config).await?;
        }
        Ok(())
    }

    /// There is no session with the server any more.
    pub(super) fn cut(&mut self) {
        self.running = None;
        self.is_refused = false;
    }

    pub(super) fn is_streaming(&self) -> bool {
        self.running.is_some()
    }

    /// Comes back when the stream has ended; never while there is none.
    pub(super) async fn ended(&mut self) {
        match &mut self.running {
            Some(running) => running.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Ends the stream when everything is stored.
    pub(super) async fn finish(&mut self) {
        if let Some(running) = self.running.take() {
            running.finish().await;
        }
    }

    /// Sees to it that the log is streamed, where it is to be and can be.
    pub(super) async fn see_to(
        &mut self,
        follower: &Follower,
        config: &PostgresConfig,
        (feed, confirmed, clock): (&Arc<Feed>, Confirmed, &SharedClock),
        course: Course,
    ) -> Result<(), Trouble> {
        let now = clock.monotonic();
        if let Some(end) = self.running.as_mut().and_then(Streaming::end) {
            let left = self.running.take().map(|running| running.timeline);
            if end.has_brought {
                self.pause = FIRST_PAUSE;
            }
            match end {
                // Whatever it was, the session may be gone with it.
                End { why: Why::Broken(error), has_brought: true } => return Err(Trouble::Passes(error)),
                End { why: Why::Broken(error), has_brought: false } => return self.put_off(error, now),
                End { why: Why::Timeline | Why::Told, .. } if left == Some(course.first.timeline) => {
                    self.not_before = now + TIMELINE_PAUSE;
                }
                End { why: Why::Timeline | Why::Told, .. } => {}
            }
        }
        if self.by == ReceiveBy::Sql || self.running.is_some() || self.is_refused || now < self.not_before {
            return Ok(());
        }
        let from = Lsn(course.first.number * course.layout.segment_bytes);
        match follower.stream(config, from, course.first.timeline).await {
            Ok(Some(replication)) => {
                if self.complaint.take().is_some() || !std::mem::replace(&mut self.is_told, true) {
                    tracing::info!("the server streams its log");
                }
                self.running = Some(Streaming::start(replication, course, feed, confirmed, clock.clone()));
                Ok(())
            }
            Ok(None) => {
                self.not_before = now + TIMELINE_PAUSE;
                Ok(())
            }
            Err(Unstreamed::Refused(error)) => {
                self.is_refused = true;
                self.complain(error, "it is read over SQL instead. Mend that and start this anew, or have receive_by = \"sql\" in the policy's `wal`")
            }
            Err(Unstreamed::Broken(error)) => self.put_off(error, now),
        }
    }

    fn put_off(&mut self, error: SourceError, now: Duration) -> Result<(), Trouble> {
        self.not_before = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.complain(error, "it is read over SQL until it can be")
    }

    /// Says once why the log is not streamed.
    fn complain(&mut self, error: SourceError, instead: &str) -> Result<(), Trouble> {
        if self.by == ReceiveBy::Stream {
            return Err(Trouble::Passes(error));
        }
        let message = error.to_string();
        if self.complaint.as_ref() != Some(&message) {
            tracing::warn!("the log is not streamed, and {instead}: {message}");
            self.complaint = Some(message);
        }
        Ok(())
    }
}
