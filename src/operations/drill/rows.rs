//! The rows of a recovered cluster: counted, and held against what the drill before counted.
//!
//! A physical backup has no exact counts of its instant to compare with. What a drill has is that every row can be read, how many there are,
//! and which tables had some in an earlier drill and have none now: no failure, since somebody may have meant it, but worth a look.

use std::time::Duration;

use super::DrillRequest;
use crate::{
    operations::{OperationError, history},
    progress::{Problem, SharedObserver},
    report::{Check, CheckOutcome, DatabaseRows, RestoredSource, TableRows, count, counted, seconds, timestamp},
    repository::{Point, Repository},
    sources::postgres::{
        PostgresConfig,
        physical::{Counted, RowCount},
    },
};

/// How long the rows of a source are counted. What is not counted by then is named.
const COUNTING: Duration = Duration::from_secs(600);
/// Tables that a check names.
const NAMED: usize = 5;
/// Databases that have a check of their own; beyond this many those that agree are summed up in one.
const DATABASES_NAMED: usize = 100;

/// Counts the rows of a cluster, and adds what it finds to its `source`.
pub(super) async fn look(
    request: &DrillRequest<'_>,
    repository: &Repository,
    point: &Point,
    config: &PostgresConfig,
    source: &mut RestoredSource,
    observer: &SharedObserver,
) -> Result<(), OperationError> {
    let name = source.name.clone();
    observer.phase(&format!("counting the rows of {name}"), None);
    // What is drilled is sound, whether it can be compared or not.
    let before = history::rows_before(repository, &point.policy, &name, point.consistent_at).await.unwrap_or_else(|error| {
        source.checks.push(Check::note("rows since an earlier drill", "compared", error.to_string()));
        None
    });
    let (at, earlier) = before.map_or((None, Vec::new()), |(at, rows)| (Some(at), rows));
    let clock = &request.clock;
    let counting = RowCount { config, within: COUNTING, clock, observer, earlier: &earlier };
    let all = match counting.count().await {
        Ok(all) => all,
        Err(error) => {
            source.checks.push(Check::equal("rows of all databases", "counted", error));
            return Ok(());
        }
    };
    source.checks.extend(checks(&all, COUNTING));
    if let Some(at) = at {
        let (check, problems) = compare(&all, &earlier, &format!("the drill of {}", timestamp(at)));
        source.checks.extend(check);
        for problem in problems {
            observer.problem(Problem::new(format!("{name}: {}", problem.subject), problem.message));
        }
    }
    source.rows = all.into_iter().map(|counted| counted.rows).filter(|rows| rows.tables + rows.uncounted > 0).collect();
    Ok(())
}

/// A check of each database.
fn checks(all: &[Counted], within: Duration) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut summed = DatabaseRows::default();
    let mut databases = 0_u64;
    for counted in all {
        // Nobody keeps anything in these.
        if counted.is_template && counted.rows.tables + counted.rows.uncounted == 0 {
            continue;
        }
        let check = check(counted, within);
        if check.outcome == CheckOutcome::Passed && checks.len() >= DATABASES_NAMED {
            databases += 1;
            summed.tables += counted.rows.tables;
            summed.rows += counted.rows.rows;
        } else {
            checks.push(check);
        }
    }
    if databases > 0 {
        let actual = numbers(&summed);
        checks.push(Check::equal(format!("rows of {}", counted(databases, "more database")), &actual, &actual));
    }
    checks
}

fn numbers(rows: &DatabaseRows) -> String {
    format!("{} in {}", counted(rows.rows, "row"), counted(rows.tables, "table"))
}

