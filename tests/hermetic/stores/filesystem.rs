//! The filesystem store: the contract, and what is true of directories alone.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use farshore::stores::{FilesystemStore, GetOptions, ObjectAttributes, PutOptions, Store, StoreError, read_all};
use tempfile::TempDir;

use crate::support::store_contract::{Fresh, noise};

async fn fresh() -> Fresh {
    let directory = tempfile::tempdir().unwrap();
    Fresh::holding(FilesystemStore::new(directory.path().to_owned()), directory)
}

mod contract {
    crate::store_contract!(super::fresh);
}

fn store() -> (TempDir, Arc<FilesystemStore>) {
    let directory = tempfile::tempdir().unwrap();
    let store = FilesystemStore::new(directory.path().to_owned());
    (directory, store)
}

async fn keys(store: &FilesystemStore) -> Vec<String> {
    store.list("", None, 10_000).await.unwrap().objects.into_iter().map(|object| object.key).collect()
}

fn write(root: &Path, path: &str, body: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, body).unwrap();
}

#[tokio::test]
async fn a_plain_directory_of_files_is_a_bucket_and_stays_as_it_is() {
    let (directory, store) = store();
    let names = ["2024/a.png", "2024/100%.txt", "2024/a%20b", "2024/%41%00", "new\nline", "deep/er/and/deeper", "übung.txt"];
    for name in names {
        write(directory.path(), name, name);
    }
    let mut expected = names;
    expected.sort_unstable();
    assert_eq!(keys(&store).await, expected);
    for name in names {
        assert_eq!(read_all(&*store, name, GetOptions::default(), 100).await.unwrap(), name);
    }
    assert!(!directory.path().join(".farshore").exists(), "reading writes nothing");
}

#[tokio::test]
async fn an_ordinary_key_is_an_ordinary_path() {
    let (directory, store) = store();
    store.put("packs/ab/abcd", Bytes::from_static(b"x"), PutOptions::default()).await.unwrap();
    assert_eq!(fs::read(directory.path().join("packs/ab/abcd")).unwrap(), b"x");
}

#[tokio::test]
async fn links_never_lead_out_of_the_root_nor_show_up() {
    let (directory, store) = store();
    let outside = tempfile::tempdir().unwrap();
    write(outside.path(), "secret", "secret");
    symlink(outside.path(), directory.path().join("dir")).unwrap();
    symlink(outside.path().join("secret"), directory.path().join("file")).unwrap();
    for key in ["dir/secret", "file"] {
        let error = store.get(key, GetOptions::default()).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, StoreError::NotFound { .. }), "{key}: {error}");
        assert!(matches!(store.stat(key).await, Err(StoreError::NotFound { .. })));
        store.delete(key).await.unwrap();
    }
    store.put("dir/new", Bytes::from_static(b"x"), PutOptions::default()).await.unwrap_err();
    assert_eq!(keys(&store).await, Vec::<String>::new());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1, "nothing was written or deleted outside");
}

