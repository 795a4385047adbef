//! Plans: how several machines share the work of one recovery point.
//!
//! The first of them makes the plan and stores it, only if absent, under a name that all can work out: the point that they build on and
//! how many they are. So all who build on the same point find the same plan, whoever comes first, and after its point there is another.
//! A [`Claim`] says who is making one that takes long.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Part, Repository, RepositoryError, Snapshot,
    error::Result,
    format::{Id, Kind, MAX_POINT_BYTES, PARTS},
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
    /// The name of the plan after this one, for when it is of no use any more.
    pub after: PlanName,
}

/// Behind a plan's name: who makes it.
const CLAIM: &str = ".claim";
/// Plans of one point and number of shards; nobody comes near.
const LAST_NUMBER: u32 = 99_999_999;

impl PlanName {
    fn of(policy: &str, base: Option<&str>, shards: u32, number: u32) -> Self {
        Self { key: format!("{}{number:08}", Self::prefix(policy, base, shards)) }
    }

    fn prefix(policy: &str, base: Option<&str>, shards: u32) -> String {
        format!("{PARTS}{policy}/plan/{}-{shards}-", base.unwrap_or("none"))
    }

    fn claim_key(&self) -> String {
        format!("{}{CLAIM}", self.key)
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

    /// Whether a run is of this shard, of whichever plan.
    pub fn is_run_of(run: &str, shard: u32) -> bool {
        run.get(8..).is_some_and(|number| number == format!("{shard:08x}"))
    }

    /// Whether a part is what this shard of this plan captured, whole.
    pub fn is_done_by(&self, part: &Part, shard: u32) -> bool {
        part.shard.as_ref().is_some_and(|mark| mark.plan == self.id && mark.shard == shard && mark.whole)
    }
}

impl Repository {
    /// The newest plan, or claim to make one, of so many shards on this point; the name of the first if there is none. One that cannot be read
    /// is passed over, and its name is not used again.
    ///
    /// # Errors
    /// The store's.
    pub async fn planned(&self, policy: &str, base: Option<&str>, shards: u32) -> Result<Planned> {
        let of = |number| PlanName::of(policy, base, shards, number);
        // By number, when the site stored the plan and the claim.
        let mut there: BTreeMap<u32, [Option<DateTime<Utc>>; 2]> = BTreeMap::new();
        for object in list_all(self, &PlanName::prefix(policy, base, shards)).await? {
            let key = object.key.strip_suffix(CLAIM).unwrap_or(&object.key);
            let name = PlanName { key: key.to_owned() };
            if (1..=LAST_NUMBER).contains(&name.number()) && name == of(name.number()) {
                there.entry(name.number()).or_default()[usize::from(key != object.key)] = Some(object.modified);
            }
        }
        let free_after = |number| of((number + 1..=LAST_NUMBER).find(|number| !there.contains_key(number)).unwrap_or(LAST_NUMBER));
        for (number, [plan_at, claim_at]) in there.iter().rev() {
            let name = of(*number);
            let plan = self.if_readable(&name.key, *plan_at).await?;
            let claim = self.if_readable(&name.claim_key(), *claim_at).await?;
            // A claim beside a plan that cannot be read has had its time.
            if plan.is_some() || (claim.is_some() && plan_at.is_none()) {
                return Ok(Planned { after: free_after(*number), name, plan, claim });
            }
        }
        let name = free_after(0);
        Ok(Planned { after: free_after(name.number()), name, plan: None, claim: None })
    }

    /// What lies there, if the listing showed it and it can be read.
    async fn if_readable<T: DeserializeOwned>(&self, key: &str, at: Option<DateTime<Utc>>) -> Result<Option<(T, DateTime<Utc>)>> {
        let Some(at) = at else { return Ok(None) };
        let named = |(named, _): &(String, T), _: &Id| named.clone();
        match self.record(Kind::Part, key, MAX_POINT_BYTES, named).await {
            Ok((_, value)) => Ok(Some((value, at))),
            // A prune took it away since it was listed.
            Err(RepositoryError::Store(StoreError::NotFound { .. })) => Ok(None),
            Err(error) if error.is_damage() => {
                tracing::warn!(%error, key, "a plan of shards, or a claim to make one, cannot be read");
                Ok(None)
            }
            Err(error) => Err(error),
        }
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
}
