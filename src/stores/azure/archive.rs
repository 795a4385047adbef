//! Blobs in the archive tier: whether they can be read, and how they are asked for.
//!
//! A blob is brought back by moving it (Microsoft's "Set Blob Tier"): it is the same blob, of the same time and tag, and stays in its new tier until
//! a rule or somebody moves it again.

use azure_core::http::Method;

use super::{AzureStore, StoreError, request::Call};
use crate::stores::{Archive, Availability, Retrieval, RetrievalPriority};

/// Where it is moved to: it is to be read once, or some times, and soon.
const TO: &str = "Hot";

/// What `x-ms-access-tier` and `x-ms-archive-status` say; the latter is there while a blob is on its way.
fn availability(tier: Option<&str>, status: Option<&str>) -> Availability {
    match (tier, status) {
        (Some("Archive"), Some(status)) if status.starts_with("rehydrate-pending") => Availability::Coming(Archive::Azure),
        (Some("Archive"), _) => Availability::Archived(Archive::Azure),
        _ => Availability::Readable,
    }
}

impl AzureStore {
    pub(super) async fn ask_availability(&self, key: &str, version: Option<&str>) -> Result<Availability, StoreError> {
        let version = self.version_to_read(key, version).await?;
        let answer = self.ask(Call::blob(Method::Head, &self.whole(key)).version(version.as_deref()), key, "stat").await?;
        Ok(availability(answer.header("x-ms-access-tier"), answer.header("x-ms-archive-status")))
    }

    pub(super) async fn ask_for(&self, key: &str, version: Option<&str>, how: Retrieval) -> Result<Availability, StoreError> {
        let version = self.version_to_read(key, version).await?;
        let found = self.ask_availability(key, version.as_deref()).await?;
        if !matches!(found, Availability::Archived(_)) {
            return Ok(found);
        }
        let priority = match how.priority {
            RetrievalPriority::High => "High",
            RetrievalPriority::Bulk | RetrievalPriority::Standard => "Standard",
        };
        let call = Call::blob(Method::Put, &self.whole(key))
            .query("comp", "tier")
            .version(version.as_deref())
            .header("x-ms-access-tier", TO)
            .header("x-ms-rehydrate-priority", priority);
        match self.ask(call, key, "bring back").await {
            Ok(_) => Ok(Availability::Coming(Archive::Azure)),
            // Somebody else asked between the two requests.
            Err(StoreError::Archived { .. }) => self.ask_availability(key, version.as_deref()).await,
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Archive, Availability, availability};

    #[test]
    fn what_was_asked_for_is_told_from_what_was_not_and_from_what_is_there() {
        assert_eq!(availability(Some("Archive"), None), Availability::Archived(Archive::Azure));
        assert_eq!(availability(Some("Archive"), Some("rehydrate-pending-to-hot")), Availability::Coming(Archive::Azure));
        assert_eq!(availability(Some("Hot"), None), Availability::Readable);
        assert_eq!(availability(None, None), Availability::Readable);
    }
}
