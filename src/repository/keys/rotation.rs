//! Rotation: other recipients, and every key wrapped anew for them. Data is never touched.
//!
//! Nothing is written before one data key was opened: who opens none could only announce recipients for whom nothing is wrapped.
//!
//! Order of writes: the recipient set of the next generation → the catalogue key wrapped for it → each data key wrapped for it →
//! the older wraps that an outsider opens are deleted, data keys first and the catalogue key last. If we stop here, anywhere: the
//! set says what is meant, the names of the wraps say what is done, and the same call goes on; whoever could read before still
//! can, until the very end, by the older wraps.
//!
//! Whom keys are wrapped to is told by the caller (a policy, an operator), never read from the site: an agent's key is enough to
//! write a set, and would otherwise be enough to have itself let in.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, stream};
use serde::Serialize;

use super::{
    RecipientSet, Recipients, Secret, SetMember,
    sets::Sets,
    wrap::{KeyKind, WrapName, fetch_any, fetch_wrap, list_wraps, store_wrap},
};
use crate::{
    progress::Observer,
    repository::{
        PackCheck, Repository, RepositoryError,
        error::Result,
        format::{Id, KEYS},
    },
    stores::StoreError,
};

/// Keys wrapped at once.
const AT_ONCE: usize = 8;
/// How often the keys are listed again for those that backups stored meanwhile.
const ROUNDS: usize = 3;

/// Who shall open the repository from now on.
#[derive(Debug, Clone, Default)]
pub struct RotationRequest {
    /// Public keys (`age1…`) of those who open everything; at least one.
    pub readers: Vec<String>,
    /// Public keys of agents, which open the catalogue key only; nothing for those of the newest set.
    pub agents: Option<Vec<String>>,
    /// What a recipient is called, by its public key; others keep the name they had.
    pub names: BTreeMap<String, String>,
    /// Wrap everything anew, also if nobody comes or goes.
    pub anew: bool,
}

/// What a rotation would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RotationPlan {
    /// Generation of the recipient set that will be the newest.
    pub generation: u32,
    /// Whether that set is still to be written.
    pub writes_set: bool,
    /// The recipients from then on.
    pub recipients: Vec<String>,
    /// Those of them that the newest set lacks.
    pub added: Vec<String>,
    /// Those of the newest set that will be none.
    pub removed: Vec<String>,
    /// The agents from then on.
    pub agents: Vec<String>,
    /// Data keys, and keys of the log, at the site.
    pub data_keys: u64,
    /// Those of them still to be wrapped.
    pub data_keys_to_wrap: u64,
    /// Whether the catalogue key is still to be wrapped.
    pub wraps_catalogue: bool,
    /// Older wraps that somebody opens who will be no recipient: to be deleted.
    pub superseded: Vec<String>,
}

/// What a rotation did.
#[derive(Debug, Clone, Serialize)]
pub struct RotationSummary {
    /// What was meant, as it was when it began.
    pub plan: RotationPlan,
    /// Keys that were wrapped for the newest set, the catalogue key among them.
    pub wrapped: u64,
    /// Older wraps deleted.
    pub deleted: u64,
    /// Keys that could not be wrapped anew, with the reason.
    pub unwrapped: Vec<PackCheck>,
    /// Older wraps that an outsider still opens, with the reason why they are there.
    pub left: Vec<PackCheck>,
}

/// What is to be done, with what is needed to do it.
struct Work {
    plan: RotationPlan,
    /// The newest set as it is or shall be.
    members: Vec<SetMember>,
    recipients: Recipients,
    sets: Sets,
    /// The newest set, where it is there already.
    set: Option<RecipientSet>,
    /// Every older wrap goes: asked for now, or by a rotation that was stopped.
    anew: bool,
}

impl Work {
    /// Whether this wrap opens to somebody who is none of the recipients any more; of those wrapped anew, whether it is old.
    fn superseded(&self, wrap: &WrapName) -> bool {
        // What a later set has belongs to whoever wrote that: two rotations that each delete the other's wraps leave none.
        let is_newer = wrap.set.generation > self.plan.generation;
        let is_own = wrap.set.generation == self.plan.generation && self.set.as_ref().is_none_or(|set| set.name == wrap.set);
        if is_newer || is_own {
            return false;
        }
        let agents = (wrap.kind == KeyKind::Catalogue).then_some(self.plan.agents.as_slice());
        self.anew || self.sets.get(&wrap.set).is_none_or(|set| set.has_outsiders(&self.plan.recipients, agents))
    }
}

/// What a run of a rotation found out and did.
#[derive(Default)]
struct Done {
    /// Wraps that this run stored and the site confirmed, or that it opened.
    proven: BTreeSet<WrapName>,
    wrapped: u64,
    deleted: u64,
    unwrapped: Vec<PackCheck>,
    left: Vec<PackCheck>,
}