fn check(of: &Counted, within: Duration) -> Check {
    let mut actual = numbers(&of.rows);
    if !of.rows.largest.is_empty() {
        let more = if of.rows.largest.len() > NAMED { ", …" } else { "" };
        let named = |table: &TableRows| format!("{} {}", table.table, count(table.rows));
        let largest: Vec<String> = of.rows.largest.iter().take(NAMED).map(named).collect();
        actual += &format!(": {}{more}", largest.join(", "));
    }
    if of.late > 0 {
        let largest: Vec<&str> = of.largest_late.iter().rev().map(String::as_str).collect();
        let (time, more) = (seconds(within.as_secs_f64()), if of.late > largest.len() as u64 { ", …" } else { "" });
        actual += &format!("; not counted within {time}, or locked: {}: {}{more}", counted(of.late, "table"), largest.join(", "));
    }
    if of.of_other_methods > 0 {
        let methods = counted(of.of_other_methods, "table");
        actual += &format!("; not counted, being of another access method than heap: {methods}");
    }
    if of.failed > 0 {
        let more = if of.failed > of.first_failed.len() as u64 { "; …" } else { "" };
        actual += &format!("; not to be read: {}: {}{more}", count(of.failed), of.first_failed.join("; "));
    }
    let outcome = match (of.failed, of.rows.uncounted) {
        (0, 0) => CheckOutcome::Passed,
        (0, _) => CheckOutcome::Note,
        _ => CheckOutcome::Failed,
    };
    Check { name: format!("rows of database {}", of.rows.database), expected: "every table is counted".to_owned(), actual, outcome }
}

/// What had rows in an earlier drill, and has none now: a check, if anything had some, and a problem of each database that lost all.
fn compare(all: &[Counted], earlier: &[DatabaseRows], when: &str) -> (Option<Check>, Vec<Problem>) {
    let (mut had_some, mut lost, mut problems) = (0, Vec::new(), Vec::new());
    for before in earlier.iter().filter(|before| before.rows > 0) {
        let subject = format!("database {}", before.database);
        let had = counted(before.rows, "row");
        let remedy = "see whether somebody meant that, and else keep the points from before it (`farshore drill --point POINT` shows what one has)";
        let Some(now) = all.iter().find(|now| now.rows.database == before.database) else {
            had_some += 1;
            lost.push(format!("{subject} is gone, or lets nobody in"));
            problems.push(Problem::new(&subject, format!("had {had} in {when}, and is gone now or lets nobody in: {remedy}")));
            continue;
        };
        // What could not be read is a failed check already.
        if !now.is_listed {
            continue;
        }
        had_some += before.largest.len();
        if now.rows.rows == 0 && now.rows.uncounted == 0 {
            lost.push(format!("{subject} has no rows"));
            problems.push(Problem::new(&subject, format!("had {had} in {when}, and has none now: {remedy}")));
            continue;
        }
        let state = |table: &TableRows| match now.found.get(&table.table) {
            None => Some("gone"),
            Some(Some(0)) => Some("empty"),
            Some(_) => None,
        };
        let named = |table: &TableRows| {
            let state = state(table)?;
            Some(format!("{} of {subject} is {state} (had {})", table.table, counted(table.rows, "row")))
        };
        lost.extend(before.largest.iter().filter_map(named));
    }
    let (name, expected) = (format!("rows since {when}"), "none of what had rows has none now");
    let check = match lost.as_slice() {
        [] if had_some == 0 => return (None, problems),
        [] => Check {
            name,
            expected: expected.to_owned(),
            actual: format!("rows in each of the {} of that drill", counted(had_some as u64, "largest table")),
            outcome: CheckOutcome::Passed,
        },
        some => {
            let more = some.len().saturating_sub(2 * NAMED);
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            Check::note(name, expected, format!("{}{more}", some[..some.len().min(2 * NAMED)].join("; ")))
        }
    };
    (Some(check), problems)
}

#[cfg(test)]
mod tests {
    use super::{COUNTING, CheckOutcome, Counted, DATABASES_NAMED, DatabaseRows, TableRows, checks, compare};

    fn database(name: &str, tables: &[(&str, u64)]) -> Counted {
        let largest: Vec<TableRows> = tables
            .iter()
            .filter(|(_, rows)| *rows > 0)
            .map(|(table, rows)| TableRows { table: (*table).to_owned(), rows: *rows })
            .collect();
        let rows = tables.iter().map(|(_, rows)| rows).sum();
        Counted {
            rows: DatabaseRows { database: name.to_owned(), tables: tables.len() as u64, rows, uncounted: 0, largest },
            is_listed: true,
            found: tables.iter().map(|(table, rows)| ((*table).to_owned(), Some(*rows))).collect(),
            ..Counted::default()
        }
    }

