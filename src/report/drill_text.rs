//! How a drill reads on a terminal and in a log.

use std::fmt::Write as _;

use super::{
    DrillReport, Look, RpoFigures, RtoFigures, Verdict,
    backup::encryption_words,
    bytes,
    check::check_lines,
    phase::phase_table,
    printable,
    problem::problem_lines,
    restore::source_table,
    seconds,
    table::{Align, Table},
    timestamp,
};

/// Earlier drills shown in a text; the JSON has all that were handed in.
const MOST_TREND_ROWS: usize = 8;

impl DrillReport {
    /// As people read it: the verdict first, then why.
    pub fn text(&self, look: Look) -> String {
        let mut text = String::new();
        let (mark, verdict) = match self.verdict {
            Verdict::Passed => (look.ok(), "passed"),
            Verdict::Failed => (look.failed(), "failed"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{mark} Drill of {} {verdict}", printable(&self.policy));
        for reason in &self.reasons {
            let _ = writeln!(text, "  {} {}", look.failed(), printable(reason));
        }
        let _ = writeln!(text, "  started        {}", timestamp(self.started_at));
        if let Some(point) = &self.point {
            let _ = writeln!(text, "  point          {}", printable(&point.id));
            let _ = writeln!(text, "  consistent at  {}", timestamp(point.consistent_at));
            if let Some(to) = self.rpo.as_ref().and_then(|rpo| rpo.restored_to).filter(|to| *to != point.consistent_at) {
                let _ = writeln!(text, "  restored to    {}", timestamp(to));
            }
            let _ = writeln!(text, "  encryption     {}", encryption_words(&point.encryption));
        }
        let _ = writeln!(text, "  site           {}", printable(&self.site));
        for isolation in &self.isolation {
            let _ = writeln!(
                text,
                "  isolation      {}: {}; {}",
                printable(&isolation.source),
                printable(&isolation.target),
                printable(&isolation.means)
            );
        }
        text.push('\n');
        let _ = writeln!(text, "{}", source_table(&self.sources));
        let _ = writeln!(text, "{}", phase_table(&self.phases));
        text.push_str(&rto_line(self.rto.as_ref(), look));
        text.push_str(&rpo_lines(self.rpo.as_ref(), self.sources.iter().any(|source| source.recovered_to.is_some()), look));
        text.push_str(&check_lines(&self.all_checks(), look));
        text.push_str(&problem_lines(&self.all_problems()));
        text.push_str(&self.trend_lines(look));
        text
    }

    fn trend_lines(&self, look: Look) -> String {
        if self.trend.is_empty() {
            return String::new();
        }
        let mut table = Table::new(&[
            ("drill", Align::Left),
            ("", Align::Left),
            ("RTO", Align::Right),
            ("RPO", Align::Right),
            ("data", Align::Right),
        ]);
        let hidden = self.trend.len().saturating_sub(MOST_TREND_ROWS);
        for entry in self.trend.iter().skip(hidden).cloned().chain([self.trend_entry()]) {
            let figure = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), seconds);
            let mark = match entry.verdict {
                Verdict::Passed => look.ok(),
                Verdict::Failed => look.failed(),
            };
            table.row(vec![
                timestamp(entry.started_at),
                mark.to_owned(),
                figure(entry.rto_seconds),
                figure(entry.rpo_seconds),
                bytes(entry.bytes),
            ]);
        }
        format!("\n{table}")
    }
}

fn rto_line(rto: Option<&RtoFigures>, look: Look) -> String {
    let Some(rto) = rto else { return format!("  {} RTO  service was not reached\n", look.failed()) };
    let measured = seconds(rto.measured_seconds);
    match rto.objective_seconds {
        None => format!("  {} RTO  {measured} until service; the policy sets no objective\n", look.note()),
        Some(objective) => {
            let mark = if rto.missed() { look.failed() } else { look.ok() };
            format!("  {mark} RTO  {measured} until service; objective {}\n", seconds(objective))
        }
    }
}

