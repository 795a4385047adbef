//! What the S3 store asks, word by word, of a server of the test's own: it notes requests, and answers each as its head and a function say.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use chrono::DateTime;
use farshore::stores::{
    Archive, Availability, GetOptions, Holds, Lock, LockMode, ObjectAttributes, PutOptions, Retrieval, RetrievalPriority, S3Config,
    S3Encryption, S3Store, Store, StoreError,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const KEY: &str = "arn:aws:kms:eu-central-1:123456789012:key/k";
const FOUND: &str =
    "HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 20:00:00 GMT\r\nETag: \"e\"\r\nLast-Modified: Mon, 23 Nov 2026 20:00:00 GMT\r\n";

/// A server's answer to a request, whose head is in lower case.
type Answer = fn(&str) -> String;

/// What was asked.
#[derive(Clone, Default)]
struct Heads(Arc<Mutex<Vec<String>>>);

impl Heads {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

async fn serve(mut connection: TcpStream, answer: Answer, heads: Heads) -> std::io::Result<()> {
    let mut received = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if connection.read_buf(&mut received).await? == 0 {
                return Ok(());
            }
        };
        let mut head = String::from_utf8_lossy(&received[..end]).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok()).unwrap_or(0);
        while received.len() < end + length {
            if connection.read_buf(&mut received).await? == 0 {
                return Ok(());
            }
        }
        let answer = answer(&head);
        let body = received.drain(..end + length).skip(end).collect::<Vec<_>>();
        head.push_str(&String::from_utf8_lossy(&body).to_lowercase());
        heads.0.lock().unwrap().push(head);
        connection.write_all(answer.as_bytes()).await?;
    }
}

async fn store(answer: Answer, change: impl FnOnce(&mut S3Config)) -> (S3Store, Heads) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let heads = Heads::default();
    let noting = heads.clone();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(serve(connection, answer, noting.clone()));
        }
    });
    let mut config = S3Config {
        bucket: "b".to_owned(),
        endpoint: Some(endpoint),
        path_style: true,
        access_key: Some("key".to_owned()),
        secret_key: Some("secret".into()),
        ..S3Config::default()
    };
    change(&mut config);
    (S3Store::connect(config).await.unwrap(), heads)
}

