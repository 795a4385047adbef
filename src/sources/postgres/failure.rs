//! What a failed connection or statement means, and the next step.

use std::error::Error as _;

use tokio_postgres::{Error, error::SqlState};

use super::address::Address;
use crate::sources::SourceError;

/// Whether we read from the server (an error means: cannot be captured) or write to it (not a fit target).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Source,
    Target,
}

impl Side {
    /// The error of this side for what fits no better kind.
    pub(super) fn unfit(self, subject: impl Into<String>, detail: impl Into<String>) -> SourceError {
        let (subject, detail) = (subject.into(), detail.into());
        match self {
            Self::Source => SourceError::Unfit { subject, detail },
            Self::Target => SourceError::UnfitTarget { subject, detail },
        }
    }
}

/// The innermost cause's words: tokio-postgres itself says only `db error` and the like.
fn words(error: &Error) -> String {
    if let Some(server) = error.as_db_error() {
        let mut text = format!("{} (SQLSTATE {})", server.message(), server.code().code());
        for more in [server.detail(), server.hint(), server.where_()].into_iter().flatten() {
            text.push_str("; ");
            text.extend(more.chars().take(500));
        }
        return text;
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// What came of speaking with a server, whoever spoke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) cause: Cause,
    /// For people; never a secret.
    pub(super) words: String,
}

/// Whose word it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cause {
    /// The server's, with its SQLSTATE.
    Server(SqlState),
    /// TLS failed.
    Tls,
    /// A password is asked for, and there is none.
    NoPassword,
    /// The line, or what came over it.
    Line,
}

impl From<&Error> for Said {
    fn from(error: &Error) -> Self {
        let words = words(error);
        let cause = match error.code() {
            Some(code) => Cause::Server(code.clone()),
            None if error.to_string().starts_with("error performing TLS handshake") => Cause::Tls,
            None if words.contains("password missing") => Cause::NoPassword,
            None => Cause::Line,
        };
        Self { cause, words }
    }
}

