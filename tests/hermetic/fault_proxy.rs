//! The proxy that other tests break connections with does what it says.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::support::fault_proxy::{Direction, Fault, FaultProxy};

const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(10);

/// A server that sends back what it gets, and counts it.
async fn echo() -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let received = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&received);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    counter.fetch_add(read as u64, Ordering::SeqCst);
                    if stream.write_all(&buffer[..read]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (address, received)
}

async fn proxy() -> (FaultProxy, Arc<AtomicU64>) {
    let (target, received) = echo().await;
    (FaultProxy::start(target).await.unwrap(), received)
}

/// Sends `bytes` and reads as many back.
async fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(bytes).await?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).await?;
    Ok(back)
}

#[tokio::test]
async fn without_a_fault_bytes_pass_unchanged_both_ways() {
    let (proxy, received) = proxy().await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let sent: Vec<u8> = (0..60_000_u32).map(|n| (n % 251) as u8).collect();
    assert_eq!(timeout(LONG, exchange(&mut client, &sent)).await.unwrap().unwrap(), sent);
    assert_eq!(received.load(Ordering::SeqCst), 60_000);
}

#[tokio::test]
async fn refusing_resets_open_connections_and_takes_no_new_ones_until_it_is_lifted() {
    let (proxy, _) = proxy().await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    exchange(&mut client, b"hello").await.unwrap();
    proxy.set(Fault::Refuse).await;
    assert_eq!(TcpStream::connect(proxy.address()).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let error = timeout(LONG, client.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    proxy.set(Fault::Pass).await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(exchange(&mut client, b"again").await.unwrap(), b"again");
}

#[tokio::test]
async fn an_upload_is_reset_after_so_many_bytes() {
    let (proxy, received) = proxy().await;
    proxy.set(Fault::Reset { direction: Direction::ToTarget, after_bytes: 1000 }).await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let error = timeout(LONG, exchange(&mut client, &[7; 5000])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(received.load(Ordering::SeqCst) <= 1000);
}

#[tokio::test]
async fn an_answer_is_lost_though_the_server_got_the_request() {
    let (proxy, received) = proxy().await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    exchange(&mut client, b"12345").await.unwrap();
    // The connection is open already, as one of a client's pool.
    proxy.set(Fault::Reset { direction: Direction::FromTarget, after_bytes: 0 }).await;
    let error = timeout(LONG, exchange(&mut client, b"67890")).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(received.load(Ordering::SeqCst), 10);
}

#[tokio::test]
async fn a_truncated_answer_ends_as_if_that_were_all() {
    let (proxy, _) = proxy().await;
    proxy.set(Fault::Truncate { direction: Direction::FromTarget, after_bytes: 3 }).await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    client.write_all(b"abcdef").await.unwrap();
    let mut back = Vec::new();
    timeout(LONG, client.read_to_end(&mut back)).await.unwrap().unwrap();
    assert_eq!(back, b"abc");
}

#[tokio::test]
async fn a_stalled_connection_stays_open_and_goes_on_when_the_fault_is_lifted() {
    let (proxy, _) = proxy().await;
    proxy.set(Fault::Stall { direction: Direction::FromTarget, after_bytes: 2 }).await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    client.write_all(b"abcdef").await.unwrap();
    let mut back = [0; 2];
    timeout(LONG, client.read_exact(&mut back)).await.unwrap().unwrap();
    assert!(timeout(SHORT, client.read_u8()).await.is_err(), "a third byte came through, or the connection ended");
    proxy.set(Fault::Pass).await;
    let mut rest = [0; 4];
    timeout(LONG, client.read_exact(&mut rest)).await.unwrap().unwrap();
    assert_eq!((&back, &rest), (b"ab", b"cdef"));
}

#[tokio::test]
async fn a_delay_holds_back_requests_and_answers() {
    let (proxy, _) = proxy().await;
    proxy.set(Fault::Delay(SHORT)).await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let started = Instant::now();
    timeout(LONG, exchange(&mut client, b"x")).await.unwrap().unwrap();
    assert!(started.elapsed() >= SHORT * 2, "{:?}", started.elapsed());
}

#[tokio::test]
async fn bytes_are_counted_from_the_moment_the_fault_is_set() {
    let (proxy, _) = proxy().await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    exchange(&mut client, &[1; 500]).await.unwrap();
    proxy.set(Fault::Truncate { direction: Direction::FromTarget, after_bytes: 10 }).await;
    client.write_all(&[2; 20]).await.unwrap();
    let mut back = Vec::new();
    timeout(LONG, client.read_to_end(&mut back)).await.unwrap().unwrap();
    assert_eq!(back, [2; 10]);
}

#[tokio::test]
async fn a_black_hole_answers_nobody_and_nothing_moves_until_it_is_lifted() {
    let (proxy, _) = proxy().await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    exchange(&mut client, b"hello").await.unwrap();
    proxy.set(Fault::Blackhole).await;
    assert!(timeout(SHORT, TcpStream::connect(proxy.address())).await.is_err(), "a connection came about, or was refused");
    assert!(timeout(SHORT, exchange(&mut client, b"lost")).await.is_err());
    proxy.set(Fault::Pass).await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(exchange(&mut client, b"again").await.unwrap(), b"again");
}

#[tokio::test]
async fn a_fault_for_one_connection_spares_the_others() {
    let (proxy, _) = proxy().await;
    proxy.set_once(Fault::Reset { direction: Direction::ToTarget, after_bytes: 2 }).await;
    let mut first = TcpStream::connect(proxy.address()).await.unwrap();
    let mut second = TcpStream::connect(proxy.address()).await.unwrap();
    timeout(LONG, exchange(&mut first, b"hello")).await.unwrap().unwrap_err();
    assert_eq!(exchange(&mut second, b"hello").await.unwrap(), b"hello");
    assert_eq!(proxy.accepted(), 2);
}