fn xml(body: &str) -> String {
    format!("{FOUND}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn tags(tags: &str) -> String {
    xml(&format!("<Tagging><TagSet>{tags}</TagSet></Tagging>"))
}

/// A server that knows all that is asked of it here.
fn compliant(head: &str) -> String {
    let line = head.lines().next().unwrap_or_default();
    if line.contains("?tagging") || line.contains("&tagging") {
        return tags("<Tag><Key>a</Key><Value>b</Value></Tag>");
    }
    if line.contains("?uploads") {
        return xml("<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>");
    }
    if line.starts_with("post ") {
        return xml("<CompleteMultipartUploadResult><ETag>&quot;e&quot;</ETag></CompleteMultipartUploadResult>");
    }
    if line.contains("?retention") || line.contains("&retention") {
        return xml("<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>2100-01-01T00:00:00Z</RetainUntilDate></Retention>");
    }
    if line.contains("?versions") || line.contains("&versions") {
        return xml(
            "<ListVersionsResult><IsTruncated>false</IsTruncated><Version><Key>k</Key><VersionId>v</VersionId><Size>1</Size><ETag>e</ETag>\
             <LastModified>2026-11-23T20:00:00.000Z</LastModified></Version></ListVersionsResult>",
        );
    }
    if line.contains("list-type=2") {
        return xml("<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>");
    }
    match line.split(' ').next() {
        Some("head") => format!("{FOUND}Content-Length: 1\r\n\r\n"),
        Some("get") => format!("{FOUND}x-amz-tagging-count: 1\r\nContent-Length: 1\r\n\r\nx"),
        _ => format!("{FOUND}Content-Length: 0\r\n\r\n"),
    }
}

async fn upload(store: &S3Store) {
    upload_with(store, ObjectAttributes::default()).await;
}

async fn upload_with(store: &S3Store, attributes: ObjectAttributes) {
    let upload = store.begin_upload("k", attributes).await.unwrap();
    let part = store.upload_part("k", &upload, 1, Bytes::from_static(b"x")).await.unwrap();
    store.complete_upload("k", &upload, &[part], true).await.unwrap();
    store.abort_upload("k", &upload).await.unwrap();
}

#[tokio::test]
async fn what_is_written_is_encrypted_as_the_policy_says_and_otherwise_as_the_bucket_does() {
    let kms = S3Encryption::Kms { key: Some(KEY.to_owned()), bucket_key: Some(true) };
    let of_the_account = S3Encryption::Kms { key: None, bucket_key: None };
    let (named, key, bucket_key) = (
        "x-amz-server-side-encryption: ",
        "x-amz-server-side-encryption-aws-kms-key-id: ",
        "x-amz-server-side-encryption-bucket-key-enabled: ",
    );
    for (encryption, present, absent) in [
        (None, vec![], vec!["server-side-encryption"]),
        (Some(S3Encryption::S3), vec![format!("{named}aes256")], vec![key, bucket_key]),
        (Some(kms), vec![format!("{named}aws:kms"), format!("{key}{KEY}"), format!("{bucket_key}true")], vec![]),
        (Some(of_the_account), vec![format!("{named}aws:kms")], vec![key, bucket_key]),
    ] {
        let (store, heads) = store(compliant, |config| config.encryption = encryption).await;
        store.put("k", Bytes::from_static(b"x"), PutOptions::default()).await.unwrap();
        upload(&store).await;
        let asked = heads.take();
        let begins: Vec<_> = asked
            .iter()
            .filter(|head| head.contains("?uploads") || (head.starts_with("put ") && !head.contains("partnumber")))
            .collect();
        assert_eq!(begins.len(), 2, "{asked:#?}");
        for head in begins {
            for header in &present {
                assert!(head.contains(header.as_str()), "{header} is missing in {head}");
            }
            for header in &absent {
                assert!(!head.contains(header), "{header} is in {head}");
            }
        }
        // A part is encrypted as its upload is; S3 refuses to be told again.
        assert!(asked.iter().filter(|head| head.contains("partnumber")).all(|head| !head.contains("server-side-encryption")));
    }
}

#[tokio::test]
async fn whoever_asks_offers_to_pay_with_every_request_and_only_if_told_to() {
    for pays in [true, false] {
        let (store, heads) = store(compliant, |config| config.requester_pays = pays).await;
        store.put("k", Bytes::from_static(b"x"), PutOptions::default()).await.unwrap();
        let read = store.get("k", GetOptions { attributes: true, ..GetOptions::default() }).await.unwrap();
        assert_eq!(read.attributes.tags.len(), 1);
        store.stat("k").await.unwrap();
        store.list("", None, 5).await.unwrap();
        store.list_versions("", None, 5).await.unwrap();
        assert!(store.lock_of("k").await.unwrap().is_some());
        store.time().await.unwrap();
        upload(&store).await;
        store.delete("k").await.unwrap();
        store.delete_versions("k").await.unwrap();
        let asked = heads.take();
        assert_eq!(asked.len(), 17, "{asked:#?}");
        for head in asked {
            assert_eq!(head.contains("x-amz-request-payer: requester"), pays, "{head}");
        }
    }
}

#[tokio::test]
async fn it_is_recorded_what_takes_a_key_to_be_read() {
    fn by_kms(_: &str) -> String {
        format!(
            "{FOUND}x-amz-server-side-encryption: aws:kms\r\nx-amz-server-side-encryption-aws-kms-key-id: {KEY}\r\nContent-Length: 1\r\n\r\nx"
        )
    }
    fn by_s3(_: &str) -> String {
        format!("{FOUND}x-amz-server-side-encryption: AES256\r\nContent-Length: 1\r\n\r\nx")
    }
    for (answer, word, key) in [(by_kms as Answer, Some("aws:kms"), Some(KEY)), (by_s3 as Answer, None, None)] {
        let (store, _) = store(answer, |_| {}).await;
        let read = store.get("k", GetOptions::default()).await.unwrap().attributes;
        assert_eq!((read.encryption.as_deref(), read.encryption_key.as_deref()), (word, key));
    }
}

#[tokio::test]
async fn what_key_management_refused_ends_with_the_next_step_and_is_not_tried_again() {
    fn disabled(_: &str) -> String {
        let body = "<Error><Code>KMS.DisabledException</Code><Message>the key is disabled</Message></Error>";
        format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }
    fn denied(_: &str) -> String {
        let body = "<Error><Code>AccessDenied</Code><Message>User: u is not authorized to perform: kms:Decrypt on the resource</Message></Error>";
        format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }
    for (answer, next) in
        [(disabled as Answer, "aws kms enable-key"), (denied as Answer, "allow this identity kms:Decrypt on the key")]
    {
        let (store, heads) = store(answer, |_| {}).await;
        let error = store.get("k", GetOptions::default()).await.err().unwrap();
        assert!(matches!(error, StoreError::Encrypted { .. }) && !error.is_transient(), "{error:?}");
        assert!(error.to_string().contains(next), "{error}");
        assert_eq!(heads.take().len(), 1);
    }
}

/// Reads each object with its tags; how many requests that took, and how many tags there were.
async fn reads(store: &S3Store, heads: &Heads, keys: &[&str]) -> Vec<(usize, usize)> {
    let mut seen = Vec::new();
    for key in keys {
        let read = store.get(key, GetOptions { attributes: true, ..GetOptions::default() }).await.unwrap();
        seen.push((heads.take().len(), read.attributes.tags.len()));
    }
    seen
}

#[tokio::test]
async fn tags_are_not_asked_for_once_a_server_is_known_to_tell_their_number() {
    fn telling(head: &str) -> String {
        match (head.contains("?tagging"), head.contains("/tagged")) {
            (true, true) => tags("<Tag><Key>a</Key><Value>b</Value></Tag>"),
            (true, false) => tags(""),
            (false, true) => format!("{FOUND}x-amz-tagging-count: 1\r\nContent-Length: 1\r\n\r\nx"),
            (false, false) => format!("{FOUND}Content-Length: 1\r\n\r\nx"),
        }
    }
    fn silent(head: &str) -> String {
        telling(head).replace("x-amz-tagging-count: 1\r\n", "")
    }
    let keys = ["plain", "plain", "tagged", "plain", "tagged", "plain"];
    let (store_that_tells, heads) = store(telling, |_| {}).await;
    assert_eq!(reads(&store_that_tells, &heads, &keys).await, [(2, 0), (2, 0), (2, 1), (1, 0), (2, 1), (1, 0)]);
    // One that never tells is asked each time: a missing number means nothing.
    let (store_that_does_not, heads) = store(silent, |_| {}).await;
    assert_eq!(reads(&store_that_does_not, &heads, &keys).await, [(2, 0), (2, 0), (2, 1), (2, 0), (2, 1), (2, 0)]);
    // One that names itself as a server that tells is asked once.
    fn named(head: &str) -> String {
        telling(head).replace("\r\nDate: ", "\r\nServer: SeaweedFS 8000GB 4.48\r\nDate: ")
    }
    let (store_with_a_name, heads) = store(named, |_| {}).await;
    assert_eq!(reads(&store_with_a_name, &heads, &keys).await, [(2, 0), (1, 0), (2, 1), (1, 0), (2, 1), (1, 0)]);
}

/// A server whose objects lie in archives, each as its key says.
fn archives(head: &str) -> String {
    let line = head.lines().next().unwrap_or_default();
    let found = |more: &str| format!("{FOUND}{more}\r\nContent-Length: 1\r\n\r\n");
    let refused = |status: u16, code: &str| {
        let body = format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
        format!("HTTP/1.1 {status} No\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    if line.starts_with("post ") {
        return match line {
            _ if line.contains("/b/met") => refused(409, "RestoreAlreadyInProgress"),
            _ if line.contains("/b/busy") => refused(503, "GlacierExpeditedRetrievalNotAvailable"),
            _ if line.contains("/b/denied") => refused(403, "AccessDenied"),
            _ => "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_owned(),
        };
    }
    match line {
        _ if line.contains("/b/deep") => found("x-amz-storage-class: DEEP_ARCHIVE"),
        _ if line.contains("/b/coming") => found("x-amz-storage-class: GLACIER\r\nx-amz-restore: ongoing-request=\"true\""),
        _ if line.contains("/b/back") => {
            let restored = "x-amz-restore: ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2100 00:00:00 GMT\"";
            found(&format!("x-amz-storage-class: GLACIER\r\n{restored}"))
        }
        _ if line.contains("/b/moving") => {
            found("x-amz-storage-class: INTELLIGENT_TIERING\r\nx-amz-archive-status: ARCHIVE_ACCESS")
        }
        _ if line.contains("/b/warm") => found("x-amz-storage-class: STANDARD_IA"),
        _ => found("x-amz-storage-class: GLACIER"),
    }
}

#[tokio::test]
async fn an_archived_object_is_asked_for_once_with_its_days_and_its_tier() {
    let how = |priority| Retrieval { priority, days: 7 };
    let (bulk, standard, high) = (how(RetrievalPriority::Bulk), how(RetrievalPriority::Standard), how(RetrievalPriority::High));
    for (key, how, expected, words) in [
        ("cold", standard, Availability::Coming(Archive::Flexible), &["<days>7</days>", "<tier>standard</tier>"][..]),
        ("cold", bulk, Availability::Coming(Archive::Flexible), &["<tier>bulk</tier>"]),
        ("cold", high, Availability::Coming(Archive::Flexible), &["<tier>expedited</tier>"]),
        ("deep", high, Availability::Coming(Archive::Deep), &["<tier>standard</tier>"]),
        ("moving", standard, Availability::Coming(Archive::Flexible), &["<tier>standard</tier>"]),
        ("met", standard, Availability::Coming(Archive::Flexible), &[]),
        ("coming", standard, Availability::Coming(Archive::Flexible), &[]),
        ("back", standard, Availability::Readable, &[]),
        ("warm", standard, Availability::Readable, &[]),
    ] {
        let (store, heads) = store(archives, |_| {}).await;
        assert_eq!(store.bring_back(key, Some("v1"), how).await.unwrap(), expected, "{key}");
        let asked = heads.take();
        let posts: Vec<_> = asked.iter().filter(|head| head.starts_with("post ")).collect();
        assert_eq!(posts.len(), usize::from(!["coming", "back", "warm"].contains(&key)), "{key}: {asked:?}");
        assert!(asked.iter().all(|head| head.contains("versionid=v1")), "{asked:?}");
        for post in posts {
            assert!(post.contains("restore") && words.iter().all(|word| post.contains(word)), "{key}: {post}");
            // A class that moves by itself takes no days.
            assert_eq!(post.contains("<days>"), key != "moving", "{post}");
        }
    }
}

#[tokio::test]
async fn why_an_archived_object_cannot_be_asked_for_is_said() {
    let (store, _) = store(archives, |_| {}).await;
    let high = Retrieval { priority: RetrievalPriority::High, days: 1 };
    let error = store.bring_back("busy", None, high).await.unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("standard priority"), "{error}");
    let error = store.bring_back("denied", None, high).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { action: "bring back", .. }), "{error}");
    assert_eq!(store.availability("cold", None).await.unwrap(), Availability::Archived(Archive::Flexible));
}

