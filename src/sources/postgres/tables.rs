//! Tables: which have rows to capture, what is missing to read them, and how they are split.

use serde::{Deserialize, Serialize};

use super::{
    catalog::USER_SCHEMA,
    connect::Session,
    quote::{identifier, identifiers, path_level, qualified},
};
use crate::sources::SourceError;

/// Attributes of a table's segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentAttributes {
    /// Schema.
    pub schema: String,
    /// Table.
    pub table: String,
    /// Which segment, from 0.
    pub segment: u32,
    /// How many there are.
    pub segments: u32,
    /// The columns, in the order of the rows' fields; generated ones are left out. Empty: the table has none, and each line is an empty row.
    pub columns: Vec<String>,
    /// Rows in this segment.
    pub rows: u64,
    /// `WHERE …`, for a configuration table of an extension: only these rows are the user's.
    #[serde(default)]
    pub condition: Option<String>,
    /// Schema and name of the partitioned table to load through, where rows may belong to another partition on another
    /// server: hash partitioning by a type whose hash depends on object ids.
    #[serde(default)]
    pub through: Option<(String, String)>,
}

/// A relation as listed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Table {
    pub(super) oid: i64,
    pub(super) schema: String,
    pub(super) name: String,
    /// `r`, `p` (no rows of its own) or `f` (rows are elsewhere).
    pub(super) kind: String,
    pub(super) unlogged: bool,
    /// Blocks of the main fork.
    pub(super) pages: u64,
    /// With TOAST.
    pub(super) bytes: u64,
    pub(super) heap: bool,
    pub(super) columns: Vec<String>,
    pub(super) condition: Option<String>,
    pub(super) through: Option<(String, String)>,
    pub(super) owner: String,
    pub(super) selectable: bool,
    pub(super) reachable: bool,
    pub(super) row_security: bool,
}

impl Table {
    pub(super) fn qualified(&self) -> String {
        qualified(&self.schema, &self.name)
    }

    pub(super) fn has_rows(&self) -> bool {
        self.kind == "r"
    }
}

/// All tables of users, and the configuration tables of extensions.
pub(super) async fn list(session: &Session) -> Result<Vec<Table>, SourceError> {
    let sql = format!(
        "SELECT jsonb_build_object('oid', c.oid::int8, 'schema', n.nspname, 'name', c.relname, 'kind', c.relkind, 'unlogged', c.relpersistence = 'u', \
         'pages', CASE c.relkind WHEN 'r' THEN coalesce(pg_relation_size(c.oid), 0) / current_setting('block_size')::int8 ELSE 0 END, \
         'bytes', CASE c.relkind WHEN 'r' THEN coalesce(pg_table_size(c.oid), 0) ELSE 0 END, \
         'heap', coalesce(m.amname = 'heap', false), 'owner', pg_get_userbyid(c.relowner), \
         'columns', (SELECT coalesce(jsonb_agg(a.attname ORDER BY a.attnum), '[]') FROM pg_attribute a \
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), \
         'condition', nullif(x.condition, ''), \
         'through', CASE WHEN c.relispartition AND EXISTS (SELECT 1 FROM pg_partition_ancestors(c.oid) up JOIN pg_partitioned_table p ON p.partrelid = up.relid \
            WHERE p.partstrat = 'h' AND (0 = ANY (p.partattrs) OR EXISTS (SELECT 1 FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
            WHERE a.attrelid = p.partrelid AND a.attnum = ANY (p.partattrs) AND (t.typtype <> 'b' OR t.typcategory = 'A')))) \
            THEN (SELECT jsonb_build_array(rn.nspname, rc.relname) FROM pg_class rc JOIN pg_namespace rn ON rn.oid = rc.relnamespace \
                  WHERE rc.oid = pg_partition_root(c.oid)) END, \
         'selectable', has_table_privilege(c.oid, 'SELECT'), 'reachable', has_schema_privilege(n.oid, 'USAGE'), \
         'row_security', row_security_active(c.oid)) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am m ON m.oid = c.relam \
         LEFT JOIN LATERAL (SELECT f.condition FROM pg_extension e, unnest(e.extconfig, e.extcondition) f(relation, condition) WHERE f.relation = c.oid) x ON true \
         WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND (x.condition IS NOT NULL OR {USER_SCHEMA} AND NOT EXISTS \
         (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')) \
         ORDER BY n.nspname, c.relname"
    );
    session.json("listing the tables", &sql, &[]).await
}

