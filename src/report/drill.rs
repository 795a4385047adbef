//! The evidence of a drill: the lasting record, as JSON on the site (`docs/evidence.md`). How it reads is in `drill_text`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Check, ExitCode, PhaseTime, Problem, RestoredSource, RpoFigures, RtoFigures, restore::source_problems, seconds};

/// The version of the evidence's JSON: raised when a field changes its meaning or goes away, not when one is added.
pub const EVIDENCE_SCHEMA_VERSION: u32 = 2;

/// What a drill did and found. Stored whether it passed or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillReport {
    /// [`EVIDENCE_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Who ran it.
    pub agent: Agent,
    /// The moment of the supposed loss: the drill's beginning.
    pub started_at: DateTime<Utc>,
    /// Its end, clean-up included.
    pub finished_at: DateTime<Utc>,
    /// The policy's name.
    pub policy: String,
    /// The region it protects.
    pub region: Option<String>,
    /// The site it was restored from, as an operator would write it down.
    pub site: String,
    /// What was restored; nothing if the drill failed before it had chosen.
    pub point: Option<DrilledPoint>,
    /// How each target was kept from production.
    pub isolation: Vec<Isolation>,
    /// Each source that was restored.
    pub sources: Vec<RestoredSource>,
    /// How long each phase took, on the monotonic clock.
    pub phases: Vec<PhaseTime>,
    /// Data lost; nothing without a point.
    pub rpo: Option<RpoFigures>,
    /// Time until service; nothing if service was not reached.
    pub rto: Option<RtoFigures>,
    /// The checks that belong to no single source: probes, cross-checks, keys. Those of a source are in `sources`.
    pub checks: Vec<Check>,
    /// What went wrong without ending the drill, and belongs to no source.
    pub problems: Vec<Problem>,
    /// The error that ended it early.
    pub failure: Option<String>,
    /// Whether it passed. Set by [`DrillReport::judged`].
    pub verdict: Verdict,
    /// Why it did not pass, one sentence each; empty if it did.
    pub reasons: Vec<String>,
    /// The drills before this one, oldest first.
    pub trend: Vec<TrendEntry>,
    /// The evidence before this one: the chain that shows whether any was taken out or changed. Nothing for the first.
    pub previous: Option<EvidenceLink>,
}

/// Who ran a drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// The machine's name.
    pub host: String,
    /// The user it ran as.
    pub user: String,
    /// Farshore's version.
    pub version: String,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrilledPoint {
    /// The recovery point.
    pub id: String,
    /// The time T that it shows.
    pub consistent_at: DateTime<Utc>,
    /// The hash that stands for everything in the point, in hexadecimal.
    pub root_hash: String,
    /// Who could read it: `2 recipients`, or `none`.
    pub encryption: String,
}

/// How a target was kept from production.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// The source that was restored.
    pub source: String,
    /// Where to, without secrets.
    pub target: String,
    /// By what it was isolated: `scratch cluster, own socket, no network, archive_mode=off`.
    pub means: String,
}

/// Whether a drill passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything was restored, every check passed, no objective was missed.
    Passed,
    /// Not so.
    Failed,
}

/// An earlier drill, in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrendEntry {
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// Whether it passed.
    pub verdict: Verdict,
    /// Its measured RTO in seconds.
    pub rto_seconds: Option<f64>,
    /// Its achieved RPO in seconds.
    pub rpo_seconds: Option<f64>,
    /// Plain bytes it restored.
    pub bytes: u64,
}

/// The evidence before this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceLink {
    /// Its key in the repository.
    pub key: String,
    /// The SHA-256 of the object as it is stored, in hexadecimal.
    pub sha256: String,
}

impl DrillReport {
    /// All checks: those of each source, then the others.
    pub fn all_checks(&self) -> Vec<Check> {
        self.sources.iter().flat_map(|source| source.checks.iter()).chain(&self.checks).cloned().collect()
    }

    /// All problems, those of the sources with the source's name before the subject.
    pub fn all_problems(&self) -> Vec<Problem> {
        source_problems(&self.sources).into_iter().chain(self.problems.iter().cloned()).collect()
    }

