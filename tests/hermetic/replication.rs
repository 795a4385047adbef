//! A replication connection to what is no PostgreSQL server, or a hostile one.

use std::time::Duration;

use farshore::sources::{
    SourceError,
    postgres::{
        PostgresConfig,
        physical::{
            Lsn,
            replication::{Event, Progress, Replication, Started},
        },
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use secrecy::SecretString;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::support::soak;

/// A message in its frame.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap() + 4;
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

fn row(columns: &[&str]) -> Vec<u8> {
    let mut body = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
    for column in columns {
        body.extend(u32::try_from(column.len()).unwrap().to_be_bytes());
        body.extend(column.as_bytes());
    }
    message(b'D', &body)
}

fn log(at: u64, bytes: &[u8]) -> Vec<u8> {
    message(b'd', &[&b"w"[..], &at.to_be_bytes(), &[0; 16], bytes].concat())
}

fn error(fields: &str) -> Vec<u8> {
    message(b'E', fields.as_bytes())
}

const ACCEPTED: &[u8] = b"R\0\0\0\x08\0\0\0\0";
const READY: &[u8] = b"Z\0\0\0\x05I";

fn logged_in() -> Vec<u8> {
    [ACCEPTED, &message(b'S', b"server_version\x0018\0"), &message(b'K', &[1; 8]), READY].concat()
}

fn identified() -> Vec<u8> {
    [logged_in(), row(&["7", "1", "0/1000028", ""]), message(b'C', b"IDENTIFY_SYSTEM\0"), READY.to_vec()].concat()
}

/// A conversation as it should be.
fn sound() -> Vec<u8> {
    let alive = message(b'd', &[&b"k"[..], &[0; 16], &[1]].concat());
    let streamed = [message(b'W', &[0, 0, 0]), log(0x100_0000, b"some of the log"), alive, message(b'c', b"")];
    [identified(), streamed.concat()].concat()
}

/// What comes of speaking with a server that says this, whatever it is told, and then hangs up.
async fn speak(says: Vec<u8>) -> Result<Vec<Event>, SourceError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let (mut reading, mut writing) = client.split();
        let _ = writing.write_all(&says).await;
        let _ = writing.shutdown().await;
        let _ = tokio::time::timeout(Duration::from_secs(5), reading.read_to_end(&mut Vec::new())).await;
    });
    let url = format!("postgres://farshore@127.0.0.1:{port}/postgres?sslmode=disable&connect_timeout=2");
    let config = PostgresConfig::parse(&url, Some(SecretString::from("se:cr\\et"))).unwrap();
    let speaking = async {
        let mut replication = Replication::connect(&config, "farshore").await?;
        replication.identify().await?;
        if replication.start("slot", Lsn(0x100_0000), 1).await? == Started::Ended {
            return Ok(Vec::new());
        }
        let mut events = Vec::new();
        loop {
            let event = replication.next().await?;
            let is_last = event == Event::Ended;
            events.push(event);
            if is_last || events.len() > 100 {
                return Ok(events);
            }
            let progress = Progress { received: Lsn(1), stored: Lsn(0) };
            // Who is not there any more is met by the next read.
            let _ = replication.report(progress, chrono::DateTime::UNIX_EPOCH, false).await;
        }
    };
    let came = tokio::time::timeout(Duration::from_secs(20), speaking).await.expect("it comes to an end");
    server.abort();
    if let Err(error) = &came {
        assert!(!format!("{error} {error:?}").contains("cr\\et"), "{error:?}");
    }
    came
}

#[tokio::test]
async fn a_server_that_says_what_it_should_is_understood() {
    let events = speak(sound()).await.unwrap();
    let piece = Event::Log { at: Lsn(0x100_0000), bytes: "some of the log".into() };
    assert_eq!(events, [piece, Event::Alive { is_asked: true }, Event::Ended]);
    // A timeline that was left just there: an answer, and no stream.
    let columns = message(b'T', &[0, 0]);
    let left = [identified(), columns, row(&["2", "0/1000000"]), message(b'C', b"START_STREAMING\0"), READY.to_vec()].concat();
    assert_eq!(speak(left).await.unwrap(), []);
}

