//! Locks: time-based policies on single versions, and what a container needs so that it can have them; and legal holds.
//!
//! At a site only locked policies are written (compliance). An unlocked one is no lock to Farshore: whoever may set a policy may also shorten
//! and remove an unlocked one (Microsoft's "Set" and "Delete Blob Immutability Policy" ask for the same right), and the agent must be able to
//! set policies. Where one is there already, it is read as a lock in governance mode, and tightened when it is extended. What a restored object
//! has among its attributes is another matter: it had that at its source, and gets it back.

use azure_core::http::Method;

use super::{
    AzureStore, StoreError,
    request::{Answer, Call, http_time},
    versions::Version,
};
use crate::stores::{Holds, Lock, LockMode, LockSupport, no_locks};

/// Names the end of a policy, in requests and in answers.
const UNTIL: &str = "x-ms-immutability-policy-until-date";
/// Names its mode.
const MODE: &str = "x-ms-immutability-policy-mode";
/// Says whether a legal hold is on a version.
const LEGAL_HOLD: &str = "x-ms-legal-hold";

/// What is done to a lock, in errors.
const EXTEND: &str = "extend the lock of";

/// A request that sets a policy: together with a blob, or on one that is there.
pub(super) fn locked(call: Call, lock: Lock) -> Call {
    let mode = match lock.mode {
        LockMode::Compliance => "Locked",
        LockMode::Governance => "Unlocked",
    };
    // Whole seconds, as Azure keeps them.
    call.header(UNTIL, lock.until.format("%a, %d %b %Y %H:%M:%S GMT").to_string()).header(MODE, mode)
}

/// A request that stores a blob which is held so from the beginning.
pub(super) fn held(call: Call, holds: Holds) -> Call {
    let call = match holds.lock {
        Some(lock) => locked(call, lock),
        None => call,
    };
    call.optional(LEGAL_HOLD, holds.legal_hold.then_some("true"))
}

/// What a policy's two properties say. Fails with what is wrong with them.
pub(super) fn policy(mode: Option<&str>, until: Option<&str>) -> Result<Option<Lock>, &'static str> {
    let mode = match mode.map(str::to_ascii_lowercase).as_deref() {
        Some("locked") => LockMode::Compliance,
        Some("unlocked") => LockMode::Governance,
        // "Mutable" is Azure's word for none.
        _ => return Ok(None),
    };
    let until = until.and_then(http_time).ok_or("a policy without an end was answered")?;
    Ok(Some(Lock { mode, until }))
}

/// Whether it is a policy that refused. (Whether a legal hold did is another code: that has no end.)
pub(super) fn refused_by_policy(error: &StoreError) -> bool {
    matches!(error, StoreError::Denied { detail, .. } if detail.starts_with("BlobImmutableDueToPolicy"))
}

impl AzureStore {
    /// Refuses a lock that would hold nothing.
    pub(super) fn check_lock(&self, lock: Lock) -> Result<(), StoreError> {
        match lock.mode {
            LockMode::Compliance => Ok(()),
            LockMode::Governance => Err(StoreError::Unsupported { place: self.place.clone(), what: "a lock in governance mode" }),
        }
    }

    /// The lock on a version now, or on the current one.
    pub(super) async fn lock_of_version(&self, key: &str, version: Option<&str>) -> Result<Option<Lock>, StoreError> {
        Ok(self.holds_of_version(key, version).await?.lock)
    }

    /// What holds a version now, or the current one. Whoever may read a blob is told.
    pub(super) async fn holds_of_version(&self, key: &str, version: Option<&str>) -> Result<Holds, StoreError> {
        let call = Call::blob(Method::Head, &self.whole(key)).version(version);
        let answer = self.ask(call, key, "read the lock of").await?;
        self.shown_holds(key, &answer)
    }

    /// What an answer says of what holds the version.
    pub(super) fn shown_holds(&self, key: &str, answer: &Answer) -> Result<Holds, StoreError> {
        let now = answer.time("date").unwrap_or_else(|| self.clock.now());
        let policy = policy(answer.header(MODE), answer.header(UNTIL));
        let lock = policy.map_err(|detail| self.corrupt(key, detail))?.filter(|lock| lock.until > now);
        Ok(Holds { lock, legal_hold: answer.header(LEGAL_HOLD).is_some_and(|text| text.eq_ignore_ascii_case("true")) })
    }

