//! The S3 store against servers that misbehave: a few bytes over a socket each, as no real server would send them on demand.

use std::time::Duration;

use bytes::Bytes;
use farshore::stores::{GetOptions, PutOptions, S3Config, S3Store, Store, StoreError};
use futures_util::TryStreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// A server that reads each request's head (and 100 ms of its body), sends `answer`, and then closes or holds the connection.
async fn server(answer: String, hold: bool) -> (S3Store, tokio::sync::mpsc::UnboundedReceiver<String>) {
    server_by(move |_| answer.clone(), hold).await
}

/// The same, with what it answers to a head (in small letters).
async fn server_by(
    answer: impl Fn(&str) -> String + Clone + Send + 'static,
    hold: bool,
) -> (S3Store, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (heads, received) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let (answer, heads) = (answer.clone(), heads.clone());
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    let mut some = [0; 4096];
                    let read = connection.read(&mut some).await.unwrap_or(0);
                    if read == 0 {
                        return;
                    }
                    head.extend_from_slice(&some[..read]);
                }
                let head = String::from_utf8_lossy(&head).to_lowercase();
                connection.write_all(answer(&head).as_bytes()).await.unwrap();
                connection.flush().await.unwrap();
                heads.send(head).unwrap();
                if hold {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    let config = S3Config {
        bucket: "b".to_owned(),
        prefix: "p".to_owned(),
        endpoint: Some(endpoint),
        path_style: true,
        access_key: Some("key".to_owned()),
        secret_key: Some("secret".into()),
        ..S3Config::default()
    };
    (S3Store::connect(config).await.unwrap(), received)
}

fn ok(length: usize, more: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nETag: \"e\"\r\nLast-Modified: Mon, 23 Nov 2026 20:00:00 GMT\r\n{more}\r\n{body}"
    )
}

async fn read(store: &S3Store, options: GetOptions) -> Result<Vec<Bytes>, StoreError> {
    store.get("k", options).await?.body.try_collect().await
}