fn refused(place: String, detail: impl Into<String>) -> RepositoryError {
    RepositoryError::Key { place, detail: detail.into() }
}

impl Repository {
    /// What it would take to have `request` hold. Nothing is written.
    ///
    /// # Errors
    /// [`RepositoryError::Key`] for an unencrypted repository, no recipient, or agents that nobody knows; the store's.
    pub async fn plan_rotation(&self, request: &RotationRequest) -> Result<RotationPlan> {
        Ok(self.rotation(request).await?.plan)
    }

    async fn rotation(&self, request: &RotationRequest) -> Result<Work> {
        let place = self.store.describe();
        if self.is_unencrypted() {
            return Err(refused(place, "the repository is unencrypted: it has no recipients to change"));
        }
        let sets = self.recipient_sets().await?;
        let (newest, last) = (sets.newest(), sets.newest_sound());
        let Some(agents) = request.agents.clone().or_else(|| last.agents.clone()) else {
            return Err(refused(
                place,
                "it is not recorded who the agent is, which must go on opening the catalogue: give its public key with --agent (`farshore key public FILE`), or say --no-agent",
            ));
        };
        let recipients = Recipients::parse(&request.readers, &agents)?;
        let (readers, agents) = (recipients.public_keys(), recipients.agents());
        if readers.is_empty() {
            return Err(refused(place, "nobody would be left who can restore; name at least one recipient"));
        }
        let there = last.keys().unwrap_or_default();
        let set = newest.filter(|set| {
            !request.anew && set.keys().as_ref() == Some(&readers) && set.agents.as_ref().is_none_or(|own| *own == agents)
        });
        let generation = set.map_or_else(|| sets.last_generation().saturating_add(1), |set| set.name.generation);
        let members = readers
            .iter()
            .map(|key| {
                let known = last.recipients.iter().flatten().find(|member| member.key == *key);
                SetMember {
                    key: key.clone(),
                    name: request.names.get(key).cloned().or_else(|| known?.name.clone()),
                    added_at: known.map_or_else(|| self.clock.now(), |member| member.added_at),
                }
            })
            .collect();
        let plan = RotationPlan {
            generation,
            writes_set: set.is_none(),
            added: readers.iter().filter(|key| !there.contains(key)).cloned().collect(),
            removed: there.iter().filter(|key| !readers.contains(key)).cloned().collect(),
            recipients: readers,
            agents,
            data_keys: 0,
            data_keys_to_wrap: 0,
            wraps_catalogue: false,
            superseded: Vec::new(),
        };
        let anew = request.anew || (set.is_some() && sets.newest_was_made_anew());
        let mut work = Work { plan, members, recipients, set: set.cloned(), sets, anew };
        let wraps = self.wraps_by_key().await?;
        let has = |wraps: &[WrapName]| work.set.as_ref().is_some_and(|set| wraps.iter().any(|wrap| wrap.set == set.name));
        let data: Vec<_> = wraps.iter().filter(|((kind, _), _)| *kind != KeyKind::Catalogue).collect();
        let to_wrap = data.iter().filter(|(_, wraps)| !has(wraps)).count() as u64;
        let wraps_catalogue = !wraps.get(&(KeyKind::Catalogue, self.catalogue.id)).is_some_and(|wraps| has(wraps));
        let superseded = wraps.values().flatten().filter(|wrap| work.superseded(wrap)).map(ToString::to_string).collect();
        (work.plan.data_keys, work.plan.data_keys_to_wrap) = (data.len() as u64, to_wrap);
        (work.plan.wraps_catalogue, work.plan.superseded) = (wraps_catalogue, superseded);
        Ok(work)
    }

    /// Every wrap at the site by what it wraps, the newest of each first.
    pub(super) async fn wraps_by_key(&self) -> Result<BTreeMap<(KeyKind, Id), Vec<WrapName>>> {
        let mut by_key: BTreeMap<_, Vec<WrapName>> = BTreeMap::new();
        for wrap in list_wraps(&self.store, KEYS, self.is_unencrypted()).await? {
            by_key.entry((wrap.kind, wrap.id)).or_default().push(wrap);
        }
        Ok(by_key)
    }