    /// The same report with its verdict and the reasons for it, from everything else in it.
    ///
    /// A drill passes if no error ended it, something was checked, no check failed and no objective was missed. Problems alone
    /// do not fail it, nor does the worst RPO of the period, which lies in the past: both are said.
    #[must_use]
    pub fn judged(mut self) -> Self {
        let mut reasons = Vec::new();
        if let Some(failure) = &self.failure {
            reasons.push(format!("ended early: {failure}"));
        }
        let checks = self.all_checks();
        let failed = checks.iter().filter(|check| check.failed()).count();
        if failed > 0 {
            reasons.push(format!("{failed} of {} checks failed", checks.len()));
        }
        if checks.is_empty() && self.failure.is_none() {
            reasons.push("nothing was checked, so nothing is proven".to_owned());
        }
        if let Some(rto) = self.rto.as_ref().filter(|rto| rto.missed()) {
            reasons.push(format!(
                "RTO: {} until service, the objective is {}",
                seconds(rto.measured_seconds),
                seconds(rto.objective_seconds.unwrap_or_default())
            ));
        }
        if let Some(rpo) = self.rpo.as_ref().filter(|rpo| rpo.missed()) {
            reasons.push(match rpo.is_from_the_future() {
                true => format!(
                    "RPO: the point is dated {} later than the drill: a clock was or is wrong",
                    seconds(-rpo.achieved_seconds)
                ),
                false => format!(
                    "RPO: {} of data lost, the objective is {}",
                    seconds(rpo.achieved_seconds),
                    seconds(rpo.configured_seconds.unwrap_or_default())
                ),
            });
        }
        self.verdict = if reasons.is_empty() { Verdict::Passed } else { Verdict::Failed };
        self.reasons = reasons;
        self
    }

    /// [`ExitCode::Failed`] unless it passed, else [`ExitCode::Problems`] if there were any, else [`ExitCode::Success`].
    pub fn exit_code(&self) -> ExitCode {
        match self.verdict {
            Verdict::Failed => ExitCode::Failed,
            Verdict::Passed if self.all_problems().is_empty() => ExitCode::Success,
            Verdict::Passed => ExitCode::Problems,
        }
    }