/// Whether another try with or without TLS, as `prefer` and `allow` have it, may help.
pub(super) fn refused_this_way(said: &Said) -> bool {
    matches!(&said.cause, Cause::Tls) || said.cause == Cause::Server(SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
}

/// Whether the server itself refused, and not since it is starting or stopping (class 57, operator intervention).
pub(super) fn will_not_pass(said: &Said) -> bool {
    matches!(&said.cause, Cause::Server(code) if !code.code().starts_with("57"))
}

/// An error while connecting.
pub(super) fn connecting(side: Side, address: &Address, error: &Said) -> SourceError {
    let subject = address.describe();
    let said = &error.words;
    let user = &address.user;
    let code = match &error.cause {
        Cause::Server(code) => Some(code),
        Cause::Tls | Cause::NoPassword | Cause::Line => None,
    };
    match code {
        Some(code) if *code == SqlState::INVALID_PASSWORD => SourceError::Unauthenticated {
            subject,
            detail: format!(
                "{said}: the password for role {user:?} is wrong or missing; correct it {}",
                match side {
                    Side::Source => "where the policy's `password` points",
                    Side::Target => "in PGPASSWORD or the password file (PGPASSFILE, ~/.pgpass)",
                }
            ),
        },
        // Over a unix socket the operating system says who is there.
        Some(code) if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION && said.contains("Peer authentication") => {
            SourceError::Unauthenticated {
                subject,
                detail: format!(
                    "{said}: run this as the system user that the server takes for role {user:?} (`sudo -u USER farshore …`; see its pg_hba.conf and pg_ident.conf)"
                ),
            }
        }
        Some(code) if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => SourceError::Unauthenticated {
            subject,
            detail: format!(
                "{said}: allow this role, database and this machine's address in the server's pg_hba.conf, or correct the role's name"
            ),
        },
        Some(code) if *code == SqlState::INVALID_CATALOG_NAME => SourceError::Unfit {
            detail: format!("{said}: there is no database {:?} on this server; correct the URL", address.database),
            subject,
        },
        Some(code) if *code == SqlState::TOO_MANY_CONNECTIONS => SourceError::Unreachable {
            subject,
            detail: format!("{said}: raise max_connections (or the role's CONNECTION LIMIT), or lower the parallelism"),
        },
        Some(code) if *code == SqlState::CANNOT_CONNECT_NOW => SourceError::Unreachable {
            subject,
            detail: format!("{said}: the server is starting or stopping; try again in a while"),
        },
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => SourceError::Denied {
            detail: format!("{said}: run GRANT CONNECT ON DATABASE {:?} TO {user:?}", address.database),
            subject,
        },
        Some(_) => SourceError::Unreachable { subject, detail: format!("{said}: see the server's log") },
        None if error.cause == Cause::Tls => {
            let advice = if said.contains("does not support TLS") {
                "turn on `ssl` at the server, or use a weaker sslmode"
            } else if said.contains("NotValidForName") || said.contains("not valid for name") {
                "the certificate was made for another name: use that name in the URL, or sslmode=verify-ca"
            } else if said.contains("UnknownIssuer") {
                "the certificate was not issued by sslrootcert: give the right root certificate file"
            } else {
                "check the server's certificate, sslrootcert and sslmode"
            };
            SourceError::Unreachable { subject, detail: format!("TLS failed: {said}: {advice}") }
        }
        None if error.cause == Cause::NoPassword => SourceError::Unauthenticated {
            subject,
            detail: format!(
                "the server asks for a password for role {user:?} and none is given: set {}",
                match side {
                    Side::Source => "the policy's `password`",
                    Side::Target => "PGPASSWORD, or a password file (PGPASSFILE, ~/.pgpass)",
                }
            ),
        },
        None => {
            SourceError::Unreachable { subject, detail: format!("{said}: check host, port, firewall, and that the server runs") }
        }
    }
}

/// An error of a statement. `doing` says what was tried, in the operator's words.
pub(super) fn statement(side: Side, subject: &str, doing: &str, error: &Error) -> SourceError {
    let said = words(error);
    if error.is_closed() || error.code().is_none() && error.as_db_error().is_none() && said.contains("communicating") {
        return SourceError::Unreachable {
            subject: subject.to_owned(),
            detail: format!("the connection broke while {doing}: {said}; see the server's log, and try again"),
        };
    }
    let detail = match error.code() {
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
            return SourceError::Denied {
                subject: subject.to_owned(),
                detail: format!("{doing}: {said}; grant it to the role, or use another"),
            };
        }
        Some(code) if *code == SqlState::ADMIN_SHUTDOWN || *code == SqlState::CRASH_SHUTDOWN => {
            return SourceError::Unreachable {
                subject: subject.to_owned(),
                detail: format!("{doing}: {said}; the server was stopped: try again"),
            };
        }
        Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE => {
            format!("{doing}: {said}; somebody holds an exclusive lock: end that session, or try again later")
        }
        Some(code) if *code == SqlState::OUT_OF_MEMORY => {
            format!("{doing}: {said}; if it speaks of shared memory, raise max_locks_per_transaction")
        }
        Some(code) if *code == SqlState::T_R_SERIALIZATION_FAILURE && said.contains("recovery") => format!(
            "{doing}: {said}; on a standby set hot_standby_feedback = on or raise max_standby_streaming_delay, or back up the primary"
        ),
        Some(code) if *code == SqlState::DISK_FULL => format!("{doing}: {said}; make room on the server's disk"),
        _ => format!("{doing}: {said}; see the server's log"),
    };
    side.unfit(subject, detail)
}

#[cfg(test)]
mod tests {
    use super::{Address, Cause, Said, Side, SqlState, connecting};

    #[test]
    fn who_is_not_let_in_is_told_what_to_do_on_his_side() {
        let address = Address::parse("postgres://farshore@db.internal/app", |_| None).unwrap();
        let peer = Cause::Server(SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
        let table = [
            (
                Side::Source,
                Cause::Server(SqlState::INVALID_PASSWORD),
                "password authentication failed",
                "where the policy's `password`",
            ),
            (
                Side::Target,
                Cause::Server(SqlState::INVALID_PASSWORD),
                "password authentication failed",
                "in PGPASSWORD or the password file",
            ),
            (Side::Source, Cause::NoPassword, "password missing", "set the policy's `password`"),
            (Side::Target, Cause::NoPassword, "password missing", "set PGPASSWORD, or a password file"),
            (Side::Source, peer.clone(), "Peer authentication failed for user \"farshore\"", "`sudo -u USER farshore …`"),
            (Side::Source, peer, "no pg_hba.conf entry for host", "allow this role, database and this machine's address"),
        ];
        for (side, cause, words, expected) in table {
            let said = connecting(side, &address, &Said { cause, words: words.to_owned() }).to_string();
            assert!(said.contains(expected), "{said}");
        }
    }
}
