//! What the system catalogues say: facts of the database, object counts, sequences, materialized views.
//!
//! The same queries run at capture and after a restore, so that the two can be compared.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{
    connect::Session,
    facts::{Collation, DatabaseFacts, Extension, MaterializedView, Named, Sequence, Setting},
    quote::qualified,
};
use crate::sources::SourceError;

/// SQL that turns an access control list into JSON; `NULL` stays `NULL` (the default privileges).
pub(super) fn grants_json(acl: &str) -> String {
    format!(
        "CASE WHEN {acl} IS NULL THEN NULL ELSE (SELECT coalesce(jsonb_agg(jsonb_build_object('grantor', pg_get_userbyid(a.grantor), \
         'grantee', CASE a.grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(a.grantee) END, 'privilege', a.privilege_type, \
         'grantable', a.is_grantable)), '[]') FROM aclexplode({acl}) a) END"
    )
}

/// The database that the session is connected to.
pub(super) async fn database(session: &Session) -> Result<DatabaseFacts, SourceError> {
    let sql = format!(
        "SELECT (to_jsonb(d) - 'oid' - 'encoding') || jsonb_build_object('name', d.datname, 'owner', pg_get_userbyid(d.datdba), \
         'encoding', pg_encoding_to_char(d.encoding), 'comment', shobj_description(d.oid, 'pg_database'), 'grants', {}, \
         'tablespace', (SELECT spcname FROM pg_tablespace t WHERE t.oid = d.dattablespace)) \
         FROM pg_database d WHERE d.datname = current_database()",
        grants_json("d.datacl")
    );
    let mut rows = session.json("reading the database's settings", &sql, &[]).await?;
    rows.pop().ok_or_else(|| SourceError::Unfit {
        subject: session.subject.clone(),
        detail: "the database is not in pg_database: it was dropped meanwhile".to_owned(),
    })
}

/// Settings of the database, for all roles or one.
pub(super) async fn settings(session: &Session) -> Result<Vec<Setting>, SourceError> {
    let sql = "SELECT jsonb_build_object('role', CASE s.setrole WHEN 0 THEN NULL ELSE pg_get_userbyid(s.setrole) END, 'values', s.setconfig) \
               FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE d.datname = current_database() ORDER BY s.setrole";
    session.json("reading the database's settings", sql, &[]).await
}

/// Extensions.
pub(super) async fn extensions(session: &Session) -> Result<Vec<Extension>, SourceError> {
    let sql = "SELECT jsonb_build_object('name', extname, 'version', extversion) FROM pg_extension ORDER BY extname";
    session.json("reading the extensions", sql, &[]).await
}

/// Collations that user columns and indexes use, and the indexes.
pub(super) async fn collations(session: &Session) -> Result<Vec<Collation>, SourceError> {
    let sql = format!(
        "WITH used AS (SELECT a.attcollation AS coll, CASE WHEN c.relkind IN ('i', 'I') THEN n.nspname || '.' || c.relname END AS index \
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE a.attcollation <> 0 AND a.attnum > 0 AND NOT a.attisdropped AND {USER_SCHEMA}) \
         SELECT jsonb_build_object('name', cn.nspname || '.' || co.collname, 'version', \
           CASE WHEN co.collname = 'default' THEN (SELECT to_jsonb(d) ->> 'datcollversion' FROM pg_database d WHERE d.datname = current_database()) \
           ELSE co.collversion END, \
         'indexes', jsonb_build_object('count', count(DISTINCT used.index), 'first', \
           coalesce(to_jsonb((array_agg(DISTINCT used.index ORDER BY used.index) FILTER (WHERE used.index IS NOT NULL))[1:{kept}]), '[]'))) \
         FROM used JOIN pg_collation co ON co.oid = used.coll JOIN pg_namespace cn ON cn.oid = co.collnamespace \
         GROUP BY co.oid, cn.nspname, co.collname, co.collversion ORDER BY cn.nspname, co.collname",
        kept = Named::KEPT
    );
    session.json("reading the collations", &sql, &[]).await
}

