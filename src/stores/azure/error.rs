//! What Azure's errors mean to a store's caller.

use std::time::Duration;

use azure_core::error::ErrorKind;

use super::StoreError;
use crate::stores::error::chain;

/// The store's error where there was no answer.
pub(super) fn no_answer(place: String, action: &'static str, error: &azure_core::Error) -> StoreError {
    let detail = chain(error);
    match error.kind() {
        ErrorKind::Connection | ErrorKind::Io => StoreError::Unavailable { place, detail },
        ErrorKind::Credential => StoreError::Unauthenticated { place, detail },
        _ => StoreError::Other { place, action, detail },
    }
}

/// How long it takes is what Microsoft's "Blob rehydration from the archive tier" says.
const BRING_BACK: &str = "bring it back (az storage blob set-tier --tier Hot; what a restore needs of a site, `farshore restore --rehydrate`), which takes up to 15 hours, or with --rehydrate-priority High mostly less than one below 10 GB, then run the command again";
const COMES_BACK: &str = "it is being brought back, which takes up to 15 hours: run the command again later";

/// What a server said.
pub(super) struct Refusal<'a> {
    pub(super) status: u16,
    /// `x-ms-error-code`; empty if there was none.
    pub(super) code: &'a str,
    /// The first line of the message.
    pub(super) message: &'a str,
    /// Seconds by which this machine's clock is ahead of the server's.
    pub(super) skew_seconds: i64,
    /// `Retry-After`.
    pub(super) after: Option<Duration>,
}

/// Azure refuses signatures of more than 15 minutes before or after (Microsoft's "Authorize with Shared Key").
const MOST_SKEW_SECONDS: i64 = 15 * 60;

impl Refusal<'_> {
    fn detail(&self) -> String {
        match (self.code, self.message) {
            ("", "") => format!("HTTP {}", self.status),
            (code, "") => format!("{code}, HTTP {}", self.status),
            (code, message) => format!("{code}: {message}, HTTP {}", self.status),
        }
    }

    /// The codes are those of Azure's lists of common and of blob service error codes.
    pub(super) fn meaning(&self, place: String, action: &'static str) -> StoreError {
        let mut detail = self.detail();
        match self.code {
            "BlobNotFound" | "ResourceNotFound" => return StoreError::NotFound { place },
            "ContainerNotFound" => return StoreError::NoSuchPlace { place },
            "BlobAlreadyExists" => return StoreError::AlreadyExists { place },
            "ConditionNotMet" | "TargetConditionNotMet" => return StoreError::Changed { place },
            "InvalidRange" => return StoreError::InvalidRange { place },
            "AuthenticationFailed" | "NoAuthenticationInformation" | "InvalidAuthenticationInfo" => {
                if self.skew_seconds.abs() > MOST_SKEW_SECONDS {
                    detail.push_str(&format!(
                        "; this machine's clock differs from the server's by {} s: set it right",
                        self.skew_seconds
                    ));
                }
                return StoreError::Unauthenticated { place, detail };
            }
            "AuthorizationFailure"
            | "AuthorizationPermissionMismatch"
            | "AuthorizationProtocolMismatch"
            | "AuthorizationResourceTypeMismatch"
            | "AuthorizationServiceMismatch"
            | "AuthorizationSourceIPMismatch"
            | "InsufficientAccountPermissions"
            | "KeyBasedAuthenticationNotPermitted"
            | "PublicAccessNotPermitted"
            | "AccountIsDisabled" => return StoreError::Denied { place, action, detail },
            "BlobImmutableDueToPolicy" | "BlobImmutableDueToLegalHold" => {
                detail.push_str("; an immutability policy or a legal hold keeps it");
                return StoreError::Denied { place, action, detail };
            }
            "LeaseIdMissing" | "LeaseIdMismatchWithBlobOperation" | "SnapshotsPresent" => {
                detail.push_str("; break the lease or remove the snapshots that somebody made of it");
                return StoreError::Denied { place, action, detail };
            }
            "ServerBusy" | "TooManyRequests" | "AccountLimitExceeded" => {
                return StoreError::Throttled { place, detail, after: self.after };
            }
            "OperationTimedOut" | "InternalError" | "ContainerBeingDeleted" | "ContainerBeingDisabled" => {
                return StoreError::Unavailable { place, detail };
            }
            "Md5Mismatch" | "InvalidMd5" | "Crc64Mismatch" | "InvalidCrc64" => return StoreError::Corrupt { place, detail },
            "BlobArchived" => return StoreError::Archived { place, detail, next: BRING_BACK },
            "BlobBeingRehydrated" => return StoreError::Archived { place, detail, next: COMES_BACK },
            "AccountBeingCreated" => return StoreError::Unavailable { place, detail },
            "FeatureNotSupported" | "NotImplemented" => return StoreError::Unsupported { place, what: action },
            _ => {}
        }
        match self.status {
            401 => StoreError::Unauthenticated { place, detail },
            403 => StoreError::Denied { place, action, detail },
            404 => StoreError::NotFound { place },
            412 => StoreError::Changed { place },
            416 => StoreError::InvalidRange { place },
            408 => StoreError::Unavailable { place, detail },
            429 | 503 => StoreError::Throttled { place, detail, after: self.after },
            501 => StoreError::Unsupported { place, what: action },
            507 => StoreError::Full { place, detail },
            500..=599 => StoreError::Unavailable { place, detail },
            _ => StoreError::Other { place, action, detail },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Refusal, StoreError};

    fn meaning(status: u16, code: &str, skew_seconds: i64) -> StoreError {
        Refusal { status, code, message: "", skew_seconds, after: None }.meaning("azure://a/c/k".to_owned(), "put")
    }

    #[test]
    fn every_known_answer_has_its_meaning() {
        for (status, code, expected) in [
            (404, "BlobNotFound", "NotFound"),
            (404, "", "NotFound"),
            (404, "ContainerNotFound", "NoSuchPlace"),
            (409, "BlobAlreadyExists", "AlreadyExists"),
            (412, "ConditionNotMet", "Changed"),
            (412, "LeaseIdMissing", "Denied"),
            (416, "InvalidRange", "InvalidRange"),
            (403, "AuthenticationFailed", "Unauthenticated"),
            (401, "NoAuthenticationInformation", "Unauthenticated"),
            (403, "AuthorizationPermissionMismatch", "Denied"),
            (403, "", "Denied"),
            (409, "BlobImmutableDueToPolicy", "Denied"),
            (503, "ServerBusy", "Throttled"),
            (429, "", "Throttled"),
            (500, "OperationTimedOut", "Unavailable"),
            (500, "InternalError", "Unavailable"),
            (409, "ContainerBeingDeleted", "Unavailable"),
            (400, "Md5Mismatch", "Corrupt"),
            (400, "Crc64Mismatch", "Corrupt"),
            (501, "", "Unsupported"),
            (409, "BlobArchived", "Archived"),
            (409, "BlobBeingRehydrated", "Archived"),
            (400, "InvalidHeaderValue", "Other"),
        ] {
            let debug = format!("{:?}", meaning(status, code, 0));
            assert!(debug.starts_with(&format!("{expected} ")), "{status} {code}: {debug}");
        }
    }

    #[test]
    fn a_wrong_clock_is_named() {
        assert!(meaning(403, "AuthenticationFailed", -1000).to_string().contains("differs from the server's by -1000 s"));
        assert!(!meaning(403, "AuthenticationFailed", 10).to_string().contains("clock"));
    }
}
