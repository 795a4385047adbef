//! What a capture refuses, and that it is one consistent snapshot.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use farshore::sources::{
    SourceError,
    postgres::{LogicalOptions, PostgresConfig, PostgresLogical, tables::SegmentAttributes},
};

use crate::{postgres::Server, support::database_exchange::Exchange};

async fn refusal(source: PostgresLogical) -> SourceError {
    let exchange = Exchange::default();
    let error = exchange.capture(&source, 2).await.unwrap_err();
    assert!(exchange.all_entries().is_empty(), "a refused capture hands nothing over");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_the_role_cannot_read_is_named_with_the_grant_that_is_missing() {
    let database = Server::Fifteen.database();
    let role = Server::Fifteen.fresh_name("reader");
    database.psql(&format!(
        "CREATE ROLE {role} LOGIN; CREATE TABLE open (id int); CREATE TABLE closed (id serial); GRANT SELECT ON open TO {role}; \
         GRANT SELECT ON SEQUENCE closed_id_seq TO {role}"
    ));
    let error = refusal(database.source_as(&role)).await;
    assert!(matches!(&error, SourceError::Denied { subject, .. } if subject == "\"public\".\"closed\""), "{error:?}");
    let wanted = format!("GRANT SELECT ON TABLE \"public\".\"closed\" TO \"{role}\"");
    assert!(error.to_string().contains(&wanted), "{error}");
    // The statement it names is enough.
    database.psql(&wanted);
    Exchange::default().capture(&database.source_as(&role), 2).await.unwrap();
    database.psql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_from_which_row_level_security_hides_rows_is_refused() {
    let database = Server::Fifteen.database();
    let role = Server::Fifteen.fresh_name("hidden");
    database.psql(&format!(
        "CREATE ROLE {role} LOGIN; CREATE TABLE rows (id int); ALTER TABLE rows ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY all_rows ON rows USING (true); GRANT SELECT ON rows TO {role}"
    ));
    let error = refusal(database.source_as(&role)).await;
    assert!(matches!(error, SourceError::Denied { .. }), "{error:?}");
    assert!(error.to_string().contains(&format!("ALTER ROLE \"{role}\" BYPASSRLS")), "{error}");
    database.psql(&format!("ALTER ROLE {role} BYPASSRLS"));
    Exchange::default().capture(&database.source_as(&role), 2).await.unwrap();
    database.psql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_that_the_role_cannot_read_is_named() {
    let database = Server::Fifteen.database();
    let role = Server::Fifteen.fresh_name("lo");
    database.psql(&format!("CREATE ROLE {role} LOGIN; SELECT lo_create(777)"));
    let error = refusal(database.source_as(&role)).await;
    assert!(error.to_string().contains(&format!("GRANT SELECT ON LARGE OBJECT 777 TO \"{role}\"")), "{error}");
    database.psql(&format!("DROP ROLE {role}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pg_dump_older_than_the_server_is_refused_with_the_package_to_install() {
    let database = Server::Eighteen.database();
    let options = LogicalOptions { bin_directory: Some(Server::Fifteen.bin()), ..LogicalOptions::default() };
    let error = refusal(PostgresLogical::new(database.config(), options)).await;
    assert!(matches!(error, SourceError::Program { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("version 15 is older than the server's 18") && text.contains("postgresql-client-18"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_and_a_database_that_is_not_there_are_told_apart() {
    let nobody = PostgresConfig::parse("postgres://me:secret@127.0.0.1:1/app?connect_timeout=2", None).unwrap();
    let error = refusal(PostgresLogical::new(nobody, LogicalOptions::default())).await;
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("check host, port") && !format!("{error} {error:?}").contains("secret"), "{error:?}");
    let absent = Server::Fifteen.absent_database();
    let error = refusal(absent.source()).await;
    assert!(matches!(error, SourceError::Unfit { .. }), "{error:?}");
    assert!(error.to_string().contains("there is no database"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_during_a_capture_never_change_the_sum() {
    let database = Server::Fifteen.database();
    database.psql(
        "CREATE TABLE a (id int PRIMARY KEY, money bigint, filler text); CREATE TABLE b (LIKE a INCLUDING ALL);
         INSERT INTO a SELECT n, 1000, repeat('x', 500) FROM generate_series(1, 4000) n; INSERT INTO b SELECT * FROM a",
    );
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..2)
        .map(|writer| {
            let (stop, server, name) = (stop.clone(), database.server, database.name.clone());
            std::thread::spawn(move || {
                let mut rounds = 0;
                while !stop.load(Ordering::SeqCst) {
                    let transfer = "DO $$ DECLARE from_id int; to_id int; BEGIN FOR n IN 1..50 LOOP \
                                    from_id := 1 + random() * 3999; to_id := 1 + random() * 3999; \
                                    UPDATE a SET money = money - n WHERE id = from_id; UPDATE b SET money = money + n WHERE id = to_id; \
                                    COMMIT; END LOOP; END $$";
                    server.psql(&name, transfer);
                    rounds += 1;
                }
                (writer, rounds)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    for _ in 0..3 {
        // Slow enough that the second worker, which reads the schema first, still finds segments to read much later.
        let exchange = Exchange::slow(Duration::from_millis(60));
        let options = LogicalOptions { segment_bytes: 256 << 10, ..database.options() };
        let captured = exchange.capture(&PostgresLogical::new(database.config(), options), 2).await.unwrap();
        let (mut sum, mut rows) = (0_i64, 0);
        let tables: Vec<_> = exchange.all_entries().into_iter().filter(|entry| entry.kind == "table").collect();
        assert!(tables.len() > 4, "the tables are read in several segments");
        for entry in &tables {
            let text = String::from_utf8(exchange.bytes(&entry.display_path())).unwrap();
            let attributes: SegmentAttributes = entry.attributes().unwrap();
            assert_eq!(attributes.rows as usize, text.lines().count());
            sum += text.lines().map(|line| line.split('\t').nth(1).unwrap().parse::<i64>().unwrap()).sum::<i64>();
            rows += attributes.rows;
        }
        assert_eq!((sum, rows), (8_000_000, 8000));
        assert_eq!(captured.facts["rows"], 8000);
    }
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        let (_, rounds) = writer.join().unwrap();
        assert!(rounds > 0, "somebody wrote meanwhile");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_locked_by_somebody_else_ends_the_capture_with_advice() {
    let database = Server::Fifteen.database();
    database.psql("CREATE TABLE busy (id int)");
    let (server, name) = (database.server, database.name.clone());
    let holder = std::thread::spawn(move || server.psql(&name, "BEGIN; LOCK TABLE busy; SELECT pg_sleep(3)"));
    while database.psql("SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = 'busy'::regclass") == "0" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let options = LogicalOptions { lock_timeout: Duration::from_millis(100), ..database.options() };
    let error = refusal(PostgresLogical::new(database.config(), options)).await;
    assert!(error.to_string().contains("somebody holds an exclusive lock"), "{error}");
    holder.join().unwrap();
}
