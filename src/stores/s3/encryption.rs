//! How the server encrypts what is written, as S3's headers say it; and what they say of an object that is read.

use aws_sdk_s3::types::ServerSideEncryption;

/// What the server is told to encrypt with. Without it the bucket's default holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum S3Encryption {
    /// SSE-S3: keys that S3 keeps itself.
    S3,
    /// SSE-KMS.
    Kms {
        /// ARN of the key; without one the account's own key for S3 (`aws/s3`).
        key: Option<String>,
        /// Whether S3 asks KMS for a key per bucket and while, and not per object; left out, as the bucket says.
        bucket_key: Option<bool>,
    },
}

impl S3Encryption {
    /// `x-amz-server-side-encryption`.
    pub(super) fn word(&self) -> ServerSideEncryption {
        match self {
            Self::S3 => ServerSideEncryption::Aes256,
            Self::Kms { .. } => ServerSideEncryption::AwsKms,
        }
    }

    /// `x-amz-server-side-encryption-aws-kms-key-id`.
    pub(super) fn key(&self) -> Option<String> {
        match self {
            Self::S3 => None,
            Self::Kms { key, .. } => key.clone(),
        }
    }

    /// `x-amz-server-side-encryption-bucket-key-enabled`.
    pub(super) fn bucket_key(&self) -> Option<bool> {
        match self {
            Self::S3 => None,
            Self::Kms { bucket_key, .. } => *bucket_key,
        }
    }
}

/// The provider's word where a key other than S3's own is needed to read an object. `AES256` is what every bucket on AWS has at least
/// (since January 2023), so that it says nothing.
pub(super) fn worth_recording(word: Option<&ServerSideEncryption>) -> Option<String> {
    word.map(ServerSideEncryption::as_str).filter(|word| word.starts_with("aws:kms")).map(str::to_owned)
}

/// The next step where KMS, and not S3, refused; nothing for other answers. Codes and messages are those of S3's "Troubleshooting access
/// denied errors" and of KMS' list of errors, which S3 hands on with `KMS.` before them.
pub(super) fn refused_by_kms(code: &str, message: &str) -> Option<&'static str> {
    match code {
        "KMS.DisabledException" => Some("the KMS key is disabled: enable it (aws kms enable-key)"),
        "KMS.KMSInvalidStateException" | "KMS.InvalidStateException" => Some(
            "the KMS key cannot be used as it is, perhaps because its deletion is pending: cancel that (aws kms cancel-key-deletion), then enable it",
        ),
        "KMS.NotFoundException" => Some(
            "there is no such KMS key in the bucket's region: correct the key's ARN in the policy, or in the bucket's default encryption",
        ),
        "KMS.KeyUnavailableException" | "KMS.DependencyTimeoutException" => {
            Some("KMS cannot reach the key now: run the command again later")
        }
        _ if message.contains("kms:Decrypt") => {
            Some("allow this identity kms:Decrypt on the key, in its own policy and in the key's")
        }
        _ if message.contains("kms:GenerateDataKey") => {
            Some("allow this identity kms:GenerateDataKey and kms:Decrypt on the key, in its own policy and in the key's")
        }
        "KMS.ThrottlingException" => None,
        _ if code.starts_with("KMS.") => Some("KMS refused: see the state of the key and its policy"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{ServerSideEncryption, refused_by_kms, worth_recording};

    #[test]
    fn what_every_bucket_has_is_not_recorded() {
        assert_eq!(worth_recording(Some(&ServerSideEncryption::Aes256)), None);
        assert_eq!(worth_recording(Some(&ServerSideEncryption::AwsKms)).as_deref(), Some("aws:kms"));
        assert_eq!(worth_recording(Some(&ServerSideEncryption::AwsKmsDsse)).as_deref(), Some("aws:kms:dsse"));
        assert_eq!(worth_recording(None), None);
    }

    #[test]
    fn only_what_kms_refused_is_said_to_be() {
        assert_eq!(refused_by_kms("AccessDenied", "Access Denied"), None);
        assert_eq!(refused_by_kms("NoSuchKey", ""), None);
        let writing =
            "User: arn:aws:iam::1:user/a is not authorized to perform: kms:GenerateDataKey on resource: arn:aws:kms:x:1:key/k";
        assert!(refused_by_kms("AccessDenied", writing).unwrap().contains("kms:GenerateDataKey and kms:Decrypt"));
        assert!(refused_by_kms("KMS.DisabledException", "").unwrap().contains("enable-key"));
        assert!(refused_by_kms("KMS.New", "").is_some());
    }
}