/// Condition on `pg_namespace n`: not the system's.
pub(super) const USER_SCHEMA: &str = "(n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')";

/// SQL: the object of this catalogue is no extension's member.
fn own(catalogue: &str, oid: &str) -> String {
    format!(
        "NOT EXISTS (SELECT 1 FROM pg_depend e WHERE e.classid = 'pg_catalog.{catalogue}'::regclass AND e.objid = {oid} AND e.deptype = 'e')"
    )
}

/// How many objects of each class. NOT NULL constraints are left out: they are rows of `pg_constraint` only since 18.
pub(super) async fn object_counts(session: &Session) -> Result<BTreeMap<String, u64>, SourceError> {
    let relation =
        format!("pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {USER_SCHEMA} AND {}", own("pg_class", "c.oid"));
    let mut parts = Vec::new();
    for (class, kinds) in [
        ("tables", "'r'"),
        ("partitioned tables", "'p'"),
        ("views", "'v'"),
        ("materialized views", "'m'"),
        ("sequences", "'S'"),
        ("foreign tables", "'f'"),
    ] {
        parts.push(format!("SELECT '{class}', count(*) FROM {relation} AND c.relpersistence <> 't' AND c.relkind IN ({kinds})"));
    }
    // What belongs to a table counts where the table counts.
    let table = format!(
        "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND {USER_SCHEMA} AND c.relpersistence <> 't' AND {}",
        own("pg_class", "c.oid")
    );
    parts.push(format!("SELECT 'indexes', count(*) FROM pg_index i JOIN ({table}) ON c.oid = i.indrelid"));
    parts.push(format!(
        "SELECT 'triggers', count(*) FROM pg_trigger t JOIN ({table}) ON c.oid = t.tgrelid WHERE NOT t.tgisinternal"
    ));
    parts.push(format!("SELECT 'policies', count(*) FROM pg_policy p JOIN ({table}) ON c.oid = p.polrelid"));
    parts.push(format!("SELECT 'rules', count(*) FROM pg_rewrite r JOIN ({table}) ON c.oid = r.ev_class"));
    parts.push(format!("SELECT 'column defaults', count(*) FROM pg_attrdef a JOIN ({table}) ON c.oid = a.adrelid"));
    for (class, kind) in [
        ("primary keys", "p"),
        ("foreign keys", "f"),
        ("unique constraints", "u"),
        ("check constraints", "c"),
        ("exclusion constraints", "x"),
    ] {
        parts.push(format!(
            "SELECT '{class}', count(*) FROM pg_constraint k JOIN ({table}) ON c.oid = k.conrelid WHERE k.contype = '{kind}'"
        ));
    }
    parts.push(format!(
        "SELECT 'types', count(*) FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid \
         WHERE {USER_SCHEMA} AND {} AND (t.typtype IN ('d', 'e', 'r', 'm') OR t.typtype = 'b' AND t.typelem = 0 OR c.relkind = 'c')",
        own("pg_type", "t.oid")
    ));
    for (class, catalogue, namespace) in [
        ("functions", "pg_proc", "pronamespace"),
        ("operators", "pg_operator", "oprnamespace"),
        ("operator classes", "pg_opclass", "opcnamespace"),
        ("collations", "pg_collation", "collnamespace"),
        ("conversions", "pg_conversion", "connamespace"),
        ("text search configurations", "pg_ts_config", "cfgnamespace"),
        ("text search dictionaries", "pg_ts_dict", "dictnamespace"),
        ("statistics objects", "pg_statistic_ext", "stxnamespace"),
    ] {
        parts.push(format!(
            "SELECT '{class}', count(*) FROM {catalogue} o JOIN pg_namespace n ON n.oid = o.{namespace} WHERE {USER_SCHEMA} AND {}",
            own(catalogue, "o.oid")
        ));
    }
    for (class, catalogue) in [
        ("extensions", "pg_extension"),
        ("publications", "pg_publication"),
        ("event triggers", "pg_event_trigger"),
        ("foreign servers", "pg_foreign_server"),
        ("default privileges", "pg_default_acl"),
    ] {
        parts.push(format!("SELECT '{class}', count(*) FROM {catalogue} o WHERE {}", own(catalogue, "o.oid")));
    }
    parts.push(format!("SELECT 'schemas', count(*) FROM pg_namespace n WHERE {USER_SCHEMA} AND {}", own("pg_namespace", "n.oid")));
    parts.push(format!("SELECT 'casts', count(*) FROM pg_cast o WHERE o.oid >= 16384 AND {}", own("pg_cast", "o.oid")));
    parts.push("SELECT 'large objects', count(*) FROM pg_largeobject_metadata".to_owned());
    let sql = parts.join(" UNION ALL ").replace(&format!("JOIN ({table})"), &format!("JOIN (SELECT c.oid FROM {table}) c"));
    let rows = session.client.query(&sql, &[]).await.map_err(|error| session.failed("counting the objects", &error))?;
    Ok(rows.iter().map(|row| (row.get::<_, String>(0), u64::try_from(row.get::<_, i64>(1)).unwrap_or_default())).collect())
}

