//! Connection URIs of PostgreSQL, as far as a policy can judge them.
//!
//! The connection itself is the source's affair; here is refused what could only fail at night, or would give a secret away.

use super::structure::similar;

/// libpq's parameter keywords that make sense in a policy (PostgreSQL documentation, "Parameter Key Words").
const PARAMETERS: &[&str] = &[
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "gssencmode",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "options",
    "passfile",
    "port",
    "require_auth",
    "service",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "sslsni",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

const SSL_MODES: &[&str] = &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// What is wrong with a URI; empty if nothing is. Never repeats any part of it that could be a password.
/// `password_key` is the key beside it that takes the reference to the password.
pub fn problems(url: &str, password_key: &str) -> Vec<String> {
    let Some(rest) = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://")) else {
        return vec!["should be a connection URI such as \"postgres://user@host:5432/database?sslmode=verify-full\"".to_owned()];
    };
    let mut problems = Vec::new();
    if url.chars().any(|letter| letter.is_whitespace() || letter.is_control()) {
        problems.push("holds a space or control character; write it as %20 and the like".to_owned());
    }
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    let database = before.split_once('/').map_or("", |(_, database)| database);
    // A password that was not escaped may itself hold / or ?: so the last @ decides, wherever it stands.
    let user = rest.rsplit_once('@').map(|(user, _)| user);
    if user.is_some_and(|user| user.contains(':') && !user.contains('='))
        || before.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
    {
        problems.push(password_inside(password_key));
    }
    if before.matches('@').count() > 1 {
        problems.push("holds more than one @; write those that belong to a name as %40".to_owned());
    }
    let mut named_database = !database.is_empty();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match key {
            "password" | "sslpassword" => problems.push(password_inside(password_key)),
            "sslmode" if !SSL_MODES.contains(&value) => {
                let guess = similar(value, SSL_MODES).map_or_else(String::new, |guess| format!(" (did you mean {guess}?)"));
                problems.push(format!("has an unknown sslmode{guess}; should be one of {}", SSL_MODES.join(", ")));
            }
            "dbname" | "service" => named_database = true,
            _ if PARAMETERS.contains(&key) => {}
            _ => problems.push(match similar(key, PARAMETERS) {
                Some(guess) => format!("has an unknown parameter after the ?; did you mean {guess}?"),
                None => "has an unknown parameter after the ?; see PostgreSQL's \"Parameter Key Words\"".to_owned(),
            }),
        }
    }
    if !named_database {
        problems.push("names no database; write it after the host: postgres://host/database".to_owned());
    }
    problems
}

fn password_inside(key: &str) -> String {
    format!(
        "holds a password, which would be stored with every recovery point; take it out and write {key} = {{ credential = \"…\" }} \
         (or file, env) beside it"
    )
}
