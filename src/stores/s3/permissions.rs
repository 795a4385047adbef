//! What each identity must be allowed on S3, and nothing beyond: documents to hand to the provider.
//!
//! The actions and condition keys are those of AWS' "Actions, resources, and condition keys for Amazon S3"; compatible servers
//! know a part of them. A test holds each document to exactly its actions.

use serde_json::{Value, json};

use crate::stores::Role;

/// A place in S3, as far as rights go.
#[derive(Debug, Clone, Copy)]
pub struct S3Place<'a> {
    /// The bucket's name.
    pub bucket: &'a str,
    /// The prefix of the repository, or of what is protected; may be empty.
    pub prefix: &'a str,
    /// ARN of the KMS key that the policy names.
    pub key: Option<&'a str>,
}

/// What a key must be used for. The right to decrypt is needed for uploads in parts, too (S3's "Uploading and copying objects using
/// multipart upload").
fn key_statement(key: &str, actions: &[&str]) -> Value {
    json!({ "Sid": "Key", "Effect": "Allow", "Action": actions, "Resource": key })
}

/// What an identity does in a bucket that is protected, beside reading it.
#[derive(Debug, Clone, Copy, Default)]
pub struct S3Source {
    /// Asks what holds each object.
    pub locks: bool,
    /// Asks for objects that lie in an archive.
    pub rehydrates: bool,
}

/// The IAM policy document of an identity that reads a bucket which is protected, as it is and as it was.
pub fn s3_source_permissions(place: S3Place<'_>, source: S3Source) -> Value {
    let bucket = format!("arn:aws:s3:::{}", place.bucket);
    let prefix = place.prefix.trim_matches('/');
    let mut list = json!({
        "Sid": "List",
        "Effect": "Allow",
        "Action": ["s3:ListBucket", "s3:ListBucketVersions"],
        "Resource": bucket,
    });
    if !prefix.is_empty() {
        list["Condition"] = json!({ "StringLike": { "s3:prefix": format!("{prefix}/*") } });
    }
    let objects = if prefix.is_empty() { format!("{bucket}/*") } else { format!("{bucket}/{prefix}/*") };
    let mut statements = vec![
        list,
        json!({ "Sid": "Versioning", "Effect": "Allow", "Action": ["s3:GetBucketVersioning"], "Resource": bucket }),
        json!({
            "Sid": "Read",
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectTagging", "s3:GetObjectVersionTagging"],
            "Resource": objects,
        }),
    ];
    if source.rehydrates {
        statements.push(json!({ "Sid": "BringBack", "Effect": "Allow", "Action": ["s3:RestoreObject"], "Resource": objects }));
    }
    if source.locks {
        statements.push(json!({
            "Sid": "SeeLocks",
            "Effect": "Allow",
            "Action": ["s3:GetObjectRetention", "s3:GetObjectLegalHold"],
            "Resource": objects,
        }));
    }
    statements.extend(place.key.map(|key| key_statement(key, &["kms:Decrypt"])));
    json!({ "Version": "2012-10-17", "Statement": statements })
}