#[tokio::test]
async fn what_makes_no_sense_is_an_error_at_every_step_and_never_more_than_that() {
    let huge = |kind: u8| [&[kind][..], &0x7fff_ffff_u32.to_be_bytes(), b"x"].concat();
    let begun = || [identified(), message(b'W', &[0, 0, 0])].concat();
    let sasl = |mechanisms: &str| message(b'R', &[&10_u32.to_be_bytes()[..], mechanisms.as_bytes()].concat());
    let goes_on = |text: &str| message(b'R', &[&11_u32.to_be_bytes()[..], text.as_bytes()].concat());
    let table: [(&str, Vec<u8>, &str); 24] = [
        ("nothing", Vec::new(), "closed"),
        ("another protocol", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "makes no sense"),
        ("a length that cannot be", b"R\0\0\0\x03".to_vec(), "makes no sense"),
        ("a long message", huge(b'R'), "makes no sense"),
        ("an unknown proof", message(b'R', &99_u32.to_be_bytes()), "error communicating"),
        ("another proof", message(b'R', &7_u32.to_be_bytes()), "not known here"),
        ("no mechanism", sasl("\0"), "no SCRAM-SHA-256"),
        ("mechanisms without an end", sasl("SCRAM-SHA-256"), "error communicating"),
        ("no proof of its own", [sasl("SCRAM-SHA-256\0\0"), ACCEPTED.to_vec()].concat(), "no place here"),
        ("a foreign nonce", [sasl("SCRAM-SHA-256\0\0"), goes_on("r=x,s=AAAA,i=4096")].concat(), "authentication error"),
        ("a message without words", [sasl("SCRAM-SHA-256\0\0"), goes_on("")].concat(), "authentication error"),
        ("an error without a code", error("SERROR\0Mno\0\0"), "makes no sense"),
        ("an error cut off", error("SERROR\0C280"), "makes no sense"),
        ("a pooler", error("SERROR\0C08P01\0Munsupported startup parameter: replication\0\0"), "pooler"),
        ("no end of the login", ACCEPTED.repeat(3), "no place here"),
        ("no row", [logged_in(), READY.to_vec()].concat(), "makes no sense"),
        ("a row without columns", [logged_in(), row(&[]), READY.to_vec()].concat(), "makes no sense"),
        ("a row that is longer than it is", [logged_in(), message(b'D', b"\0\x01\0\0\xff\xff7"), READY.to_vec()].concat(), ""),
        ("rows without an end", [logged_in(), row(&["7"]).repeat(1000)].concat(), "no place here"),
        ("no stream", [identified(), READY.to_vec()].concat(), "no place here"),
        ("a slot that is in use", [identified(), error("SERROR\0C55006\0Mslot is active\0\0")].concat(), "slot is active"),
        ("a long piece", [begun(), huge(b'd')].concat(), "makes no sense"),
        ("a piece that is none", [begun(), message(b'd', b"z")].concat(), "makes no sense"),
        ("a place that cannot be", [begun(), log(u64::MAX, b"x")].concat(), "makes no sense"),
    ];
    for (what, says, words) in table {
        let error = speak(says).await.expect_err(what).to_string();
        assert!(error.contains(words), "{what}: {error}");
    }
}

#[tokio::test]
async fn no_mutation_of_a_conversation_does_more_than_fail() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..soak(300) {
        let mut says = sound();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..says.len().max(1));
            if says.is_empty() {
                break;
            }
            match random.random_range(0..4) {
                0 => says[at] = random.random(),
                1 => says[at] ^= 1 << random.random_range(0..8),
                2 => drop(says.remove(at)),
                _ => says.truncate(at.max(1)),
            }
        }
        // Whatever it comes to: it comes to something.
        let _ = speak(says).await;
    }
}