#[tokio::test]
async fn a_body_that_ends_short_is_an_error_and_transient() {
    let (store, _heads) = server(ok(100, "Connection: close\r\n", "only this"), false).await;
    let error = read(&store, GetOptions::default()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn a_body_that_does_not_match_the_stored_checksum_is_corrupt() {
    let wrong = "x-amz-checksum-sha256: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n";
    let (store, _heads) = server(ok(4, wrong, "body"), true).await;
    let error = read(&store, GetOptions::default()).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_ignores_the_range_is_caught() {
    let (store, _heads) = server(ok(4, "", "body"), true).await;
    let error = read(&store, GetOptions { range: Some(1..3), ..GetOptions::default() }).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn a_stalled_body_is_given_up_after_twenty_seconds() {
    let (store, _heads) = server(ok(100, "", "some"), true).await;
    let mut body = store.get("k", GetOptions::default()).await.unwrap().body;
    assert_eq!(body.try_next().await.unwrap().unwrap(), "some");
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let error = body.try_next().await.unwrap_err();
    assert!(
        matches!(error, StoreError::Unavailable { .. }) && error.to_string().contains("no byte came for 20 s, after 4"),
        "{error}"
    );
    assert!(begun.elapsed() < Duration::from_secs(21));
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let (store, mut heads) = server(String::new(), true).await;
    let asked = tokio::spawn(async move { store.stat("k").await });
    heads.recv().await.unwrap();
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let error = asked.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(begun.elapsed() <= Duration::from_secs(61), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_put_names_its_checksum_twice_and_its_time_is_the_servers() {
    let answer = "HTTP/1.1 200 OK\r\nDate: Sun, 01 Feb 2015 03:04:05 GMT\r\nETag: \"e\"\r\nContent-Length: 0\r\n\r\n";
    let (store, mut heads) = server(answer.to_owned(), true).await;
    let options = PutOptions { if_absent: true, sha256: Some([0; 32]), ..PutOptions::default() };
    let stat = store.put("k", Bytes::from_static(b"x"), options).await.unwrap();
    assert_eq!(stat.modified.to_rfc3339(), "2015-02-01T03:04:05+00:00");
    let head = heads.recv().await.unwrap();
    for header in [
        "put /b/p/k?",
        "if-none-match: *",
        "x-amz-sdk-checksum-algorithm: sha256",
        "x-amz-checksum-sha256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=",
        "x-amz-content-sha256: unsigned-payload",
    ] {
        assert!(head.contains(header), "{header} is missing in {head}");
    }
    assert!(!head.contains("crc"), "no second checksum is computed: {head}");
}

#[tokio::test]
async fn what_is_sealed_has_the_cheaper_checksum_and_another_where_the_server_knows_it_not() {
    let sealed = || PutOptions { sealed: true, ..PutOptions::default() };
    let answer =
        "HTTP/1.1 200 OK\r\nDate: Sun, 01 Feb 2015 03:04:05 GMT\r\nETag: \"e\"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let (store, mut heads) = server(answer.to_owned(), true).await;
    let stat = store.put("k", Bytes::from_static(b"123456789"), sealed()).await.unwrap();
    assert_eq!(stat.sha256, None);
    let head = heads.recv().await.unwrap();
    assert!(head.contains("x-amz-sdk-checksum-algorithm: crc32c") && head.contains("x-amz-checksum-crc32c: 4wasgw=="), "{head}");
    assert!(!head.contains("checksum-sha256"), "{head}");

    let unknown = "<Error><Code>InvalidArgument</Code><Message>Unsupported header 'x-amz-checksum-crc32c'</Message></Error>";
    let unknown = format!("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{unknown}", unknown.len());
    for refusal in ["HTTP/1.1 501 Not Implemented\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", &unknown] {
        let (refusal, answer) = (refusal.to_owned(), answer.to_owned());
        let (store, mut heads) =
            server_by(move |head| if head.contains("crc32c") { refusal.clone() } else { answer.clone() }, false).await;
        for _ in 0..2 {
            assert!(store.put("k", Bytes::from_static(b"x"), sealed()).await.unwrap().sha256.is_some());
        }
        let mut algorithms = Vec::new();
        while let Ok(head) = heads.try_recv() {
            algorithms.push(if head.contains("checksum-crc32c") { "crc32c" } else { "sha256" });
        }
        assert_eq!(algorithms, ["crc32c", "sha256", "sha256"], "it is asked once");
    }

    // What is refused for another reason is refused, and says nothing of checksums.
    let (store, mut heads) =
        server("HTTP/1.1 501 Not Implemented\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_owned(), false).await;
    for _ in 0..2 {
        let error = store.put("k", Bytes::from_static(b"x"), sealed()).await.unwrap_err();
        assert!(matches!(error, StoreError::Unsupported { .. }), "{error}");
    }
    let asked = std::iter::from_fn(|| heads.try_recv().ok()).filter(|head| head.contains("checksum-crc32c")).count();
    assert_eq!(asked, 2);
}

#[tokio::test]
async fn what_the_reader_authenticates_is_not_hashed_once_more() {
    let wrong = "x-amz-checksum-sha256: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n";
    let (store, mut heads) = server(ok(4, wrong, "body"), true).await;
    let pieces = read(&store, GetOptions::sealed()).await.unwrap();
    assert_eq!(pieces.concat(), b"body");
    assert!(!heads.recv().await.unwrap().contains("checksum-mode"));
}

#[tokio::test]
async fn failed_requests_are_made_once_only() {
    let answer = "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n";
    let (store, mut heads) = server(answer.to_owned(), false).await;
    let error = store.stat("k").await.unwrap_err();
    assert!(matches!(error, StoreError::Throttled { .. }), "{error}");
    heads.recv().await.unwrap();
    assert!(heads.try_recv().is_err(), "retries are decided by the retry wrapper alone");
}

#[tokio::test]
async fn listed_keys_are_unescaped_and_kept_under_the_prefix() {
    let page = |key: &str| {
        let body = format!(
            "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><Contents><Key>{key}</Key>\
             <LastModified>2026-11-23T20:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag><Size>1</Size></Contents></ListBucketResult>"
        );
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let (store, mut heads) = server(page("p/a+b%2B%0A%07%C3%BC"), false).await;
    let listed = store.list("a", Some("a"), 5).await.unwrap();
    assert_eq!((listed.objects[0].key.as_str(), listed.objects[0].etag.as_str(), listed.more), ("a b+\n\u{7}ü", "e", true));
    let head = heads.recv().await.unwrap();
    for parameter in ["encoding-type=url", "prefix=p%2fa", "start-after=p%2fa", "max-keys=5"] {
        assert!(head.contains(parameter), "{parameter} is missing in {head}");
    }
    let (store, _heads) = server(page("other/key"), false).await;
    assert!(matches!(store.list("", None, 5).await, Err(StoreError::Corrupt { .. })));
}

#[tokio::test]
async fn a_success_that_cannot_be_understood_is_corrupt() {
    let (store, _heads) = server("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<html><p>".to_owned(), false).await;
    let error = store.list("", None, 5).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("not understood"), "{error}");
}
