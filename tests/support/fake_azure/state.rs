//! The container: blobs, their versions, the policies that hold them.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use farshore::clock::SharedClock;

use super::{ACCOUNT, Answer, CONTAINER, Request, Rules, listing};

const UNTIL: &str = "x-ms-immutability-policy-until-date";
const MODE: &str = "x-ms-immutability-policy-mode";
const LEGAL_HOLD: &str = "x-ms-legal-hold";

/// A time-based policy.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    pub is_locked: bool,
    pub until: DateTime<Utc>,
}

/// Where a version is that lies in the archive tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archived {
    Left,
    /// It was asked for, and is there after so many more looks.
    Coming(u32),
}

/// Looks at a version that was asked for, until it is there.
const LOOKS: u32 = 1;

/// One version of a blob.
#[derive(Debug, Clone)]
pub struct Version {
    pub id: String,
    pub is_current: bool,
    pub body: Bytes,
    pub modified: DateTime<Utc>,
    pub policy: Option<Policy>,
    pub is_held: bool,
    pub archived: Option<Archived>,
}

pub struct State {
    pub rules: Rules,
    pub container_exists: bool,
    /// Oldest first.
    pub blobs: BTreeMap<String, Vec<Version>>,
    /// Blocks that no list has joined yet: by the blob's name and their own ids.
    blocks: BTreeMap<(String, String), Bytes>,
    pub asked: Vec<String>,
    /// The priorities with which versions were asked for.
    pub priorities: Vec<String>,
    clock: SharedClock,
    /// Ids are times, and no two are the same.
    last_id: DateTime<Utc>,
}

