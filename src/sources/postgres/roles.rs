//! Roles: attributes, memberships and settings, read from one server and made on another.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    connect::Session,
    quote::{identifier, literal, setting},
};
use crate::{
    progress::{Problem, SharedObserver},
    sources::SourceError,
};

/// The entry `roles.json`: every role of the server but PostgreSQL's own (`pg_…`). Holds password verifiers where they could be
/// read, so its bytes are as secret as a password file.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Roles {
    /// In the order in which they were made, so that lists ordered by object id (the roles of a policy) keep their order on a fresh server.
    pub roles: Vec<Role>,
    /// Who belongs to whom.
    pub memberships: Vec<Membership>,
}

/// A role. Field names are those of `pg_authid`.
#[derive(Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "pg_authid documents its columns")]
pub struct Role {
    pub rolname: String,
    pub rolsuper: bool,
    pub rolinherit: bool,
    pub rolcreaterole: bool,
    pub rolcreatedb: bool,
    pub rolcanlogin: bool,
    pub rolreplication: bool,
    pub rolbypassrls: bool,
    pub rolconnlimit: i64,
    #[serde(default)]
    pub rolvaliduntil: Option<String>,
    /// The verifier (SCRAM or MD5), never the password itself.
    #[serde(default)]
    pub rolpassword: Option<String>,
    /// `ALTER ROLE … SET`, for all databases.
    #[serde(default)]
    pub settings: Option<Vec<String>>,
    #[serde(default)]
    pub comment: Option<String>,
}

/// A membership.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The group.
    pub role: String,
    /// The member.
    pub member: String,
    /// With admin option.
    pub admin_option: bool,
    /// With inheritance (16+).
    #[serde(default)]
    pub inherit_option: Option<bool>,
    /// May `SET ROLE` (16+).
    #[serde(default)]
    pub set_option: Option<bool>,
}

/// Reads all roles; the flag says whether passwords could be read.
pub(super) async fn capture(session: &Session) -> Result<(Roles, bool), SourceError> {
    let doing = "reading the roles";
    let passwords: bool = session.one(doing, "SELECT has_table_privilege('pg_catalog.pg_authid', 'SELECT')", &[]).await?;
    let (from, hide) = if passwords { ("pg_authid", "") } else { ("pg_roles", "- 'rolpassword'") };
    let sql = format!(
        "SELECT (to_jsonb(r) - 'oid' - 'rolconfig' {hide}) || jsonb_build_object('comment', shobj_description(r.oid, 'pg_authid'), \
         'settings', (SELECT s.setconfig FROM pg_db_role_setting s WHERE s.setrole = r.oid AND s.setdatabase = 0)) \
         FROM {from} r WHERE r.rolname !~ '^pg_' ORDER BY r.oid"
    );
    let roles = session.json(doing, &sql, &[]).await?;
    let sql = "SELECT to_jsonb(m) || jsonb_build_object('role', r.rolname, 'member', u.rolname) FROM pg_auth_members m \
               JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles u ON u.oid = m.member WHERE u.rolname !~ '^pg_' ORDER BY r.rolname, u.rolname";
    let memberships = session.json(doing, sql, &[]).await?;
    Ok((Roles { roles, memberships }, passwords))
}

/// Makes the roles that the server lacks, and the memberships of those. Roles that exist stay as they are. What cannot be made
/// (a provider's own role, an attribute that only a superuser may give) is a problem, not an error: if an object needs that
/// role, `pg_restore` will stop with its name.
pub(super) async fn rebuild(session: &Session, roles: &Roles, observer: &SharedObserver) -> Result<(), SourceError> {
    let doing = "listing the target's roles";
    let rows =
        session.client.query("SELECT rolname::text FROM pg_roles", &[]).await.map_err(|error| session.failed(doing, &error))?;
    let existing: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let version = session.version().await?;
    let mut made: BTreeSet<&str> = BTreeSet::new();
    for role in roles.roles.iter().filter(|role| !existing.contains(&role.rolname)) {
        if make(session, role, observer).await {
            made.insert(&role.rolname);
        }
    }
    let present = |name: &str| existing.contains(name) || made.contains(name);
    for membership in &roles.memberships {
        let concerns_new = made.contains(membership.role.as_str()) || made.contains(membership.member.as_str());
        if !concerns_new {
            continue;
        }
        let subject = format!("membership of {} in {}", membership.member, membership.role);
        if !present(&membership.role) || !present(&membership.member) {
            observer.problem(Problem::new(subject, "one of the two roles is not on this server: make it, and run GRANT"));
            continue;
        }
        let sql = grant(membership, version);
        if let Err(error) = session.execute("granting a membership", &sql).await {
            observer.problem(Problem::new(subject, error.to_string()));
        }
    }
    Ok(())
}

