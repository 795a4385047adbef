//! Connections over TCP: TLS levels, passwords, `pg_hba.conf`. Each test has a server of its own, with certificates made for it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use farshore::sources::{
    SourceError,
    postgres::{LogicalOptions, PostgresConfig, PostgresLogical, physical::replication::Replication, probe},
};
use secrecy::SecretString;

use crate::{postgres::Server, support::database_exchange::Exchange};

/// A server on TCP with TLS and SCRAM, made for `localhost`.
pub struct TlsServer {
    directory: tempfile::TempDir,
    port: u16,
    child: Child,
}

fn checked(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// PostgreSQL does not run as root: as the user `postgres` then.
fn unprivileged(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    if let Some((user, group)) = account() {
        command.uid(user).gid(group);
    }
    command
}

fn account() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = accounts.lines().find(|line| line.starts_with("postgres:")).expect("a user postgres");
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

fn openssl(directory: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    command.args(arguments.split(' ')).current_dir(directory);
    checked(command);
}

impl TlsServer {
    pub fn port(&self) -> u16 {
        self.port
    }

    pub async fn start(hba: &str) -> Self {
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        let path = directory.path();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        for authority in ["root", "other"] {
            openssl(
                path,
                &format!(
                    "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {authority}.key -out {authority}.crt -subj /CN={authority} -days 2"
                ),
            );
        }
        std::fs::write(path.join("names"), "subjectAltName=DNS:localhost\n").unwrap();
        openssl(
            path,
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout server.key -out server.csr -subj /CN=localhost",
        );
        openssl(
            path,
            "x509 -req -in server.csr -CA root.crt -CAkey root.key -CAcreateserial -out server.crt -days 2 -extfile names",
        );
        let data = path.join("data");
        std::fs::create_dir(&data).unwrap();
        if let Some((user, group)) = account() {
            for owned in ["data", "server.key", "server.crt"] {
                std::os::unix::fs::chown(path.join(owned), Some(user), Some(group)).unwrap();
            }
        }
        std::fs::write(path.join("password"), "se:cr\\et").unwrap();
        let bin = Server::Fifteen.bin();
        let mut initdb = unprivileged(bin.join("initdb"));
        initdb.args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync", "--pwfile"]);
        checked({
            initdb.arg(path.join("password")).arg("-D").arg(&data);
            initdb
        });
        std::fs::write(data.join("pg_hba.conf"), hba).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = unprivileged(bin.join("postgres"));
        server.arg("-D").arg(&data).stdout(Stdio::null()).stderr(Stdio::null());
        let certificate = |name: &str| path.join(name).display().to_string();
        for setting in [
            "listen_addresses=127.0.0.1".to_owned(),
            "unix_socket_directories=".to_owned(),
            "ssl=on".to_owned(),
            "fsync=off".to_owned(),
            format!("port={port}"),
            format!("ssl_cert_file={}", certificate("server.crt")),
            format!("ssl_key_file={}", certificate("server.key")),
        ] {
            server.arg("-c").arg(setting);
        }
        let child = server.spawn().unwrap();
        let server = Self { directory, port, child };
        for _ in 0..200 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        server
    }

    fn config(&self, host: &str, parameters: &str, password: Option<&str>) -> PostgresConfig {
        let path = self.directory.path().display();
        let parameters = parameters.replace("{dir}", &path.to_string());
        let url = format!("postgres://postgres@{host}:{}/postgres?{parameters}", self.port);
        PostgresConfig::parse(&url, password.map(SecretString::from)).unwrap()
    }

    /// What a connection with these parameters says of its encryption, or the error.
    async fn encrypted(&self, host: &str, parameters: &str) -> Result<String, SourceError> {
        let config = self.config(host, parameters, Some("se:cr\\et"));
        // The first connection may come while the server is still starting.
        for _ in 0..100 {
            match probe(&config, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await {
                Err(error) if error.to_string().contains("starting") => tokio::time::sleep(Duration::from_millis(50)).await,
                other => return other,
            }
        }
        panic!("the server never started");
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        let _ = self.child.wait();
    }
}

const SCRAM: &str = "host all all 127.0.0.1/32 scram-sha-256\n";

#[tokio::test(flavor = "multi_thread")]
async fn each_sslmode_means_what_libpq_means_by_it() {
    let server = TlsServer::start(SCRAM).await;
    let root = "sslrootcert={dir}/root.crt";
    let other = "sslrootcert={dir}/other.crt";
    assert_eq!(server.encrypted("localhost", "sslmode=disable").await.unwrap(), "f");
    assert_eq!(server.encrypted("localhost", "sslmode=allow").await.unwrap(), "f");
    assert_eq!(server.encrypted("localhost", "").await.unwrap(), "t", "prefer is the default");
    assert_eq!(server.encrypted("localhost", "sslmode=require").await.unwrap(), "t");
    assert_eq!(server.encrypted("localhost", &format!("sslmode=verify-full&{root}")).await.unwrap(), "t");
    assert_eq!(server.encrypted("127.0.0.1", &format!("sslmode=verify-ca&{root}")).await.unwrap(), "t");

    let wrong_name = server.encrypted("127.0.0.1", &format!("sslmode=verify-full&{root}")).await.unwrap_err();
    assert!(wrong_name.to_string().contains("made for another name"), "{wrong_name}");
    for mode in ["verify-full", "verify-ca", "require"] {
        let wrong_root = server.encrypted("localhost", &format!("sslmode={mode}&{other}")).await.unwrap_err();
        assert!(wrong_root.to_string().contains("not issued by sslrootcert"), "{mode}: {wrong_root}");
    }
    let no_root = server.encrypted("localhost", "sslmode=verify-full&sslrootcert={dir}/absent.crt").await.unwrap_err();
    assert!(no_root.to_string().contains("does not exist"), "{no_root}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_tls_gets_it_from_allow_and_one_that_forbids_it_is_refused_by_require() {
    let only_tls = TlsServer::start("hostssl all all 127.0.0.1/32 scram-sha-256\n").await;
    assert_eq!(only_tls.encrypted("localhost", "sslmode=allow").await.unwrap(), "t");
    let error = only_tls.encrypted("localhost", "sslmode=disable").await.unwrap_err();
    assert!(matches!(error, SourceError::Unauthenticated { .. }) && error.to_string().contains("pg_hba.conf"), "{error:?}");
    let without = TlsServer::start("hostnossl all all 127.0.0.1/32 scram-sha-256\n").await;
    assert_eq!(without.encrypted("localhost", "sslmode=prefer").await.unwrap(), "f");
    let error = without.encrypted("localhost", "sslmode=require").await.unwrap_err();
    assert!(matches!(error, SourceError::Unauthenticated { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_wrong_or_missing_is_told_without_repeating_it() {
    let server = TlsServer::start(SCRAM).await;
    server.encrypted("localhost", "").await.unwrap();
    let wrong = probe(&server.config("localhost", "", Some("guess-me")), "SELECT 1").await.unwrap_err();
    assert!(matches!(wrong, SourceError::Unauthenticated { .. }), "{wrong:?}");
    assert!(wrong.to_string().contains("wrong or missing") && !format!("{wrong} {wrong:?}").contains("guess-me"), "{wrong:?}");
    let missing = probe(&server.config("localhost", "passfile=/nowhere", None), "SELECT 1").await.unwrap_err();
    assert!(matches!(missing, SourceError::Unauthenticated { .. }), "{missing:?}");
    assert!(missing.to_string().contains("set the policy's `password`"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replication_connection_proves_itself_as_every_other_does() {
    let tls = "hostssl all all 127.0.0.1/32 scram-sha-256\nhostssl replication all 127.0.0.1/32 scram-sha-256\n";
    let server = TlsServer::start(tls).await;
    let password = Some("se:cr\\et");
    server.encrypted("localhost", "sslmode=require").await.unwrap();
    let system = async |parameters: &str, password: Option<&str>| {
        let config = server.config("localhost", parameters, password);
        Ok::<_, SourceError>(Replication::connect(&config, "farshore").await?.identify().await?.to_string())
    };
    let root = "sslmode=verify-full&sslrootcert={dir}/root.crt";
    let sql = "SELECT system_identifier::text FROM pg_control_system()";
    let expected = probe(&server.config("localhost", root, password), sql).await.unwrap();
    // The server offers channel binding, so that a wrong one would be refused.
    for parameters in [root, "sslmode=require", "sslmode=prefer", "sslmode=allow"] {
        assert_eq!(system(parameters, password).await.unwrap(), expected, "{parameters}");
    }
    let wrong = system(root, Some("guess-me")).await.unwrap_err();
    assert!(wrong.to_string().contains("wrong or missing") && !format!("{wrong:?}").contains("guess-me"), "{wrong:?}");
    let missing = system(&format!("{root}&passfile=/nowhere"), None).await.unwrap_err();
    assert!(missing.to_string().contains("set the policy's `password`"), "{missing}");
    let other = system("sslmode=verify-full&sslrootcert={dir}/other.crt", password).await.unwrap_err();
    assert!(other.to_string().contains("not issued by sslrootcert"), "{other}");
    let plain = system("sslmode=disable", password).await.unwrap_err();
    assert!(plain.to_string().contains("`host replication postgres 127.0.0.1/32 scram-sha-256`"), "{plain}");

    for (how, kept_as) in [("password", "scram-sha-256"), ("md5", "md5")] {
        let hba = format!("host all all 127.0.0.1/32 scram-sha-256\nhost replication old 127.0.0.1/32 {how}\n");
        let server = TlsServer::start(&hba).await;
        server.encrypted("localhost", "").await.unwrap();
        let mut psql = Command::new(Server::Fifteen.bin().join("psql"));
        psql.args(["-XAtq", "-h", "localhost", "-U", "postgres", "-p", &server.port.to_string()]).env("PGPASSWORD", "se:cr\\et");
        psql.args([
            "-c",
            &format!("SET password_encryption = '{kept_as}'"),
            "-c",
            "CREATE ROLE old LOGIN REPLICATION PASSWORD 'old-one'",
        ]);
        checked(psql);
        let url = format!("postgres://old@localhost:{}/postgres?sslmode=require", server.port);
        let config = PostgresConfig::parse(&url, Some(SecretString::from("old-one"))).unwrap();
        let mut replication = Replication::connect(&config, "farshore").await.map_err(SourceError::from).unwrap();
        assert!(replication.identify().await.unwrap() > 0, "{how}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_dump_gets_the_same_password_and_tls_settings() {
    let server = TlsServer::start("hostssl all all 127.0.0.1/32 scram-sha-256\n").await;
    server.encrypted("localhost", "sslmode=require").await.unwrap();
    // From a password file, with a password that needs escaping in it.
    let file = server.directory.path().join("pass");
    std::fs::write(&file, "localhost:*:postgres:postgres:se\\:cr\\\\et\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let options = LogicalOptions { bin_directory: Some(Server::Fifteen.bin()), ..LogicalOptions::default() };
    let config = server.config("localhost", "sslmode=verify-full&sslrootcert={dir}/root.crt&passfile={dir}/pass", None);
    let exchange = Exchange::default();
    exchange.capture(&PostgresLogical::new(config, options), 1).await.unwrap();
    assert!(exchange.bytes("schema.dump").starts_with(b"PGDMP"));
}