    #[test]
    fn a_database_passes_if_all_of_it_was_counted_is_noted_if_there_was_no_time_and_fails_if_something_cannot_be_read() {
        let all = database("app", &[("public.a", 1234), ("public.b", 1), ("public.none", 0)]);
        let said = &checks(std::slice::from_ref(&all), COUNTING)[0];
        assert_eq!(said.name, "rows of database app");
        assert_eq!(
            (said.actual.as_str(), said.outcome),
            ("1,235 rows in 3 tables: public.a 1,234, public.b 1", CheckOutcome::Passed)
        );

        let mut late = all.clone();
        (late.late, late.largest_late) = (3, vec!["public.big".to_owned(), "public.bigger".to_owned()]);
        late.rows.uncounted = 3;
        let said = &checks(&[late], COUNTING)[0];
        let words = "; not counted within 10 min, or locked: 3 tables: public.bigger, public.big, …";
        assert!(said.actual.ends_with(words) && said.outcome == CheckOutcome::Note, "{said:?}");

        let mut failed = all;
        (failed.failed, failed.first_failed, failed.rows.uncounted) = (1, vec!["invalid page".to_owned()], 1);
        let said = &checks(&[failed], COUNTING)[0];
        assert!(said.actual.ends_with("; not to be read: 1: invalid page") && said.outcome == CheckOutcome::Failed, "{said:?}");
    }

    #[test]
    fn empty_templates_are_left_out_and_of_many_databases_those_that_agree_are_summed_up() {
        let template = Counted { is_template: true, ..database("template1", &[]) };
        assert_eq!(checks(std::slice::from_ref(&template), COUNTING), []);
        let mut all: Vec<Counted> =
            (0..DATABASES_NAMED + 3).map(|number| database(&format!("d{number}"), &[("public.a", 2)])).collect();
        all.push(Counted { failed: 1, ..database("last", &[]) });
        all.push(template);
        let said = checks(&all, COUNTING);
        assert_eq!(said.len(), DATABASES_NAMED + 2);
        assert!(said.iter().any(|check| check.name == "rows of database last" && check.failed()), "what fails is never summed up");
        let sum = said.last().unwrap();
        assert_eq!((sum.name.as_str(), sum.actual.as_str()), ("rows of 3 more databases", "6 rows in 3 tables"));
    }

    #[test]
    fn what_had_rows_and_has_none_is_noted_and_a_database_that_lost_all_is_a_problem() {
        let then = |name: &str, tables: &[(&str, u64)]| database(name, tables).rows;
        let before = [
            then("app", &[("public.kept", 9), ("public.emptied", 7), ("public.dropped", 1)]),
            then("emptied", &[("public.a", 5)]),
            then("gone", &[("public.a", 3)]),
            then("nothing", &[("public.a", 0)]),
            then("unread", &[("public.a", 2)]),
        ];
        let mut late = database("app", &[("public.kept", 1), ("public.emptied", 0)]);
        let now = [late.clone(), database("emptied", &[("public.a", 0)]), Counted { is_listed: false, ..database("unread", &[]) }];
        let (check, problems) = compare(&now, &before, "the drill before");
        let check = check.unwrap();
        assert_eq!(check.outcome, CheckOutcome::Note);
        assert_eq!(
            check.actual,
            "public.emptied of database app is empty (had 7 rows); public.dropped of database app is gone (had 1 row); \
             database emptied has no rows; database gone is gone, or lets nobody in"
        );
        let subjects: Vec<&str> = problems.iter().map(|problem| problem.subject.as_str()).collect();
        assert_eq!(subjects, ["database emptied", "database gone"]);

        // What was not counted may have rows.
        late.found = [("public.kept", Some(1)), ("public.emptied", None), ("public.dropped", None)]
            .map(|(name, rows)| (name.to_owned(), rows))
            .into();
        let (check, problems) = compare(&[late], &before[..1], "the drill before");
        assert_eq!((check.unwrap().outcome, problems), (CheckOutcome::Passed, vec![]));
        assert_eq!(compare(&[], &before[3..4], "the drill before"), (None, vec![]));
    }
}
