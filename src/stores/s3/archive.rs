//! Objects in an archive: whether they can be read, and how they are asked for.

use aws_sdk_s3::{
    operation::head_object::HeadObjectOutput,
    types::{ChecksumAlgorithm, GlacierJobParameters, RestoreRequest, StorageClass, Tier},
};

use super::{S3Store, StoreError};
use crate::stores::{Archive, Availability, Retrieval, RetrievalPriority, archive::s3_archive};

/// What is done, in errors.
const ASK: &str = "bring back";

/// How S3 calls a priority. The deep archive has no expedited retrieval.
fn tier(priority: RetrievalPriority, archive: Archive) -> Tier {
    match (priority, archive) {
        (RetrievalPriority::Bulk, _) => Tier::Bulk,
        (RetrievalPriority::High, Archive::Flexible) => Tier::Expedited,
        (RetrievalPriority::Standard | RetrievalPriority::High, _) => Tier::Standard,
    }
}

/// What HEAD says. `x-amz-restore` is `ongoing-request="true"` while a copy is made, and `ongoing-request="false"` with its end once it
/// is there; without a request it is missing.
fn availability(output: &HeadObjectOutput) -> Availability {
    let class = output.storage_class().map(StorageClass::as_str);
    let Some(archive) = s3_archive(class, output.archive_status().map(|status| status.as_str())) else {
        return Availability::Readable;
    };
    match output.restore() {
        Some(restore) if restore.contains("ongoing-request=\"true\"") => Availability::Coming(archive),
        Some(_) => Availability::Readable,
        None => Availability::Archived(archive),
    }
}

impl S3Store {
    pub(super) async fn ask_availability(&self, key: &str, version: Option<&str>) -> Result<Availability, StoreError> {
        self.look_at_archive(key, version).await.map(|(availability, _)| availability)
    }

    /// Whether it can be read, and whether it moves by itself when it is asked for (Intelligent-Tiering), so that there is no copy which ends.
    async fn look_at_archive(&self, key: &str, version: Option<&str>) -> Result<(Availability, bool), StoreError> {
        let output = self.head(key, version, "stat").await?;
        Ok((availability(&output), output.storage_class() == Some(&StorageClass::IntelligentTiering)))
    }

    pub(super) async fn ask_for(&self, key: &str, version: Option<&str>, how: Retrieval) -> Result<Availability, StoreError> {
        let version = self.version_to_read(key, version).await?;
        let (found, moves) = self.look_at_archive(key, version.as_deref()).await?;
        let Availability::Archived(archive) = found else { return Ok(found) };
        let parameters = GlacierJobParameters::builder().tier(tier(how.priority, archive)).build();
        let parameters = parameters.map_err(|error| self.other(key, ASK, error.to_string()))?;
        let wanted =
            RestoreRequest::builder().set_days((!moves).then_some(i32::from(how.days))).glacier_job_parameters(parameters).build();
        let sent = self
            .client
            .restore_object()
            .bucket(&self.bucket)
            .key(self.whole(key))
            .set_version_id(version.clone())
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .restore_request(wanted)
            .set_request_payer(self.payer.clone())
            .send()
            .await;
        match sent {
            Ok(_) => Ok(Availability::Coming(archive)),
            Err(error) => match self.error(key, ASK, &error) {
                // Somebody else asked between the two requests.
                StoreError::Other { detail, .. } if detail.starts_with("RestoreAlreadyInProgress") => {
                    Ok(Availability::Coming(archive))
                }
                // An answer that was lost, to a request that was carried out.
                StoreError::Archived { .. } => self.ask_availability(key, version.as_deref()).await,
                StoreError::Throttled { place, detail, .. } if detail.starts_with("GlacierExpeditedRetrievalNotAvailable") => {
                    let detail = format!("{detail}; ask for it with the standard priority");
                    Err(StoreError::Other { place, action: ASK, detail })
                }
                meaning => Err(meaning),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Archive, Availability, HeadObjectOutput, RetrievalPriority, StorageClass, Tier, availability, tier};

    #[test]
    fn what_was_asked_for_is_told_from_what_was_not_and_from_what_is_there() {
        let head = || HeadObjectOutput::builder().storage_class(StorageClass::DeepArchive);
        assert_eq!(availability(&head().build()), Availability::Archived(Archive::Deep));
        assert_eq!(availability(&head().restore("ongoing-request=\"true\"").build()), Availability::Coming(Archive::Deep));
        let there = "ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2012 00:00:00 GMT\"";
        assert_eq!(availability(&head().restore(there).build()), Availability::Readable);
        assert_eq!(availability(&HeadObjectOutput::builder().build()), Availability::Readable);
    }

    #[test]
    fn the_deep_archive_is_never_asked_for_what_it_has_not() {
        assert_eq!(tier(RetrievalPriority::High, Archive::Deep), Tier::Standard);
        assert_eq!(tier(RetrievalPriority::High, Archive::Flexible), Tier::Expedited);
        assert_eq!(tier(RetrievalPriority::Bulk, Archive::Deep), Tier::Bulk);
    }
}
