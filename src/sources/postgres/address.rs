//! Where a server is and who we are there: libpq's URLs, environment variables and defaults.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use percent_encoding::percent_decode_str;
use secrecy::SecretString;

/// libpq's `sslmode`, with libpq's meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "disable" => Self::Disable,
            "allow" => Self::Allow,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            other => return Err(format!("sslmode={other:?} is none of disable, allow, prefer, require, verify-ca, verify-full")),
        })
    }

    /// libpq's word for it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// What TLS shall be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) mode: SslMode,
    /// `sslrootcert`: a file, or the word `system`.
    pub(super) root: Option<PathBuf>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

/// A server's address, as a URL and the environment give it.
#[derive(Clone)]
pub(super) struct Address {
    /// Host name, IP address, or the directory of a unix socket (starts with `/`), each with its port; never empty.
    pub(super) hosts: Vec<(String, u16)>,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) password: Option<SecretString>,
    pub(super) passfile: Option<PathBuf>,
    pub(super) tls: Tls,
    pub(super) connect_timeout: Duration,
    /// `options=-c name=value`.
    pub(super) options: Option<String>,
}

/// How long to wait for a connection when nobody says otherwise. libpq waits for ever; an unattended agent must not.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Debian's and Red Hat's socket directory.
const SOCKET_DIRECTORY: &str = "/var/run/postgresql";

/// Parameters that change nothing that matters here.
const PASSED_OVER: [&str; 11] = [
    "application_name",
    "fallback_application_name",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "client_encoding",
    "gssencmode",
    "channel_binding",
    "target_session_attrs",
];

impl Address {
    /// Reads a URL (`postgres://user@host:port/database?sslmode=…`, `postgres:///db?host=/socket/dir`), taking what it leaves
    /// out from the environment variables that `environment` looks up, then from libpq's defaults.
    ///
    /// # Errors
    /// What is wrong with it, without the URL (it may hold a password).
    pub(super) fn parse(url: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"))
            .ok_or("a PostgreSQL URL starts with postgres:// or postgresql://")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, places) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (user, Some(decode(password)?)),
            None => (login, None),
        };
        let mut given = parameters(query)?;
        let mut take =
            |name: &str, variable: &str| given.remove(name).or_else(|| environment(variable)).filter(|value| !value.is_empty());

        let database = Some(decode(path)?).filter(|name| !name.is_empty()).or_else(|| take("dbname", "PGDATABASE"));
        let user = Some(decode(user)?).filter(|name| !name.is_empty()).or_else(|| take("user", "PGUSER"));
        let user = user.or_else(|| operating_system_user(&environment)).ok_or("no user: write postgres://USER@host/database")?;
        let hosts = hosts(places, take("host", "PGHOST"), take("port", "PGPORT"))?;
        let password = password.or_else(|| take("password", "PGPASSWORD")).filter(|password| !password.is_empty());
        let mode = take("sslmode", "PGSSLMODE");
        let root = take("sslrootcert", "PGSSLROOTCERT").map(PathBuf::from);
        let system = root.as_deref().is_some_and(|root| root.as_os_str() == "system");
        let mode = match mode {
            Some(mode) => SslMode::parse(&mode)?,
            None if system => SslMode::VerifyFull,
            None => SslMode::Prefer,
        };
        if system && mode != SslMode::VerifyFull {
            return Err(format!(
                "sslrootcert=system needs sslmode=verify-full, not {}: a weaker mode would accept any host",
                mode.word()
            ));
        }
        let tls = Tls {
            mode,
            root,
            certificate: take("sslcert", "PGSSLCERT").map(PathBuf::from),
            key: take("sslkey", "PGSSLKEY").map(PathBuf::from),
        };
        let connect_timeout = match take("connect_timeout", "PGCONNECT_TIMEOUT") {
            None => CONNECT_TIMEOUT,
            Some(text) => match text.parse::<u64>() {
                Ok(0) => CONNECT_TIMEOUT,
                // libpq rounds 1 up to 2 as well.
                Ok(seconds) => Duration::from_secs(seconds.max(2)),
                Err(_) => return Err(format!("connect_timeout={text:?} is not a number of seconds")),
            },
        };
        let passfile = take("passfile", "PGPASSFILE").map(PathBuf::from);
        let options = take("options", "PGOPTIONS");
        if let Some(unknown) = given.keys().find(|name| !PASSED_OVER.contains(&name.as_str())) {
            return Err(format!("the URL's parameter {unknown:?} is not known here: remove it"));
        }
        let database = database.unwrap_or_else(|| user.clone());
        let password = password.map(SecretString::from);
        Ok(Self { hosts, user, database, password, passfile, tls, connect_timeout, options })
    }

    /// `postgres://user@host:port/database`: never the password.
    pub(super) fn describe(&self) -> String {
        let (host, port) = &self.hosts[0];
        if host.starts_with('/') {
            format!("postgres://{}@/{}?host={host}&port={port}", self.user, self.database)
        } else {
            let places: Vec<String> = self.hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
            format!("postgres://{}@{}/{}", self.user, places.join(","), self.database)
        }
    }
}

