//! How far a restored cluster replays the log, and where it gets it from.

use std::{fmt::Write as _, path::PathBuf};

use chrono::{DateTime, Utc};

use super::{
    facts::PhysicalFacts,
    in_place::{KNOWN_FROM, SETTING},
    label::Lsn,
};

/// Where replay ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// At the end of the backup: with the log that the point itself holds.
    #[default]
    Point,
    /// At the end of what is archived.
    Latest,
    /// After the last commit that is not later than this.
    Time(DateTime<Utc>),
    /// At this place in the log.
    Lsn(Lsn),
    /// At the end of this transaction.
    Xid(u64),
    /// At the restore point of this name (`pg_create_restore_point`).
    Name(String),
}

impl RecoveryTarget {
    /// As an operator would say it.
    pub fn words(&self) -> String {
        match self {
            Self::Point => "the end of the backup".to_owned(),
            Self::Latest => "the end of the archived log".to_owned(),
            Self::Time(time) => format!("time {}", shown(time)),
            Self::Lsn(lsn) => format!("LSN {lsn}"),
            Self::Xid(xid) => format!("transaction {xid}"),
            Self::Name(name) => format!("restore point {name:?}"),
        }
    }
}

/// Which way replay takes where the log forks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Timeline {
    /// To the newest timeline that is archived.
    #[default]
    Latest,
    /// Along the one on which the backup was taken.
    Current,
    /// To this one.
    Number(u32),
}

/// What the server does when it has replayed so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Action {
    /// It becomes a primary, on a timeline of its own.
    #[default]
    Promote,
    /// It waits, readable, until somebody says `pg_wal_replay_resume()` or starts it with another target.
    Pause,
}

/// What a server calls for each file of the log that it wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetch {
    /// The program and its options, without those below; the file's name and where to put it come last.
    pub argv: Vec<String>,
    /// The policy, where one is meant: it stands right before the file's name.
    pub policy: Option<String>,
    /// Files with what opens the log, each handed over by `--identity`. The server's user must be able to read them.
    pub identities: Vec<PathBuf>,
    /// What the archive has, in words, for the plan.
    pub found: String,
}

impl Fetch {
    /// As a `restore_command`: words for a shell, in which a percent sign has a meaning for the server.
    pub fn command(&self) -> String {
        let identities = self.identities.iter().flat_map(|path| ["--identity".to_owned(), path.display().to_string()]);
        let words = self.argv.iter().cloned().chain(identities).chain(self.policy.clone());
        let quoted = words.map(|word| format!("'{}'", word.replace('\'', "'\\''").replace('%', "%%")));
        quoted.chain(["%f".to_owned(), "\"%p\"".to_owned()]).collect::<Vec<_>>().join(" ")
    }
}

/// How far a restored cluster replays the log, and where it gets it from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Where it ends.
    pub target: RecoveryTarget,
    /// A target that is a transaction, a time or a place in the log is itself left out.
    pub exclusive: bool,
    /// Which way it takes.
    pub timeline: Timeline,
    /// What comes then.
    pub action: Action,
    /// What fetches a file of the log; nothing where the point's own log is all.
    pub fetch: Option<Fetch>,
    /// The restored server archives as its settings say. Otherwise it archives nothing until somebody allows it: a restore beside the
    /// living primary must not write into that one's archive.
    pub archives: bool,
}

/// Everything that an earlier recovery of the captured server may have left in its settings.
const TARGETS: [&str; 5] =
    ["recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_time", "recovery_target_xid"];
/// What the captured server, as a standby, did beside its replay, and may have in any of its settings files: commands that remove from
/// somebody's archive or move an address, and a delay that this recovery would wait for.
const BESIDE: [(&str, &str); 3] =
    [("archive_cleanup_command", ""), ("recovery_end_command", ""), ("recovery_min_apply_delay", "0")];
/// Settings of a recovery that mean nothing afterwards.
pub const AFTERWARDS: [&str; 12] = [
    "restore_command",
    "archive_cleanup_command",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_inclusive",
    "recovery_target_action",
    "recovery_target_timeline",
];

