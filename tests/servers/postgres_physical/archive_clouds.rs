//! The log on the stores of the providers: what is pushed there comes back, and absence and gaps are told there as on a filesystem.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use super::{
    archive::{Archive, base, load},
    cluster::{Cluster, give},
};
use crate::{postgres::Server, support::server};

/// A secret as a file of the server's user.
pub(super) fn secret(archive: &Archive, file: &str, variable: &str) -> String {
    let path = archive.path(file);
    fs::write(&path, server(variable)).unwrap();
    // The file is root's if the tests are; the server's user reads it, and nobody else would trust one that others may write.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    give(&path);
    format!("{{ file = \"{}\" }}", archive.text(file))
}

fn newest(archive: &Archive) -> (String, u64) {
    let status = archive.farshore(&["wal", "status", &archive.text("policy.toml"), "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap_or_else(|_| panic!("{status:?}"));
    let last = json["sites"][0]["systems"][0]["timelines"][0]["last"].as_str().unwrap_or_default().to_owned();
    (last, json["spool"]["files"].as_u64().unwrap())
}

/// Waits until everything up to the present place of the log is at the site.
pub(super) fn stored_up_to(archive: &Archive, primary: &Cluster) {
    let last = primary.psql("postgres", "SELECT pg_walfile_name(pg_switch_wal())");
    let began = Instant::now();
    while newest(archive) != (last.clone(), 0) {
        assert!(began.elapsed() < Duration::from_secs(120), "{last}: {:?}\n{}", newest(archive), primary.log());
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn comes_back(archive: &Archive) {
    let primary = archive.primary(Server::Eighteen);
    primary.psql("postgres", "CREATE TABLE load (id int, filler text); CREATE TABLE markers (id int)");
    let mut copy = base(&primary, &[&archive.restore_command(), "archive_mode=off", "hot_standby=off"]);
    (1..=3).for_each(|round| load(&primary, round));
    stored_up_to(archive, &primary);
    copy.start();
    assert_eq!(copy.psql("postgres", "SELECT max(id), count(*) FROM markers"), "3|3");
    assert_eq!(copy.psql("postgres", "SELECT count(*) FROM load"), "90000");
    assert!(copy.log().matches("restored log file").count() >= 3, "{}", copy.log());
}

#[test]
fn a_log_that_is_archived_on_s3_is_replayed_to_the_end() {
    comes_back(&Archive::at("limit = \"256MiB\"", |archive| {
        format!(
            "{{ kind = \"s3\", bucket = \"farshore-system\", prefix = \"log-{:016x}\", endpoint = \"{}\", path_style = true, access_key = \"{}\", secret_key = {} }}",
            rand::random::<u64>(),
            server("FARSHORE_TEST_S3_ENDPOINT"),
            server("FARSHORE_TEST_S3_ACCESS_KEY"),
            secret(archive, "s3.secret", "FARSHORE_TEST_S3_SECRET_KEY")
        )
    }));
}

#[test]
fn a_log_that_is_archived_on_azure_is_replayed_to_the_end() {
    comes_back(&Archive::at("limit = \"256MiB\"", |archive| {
        format!(
            "{{ kind = \"azure\", account = \"{}\", container = \"farshore-log-{:016x}\", endpoint = \"{}\", account_key = {} }}",
            server("FARSHORE_TEST_AZURE_ACCOUNT"),
            rand::random::<u64>(),
            server("FARSHORE_TEST_AZURE_ENDPOINT"),
            secret(archive, "azure.secret", "FARSHORE_TEST_AZURE_KEY")
        )
    }));
}