    /// Makes `request` hold, with identities at hand that open the data keys. Can be stopped anywhere and called again.
    ///
    /// # Errors
    /// As [`Self::plan_rotation`]; [`RepositoryError::Key`] if another rotation was faster, or if no identity at hand opens any data
    /// key, and then nothing was written; the store's. Other keys that do not open and wraps that cannot be deleted are no errors but in the summary.
    pub async fn rotate(&self, request: &RotationRequest, observer: &dyn Observer) -> Result<RotationSummary> {
        let mut work = self.rotation(request).await?;
        let plan = work.plan.clone();
        if plan.writes_set || plan.data_keys_to_wrap > 0 {
            self.open_one_data_key().await?;
        }
        observer.phase("recipient set", None);
        let set = match work.set.take() {
            Some(set) => set,
            None => self.write_set(&work).await?,
        };
        work.set = Some(set.clone());
        observer.phase("wrap keys", None);
        let mut done = Done::default();
        let mut tried = BTreeSet::new();
        for round in 1..=ROUNDS {
            let lacking: Vec<_> = self
                .wraps_by_key()
                .await?
                .into_iter()
                .filter(|(key, wraps)| !tried.contains(key) && !wraps.iter().any(|wrap| wrap.set == set.name))
                .collect();
            if lacking.is_empty() {
                break;
            }
            tried.extend(lacking.iter().map(|(key, _)| *key));
            let gone = self.wrap_all(lacking, &work, &set, &mut done, observer).await?;
            for (key, check) in gone {
                // Another rotation of the same meaning may have wrapped it and taken the older wrap away: look again.
                if round < ROUNDS {
                    tried.remove(&key);
                } else {
                    done.unwrapped.push(check);
                }
            }
        }
        observer.phase("delete superseded wraps", None);
        self.delete_superseded(&work, &set, &mut done).await?;
        let Done { wrapped, deleted, unwrapped, left, .. } = done;
        Ok(RotationSummary { plan, wrapped, deleted, unwrapped, left })
    }