/// Most tables named in one error.
const NAMED_IN_ERROR: usize = 20;

/// Refuses up front if the role cannot see every row, and says which statements change that.
pub(super) fn check_readable(tables: &[Table], sequences: &[super::catalog::SequenceRow], role: &str) -> Result<(), SourceError> {
    let role_name = identifier(role);
    let mut wanting: Vec<(String, String)> = Vec::new();
    let mut schemas = std::collections::BTreeSet::new();
    for table in tables.iter().filter(|table| table.kind != "f") {
        if !table.reachable && schemas.insert(table.schema.as_str()) {
            wanting.push((table.schema.clone(), format!("GRANT USAGE ON SCHEMA {} TO {role_name}", identifier(&table.schema))));
        }
        if !table.selectable {
            wanting.push((table.qualified(), format!("GRANT SELECT ON TABLE {} TO {role_name}", table.qualified())));
        }
    }
    for sequence in sequences.iter().filter(|sequence| !sequence.readable) {
        let name = qualified(&sequence.schema, &sequence.name);
        wanting.push((
            name.clone(),
            format!(
                "GRANT USAGE ON SCHEMA {} TO {role_name}; GRANT SELECT ON SEQUENCE {name} TO {role_name}",
                identifier(&sequence.schema)
            ),
        ));
    }
    if !wanting.is_empty() {
        return Err(denied(&wanting, "(or, on 14 and newer, GRANT pg_read_all_data TO the role for all of them)"));
    }
    // Row security applies to whom it does not exempt: rows would be missing without a word.
    let hidden: Vec<(String, String)> = tables
        .iter()
        .filter(|table| table.row_security)
        .map(|table| {
            (
                table.qualified(),
                format!("row level security hides rows of {} (owner {}) from {role_name}", table.qualified(), table.owner),
            )
        })
        .collect();
    if !hidden.is_empty() {
        return Err(denied(&hidden, &format!("run ALTER ROLE {role_name} BYPASSRLS")));
    }
    Ok(())
}

fn denied(wanting: &[(String, String)], advice: &str) -> SourceError {
    let subject = match wanting {
        [(one, _)] => one.clone(),
        [(first, _), rest @ ..] => format!("{first} and {} more", rest.len()),
        [] => String::new(),
    };
    let mut statements: Vec<&str> = wanting.iter().take(NAMED_IN_ERROR).map(|(_, statement)| statement.as_str()).collect();
    if wanting.len() > NAMED_IN_ERROR {
        statements.push("…");
    }
    SourceError::Denied { subject, detail: format!("{}; {advice}", statements.join("; ")) }
}

/// A run of a table's rows that one COPY reads.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    /// Which table, in the list.
    pub(super) table: usize,
    pub(super) number: u32,
    pub(super) of: u32,
    /// First block, and the one after the last (`None`: to the end, whatever was added since the size was asked for).
    blocks: Option<(u64, Option<u64>)>,
    /// Roughly, for ordering by size.
    pub(super) bytes: u64,
}

/// Splits tables into segments of about `segment_bytes`, sorted by the path of their entry.
///
/// The blocks per segment are a power of two, so that a growing table keeps its borders from day to day and deduplication
/// does not suffer.
pub(super) fn split(tables: &[Table], segment_bytes: u64, by_block: bool) -> Vec<Segment> {
    let mut all = Vec::new();
    for (index, table) in tables.iter().enumerate().filter(|(_, table)| table.has_rows()) {
        let whole = Segment { table: index, number: 0, of: 1, blocks: None, bytes: table.bytes };
        // Configuration tables are small, and their condition is somebody else's text.
        if !by_block || !table.heap || table.condition.is_some() || table.bytes <= segment_bytes || table.pages < 2 {
            all.push(whole);
            continue;
        }
        let per_block = (table.bytes / table.pages).max(1);
        let wanted = (segment_bytes / per_block).max(1);
        let blocks = 1_u64 << wanted.ilog2();
        // The path has room for six digits.
        let blocks = blocks.max((table.pages / 900_000).next_power_of_two());
        let of = table.pages.div_ceil(blocks);
        for number in 0..of {
            let end = (number + 1 < of).then_some((number + 1) * blocks);
            let number_32 = u32::try_from(number).unwrap_or(u32::MAX);
            let of = u32::try_from(of).unwrap_or(u32::MAX);
            all.push(Segment {
                table: index,
                number: number_32,
                of,
                blocks: Some((number * blocks, end)),
                bytes: blocks * per_block,
            });
        }
    }
    all.sort_by_cached_key(|segment| path(&tables[segment.table], segment.number));
    all
}

