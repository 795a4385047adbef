//! The database itself: made as it was, and given its owner, privileges and settings at the end.

use super::{
    PostgresConfig, catalog,
    connect::Session,
    facts::{DatabaseFacts, PostgresFacts},
    failure::Side,
    large_objects::grants,
    quote::{identifier, literal, setting},
    target::LOCK_TIMEOUT,
};
use crate::{
    progress::{Problem, SharedObserver},
    sources::SourceError,
};

/// Makes the database with its encoding and locale. Where the server lacks that locale or provider it gets the server's own, or
/// C, and a problem says so: sorting differs then, the data do not.
pub(super) async fn create(
    admin: &Session,
    name: &str,
    facts: &DatabaseFacts,
    version: u32,
    observer: &SharedObserver,
) -> Result<(), SourceError> {
    let base = format!("CREATE DATABASE {} TEMPLATE template0 ENCODING {}", identifier(name), literal(&facts.encoding));
    let wanted = locale(facts, version);
    let first = match admin.execute("making the database", &format!("{base}{wanted}")).await {
        Ok(()) => return Ok(()),
        Err(error @ SourceError::UnfitTarget { .. }) => error,
        Err(error) => return Err(error),
    };
    for other in
        [String::new(), format!(" LC_COLLATE 'C' LC_CTYPE 'C'{}", if version >= 150_000 { " LOCALE_PROVIDER libc" } else { "" })]
    {
        if admin.execute("making the database", &format!("{base}{other}")).await.is_ok() {
            let instead = if other.is_empty() { "the server's own locale" } else { "locale C" };
            let text = format!(
                "made with {instead} instead of{wanted}: text sorts differently; install the locale and restore again if that matters: {first}"
            );
            observer.problem(Problem::new(format!("database {:?}", facts.name), text));
            return Ok(());
        }
    }
    Err(first)
}

fn locale(facts: &DatabaseFacts, version: u32) -> String {
    let mut sql = format!(" LC_COLLATE {} LC_CTYPE {}", literal(&facts.datcollate), literal(&facts.datctype));
    if version < 150_000 {
        return sql;
    }
    let name = literal(facts.datlocale.as_deref().unwrap_or_default());
    match facts.datlocprovider.as_deref() {
        Some("i") => {
            sql.push_str(&format!(" LOCALE_PROVIDER icu ICU_LOCALE {name}"));
            if let Some(rules) = &facts.daticurules {
                sql.push_str(&format!(" ICU_RULES {}", literal(rules)));
            }
        }
        Some("b") => sql.push_str(&format!(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {name}")),
        _ => sql.push_str(" LOCALE_PROVIDER libc"),
    }
    sql
}

/// Whether the server has every tablespace that objects were in.
pub(super) async fn has_tablespaces(admin: &Session, facts: &PostgresFacts) -> Result<bool, SourceError> {
    let present = catalog::names(admin, "listing the tablespaces", "SELECT spcname::text FROM pg_tablespace").await?;
    let known = facts.tablespaces.first.iter().all(|name| present.contains(name));
    Ok(known && facts.tablespaces.count == facts.tablespaces.first.len() as u64)
}

/// Owner, privileges, comment, connection limit and settings. Comes last, because settings could hinder what precedes it (a
/// database may be read only by default). What the role may not set is a problem.
pub(super) async fn finish(
    admin: &Session,
    name: &str,
    facts: &PostgresFacts,
    observer: &SharedObserver,
) -> Result<(), SourceError> {
    let database = &facts.database;
    let object = format!("DATABASE {}", identifier(name));
    let mut statements = vec![format!("ALTER {object} CONNECTION LIMIT {}", database.datconnlimit)];
    if let Some(comment) = &database.comment {
        statements.push(format!("COMMENT ON {object} IS {}", literal(comment)));
    }
    for group in &facts.settings {
        let whose = match &group.role {
            Some(role) => format!("ROLE {} IN {object}", identifier(role)),
            None => object.clone(),
        };
        statements.extend(group.values.iter().filter_map(|value| setting(value)).map(|set| format!("ALTER {whose} SET {set}")));
    }
    statements.push(format!("ALTER {object} OWNER TO {}", identifier(&database.owner)));
    let privileges = grants(&object, &database.owner, true, database.grants.as_deref());
    statements.push(privileges);
    if database.datistemplate {
        statements.push(format!("ALTER {object} IS_TEMPLATE true"));
    }
    for statement in statements.iter().filter(|statement| !statement.is_empty()) {
        match admin.execute("setting up the database", statement).await {
            Ok(()) => {}
            Err(error @ SourceError::Unreachable { .. }) => return Err(error),
            Err(error) => observer.problem(Problem::new(format!("database {:?}", database.name), format!("{statement}: {error}"))),
        }
    }
    Ok(())
}

/// Drops a database that was being built, whatever is in it and whoever is connected.
pub(super) async fn discard(admin: &Session, build: &PostgresConfig) -> Result<(), SourceError> {
    let doing = "dropping the half-built database";
    let name = identifier(build.database());
    // FORCE: pg_restore's sessions may not have noticed yet that nobody is there any more.
    let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
    let Err(first) = admin.execute(doing, &drop).await else { return Ok(()) };
    // A subscription holds its database fast, even one that never connected anywhere.
    let Ok(inside) = build.connect(Side::Target).await else { return Err(first) };
    inside.settle(LOCK_TIMEOUT).await?;
    let statements = "SELECT unnest(ARRAY[format('ALTER SUBSCRIPTION %I DISABLE', subname), \
                      format('ALTER SUBSCRIPTION %I SET (slot_name = NONE)', subname), format('DROP SUBSCRIPTION %I', subname)]) \
                      FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = current_database()";
    for statement in catalog::names(&inside, doing, statements).await? {
        inside.execute(doing, &statement).await?;
    }
    inside.close().await;
    admin.execute(doing, &drop).await
}
