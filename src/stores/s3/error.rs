//! What S3's errors mean to a store's caller.

use std::{error::Error, time::Duration};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use chrono::DateTime;

use super::{StoreError, encryption::refused_by_kms};
use crate::stores::error::{chain, retry_after};

/// The store's error for the SDK's. `Changed` is what a failed condition means: a put's caller turns it into `AlreadyExists`.
pub(super) fn store_error<E>(place: String, action: &'static str, error: &SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        // A success that could not be read.
        SdkError::ServiceError(service) if service.raw().status().is_success() => {
            StoreError::Corrupt { place, detail: format!("the answer was not understood: {}", chain(error)) }
        }
        SdkError::ServiceError(service) => {
            let header = |name: &'static str| service.raw().headers().get(name);
            let http_time = |text: &str| DateTime::parse_from_rfc2822(text).ok().map(|time| time.to_utc());
            let answer = Answer {
                status: service.raw().status().as_u16(),
                code: service.err().code().unwrap_or_default(),
                message: service.err().message().unwrap_or_default(),
                after: retry_after(header("retry-after"), header("date").and_then(http_time)),
            };
            answer.meaning(place, action)
        }
        SdkError::ConstructionFailure(_) | SdkError::DispatchFailure(_) if caused_by_credentials(error) => {
            StoreError::Unauthenticated { place, detail: chain(error) }
        }
        SdkError::ConstructionFailure(_) => StoreError::Other { place, action, detail: chain(error) },
        // A response that cannot be understood is usually one that was cut off.
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) | SdkError::ResponseError(_) => {
            StoreError::Unavailable { place, detail: chain(error) }
        }
        _ => StoreError::Other { place, action, detail: chain(error) },
    }
}

fn caused_by_credentials(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if cause.is::<CredentialsError>() {
            return true;
        }
        next = cause.source();
    }
    false
}

/// How long it takes is what S3's "Archive retrieval options" says.
const BRING_BACK: &str = "bring it back (aws s3api restore-object; what a restore needs of a site, `farshore restore --rehydrate`), which takes up to 12 hours from Glacier Flexible Retrieval and the Archive Access tier, and up to 48 from Deep Archive, then run the command again";

/// What a server said.
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    /// Empty if there was no body (HEAD).
    pub(super) code: &'a str,
    pub(super) message: &'a str,
    /// `Retry-After`.
    pub(super) after: Option<Duration>,
}