/// A time as headers have it.
pub fn http_time(time: DateTime<Utc>) -> String {
    time.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

impl State {
    pub fn new(rules: Rules, clock: SharedClock) -> Self {
        Self {
            rules,
            container_exists: true,
            blobs: BTreeMap::new(),
            blocks: BTreeMap::new(),
            asked: Vec::new(),
            priorities: Vec::new(),
            clock,
            last_id: DateTime::UNIX_EPOCH,
        }
    }

    pub fn hold_everything(&mut self) {
        self.blobs.values_mut().flatten().for_each(|version| version.is_held = true);
    }

    pub fn age(&mut self, prefix: &str, by: TimeDelta) {
        let aged = self.blobs.iter_mut().filter(|(name, _)| name.starts_with(prefix));
        aged.flat_map(|(_, versions)| versions).for_each(|version| version.modified -= by);
    }

    pub fn archive(&mut self, prefix: &str) {
        let moved = self.blobs.iter_mut().filter(|(name, _)| name.starts_with(prefix));
        moved.flat_map(|(_, versions)| versions).for_each(|version| version.archived = Some(Archived::Left));
    }

    pub fn end_policies(&mut self) {
        let now = self.clock.now();
        self.blobs.values_mut().flatten().filter_map(|version| version.policy.as_mut()).for_each(|policy| policy.until = now);
    }

    pub fn versions(&self) -> Vec<(String, usize, bool)> {
        let of = |(name, all): (&String, &Vec<Version>)| (name.clone(), all.len(), all.iter().any(|version| version.is_current));
        self.blobs.iter().map(of).collect()
    }

    pub fn answer(&mut self, request: &Request) -> Answer {
        self.asked.push(format!("{} {}", request.method, request.target));
        let container = format!("/{ACCOUNT}/{CONTAINER}");
        let Some(rest) = request.path.strip_prefix(&container) else { return Answer::refusal(404, "ContainerNotFound") };
        let answer = match rest.strip_prefix('/') {
            _ if !self.container_exists => Answer::refusal(404, "ContainerNotFound"),
            Some(name) => self.about_blob(name, request),
            None => self.about_container(request),
        };
        answer.with("date", http_time(self.clock.now())).with("x-ms-version", "2021-12-02")
    }

    fn about_container(&mut self, request: &Request) -> Answer {
        match (request.method.as_str(), request.query("comp")) {
            ("GET", Some("list")) => listing::page(&self.blobs, request),
            ("GET" | "HEAD", None) if self.rules.denies_properties => Answer::refusal(403, "AuthorizationPermissionMismatch"),
            ("GET" | "HEAD", None) => {
                Answer::new(200).with("x-ms-immutable-storage-with-versioning-enabled", self.rules.claims_support.to_string())
            }
            ("PUT", None) => Answer::refusal(409, "ContainerAlreadyExists"),
            _ => Answer::refusal(400, "UnsupportedByTheFake"),
        }
    }

    fn about_blob(&mut self, name: &str, request: &Request) -> Answer {
        match (request.method.as_str(), request.query("comp")) {
            ("PUT", None) => self.put(name, request, request.body.clone()),
            ("PUT", Some("block")) => {
                let id = request.query("blockid").unwrap().to_owned();
                self.blocks.insert((name.to_owned(), id), request.body.clone());
                Answer::new(201)
            }
            ("PUT", Some("blocklist")) => self.join_blocks(name, request),
            ("GET" | "HEAD", None) => self.get(name, request),
            ("PUT", Some("tier")) => self.move_to_tier(name, request),
            ("DELETE", None) => self.delete(name, request.query("versionid")),
            ("PUT", Some("immutabilityPolicies")) => self.set_policy(name, request),
            ("DELETE", Some("immutabilityPolicies")) => self.remove_policy(name, request),
            _ => Answer::refusal(400, "UnsupportedByTheFake"),
        }
    }

    /// The policy that a request asks for; a refusal for one that cannot be.
    fn asked_policy(&self, request: &Request) -> Result<Option<Policy>, Answer> {
        let Some(until) = request.header(UNTIL) else { return Ok(None) };
        let until = DateTime::parse_from_rfc2822(until).map(|until| until.to_utc());
        match until {
            // "Past time is not valid."
            Ok(until) if until > self.clock.now() => {
                let is_locked = request.header(MODE).is_some_and(|mode| mode.eq_ignore_ascii_case("locked"));
                Ok(Some(Policy { is_locked, until }))
            }
            _ => Err(Answer::refusal(400, "InvalidHeaderValue")),
        }
    }

    fn join_blocks(&mut self, name: &str, request: &Request) -> Answer {
        let list = std::str::from_utf8(&request.body).unwrap();
        let ids = list.split("<Latest>").skip(1).filter_map(|rest| rest.split_once("</Latest>"));
        let mut whole = Vec::new();
        for (id, _) in ids {
            let Some(block) = self.blocks.remove(&(name.to_owned(), id.to_owned())) else {
                return Answer::refusal(400, "InvalidBlockList");
            };
            whole.extend_from_slice(&block);
        }
        self.put(name, request, whole.into())
    }

    fn put(&mut self, name: &str, request: &Request, body: Bytes) -> Answer {
        let policy = match self.asked_policy(request) {
            Ok(policy) => policy.filter(|_| self.rules.supports_policies),
            Err(refusal) => return refusal,
        };
        let modified = self.clock.now();
        self.last_id = modified.max(self.last_id + TimeDelta::microseconds(1));
        let id = self.last_id.format("%Y-%m-%dT%H:%M:%S.%6f0Z").to_string();
        let versions = self.blobs.entry(name.to_owned()).or_default();
        if request.header("if-none-match") == Some("*") && versions.iter().any(|version| version.is_current) {
            return Answer::refusal(409, "BlobAlreadyExists");
        }
        versions.iter_mut().for_each(|version| version.is_current = false);
        let is_held = self.rules.supports_policies && request.header(LEGAL_HOLD) == Some("true");
        let version = Version { id: id.clone(), is_current: true, body, modified, policy, is_held, archived: None };
        let answer = described(Answer::new(201), &version);
        versions.push(version);
        answer
    }

    /// The version that a request is about: by its id, otherwise the current one.
    fn find(&mut self, name: &str, id: Option<&str>) -> Result<&mut Version, Answer> {
        let versions = self.blobs.get_mut(name).into_iter().flatten();
        let found = versions.into_iter().find(|version| id.map_or(version.is_current, |id| version.id == id));
        found.ok_or_else(|| Answer::refusal(404, "BlobNotFound"))
    }

    fn get(&mut self, name: &str, request: &Request) -> Answer {
        let version = match self.find(name, request.query("versionid")) {
            Ok(version) => version,
            Err(refusal) => return refusal,
        };
        if request.method == "HEAD" {
            version.archived = match version.archived {
                Some(Archived::Coming(0)) => None,
                Some(Archived::Coming(looks)) => Some(Archived::Coming(looks - 1)),
                other => other,
            };
        }
        match version.archived {
            Some(Archived::Left) if request.method == "GET" => return Answer::refusal(409, "BlobArchived"),
            Some(Archived::Coming(_)) if request.method == "GET" => return Answer::refusal(409, "BlobBeingRehydrated"),
            _ => {}
        }
        let whole = version.body.clone();
        let mut answer = described(Answer::new(200), version);
        if let Some(archived) = version.archived {
            answer = answer.with("x-ms-access-tier", "Archive");
            if let Archived::Coming(_) = archived {
                answer = answer.with("x-ms-archive-status", "rehydrate-pending-to-hot");
            }
        }
        if let Some(policy) = version.policy {
            let mode = if policy.is_locked { "locked" } else { "unlocked" };
            answer = answer.with(UNTIL, http_time(policy.until)).with(MODE, mode);
        }
        if version.is_held {
            answer = answer.with(LEGAL_HOLD, "true");
        }
        let Some(range) = request.header("x-ms-range") else { return Answer { body: whole, ..answer } };
        let (start, end) = range.trim_start_matches("bytes=").split_once('-').unwrap();
        let start: usize = start.parse().unwrap();
        if start >= whole.len() {
            return Answer::refusal(416, "InvalidRange");
        }
        let end = end.parse::<usize>().map_or(whole.len(), |last| whole.len().min(last + 1));
        let stated = format!("bytes {start}-{}/{}", end - 1, whole.len());
        Answer { status: 206, body: whole.slice(start..end), ..answer.with("content-range", stated) }
    }

    fn delete(&mut self, name: &str, id: Option<&str>) -> Answer {
        let (now, rules) = (self.clock.now(), self.rules);
        let version = match self.find(name, id) {
            Ok(version) => version,
            Err(refusal) => return refusal,
        };
        if id.is_some() && version.is_current {
            return Answer::refusal(403, "OperationNotAllowedOnRootBlob");
        }
        let held = version.policy.is_some_and(|policy| policy.until > now);
        if version.is_held {
            return Answer::refusal(409, "BlobImmutableDueToLegalHold");
        }
        if held && (id.is_some() || !rules.deleting_hides) {
            return Answer::refusal(409, "BlobImmutableDueToPolicy");
        }
        if id.is_none() {
            version.is_current = false;
            return Answer::new(202);
        }
        let id = version.id.clone();
        let all = self.blobs.get_mut(name).unwrap();
        all.retain(|version| version.id != id);
        if all.is_empty() {
            self.blobs.remove(name);
        }
        Answer::new(202)
    }

    fn move_to_tier(&mut self, name: &str, request: &Request) -> Answer {
        let priority = request.header("x-ms-rehydrate-priority").unwrap_or("Standard").to_owned();
        let answer = match self.find(name, request.query("versionid")) {
            Ok(version) => match version.archived {
                Some(Archived::Coming(_)) => Answer::refusal(409, "BlobBeingRehydrated"),
                Some(Archived::Left) => {
                    version.archived = Some(Archived::Coming(LOOKS));
                    Answer::new(202)
                }
                None => Answer::new(200),
            },
            Err(refusal) => return refusal,
        };
        self.priorities.push(priority);
        answer
    }

    fn set_policy(&mut self, name: &str, request: &Request) -> Answer {
        if !self.rules.supports_policies {
            return Answer::refusal(501, "");
        }
        let (rules, now) = (self.rules, self.clock.now());
        let asked = match self.asked_policy(request) {
            Ok(Some(asked)) => asked,
            Ok(None) => return Answer::refusal(400, "MissingRequiredHeader"),
            Err(refusal) => return refusal,
        };
        let id = request.query("versionid");
        let version = match self.find(name, id) {
            Ok(version) => version,
            Err(refusal) => return refusal,
        };
        if id.is_some() && version.is_current && rules.current_by_name_only {
            return Answer::refusal(403, "OperationNotAllowedOnRootBlob");
        }
        let since = request.header("if-unmodified-since").and_then(|text| DateTime::parse_from_rfc2822(text).ok());
        if since.is_some_and(|since| version.modified.timestamp() > since.timestamp()) {
            return Answer::refusal(412, "ConditionNotMet");
        }
        let weakened = |present: Policy| present.is_locked && (!asked.is_locked || asked.until < present.until);
        if version.policy.is_some_and(|present| present.until > now && weakened(present)) && !rules.lets_locks_be_shortened {
            return Answer::refusal(409, "BlobImmutableDueToPolicy");
        }
        version.policy = Some(asked);
        Answer::new(200)
    }

    fn remove_policy(&mut self, name: &str, request: &Request) -> Answer {
        match self.find(name, request.query("versionid")) {
            Ok(version) if version.policy.is_some_and(|policy| policy.is_locked) => {
                Answer::refusal(409, "ImmutabilityPolicyDeleteOnLockedPolicy")
            }
            Ok(version) => {
                version.policy = None;
                Answer::new(200)
            }
            Err(refusal) => refusal,
        }
    }
}

fn described(answer: Answer, version: &Version) -> Answer {
    answer
        .with("etag", format!("\"{}\"", version.id))
        .with("last-modified", http_time(version.modified))
        .with("x-ms-version-id", &*version.id)
        .with("x-ms-blob-type", "BlockBlob")
}