/// The beginning of 2100, as [`LOCKED`] has it.
const THEN: i64 = 4_102_444_800;
const LOCKED: &str = "x-amz-object-lock-mode: GOVERNANCE\r\nx-amz-object-lock-retain-until-date: 2100-01-01T00:00:00.000Z\r\n";
const HELD: &str = "x-amz-object-lock-legal-hold: ON\r\n";

fn lock(mode: LockMode) -> Lock {
    Lock { mode, until: DateTime::from_timestamp(THEN, 0).unwrap() }
}

fn held(mode: Option<LockMode>, legal_hold: bool) -> Holds {
    Holds { lock: mode.map(lock), legal_hold }
}

#[tokio::test]
async fn what_is_to_hold_an_object_is_sent_with_it_or_with_the_beginning_of_its_upload_and_never_otherwise() {
    let (mode, until, hold) = (
        "x-amz-object-lock-mode: ",
        "x-amz-object-lock-retain-until-date: 2100-01-01t00:00:00z",
        "x-amz-object-lock-legal-hold: on",
    );
    let modes = [LockMode::Governance, LockMode::Compliance].map(Some).into_iter().chain([None]);
    for (wanted, legal_hold) in modes.flat_map(|mode| [(mode, false), (mode, true)]) {
        let (store, heads) = store(compliant, |_| {}).await;
        let attributes = ObjectAttributes::default().held_by(held(wanted, legal_hold));
        let options = PutOptions { attributes: attributes.clone(), ..PutOptions::default() };
        store.put("k", Bytes::from_static(b"x"), options).await.unwrap();
        upload_with(&store, attributes).await;
        let asked = heads.take();
        let (begins, others): (Vec<_>, Vec<_>) =
            asked.iter().partition(|head| head.contains("?uploads") || (head.starts_with("put ") && !head.contains("partnumber")));
        assert_eq!(begins.len(), 2, "{asked:#?}");
        for head in begins {
            assert_eq!(head.contains(&format!("{mode}{}", wanted.unwrap_or(LockMode::Governance))), wanted.is_some(), "{head}");
            assert_eq!((head.contains(until), head.contains(hold)), (wanted.is_some(), legal_hold), "{head}");
            assert_eq!(head.contains("x-amz-object-lock-"), wanted.is_some() || legal_hold, "{head}");
        }
        assert!(others.iter().all(|head| !head.contains("x-amz-object-lock-")), "{others:#?}");
    }
    // What a site wants of its own objects is not weakened by their attributes.
    let (store, heads) = store(compliant, |_| {}).await;
    let attributes = ObjectAttributes::default().held_by(held(Some(LockMode::Governance), false));
    let options = PutOptions { attributes, lock: Some(lock(LockMode::Compliance)), ..PutOptions::default() };
    store.put("k", Bytes::from_static(b"x"), options).await.unwrap();
    assert!(heads.take()[0].contains("x-amz-object-lock-mode: compliance"));
}