    /// Whether the identities at hand open any data key; true if there is none, or none that is sound.
    async fn open_one_data_key(&self) -> Result<()> {
        let wraps = self.wraps_by_key().await?;
        let data = wraps.into_iter().filter(|((kind, _), _)| *kind != KeyKind::Catalogue).map(|(_, wraps)| wraps);
        let mut opened = stream::iter(data)
            .map(|wraps| async move { fetch_any(&self.store, &wraps, &self.identities).await.map(|_| ()) })
            .buffer_unordered(AT_ONCE);
        let mut closed = None;
        while let Some(outcome) = opened.next().await {
            match outcome {
                Ok(()) => return Ok(()),
                Err(RepositoryError::Key { place, detail }) => closed = closed.or(Some((place, detail))),
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        match closed {
            None => Ok(()),
            Some((place, detail)) => {
                Err(refused(place, format!("{detail}; nothing was written, since whoever wraps keys anew must open them")))
            }
        }
    }

    async fn write_set(&self, work: &Work) -> Result<RecipientSet> {
        let plan = &work.plan;
        let there = self.put_set(plan.generation, work.members.clone(), plan.agents.clone()).await?;
        // Whoever was faster and meant the same left us nothing but to help.
        if there.keys().as_ref() == Some(&plan.recipients) && there.agents.as_ref() == Some(&plan.agents) {
            return Ok(there);
        }
        Err(refused(
            self.store.describe(),
            format!(
                "another rotation was faster: recipient set {} is now another one ({}), and nothing was wrapped for yours; look at `farshore key list`, agree on who the recipients are, and run this again",
                plan.generation,
                there.keys().unwrap_or_default().join(", ")
            ),
        ))
    }

    /// Refuses to go on where this set is not the newest any more.
    async fn refuse_if_outrun(&self, set: &RecipientSet) -> Result<()> {
        let sets = self.recipient_sets().await?;
        let members = match sets.newest() {
            Some(newest) if newest.name == set.name => return Ok(()),
            Some(newest) => newest.keys().unwrap_or_default().join(", "),
            None => "it cannot be read".to_owned(),
        };
        Err(refused(
            self.store.describe(),
            format!(
                "another rotation came between: recipient set {} is the newest now ({members}), and not {}; keys may be wrapped for both, and nothing was deleted. Look at `farshore key list`, agree on who the recipients are, and run this again",
                sets.last_generation(),
                set.name.generation
            ),
        ))
    }

    /// Wraps each of these keys for the newest set, and returns those whose older wraps went away meanwhile. The catalogue key
    /// comes first, so that a new recipient can look at once.
    async fn wrap_all(
        &self,
        lacking: Vec<((KeyKind, Id), Vec<WrapName>)>,
        work: &Work,
        set: &RecipientSet,
        done: &mut Done,
        observer: &dyn Observer,
    ) -> Result<Vec<((KeyKind, Id), PackCheck)>> {
        let mut gone = Vec::new();
        let (catalogue, data): (Vec<_>, Vec<_>) = lacking.into_iter().partition(|((kind, _), _)| *kind == KeyKind::Catalogue);
        for group in [catalogue, data] {
            let mut results = stream::iter(group)
                .map(|((kind, id), wraps)| async move {
                    let name = WrapName { kind, id, set: set.name, plain: false };
                    (self.wrap_one(&name, &wraps, &work.recipients).await, name)
                })
                .buffer_unordered(AT_ONCE);
            while let Some((outcome, name)) = results.next().await {
                match outcome {
                    Ok(true) => {
                        done.wrapped += 1;
                        done.proven.insert(name);
                        observer.items(1);
                    }
                    Ok(false) => {}
                    Err(error) if error.is_damage() || matches!(error, RepositoryError::Key { .. }) => {
                        let old = WrapName { set: super::SetName::FIRST, ..name };
                        let check = PackCheck { key: old.to_string(), detail: error.to_string() };
                        match error {
                            RepositoryError::Store(StoreError::NotFound { .. }) => gone.push(((old.kind, old.id), check)),
                            _ => done.unwrapped.push(check),
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(gone)
    }

    /// Whether this call stored the wrap; not if another rotation did.
    async fn wrap_one(&self, name: &WrapName, wraps: &[WrapName], to: &Recipients) -> Result<bool> {
        let secret = match name.kind {
            KeyKind::Catalogue if name.id == self.catalogue.id => self.catalogue.secret().clone(),
            KeyKind::Catalogue => return Ok(false),
            KeyKind::Data | KeyKind::Log => fetch_any(&self.store, wraps, &self.identities).await?,
        };
        match store_wrap(&self.store, name, &secret, to).await {
            Ok(_) => Ok(true),
            Err(RepositoryError::Store(StoreError::AlreadyExists { .. })) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes what an outsider opens, of keys whose newest wrap is known to be sound and to hold the same key (anybody who may write
    /// at the site can wrap another one to the readers); the catalogue key's last, for without it
    /// whoever goes could not go on with this.
    async fn delete_superseded(&self, work: &Work, set: &RecipientSet, done: &mut Done) -> Result<()> {
        let wraps = self.wraps_by_key().await?;
        // After the listing: whoever stored a wrap that is in it had stored its set before.
        self.refuse_if_outrun(set).await?;
        let (catalogue, data): (Vec<_>, Vec<_>) = wraps.into_iter().partition(|((kind, _), _)| *kind == KeyKind::Catalogue);
        for ((kind, id), wraps) in data.into_iter().chain(catalogue) {
            let superseded: Vec<_> = wraps.iter().filter(|wrap| work.superseded(wrap)).collect();
            if superseded.is_empty() {
                continue;
            }
            let newest = WrapName { kind, id, set: set.name, plain: false };
            let sound = if done.proven.contains(&newest) {
                Ok(None)
            } else {
                fetch_wrap(&self.store, &newest, &self.identities).await.map(Some)
            };
            for wrap in superseded {
                let object = wrap.to_string();
                let kept = match &sound {
                    Err(error) => Some(format!("is kept, because the newest wrap of this key is not known to be sound: {error}")),
                    Ok(Some(secret)) if let Some(why) = self.not_the_same(wrap, secret).await => Some(match why {
                        Unlike::Another => format!(
                            "is kept, because {newest} holds another key under the same name: somebody wrote one of the two who should not have; `farshore verify --read-data` tells which opens the data"
                        ),
                        Unlike::Closed(error) => format!(
                            "is kept, because it cannot be compared with {newest}, which this run did not wrap; give an identity that opens both: {error}"
                        ),
                    }),
                    Ok(_) => match self.store.delete(&object).await {
                        Ok(()) => None,
                        Err(error) => Some(later(&error)),
                    },
                };
                match kept {
                    None => done.deleted += 1,
                    Some(detail) => done.left.push(PackCheck { key: object, detail }),
                }
            }
        }
        Ok(())
    }
}

impl Repository {
    /// Why a wrap is not known to hold this key; nothing if it does, or holds none at all.
    async fn not_the_same(&self, wrap: &WrapName, secret: &Secret) -> Option<Unlike> {
        match fetch_wrap(&self.store, wrap, &self.identities).await {
            Ok(older) if older == *secret => None,
            Ok(_) => Some(Unlike::Another),
            // What is damaged or gone wraps nothing that could be lost.
            Err(error) if error.is_damage() => None,
            Err(error) => Some(Unlike::Closed(error)),
        }
    }
}

/// Why an older wrap is kept.
enum Unlike {
    /// It opens, to another key.
    Another,
    /// It does not open to whoever is here, or could not be read.
    Closed(RepositoryError),
}

fn later(error: &StoreError) -> String {
    match error {
        StoreError::Denied { .. } => format!("cannot be deleted yet (a lock, or a right that is missing): {error}"),
        _ => format!("was not deleted: {error}"),
    }
}
