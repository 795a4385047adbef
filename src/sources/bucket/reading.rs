//! Whether a bucket can be read as of T, found by asking it, and what to say of that.

use chrono::{DateTime, SecondsFormat, Utc};

use crate::{
    progress::{Finding, Problem},
    stores::{SharedStore, StoreError, Versioning},
};

/// Rights without which a bucket that keeps versions is read as it is now.
const RIGHTS: &str = "s3:ListBucketVersions and s3:GetObjectVersion (with s3:GetObjectVersionTagging for tags)";

/// So many objects, as the beginning of a sentence.
fn objects_were(count: u64) -> String {
    if count == 1 { "1 object was".to_owned() } else { format!("{count} objects were") }
}

/// How a bucket is read.
#[derive(Debug)]
pub(super) enum Reading {
    /// The versions that were live at T.
    AsOf,
    /// The same, of a bucket that keeps versions no longer: what was written or deleted since it does not cannot be told.
    Suspended { remedy: String },
    /// What is there now: it keeps no versions.
    Off { remedy: String },
    /// What is there now: it does, and they may not be listed.
    Denied { error: StoreError },
    /// What is there now: whether it keeps versions could not be asked.
    Unknown { error: StoreError },
    /// What is there now: of such a store nothing else can be had.
    Present,
}

impl Reading {
    /// Asks the bucket.
    ///
    /// # Errors
    /// Those that would end a listing as well.
    pub(super) async fn look(store: &SharedStore) -> Result<Self, StoreError> {
        let reading = match store.versioning().await {
            Ok(Versioning::Enabled) => Self::AsOf,
            Ok(Versioning::Suspended { remedy }) => Self::Suspended { remedy },
            Ok(Versioning::Off { remedy }) => return Ok(Self::Off { remedy }),
            Err(StoreError::Unsupported { .. }) => return Ok(Self::Present),
            Err(
                error @ (StoreError::Denied { .. }
                | StoreError::Other { .. }
                | StoreError::NotFound { .. }
                | StoreError::Corrupt { .. }),
            ) => return Ok(Self::Unknown { error }),
            Err(error) => return Err(error),
        };
        match store.list_versions("", None, 1).await {
            Ok(_) => Ok(reading),
            Err(error @ (StoreError::Denied { .. } | StoreError::Unsupported { .. } | StoreError::Other { .. })) => {
                Ok(Self::Denied { error })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether versions are listed, and read.
    pub(super) fn is_as_of(&self) -> bool {
        matches!(self, Self::AsOf | Self::Suspended { .. })
    }

    /// Whether the store has a clock whose time can be asked for without writing, and compared with that of its objects.
    pub(super) fn tells_time(&self) -> bool {
        !matches!(self, Self::Present)
    }

    /// For the facts of a snapshot.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::AsOf => "enabled",
            Self::Suspended { .. } => "suspended",
            Self::Off { .. } => "off",
            Self::Denied { .. } => "denied",
            Self::Unknown { .. } => "unknown",
            Self::Present => "none",
        }
    }

    /// The one that [`Reading::word`] says, without what else is known of it.
    pub(super) fn of_word(word: &str) -> Option<Self> {
        let unknown = || StoreError::Unsupported { place: String::new(), what: "telling why" };
        let all = [
            Self::AsOf,
            Self::Suspended { remedy: String::new() },
            Self::Off { remedy: String::new() },
            Self::Denied { error: unknown() },
            Self::Unknown { error: unknown() },
            Self::Present,
        ];
        all.into_iter().find(|reading| reading.word() == word)
    }

    /// How it was read, in one line; `later` keys changed after T. Nothing where nobody asked for a T and nothing happened.
    pub(super) fn note(&self, time: DateTime<Utc>, asked_for: bool, later: u64) -> String {
        let time = time.to_rfc3339_opts(SecondsFormat::Secs, true);
        let changed = objects_were(later);
        let gap = |why: &str| {
            if !asked_for && later == 0 {
                return String::new();
            }
            format!(
                "read as it was listed, not as of {time}: {why}; {changed} written after that, and what was deleted in between is not in this point"
            )
        };
        match self {
            Self::AsOf if later == 0 => format!("read as of {time}, by versions"),
            Self::AsOf => format!(
                "read as of {time}, by versions; {changed} written or deleted since (or moments before), and left as they were"
            ),
            Self::Suspended { .. } => {
                format!("read as of {time} as far as versions go, which are no longer kept; {changed} written or deleted since")
            }
            Self::Off { .. } => gap("the bucket keeps no versions"),
            Self::Denied { .. } => gap("its versions cannot be listed"),
            Self::Unknown { .. } => gap("whether the bucket keeps versions cannot be asked (s3:GetBucketVersioning)"),
            Self::Present => gap("versions are read on S3 only"),
        }
    }

    /// What keeps a bucket that keeps versions from being read as of T.
    pub(super) fn problem(&self, place: String) -> Option<Problem> {
        let Self::Denied { error } = self else { return None };
        Some(Problem::new(
            place,
            format!(
                "keeps versions, and was read as it is now, not as of the database's instant: {error}; allow this identity {RIGHTS}"
            ),
        ))
    }

    /// Some objects could not be read by version.
    pub(super) fn problem_of_reading(place: String, objects: u64) -> Problem {
        Problem::new(
            place,
            format!(
                "{} read as they are now, not as of the database's instant: versions may be listed and not read; allow this identity {RIGHTS}",
                objects_were(objects)
            ),
        )
    }

    /// A version cannot be read by its id.
    pub(super) fn finding_of_reading(error: &StoreError) -> Finding {
        Finding::wrong("versions", format!("kept, and cannot be read: {error}"), format!("allow this identity {RIGHTS}"))
    }

    /// What an examination says.
    pub(super) fn finding(&self) -> Finding {
        const NAME: &str = "versions";
        match self {
            Self::AsOf => Finding::sound(NAME, "kept: read as of the database's instant, whatever happens meanwhile"),
            Self::Suspended { remedy } => Finding::note(
                NAME,
                "suspended: what is overwritten or deleted between the database's instant and the listing is not told from what was there",
                remedy.as_str(),
            ),
            Self::Off { remedy } => Finding::note(
                NAME,
                "none are kept: the bucket is read as it is when it is listed; what is deleted between the database's instant and that is missing in the point",
                remedy.as_str(),
            ),
            Self::Denied { error } => {
                Finding::wrong(NAME, format!("kept, and cannot be listed: {error}"), format!("allow this identity {RIGHTS}"))
            }
            Self::Unknown { error } => Finding::note(
                NAME,
                format!("whether they are kept cannot be asked: {error}"),
                format!("allow this identity s3:GetBucketVersioning, {RIGHTS}"),
            ),
            Self::Present => Finding::sound(
                NAME,
                "of such a store none are read: it is read as it is when it is listed, after the database's instant",
            ),
        }
    }
}
