//! Exit codes: what a script, a timer or a monitor may rely on.

/// How a command ended. The numbers never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitCode {
    /// Everything done, nothing to say.
    Success,
    /// An error that has no number of its own.
    Other,
    /// The command line.
    Usage,
    /// The policy.
    Policy,
    /// Done, with problems.
    Problems,
    /// A source.
    Source,
    /// The site.
    Site,
    /// Keys.
    Keys,
    /// Damage in the repository.
    Damaged,
    /// The restore target.
    Target,
    /// A check or objective.
    Failed,
    /// A file of the log was not delivered, and it is not proven that there is none.
    Undelivered,
    /// SIGINT.
    Interrupted,
    /// SIGTERM.
    Terminated,
}

impl ExitCode {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 14] = [
        Self::Success,
        Self::Other,
        Self::Usage,
        Self::Policy,
        Self::Problems,
        Self::Source,
        Self::Site,
        Self::Keys,
        Self::Damaged,
        Self::Target,
        Self::Failed,
        Self::Undelivered,
        Self::Interrupted,
        Self::Terminated,
    ];

    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Other => 1,
            // clap's own for a command line that it refuses.
            Self::Usage => 2,
            Self::Policy => 3,
            Self::Problems => 4,
            Self::Source => 5,
            Self::Site => 6,
            Self::Keys => 7,
            Self::Damaged => 8,
            Self::Target => 9,
            Self::Failed => 10,
            // PostgreSQL takes 1 to 125 of a `restore_command` for "there is no such file", and ends its recovery.
            Self::Undelivered => 126,
            // 128 and the number of the signal, as shells say it.
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    /// The worse of two, for what was done at several places: every error is worse than problems, and of errors the one with the
    /// higher number is.
    pub fn worse(self, other: Self) -> Self {
        let rank = |code: Self| (code != Self::Success, code != Self::Problems, code.code());
        if rank(other) > rank(self) { other } else { self }
    }

    /// What it means, in one sentence without a full stop.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Success => "everything was done, and there is nothing to report",
            Self::Other => "an error without a number of its own; the message says what to do",
            Self::Usage => "the command line is wrong; nothing was done",
            Self::Policy => "the policy is wrong or cannot be read, or a secret that it names cannot be found; nothing was done",
            Self::Problems => "done, but some things were left out or look wrong; each is named in the report",
            Self::Source => "a source cannot be reached, read or captured safely; no recovery point was made",
            Self::Site => "the site cannot be reached, refuses, is full, or holds no repository",
            Self::Keys => "the identity is missing or does not open this repository or point",
            Self::Damaged => "something in the repository is damaged or missing; each object is named",
            Self::Target => "the restore target is not fit: not empty, too old, no room, or not reachable",
            Self::Failed => "the work was done, but a check failed or an objective was missed",
            Self::Undelivered => "`wal get` alone, whatever went wrong: the file was not delivered, and recovery must stop",
            Self::Interrupted => "interrupted (SIGINT); nothing half-done counts as done",
            Self::Terminated => "terminated (SIGTERM); nothing half-done counts as done",
        }
    }
}

/// How `wal get` ends: what PostgreSQL's `restore_command` goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GetCode {
    /// The file is there.
    Delivered,
    /// There is no such file.
    Absent,
    /// Everything else.
    Undelivered,
}

impl GetCode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Delivered, Self::Absent, Self::Undelivered];

    /// What it means, and what PostgreSQL makes of it.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Delivered => "the file was delivered, whole and authenticated",
            Self::Absent => {
                "every site answered: the file is not in the archive, and nothing of its timeline that comes later; PostgreSQL looks into its own `pg_wal`, and then ends recovery"
            }
            Self::Undelivered => {
                "everything else (network, keys, damage, a gap, a wrong command line or policy, a full disk, a defect); PostgreSQL stops and does not promote"
            }
        }
    }
}

impl From<GetCode> for ExitCode {
    fn from(code: GetCode) -> Self {
        match code {
            GetCode::Delivered => Self::Success,
            GetCode::Absent => Self::Other,
            GetCode::Undelivered => Self::Undelivered,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.code())
    }
}

/// The table of all exit codes as it stands in the README, where a test compares it.
pub fn markdown_table() -> String {
    let mut table = "| code | meaning |\n|---|---|\n".to_owned();
    for code in ExitCode::ALL {
        table.push_str(&format!("| {} | {} |\n", code.code(), code.describe()));
    }
    table
}

/// The table of the exit codes of `wal get`, likewise.
pub fn get_markdown_table() -> String {
    let mut table = "| code of `wal get` | meaning |\n|---|---|\n".to_owned();
    for code in GetCode::ALL {
        table.push_str(&format!("| {} | {} |\n", ExitCode::from(code).code(), code.describe()));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{ExitCode, GetCode, markdown_table};

    #[test]
    fn a_server_takes_only_proven_absence_for_the_end_of_the_log() {
        let codes = GetCode::ALL.map(|code| ExitCode::from(code).code());
        assert_eq!(codes[..2], [0, 1]);
        assert!(codes[2] > 125, "PostgreSQL takes anything else for absence");
    }

    #[test]
    fn numbers_are_unique_and_in_order() {
        assert!(ExitCode::ALL.is_sorted_by(|left, right| left.code() < right.code()));
    }

    #[test]
    fn damage_is_worse_than_a_site_that_is_down_and_every_error_is_worse_than_problems() {
        let ranked = [ExitCode::Success, ExitCode::Problems, ExitCode::Other, ExitCode::Site, ExitCode::Damaged];
        for (index, worse) in ranked.into_iter().enumerate() {
            for better in &ranked[..=index] {
                assert_eq!((worse.worse(*better), better.worse(worse)), (worse, worse));
            }
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_code() {
        let table = markdown_table();
        assert!(table.starts_with("| code | meaning |\n|---|---|\n| 0 | everything was done"));
        assert!(table.ends_with("| 143 | terminated (SIGTERM); nothing half-done counts as done |\n"));
        assert_eq!(table.lines().count(), 2 + ExitCode::ALL.len());
    }

    #[test]
    fn the_runbook_says_what_to_do_about_each_code() {
        let runbook = include_str!("../../docs/runbook.md");
        for code in ExitCode::ALL.into_iter().filter(|code| *code != ExitCode::Success) {
            let listed = runbook.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
            let number = code.code().to_string();
            assert!(
                listed.flat_map(|cell| cell.split(", ")).any(|cell| cell == number),
                "docs/runbook.md says nothing about {number}"
            );
        }
    }
}
