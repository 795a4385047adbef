//! What prune sees of a repository before it decides.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    OperationError, PruneRequest,
    give_up::keep_what_is_not_lost,
    judge::{Fate, Judgement},
};
use crate::{
    operations::{pins, retention},
    policy::{PointFacts, RetentionPlan, plan_retention},
    progress::{Observer, Problem, Tally},
    repository::{
        CLOCK_TOLERANCE, Dooms, Id, PointName, Reach, Reader, RecordFacts, Repository, RepositoryError, SPARED_RECORD_STAYS,
        StoredDoom, may_be_unseen,
    },
    stores::StoreError,
};

/// Everything but packs and keys.
#[derive(Debug)]
pub(super) struct Look {
    /// The site's time, asked for before everything else: every point that was committed until then is seen.
    pub(super) now: DateTime<Utc>,
    /// The policy's grace.
    pub(super) grace: TimeDelta,
    pub(super) records: Vec<StoredDoom>,
    pub(super) dooms: Dooms,
    pub(super) facts: Vec<PointFacts>,
    pub(super) plan: RetentionPlan,
    /// Points of all policies that are there, by key of their objects.
    points: BTreeMap<String, PointName>,
    /// Those that retention does not keep.
    remove: BTreeSet<String>,
    /// Those that another prune at work may not have seen.
    recent: BTreeSet<String>,
    /// When the first of these began.
    recent_began: Option<DateTime<Utc>>,
    /// Of the packs and data keys that records name, or whose key one names: those that points need which no record names. A point that
    /// one names may be gone already, for a prune of another policy, which then deletes what it needed by these very records.
    needed_for_long: (HashSet<[u8; 32]>, HashSet<Id>),
    /// What the points that are there need; `None` where that is not known.
    pub(super) reach: Option<Reach>,
    /// A doomed point could not be followed: nothing that is doomed may go.
    pub(super) doomed_unclear: bool,
}

impl Look {
    /// Reads records, points, pins and evidence, in this order.
    pub(super) async fn begin(request: &PruneRequest<'_>, now: DateTime<Utc>, tally: &Tally) -> Result<Self, OperationError> {
        let repository = request.repository;
        let mut records = repository.doom_records().await?;
        // Whatever a record says, nobody's points wait less than this policy has them wait.
        let grace_seconds = request.retention.grace.as_secs();
        for record in records.iter_mut().filter_map(|stored| stored.record.as_mut().ok()) {
            record.grace_seconds = record.grace_seconds.max(grace_seconds);
        }
        let mut facts = retention::facts(repository, Some(&request.policy.name)).await?;
        keep_what_is_not_lost(request, &mut facts, tally).await?;
        // After the facts: a pin that came in between holds, too.
        let dooms = Dooms::since(&records, &pins::held_until(&repository.pins().await?));
        let plan = plan_retention(&facts, request.retention, now);
        let stored = repository.stored_points(None).await?;
        let unseen = stored.iter().filter(|(_, stored_at)| may_be_unseen(*stored_at, now));
        let recent = unseen.map(|(name, _)| name.key.clone()).collect();
        let points: BTreeMap<String, PointName> = stored.into_iter().map(|(name, _)| (name.key.clone(), name)).collect();
        let removed: BTreeSet<&str> = plan.removed().map(|decision| decision.id.as_str()).collect();
        let is_removed = |name: &PointName| name.policy == request.policy.name && removed.contains(name.id.as_str());
        let remove = points.values().filter(|name| is_removed(name)).map(|name| name.key.clone()).collect();
        Ok(Self {
            now,
            grace: TimeDelta::from_std(request.retention.grace).unwrap_or(TimeDelta::MAX),
            dooms,
            records,
            facts,
            plan,
            points,
            remove,
            recent,
            recent_began: None,
            needed_for_long: Default::default(),
            reach: None,
            doomed_unclear: false,
        })
    }

    /// Points that retention does not keep and whose grace is over.
    pub(super) fn condemned(&self) -> BTreeSet<String> {
        let is_over = |point: &&String| self.dooms.point(point).is_some_and(|matures_at| matures_at <= self.now);
        self.remove.iter().filter(is_over).cloned().collect()
    }

    /// These points are not there any more.
    pub(super) fn gone(&mut self, points: &BTreeSet<String>) {
        self.points.retain(|key, _| !points.contains(key));
        self.remove.retain(|key| !points.contains(key));
    }

    /// Points that are to go and that no record names yet.
    pub(super) fn points_to_doom(&self) -> impl Iterator<Item = &String> {
        self.remove.iter().filter(|point| self.dooms.point(point).is_none())
    }

