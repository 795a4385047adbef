//! Plans: how several machines share the work of one recovery point.
//!
//! The first of them makes the plan and stores it, only if absent, under a name that all can work out: the point that they build on and
//! how many they are. So all who build on the same point find the same plan, whoever comes first, and after its point there is another.
//! A [`Claim`] says who is making one that takes long.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Part, Repository, RepositoryError, Snapshot,
    error::Result,
    format::{Id, Kind, MAX_POINT_BYTES, PARTS},
    json_record::never_removed,
    point::list_all,
};
use crate::stores::StoreError;

/// How one source is shared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedSource {
    /// Its name in the policy.
    pub source: String,
    /// Its kind.
    pub kind: String,
    /// Paths between the shards, hexadecimal, ascending: one fewer than there are shards.
    pub cuts: Vec<String>,
    /// What the source wants to be the same for all shards.
    pub context: serde_json::Value,
}

/// How machines share the work of one point.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// 16 hexadecimal digits that only this plan has.
    pub id: String,
    /// Name of the policy.
    pub policy: String,
    /// SHA-256 of the policy's text: whoever has another one does not belong to it.
    pub policy_sha256: String,
    /// Key of the point that is built on.
    pub base: Option<String>,
    /// How many share it.
    pub shards: u32,
    /// When the work began, by the clock of who made the plan.
    pub started_at: DateTime<Utc>,
    /// T of the point that is to come.
    pub consistent_at: DateTime<Utc>,
    /// Sources that are shared.
    pub shared: Vec<SharedSource>,
    /// Sources that one machine captured as a whole: the one that made the plan.
    pub snapshots: Vec<Snapshot>,
}

/// That somebody makes a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Which shard he is.
    pub shard: u32,
    /// On which machine.
    pub host: String,
}

/// What makes a plan this one and no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanName {
    /// `parts/<policy>/plan/<base>-<shards>-<number>`.
    key: String,
}

/// A plan, or what there is instead.
#[derive(Debug)]
pub struct Planned {
    /// Its place.
    pub name: PlanName,
    /// The plan, with the time at which the site stored it.
    pub plan: Option<(Plan, DateTime<Utc>)>,
    /// Who makes one, and since when, by the site's clock.
    pub claim: Option<(Claim, DateTime<Utc>)>,
}

impl PlanName {
    fn of(policy: &str, base: Option<&str>, shards: u32, number: u32) -> Self {
        Self { key: format!("{}{number:08}", Self::prefix(policy, base, shards)) }
    }

    fn prefix(policy: &str, base: Option<&str>, shards: u32) -> String {
        format!("{PARTS}{policy}/plan/{}-{shards}-", base.unwrap_or("none"))
    }

    fn claim_key(&self) -> String {
        format!("{}.claim", self.key)
    }

    fn number(&self) -> u32 {
        self.key.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }
}

impl Plan {
    /// The run of one of its shards: [`Part::run`] of what it captures, whichever machine does and how often.
    pub fn run_of(&self, shard: u32) -> String {
        format!("{}{shard:08x}", self.id.get(..8).unwrap_or_default())
    }

    /// Whether a part is what this shard of this plan captured, whole.
    pub fn is_done_by(&self, part: &Part, shard: u32) -> bool {
        part.shard.as_ref().is_some_and(|mark| mark.plan == self.id && mark.shard == shard && mark.whole)
    }
}

impl Repository {
    /// The newest plan, or claim to make one, of so many shards on this point; the name of the first if there is none.
    ///
    /// # Errors
    /// The store's, [`RepositoryError::Damaged`].
    pub async fn planned(&self, policy: &str, base: Option<&str>, shards: u32) -> Result<Planned> {
        let prefix = PlanName::prefix(policy, base, shards);
        let mut newest = PlanName::of(policy, base, shards, 1);
        let (mut plan_at, mut claim_at) = (None, None);
        for object in list_all(self, &prefix).await? {
            let key = object.key.strip_suffix(".claim").unwrap_or(&object.key);
            let name = PlanName { key: key.to_owned() };
            if name != PlanName::of(policy, base, shards, name.number()) || name.number() < newest.number() {
                continue;
            }
            if name != newest {
                (newest, plan_at, claim_at) = (name, None, None);
            }
            if object.key == newest.key { plan_at = Some(object.modified) } else { claim_at = Some(object.modified) }
        }
        let plan = match plan_at {
            Some(at) => Some((self.part_like(&newest.key).await?, at)),
            None => None,
        };
        let claim = match claim_at {
            Some(at) => Some((self.part_like(&newest.claim_key()).await?, at)),
            None => None,
        };
        Ok(Planned { name: newest, plan, claim })
    }

    /// The name of the plan after this one, for when it is of no use any more.
    pub fn plan_after(&self, policy: &str, base: Option<&str>, shards: u32, name: &PlanName) -> PlanName {
        PlanName::of(policy, base, shards, name.number() + 1)
    }

    /// Stores a plan under its name, if there is none yet; false if there is.
    ///
    /// # Errors
    /// The store's.
    pub async fn put_plan(&self, name: &PlanName, plan: &Plan) -> Result<bool> {
        self.put_part_like(&name.key, plan).await
    }

    /// Stores a claim to make the plan of this name, if there is none yet; false if there is.
    ///
    /// # Errors
    /// The store's.
    pub async fn put_claim(&self, name: &PlanName, claim: &Claim) -> Result<bool> {
        self.put_part_like(&name.claim_key(), claim).await
    }

    async fn put_part_like<T: Serialize + Sync>(&self, key: &str, value: &T) -> Result<bool> {
        let json = serde_json::to_vec(&(key, value)).expect("strings, numbers and JSON values always serialise");
        match self.put_record(Kind::Part, &json, |_| key.to_owned()).await {
            Ok(_) => Ok(true),
            Err(RepositoryError::Store(StoreError::AlreadyExists { .. })) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn part_like<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let named = |(named, _): &(String, T), _: &Id| named.clone();
        Ok(self.record(Kind::Part, key, MAX_POINT_BYTES, named).await.map_err(never_removed)?.1)
    }
}
