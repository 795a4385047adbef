//! What can go wrong at a store, named by what the caller can do.

use std::{error::Error, time::Duration};

use chrono::{DateTime, Utc};

/// An error of a store. `place` is the object or bucket it happened at, as an operator would write it down.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("{place}: no such object")]
    NotFound {
        /// Where.
        place: String,
    },
    /// There is no such bucket, container or directory, or no access that would show it.
    #[error(
        "{place}: no such bucket, container or directory; check the name in the policy (or in --site); only if it is yet to be made: `farshore init --create`"
    )]
    NoSuchPlace {
        /// Where.
        place: String,
    },
    /// An if-absent write found an object.
    #[error("{place}: already exists")]
    AlreadyExists {
        /// Where.
        place: String,
    },
    /// The object is no longer the one that was meant.
    #[error("{place}: changed while it was being read")]
    Changed {
        /// Where.
        place: String,
    },
    /// The range begins beyond the object's end.
    #[error("{place}: the object ends before the range asked for")]
    InvalidRange {
        /// Where.
        place: String,
    },
    /// The credentials are missing, wrong or expired.
    #[error(
        "{place}: the credentials were refused ({detail}); check the access key and secret that the policy or the environment names"
    )]
    Unauthenticated {
        /// Where.
        place: String,
        /// The server's or the provider chain's own words.
        detail: String,
    },
    /// The identity may not do this.
    #[error("{place}: permission denied to {action} ({detail}); grant this identity that right")]
    Denied {
        /// Where.
        place: String,
        /// What was tried: `put`, `list` …
        action: &'static str,
        /// The server's own words.
        detail: String,
    },
    /// It lies in an archive tier, from which it must be brought back before it can be read.
    #[error("{place}: archived, so that it cannot be read now ({detail}); {next}")]
    Archived {
        /// Where.
        place: String,
        /// The server's own words.
        detail: String,
        /// What to do, and how long it takes.
        next: &'static str,
    },
    /// The key that the server encrypts the object with cannot be used.
    #[error("{place}: {action} was refused by the server's key management ({detail}); {next}")]
    Encrypted {
        /// Where.
        place: String,
        /// What was tried.
        action: &'static str,
        /// The server's own words.
        detail: String,
        /// What to do.
        next: &'static str,
    },
    /// A lock keeps it: it can be deleted later, and by nobody now.
    #[error("{place}: locked until {}; it can be deleted after that", until.format("%Y-%m-%d %H:%M:%SZ"))]
    Locked {
        /// Where.
        place: String,
        /// When the lock ends, by the site's clock.
        until: DateTime<Utc>,
    },
    /// No room is left.
    #[error("{place}: no space left ({detail}); free some or enlarge the target, then run the command again")]
    Full {
        /// Where.
        place: String,
        /// The system's own words.
        detail: String,
    },
    /// The server asks to slow down.
    #[error("{place}: the server asks to slow down ({detail})")]
    Throttled {
        /// Where.
        place: String,
        /// The server's own words.
        detail: String,
        /// How long it wants to be left alone, where it says so.
        after: Option<Duration>,
    },
    /// No answer in time, connection refused or broken, 5xx.
    #[error("{place}: not reachable ({detail}); check the endpoint, the network and the server's health")]
    Unavailable {
        /// Where.
        place: String,
        /// What happened on the wire.
        detail: String,
    },
    /// What arrived or was sent is not what was meant: a checksum, a length, an impossible answer.
    #[error("{place}: damaged in transfer or storage: {detail}")]
    Corrupt {
        /// Where.
        place: String,
        /// What did not match.
        detail: String,
    },
    /// The store has no such ability.
    #[error("{place}: {what} is not supported by this store")]
    Unsupported {
        /// Where.
        place: String,
        /// What was asked for.
        what: &'static str,
    },
    /// Anything else, final.
    #[error("{place}: {action} failed: {detail}")]
    Other {
        /// Where.
        place: String,
        /// What was tried.
        action: &'static str,
        /// What happened.
        detail: String,
    },
}

impl StoreError {
    /// Whether the same call may succeed if it is made again after a while.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Throttled { .. } | Self::Unavailable { .. } | Self::Corrupt { .. } => true,
            Self::NotFound { .. }
            | Self::NoSuchPlace { .. }
            | Self::AlreadyExists { .. }
            | Self::Changed { .. }
            | Self::InvalidRange { .. }
            | Self::Unauthenticated { .. }
            | Self::Denied { .. }
            | Self::Encrypted { .. }
            | Self::Archived { .. }
            | Self::Locked { .. }
            | Self::Full { .. }
            | Self::Unsupported { .. }
            | Self::Other { .. } => false,
        }
    }
}

/// What `Retry-After` says: seconds, or a time beside that of the answer (RFC 9110, 10.2.3).
pub(super) fn retry_after(value: Option<&str>, date: Option<DateTime<Utc>>) -> Option<Duration> {
    let value = value?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = DateTime::parse_from_rfc2822(value).ok()?.to_utc();
    (until - date?).to_std().ok()
}

/// An error and what caused it, in one line.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{DateTime, Duration, Utc, retry_after};

    #[test]
    fn a_server_says_in_two_ways_how_long_it_wants_to_be_left_alone() {
        let date: DateTime<Utc> = "2026-11-23T20:00:00Z".parse().unwrap();
        let at = Some("Mon, 23 Nov 2026 20:00:30 GMT");
        assert_eq!(retry_after(Some("7"), None), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(at, Some(date)), Some(Duration::from_secs(30)));
        for (value, date) in [(None, Some(date)), (Some("soon"), Some(date)), (at, None), (Some("-1"), Some(date))] {
            assert_eq!(retry_after(value, date), None, "{value:?}");
        }
    }
}
