//! After a restore: is everything there that was captured?

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::future::try_join_all;

use super::{
    PostgresConfig, catalog,
    connect::Session,
    facts::{Catalogue, PostgresFacts},
    load::{self, TableSegment},
    quote::qualified,
};
use crate::{
    progress::{Check, CheckOutcome},
    sources::SourceError,
};

/// Tables whose row count gets a check of its own; beyond this many those that agree are summed up in one.
const TABLES_NAMED: usize = 200;

/// All comparisons.
pub(super) async fn all(
    build: &PostgresConfig,
    facts: &PostgresFacts,
    catalogue: &Catalogue,
    segments: &[TableSegment],
    isolated: bool,
    parallelism: usize,
) -> Result<Vec<Check>, SourceError> {
    let sessions = load::sessions(build, parallelism).await?;
    let mut checks = rows(&sessions, segments).await?;
    let session = &sessions[0];
    let counted = catalog::object_counts(session).await?;
    for (class, expected) in &facts.objects {
        let actual = counted.get(class).copied();
        checks.push(Check::equal(
            format!("number of {class}"),
            expected,
            actual.map_or_else(|| "not counted".to_owned(), |count| count.to_string()),
        ));
    }
    checks.push(sequences(session, catalogue).await?);
    checks.push(populated(session, catalogue, isolated).await?);
    versions(session, facts, &mut checks).await?;
    load::close(sessions).await;
    Ok(checks)
}

/// Rows really there, against rows captured. A tree of partitions that was loaded through its root is counted at the root.
async fn rows(sessions: &[Session], segments: &[TableSegment]) -> Result<Vec<Check>, SourceError> {
    struct Expected<'a> {
        rows: u64,
        only: bool,
        condition: Option<&'a str>,
    }
    let mut expected: BTreeMap<(&str, &str), Expected<'_>> = BTreeMap::new();
    for segment in segments {
        let attributes = &segment.attributes;
        let own = (attributes.schema.as_str(), attributes.table.as_str());
        let place = attributes.through.as_ref().map_or(own, |(schema, table)| (schema.as_str(), table.as_str()));
        let only = attributes.through.is_none();
        let entry = expected.entry(place).or_insert(Expected { rows: 0, only, condition: attributes.condition.as_deref() });
        entry.rows += attributes.rows;
    }
    let tables: Vec<_> = expected.into_iter().collect();
    let next = AtomicUsize::new(0);
    let work = |session| {
        let (tables, next) = (&tables, &next);
        async move {
            let session: &Session = session;
            let mut counted = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(((schema, table), expected)) = tables.get(index) else { return Ok::<_, SourceError>(counted) };
                let name = qualified(schema, table);
                let only = if expected.only { "ONLY " } else { "" };
                let sql = format!("SELECT count(*) FROM {only}{name} {}", expected.condition.unwrap_or_default());
                let count: i64 = session.one(&format!("counting the rows of {name}"), &sql, &[]).await?;
                counted.push((index, u64::try_from(count).unwrap_or_default()));
            }
        }
    };
    let mut counts: Vec<(usize, u64)> = try_join_all(sessions.iter().map(work)).await?.into_iter().flatten().collect();
    counts.sort_unstable();
    let mut checks = Vec::new();
    let (mut tables_summed, mut rows_summed) = (0_u64, 0_u64);
    for (index, count) in counts {
        let ((schema, table), expected) = &tables[index];
        let check = Check::equal(format!("rows of {schema}.{table}"), expected.rows, count);
        if check.failed() || checks.len() < TABLES_NAMED {
            checks.push(check);
        } else {
            tables_summed += 1;
            rows_summed += count;
        }
    }
    if tables_summed > 0 {
        checks.push(Check::equal(format!("rows of {tables_summed} more tables"), rows_summed, rows_summed));
    }
    Ok(checks)
}

/// Differences named in one check.
const DIFFERENCES_NAMED: usize = 10;

