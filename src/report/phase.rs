//! The phases of a restore, in the words that every report and all evidence uses.

use serde::{Deserialize, Serialize};

use super::{Align, PhaseTime, Table, seconds};

/// A phase of a restore or drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Which recovery point.
    #[serde(rename = "select point")]
    SelectPoint,
    /// Unwrapping its keys.
    #[serde(rename = "obtain keys")]
    ObtainKeys,
    /// Reachable, empty, room enough.
    #[serde(rename = "check target")]
    CheckTarget,
    /// Indexes and entries.
    #[serde(rename = "fetch catalogue")]
    FetchCatalogue,
    /// Until packs that lay in an archive can be read.
    Retrieval,
    /// Data into the database.
    #[serde(rename = "database transfer")]
    DatabaseTransfer,
    /// Until the database answers: indexes, constraints, recovery.
    #[serde(rename = "database recovery")]
    DatabaseRecovery,
    /// Objects and files.
    #[serde(rename = "object transfer")]
    ObjectTransfer,
    /// Counts and hashes.
    Verification,
    /// The policy's probes and cross-checks.
    #[serde(rename = "application check")]
    ApplicationCheck,
    /// Switching over.
    #[serde(rename = "cut-over")]
    CutOver,
    /// `ANALYZE` of a database that is in service already. Not part of the RTO.
    Statistics,
    /// Removing what a drill made. Not part of the RTO: nobody waits for it.
    #[serde(rename = "clean-up")]
    CleanUp,
}

/// All phases, in their order.
pub const PHASES: [Phase; 13] = [
    Phase::SelectPoint,
    Phase::ObtainKeys,
    Phase::CheckTarget,
    Phase::FetchCatalogue,
    Phase::Retrieval,
    Phase::DatabaseTransfer,
    Phase::DatabaseRecovery,
    Phase::ObjectTransfer,
    Phase::Verification,
    Phase::ApplicationCheck,
    Phase::CutOver,
    Phase::Statistics,
    Phase::CleanUp,
];

impl Phase {
    /// Its name, as in [`PhaseTime::name`].
    pub fn name(self) -> &'static str {
        match self {
            Self::SelectPoint => "select point",
            Self::ObtainKeys => "obtain keys",
            Self::CheckTarget => "check target",
            Self::FetchCatalogue => "fetch catalogue",
            Self::Retrieval => "retrieval",
            Self::DatabaseTransfer => "database transfer",
            Self::DatabaseRecovery => "database recovery",
            Self::ObjectTransfer => "object transfer",
            Self::Verification => "verification",
            Self::ApplicationCheck => "application check",
            Self::CutOver => "cut-over",
            Self::Statistics => "statistics",
            Self::CleanUp => "clean-up",
        }
    }

    /// This phase with the time it took.
    pub fn took(self, seconds: f64) -> PhaseTime {
        PhaseTime { name: self.name().to_owned(), seconds }
    }
}

/// Seconds until service: the sum of all phases but those that nobody waits for.
pub fn rto_seconds(phases: &[PhaseTime]) -> f64 {
    let outside = [Phase::Statistics.name(), Phase::CleanUp.name()];
    phases.iter().filter(|phase| !outside.contains(&phase.name.as_str())).map(|phase| phase.seconds).sum()
}

/// The phases as a table; times of the same name (several sources) are added up.
pub(super) fn phase_table(phases: &[PhaseTime]) -> String {
    let mut sums: Vec<(&str, f64)> = Vec::new();
    for phase in phases {
        match sums.iter_mut().find(|(name, _)| *name == phase.name) {
            Some((_, sum)) => *sum += phase.seconds,
            None => sums.push((&phase.name, phase.seconds)),
        }
    }
    sums.sort_by_key(|(name, _)| PHASES.iter().position(|phase| phase.name() == *name).unwrap_or(PHASES.len()));
    let mut table = Table::new(&[("phase", Align::Left), ("time", Align::Right)]);
    for (name, sum) in sums {
        table.row(vec![name.to_owned(), seconds(sum)]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::{PHASES, Phase, phase_table, rto_seconds};

    #[test]
    fn names_in_json_and_in_text_are_the_same() {
        for phase in PHASES {
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.name());
        }
    }

    #[test]
    fn cleaning_up_is_no_part_of_the_rto() {
        let phases = [Phase::DatabaseTransfer.took(2.5), Phase::CleanUp.took(100.0), Phase::Verification.took(1.0)];
        assert!((rto_seconds(&phases) - 3.5).abs() < 1e-9);
    }

    #[test]
    fn phases_of_several_sources_are_added_up_and_stand_in_their_order() {
        let phases = [Phase::Verification.took(1.0), Phase::ObjectTransfer.took(2.0), Phase::ObjectTransfer.took(3.0)];
        assert_eq!(phase_table(&phases), "  phase             time\n  object transfer  5.0 s\n  verification     1.0 s\n");
    }
}
