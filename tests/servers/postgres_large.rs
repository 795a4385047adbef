//! A row set of more than a gigabyte, there and back through the program: split by ctid ranges.

use crate::{postgres::Server, support::agent::Agent};

/// Rows of about 1,100 bytes as text: some 1.1 GB.
const ROWS: u32 = 1_000_000;
#[test]
fn a_gigabyte_of_rows_comes_back_the_same() {
    let database = Server::Eighteen.database();
    database.psql(&format!(
        "CREATE TABLE big (id bigint PRIMARY KEY, hash text NOT NULL, message text NOT NULL); \
         ALTER TABLE big ALTER message SET STORAGE PLAIN; \
         INSERT INTO big SELECT n, md5(n::text), repeat(md5((n * 7)::text), 33) FROM generate_series(1, {ROWS}) n"
    ));
    let agent = Agent::new("");
    let (url, bin) = (database.server.url(&database.name), database.server.bin());
    agent.write_policy(&format!(
        "[[source]]\nname = \"db\"\nkind = \"postgres\"\nmethod = \"logical\"\nurl = \"{url}\"\nbin_directory = \"{}\"\n",
        bin.display()
    ));
    agent.run(["init", "policy.toml", "--create"]).succeeds();
    let report = agent.run(["backup", "policy.toml", "--json"]).succeeds().json();
    let read = report[0]["sources"][0]["bytes_read"].as_u64().unwrap();
    assert!(read > 1_000_000_000, "{read} bytes were read");
    let copy = format!("{}_copy", database.name);
    let target = database.server.url(&copy);
    let restore = ["restore", "policy.toml", "latest", "--source", "db", "--to", &target, "--bin-directory", bin.to_str().unwrap()];
    agent.operator(restore).succeeds();
    let digest = "SELECT count(*), sum(hashtextextended(id || hash || message, 0)) FROM big";
    let (expected, actual) = (database.psql(digest), database.server.psql(&copy, digest));
    database.server.psql("postgres", &format!("DROP DATABASE \"{copy}\""));
    assert_eq!(actual, expected);
}