fn listing(differences: &[String], what: &str) -> String {
    if differences.is_empty() {
        return format!("all {what}");
    }
    let named = differences.iter().take(DIFFERENCES_NAMED).cloned().collect::<Vec<_>>().join(", ");
    format!("{} not: {named}", differences.len())
}

async fn sequences(session: &Session, catalogue: &Catalogue) -> Result<Check, SourceError> {
    let list: Vec<(String, String)> =
        catalogue.sequences.iter().map(|sequence| (sequence.schema.clone(), sequence.name.clone())).collect();
    let actual = catalog::sequence_positions(session, &list).await?;
    let found: BTreeMap<(&str, &str), _> =
        actual.iter().map(|sequence| ((sequence.schema.as_str(), sequence.name.as_str()), sequence)).collect();
    let differences: Vec<String> = catalogue
        .sequences
        .iter()
        .filter(|sequence| found.get(&(sequence.schema.as_str(), sequence.name.as_str())) != Some(sequence))
        .map(|sequence| format!("{}.{}", sequence.schema, sequence.name))
        .collect();
    let what = "at their captured value";
    Ok(Check::equal(format!("{} sequences", catalogue.sequences.len()), listing(&[], what), listing(&differences, what)))
}

async fn populated(session: &Session, catalogue: &Catalogue, isolated: bool) -> Result<Check, SourceError> {
    let actual = catalog::materialized_views(session).await?;
    let agrees = |view: &super::facts::MaterializedView| {
        isolated && view.foreign
            || actual
                .iter()
                .any(|other| (&other.schema, &other.name, other.populated) == (&view.schema, &view.name, view.populated))
    };
    let differences: Vec<String> = catalogue
        .materialized_views
        .iter()
        .filter(|view| !agrees(view))
        .map(|view| format!("{}.{}", view.schema, view.name))
        .collect();
    let what = "populated as captured";
    Ok(Check::equal(
        format!("{} materialized views", catalogue.materialized_views.len()),
        listing(&[], what),
        listing(&differences, what),
    ))
}

/// Versions of extensions and collations. A difference is a note: extensions come in the version the server has, and all
/// indexes were built here, by the collations of this server, so none needs to be rebuilt; but text may sort otherwise than it did.
async fn versions(session: &Session, facts: &PostgresFacts, checks: &mut Vec<Check>) -> Result<(), SourceError> {
    let actual = catalog::extensions(session).await?;
    for extension in &facts.extensions {
        let version = actual.iter().find(|other| other.name == extension.name).map(|other| other.version.as_str());
        checks.push(noted(
            format!("version of extension {}", extension.name),
            &extension.version,
            version.unwrap_or("missing"),
            version.is_none(),
        ));
    }
    let actual = catalog::collations(session).await?;
    for collation in facts.collations.iter().filter(|collation| collation.version.is_some()) {
        let expected = collation.version.as_deref().unwrap_or_default();
        let version =
            actual.iter().find(|other| other.name == collation.name).and_then(|other| other.version.as_deref()).unwrap_or("none");
        let mut check = noted(format!("version of collation {}", collation.name), expected, version, false);
        if check.outcome == CheckOutcome::Note {
            let indexes = collation.indexes.first.iter().take(DIFFERENCES_NAMED).cloned().collect::<Vec<_>>().join(", ");
            check.actual.push_str(&format!(
                "; {} indexes sort by it and were built anew here ({indexes}): nothing to rebuild, but compare what relies on the order of text",
                collation.indexes.count
            ));
        }
        checks.push(check);
    }
    Ok(())
}

fn noted(name: String, expected: &str, actual: &str, failed: bool) -> Check {
    let outcome = match expected == actual {
        true => CheckOutcome::Passed,
        false if failed => CheckOutcome::Failed,
        false => CheckOutcome::Note,
    };
    Check { name, expected: expected.to_owned(), actual: actual.to_owned(), outcome }
}
