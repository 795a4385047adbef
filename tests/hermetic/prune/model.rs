//! The protocol of `repository::trash` as a model: backups, prunes, a pinner and a reader as step machines that a seeded scheduler
//! interleaves, on a site whose time moves by anything between nothing and a day at each step. An actor that is not chosen sleeps; one
//! may be killed at any step. The rules are the functions that the real code asks; what each step reads and writes is written down
//! here once more, in the real order.
//!
//! Held against it after every step: each committed point that is there finds every chunk in a pack that is there, with its key; each
//! point whose pin was answered for is there; nothing that is locked is gone. At the end of a run, and some quiet prunes later, nothing
//! is left that no point needs.
//!
//! Not in it: a machine that falls asleep within the commit itself, so long that prune may not have seen the point, and is then
//! killed before it looks again. Nobody takes such a point back; verification finds it.
//!
//! Long because: the actors of one protocol are read side by side, and share one site.

use chrono::{DateTime, TimeDelta, Utc};
use farshore::repository::{
    COMMIT_MARGIN, LEAST_GRACE, PackFacts, PackVerdict, RecordFacts, look_holds, may_be_unseen, may_commit, must_look_whole,
    pin_holds, was_in_time,
};

use crate::support::soak;

/// A rule left out: the checker must find each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// Prune deletes what has matured without asking whether it is needed again.
    NoSecondLook,
    /// A backup commits without having looked at the doom records.
    NoLookBeforeCommit,
    /// A backup that lasts longer than the grace does not hold what it relies on against what is there.
    NoWholeLook,
    /// A record is removed as soon as it has matured.
    RecordRemovedEarly,
    /// Prune asks for the time when it has listed the points.
    TimeAfterPoints,
    /// Of two copies each prune counts another as the one that is needed.
    OwnCopy,
}

const CHUNKS: usize = 3;
const MOST: usize = 48;

/// Small, fast, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % below
    }
}

fn at(minutes: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes)
}

#[derive(Clone, Copy)]
struct Pack {
    stored: i64,
    chunks: u8,
    key: usize,
    there: bool,
    locked_until: i64,
}

#[derive(Clone, Copy)]
struct Key {
    stored: i64,
    there: bool,
}

