//! Who opens what, by the names of what is stored; and whether the keys that should open really do.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use serde::Serialize;

use super::{
    DataKeys,
    wrap::{KeyKind, WrapName, fetch_wrap},
};
use crate::repository::{KeyCheck, PackCheck, Repository, RepositoryError, error::Result, format::Id};

/// Wraps opened at once.
const AT_ONCE: usize = 8;

/// Somebody who is, or was, a recipient or an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// The public key (`age1…`).
    pub key: String,
    /// What the operator called it.
    pub name: Option<String>,
    /// When it became a recipient; nothing for agents.
    pub added_at: Option<DateTime<Utc>>,
    /// Opens the catalogue key only, and never data.
    pub agent: bool,
    /// Whether the newest set has it.
    pub current: bool,
    /// Whether a wrap of the catalogue key is for it.
    pub catalogue: bool,
    /// Data keys, and keys of the log, of which a wrap is for it.
    pub data_keys: u64,
}

/// Who opens what in a repository, as the site has it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyHolders {
    /// Of the newest recipient set; 0 until the first rotation.
    pub generation: u32,
    /// When that set was written.
    pub since: DateTime<Utc>,
    /// Those of the newest set, and those who are none any more and still open something.
    pub holders: Vec<Holder>,
    /// Data keys, and keys of the log, at the site.
    pub data_keys: u64,
    /// Those of them that are not wrapped for the newest set: a rotation was stopped, or a backup ran meanwhile.
    pub not_rewrapped: u64,
    /// Wraps of which nobody recorded whom they are for (repositories that were made before it was).
    pub unknown: u64,
    /// Recipient sets that cannot be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub damaged_sets: Vec<PackCheck>,
}

impl Repository {
    /// Who opens what. Opens no key.
    ///
    /// # Errors
    /// The store's; [`RepositoryError::Key`] for an unencrypted repository.
    pub async fn key_holders(&self) -> Result<KeyHolders> {
        if self.is_unencrypted() {
            let detail = "the repository is unencrypted: whoever can read the site can read everything".to_owned();
            return Err(RepositoryError::Key { place: self.store.describe(), detail });
        }
        let sets = self.recipient_sets().await?;
        let newest = sets.newest_sound().clone();
        let wraps = self.wraps_by_key().await?;
        let mut holders: BTreeMap<(bool, String), Holder> = BTreeMap::new();
        for set in &sets.sound {
            let current = set.name == newest.name;
            for member in set.recipients.iter().flatten() {
                let holder = Holder {
                    key: member.key.clone(),
                    name: member.name.clone(),
                    added_at: Some(member.added_at),
                    agent: false,
                    current,
                    catalogue: false,
                    data_keys: 0,
                };
                holders.insert((false, member.key.clone()), holder);
            }
            for key in set.agents.iter().flatten() {
                let (key, name) = (key.clone(), None);
                let holder = Holder { key, name, added_at: None, agent: true, current, catalogue: false, data_keys: 0 };
                holders.insert((true, holder.key.clone()), holder);
            }
        }
        let (mut data_keys, mut not_rewrapped, mut unknown) = (0, 0, 0);
        for ((kind, _), wraps) in &wraps {
            // Each holder once for each key, however many wraps of it are for him.
            let mut open: BTreeSet<(bool, String)> = BTreeSet::new();
            for wrap in wraps {
                let set = sets.get(&wrap.set);
                unknown += u64::from(set.is_none_or(|set| set.recipients.is_none()));
                let Some(set) = set else { continue };
                open.extend(set.keys().into_iter().flatten().map(|key| (false, key)));
                if *kind == KeyKind::Catalogue {
                    open.extend(set.agents.iter().flatten().map(|key| (true, key.clone())));
                }
            }
            for (name, holder) in &mut holders {
                match kind {
                    KeyKind::Catalogue => holder.catalogue |= open.contains(name),
                    KeyKind::Data | KeyKind::Log => holder.data_keys += u64::from(open.contains(name)),
                }
            }
            if *kind != KeyKind::Catalogue {
                data_keys += 1;
                not_rewrapped += u64::from(!wraps.iter().any(|wrap| wrap.set == newest.name));
            }
        }
        let holders = holders.into_values().filter(|holder| holder.current || holder.catalogue || holder.data_keys > 0).collect();
        let damaged_sets = sets.damaged.into_iter().map(|(_, check)| check).collect();
        let (generation, since) = (newest.name.generation, newest.made_at);
        Ok(KeyHolders { generation, since, holders, data_keys, not_rewrapped, unknown, damaged_sets })
    }

