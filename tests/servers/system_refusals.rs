//! Real servers that refuse: each with one error, its exit code and the next step, and without a point.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use crate::{postgres::Server, postgres_tls::TlsServer, support::server, system::Protected};

fn closed_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn a_site_that_refuses_or_is_away_is_told_within_seconds() {
    let mut protected = Protected::new(Server::Fifteen);
    let files = protected.agent.files_source();
    let site = protected.store_table("site");
    protected.write_policy_of(&files, &site);
    protected.agent.init();

    let missing = site.replace("farshore-system", &format!("farshore-{:016x}", rand::random::<u64>()));
    protected.write_policy_of(&files, &missing);
    for words in [["backup", "policy.toml"], ["points", "policy.toml"], ["init", "policy.toml"]] {
        protected.agent.run(words).fails(6, &["no such bucket", "farshore init --create"]);
    }

    let away = site.replace(&server("FARSHORE_TEST_S3_ENDPOINT"), &format!("http://{}", closed_port()));
    protected.write_policy_of(&files, &away);
    for words in [["backup", "policy.toml"], ["init", "policy.toml"]] {
        let started = Instant::now();
        protected.agent.run(words).fails(6, &["not reachable", "check the endpoint"]);
        assert!(started.elapsed() < Duration::from_secs(25), "{words:?} took {:?}", started.elapsed());
    }

    protected.write_policy_of(&files, &site);
    protected.agent.set("S3_SECRET", "not-the-secret");
    let refused =
        protected.agent.run(["backup", "policy.toml"]).fails(6, &["the credentials were refused", "check the access key"]);
    assert!(!refused.stderr.contains("not-the-secret"));
    protected.agent.set("S3_SECRET", server("FARSHORE_TEST_S3_SECRET_KEY"));
    assert!(protected.agent.points().is_empty());
}

#[test]
fn a_bucket_source_that_is_away_makes_no_point() {
    let protected = Protected::new(Server::Fifteen);
    protected.agent.init();
    let away = protected.store_table("primary").replace(&server("FARSHORE_TEST_S3_ENDPOINT"), &format!("http://{}", closed_port()));
    let source = format!("[[source]]\nname = \"attachments\"\nkind = \"bucket\"\nstore = {away}\n");
    let sources = format!("{}\n{source}", protected.database_source(&protected.url(), ""));
    protected.write_policy_of(&sources, &protected.store_table("site"));
    protected.agent.run(["backup", "policy.toml"]).fails(5, &["source attachments", "not reachable", "check the endpoint"]);
    assert!(protected.agent.points().is_empty());
}

#[test]
fn a_database_that_cannot_be_captured_makes_no_point() {
    let protected = Protected::new(Server::Eighteen);
    let (agent, database) = (&protected.agent, &protected.database);
    agent.init();
    let site = protected.store_table("site");
    let try_with = |source: String, said: &[&str]| {
        protected.write_policy_of(&source, &site);
        let outcome = agent.run(["backup", "policy.toml"]).fails(5, said);
        assert!(agent.points().is_empty());
        outcome
    };
    // pg_dump older than the server.
    let old = protected.database_source(&protected.url(), "");
    let old = old.replace(database.server.bin().to_str().unwrap(), Server::Fifteen.bin().to_str().unwrap());
    try_with(old, &["source db", "version 15 is older than the server's 18", "postgresql-client-18"]);
    // A role that cannot see all rows.
    let role = database.server.fresh_name("hidden");
    database.psql(&format!(
        "CREATE ROLE {role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}; GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {role}; \
         ALTER TABLE posts ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON posts USING (id < 10)"
    ));
    let url = database.server.url_as(&role, &database.name);
    try_with(protected.database_source(&url, ""), &["source db", &format!("ALTER ROLE \"{role}\" BYPASSRLS")]);
    database.psql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    // No such database, and nobody at home.
    try_with(protected.database_source(&database.server.url("no_such_database"), ""), &["source db", "no_such_database"]);
    let away = format!("postgres://me@{}/app", closed_port());
    let started = Instant::now();
    try_with(protected.database_source(&away, ""), &["source db", "not reachable"]);
    assert!(started.elapsed() < Duration::from_secs(25));
}

#[test]
fn a_wrong_database_password_is_told_and_not_repeated() {
    let mut protected = Protected::new(Server::Fifteen);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(TlsServer::start("host all all all scram-sha-256\n"));
    protected.agent.init();
    protected.agent.set("PASSWORD", "wrong-and-secret");
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=require", server.port());
    let source = protected.database_source(&url, "password = { env = \"PASSWORD\" }");
    protected.write_policy_of(&source, &protected.store_table("site"));
    let refused = protected.agent.run(["backup", "policy.toml"]).fails(5, &["source db", "the credentials were refused"]);
    assert!(!refused.stderr.contains("wrong-and-secret"));
    assert!(protected.agent.points().is_empty());
    protected.agent.set("PASSWORD", "se:cr\\et");
    protected.agent.backup();
}

#[test]
fn a_backup_killed_during_the_database_leaves_nothing_behind_there() {
    let protected = Protected::new(Server::Fifteen);
    let (agent, database) = (&protected.agent, &protected.database);
    agent.init();
    database.psql("INSERT INTO posts (message) SELECT repeat(md5(n::text), 400) FROM generate_series(1, 20000) n");
    let sessions = || {
        let query =
            format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND pid <> pg_backend_pid()", database.name);
        database.server.psql("postgres", &query)
    };
    for _ in 0..3 {
        let mut child = agent.command(["backup", "policy.toml"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        while sessions() == "0" {
            assert!(started.elapsed() < Duration::from_secs(20) && child.try_wait().unwrap().is_none(), "no session was seen");
        }
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        let killed = Instant::now();
        while sessions() != "0" {
            assert!(killed.elapsed() < Duration::from_secs(20), "sessions outlive the agent: {}", sessions());
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(agent.points().is_empty());
    }
    assert_eq!(database.psql("SELECT count(*) FROM pg_replication_slots"), "0");
    assert_eq!(database.psql("SELECT count(*) FROM pg_prepared_xacts"), "0");
    database.psql("ALTER TABLE posts ADD COLUMN more int");
    agent.backup();
    agent.operator(["verify", "policy.toml", "--read-data"]).succeeds();
}
