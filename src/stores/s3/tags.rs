//! An object's tags, asked for only where there may be some.
//!
//! AWS tells with an object how many tags it has (`x-amz-tagging-count`), and leaves that away if there are none; but also if the
//! identity may not read them, and some servers never tell. So that a missing number means none only once it is known that this server
//! tells this identity: a number was seen, or tags were asked for and answered by AWS, at its own address, or by a server that names itself as one
//! of which the source code says that it tells (SeaweedFS, MinIO). Before that they are asked for.
//! Present objects and versions by their id take different rights, so that each is learned apart.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use aws_sdk_s3::{
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        interceptors::{BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef},
    },
    error::{BoxError, ProvideErrorMetadata},
};

use super::{S3Store, StoreError};

/// What was learned of a server; shared by all requests of a store.
#[derive(Debug, Default)]
pub(super) struct TagCounts {
    /// It tells of objects, and of versions by their id, how many tags they have.
    told: [AtomicBool; 2],
    who: WhoAnswers,
}

impl TagCounts {
    /// Sees where a request goes, and who answers.
    pub(super) fn watch(&self) -> WhoAnswers {
        self.who.clone()
    }

    /// Whether the last request went to AWS.
    pub(super) fn is_at_aws(&self) -> bool {
        self.who.is_aws.load(Ordering::Relaxed)
    }

    /// Whether there may be tags behind an answer with this number.
    pub(super) fn may_have(&self, count: Option<i32>, by_version: bool) -> bool {
        match count {
            Some(count) => {
                self.told[usize::from(by_version)].store(true, Ordering::Relaxed);
                count > 0
            }
            None => !self.told[usize::from(by_version)].load(Ordering::Relaxed),
        }
    }

    /// Tags were asked for without a number, and answered.
    fn answered(&self, by_version: bool, any: bool) {
        if !any && (self.is_at_aws() || self.who.names_itself.load(Ordering::Relaxed)) {
            self.told[usize::from(by_version)].store(true, Ordering::Relaxed);
        }
    }
}

/// Sees whether a request goes to AWS, or is answered by another server that tells.
#[derive(Debug, Clone, Default)]
pub(super) struct WhoAnswers {
    is_aws: Arc<AtomicBool>,
    /// As one that tells.
    names_itself: Arc<AtomicBool>,
}

impl Intercept for WhoAnswers {
    fn name(&self) -> &'static str {
        "WhoAnswers"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.is_aws.store(is_aws(context.request().uri()), Ordering::Relaxed);
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if context.response().headers().get("server").is_some_and(names_a_teller) {
            self.names_itself.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Whether a server names itself as one that tells: SeaweedFS (`weed/s3api`, since 2021) and MinIO (`cmd/api-headers.go`, since 2020) set the number
/// with each object that has tags, whatever else the identity may.
fn names_a_teller(server: &str) -> bool {
    server.starts_with("SeaweedFS ") || server == "MinIO"
}

/// Whether an address is one of AWS' own, private ones (`vpce.amazonaws.com`) included.
fn is_aws(uri: &str) -> bool {
    let after = uri.split_once("://").map_or("", |(_, after)| after);
    let host = after.split(['/', '?', ':']).next().unwrap_or_default();
    [".amazonaws.com", ".amazonaws.com.cn"].iter().any(|end| host.ends_with(end))
}

impl S3Store {
    /// An object's tags; none where the server does not know tags.
    pub(super) async fn tags(
        &self,
        key: &str,
        version: Option<&str>,
        by_version: bool,
    ) -> Result<BTreeMap<String, String>, StoreError> {
        let ask = self.client.get_object_tagging().bucket(&self.bucket).key(self.whole(key));
        let ask = ask.set_request_payer(self.payer.clone());
        match ask.set_version_id(version.map(str::to_owned)).send().await {
            Ok(output) => {
                self.tag_counts.answered(by_version, !output.tag_set.is_empty());
                Ok(output.tag_set.into_iter().map(|tag| (tag.key, tag.value)).collect())
            }
            Err(error) => match self.error(key, "get the tags of", &error) {
                StoreError::Unsupported { .. } => Ok(BTreeMap::new()),
                // Some servers call "none" not found.
                StoreError::NotFound { .. }
                    if error.as_service_error().and_then(ProvideErrorMetadata::code) == Some("NoSuchTagSet") =>
                {
                    self.tag_counts.answered(by_version, false);
                    Ok(BTreeMap::new())
                }
                meaning => Err(meaning),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ordering, TagCounts, is_aws, names_a_teller};

    #[test]
    fn only_aws_is_aws() {
        for (uri, expected) in [
            ("https://b.s3.eu-central-1.amazonaws.com/k", true),
            ("https://bucket.vpce-1-2.s3.us-east-1.vpce.amazonaws.com:443/k?x", true),
            ("https://b.s3.cn-north-1.amazonaws.com.cn/k", true),
            ("https://s3.example.org/b/x.amazonaws.com", false),
            ("https://notamazonaws.com/k", false),
            ("http://127.0.0.1:9000/b/k", false),
        ] {
            assert_eq!(is_aws(uri), expected, "{uri}");
        }
    }

    #[test]
    fn a_server_that_only_sounds_like_one_that_tells_is_asked() {
        assert!(names_a_teller("SeaweedFS 8000GB 4.48") && names_a_teller("MinIO"));
        assert!(!["", "SeaweedFS", "MinIO Gateway", "nginx", "AmazonS3"].iter().any(|server| names_a_teller(server)));
    }

    #[test]
    fn a_missing_number_means_none_only_where_it_is_known_to_be_told() {
        let counts = TagCounts::default();
        assert!(counts.may_have(None, false));
        // Another server than AWS: that one object has none says nothing of the next.
        counts.answered(false, false);
        assert!(counts.may_have(None, false));
        assert!(counts.may_have(Some(2), false), "it has some");
        assert!(!counts.may_have(None, false), "it tells");
        assert!(counts.may_have(None, true), "another right, not learned yet");

        let aws = TagCounts::default();
        aws.who.is_aws.store(true, Ordering::Relaxed);
        assert!(aws.may_have(None, false), "the right to read tags is not known yet");
        aws.answered(false, true);
        assert!(aws.may_have(None, false), "tags without a number: it does not tell");
        aws.answered(false, false);
        assert!(!aws.may_have(None, false) && !aws.may_have(Some(0), false));
        assert!(aws.may_have(None, true));
    }
}
