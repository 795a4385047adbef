//! What a verification found.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{ExitCode, Look, Problem, bytes, count, counted, printable, problem::problem_lines, seconds};

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// The site, as an operator would write it down.
    pub site: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// How long it took.
    pub seconds: f64,
    /// How much of the packs was read and authenticated, in percent; 0 if only their presence and size were checked.
    pub read_data_percent: f64,
    /// Which part of the packs was read, where it was one of several equal ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<ReadPart>,
    /// Recovery points whose entries were followed to their chunks.
    pub points_checked: u64,
    /// Index objects read.
    pub indexes_checked: u64,
    /// Packs that are there with the right size.
    pub packs_checked: u64,
    /// Packs read in full.
    pub packs_read: u64,
    /// Packs of them that an earlier attempt, which was interrupted, had read.
    #[serde(default)]
    pub packs_resumed: u64,
    /// Points of which a prune moved something that was still to be read: nothing is damaged, and they count as verified another time.
    #[serde(default)]
    pub points_moved: u64,
    /// Bytes of packs read.
    pub bytes_read: u64,
    /// Files of clusters' logs read in full.
    #[serde(default)]
    pub log_files_read: u64,
    /// Chunks opened and held against their ids.
    pub chunks_checked: u64,
    /// Packs that no point needs: left by a crash, by points that are gone, or by damage that was mended. No damage: prune removes
    /// them.
    pub packs_unreferenced: u64,
    /// Bytes of them.
    #[serde(default)]
    pub bytes_unreferenced: u64,
    /// Data keys that no pack needs; the same.
    #[serde(default)]
    pub keys_unreferenced: u64,
    /// Packs that the site stored later than a point that needs them (somebody put them there again), and whose checksum, as
    /// the site keeps it, was compared.
    #[serde(default)]
    pub checksums_compared: u64,
    /// The same for packs of which the site keeps no checksum: only reading them tells.
    #[serde(default)]
    pub checksums_unknown: u64,
    /// What is damaged or missing.
    pub damage: Vec<Damage>,
    /// Objects that are damaged or missing and that no point needs any more: the same bytes were stored anew.
    #[serde(default)]
    pub mended: Vec<Damage>,
    /// Records (evidence, pins, marks) that an earlier verification found damaged or missing, and that no restore needs.
    #[serde(default)]
    pub known: Vec<Damage>,
    /// What is odd and harms nothing yet.
    pub problems: Vec<Problem>,
}

/// One of several equal parts of all packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadPart {
    /// Which, from 1.
    pub number: u32,
    /// Of how many.
    pub of: u32,
}

/// Something in a repository that is damaged or missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// The object's key in the repository.
    pub object: String,
    /// What is wrong with it.
    pub detail: String,
    /// The recovery points that need it, as far as is known.
    pub points: Vec<String>,
}

impl VerifyReport {
    /// [`ExitCode::Damaged`], [`ExitCode::Problems`] or [`ExitCode::Success`].
    pub fn exit_code(&self) -> ExitCode {
        if !self.damage.is_empty() {
            ExitCode::Damaged
        } else if self.problems.is_empty() {
            ExitCode::Success
        } else {
            ExitCode::Problems
        }
    }