    /// Finds out what the points need: first those that stay, then the others that are still there.
    pub(super) async fn follow(
        &mut self,
        request: &PruneRequest<'_>,
        reader: &Reader,
        tally: &Tally,
    ) -> Result<(), OperationError> {
        tally.phase("follow points", None);
        let mut reach = Reach::new(reader.cache())?;
        let (doomed, kept): (Vec<_>, Vec<_>) = self.points.values().partition(|name| self.remove.contains(&name.key));
        let (named, unnamed): (Vec<_>, Vec<_>) = kept.into_iter().partition(|name| self.dooms.point(&name.key).is_some());
        let (mut is_clear, mut recent_began) = (true, None);
        let mut note = |name: &PointName, began: DateTime<Utc>| {
            if self.recent.contains(&name.key) {
                recent_began = Some(recent_began.map_or(began, |first: DateTime<Utc>| first.min(began)));
            }
        };
        let mut needed_for_long = None;
        for group in [unnamed, named] {
            for name in group {
                tally.items(1);
                let followed = follow(request.repository, reader, &mut reach, name).await?;
                note(name, began_at(&followed));
                if let Err(error) = followed {
                    tally.problem(Problem::new(
                        format!("point {}", name.id),
                        format!("what it needs cannot be told, so no pack is pruned (`farshore repair` may help; a point that is lost can be given up: `farshore give-up`): {error}"),
                    ));
                    is_clear = false;
                }
            }
            if needed_for_long.is_none() {
                needed_for_long = Some(self.named_and_needed(reader, &reach)?);
            }
        }
        reach.settle();
        for name in doomed {
            let followed = follow(request.repository, reader, &mut reach, name).await?;
            note(name, began_at(&followed));
            if let Err(error) = followed {
                tracing::warn!(point = name.id, %error, "a doomed point cannot be followed: nothing that is doomed is deleted while it is there");
                self.doomed_unclear = true;
            }
        }
        if reach.holes() > 0 {
            tally.problem(Problem::new(
                request.repository.store().describe(),
                format!("{} chunks that points need are in no index: packs that no index names are kept, one of them may hold them. Run `farshore repair`", reach.holes()),
            ));
        }
        for damaged in &reader.cache().seen().damaged {
            tally.problem(Problem::new(&damaged.key, format!("is damaged; run `farshore repair`: {}", damaged.detail)));
        }
        for stored in &self.records {
            if let Err(detail) = &stored.record {
                tally.problem(Problem::new(&stored.key, format!("is damaged, and nothing is deleted for its sake: {detail}")));
            }
        }
        if is_clear {
            self.reach = Some(reach);
        }
        self.needed_for_long = needed_for_long.unwrap_or_default();
        self.recent_began = recent_began;
        Ok(())
    }

    /// What records name of that which was found to be needed so far.
    fn named_and_needed(&self, reader: &Reader, reach: &Reach) -> Result<(HashSet<[u8; 32]>, HashSet<Id>), OperationError> {
        let (mut packs, mut keys) = (HashSet::new(), HashSet::new());
        if !self.records.is_empty() {
            for (number, record) in reader.cache().packs()? {
                if self.dooms.names(&record) && reach.needed(number).is_some() {
                    packs.insert(record.sha256);
                    keys.insert(record.data_key);
                }
            }
        }
        Ok((packs, keys))
    }

    /// When the next of what is doomed matures.
    pub(super) fn next_maturity(&self) -> Option<DateTime<Utc>> {
        self.records.iter().filter(|stored| stored.record.is_ok()).map(StoredDoom::matures_at).filter(|at| *at > self.now).min()
    }

    /// Keys of the records that nobody needs any more: all that they name was gone before this prune, or was spared long ago.
    pub(super) fn done_with<'a>(
        &'a self,
        request: &'a PruneRequest<'_>,
        judgement: &'a Judgement,
    ) -> impl Iterator<Item = String> + 'a {
        let is_done = move |stored: &&StoredDoom| {
            let Ok(record) = &stored.record else {
                // Nobody deletes anything for its sake; it only stands in the way.
                return self.now - stored.stored_at > SPARED_RECORD_STAYS;
            };
            let points = || record.points.iter().filter(|point| self.points.contains_key(*point));
            if record.policy != request.policy.name && points().next().is_some() {
                // Its own policy's prune has yet to look at them.
                return false;
            }
            let is_kept = |point: &String| !self.remove.contains(point);
            let fates = || judgement.fates(record, &self.needed_for_long);
            RecordFacts {
                matures_at: stored.matures_at(),
                pending: !points().all(is_kept) || fates().any(|fate| fate == Fate::Pending),
                spared: points().any(is_kept) || fates().any(|fate| fate == Fate::Needed),
                late: self.recent_began.is_some_and(|began| began <= stored.stored_at + CLOCK_TOLERANCE),
            }
            .is_done(self.now)
        };
        self.records.iter().filter(is_done).map(|stored| stored.key.clone())
    }
}

/// When the run began that made a point; long ago, where nobody can tell.
fn began_at(followed: &Result<DateTime<Utc>, RepositoryError>) -> DateTime<Utc> {
    followed.as_ref().copied().unwrap_or(DateTime::<Utc>::MIN_UTC)
}

/// Follows one point; returns when its run began. The inner error says that it cannot be followed.
pub(super) async fn follow(
    repository: &Repository,
    reader: &Reader,
    reach: &mut Reach,
    name: &PointName,
) -> Result<Result<DateTime<Utc>, RepositoryError>, OperationError> {
    let followed = async {
        let point = repository.point(name).await?;
        for snapshot in &point.snapshots {
            reach.follow(reader, snapshot).await?;
        }
        Ok::<_, RepositoryError>(point.started_at)
    };
    match followed.await {
        Ok(began) => Ok(Ok(began)),
        Err(error) if error.is_damage() => match repository.store().stat(&name.key).await {
            // Another prune deleted it since it was listed.
            Err(StoreError::NotFound { .. }) => Ok(Ok(DateTime::<Utc>::MAX_UTC)),
            _ => Ok(Err(error)),
        },
        Err(error) => Err(error.into()),
    }
}