    /// Opens every wrap of every key that is for the identities at hand, also of runs that stored nothing, and reads every
    /// recipient set. Returns what is damaged, and the data keys that stay closed, by id.
    ///
    /// # Errors
    /// The store's; [`RepositoryError::Key`] if the identities open no data key at all and one is wrapped to others: they are the
    /// wrong ones.
    pub async fn check_keys(&self) -> Result<(Vec<PackCheck>, BTreeMap<Id, KeyCheck>)> {
        let sets = self.recipient_sets().await?;
        let mut found: Vec<PackCheck> = sets.damaged.iter().map(|(_, check)| check.clone()).collect();
        let wraps = self.wraps_by_key().await?;
        let last = wraps.values().flatten().map(|wrap| wrap.set.generation).max().unwrap_or(0);
        if last > sets.last_generation() {
            let detail =
                format!("is missing: keys are wrapped for generation {last}; `farshore key rotate POLICY` writes a set anew");
            found.push(PackCheck { key: format!("recipients/{last:08}"), detail });
        }
        let ours = self.identities.public_keys();
        // Whether the record says that this wrap is for us; nothing where there is no record.
        let for_us = |wrap: &WrapName| -> Option<bool> {
            let set = sets.get(&wrap.set)?;
            let agents = set.agents.iter().flatten().filter(|_| wrap.kind == KeyKind::Catalogue);
            Some(set.keys()?.iter().chain(agents).any(|key| ours.contains(key)))
        };
        let mut checks = stream::iter(wraps.into_values())
            .map(|wraps| async move {
                let mut outcomes = Vec::new();
                for wrap in wraps {
                    outcomes.push((fetch_wrap(&self.store, &wrap, &self.identities).await.map(|_| ()), wrap));
                }
                outcomes
            })
            .buffer_unordered(AT_ONCE);
        let (mut closed, mut any_opened, mut refused) = (BTreeMap::<Id, KeyCheck>::new(), false, None);
        while let Some(outcomes) = checks.next().await {
            let opened = outcomes.iter().any(|(outcome, _)| outcome.is_ok());
            let is_locked = outcomes.iter().any(|(outcome, _)| matches!(outcome, Err(RepositoryError::Key { .. })));
            for (outcome, wrap) in outcomes {
                any_opened |= wrap.kind != KeyKind::Catalogue && outcome.is_ok();
                let error = match outcome {
                    Ok(()) => continue,
                    Err(RepositoryError::Key { .. }) if opened && for_us(&wrap) != Some(true) => continue,
                    Err(error) if error.is_damage() || matches!(error, RepositoryError::Key { .. }) => error,
                    Err(error) => return Err(error),
                };
                let check = PackCheck { key: wrap.to_string(), detail: error.to_string() };
                if opened || wrap.kind == KeyKind::Catalogue {
                    found.push(check);
                    continue;
                }
                if matches!(error, RepositoryError::Key { .. }) {
                    refused.get_or_insert(error);
                }
                // No pack is under it.
                if wrap.kind == KeyKind::Log {
                    found.push(check);
                    continue;
                }
                // Of several wraps that do not open, the first one stands for the key, the others are listed.
                match closed.entry(wrap.id) {
                    Entry::Vacant(entry) => drop(entry.insert(KeyCheck { check, is_locked })),
                    Entry::Occupied(_) => found.push(check),
                }
            }
        }
        match refused {
            Some(error) if !any_opened => Err(error),
            _ => Ok((found, closed)),
        }
    }

    /// Opens these data keys; returns those that do not open, each with the error.
    ///
    /// # Errors
    /// The store's.
    pub async fn open_data_keys(&self, ids: impl IntoIterator<Item = Id>) -> Result<Vec<(Id, RepositoryError)>> {
        opened(&self.data_keys(), ids).await
    }

    /// Opens every key of the log that the site has; returns how many there are, and those that do not open, each with the error.
    ///
    /// # Errors
    /// The store's.
    pub async fn open_log_keys(&self) -> Result<(u64, Vec<(Id, RepositoryError)>)> {
        let wraps = self.wraps_by_key().await?;
        let ids: Vec<Id> = wraps.into_keys().filter(|(kind, _)| *kind == KeyKind::Log).map(|(_, id)| id).collect();
        let keys = DataKeys::of_log(self.store.clone(), self.is_unencrypted(), self.identities.clone());
        let count = ids.len() as u64;
        Ok((count, opened(&keys, ids).await?))
    }
}

/// Opens these keys; returns those that do not open.
async fn opened(keys: &DataKeys, ids: impl IntoIterator<Item = Id>) -> Result<Vec<(Id, RepositoryError)>> {
    let mut closed = Vec::new();
    for id in ids {
        match keys.get(&id).await {
            Ok(_) => {}
            Err(error) if error.is_damage() || matches!(error, RepositoryError::Key { .. }) => closed.push((id, error)),
            Err(error) => return Err(error),
        }
    }
    Ok(closed)
}