#[tokio::test]
async fn pipes_and_sockets_are_no_objects_and_do_not_block() {
    let (directory, store) = store();
    let pipe = directory.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
    let error = store.get("pipe", GetOptions::default()).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    assert_eq!(keys(&store).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_name_that_is_no_key_fails_the_listing_and_is_named() {
    for name in ["%~odd", "%~=plain"] {
        let (directory, store) = store();
        write(directory.path(), &format!("dir/{name}"), "x");
        let error = store.list("", None, 10).await.unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("rename"), "{error}");
    }
}

#[tokio::test]
async fn an_object_gives_way_to_a_directory_of_its_name_and_keeps_its_attributes() {
    let (directory, store) = store();
    let attributes = ObjectAttributes { content_type: Some("a/b".to_owned()), ..ObjectAttributes::default() };
    let first = PutOptions { attributes: attributes.clone(), ..PutOptions::default() };
    let put = store.put("a", Bytes::from_static(b"object"), first).await.unwrap();
    store.put("a/b/c", Bytes::from_static(b"below"), PutOptions::default()).await.unwrap();
    let download = store.get("a", GetOptions::default()).await.unwrap();
    assert_eq!((download.stat.etag, download.attributes), (put.etag, attributes));
    let again = PutOptions { if_absent: true, ..PutOptions::default() };
    let error = store.put("a", Bytes::from_static(b"again"), again).await.unwrap_err();
    assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error}");
    assert_eq!(keys(&store).await, ["a", "a/b/c"]);
    assert_eq!(fs::read_dir(directory.path().join(".farshore/temporary")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_is_there_at_every_moment_while_it_gives_way() {
    let (_directory, store) = store();
    for round in 0..50 {
        let key = format!("{round}");
        store.put(&key, Bytes::from_static(b"x"), PutOptions::default()).await.unwrap();
        let (watcher, watched) = (store.clone(), key.clone());
        let watching = tokio::spawn(async move {
            for _ in 0..40 {
                watcher.stat(&watched).await.unwrap();
            }
        });
        let writers = (0..3).map(|number| {
            let (store, key) = (store.clone(), format!("{key}/{number}"));
            tokio::spawn(async move { store.put(&key, Bytes::new(), PutOptions::default()).await.unwrap() })
        });
        for writer in futures_util::future::join_all(writers).await {
            writer.unwrap();
        }
        watching.await.unwrap();
    }
    assert_eq!(keys(&store).await.len(), 200);
}

#[tokio::test]
async fn finished_and_failed_puts_leave_no_temporary_files() {
    let (directory, store) = store();
    let once = || PutOptions { if_absent: true, ..PutOptions::default() };
    store.put("k", Bytes::from_static(b"x"), once()).await.unwrap();
    store.put("k", Bytes::from_static(b"y"), once()).await.unwrap_err();
    let rich = ObjectAttributes { content_type: Some("a/b".to_owned()), ..ObjectAttributes::default() };
    store.put("rich", Bytes::new(), PutOptions { attributes: rich, ..PutOptions::default() }).await.unwrap();
    store.put("rich", Bytes::from_static(b"plain now"), PutOptions::default()).await.unwrap();
    let left: Vec<_> = ignore::WalkBuilder::new(directory.path().join(".farshore"))
        .hidden(false)
        .build()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().unwrap().is_file())
        .collect();
    assert_eq!(left.len(), 0, "{left:?}");
}

#[tokio::test]
async fn what_a_killed_process_left_is_removed_by_a_later_one_after_a_day() {
    let (directory, _) = store();
    let left = directory.path().join(".farshore/temporary");
    fs::create_dir_all(&left).unwrap();
    for (name, hours) in [("old", 25), ("young", 23)] {
        fs::write(left.join(name), "x").unwrap();
        let then = std::time::SystemTime::now() - std::time::Duration::from_secs(hours * 3600);
        fs::File::open(left.join(name)).unwrap().set_modified(then).unwrap();
    }
    FilesystemStore::new(directory.path().to_owned()).put("k", Bytes::new(), PutOptions::default()).await.unwrap();
    assert!(!left.join("old").exists() && left.join("young").exists());
}

#[tokio::test]
async fn a_missing_root_is_named_and_can_be_made() {
    let directory = tempfile::tempdir().unwrap();
    let store = FilesystemStore::new(directory.path().join("not/there"));
    let error = store.put("k", Bytes::new(), PutOptions::default()).await.unwrap_err();
    assert!(matches!(error, StoreError::NoSuchPlace { .. }), "{error}");
    assert!(matches!(store.list("", None, 1).await, Err(StoreError::NoSuchPlace { .. })));
    assert!(matches!(store.stat("k").await, Err(StoreError::NoSuchPlace { .. })));
    store.create().await.unwrap();
    store.create().await.unwrap();
    store.put("k", Bytes::new(), PutOptions::default()).await.unwrap();
}

#[tokio::test]
async fn missing_rights_are_denied() {
    let (directory, store) = store();
    write(directory.path(), "locked/k", "x");
    let locked = directory.path().join("locked");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    let result = store.stat("locked/k").await;
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o700)).unwrap();
    if rustix::process::geteuid().is_root() {
        result.unwrap();
    } else {
        assert!(matches!(result, Err(StoreError::Denied { .. })), "{result:?}");
    }
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_read_is_an_error_of_the_stream() {
    use futures_util::TryStreamExt;
    let (directory, store) = store();
    store.put("k", noise(8 << 20, 1), PutOptions::default()).await.unwrap();
    let download = store.get("k", GetOptions::default()).await.unwrap();
    fs::OpenOptions::new().write(true).open(directory.path().join("k")).unwrap().set_len(1 << 20).unwrap();
    let result: Result<Vec<Bytes>, _> = download.body.try_collect().await;
    assert!(matches!(result, Err(StoreError::Changed { .. })));
}

#[tokio::test]
async fn a_directory_kept_sorted_between_pages_shows_later_changes() {
    let (directory, store) = store();
    let then = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    for number in 0..1500 {
        write(directory.path(), &format!("flat/{number:05}"), "x");
    }
    fs::File::open(directory.path().join("flat")).unwrap().set_modified(then).unwrap();
    let page = store.list("flat/", None, 1000).await.unwrap();
    assert!(page.more);
    write(directory.path(), "flat/01200a", "x");
    fs::remove_file(directory.path().join("flat/01300")).unwrap();
    let rest = store.list("flat/", Some(&page.objects[999].key), 1000).await.unwrap().objects;
    assert_eq!(rest.len(), 500);
    assert!(rest.iter().any(|object| object.key == "flat/01200a") && !rest.iter().any(|object| object.key == "flat/01300"));
}
