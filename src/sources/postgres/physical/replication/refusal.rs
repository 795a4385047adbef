//! Why there is no replication connection where ordinary ones are let through, and what mends it.

use tokio_postgres::error::SqlState;

use crate::sources::{
    SourceError,
    postgres::{
        PostgresConfig,
        failure::{self, Cause, Said, Side},
        quote::identifier,
    },
};

/// Why a log is not streamed.
#[derive(Debug)]
pub enum Unstreamed {
    /// It is not let through. That does not pass by itself, and the error says what mends it.
    Refused(SourceError),
    /// It may be another time.
    Broken(SourceError),
}

impl From<Unstreamed> for SourceError {
    fn from(why: Unstreamed) -> Self {
        match why {
            Unstreamed::Refused(error) | Unstreamed::Broken(error) => error,
        }
    }
}

/// What the server's words mean.
pub(super) fn of(config: &PostgresConfig, said: Said) -> Unstreamed {
    let (subject, words) = (config.describe(), &said.words);
    let denied = |detail: String| Unstreamed::Refused(SourceError::Denied { subject: subject.clone(), detail });
    let user = &config.address().user;
    match &said.cause {
        Cause::Server(code) if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            denied(match hba_line(words, user, config.password().is_some()) {
                Some(line) => format!(
                    "{words}: a replication connection needs a line of its own in the server's pg_hba.conf (`all` does not mean it). Add `{line}` before any line that rejects it, and run SELECT pg_reload_conf()"
                ),
                None => format!("{words}: see the server's log"),
            })
        }
        Cause::Server(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
            denied(format!("{words}: as a superuser, run ALTER ROLE {} REPLICATION", identifier(user)))
        }
        Cause::Server(code) if *code == SqlState::TOO_MANY_CONNECTIONS => denied(format!(
            "{words}: raise max_wal_senders by one, and restart the server; or see who uses them (SELECT * FROM pg_stat_replication)"
        )),
        Cause::Server(code) if *code == SqlState::INVALID_PASSWORD => {
            Unstreamed::Refused(failure::connecting(Side::Source, config.address(), &said))
        }
        // The server starts, or stops.
        Cause::Server(code) if code.code().starts_with("57P") => {
            Unstreamed::Broken(failure::connecting(Side::Source, config.address(), &said))
        }
        Cause::Server(_) => denied(format!(
            "{words}: a pooler that does not let replication connections through stands in between: give the server's own host and port"
        )),
        Cause::NoPassword => Unstreamed::Refused(failure::connecting(Side::Source, config.address(), &said)),
        Cause::Tls | Cause::Line => Unstreamed::Broken(failure::connecting(Side::Source, config.address(), &said)),
    }
}

/// The line that is missing, from the server's own words: "no pg_hba.conf entry for replication connection from host "10.0.0.5", user
/// "farshore", no encryption".
fn hba_line(words: &str, user: &str, has_password: bool) -> Option<String> {
    let from = words.split_once(" connection from host \"").or_else(|| words.split_once(" connection for host \""))?.1;
    let (host, rest) = from.split_once('"')?;
    let user =
        if user.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_')) { user.to_owned() } else { identifier(user) };
    if host == "[local]" {
        return Some(format!("local replication {user} {}", if has_password { "scram-sha-256" } else { "peer" }));
    }
    let is_encrypted = rest.contains("SSL encryption") || rest.contains("SSL on");
    let kind = if is_encrypted { "hostssl" } else { "host" };
    let bits = if host.contains(':') { 128 } else { 32 };
    Some(format!("{kind} replication {user} {host}/{bits} scram-sha-256"))
}

#[cfg(test)]
mod tests {
    use super::{Cause, PostgresConfig, Said, SourceError, SqlState, Unstreamed, hba_line, of};

    #[test]
    fn the_missing_line_is_written_as_pg_hba_conf_wants_it() {
        let no_entry = |host: &str, rest: &str| {
            format!(
                "no pg_hba.conf entry for replication connection from host \"{host}\", user \"farshore\", {rest} (SQLSTATE 28000)"
            )
        };
        let line = |words: &str, user: &str, has_password: bool| hba_line(words, user, has_password).unwrap();
        let plain = no_entry("10.0.0.5", "no encryption");
        assert_eq!(line(&plain, "farshore", true), "host replication farshore 10.0.0.5/32 scram-sha-256");
        let encrypted = no_entry("fd00::5", "SSL encryption");
        assert_eq!(line(&encrypted, "far-shore", true), "hostssl replication \"far-shore\" fd00::5/128 scram-sha-256");
        let local = no_entry("[local]", "no encryption");
        assert_eq!(line(&local, "farshore", false), "local replication farshore peer");
        assert_eq!(line(&local, "farshore", true), "local replication farshore scram-sha-256");
        let rejects = "pg_hba.conf rejects replication connection for host \"10.0.0.5\", user \"farshore\", no encryption";
        assert!(line(rejects, "farshore", true).starts_with("host replication farshore 10.0.0.5/32"));
        assert_eq!(hba_line("Peer authentication failed for user \"farshore\"", "farshore", true), None);
    }

    #[test]
    fn what_does_not_pass_by_itself_is_told_from_what_does() {
        let config = PostgresConfig::parse("postgres://farshore@h/d", None).unwrap();
        let refused = |code: SqlState| {
            let why = of(&config, Said { cause: Cause::Server(code), words: "no".to_owned() });
            (matches!(why, Unstreamed::Refused(_)), SourceError::from(why).to_string())
        };
        for (code, mend) in [
            (SqlState::INVALID_AUTHORIZATION_SPECIFICATION, "see the server's log"),
            (SqlState::INSUFFICIENT_PRIVILEGE, "ALTER ROLE \"farshore\" REPLICATION"),
            (SqlState::TOO_MANY_CONNECTIONS, "max_wal_senders"),
            (SqlState::INVALID_PASSWORD, "wrong or missing"),
            (SqlState::PROTOCOL_VIOLATION, "pooler"),
        ] {
            let (is_refused, words) = refused(code);
            assert!(is_refused && words.contains(mend), "{words}");
        }
        assert!(!refused(SqlState::CANNOT_CONNECT_NOW).0 && !refused(SqlState::ADMIN_SHUTDOWN).0);
        let missing = of(&config, Said { cause: Cause::NoPassword, words: "password missing".to_owned() });
        assert!(matches!(missing, Unstreamed::Refused(_)));
        let broken = of(&config, Said { cause: Cause::Line, words: "reset".to_owned() });
        assert!(matches!(broken, Unstreamed::Broken(_)));
    }
}