impl Answer<'_> {
    fn detail(&self) -> String {
        match (self.code, self.message) {
            ("", "") => format!("HTTP {}", self.status),
            (code, "") => format!("{code}, HTTP {}", self.status),
            (code, message) => format!("{code}: {message}, HTTP {}", self.status),
        }
    }

    /// The codes are those of S3's list of error responses, and of the compatible servers where they differ.
    pub(super) fn meaning(&self, place: String, action: &'static str) -> StoreError {
        let detail = self.detail();
        if let Some(next) = refused_by_kms(self.code, self.message) {
            return StoreError::Encrypted { place, action, detail, next };
        }
        match self.code {
            "NoSuchKey" | "NotFound" | "NoSuchVersion" | "NoSuchUpload" => return StoreError::NotFound { place },
            "NoSuchBucket" => return StoreError::NoSuchPlace { place },
            "PreconditionFailed" => return StoreError::Changed { place },
            "InvalidRange" => return StoreError::InvalidRange { place },
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "TokenRefreshRequired"
            | "RequestExpired"
            | "RequestTimeTooSkewed"
            | "NotSignedUp"
            | "InvalidSecurity"
            | "InvalidClientTokenId" => {
                return StoreError::Unauthenticated { place, detail };
            }
            "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "Forbidden" => {
                return StoreError::Denied { place, action, detail };
            }
            "SlowDown"
            | "ServiceUnavailable"
            | "TooManyRequests"
            | "Throttling"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "KMS.ThrottlingException" => {
                return StoreError::Throttled { place, detail, after: self.after };
            }
            "BadDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch" | "InvalidDigest" | "IncompleteBody" => {
                return StoreError::Corrupt { place, detail };
            }
            // The server gave up on our body; a concurrent change of the same key or bucket.
            "RequestTimeout" | "OperationAborted" | "ConditionalRequestConflict" => {
                return StoreError::Unavailable { place, detail };
            }
            "InsufficientStorage" | "QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" => {
                return StoreError::Full { place, detail };
            }
            "NotImplemented" => return StoreError::Unsupported { place, what: action },
            "AuthorizationHeaderMalformed" | "PermanentRedirect" | "TemporaryRedirect" | "IllegalLocationConstraintException" => {
                let detail =
                    format!("{detail}; name the bucket's own region in the policy, or, with an address in --site, in AWS_REGION");
                return StoreError::Other { place, action, detail };
            }
            "InvalidObjectState" => return StoreError::Archived { place, detail, next: BRING_BACK },
            _ => {}
        }
        let lower = self.message.to_ascii_lowercase();
        match self.status {
            401 => StoreError::Unauthenticated { place, detail },
            403 => StoreError::Denied { place, action, detail },
            404 => StoreError::NotFound { place },
            412 => StoreError::Changed { place },
            416 => StoreError::InvalidRange { place },
            408 => StoreError::Unavailable { place, detail },
            400 if lower.contains("checksum") || lower.contains("digest") => StoreError::Corrupt { place, detail },
            429 | 503 => StoreError::Throttled { place, detail, after: self.after },
            501 => StoreError::Unsupported { place, what: action },
            507 => StoreError::Full { place, detail },
            500..=599 if lower.contains("no space left") => StoreError::Full { place, detail },
            500..=599 => StoreError::Unavailable { place, detail },
            _ => StoreError::Other { place, action, detail },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Answer;

    fn kind(status: u16, code: &str, message: &str) -> String {
        let meaning = Answer { status, code, message, after: None }.meaning("s3://b/k".to_owned(), "put");
        let debug = format!("{meaning:?}");
        debug[..debug.find(' ').unwrap_or(debug.len())].to_owned()
    }

    #[test]
    fn every_known_answer_has_its_meaning() {
        for (status, code, message, expected) in [
            (404, "NoSuchKey", "", "NotFound"),
            (404, "", "", "NotFound"),
            (404, "NoSuchBucket", "", "NoSuchPlace"),
            (404, "NoSuchUpload", "", "NotFound"),
            (403, "AccessDenied", "", "Denied"),
            (403, "", "", "Denied"),
            (403, "InvalidAccessKeyId", "", "Unauthenticated"),
            (403, "SignatureDoesNotMatch", "", "Unauthenticated"),
            (403, "RequestTimeTooSkewed", "", "Unauthenticated"),
            (400, "ExpiredToken", "", "Unauthenticated"),
            (401, "", "", "Unauthenticated"),
            (503, "SlowDown", "", "Throttled"),
            (503, "", "", "Throttled"),
            (429, "", "", "Throttled"),
            (500, "InternalError", "", "Unavailable"),
            (502, "", "", "Unavailable"),
            (400, "RequestTimeout", "", "Unavailable"),
            (409, "ConditionalRequestConflict", "", "Unavailable"),
            (400, "BadDigest", "", "Corrupt"),
            (400, "XAmzContentSHA256Mismatch", "", "Corrupt"),
            (400, "InvalidRequest", "Value for x-amz-checksum-sha256 header is invalid.", "Corrupt"),
            (412, "PreconditionFailed", "", "Changed"),
            (412, "", "", "Changed"),
            (416, "InvalidRange", "", "InvalidRange"),
            (507, "", "", "Full"),
            (500, "InternalError", "write: no space left on device", "Full"),
            (501, "NotImplemented", "", "Unsupported"),
            (301, "PermanentRedirect", "", "Other"),
            (403, "InvalidObjectState", "", "Archived"),
            (400, "KMS.DisabledException", "", "Encrypted"),
            (403, "AccessDenied", "not authorized to perform: kms:Decrypt on this resource", "Encrypted"),
            (400, "KMS.ThrottlingException", "", "Throttled"),
            (400, "InvalidArgument", "", "Other"),
        ] {
            assert_eq!(kind(status, code, message), expected, "{status} {code} {message}");
        }
    }
}
