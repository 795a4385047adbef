//! What a repair found and did.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Damage, ExitCode, Look, bytes, count, printable, seconds};

/// Something in a recovery point that cannot be restored from this site as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hurt {
    /// Id of the point.
    pub point: String,
    /// Its policy.
    pub policy: String,
    /// Name of the source; none if the point itself cannot be read.
    pub source: Option<String>,
    /// The entry; none if the list of entries breaks off: what comes after the last one that could be read is unknown.
    pub path: Option<String>,
    /// Plain bytes of the entry's chunks that no sound pack holds.
    pub bytes: u64,
    /// What is wrong.
    pub detail: String,
}

impl Hurt {
    /// As people read it: one line.
    pub fn text(&self) -> String {
        let source = self.source.as_deref().unwrap_or("(the whole point)");
        let path = self.path.as_deref().map_or_else(String::new, |path| format!("/{path}"));
        format!("hurt: {}:{}{}: {}", self.point, printable(source), printable(&path), printable(&self.detail))
    }
}

/// How much of a source is hurt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HurtSource {
    /// Its name.
    pub source: String,
    /// Entries that were looked at.
    pub entries: u64,
    /// Those of them that are hurt.
    pub hurt: u64,
    /// Whether the list of entries could be read to its end.
    pub complete: bool,
}

/// A point that is hurt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HurtPoint {
    /// Its id.
    pub point: String,
    /// Its policy.
    pub policy: String,
    /// Those of its sources that are hurt; empty if the point itself cannot be read.
    pub sources: Vec<HurtSource>,
}

/// What a repair found and did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RepairReport {
    /// The site, as an operator would write it down.
    pub site: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// How long it took.
    pub seconds: f64,
    /// Nothing was written.
    pub dry_run: bool,
    /// Packs that no usable index named and whose own directory is sound.
    pub packs_found: u64,
    /// Their chunks.
    pub chunks_found: u64,
    /// Keys of the indexes that name them now.
    pub indexes_written: Vec<String>,
    /// Damaged objects that other objects took the place of: left for prune.
    pub replaced: Vec<Damage>,
    /// Packs that are damaged or missing, with what is wrong.
    pub damaged: Vec<Damage>,
    /// Points that can be restored in full.
    pub points_whole: u64,
    /// The others.
    pub points_hurt: Vec<HurtPoint>,
}

impl RepairReport {
    /// [`ExitCode::Damaged`] if anything is still hurt, else [`ExitCode::Success`].
    pub fn exit_code(&self) -> ExitCode {
        if self.points_hurt.is_empty() { ExitCode::Success } else { ExitCode::Damaged }
    }

    /// As people read it.
    pub fn text(&self, look: Look) -> String {
        let mut text = String::new();
        let whole = self.points_hurt.is_empty();
        let mark = if whole { look.ok() } else { look.failed() };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{mark} {}: {} points can be restored in full, {} are hurt",
            printable(&self.site),
            count(self.points_whole),
            count(self.points_hurt.len() as u64)
        );
        if self.packs_found > 0 {
            let done = if self.dry_run { "would become known again (nothing was written)" } else { "are known again" };
            let _ = writeln!(
                text,
                "  {} packs with {} chunks that no index named {done}",
                count(self.packs_found),
                count(self.chunks_found)
            );
        }
        for damage in &self.replaced {
            let _ = writeln!(text, "  {}: {}; not needed any more", printable(&damage.object), printable(&damage.detail));
        }
        for damage in &self.damaged {
            let _ = writeln!(text, "  {} {}: {}", look.failed(), printable(&damage.object), printable(&damage.detail));
        }
        for point in &self.points_hurt {
            let _ = writeln!(text, "  point {} of {}:", point.point, printable(&point.policy));
            if point.sources.is_empty() {
                let _ = writeln!(text, "    cannot be read; nothing of it can be restored");
            }
            for HurtSource { source, entries, hurt, complete } in &point.sources {
                let source = printable(source);
                let _ = if *complete {
                    writeln!(
                        text,
                        "    {source}: {} of {} entries are hurt, all others can be restored",
                        count(*hurt),
                        count(*entries)
                    )
                } else {
                    writeln!(
                        text,
                        "    {source}: its list of entries is damaged after {} entries ({} hurt)",
                        count(*entries),
                        count(*hurt)
                    )
                };
            }
        }
        let _ = writeln!(text, "  took {}", seconds(self.seconds));
        if !whole {
            text.push_str(
                "\nNext: back up. What the sources still have is stored anew, which mends these points; then repair again. Sources that are\nnot named are whole in each point, and parts of the others are restored with --path. Delete nothing.\n",
            );
        }
        text
    }
}

/// `bytes` of an entry that are hurt, in words.
pub(crate) fn hurt_words(hurt: u64, chunks: u64) -> String {
    format!("{} in {} chunks lie in no sound pack", bytes(hurt), count(chunks))
}
