//! A connection pooler in transaction mode between us and the server is recognised.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::{Arc, Mutex};

use farshore::{
    clock::SystemClock,
    progress::CheckOutcome,
    sources::{
        Capture, Examination, SourceError,
        postgres::{
            PostgresConfig, PostgresLogical,
            physical::{PhysicalOptions, PostgresPhysical},
        },
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
};

use crate::{
    postgres::{Database, Server},
    support::{database_exchange::Exchange, server},
};

/// One message of the protocol: its type and everything after it.
async fn message(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Vec<u8>> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
    let mut whole = head.to_vec();
    whole.resize(length + 1, 0);
    stream.read_exact(&mut whole[5..]).await.ok()?;
    Some(whole)
}

/// A connection to the real server, logged in.
async fn backend(socket: &str, database: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let parameters = format!("user\0postgres\0database\0{database}\0\0");
    let mut startup = (parameters.len() as u32 + 8).to_be_bytes().to_vec();
    startup.extend_from_slice(&196_608_u32.to_be_bytes());
    startup.extend_from_slice(parameters.as_bytes());
    stream.write_all(&startup).await.unwrap();
    while message(&mut stream).await.unwrap()[0] != b'Z' {}
    stream
}

type Pool = Arc<Mutex<Vec<UnixStream>>>;

/// Lends a client a server connection for each transaction, the one used last first, as PgBouncer does.
async fn serve(mut client: TcpStream, pool: Pool) {
    let length = client.read_u32().await.unwrap() as usize;
    let mut startup = vec![0; length - 4];
    client.read_exact(&mut startup).await.unwrap();
    client.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").await.unwrap();
    let mut lent: Option<UnixStream> = None;
    while let Some(request) = message(&mut client).await {
        if request[0] == b'X' {
            return;
        }
        let mut stream = lent.take().unwrap_or_else(|| pool.lock().unwrap().pop().unwrap());
        stream.write_all(&request).await.unwrap();
        // These two are answered up to "ready"; what follows from the others comes with the next Sync.
        let mut idle = false;
        if request[0] == b'Q' || request[0] == b'S' {
            loop {
                let answer = message(&mut stream).await.unwrap();
                client.write_all(&answer).await.unwrap();
                if answer[0] == b'Z' {
                    idle = answer[5] == b'I';
                    break;
                }
            }
        }
        if idle {
            pool.lock().unwrap().push(stream);
        } else {
            lent = Some(stream);
        }
    }
}

/// A pooler in front of a database; returns its port.
async fn pooler(database: &Database) -> u16 {
    let url = server("FARSHORE_TEST_POSTGRES_15_URL");
    let parameter = |name: &str| url.split(['?', '&']).find_map(|part| part.strip_prefix(name)).unwrap().to_owned();
    let socket = format!("{}/.s.PGSQL.{}", parameter("host="), parameter("port="));
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(backend(&socket, &database.name).await);
    }
    let pool: Pool = Arc::new(Mutex::new(streams));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, pool.clone()));
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_transaction_mode_is_refused() {
    let database = Server::Fifteen.database();
    let port = pooler(&database).await;
    let url = format!("postgres://postgres@127.0.0.1:{port}/{}?sslmode=disable", database.name);
    let source = PostgresLogical::new(PostgresConfig::parse(&url, None).unwrap(), database.options());
    let error = Exchange::default().capture(&source, 2).await.unwrap_err();
    assert!(matches!(error, SourceError::Unfit { .. }), "{error:?}");
    assert!(error.to_string().contains("pooler in transaction mode"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_front_of_a_cluster_is_refused_and_an_examination_tells_of_it() {
    let database = Server::Fifteen.database();
    let port = pooler(&database).await;
    let url = format!("postgres://postgres@127.0.0.1:{port}/{}?sslmode=disable", database.name);
    let source = PostgresPhysical::new(PostgresConfig::parse(&url, None).unwrap(), PhysicalOptions::default());
    let error = Exchange::default().capture(&source, 2).await.unwrap_err();
    assert!(matches!(error, SourceError::Unfit { .. }), "{error:?}");
    assert!(error.to_string().contains("pooler in transaction mode"), "{error}");
    let findings = source.examine(&Examination { clock: SystemClock::shared(), scratch_drills: false }).await;
    let told = findings.iter().find(|finding| finding.name == "pooler").unwrap();
    assert_eq!(told.outcome, CheckOutcome::Failed, "{findings:#?}");
    assert!(told.found.contains("give the server's own host and port"), "{told:?}");
}