#[derive(Clone, Copy)]
struct Point {
    policy: usize,
    chunks: u8,
    stored: i64,
    /// When its run began.
    begun: i64,
    there: bool,
    /// Committed, and its writer has not yet to look again.
    settled: bool,
    pinned: bool,
    /// The pin was answered for.
    promised: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Record {
    policy: usize,
    stored: i64,
    matures: i64,
    points: u64,
    packs: u64,
    keys: u64,
    there: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Doomed {
    packs: u64,
    keys: u64,
    points: u64,
}

/// What the site has.
struct Site {
    now: i64,
    packs: Vec<Pack>,
    keys: Vec<Key>,
    points: Vec<Point>,
    records: Vec<Record>,
}

const fn bit(number: usize) -> u64 {
    1 << number
}

fn bits(set: u64) -> impl Iterator<Item = usize> {
    (0..64).filter(move |number| set & bit(*number) != 0)
}

fn earliest(records: &[Record], of: impl Fn(&Record) -> bool) -> Option<i64> {
    records.iter().filter(|record| of(record)).map(|record| record.matures).min()
}

impl Site {
    fn records(&self) -> Vec<Record> {
        self.records.iter().filter(|record| record.there).copied().collect()
    }

    fn is_sound(&self, pack: usize) -> bool {
        self.packs[pack].there && self.keys[self.packs[pack].key].there
    }

    fn sound(&self) -> u64 {
        (0..self.packs.len()).filter(|pack| self.is_sound(*pack)).fold(0, |set, pack| set | bit(pack))
    }

    fn holds(&self, chunk: usize) -> bool {
        (0..self.packs.len()).any(|pack| self.packs[pack].chunks & (1 << chunk) != 0 && self.is_sound(pack))
    }

    fn check(&self) -> Result<(), String> {
        for (number, point) in self.points.iter().enumerate() {
            if point.promised && !point.there {
                return Err(format!("point {number} is pinned and gone"));
            }
            if point.there && point.settled && (0..CHUNKS).any(|chunk| point.chunks & (1 << chunk) != 0 && !self.holds(chunk)) {
                return Err(format!("point {number} has lost a chunk at {}", self.now));
            }
        }
        Ok(())
    }

    fn delete(&mut self, pack: usize) -> Result<(), String> {
        let found = &mut self.packs[pack];
        if found.locked_until > self.now {
            return Ok(());
        }
        found.there = false;
        self.check()
    }
}

/// A backup of one policy, from its beginning on.
struct Backup {
    policy: usize,
    step: u8,
    skew: i64,
    begun: i64,
    doomed: Doomed,
    seen: u64,
    key: usize,
    todo: Vec<usize>,
    chunks: u8,
    relies: u64,
    looked: i64,
    deadline: Option<i64>,
    point: usize,
}

/// A prune of one policy.
struct Prune {
    policy: usize,
    step: u8,
    grace: i64,
    asked: i64,
    looked: i64,
    records: Vec<Record>,
    kept: u64,
    others: u64,
    remove: u64,
    delete: Vec<usize>,
    delete_keys: Vec<usize>,
    doom: Doomed,
    needed: u64,
    keys_needed: u64,
    there: u64,
}

/// Pins a point.
struct Pinner {
    step: u8,
    point: usize,
}

/// Reads a point chunk by chunk.
struct Reading {
    point: Option<usize>,
    chunk: usize,
}

struct World {
    site: Site,
    dice: Dice,
    bug: Bug,
    backups: [Backup; 2],
    prunes: [Prune; 2],
    pinner: Pinner,
    reading: Reading,
}

impl Backup {
    fn new(policy: usize) -> Self {
        Self {
            policy,
            step: 0,
            skew: 0,
            begun: 0,
            doomed: Doomed::default(),
            seen: 0,
            key: 0,
            todo: Vec::new(),
            chunks: 0,
            relies: 0,
            looked: 0,
            deadline: None,
            point: 0,
        }
    }

    /// A step. A commit of which it is not known whether it came in time is taken back or confirmed by the next steps.
    fn go(&mut self, site: &mut Site, dice: &mut Dice, bug: Bug) -> Result<(), String> {
        let relied_keys =
            |site: &Site, relies: u64, own: usize| bits(relies).fold(bit(own), |set, pack| set | bit(site.packs[pack].key));
        let deadline = |site: &Site, relies: u64, own: usize| {
            let keys = relied_keys(site, relies, own);
            earliest(&site.records(), |record| record.packs & relies != 0 || record.keys & keys != 0)
        };
        match self.step {
            0 => {
                if site.packs.len() + CHUNKS + 4 > MOST || site.keys.len() + 4 > MOST || site.points.len() + 4 > MOST {
                    return Ok(());
                }
                *self = Self { step: 1, begun: site.now, skew: dice.next(120) as i64 - 60, ..Self::new(self.policy) };
                for record in site.records() {
                    self.doomed.packs |= record.packs;
                    self.doomed.keys |= record.keys;
                }
            }
            1 => {
                self.seen = site.sound();
                self.step = 2;
            }
            2 => {
                site.keys.push(Key { stored: site.now, there: true });
                self.key = site.keys.len() - 1;
                self.chunks = dice.next((1 << CHUNKS) - 1) as u8 + 1;
                self.todo = (0..CHUNKS).filter(|chunk| self.chunks & (1 << chunk) != 0).collect();
                self.step = 3;
            }
            3 => match self.todo.pop() {
                Some(chunk) => {
                    let adoptable = |pack: &usize| {
                        let known = &site.packs[*pack];
                        known.chunks & (1 << chunk) != 0
                            && self.doomed.packs & bit(*pack) == 0
                            && self.doomed.keys & bit(known.key) == 0
                    };
                    let found = bits(self.seen).find(adoptable);
                    let pack = found.unwrap_or_else(|| {
                        // Something that only this pack holds lies beside the chunk now and then.
                        let more = if dice.next(2) == 0 { dice.next(1 << CHUNKS) as u8 & self.chunks } else { 0 };
                        let locked_until = if dice.next(8) == 0 { site.now + dice.next(9000) as i64 } else { 0 };
                        let chunks = 1 << chunk | more;
                        site.packs.push(Pack { stored: site.now, chunks, key: self.key, there: true, locked_until });
                        site.packs.len() - 1
                    });
                    self.seen |= bit(pack);
                    self.relies |= bit(pack);
                }
                None => self.step = 4,
            },
            4 => {
                self.looked = site.now;
                self.deadline = deadline(site, self.relies, self.key).filter(|_| bug != Bug::NoLookBeforeCommit);
                self.step = 5;
            }
            5 => {
                let lasted = TimeDelta::minutes(site.now - self.begun);
                let is_whole = bug == Bug::NoWholeLook
                    || bug == Bug::NoLookBeforeCommit
                    || !must_look_whole(lasted)
                    || (self.relies & !site.sound() == 0 && site.keys[self.key].there);
                self.step = if is_whole && may_commit(at(site.now + self.skew), self.deadline.map(at)) { 6 } else { 0 };
            }
            6 => {
                let late = bug != Bug::NoLookBeforeCommit && !was_in_time(at(site.now), at(self.looked), self.deadline.map(at));
                let (policy, chunks, stored) = (self.policy, self.chunks, site.now);
                site.points.push(Point {
                    policy,
                    chunks,
                    stored,
                    begun: self.begun,
                    there: true,
                    settled: !late,
                    pinned: false,
                    promised: false,
                });
                self.point = site.points.len() - 1;
                self.step = if late { 7 } else { 0 };
                return site.check();
            }
            7 => {
                self.deadline = deadline(site, self.relies, self.key);
                self.step = 8;
            }
            _ => {
                let stored = site.points[self.point].stored;
                let is_whole = self.relies & !site.sound() == 0 && site.keys[self.key].there;
                if is_whole && was_in_time(at(stored), at(stored), self.deadline.map(at)) {
                    site.points[self.point].settled = true;
                } else {
                    site.points[self.point].there = false;
                    site.points[self.point].promised = false;
                }
                self.step = 0;
                return site.check();
            }
        }
        Ok(())
    }
}

impl Prune {
    fn new(policy: usize) -> Self {
        Self {
            policy,
            step: 0,
            grace: 0,
            asked: 0,
            looked: 0,
            records: Vec::new(),
            kept: 0,
            others: 0,
            remove: 0,
            delete: Vec::new(),
            delete_keys: Vec::new(),
            doom: Doomed::default(),
            needed: 0,
            keys_needed: 0,
            there: 0,
        }
    }

    /// Packs that these points need: of each chunk one copy that nobody has doomed; where all are doomed, all of them.
    fn needs(&self, site: &Site, points: u64, bug: Bug) -> u64 {
        let doomed = |pack: usize| {
            let key = bit(site.packs[pack].key);
            self.records.iter().any(|record| record.packs & bit(pack) != 0 || record.keys & key != 0)
        };
        let chunks = bits(points).fold(0, |set, point| set | site.points[point].chunks);
        let mut needed = 0;
        for chunk in (0..CHUNKS).filter(|chunk| chunks & (1 << chunk) != 0) {
            let mut copies: Vec<usize> = bits(self.there).filter(|pack| site.packs[*pack].chunks & (1 << chunk) != 0).collect();
            if bug == Bug::OwnCopy {
                if self.policy == 1 {
                    copies.reverse();
                }
                let chosen = copies.iter().copied().find(|pack| !doomed(*pack)).or(copies.first().copied());
                needed |= chosen.map_or(0, bit);
                continue;
            }
            match copies.iter().copied().find(|pack| !doomed(*pack)) {
                Some(pack) => needed |= bit(pack),
                None => needed |= copies.into_iter().fold(0, |set, pack| set | bit(pack)),
            }
        }
        needed
    }

    fn matures(&self, of: impl Fn(&Record) -> bool) -> Option<DateTime<Utc>> {
        earliest(&self.records, of).map(at)
    }

    fn list_points(&mut self, site: &Site) {
        let of_mine = |point: &Point| point.policy == self.policy;
        let newest = site.points.iter().rposition(|point| point.there && of_mine(point));
        (self.kept, self.remove) = (0, 0);
        for (number, point) in site.points.iter().enumerate().filter(|(_, point)| point.there) {
            let goes = of_mine(point) && !point.pinned && Some(number) != newest && site.now - point.stored > 2 * 1440;
            *if goes { &mut self.remove } else { &mut self.kept } |= bit(number);
        }
    }

    fn judge(&mut self, site: &Site, bug: Bug) {
        let there = site.sound();
        self.there = there;
        self.needed = self.needs(site, self.kept, bug);
        let any = self.needed | self.needs(site, self.remove & !self.others, bug);
        let (now, grace) = (at(self.asked), TimeDelta::minutes(self.grace));
        for pack in (0..site.packs.len()).filter(|pack| site.packs[*pack].there) {
            let facts = PackFacts {
                stored_at: at(site.packs[pack].stored),
                kept_need: self.needed & bit(pack) != 0,
                any_need: any & bit(pack) != 0,
                matures_at: self.matures(|record| record.packs & bit(pack) != 0),
            };
            let facts = if bug == Bug::NoSecondLook && facts.matures_at.is_some() {
                PackFacts { kept_need: false, any_need: false, ..facts }
            } else {
                facts
            };
            match facts.verdict(now, grace) {
                PackVerdict::Delete => self.delete.push(pack),
                PackVerdict::Doom => self.doom.packs |= bit(pack),
                PackVerdict::Stays | PackVerdict::Spared | PackVerdict::Waits => {}
            }
        }
        let remaining = (0..site.packs.len())
            .filter(|pack| site.packs[*pack].there && !self.delete.contains(pack))
            .fold(0, |set, pack| set | bit(site.packs[pack].key));
        self.keys_needed = remaining;
        for key in (0..site.keys.len()).filter(|key| site.keys[*key].there && remaining & bit(*key) == 0) {
            let matures_at = self.matures(|record| record.keys & bit(key) != 0);
            let facts = PackFacts { stored_at: at(site.keys[key].stored), kept_need: false, any_need: false, matures_at };
            match facts.verdict(now, grace) {
                PackVerdict::Delete => self.delete_keys.push(key),
                PackVerdict::Doom => self.doom.keys |= bit(key),
                PackVerdict::Stays | PackVerdict::Spared | PackVerdict::Waits => {}
            }
        }
    }

    fn may_delete(&self, site: &Site) -> bool {
        look_holds(TimeDelta::minutes(site.now - self.looked))
    }

    fn go(&mut self, site: &mut Site, dice: &mut Dice, bug: Bug) -> Result<(), String> {
        let late = bug == Bug::TimeAfterPoints;
        match self.step {
            0 => {
                if site.records.len() > 200 {
                    return Ok(());
                }
                *self = Self {
                    step: 1,
                    grace: 60 + dice.next(1500) as i64,
                    looked: site.now,
                    asked: site.now,
                    ..Self::new(self.policy)
                };
                if late {
                    self.list_points(site);
                }
            }
            1 => {
                self.records = site.records();
                if late {
                    self.asked = site.now;
                    self.step = 3;
                } else {
                    self.step = 2;
                }
            }
            2 => {
                self.list_points(site);
                self.step = 3;
            }
            3 => {
                let condemned = |point: &usize| {
                    self.others & bit(*point) == 0
                        && self.matures(|record| record.points & bit(*point) != 0).is_some_and(|at_time| at_time <= at(self.asked))
                };
                match bits(self.remove).find(condemned) {
                    Some(_) if !self.may_delete(site) => self.step = 0,
                    Some(point) => {
                        site.points[point].there = false;
                        self.others |= bit(point);
                        return site.check();
                    }
                    None => self.step = 4,
                }
            }
            4 => {
                self.judge(site, bug);
                self.step = 5;
            }
            5 => match self.delete.pop() {
                Some(_) if !self.may_delete(site) => self.step = 0,
                Some(pack) => return site.delete(pack),
                None => self.step = 6,
            },
            6 => match self.delete_keys.pop() {
                Some(_) if !self.may_delete(site) => self.step = 0,
                Some(key) => {
                    // A lock may have held a pack that needs it.
                    if !site.packs.iter().any(|pack| {
                        pack.there && pack.key == key && bit(key) & self.keys_needed == 0 && pack.locked_until > site.now
                    }) {
                        site.keys[key].there = false;
                        return site.check();
                    }
                }
                None => self.step = 7,
            },
            7 => {
                // What is needed of some pack moves to a new one, and the old one is doomed.
                let old = |pack: &usize| {
                    site.packs[*pack].there
                        && site.now - site.packs[*pack].stored > self.grace
                        && !self.records.iter().any(|record| record.packs & bit(*pack) != 0)
                };
                if dice.next(3) == 0
                    && site.packs.len() + 8 < MOST
                    && let Some(pack) = bits(self.needed).find(old)
                {
                    let moved = Pack { stored: site.now, there: true, locked_until: 0, ..site.packs[pack] };
                    site.packs.push(moved);
                    self.doom.packs |= bit(pack);
                    self.needed &= !bit(pack);
                }
                self.step = 8;
            }
            8 => {
                let doomed = self.records.iter().fold(0, |set, record| set | record.points);
                self.doom.points = self.remove & !self.others & !doomed;
                self.step = 9;
            }
            9 => {
                if self.doom != Doomed::default() {
                    let matures = site.now + self.grace;
                    let Doomed { packs, keys, points } = self.doom;
                    site.records.push(Record { policy: self.policy, stored: site.now, matures, points, packs, keys, there: true });
                }
                self.step = 10;
            }
            _ => {
                let there = |set: u64, is_there: &dyn Fn(usize) -> bool| {
                    bits(set).filter(|number| is_there(*number)).fold(0, |set, number| set | bit(number))
                };
                // Points that a record names may be gone already, for a prune of another policy.
                let named = self.records.iter().fold(0, |set, record| set | record.points);
                let needed = self.needs(site, self.kept & !named, bug);
                let keys_needed = bits(needed).fold(0, |set, pack| set | bit(site.packs[pack].key));
                let done = |record: &Record| {
                    let points = there(record.points, &|point| (self.kept | self.remove) & !self.others & bit(point) != 0);
                    // As prune saw the packs: what it has deleted itself keeps the record for the next one.
                    let packs = there(record.packs, &|pack| self.there & bit(pack) != 0);
                    let keys = there(record.keys, &|key| site.keys[key].there);
                    if bug == Bug::RecordRemovedEarly {
                        return at(record.matures) <= at(self.asked);
                    }
                    if record.policy != self.policy && points != 0 {
                        return false;
                    }
                    RecordFacts {
                        matures_at: at(record.matures),
                        pending: points & self.remove != 0 || packs & !needed != 0 || keys & !keys_needed != 0,
                        spared: points & self.kept != 0 || packs & needed != 0 || keys & keys_needed != 0,
                        late: bits(self.kept | self.others | self.remove).any(|point| {
                            let point = &site.points[point];
                            may_be_unseen(at(point.stored), at(self.asked)) && point.begun <= record.stored
                        }),
                    }
                    .is_done(at(self.asked))
                };
                let known = |record: &Record| record.there && self.records.contains(record);
                match site.records.iter().position(|record| known(record) && done(record)) {
                    Some(record) if self.may_delete(site) => site.records[record].there = false,
                    _ => self.step = 0,
                }
            }
        }
        Ok(())
    }
}

impl Pinner {
    fn go(&mut self, site: &mut Site, dice: &mut Dice) -> Result<(), String> {
        if self.step == 0 {
            let doomed = site.records().iter().fold(0, |set, record| set | record.points);
            let there: Vec<usize> =
                (0..site.points.len()).filter(|point| site.points[*point].there && site.points[*point].settled).collect();
            let wanted = there.iter().find(|point| doomed & bit(**point) != 0).or(there.first());
            if let Some(point) = wanted.filter(|_| dice.next(4) == 0) {
                (self.point, self.step) = (*point, 1);
                site.points[*point].pinned = true;
            }
            return Ok(());
        }
        self.step = 0;
        let matures = earliest(&site.records(), |record| record.points & bit(self.point) != 0).map(at);
        if pin_holds(at(site.now), matures) && site.points[self.point].there {
            site.points[self.point].promised = true;
        }
        site.check()
    }
}

impl Reading {
    fn go(&mut self, site: &Site) -> Result<(), String> {
        let Some(point) = self.point.filter(|point| site.points[*point].there && site.points[*point].settled) else {
            (self.point, self.chunk) = (site.points.iter().rposition(|point| point.there && point.settled), 0);
            return Ok(());
        };
        if site.points[point].chunks & (1 << self.chunk) != 0 && !site.holds(self.chunk) {
            return Err(format!("a reader of point {point} misses chunk {}", self.chunk));
        }
        self.chunk += 1;
        if self.chunk == CHUNKS {
            self.point = None;
        }
        Ok(())
    }
}

impl World {
    fn new(seed: u64, bug: Bug) -> Self {
        Self {
            site: Site { now: 0, packs: Vec::new(), keys: Vec::new(), points: Vec::new(), records: Vec::new() },
            dice: Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            bug,
            backups: [Backup::new(0), Backup::new(1)],
            prunes: [Prune::new(0), Prune::new(1)],
            pinner: Pinner { step: 0, point: 0 },
            reading: Reading { point: None, chunk: 0 },
        }
    }

    fn pass_time(&mut self) {
        self.site.now += match self.dice.next(16) {
            0..8 => 0,
            8..12 => self.dice.next(20) as i64,
            12..15 => self.dice.next(240) as i64,
            _ => self.dice.next(2880) as i64,
        };
    }

    /// The actor of one of these numbers goes on, or dies.
    fn step(&mut self, actor: usize) -> Result<(), String> {
        let Self { site, dice, bug, backups, prunes, pinner, reading } = self;
        let killed = dice.next(60) == 0;
        match actor {
            0 | 1 => {
                let backup = &mut backups[actor];
                if killed && backup.step < 7 {
                    backup.step = 0;
                }
                backup.go(site, dice, *bug)
            }
            2 | 3 => {
                let prune = &mut prunes[actor - 2];
                if killed {
                    prune.step = 0;
                }
                prune.go(site, dice, *bug)
            }
            4 => pinner.go(site, dice),
            _ => reading.go(site),
        }
    }

    fn run(&mut self) -> Result<(), String> {
        let mut actor = 0;
        for _ in 0..160 {
            // Often the same goes on: one that is left alone for long is one that sleeps.
            if self.dice.next(3) == 0 {
                actor = [0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 5][self.dice.next(12) as usize];
            }
            self.pass_time();
            self.step(actor)?;
        }
        self.quiet()
    }

    /// Nobody writes any more. Each policy prunes for some days: then nothing is left that no point needs.
    fn quiet(&mut self) -> Result<(), String> {
        for backup in &mut self.backups {
            while backup.step >= 7 {
                backup.go(&mut self.site, &mut self.dice, self.bug)?;
            }
        }
        self.prunes = [Prune::new(0), Prune::new(1)];
        for _ in 0..8 {
            self.site.now += 2 * 1440;
            for prune in &mut self.prunes {
                prune.go(&mut self.site, &mut self.dice, Bug::None)?;
                while prune.step != 0 {
                    prune.go(&mut self.site, &mut self.dice, Bug::None)?;
                }
            }
        }
        let chunks = self.site.points.iter().filter(|point| point.there).fold(0, |set, point| set | point.chunks);
        let day = self.site.now - 5 * 1440;
        let useless = |pack: &&Pack| pack.there && pack.chunks & chunks == 0 && pack.stored < day && pack.locked_until < day;
        if self.bug == Bug::None && self.site.packs.iter().any(|pack| useless(&pack)) {
            return Err("garbage stays".to_owned());
        }
        Ok(())
    }
}

/// The first of these seeds that breaks a promise.
fn search(seeds: std::ops::Range<u64>, bug: Bug) -> Option<(u64, String)> {
    seeds.into_iter().find_map(|seed| World::new(seed, bug).run().err().map(|broken| (seed, broken)))
}

#[test]
fn no_interleaving_of_the_protocol_loses_a_chunk_a_pin_or_keeps_garbage() {
    assert!(COMMIT_MARGIN < LEAST_GRACE);
    let first = super::seed();
    // FARSHORE_SOAK=25 makes them two hundred thousand.
    let count = soak(4_000);
    let broken: Vec<_> = std::thread::scope(|scope| {
        let search = |half: u64| scope.spawn(move || search(first + half * count..first + (half + 1) * count, Bug::None));
        [search(0), search(1)].into_iter().filter_map(|half| half.join().unwrap()).collect()
    });
    assert!(broken.is_empty(), "{broken:?}: FARSHORE_TEST_SEED={} replays it", broken[0].0);
}

#[test]
fn the_model_finds_every_rule_that_is_left_out() {
    // Where to begin, so that everyday tests need not search long.
    for (bug, first) in [
        (Bug::NoSecondLook, 0),
        (Bug::NoLookBeforeCommit, 0),
        (Bug::NoWholeLook, 700),
        (Bug::RecordRemovedEarly, 62_700),
        (Bug::TimeAfterPoints, 0),
        (Bug::OwnCopy, 300),
    ] {
        let (seed, broken) = search(first..first + soak(3_000), bug).unwrap_or_else(|| panic!("{bug:?} is not found"));
        println!("{bug:?}: seed {seed}: {broken}");
        // And what it finds it finds again.
        assert_eq!(World::new(seed, bug).run(), Err(broken), "{bug:?}");
    }
}
