//! What a snapshot of a database says of itself: small facts that are kept in the point, and the catalogue entry for what
//! grows with the database.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The facts of a logical snapshot. Of bounded size, without secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PostgresFacts {
    /// `logical`.
    pub method: String,
    /// As `server_version_num`: 150018 is 15.18.
    pub server_version_num: u32,
    /// Major version of the `pg_dump` that wrote the schema; `pg_restore` must not be older.
    pub pg_dump_major: u32,
    /// The database itself.
    pub database: DatabaseFacts,
    /// `ALTER DATABASE … SET`, and `ALTER ROLE … IN DATABASE … SET`.
    pub settings: Vec<Setting>,
    /// Extensions with the version that was installed.
    pub extensions: Vec<Extension>,
    /// Collations (other than the database's own) that columns or indexes use, with the version of their provider: a target
    /// where it differs sorts differently.
    pub collations: Vec<Collation>,
    /// How many objects of each class (tables, indexes, functions …), without those of extensions and of the system.
    pub objects: BTreeMap<String, u64>,
    /// Tables with rows of their own that were captured (partitioned parents have none).
    pub tables: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of their rows in COPY's text form.
    pub table_bytes: u64,
    /// Large objects.
    pub large_objects: u64,
    /// Unlogged tables: captured here, but a crash of the server empties them.
    pub unlogged_tables: Named,
    /// Foreign tables: their definition is captured, their rows are elsewhere.
    pub foreign_tables: Named,
    /// Publications.
    pub publications: Named,
    /// Subscriptions of this database: restored disabled and without a slot.
    pub subscriptions: Named,
    /// Tablespaces other than the default that tables or indexes use.
    pub tablespaces: Named,
    /// Whether role passwords could be read (only superusers can).
    pub role_passwords: bool,
}

/// A list that stays short: how many there are, and the first by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// All of them.
    pub count: u64,
    /// At most [`Named::KEPT`] names.
    pub first: Vec<String>,
}

impl Named {
    /// Names kept.
    pub const KEPT: usize = 50;

    /// Keeps the number and the first names.
    pub fn of(mut names: Vec<String>) -> Self {
        names.sort();
        let count = names.len() as u64;
        names.truncate(Self::KEPT);
        Self { count, first: names }
    }
}

/// A privilege, from an access control list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Who granted it.
    pub grantor: String,
    /// To whom; `None` is PUBLIC.
    pub grantee: Option<String>,
    /// `CONNECT`, `SELECT` …
    pub privilege: String,
    /// With grant option.
    pub grantable: bool,
}

/// The database. The names are those of `pg_database`'s columns where they hold the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DatabaseFacts {
    /// Its name.
    pub name: String,
    /// Owner.
    pub owner: String,
    /// Encoding by name.
    pub encoding: String,
    /// `LC_COLLATE`.
    pub datcollate: String,
    /// `LC_CTYPE`.
    pub datctype: String,
    /// `c` (libc), `i` (ICU) or `b` (builtin); absent before 15.
    #[serde(default)]
    pub datlocprovider: Option<String>,
    /// ICU or builtin locale.
    #[serde(default, alias = "daticulocale")]
    pub datlocale: Option<String>,
    /// ICU rules.
    #[serde(default)]
    pub daticurules: Option<String>,
    /// The provider's version of the database's collation (15+).
    #[serde(default)]
    pub datcollversion: Option<String>,
    /// Connection limit; -1 is none.
    pub datconnlimit: i64,
    /// Whether it is a template.
    pub datistemplate: bool,
    /// Default tablespace.
    pub tablespace: String,
    /// Comment.
    #[serde(default)]
    pub comment: Option<String>,
    /// Its access control list; `None` is the default one.
    #[serde(default)]
    pub grants: Option<Vec<Grant>>,
}

/// Settings attached to a database (for one role, or all).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Setting {
    /// For this role only.
    #[serde(default)]
    pub role: Option<String>,
    /// `name=value`, as the catalogue has them.
    pub values: Vec<String>,
}

/// An extension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// Name.
    pub name: String,
    /// Installed version.
    pub version: String,
}

/// A collation in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collation {
    /// `schema.name`.
    pub name: String,
    /// The provider's version when the collation was created or refreshed; absent for C and POSIX.
    #[serde(default)]
    pub version: Option<String>,
    /// Indexes that sort by it (at most [`Named::KEPT`] names).
    pub indexes: Named,
}

/// The entry `catalog.json`: what restoring needs and what grows with the database.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Catalogue {
    /// Every sequence's position.
    pub sequences: Vec<Sequence>,
    /// Materialized views, each after those it reads.
    pub materialized_views: Vec<MaterializedView>,
}

/// A sequence's position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// `last_value`.
    pub last_value: i64,
    /// Whether that value was handed out.
    pub is_called: bool,
}

/// A materialized view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaterializedView {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// `relispopulated`.
    pub populated: bool,
    /// Not populated itself, but read by one that is: filled for that one's sake and emptied again.
    pub needed: bool,
    /// Reads a foreign table: refreshing it asks another server.
    pub foreign: bool,
}