    /// This drill in short, for the trend of the next.
    pub fn trend_entry(&self) -> TrendEntry {
        TrendEntry {
            started_at: self.started_at,
            verdict: self.verdict,
            rto_seconds: self.rto.as_ref().map(|rto| rto.measured_seconds),
            rpo_seconds: self.rpo.as_ref().map(|rpo| rpo.achieved_seconds),
            bytes: self.sources.iter().map(|source| source.bytes).sum(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{
        Agent, Check, DateTime, DrillReport, DrilledPoint, EVIDENCE_SCHEMA_VERSION, EvidenceLink, ExitCode, Isolation, Problem,
        RestoredSource, RpoFigures, RtoFigures, TrendEntry, Verdict,
    };
    use crate::report::{DatabaseRows, Phase, TableRows, rto_seconds};

    pub(in crate::report) fn report() -> DrillReport {
        let started_at = DateTime::from_timestamp(1_795_420_000, 0).unwrap();
        let consistent_at = DateTime::from_timestamp(1_795_399_203, 0).unwrap();
        let phases = vec![
            Phase::SelectPoint.took(0.4),
            Phase::ObtainKeys.took(0.1),
            Phase::DatabaseTransfer.took(200.0),
            Phase::ObjectTransfer.took(100.0),
            Phase::Verification.took(11.5),
            Phase::CleanUp.took(20.0),
        ];
        DrillReport {
            schema_version: EVIDENCE_SCHEMA_VERSION,
            agent: Agent { host: "backup-1".into(), user: "farshore".into(), version: "0.1.0".into() },
            started_at,
            finished_at: started_at + chrono::TimeDelta::seconds(332),
            policy: "mattermost-eu".into(),
            region: Some("eu-central-1".into()),
            site: "s3://dr-us-east-1/mattermost-eu".into(),
            point: Some(DrilledPoint {
                id: "20261123T020003Z-4f2a".into(),
                consistent_at,
                root_hash: "ab".repeat(32),
                encryption: "2 recipients".into(),
            }),
            isolation: vec![Isolation {
                source: "db".into(),
                target: "scratch cluster".into(),
                means: "own socket, no network".into(),
            }],
            sources: vec![RestoredSource {
                name: "db".into(),
                kind: "postgres".into(),
                target: "scratch cluster".into(),
                items: 214,
                items_kept: 0,
                bytes: 5 << 30,
                seconds: 200.0,
                recovered_to: None,
                rows: vec![],
                checks: vec![Check::equal("db: rows of public.posts", 100, 100)],
                problems: vec![],
            }],
            rto: Some(RtoFigures { objective_seconds: Some(3600.0), measured_seconds: rto_seconds(&phases) }),
            phases,
            rpo: Some(RpoFigures::measure(
                Some(93_600.0),
                started_at,
                consistent_at,
                &[consistent_at - chrono::TimeDelta::days(1), consistent_at],
            )),
            checks: vec![Check::equal("db → attachments: missing objects", 0, 0)],
            problems: vec![],
            failure: None,
            verdict: Verdict::Failed,
            reasons: vec![],
            trend: vec![TrendEntry {
                started_at: started_at - chrono::TimeDelta::days(7),
                verdict: Verdict::Passed,
                rto_seconds: Some(290.0),
                rpo_seconds: Some(20_000.0),
                bytes: 5 << 30,
            }],
            previous: Some(EvidenceLink { key: "evidence/20261116T074640Z-11aa".into(), sha256: "cd".repeat(32) }),
        }
        .judged()
    }

    #[test]
    fn a_drill_passes_if_all_checks_passed_and_the_objectives_were_met() {
        let report = report();
        assert_eq!((report.verdict, report.reasons.len(), report.exit_code()), (Verdict::Passed, 0, ExitCode::Success));
    }

    #[test]
    fn every_reason_for_failing_is_given() {
        let mut report = report();
        report.checks.push(Check::equal("probe", "t", "f"));
        report.rto = Some(RtoFigures { objective_seconds: Some(60.0), measured_seconds: 312.0 });
        report.rpo.as_mut().unwrap().configured_seconds = Some(3600.0);
        report.failure = Some("the disk is full".into());
        let report = report.judged();
        assert_eq!(
            report.reasons,
            [
                "ended early: the disk is full",
                "1 of 3 checks failed",
                "RTO: 5 min 12 s until service, the objective is 1 min",
                "RPO: 5 h 46 min of data lost, the objective is 1 h",
            ]
        );
        assert_eq!(report.exit_code(), ExitCode::Failed);
    }

    #[test]
    fn a_drill_that_checked_nothing_proves_nothing() {
        let mut report = report();
        report.sources.clear();
        report.checks.clear();
        assert_eq!(report.judged().reasons, ["nothing was checked, so nothing is proven"]);
    }

    #[test]
    fn evidence_comes_back_as_it_was_and_unknown_fields_of_later_versions_are_passed_over() {
        let report = report();
        let mut json = serde_json::to_value(&report).unwrap();
        json["of_a_later_version"] = serde_json::json!(1);
        assert_eq!(serde_json::from_value::<DrillReport>(json).unwrap(), report);
    }

    #[test]
    fn every_field_of_the_evidence_is_in_its_document() {
        fn names(value: &serde_json::Value, into: &mut Vec<String>) {
            match value {
                serde_json::Value::Object(object) => {
                    into.extend(object.keys().cloned());
                    object.values().for_each(|value| names(value, into));
                }
                serde_json::Value::Array(array) => array.iter().for_each(|value| names(value, into)),
                _ => {}
            }
        }
        let mut report = report();
        report.problems.push(Problem::new("a", "b"));
        report.sources[0].recovered_to = Some(report.started_at);
        let largest = vec![TableRows { table: "public.posts".into(), rows: 100 }];
        report.sources[0].rows = vec![DatabaseRows { database: "app".into(), tables: 1, rows: 100, uncounted: 0, largest }];
        let mut all = Vec::new();
        names(&serde_json::to_value(&report).unwrap(), &mut all);
        let document = include_str!("../../docs/evidence.md");
        let missing: Vec<_> = all.iter().filter(|name| !document.contains(&format!("`{name}`"))).collect();
        assert!(missing.is_empty(), "docs/evidence.md does not describe {missing:?}");
    }
}