fn rpo_lines(rpo: Option<&RpoFigures>, with_log: bool, look: Look) -> String {
    let Some(rpo) = rpo else { return format!("  {} RPO  there was no recovery point to restore\n", look.failed()) };
    let achieved = seconds(rpo.achieved_seconds);
    let mut lines = match rpo.configured_seconds {
        _ if rpo.is_from_the_future() => {
            let ahead = seconds(-rpo.achieved_seconds);
            format!("  {} RPO  unknown: the point is dated {ahead} later than this drill; a clock was or is wrong\n", look.failed())
        }
        None => format!("  {} RPO  {achieved} of data lost; the policy sets no objective\n", look.note()),
        Some(configured) => {
            let mark = if rpo.missed() { look.failed() } else { look.ok() };
            format!("  {mark} RPO  {achieved} of data lost; objective {}\n", seconds(configured))
        }
    };
    if let (Some(worst), Some(start)) = (rpo.worst_seconds, rpo.period_start) {
        let mark = if rpo.worst_missed() { look.note() } else { look.ok() };
        let alone = if with_log { ", by the points alone" } else { "" };
        lines.push_str(&format!("  {mark} RPO  {} at the worst moment since {}{alone}\n", seconds(worst), timestamp(start)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{Look, Verdict};
    use crate::report::{Check, drill::tests::report};

    #[test]
    fn a_drill_that_passed_reads_as_its_verdict_its_phases_and_its_figures() {
        assert_eq!(
            report().text(Look::Unicode),
            "✓ Drill of mattermost-eu passed\n  \
               started        2026-11-23 07:46:40 UTC\n  \
               point          20261123T020003Z-4f2a\n  \
               consistent at  2026-11-23 02:00:03 UTC\n  \
               encryption     2 recipients\n  \
               site           s3://dr-us-east-1/mattermost-eu\n  \
               isolation      db: scratch cluster; own socket, no network\n\n  \
               source  kind      written  kept    bytes        time  to\n  \
               db      postgres      214     0  5.0 GiB  3 min 20 s  scratch cluster\n\n  \
               phase                    time\n  \
               select point            0.4 s\n  \
               obtain keys             0.1 s\n  \
               database transfer  3 min 20 s\n  \
               object transfer    1 min 40 s\n  \
               verification           11.5 s\n  \
               clean-up               20.0 s\n\n  \
               ✓ RTO  5 min 12 s until service; objective 1 h\n  \
               ✓ RPO  5 h 46 min of data lost; objective 26 h\n  \
               ✓ RPO  24 h at the worst moment since 2026-11-22 02:00:03 UTC\n\n\
             Checks: 2 passed, 0 failed, 0 noted\n  \
               ✓ db: rows of public.posts: 100\n  \
               ✓ db → attachments: missing objects: 0\n\n  \
               drill                              RTO         RPO     data\n  \
               2026-11-16 07:46:40 UTC  ✓  4 min 50 s  5 h 33 min  5.0 GiB\n  \
               2026-11-23 07:46:40 UTC  ✓  5 min 12 s  5 h 46 min  5.0 GiB\n"
        );
    }

    #[test]
    fn a_drill_that_failed_says_why_at_once_and_uses_words_without_utf_8() {
        let mut report = report();
        report.failure = Some("db: no room".into());
        (report.rto, report.rpo, report.point) = (None, None, None);
        report.checks.push(Check::equal("probe", "t", "f"));
        let text = report.judged().text(Look::Ascii);
        assert!(
            text.starts_with(
                "FAILED Drill of mattermost-eu failed\n  FAILED ended early: db: no room\n  FAILED 1 of 3 checks failed\n  started"
            ),
            "{text}"
        );
        assert!(
            text.contains("  FAILED RTO  service was not reached\n  FAILED RPO  there was no recovery point to restore\n"),
            "{text}"
        );
        assert!(text.contains("  FAILED probe: expected t, found f\n"), "{text}");
    }

    #[test]
    fn a_drill_along_the_log_says_how_far_it_came() {
        let mut report = report();
        let to = report.started_at - chrono::TimeDelta::seconds(4);
        report.sources[0].recovered_to = Some(to);
        report.rpo = Some(crate::report::RpoFigures::measure(
            Some(300.0),
            report.started_at,
            to,
            &[report.point.as_ref().unwrap().consistent_at],
        ));
        let text = report.judged().text(Look::Unicode);
        for line in [
            "  consistent at  2026-11-23 02:00:03 UTC\n  restored to    2026-11-23 07:46:36 UTC\n",
            "  ✓ RPO  4.0 s of data lost; objective 5 min\n",
            "  · RPO  5 h 46 min at the worst moment since 2026-11-23 02:00:03 UTC, by the points alone\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn a_bad_gap_in_the_past_is_said_and_fails_nothing() {
        let mut report = report();
        report.rpo.as_mut().unwrap().worst_seconds = Some(200_000.0);
        let report = report.judged();
        assert_eq!(report.verdict, Verdict::Passed);
        assert!(report.text(Look::Unicode).contains("  · RPO  2 d 7 h at the worst moment since"));
    }
}