    /// As people read it.
    pub fn text(&self, look: Look) -> String {
        let mut text = String::new();
        let (mark, verdict) = match self.damage.len() {
            0 => (look.ok(), "no damage found".to_owned()),
            1 => (look.failed(), "1 damaged or missing object".to_owned()),
            many => (look.failed(), format!("{many} damaged or missing objects")),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{mark} {}: {verdict}", printable(&self.site));
        let _ = writeln!(
            text,
            "  {}, {}, {} there; {} read ({}), {} opened",
            counted(self.points_checked, "point"),
            counted(self.indexes_checked, "index"),
            counted(self.packs_checked, "pack"),
            counted(self.packs_read, "pack"),
            bytes(self.bytes_read),
            counted(self.chunks_checked, "chunk"),
        );
        if self.log_files_read > 0 {
            let _ = writeln!(text, "  {} of the log read", counted(self.log_files_read, "file"));
        }
        let read = if let Some(ReadPart { number, of }) = self.part {
            format!("part {number} of {of} of the data was read")
        } else if self.read_data_percent > 0.0 {
            format!("{}% of the data was read", self.read_data_percent)
        } else {
            "the data itself was not read; --read-data does that".to_owned()
        };
        let _ = writeln!(text, "  took {}; {read}", seconds(self.seconds));
        if self.packs_resumed > 0 {
            let _ = writeln!(text, "  {} had been read before it was interrupted", counted(self.packs_resumed, "pack"));
        }
        if self.points_moved > 0 {
            let points = count(self.points_moved);
            let _ = writeln!(
                text,
                "  of {points} points a prune moved something before it was read: they count as verified another time"
            );
        }
        if self.packs_unreferenced + self.keys_unreferenced > 0 {
            let (packs, keys) = (counted(self.packs_unreferenced, "pack"), counted(self.keys_unreferenced, "data key"));
            let left = bytes(self.bytes_unreferenced);
            let _ = writeln!(text, "  left over, and no damage: {packs} ({left}) and {keys} that nothing needs");
        }
        if self.checksums_unknown > 0 {
            let packs = count(self.checksums_unknown);
            let _ = writeln!(
                text,
                "  {packs} packs were stored again after a point that needs them, and the site keeps no checksum: --read-data reads them"
            );
        }
        for mended in &self.mended {
            let _ = writeln!(
                text,
                "  mended: {}: {}; no point needs it any more",
                printable(&mended.object),
                printable(&mended.detail)
            );
        }
        for known in &self.known {
            let _ = writeln!(
                text,
                "  known from earlier: {}: {}; no restore needs it",
                printable(&known.object),
                printable(&known.detail)
            );
        }
        for damage in &self.damage {
            let _ = writeln!(text, "\n  {} {}: {}", look.failed(), printable(&damage.object), printable(&damage.detail));
            if !damage.points.is_empty() {
                let _ = writeln!(text, "    needed by {}", printable(&damage.points.join(", ")));
            }
        }
        if !self.damage.is_empty() {
            text.push_str("\nNext: see \"Damage in the repository\" in docs/runbook.md. Delete nothing.\n");
        }
        text.push_str(&problem_lines(&self.problems));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{Damage, DateTime, ExitCode, Look, VerifyReport};

    fn report() -> VerifyReport {
        VerifyReport {
            site: "/far".into(),
            started_at: DateTime::from_timestamp(1_795_400_000, 0).unwrap(),
            seconds: 3.0,
            read_data_percent: 0.0,
            part: None,
            packs_resumed: 0,
            points_moved: 0,
            bytes_unreferenced: 0,
            keys_unreferenced: 0,
            checksums_compared: 0,
            checksums_unknown: 0,
            mended: vec![],
            known: vec![],
            points_checked: 30,
            indexes_checked: 31,
            packs_checked: 1200,
            packs_read: 0,
            bytes_read: 0,
            log_files_read: 0,
            chunks_checked: 0,
            packs_unreferenced: 2,
            damage: vec![],
            problems: vec![],
        }
    }

    #[test]
    fn a_verification_that_did_not_read_the_data_says_so() {
        assert_eq!(
            report().text(Look::Unicode),
            "✓ /far: no damage found\n  30 points, 31 indexes, 1,200 packs there; 0 packs read (0 B), 0 chunks opened\n  \
             took 3.0 s; the data itself was not read; --read-data does that\n  \
             left over, and no damage: 2 packs (0 B) and 0 data keys that nothing needs\n"
        );
        assert_eq!(report().exit_code(), ExitCode::Success);
    }

    #[test]
    fn damage_is_named_with_the_points_that_need_it() {
        let mut report = report();
        report.read_data_percent = 2.5;
        report.damage.push(Damage {
            object: "packs/ab/abc".into(),
            detail: "its SHA-256 is not its name".into(),
            points: vec!["p1".into(), "p2".into()],
        });
        let text = report.text(Look::Ascii);
        assert!(text.starts_with("FAILED /far: 1 damaged or missing object\n"), "{text}");
        assert!(text.contains("2.5% of the data was read"), "{text}");
        assert!(text.contains("\n  FAILED packs/ab/abc: its SHA-256 is not its name\n    needed by p1, p2\n"), "{text}");
        assert_eq!(report.exit_code(), ExitCode::Damaged);
    }
}