/// Names from a query of one text column.
pub(super) async fn names(session: &Session, doing: &str, sql: &str) -> Result<Vec<String>, SourceError> {
    let rows = session.client.query(sql, &[]).await.map_err(|error| session.failed(doing, &error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// A sequence, and whether the role may read it.
#[derive(Debug, Deserialize)]
pub(super) struct SequenceRow {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) readable: bool,
}

/// Sequences to capture: all but extensions' own, and those of them that extensions mark as configuration.
pub(super) async fn sequence_list(session: &Session) -> Result<Vec<SequenceRow>, SourceError> {
    let sql = format!(
        "SELECT jsonb_build_object('schema', n.nspname, 'name', c.relname, 'readable', \
         has_sequence_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE')) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND {USER_SCHEMA} \
         AND ({} OR EXISTS (SELECT 1 FROM pg_extension x WHERE c.oid = ANY (x.extconfig))) ORDER BY n.nspname, c.relname",
        own("pg_class", "c.oid")
    );
    session.json("listing the sequences", &sql, &[]).await
}

/// The positions of these sequences. Not transactional: never behind what the snapshot's rows use.
pub(super) async fn sequence_positions(session: &Session, list: &[(String, String)]) -> Result<Vec<Sequence>, SourceError> {
    let mut all = Vec::with_capacity(list.len());
    for batch in list.chunks(200) {
        let each = |(index, (schema, name)): (usize, &(String, String))| {
            format!("SELECT {index}::int8, last_value, is_called FROM {}", qualified(schema, name))
        };
        let sql = batch.iter().enumerate().map(each).collect::<Vec<_>>().join(" UNION ALL ");
        let rows = session.client.query(&sql, &[]).await.map_err(|error| session.failed("reading the sequences", &error))?;
        for row in rows {
            let index = usize::try_from(row.get::<_, i64>(0)).unwrap_or_default();
            let (schema, name) = batch[index].clone();
            all.push(Sequence { schema, name, last_value: row.get(1), is_called: row.get(2) });
        }
    }
    Ok(all)
}

#[derive(Deserialize)]
struct ViewRow {
    oid: i64,
    schema: String,
    name: String,
    populated: bool,
}

/// Materialized views in an order in which each comes after those it reads, directly or through views.
pub(super) async fn materialized_views(session: &Session) -> Result<Vec<MaterializedView>, SourceError> {
    let doing = "listing the materialized views";
    let sql = format!(
        "SELECT jsonb_build_object('oid', c.oid::int8, 'schema', n.nspname, 'name', c.relname, 'populated', c.relispopulated) FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'm' AND {USER_SCHEMA} AND {} ORDER BY n.nspname, c.relname",
        own("pg_class", "c.oid")
    );
    let views: Vec<ViewRow> = session.json(doing, &sql, &[]).await?;
    if views.is_empty() {
        return Ok(Vec::new());
    }
    let reads = "d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class";
    let sql = format!(
        "WITH RECURSIVE uses(view, used) AS (SELECT r.ev_class, d.refobjid FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class AND c.relkind = 'm' \
         JOIN pg_depend d ON {reads} UNION SELECT u.view, d.refobjid FROM uses u JOIN pg_class c ON c.oid = u.used AND c.relkind = 'v' \
         JOIN pg_rewrite r ON r.ev_class = u.used JOIN pg_depend d ON {reads}) \
         SELECT DISTINCT u.view::int8, u.used::int8, c.relkind = 'f' FROM uses u JOIN pg_class c ON c.oid = u.used WHERE c.relkind IN ('m', 'f')"
    );
    let rows = session.client.query(&sql, &[]).await.map_err(|error| session.failed(doing, &error))?;
    let mut uses: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
    let mut foreign: BTreeSet<i64> = BTreeSet::new();
    for row in rows {
        let (view, used): (i64, i64) = (row.get(0), row.get(1));
        if row.get(2) {
            foreign.insert(view);
        } else {
            uses.entry(view).or_default().insert(used);
        }
    }
    Ok(in_order(&views, &uses, &foreign))
}

fn in_order(views: &[ViewRow], uses: &BTreeMap<i64, BTreeSet<i64>>, foreign: &BTreeSet<i64>) -> Vec<MaterializedView> {
    // A materialized view cannot read itself, so each round places at least one.
    let mut placed: BTreeSet<i64> = BTreeSet::new();
    let mut order: Vec<&ViewRow> = Vec::new();
    while order.len() < views.len() {
        let before = order.len();
        for view in views {
            let ready = uses.get(&view.oid).is_none_or(|used| used.iter().all(|oid| placed.contains(oid)));
            if ready && placed.insert(view.oid) {
                order.push(view);
            }
        }
        if order.len() == before {
            order.extend(views.iter().filter(|view| !placed.contains(&view.oid)));
        }
    }
    let mut needed: BTreeSet<i64> = BTreeSet::new();
    let mut distant = foreign.clone();
    for view in order.iter().rev() {
        if view.populated || needed.contains(&view.oid) {
            needed.extend(uses.get(&view.oid).into_iter().flatten());
        }
    }
    for view in &order {
        if uses.get(&view.oid).into_iter().flatten().any(|used| distant.contains(used)) {
            distant.insert(view.oid);
        }
    }
    let describe = |view: &&ViewRow| MaterializedView {
        schema: view.schema.clone(),
        name: view.name.clone(),
        populated: view.populated,
        needed: !view.populated && needed.contains(&view.oid),
        foreign: distant.contains(&view.oid),
    };
    order.iter().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::{BTreeMap, BTreeSet, ViewRow, in_order};

    fn view(oid: i64, populated: bool) -> ViewRow {
        ViewRow { oid, schema: "s".to_owned(), name: oid.to_string(), populated }
    }

    #[test]
    fn materialized_views_come_after_those_they_read() {
        let views = [view(1, true), view(2, true), view(3, false), view(4, false)];
        let uses = BTreeMap::from([(1, BTreeSet::from([2])), (2, BTreeSet::from([3]))]);
        let ordered = in_order(&views, &uses, &BTreeSet::from([3]));
        let names: Vec<&str> = ordered.iter().map(|view| view.name.as_str()).collect();
        assert_eq!(names, ["3", "4", "2", "1"]);
        assert!(ordered[0].needed && !ordered[1].needed && !ordered[2].needed);
        assert!(ordered[0].foreign && ordered[3].foreign && !ordered[1].foreign);
    }
}
