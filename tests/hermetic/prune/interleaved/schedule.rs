//! Whose turn it is. Uniform chance hardly ever has a machine sleep at the one call that matters while two others do in its sleep
//! what matters, so most schedules go by operations: an actor goes on until it is done, or until it is stopped where a rule of the
//! protocol says that what it saw may be old by now. While it sleeps, others begin and end whole operations, those first that could
//! harm it, and time passes in jumps about as long as the grace. That is a priority schedule with few change points (two sleepers or
//! three at a time), which lie where they hurt.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use farshore::{
    clock::{Clock, FixedClock},
    repository::LOOK_LASTS,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    gate::{Gate, Verb},
    roles::Role,
};
use crate::prune::basics::HOUR;

/// Where a schedule stops actors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Nowhere: everybody's every call is as likely as any other, and days pass now and then.
    Even,
    /// A backup has adopted what it found, and has not looked whether it stays.
    Adopted,
    /// A backup has looked, and the point is not at the site; a prune is about to delete packs.
    Commit,
    /// A prune has seen the points, and not yet deleted anything.
    Looked,
    /// A prune is about to delete points; meanwhile the other one runs, then a backup.
    Deleting,
    /// Two backups store the same, one index comes late, and prunes always run in pairs.
    Copies,
    /// All of these, and pins and readers.
    Any,
}

/// By turns.
pub(super) const STYLES: [Style; 10] = [
    Style::Any,
    Style::Adopted,
    Style::Commit,
    Style::Looked,
    Style::Copies,
    Style::Deleting,
    Style::Adopted,
    Style::Deleting,
    Style::Copies,
    Style::Even,
];

impl Style {
    /// Whether an actor may be stopped before this call.
    fn stops(self, role: Role, verb: Verb, key: &str) -> bool {
        let about = |prefix: &str| key.starts_with(prefix);
        if self == Self::Deleting {
            return role == Role::Prune && verb == Verb::Delete && about("points/");
        }
        if self == Self::Copies {
            let prune = about("doomed/") && verb == Verb::Put || about("indexes/");
            return verb != Verb::Get && if role == Role::Prune { prune } else { about("indexes/") && verb == Verb::Put };
        }
        match (role, verb) {
            (Role::Backup, Verb::Put) if about("points/") => matches!(self, Self::Commit | Self::Any),
            (Role::Backup, Verb::Put) if about("indexes/") => matches!(self, Self::Adopted | Self::Any),
            (Role::Backup, Verb::Put) if about("packs/") => self != Self::Even,
            (Role::Backup, Verb::List) if about("doomed/") => matches!(self, Self::Adopted | Self::Any),
            (Role::Prune, Verb::List) if about("points/") => matches!(self, Self::Looked | Self::Any),
            (Role::Prune, Verb::Time) => self == Self::Looked,
            (Role::Prune, Verb::Delete) if about("points/") => matches!(self, Self::Looked | Self::Any),
            (Role::Prune, Verb::Delete) if about("packs/") => self != Self::Even && self != Self::Adopted,
            (Role::Prune, Verb::Put | Verb::Delete) if about("indexes/") => matches!(self, Self::Looked | Self::Any),
            (Role::Prune, Verb::Put) if about("doomed/") => self == Self::Any,
            (Role::Prune, Verb::Delete) if about("doomed/") || about("keys/") => self == Self::Any,
            (Role::Undelete | Role::Pin, Verb::Put | Verb::Time) => self == Self::Any,
            (Role::Restore | Role::Verify, Verb::Get) if about("packs/") => self == Self::Any,
            _ => false,
        }
    }
}

/// What the scheduler knows of one actor.
#[derive(Debug, Default, Clone)]
struct Course {
    /// It sleeps until so many others have begun something.
    asleep: Option<u32>,
    /// When it began what it is at.
    began: Option<DateTime<Utc>>,
    /// When it was last given the doom records before its commit.
    looked: Option<DateTime<Utc>>,
    /// The key of its point, once that came to the site, and how long it took from the last look on.
    committed: Option<(String, TimeDelta)>,
}

/// A machine that sleeps longer than this within its commit may not be killed before it has looked again: that is the one case in
/// which the protocol leaves a point with a hole (docs/decisions/0012). And only such a commit may be taken back.
pub(super) const QUICK_COMMIT: TimeDelta = TimeDelta::minutes(5);

/// One run's schedule.
#[derive(Debug)]
pub(super) struct Schedule {
    gate: Arc<Gate>,
    clock: Arc<FixedClock>,
    roles: Vec<Role>,
    grace: Duration,
    style: Style,
    random: StdRng,
    /// A call takes so many seconds at most.
    pace: u64,
    days: f64,
    deaths: f64,
    stops: f64,
    most_asleep: usize,
    courses: Vec<Course>,
    current: Option<usize>,
    /// Something began since the last stop.
    after_a_stop: bool,
    /// Something was deleted that a point may need.
    pub(super) deleted: bool,
}

