//! What one machine captured of a recovery point that several make.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{ExitCode, Look, SourceReport, bytes, counted, printable, problem::problem_lines, seconds};

/// What one machine captured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardReport {
    /// The policy's name.
    pub policy: String,
    /// The site, as an operator would write it down.
    pub site: String,
    /// The plan that all shards have in common.
    pub plan: String,
    /// Which shard, from 0.
    pub shard: u32,
    /// Of how many.
    pub shards: u32,
    /// T of the point that is to come.
    pub consistent_at: DateTime<Utc>,
    /// It had been captured before, and nothing was done.
    pub was_there: bool,
    /// What was captured of each source that is shared.
    pub sources: Vec<SourceReport>,
    /// Bytes sent to the site.
    pub bytes_stored: u64,
    /// Packs sent to the site.
    pub packs_written: u64,
    /// How long it took.
    pub seconds: f64,
}

impl ShardReport {
    /// [`ExitCode::Problems`] or [`ExitCode::Success`].
    pub fn exit_code(&self) -> ExitCode {
        if self.sources.iter().all(|source| source.problems.is_empty()) { ExitCode::Success } else { ExitCode::Problems }
    }

    /// As people read it.
    pub fn text(&self, look: Look) -> String {
        let mark = if self.exit_code() == ExitCode::Success { look.ok() } else { look.failed() };
        let mut text = String::new();
        let did = if self.was_there {
            "was captured before: nothing to do"
        } else {
            "is captured; there is no point before all shards are, and committed"
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{mark} {}: shard {} of {} (plan {}) {did} ({})",
            printable(&self.policy),
            self.shard,
            self.shards,
            self.plan,
            seconds(self.seconds)
        );
        for source in &self.sources {
            let _ = writeln!(
                text,
                "  {}: {}, {} of them unchanged, {} read",
                printable(&source.name),
                counted(source.items, "object"),
                source.items_unchanged,
                bytes(source.bytes_read)
            );
            text.push_str(&problem_lines(&source.problems));
        }
        let _ = writeln!(
            text,
            "  {} stored in {} at {}",
            bytes(self.bytes_stored),
            counted(self.packs_written, "pack"),
            printable(&self.site)
        );
        text
    }
}