impl Recovery {
    /// Why this cannot be had from a snapshot with these facts, which shows the time `consistent_at`, and the next step.
    ///
    /// # Errors
    /// In words. A target before the end of the backup is refused and never replaced: the server would replay to the end of the backup, and
    /// with it what was to be left out.
    pub fn check(&self, facts: &PhysicalFacts, consistent_at: DateTime<Utc>) -> Result<(), String> {
        let earlier = "choose a point whose backup ended before that (`farshore points`)";
        match &self.target {
            RecoveryTarget::Time(time) if *time < consistent_at => Err(format!(
                "{} lies before the end of this point's backup, {}: {earlier}",
                self.target.words(),
                shown(&consistent_at)
            )),
            RecoveryTarget::Lsn(lsn) if Lsn::parse(&facts.stop_lsn).is_none_or(|stop| *lsn < stop) => Err(format!(
                "{} lies before the end of this point's backup, {}: {earlier}",
                self.target.words(),
                facts.stop_lsn
            )),
            RecoveryTarget::Point if self.exclusive || self.timeline != Timeline::Latest => {
                Err("a restore of the point itself has no --exclusive and no --timeline: add one of --to-latest, --to-time, --to-lsn, --to-xid, --to-name".to_owned())
            }
            RecoveryTarget::Latest | RecoveryTarget::Name(_) if self.exclusive => {
                Err("--exclusive goes with --to-time, --to-lsn and --to-xid".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Lines for the last of the settings files that a server of this version (`server_version_num`) reads.
    pub fn settings(&self, version: u32) -> String {
        let mut text = String::from("\n# Written by farshore: ");
        text.push_str(match self.fetch {
            None => "the log up to the end of the backup lies in pg_wal, and there is no other.\n",
            Some(_) => "the log up to the end of the backup lies in pg_wal, what follows is fetched from the archive.\n",
        });
        let mut set = |name: &str, value: &str| {
            // Backslashes have a meaning in this file, and a line break ends a value.
            let quoted = value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n").replace('\r', "\\r");
            let _ = writeln!(text, "{name} = '{quoted}'");
        };
        if version >= KNOWN_FROM {
            // Else it would give up at the end of the backup over a tablespace that lies in the data directory.
            set(SETTING, "on");
        }
        set("restore_command", &self.fetch.as_ref().map_or_else(|| "false".to_owned(), Fetch::command));
        for (name, value) in BESIDE {
            set(name, value);
        }
        let wanted = match &self.target {
            RecoveryTarget::Point | RecoveryTarget::Latest => None,
            RecoveryTarget::Time(time) => Some(("recovery_target_time", shown(time))),
            RecoveryTarget::Lsn(lsn) => Some(("recovery_target_lsn", lsn.to_string())),
            RecoveryTarget::Xid(xid) => Some(("recovery_target_xid", xid.to_string())),
            RecoveryTarget::Name(name) => Some(("recovery_target_name", name.clone())),
        };
        let is_wanted = |name: &&str| wanted.as_ref().is_some_and(|(wanted, _)| wanted == name);
        for name in TARGETS.iter().filter(|name| !is_wanted(name)) {
            set(name, "");
        }
        // After those that are empty: the server takes an empty one after it for a second target.
        if let Some((name, value)) = &wanted {
            set(name, value);
        }
        set("recovery_target_inclusive", if self.exclusive { "off" } else { "on" });
        let action = match self.action {
            Action::Promote => "promote",
            Action::Pause => "pause",
        };
        set("recovery_target_action", action);
        let timeline = match self.timeline {
            Timeline::Latest => "latest".to_owned(),
            Timeline::Current => "current".to_owned(),
            Timeline::Number(number) => number.to_string(),
        };
        set("recovery_target_timeline", &timeline);
        if !self.archives {
            text.push_str(
                "# Nothing is archived until this line is gone (ALTER SYSTEM SET archive_mode = on; restart): the living primary may use the same archive.\n",
            );
            text.push_str("archive_mode = 'off'\n");
        }
        text
    }
}

/// A time as PostgreSQL reads it, whatever the server's time zone.
fn shown(time: &DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};

    use super::{Action, Fetch, Recovery, RecoveryTarget, Timeline};
    use crate::sources::postgres::physical::{facts::tests::facts, label::Lsn};

    fn at() -> DateTime<Utc> {
        DateTime::from_timestamp_micros(1_764_154_800_250_000).unwrap()
    }

    #[test]
    fn a_target_before_the_end_of_the_backup_is_refused_and_never_replaced() {
        let table = [
            (RecoveryTarget::Point, None),
            (RecoveryTarget::Latest, None),
            (RecoveryTarget::Time(at()), None),
            (
                RecoveryTarget::Time(at() - TimeDelta::microseconds(1)),
                Some("before the end of this point's backup, 2025-11-26 11:00:00.250000+00"),
            ),
            (RecoveryTarget::Lsn(Lsn(0x300_0100)), None),
            (RecoveryTarget::Lsn(Lsn(0x300_00FF)), Some("before the end of this point's backup, 0/3000100")),
            (RecoveryTarget::Xid(3), None),
            (RecoveryTarget::Name("x".to_owned()), None),
        ];
        for (target, expected) in table {
            let said = Recovery { target: target.clone(), ..Recovery::default() }.check(&facts(), at()).err();
            match expected {
                None => assert_eq!(said, None, "{target:?}"),
                Some(expected) => assert!(said.as_ref().is_some_and(|said| said.contains(expected)), "{target:?}: {said:?}"),
            }
        }
    }

    #[test]
    fn what_makes_no_sense_together_is_refused() {
        let with = |target, exclusive, timeline| Recovery { target, exclusive, timeline, ..Recovery::default() };
        for refused in [
            with(RecoveryTarget::Point, true, Timeline::Latest),
            with(RecoveryTarget::Point, false, Timeline::Current),
            with(RecoveryTarget::Latest, true, Timeline::Latest),
            with(RecoveryTarget::Name("x".to_owned()), true, Timeline::Latest),
        ] {
            assert!(refused.check(&facts(), at()).unwrap_err().contains("--"), "{refused:?}");
        }
        with(RecoveryTarget::Xid(3), true, Timeline::Number(2)).check(&facts(), at()).unwrap();
    }

    #[test]
    fn settings_leave_nothing_of_an_earlier_recovery_and_quote_what_they_are_given() {
        let recovery = Recovery {
            target: RecoveryTarget::Name("it's \\ here".to_owned()),
            exclusive: true,
            timeline: Timeline::Number(3),
            action: Action::Pause,
            fetch: Some(Fetch {
                argv: vec!["/opt/it's/farshore".to_owned(), "a\nb".to_owned()],
                identities: vec!["100%".into()],
                policy: Some("p".to_owned()),
                found: String::new(),
            }),
            archives: true,
        };
        let expected = "allow_in_place_tablespaces = 'on'\nrestore_command = '''/opt/it''\\\\''''s/farshore'' ''a\\nb'' ''--identity'' ''100%%'' ''p'' %f \"%p\"'\n\
                        archive_cleanup_command = ''\nrecovery_end_command = ''\nrecovery_min_apply_delay = '0'\n\
                        recovery_target = ''\nrecovery_target_lsn = ''\nrecovery_target_time = ''\nrecovery_target_xid = ''\n\
                        recovery_target_name = 'it''s \\\\ here'\nrecovery_target_inclusive = 'off'\nrecovery_target_action = 'pause'\n\
                        recovery_target_timeline = '3'\n";
        let settings = recovery.settings(150_018);
        assert!(settings.ends_with(expected), "{settings}");
        let settings = Recovery::default().settings(140_004);
        assert!(!settings.contains("in_place"), "a server that does not know it would not start: {settings}");
        assert!(settings.contains("restore_command = 'false'\n") && settings.ends_with("archive_mode = 'off'\n"), "{settings}");
        let settings = Recovery { target: RecoveryTarget::Time(at()), ..Recovery::default() }.settings(140_005);
        assert!(settings.contains("recovery_target_time = '2025-11-26 11:00:00.250000+00'\n"), "{settings}");
    }
}