impl Schedule {
    pub(super) fn new(seed: u64, gate: &Arc<Gate>, clock: &Arc<FixedClock>, roles: &[Role], grace: Duration, style: Style) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut one_of = |choices: [f64; 3]| choices[random.random_range(0..3)];
        let (days, deaths, stops) = (one_of([0.0, 0.001, 0.005]), one_of([0.0, 0.0005, 0.003]), one_of([0.3, 0.5, 0.8]));
        let pace = if grace < HOUR { 3 } else { [3, 20, 120][random.random_range(0..3)] };
        let (stops, most_asleep) = match style {
            Style::Deleting => (0.8, 1),
            Style::Copies => (0.9, 2),
            _ => (stops, random.random_range(1..=3)),
        };
        Self {
            gate: Arc::clone(gate),
            clock: Arc::clone(clock),
            roles: roles.to_vec(),
            grace,
            style,
            random,
            pace,
            days,
            deaths,
            stops,
            most_asleep,
            courses: roles.iter().map(|_| Course::default()).collect(),
            current: None,
            after_a_stop: false,
            deleted: false,
        }
    }

    /// Points whose backup slept in its commit and is not done: it may still take them back.
    pub(super) fn unsettled(&self) -> Vec<String> {
        let open = (0..self.roles.len()).filter(|actor| self.gate.is_at_work(*actor) && self.slept_in_commit(*actor));
        open.filter_map(|actor| Some(self.courses[actor].committed.as_ref()?.0.clone())).collect()
    }

    fn slept_in_commit(&self, actor: usize) -> bool {
        self.courses[actor].committed.as_ref().is_some_and(|(_, took)| *took >= QUICK_COMMIT)
    }

    /// Time passes while somebody sleeps, or between two operations.
    fn jump(&mut self) {
        let minute = Duration::from_secs(60);
        let grace = self.grace;
        let jumps = if grace < HOUR {
            [3 * minute, grace - 2 * minute, grace + minute, grace + 2 * minute, 25 * minute, 40 * minute, 65 * minute, 26 * HOUR]
        } else {
            let (hardly, nearly) = (grace.saturating_sub(25 * minute), grace.saturating_sub(8 * minute));
            [3 * minute, 25 * minute, 55 * minute, hardly, nearly, grace + 2 * minute, grace + 3 * HOUR / 2, grace + 25 * HOUR]
        };
        let jump = jumps[self.random.random_range(0..jumps.len())];
        // A prune that has slept for a day only says so.
        let now = self.clock.now();
        let since = (0..self.roles.len())
            .filter(|actor| self.roles[*actor] == Role::Prune && self.courses[*actor].asleep.is_some())
            .filter_map(|actor| Some(now - self.courses[actor].began?))
            .max();
        let too_long = since.is_some_and(|since| since + TimeDelta::from_std(jump).unwrap() > LOOK_LASTS);
        if !too_long || self.random.random_bool(0.1) {
            self.clock.advance(jump);
        }
    }

    /// How likely it is that this one goes next, where the one before is done or asleep.
    fn weight(&self, actor: usize) -> u32 {
        let sleeps = |role: fn(&Role) -> bool| {
            (0..self.roles.len()).any(|other| self.courses[other].asleep.is_some() && role(&self.roles[other]))
        };
        let backup = |role: &Role| *role == Role::Backup;
        let prune = |role: &Role| *role == Role::Prune;
        let others = |role: Role| (0..self.roles.len()).filter(move |other| self.roles[*other] == role && *other != actor);
        match (self.style, self.roles[actor]) {
            // First what would take a record away, then what would rely on what it named.
            (Style::Deleting, Role::Prune) if sleeps(prune) && !self.after_a_stop => return 50,
            (Style::Deleting, Role::Backup) if sleeps(prune) && self.after_a_stop => return 50,
            (Style::Copies, role) if others(role).any(|other| self.courses[other].asleep.is_some_and(|left| left > 0)) => {
                return 50;
            }
            _ => {}
        }
        match self.roles[actor] {
            // What a backup relies on goes while it sleeps.
            Role::Prune if sleeps(backup) => 8,
            Role::Prune => 3,
            // What a prune is about to delete is needed again while it sleeps.
            Role::Backup if sleeps(prune) => 5,
            Role::Backup => 3,
            Role::Undelete if sleeps(prune) => 2,
            Role::Restore | Role::Verify | Role::Undelete | Role::Pin => 1,
        }
    }

    fn by_weight(&mut self, among: &[usize]) -> usize {
        let sum = among.iter().map(|actor| self.weight(*actor)).sum();
        let mut at = self.random.random_range(0..sum);
        for actor in among {
            let weight = self.weight(*actor);
            if at < weight {
                return *actor;
            }
            at -= weight;
        }
        unreachable!("it is less than the sum")
    }

    /// Whose turn it is, of those that wait.
    fn choose(&mut self, ready: &[usize]) -> usize {
        if self.style == Style::Even {
            return ready[self.random.random_range(0..ready.len())];
        }
        let begins = |gate: &Gate, actor: usize| gate.waiting(actor, |calls| calls.iter().any(|call| call.verb == Verb::Begin));
        // Now and then anybody may be interrupted anywhere.
        let goes_on = |actor: &usize| ready.contains(actor) && self.courses[*actor].asleep.is_none() && !begins(&self.gate, *actor);
        if let Some(current) = self.current.filter(goes_on)
            && !self.random.random_bool(0.004)
        {
            return current;
        }
        let rested = ready.iter().copied().find(|actor| self.courses[*actor].asleep == Some(0));
        let awake: Vec<usize> = ready.iter().copied().filter(|actor| self.courses[*actor].asleep.is_none()).collect();
        let chosen = match rested {
            Some(rested) => rested,
            None if awake.is_empty() => ready[self.random.random_range(0..ready.len())],
            None => self.by_weight(&awake),
        };
        if self.courses[chosen].asleep.take().is_some() && self.random.random_bool(0.4) {
            self.jump();
        }
        chosen
    }

    /// Whether the actor stops here, rather than make one of its calls.
    fn falls_asleep(&mut self, actor: usize) -> bool {
        let (style, role) = (self.style, self.roles[actor]);
        let window = self.gate.waiting(actor, |calls| {
            let mut window = false;
            for call in calls.iter_mut().filter(|call| !call.considered) {
                call.considered = true;
                window |= style.stops(role, call.verb, &call.key);
            }
            window
        });
        let asleep = self.courses.iter().filter(|course| course.asleep.is_some()).count();
        if !window || asleep >= self.most_asleep || !self.random.random_bool(self.stops) {
            return false;
        }
        self.after_a_stop = false;
        self.courses[actor].asleep = Some(match (style, role) {
            (Style::Deleting, _) => self.random.random_range(2..=3),
            (Style::Copies, Role::Backup) => self.random.random_range(1..=2),
            (Style::Copies, _) => 1,
            _ => self.random.random_range(1..=4),
        });
        true
    }

    fn passes_time(&mut self, begins: bool) {
        let anybody_sleeps = self.courses.iter().any(|course| course.asleep.is_some());
        if self.style == Style::Even {
            if self.random.random_bool(self.days) {
                self.clock.advance(HOUR * self.random.random_range(20..30));
            } else if self.random.random_bool(0.02) {
                self.clock.advance(Duration::from_secs(self.random.random_range(0..3 * 3600)));
            }
        } else if begins && self.random.random_bool(if anybody_sleeps { 0.5 } else { 0.35 }) {
            self.jump();
        }
        self.clock.advance(Duration::from_millis(self.random.random_range(0..self.pace * 1000)));
    }

    /// Opens the gate for one call, and says whether something new began with it; nothing when all are done.
    pub(super) async fn step(&mut self) -> Option<bool> {
        let ready = self.gate.settled().await;
        if ready.is_empty() {
            return None;
        }
        let actor = self.choose(&ready);
        self.current = Some(actor);
        if self.style != Style::Even && self.falls_asleep(actor) {
            return Some(false);
        }
        let number = self.gate.waiting(actor, |calls| self.random.random_range(0..calls.len()));
        let (verb, key) = self.gate.waiting(actor, |calls| (calls[number].verb, calls[number].key.clone()));
        self.passes_time(verb == Verb::Begin);
        if self.random.random_bool(self.deaths) && !self.slept_in_commit(actor) {
            self.gate.kill(actor);
            return Some(false);
        }
        let now = self.clock.now();
        let course = &mut self.courses[actor];
        match verb {
            Verb::Begin => {
                self.after_a_stop = true;
                *course = Course { began: Some(now), ..Course::default() };
                for other in &mut self.courses {
                    other.asleep = other.asleep.map(|left| left.saturating_sub(1));
                }
            }
            Verb::List if key == "doomed/" => match course.committed {
                None => course.looked = Some(now),
                Some(_) => self.gate.looks(actor),
            },
            Verb::Put if key.starts_with("points/") && matches!(self.roles[actor], Role::Backup) => {
                let took = course.looked.map_or(TimeDelta::MAX, |looked| now - looked);
                course.committed = Some((key, took));
                self.gate.commits(actor, took);
            }
            Verb::Delete if !key.starts_with("doomed/") => self.deleted = true,
            Verb::Put | Verb::Get | Verb::Stat | Verb::List | Verb::Delete | Verb::Time => {}
        }
        self.gate.open(actor, number);
        Some(verb == Verb::Begin)
    }
}