#[tokio::test]
async fn what_holds_an_object_is_read_with_it_unless_it_has_ended() {
    fn both(_: &str) -> String {
        format!("{FOUND}{LOCKED}{HELD}Content-Length: 1\r\n\r\nx")
    }
    fn ended(_: &str) -> String {
        both("").replace("2100", "2020").replace("ON\r", "OFF\r")
    }
    for (answer, expected) in [(both as Answer, held(Some(LockMode::Governance), true)), (ended as Answer, Holds::default())] {
        let (store, _) = store(answer, |_| {}).await;
        assert_eq!(store.get("k", GetOptions::default()).await.unwrap().attributes.holds(), expected);
    }
}

fn refused(status: &str, code: &str) -> String {
    let body = format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn asks(head: &str, what: &str) -> bool {
    let line = head.lines().next().unwrap_or_default();
    line.contains(&format!("?{what}")) || line.contains(&format!("&{what}"))
}

/// Knows of nothing that holds `free`, and of a lock and a hold on every other object; does not say so with the object itself.
fn silent(head: &str) -> String {
    let is_free = head.contains("/free");
    match (asks(head, "retention"), asks(head, "legal-hold")) {
        (false, false) => format!("{FOUND}Content-Length: 1\r\n\r\n{}", if head.starts_with("head") { "" } else { "x" }),
        _ if is_free => refused("404 Not Found", "NoSuchObjectLockConfiguration"),
        (true, _) => xml("<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>2100-01-01T00:00:00Z</RetainUntilDate></Retention>"),
        (_, true) => xml("<LegalHold><Status>ON</Status></LegalHold>"),
    }
}

/// The same, and says so.
fn telling(head: &str) -> String {
    match asks(head, "retention") || asks(head, "legal-hold") || head.contains("/free") {
        true => silent(head),
        false => silent(head).replacen("Content-Length", &format!("{LOCKED}{HELD}Content-Length"), 1),
    }
}

#[tokio::test]
async fn that_a_server_shows_nothing_means_nothing_only_once_it_has_shown_something() {
    let both = held(Some(LockMode::Governance), true);
    let seen = async |store: &S3Store, heads: &Heads, key: &str| {
        let holds = store.holds(key, None, None).await.unwrap();
        (heads.take().len(), holds)
    };
    let free = Holds::default();
    let (talks, heads) = store(telling, |_| {}).await;
    for (key, expected) in [("free", (3, free)), ("free", (3, free)), ("locked", (1, both)), ("free", (1, free))] {
        assert_eq!(seen(&talks, &heads, key).await, expected, "{key}");
    }
    // One that shows them with a read is known by that as well.
    let (talks, heads) = store(telling, |_| {}).await;
    let shown = talks.get("locked", GetOptions::default()).await.unwrap().attributes.holds();
    assert_eq!((shown, heads.take().len()), (both, 1));
    assert_eq!(talks.holds("locked", None, Some(shown)).await.unwrap(), both);
    assert_eq!(talks.holds("free", None, Some(free)).await.unwrap(), free);
    assert_eq!(heads.take(), [] as [String; 0], "what was read need not be asked for");

    let (quiet, heads) = store(silent, |_| {}).await;
    for (key, expected) in [("free", (3, free)), ("locked", (3, both)), ("free", (3, free)), ("locked", (3, both))] {
        assert_eq!(seen(&quiet, &heads, key).await, expected, "{key}");
    }
    assert_eq!(quiet.holds("locked", Some("v1"), Some(free)).await.unwrap(), both);
    let asked = heads.take();
    assert!(asked.len() == 2 && asked.iter().all(|head| head.contains("versionid=v1")), "{asked:#?}");
}

#[tokio::test]
async fn whoever_may_not_see_what_holds_an_object_gets_an_error_and_not_nothing() {
    fn no_locks_to_see(head: &str) -> String {
        if asks(head, "retention") { refused("403 Forbidden", "AccessDenied") } else { silent(head) }
    }
    fn no_holds_to_see(head: &str) -> String {
        if asks(head, "legal-hold") { refused("403 Forbidden", "AccessDenied") } else { silent(head) }
    }
    fn nothing_to_see(head: &str) -> String {
        if asks(head, "retention") { refused("400 Bad Request", "InvalidRequest") } else { silent(head) }
    }
    fn gone(_: &str) -> String {
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned()
    }
    for (answer, action) in [(no_locks_to_see as Answer, "read the lock of"), (no_holds_to_see as Answer, "read the legal hold of")]
    {
        let (store, _) = store(answer, |_| {}).await;
        let error = store.holds("free", None, None).await.unwrap_err();
        assert!(matches!(error, StoreError::Denied { action: tried, .. } if tried == action), "{error:?}");
    }
    let (store_without, _) = store(nothing_to_see, |_| {}).await;
    let error = store_without.holds("free", None, None).await.unwrap_err();
    assert!(matches!(error, StoreError::Unsupported { .. }), "a bucket without Object Lock: {error:?}");
    let (empty, _) = store(gone, |_| {}).await;
    assert!(matches!(empty.holds("free", None, None).await.unwrap_err(), StoreError::NotFound { .. }));
}