    pub(super) async fn lengthen_lock(&self, key: &str, lock: Lock) -> Result<Lock, StoreError> {
        self.check_lock(lock)?;
        let first = self.first_version(key).await?;
        if let Some(present) = first.lock.filter(|present| present.covers(&lock)) {
            return Ok(present);
        }
        let wanted = first.lock.map_or(lock, |present| present.joined(&lock));
        self.put_policy(key, &first, wanted).await?;
        Ok(wanted)
    }

    pub(super) async fn put_lock(&self, key: &str, lock: Lock) -> Result<(), StoreError> {
        self.check_lock(lock)?;
        let first = self.first_version(key).await?;
        self.put_policy(key, &first, lock).await
    }

    /// By the version's id. Should the service want the current version by its name, as it does for deletion, then on condition that nothing
    /// was written over it meanwhile: the lock must not get to what somebody else put there.
    async fn put_policy(&self, key: &str, version: &Version, lock: Lock) -> Result<(), StoreError> {
        let call = || locked(Call::blob(Method::Put, &self.whole(key)).query("comp", "immutabilityPolicies"), lock);
        let mut answered = self.ask(call().version(version.id.as_deref()), key, EXTEND).await;
        if matches!(&answered, Err(StoreError::Denied { detail, .. }) if detail.starts_with("OperationNotAllowedOnRootBlob")) {
            answered = self.ask(call().optional("if-unmodified-since", version.modified.as_deref()), key, EXTEND).await;
        }
        match answered {
            Ok(_) => Ok(()),
            Err(StoreError::Unsupported { .. }) => Err(no_locks(self.place.clone())),
            Err(error) => Err(error),
        }
    }

    /// A container that has the support is versioned, too: one is not to be had without the other.
    pub(super) async fn ask_lock_support(&self) -> Result<LockSupport, StoreError> {
        let answer = self.ask(Call::container(Method::Get), "", "read the properties of the container of").await?;
        let enabled =
            answer.header("x-ms-immutable-storage-with-versioning-enabled").is_some_and(|text| text.eq_ignore_ascii_case("true"));
        let remedy = (!enabled).then(|| {
            format!(
                "The container {} of the account {} has no version-level immutability support, which needs blob versioning. {}, or migrate the container (the runbook has it under \"A lock is in the way\")",
                self.container,
                self.account,
                self.how_to_make_one()
            )
        });
        Ok(LockSupport { versioned: enabled, object_lock: enabled, remedy })
    }

    /// Only Azure's management interface makes such a container; this store speaks the service's.
    pub(super) async fn expect_locking_container(&self) -> Result<(), StoreError> {
        match self.server_time().await {
            Err(StoreError::NoSuchPlace { .. }) => Err(StoreError::Other {
                place: self.place.clone(),
                action: "create",
                detail: format!(
                    "there is no such container, and one whose blobs can be locked is made by Azure's management interface alone. {}, then run the command again",
                    self.how_to_make_one()
                ),
            }),
            answered => answered.map(|_| ()),
        }
    }

    fn how_to_make_one(&self) -> String {
        let (account, container) = (&self.account, &self.container);
        format!(
            "Turn versioning on (az storage account blob-service-properties update --account-name {account} --resource-group GROUP --enable-versioning true) and make the container with that support \
             (az storage container-rm create --storage-account {account} --resource-group GROUP --name {container} --enable-vlw true)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Lock, LockMode, StoreError, policy, refused_by_policy};

    #[test]
    fn policies_are_read_however_the_service_spells_them() {
        let date = Some("Sun, 01 Feb 2015 03:04:05 GMT");
        let until = chrono::DateTime::from_timestamp(1_422_759_845, 0).unwrap();
        for (mode, expected) in
            [("Locked", LockMode::Compliance), ("locked", LockMode::Compliance), ("unlocked", LockMode::Governance)]
        {
            assert_eq!(policy(Some(mode), date), Ok(Some(Lock { mode: expected, until })));
        }
        assert_eq!(policy(Some("Mutable"), None), Ok(None));
        assert_eq!(policy(None, None), Ok(None));
        policy(Some("Locked"), None).unwrap_err();
        policy(Some("Locked"), Some("tomorrow")).unwrap_err();
    }

    #[test]
    fn a_policy_is_told_from_a_legal_hold_and_from_a_missing_right() {
        let denied = |detail: &str| StoreError::Denied { place: String::new(), action: "delete", detail: detail.to_owned() };
        assert!(refused_by_policy(&denied("BlobImmutableDueToPolicy: This operation is not permitted, HTTP 409")));
        assert!(!refused_by_policy(&denied("BlobImmutableDueToLegalHold, HTTP 409")));
        assert!(!refused_by_policy(&denied("AuthorizationPermissionMismatch, HTTP 403")));
    }
}