/// The path of a segment's entry.
pub(super) fn path(table: &Table, number: u32) -> Vec<u8> {
    format!("tables/{}/{}/{number:06}", path_level(&table.schema), path_level(&table.name)).into_bytes()
}

impl Segment {
    /// The statement that reads it.
    pub(super) fn copy_statement(&self, table: &Table) -> String {
        let name = table.qualified();
        let columns = identifiers(&table.columns);
        match (&self.blocks, &table.condition) {
            (None, None) if columns.is_empty() => format!("COPY {name} TO STDOUT"),
            (None, None) => format!("COPY {name} ({columns}) TO STDOUT"),
            (None, Some(condition)) => format!("COPY (SELECT {columns} FROM ONLY {name} {condition}) TO STDOUT"),
            (Some((first, end)), _) => {
                let end = end.map(|end| format!(" AND ctid < '({end},0)'")).unwrap_or_default();
                format!("COPY (SELECT {columns} FROM ONLY {name} WHERE ctid >= '({first},0)'{end}) TO STDOUT")
            }
        }
    }

    /// The attributes of its entry.
    pub(super) fn attributes(&self, table: &Table, rows: u64) -> SegmentAttributes {
        SegmentAttributes {
            schema: table.schema.clone(),
            table: table.name.clone(),
            segment: self.number,
            segments: self.of,
            columns: table.columns.clone(),
            rows,
            condition: table.condition.clone(),
            through: table.through.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Table, check_readable, path, split};

    fn table(name: &str, pages: u64, bytes: u64) -> Table {
        Table {
            oid: 1,
            schema: "public".to_owned(),
            name: name.to_owned(),
            kind: "r".to_owned(),
            unlogged: false,
            pages,
            bytes,
            heap: true,
            columns: vec!["a".to_owned(), "b c".to_owned()],
            condition: None,
            through: None,
            owner: "o".to_owned(),
            selectable: true,
            reachable: true,
            row_security: false,
        }
    }

    #[test]
    fn segments_cover_every_block_once_and_the_last_is_open() {
        let tables = [table("big", 1000, 1000 * 8192)];
        let segments = split(&tables, 100 * 8192, true);
        assert_eq!(segments.len(), 16, "64 blocks each");
        let mut next = 0;
        for segment in &segments {
            let (first, end) = segment.blocks.unwrap();
            assert_eq!(first, next);
            next = end.unwrap_or(u64::MAX);
        }
        assert_eq!(next, u64::MAX);
        assert_eq!(
            segments[15].copy_statement(&tables[0]),
            "COPY (SELECT \"a\", \"b c\" FROM ONLY \"public\".\"big\" WHERE ctid >= '(960,0)') TO STDOUT"
        );
    }

    #[test]
    fn borders_stay_where_they_were_when_a_table_grows() {
        let before = split(&[table("t", 1000, 1000 * 8192)], 100 * 8192, true);
        let after = split(&[table("t", 1100, 1100 * 8192)], 100 * 8192, true);
        assert_eq!(before[3].blocks, after[3].blocks);
    }

    #[test]
    fn paths_ascend_even_where_a_name_begins_with_another() {
        let mut tables = vec![table("a", 1, 10), table("a b", 1, 10), table("a/b", 1, 10), table("a0", 1, 10)];
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        let segments = split(&tables, 1 << 20, true);
        let paths: Vec<Vec<u8>> = segments.iter().map(|segment| path(&tables[segment.table], segment.number)).collect();
        assert!(paths.windows(2).all(|pair| pair[0] < pair[1]), "{paths:?}");
    }

    #[test]
    fn what_is_missing_is_named_with_its_statement() {
        let mut secret = table("secret", 1, 10);
        secret.selectable = false;
        let error = check_readable(&[secret], &[], "app").unwrap_err().to_string();
        assert!(error.contains("GRANT SELECT ON TABLE \"public\".\"secret\" TO \"app\""), "{error}");
        let mut hidden = table("hidden", 1, 10);
        hidden.row_security = true;
        let error = check_readable(&[hidden], &[], "app").unwrap_err().to_string();
        assert!(error.contains("ALTER ROLE \"app\" BYPASSRLS"), "{error}");
    }
}
