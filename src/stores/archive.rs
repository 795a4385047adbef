//! Archive tiers: where an object must be asked for, and hours pass, before it can be read.
//!
//! How long that takes is what the providers' documents say: S3's "Archive retrieval options" and Microsoft's "Blob rehydration from the
//! archive tier". They call it typical, and promise nothing.

use std::time::Duration;

const MINUTES: u64 = 60;
const HOURS: u64 = 60 * MINUTES;

/// What an object lies in, as far as it decides how long it takes to bring it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archive {
    /// S3 Glacier Flexible Retrieval, or the Archive Access tier of Intelligent-Tiering.
    Flexible,
    /// S3 Glacier Deep Archive, or the Deep Archive Access tier of Intelligent-Tiering.
    Deep,
    /// The archive tier of Azure.
    Azure,
}

/// How an object is brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retrieval {
    /// How soon.
    pub priority: RetrievalPriority,
    /// For so many days a copy of it can be read (S3; elsewhere it is moved, and stays).
    pub days: u16,
}

impl Retrieval {
    /// Days for which a copy is kept where nobody says how many: a restore that broke off has time to go on.
    pub const DEFAULT_DAYS: u16 = 3;
}

/// How soon, and for how much money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetrievalPriority {
    /// As cheap as can be: "Bulk" on S3, as standard elsewhere.
    Bulk,
    /// What the provider does where nothing is said.
    Standard,
    /// As soon as can be: "Expedited" on S3 (as standard from the deep archive, which has no such thing), "High" on Azure.
    High,
}

impl Archive {
    /// The longest that it typically takes.
    pub fn takes(self, priority: RetrievalPriority) -> Duration {
        let seconds = match (self, priority) {
            (Self::Flexible, RetrievalPriority::Bulk) | (Self::Deep, RetrievalPriority::Standard | RetrievalPriority::High) => {
                12 * HOURS
            }
            (Self::Flexible, RetrievalPriority::Standard) => 5 * HOURS,
            (Self::Flexible, RetrievalPriority::High) => 5 * MINUTES,
            (Self::Deep, RetrievalPriority::Bulk) => 48 * HOURS,
            (Self::Azure, RetrievalPriority::Bulk | RetrievalPriority::Standard) => 15 * HOURS,
            (Self::Azure, RetrievalPriority::High) => HOURS,
        };
        Duration::from_secs(seconds)
    }
}

/// Whether an object can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// It can.
    Readable,
    /// It was asked for, and is on its way.
    Coming(Archive),
    /// It must be asked for.
    Archived(Archive),
}

/// Whether a class, as a listing names it, is one whose objects may have to be brought back before they are read. Of one that was brought back
/// on S3 the listing says the same as before, and of Intelligent-Tiering it does not say which tier: ask for its [`Availability`].
pub fn may_be_archived(class: &str) -> bool {
    matches!(class, "GLACIER" | "DEEP_ARCHIVE" | "INTELLIGENT_TIERING" | "Archive")
}

/// Whether a class is one whose objects lie in an archive unless somebody brought them back.
pub fn is_archive(class: &str) -> bool {
    may_be_archived(class) && class != "INTELLIGENT_TIERING"
}

/// The archive that a class of S3 is, given what HEAD says of Intelligent-Tiering (`x-amz-archive-status`).
pub(super) fn s3_archive(class: Option<&str>, status: Option<&str>) -> Option<Archive> {
    match (class, status) {
        (Some("GLACIER"), _) | (_, Some("ARCHIVE_ACCESS")) => Some(Archive::Flexible),
        (Some("DEEP_ARCHIVE"), _) | (_, Some("DEEP_ARCHIVE_ACCESS")) => Some(Archive::Deep),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Archive, Duration, RetrievalPriority, is_archive, may_be_archived, s3_archive};

    #[test]
    fn more_money_never_takes_longer() {
        for archive in [Archive::Flexible, Archive::Deep, Archive::Azure] {
            let [bulk, standard, high] = [RetrievalPriority::Bulk, RetrievalPriority::Standard, RetrievalPriority::High]
                .map(|priority| archive.takes(priority));
            assert!(high <= standard && standard <= bulk && high > Duration::ZERO, "{archive:?}");
        }
    }

    #[test]
    fn classes_that_are_read_at_once_are_no_archives() {
        for class in ["STANDARD", "STANDARD_IA", "ONEZONE_IA", "GLACIER_IR", "Hot", "Cool", "Cold", ""] {
            assert!(!may_be_archived(class) && s3_archive(Some(class), None).is_none(), "{class}");
        }
        assert!(may_be_archived("INTELLIGENT_TIERING") && !is_archive("INTELLIGENT_TIERING"));
        assert!(["GLACIER", "DEEP_ARCHIVE", "Archive"].into_iter().all(is_archive));
        assert_eq!(s3_archive(Some("GLACIER"), None), Some(Archive::Flexible));
        assert_eq!(s3_archive(Some("DEEP_ARCHIVE"), None), Some(Archive::Deep));
        assert_eq!(s3_archive(Some("INTELLIGENT_TIERING"), None), None);
        assert_eq!(s3_archive(Some("INTELLIGENT_TIERING"), Some("ARCHIVE_ACCESS")), Some(Archive::Flexible));
        assert_eq!(s3_archive(Some("INTELLIGENT_TIERING"), Some("DEEP_ARCHIVE_ACCESS")), Some(Archive::Deep));
    }
}