/// The IAM policy document for a role at a site, and whether what is stored there is locked.
pub fn s3_permissions(role: Role, place: S3Place<'_>, locked: bool) -> Value {
    let S3Place { bucket, prefix, key } = place;
    let bucket = format!("arn:aws:s3:::{bucket}");
    let prefix = prefix.trim_matches('/');
    let under = |part: &str| if prefix.is_empty() { format!("{bucket}/{part}*") } else { format!("{bucket}/{prefix}/{part}*") };
    let versions = locked || role != Role::Writer;
    let mut list = json!({
        "Sid": "List",
        "Effect": "Allow",
        "Action": if versions { json!(["s3:ListBucket", "s3:ListBucketVersions"]) } else { json!(["s3:ListBucket"]) },
        "Resource": bucket,
    });
    if !prefix.is_empty() {
        list["Condition"] = json!({ "StringLike": { "s3:prefix": format!("{prefix}/*") } });
    }
    let read = if role == Role::Writer { json!(["s3:GetObject"]) } else { json!(["s3:GetObject", "s3:GetObjectVersion"]) };
    let mut statements = vec![list, json!({ "Sid": "Read", "Effect": "Allow", "Action": read, "Resource": under("") })];
    let written = under(if role == Role::Reader { "evidence/" } else { "" });
    statements.push(json!({
        "Sid": "WriteOnce",
        "Effect": "Allow",
        "Action": ["s3:PutObject"],
        "Resource": written,
        // Only with `If-None-Match`: nothing that is there is overwritten.
        "Condition": { "Null": { "s3:if-none-match": "false" } },
    }));
    if locked {
        statements.push(json!({
            "Sid": "Lock",
            "Effect": "Allow",
            "Action": ["s3:GetObjectRetention", "s3:PutObjectRetention"],
            "Resource": written,
        }));
    }
    if role == Role::Pruner {
        let delete = if locked { "s3:DeleteObjectVersion" } else { "s3:DeleteObject" };
        statements.push(json!({ "Sid": "Delete", "Effect": "Allow", "Action": [delete], "Resource": under("") }));
    }
    statements.extend(key.map(|key| key_statement(key, &["kms:GenerateDataKey", "kms:Decrypt"])));
    json!({ "Version": "2012-10-17", "Statement": statements })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Role, S3Place, S3Source, Value, s3_permissions, s3_source_permissions};

    fn place<'a>(prefix: &'a str, key: Option<&'a str>) -> S3Place<'a> {
        S3Place { bucket: "b", prefix, key }
    }

    fn actions(role: Role, locked: bool) -> BTreeSet<String> {
        actions_of(&s3_permissions(role, place("p", None), locked))
    }

    fn actions_of(document: &Value) -> BTreeSet<String> {
        let statements = document["Statement"].as_array().unwrap();
        assert!(statements.iter().all(|statement| statement["Effect"] == "Allow"));
        statements
            .iter()
            .flat_map(|statement| statement["Action"].as_array().unwrap())
            .map(|action| action.as_str().unwrap().to_owned())
            .collect()
    }

    fn set(actions: &[&str]) -> BTreeSet<String> {
        actions.iter().map(|action| format!("s3:{action}")).collect()
    }

    #[test]
    fn each_role_has_exactly_its_actions() {
        let table: [(Role, bool, &[&str]); 6] = [
            (Role::Writer, false, &["ListBucket", "GetObject", "PutObject"]),
            (
                Role::Writer,
                true,
                &["ListBucket", "ListBucketVersions", "GetObject", "PutObject", "GetObjectRetention", "PutObjectRetention"],
            ),
            (Role::Reader, false, &["ListBucket", "ListBucketVersions", "GetObject", "GetObjectVersion", "PutObject"]),
            (
                Role::Reader,
                true,
                &[
                    "ListBucket",
                    "ListBucketVersions",
                    "GetObject",
                    "GetObjectVersion",
                    "PutObject",
                    "GetObjectRetention",
                    "PutObjectRetention",
                ],
            ),
            (
                Role::Pruner,
                false,
                &["ListBucket", "ListBucketVersions", "GetObject", "GetObjectVersion", "PutObject", "DeleteObject"],
            ),
            (
                Role::Pruner,
                true,
                &[
                    "ListBucket",
                    "ListBucketVersions",
                    "GetObject",
                    "GetObjectVersion",
                    "PutObject",
                    "GetObjectRetention",
                    "PutObjectRetention",
                    "DeleteObjectVersion",
                ],
            ),
        ];
        for (role, locked, expected) in table {
            assert_eq!(actions(role, locked), set(expected), "{role:?}, locked: {locked}");
        }
    }

    #[test]
    fn every_right_is_bound_to_bucket_and_prefix_and_every_write_to_what_is_absent() {
        for (prefix, objects, evidence) in [
            ("p/q", "arn:aws:s3:::b/p/q/*", "arn:aws:s3:::b/p/q/evidence/*"),
            ("", "arn:aws:s3:::b/*", "arn:aws:s3:::b/evidence/*"),
        ] {
            for role in Role::ALL {
                for statement in s3_permissions(role, place(prefix, None), true)["Statement"].as_array().unwrap() {
                    let (sid, resource) = (statement["Sid"].as_str().unwrap(), statement["Resource"].as_str().unwrap());
                    let expected = match (sid, role) {
                        ("List", _) => "arn:aws:s3:::b",
                        ("WriteOnce" | "Lock", Role::Reader) => evidence,
                        _ => objects,
                    };
                    assert_eq!(resource, expected, "{sid}");
                    if sid == "WriteOnce" {
                        assert_eq!(statement["Condition"]["Null"]["s3:if-none-match"], "false");
                    }
                    if sid == "List" && !prefix.is_empty() {
                        assert_eq!(statement["Condition"]["StringLike"]["s3:prefix"], "p/q/*");
                    }
                }
            }
        }
    }

    #[test]
    fn a_key_may_be_used_by_whoever_writes_and_only_opened_by_a_source() {
        let arn = "arn:aws:kms:eu-central-1:1:key/k";
        for role in Role::ALL {
            let document = s3_permissions(role, place("p", Some(arn)), false);
            let last = document["Statement"].as_array().unwrap().last().unwrap();
            assert_eq!((&last["Resource"], last["Action"].as_array().unwrap().len()), (&arn.into(), 2), "{role:?}");
            let without = actions(role, false);
            let added: Vec<_> = actions_of(&document).difference(&without).cloned().collect();
            assert_eq!(added, ["kms:Decrypt", "kms:GenerateDataKey"], "{role:?}");
        }
        let reading = [
            "ListBucket",
            "ListBucketVersions",
            "GetBucketVersioning",
            "GetObject",
            "GetObjectVersion",
            "GetObjectTagging",
            "GetObjectVersionTagging",
        ];
        let mut expected = set(&reading);
        assert_eq!(actions_of(&s3_source_permissions(place("", None), S3Source::default())), expected);
        let of_locks = set(&["GetObjectRetention", "GetObjectLegalHold"]);
        let document = s3_source_permissions(place("p/", None), S3Source { locks: true, rehydrates: false });
        assert_eq!(actions_of(&document), expected.union(&of_locks).cloned().collect());
        assert_eq!(document["Statement"][3]["Resource"], "arn:aws:s3:::b/p/*");
        let bringing = S3Source { locks: false, rehydrates: true };
        let of_archive = set(&["RestoreObject"]);
        assert_eq!(actions_of(&s3_source_permissions(place("p", None), bringing)), expected.union(&of_archive).cloned().collect());
        expected.insert("kms:Decrypt".to_owned());
        let document = s3_source_permissions(place("p/", Some(arn)), S3Source::default());
        assert_eq!(actions_of(&document), expected);
        let statements = document["Statement"].as_array().unwrap();
        assert_eq!(statements[0]["Condition"]["StringLike"]["s3:prefix"], "p/*");
        assert_eq!(statements[2]["Resource"], "arn:aws:s3:::b/p/*");
    }
}