fn decode(text: &str) -> Result<String, String> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| "the URL's %-escapes are not UTF-8".to_owned())?;
    Ok(text.into_owned())
}

fn parameters(query: &str) -> Result<BTreeMap<String, String>, String> {
    let mut given = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or("a parameter of the URL lacks its `=value`")?;
        // libpq, unlike HTML forms, leaves `+` alone.
        if given.insert(decode(name)?, decode(value)?).is_some() {
            return Err(format!("the URL gives {name:?} twice"));
        }
    }
    Ok(given)
}

fn hosts(places: &str, host: Option<String>, ports: Option<String>) -> Result<Vec<(String, u16)>, String> {
    let port_of = |text: &str| match text {
        "" => Ok(5432),
        _ => text.parse::<u16>().map_err(|_| format!("port {text:?} is not a number from 1 to 65535")),
    };
    let ports: Vec<u16> = ports.unwrap_or_default().split(',').map(port_of).collect::<Result<_, _>>()?;
    let nth = |index: usize| ports.get(index).or(ports.first()).copied().unwrap_or(5432);
    if places.is_empty() {
        let given = host.unwrap_or_else(|| SOCKET_DIRECTORY.to_owned());
        return Ok(given.split(',').enumerate().map(|(index, host)| (host.to_owned(), nth(index))).collect());
    }
    let mut all = Vec::new();
    for (index, place) in places.split(',').enumerate() {
        // An IPv6 address stands in brackets, so that its colons are not taken for the port's.
        let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, rest)) => (host, rest.strip_prefix(':')),
            None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
        };
        let host = if host.is_empty() { SOCKET_DIRECTORY.to_owned() } else { decode(host)? };
        all.push((host, port.map_or_else(|| Ok(nth(index)), port_of)?));
    }
    Ok(all)
}

fn operating_system_user(environment: impl Fn(&str) -> Option<String>) -> Option<String> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    named.or_else(|| environment("USER"))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::{Address, SslMode};

    fn parse(url: &str) -> Address {
        Address::parse(url, |_| None).unwrap()
    }

    #[test]
    fn a_socket_url_keeps_its_directory_and_port() {
        let address = parse("postgres://postgres@/app?host=/tmp/x&port=5433");
        assert_eq!(address.hosts, [("/tmp/x".to_owned(), 5433)]);
        assert_eq!((address.user.as_str(), address.database.as_str()), ("postgres", "app"));
        let encoded = parse("postgresql://u@%2Ftmp%2Fx/app");
        assert_eq!(encoded.hosts, [("/tmp/x".to_owned(), 5432)]);
    }

    #[test]
    fn a_password_in_the_url_is_understood_and_never_described() {
        let address = parse("postgres://me:p%40ss:w@db.internal:6543/app?sslmode=verify-full");
        assert_eq!(address.password.as_ref().unwrap().expose_secret(), "p@ss:w");
        assert_eq!(address.describe(), "postgres://me@db.internal:6543/app");
        assert_eq!(address.tls.mode, SslMode::VerifyFull);
    }

    #[test]
    fn the_url_wins_over_the_environment_and_the_environment_over_defaults() {
        let environment = |name: &str| match name {
            "PGHOST" => Some("elsewhere".to_owned()),
            "PGSSLMODE" => Some("require".to_owned()),
            "PGUSER" => Some("ada".to_owned()),
            _ => None,
        };
        let address = Address::parse("postgres:///app", environment).unwrap();
        assert_eq!(address.hosts, [("elsewhere".to_owned(), 5432)]);
        assert_eq!((address.user.as_str(), address.tls.mode), ("ada", SslMode::Require));
        let address = Address::parse("postgres://bob@here:1/app?sslmode=disable", environment).unwrap();
        assert_eq!(address.hosts, [("here".to_owned(), 1)]);
        assert_eq!((address.user.as_str(), address.tls.mode), ("bob", SslMode::Disable));
        assert_eq!(parse("postgres://a@b/c").tls.mode, SslMode::Prefer);
    }

    #[test]
    fn several_hosts_and_bracketed_addresses_are_understood() {
        let address = parse("postgres://u@[::1]:7,other/app?port=9");
        assert_eq!(address.hosts, [("::1".to_owned(), 7), ("other".to_owned(), 9)]);
    }

    #[test]
    fn what_is_not_understood_is_refused_without_repeating_the_password() {
        for url in [
            "mysql://u@h/d",
            "postgres://u:secret@h/d?sslmode=maybe",
            "postgres://u:secret@h/d?colour=red",
            "postgres://u:secret@h:x/d",
        ] {
            let error = Address::parse(url, |_| None).err().unwrap();
            assert!(!error.contains("secret"), "{error}");
        }
        let weak = Address::parse("postgres://u@h/d?sslrootcert=system&sslmode=require", |_| None);
        assert!(weak.err().unwrap().contains("verify-full"));
    }
}