fn grant(membership: &Membership, version: u32) -> String {
    let mut sql = format!("GRANT {} TO {}", identifier(&membership.role), identifier(&membership.member));
    if version >= 160_000 {
        let inherit = membership.inherit_option.map(|on| format!(", INHERIT {on}")).unwrap_or_default();
        let set = membership.set_option.map(|on| format!(", SET {on}")).unwrap_or_default();
        sql.push_str(&format!(" WITH ADMIN {}{inherit}{set}", membership.admin_option));
    } else if membership.admin_option {
        sql.push_str(" WITH ADMIN OPTION");
    }
    sql
}

async fn make(session: &Session, role: &Role, observer: &SharedObserver) -> bool {
    let name = identifier(&role.rolname);
    if let Err(error) = session.execute("creating a role", &create(role, true)).await {
        if let Err(second) = session.execute("creating a role", &create(role, false)).await {
            observer.problem(Problem::new(format!("role {}", role.rolname), format!("not made: {second}")));
            return false;
        }
        let text = format!("made without SUPERUSER, REPLICATION, BYPASSRLS and its password verifier: {error}");
        observer.problem(Problem::new(format!("role {}", role.rolname), text));
    }
    let mut more: Vec<String> = role
        .settings
        .iter()
        .flatten()
        .filter_map(|value| setting(value))
        .map(|set| format!("ALTER ROLE {name} SET {set}"))
        .collect();
    more.extend(role.comment.as_ref().map(|comment| format!("COMMENT ON ROLE {name} IS {}", literal(comment))));
    for sql in more {
        if let Err(error) = session.execute("setting up a role", &sql).await {
            observer.problem(Problem::new(format!("role {}", role.rolname), error.to_string()));
        }
    }
    true
}

/// `privileged` = with what only a superuser may give.
fn create(role: &Role, privileged: bool) -> String {
    let word = |on: bool, word: &str| if on { format!(" {word}") } else { format!(" NO{word}") };
    let mut sql = format!("CREATE ROLE {}", identifier(&role.rolname));
    sql.push_str(&word(role.rolinherit, "INHERIT"));
    sql.push_str(&word(role.rolcreaterole, "CREATEROLE"));
    sql.push_str(&word(role.rolcreatedb, "CREATEDB"));
    sql.push_str(&word(role.rolcanlogin, "LOGIN"));
    sql.push_str(&format!(" CONNECTION LIMIT {}", role.rolconnlimit));
    if privileged {
        for (on, attribute) in
            [(role.rolsuper, "SUPERUSER"), (role.rolreplication, "REPLICATION"), (role.rolbypassrls, "BYPASSRLS")]
        {
            if on {
                sql.push_str(&format!(" {attribute}"));
            }
        }
        if let Some(verifier) = &role.rolpassword {
            sql.push_str(&format!(" PASSWORD {}", literal(verifier)));
        }
    }
    if let Some(until) = &role.rolvaliduntil {
        sql.push_str(&format!(" VALID UNTIL {}", literal(until)));
    }
    sql
}

#[cfg(test)]
mod tests {
    use super::{Membership, Role, create, grant};

    #[test]
    fn a_role_without_privileges_of_a_superuser_carries_no_verifier() {
        let role = Role {
            rolname: "a b".to_owned(),
            rolsuper: true,
            rolinherit: true,
            rolcreaterole: false,
            rolcreatedb: false,
            rolcanlogin: true,
            rolreplication: false,
            rolbypassrls: true,
            rolconnlimit: 3,
            rolvaliduntil: None,
            rolpassword: Some("SCRAM-SHA-256$x".to_owned()),
            settings: None,
            comment: None,
        };
        assert!(create(&role, true).ends_with("CONNECTION LIMIT 3 SUPERUSER BYPASSRLS PASSWORD 'SCRAM-SHA-256$x'"));
        assert_eq!(create(&role, false), "CREATE ROLE \"a b\" INHERIT NOCREATEROLE NOCREATEDB LOGIN CONNECTION LIMIT 3");
    }

    #[test]
    fn options_of_memberships_are_named_only_where_the_server_knows_them() {
        let membership = Membership {
            role: "g".to_owned(),
            member: "m".to_owned(),
            admin_option: true,
            inherit_option: Some(false),
            set_option: Some(true),
        };
        assert_eq!(grant(&membership, 150_000), "GRANT \"g\" TO \"m\" WITH ADMIN OPTION");
        assert_eq!(grant(&membership, 180_000), "GRANT \"g\" TO \"m\" WITH ADMIN true, INHERIT false, SET true");
    }
}
