//! The independent reader in Python against repositories of this program: nobody depends on Farshore for their data.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use farshore::stores::{PutOptions, S3Store, Store};
use sha2::{Digest, Sha256};

use crate::{
    s3,
    support::{recovery::noise, server},
};

/// A directory with a policy, what it protects, and a repository with two points.
struct Made {
    directory: tempfile::TempDir,
    encrypted: bool,
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn python() -> Command {
    let mut command = Command::new(server("FARSHORE_TEST_PYTHON"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reader/farshore_read.py"));
    command
}

/// The reader gave up with one line that a person can read.
#[track_caller]
fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let errors = said.lines().filter(|line| line.starts_with("farshore_read: ")).count();
    assert!(output.status.code() == Some(1) && errors == 1 && !said.contains("Traceback"), "{command:?}: {said}");
    said
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(name)
}

impl Made {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn farshore(&self, words: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farshore"));
        run(command.current_dir(self.directory.path()).env("FARSHORE_CACHE_DIR", self.path("cache")).args(words))
    }

    fn reader(&self, repository: &str) -> Command {
        let mut command = python();
        if self.encrypted {
            command.arg("--identity").arg(self.path("identity"));
        }
        command.arg(repository);
        command
    }
}

fn make(encrypted: bool) -> Made {
    let made = Made { directory: tempfile::tempdir().unwrap(), encrypted };
    let base = made.directory.path().display().to_string();
    for (path, bytes) in [
        ("files/large", noise(9 << 20, 1)),
        ("files/empty", Vec::new()),
        ("files/deep/er/text", b"compressible ".repeat(50_000)),
        ("bucket/large", noise((8 << 20) + 5, 2)),
        ("bucket/a/small", b"small".to_vec()),
        ("bucket/empty", Vec::new()),
    ] {
        fs::create_dir_all(made.path(path).parent().unwrap()).unwrap();
        fs::write(made.path(path), bytes).unwrap();
    }
    std::os::unix::fs::symlink("deep/er/text", made.path("files/link")).unwrap();
    // Two bytes, a hole, and one more.
    let sparse = fs::File::create(made.path("files/sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"ab", 0).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"c", 5_000_000).unwrap();
    let (head, tail) = if encrypted {
        let public = |name| made.farshore(&["key", "generate", "--output", name]).trim().to_owned();
        let (reader, _) = (public("identity"), public("agent"));
        (String::new(), format!("[encryption]\nrecipients = [\"{reader}\"]\nagent = {{ file = \"{base}/agent\" }}\n"))
    } else {
        ("encryption = \"none\"\n".to_owned(), String::new())
    };
    let policy = format!(
        "name = \"p\"\n{head}\
         [[source]]\nname = \"f\"\nkind = \"files\"\npaths = [\"{base}/files\"]\n\
         [[source]]\nname = \"b\"\nkind = \"bucket\"\nstore = {{ kind = \"filesystem\", path = \"{base}/bucket\" }}\n\
         [[source]]\nname = \"c\"\nkind = \"command\"\ncapture = [\"seq\", \"1\", \"100000\"]\ntimeout = \"1m\"\n\
         [[site]]\nname = \"s\"\nstore = {{ kind = \"filesystem\", path = \"{base}/site\" }}\n{tail}"
    );
    fs::write(made.path("policy.toml"), policy).unwrap();
    made.farshore(&["init", "--create", "./policy.toml"]);
    made.farshore(&["backup", "./policy.toml"]);
    fs::write(made.path("files/later"), b"only in the second point").unwrap();
    made.farshore(&["backup", "./policy.toml"]);
    made
}

/// All regular files below a directory, by relative path.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                found.insert(entry.path().strip_prefix(root).unwrap().to_owned(), fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

fn assert_same(made: &Made, restored: &Path) {
    let base = made.directory.path().strip_prefix("/").unwrap();
    assert_eq!(files(&restored.join("f").join(base).join("files")), files(&made.path("files")));
    assert_eq!(fs::read_link(restored.join("f").join(base).join("files/link")).unwrap(), Path::new("deep/er/text"));
    assert_eq!(files(&restored.join("b")), files(&made.path("bucket")));
    let output: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    assert_eq!(fs::read_to_string(restored.join("c/output")).unwrap(), output);
}

fn restores_with_python(encrypted: bool) {
    let made = make(encrypted);
    let site = made.path("site").display().to_string();
    let listed = run(made.reader(&site).arg("list"));
    let points: Vec<_> = listed.lines().collect();
    assert_eq!(points.len(), 2, "{listed}");
    let out = made.path("out");
    run(made.reader(&site).args(["restore", "latest"]).arg(&out));
    assert_same(&made, &out);
    let first = points[0].split(' ').next().unwrap();
    let out = made.path("first");
    run(made.reader(&site).args(["restore", &first[..8]]).arg(&out));
    assert!(!files(&out).keys().any(|path| path.ends_with("later")), "the first point has no such file");
}

#[test]
fn the_python_reader_restores_an_encrypted_repository_byte_for_byte() {
    restores_with_python(true);
}

#[test]
fn the_python_reader_restores_an_unencrypted_repository_byte_for_byte() {
    restores_with_python(false);
}

#[test]
fn the_python_reader_restores_a_rotated_repository_with_the_identity_that_came_later() {
    let made = make(true);
    let reader = made.farshore(&["key", "public", "identity"]).trim().to_owned();
    let newcomer = made.farshore(&["key", "generate", "--output", "newcomer"]).trim().to_owned();
    made.farshore(&["key", "add-recipient", "./policy.toml", &newcomer, "--identity", "identity"]);
    let policy = fs::read_to_string(made.path("policy.toml")).unwrap();
    fs::write(made.path("policy.toml"), policy.replace(&reader, &newcomer)).unwrap();
    made.farshore(&["key", "rotate", "./policy.toml", "--identity", "newcomer"]);
    fs::write(made.path("files/after"), b"only in the third point").unwrap();
    made.farshore(&["backup", "./policy.toml"]);
    let site = made.path("site").display().to_string();
    let out = made.path("shut-out");
    refused(made.reader(&site).args(["restore", "latest"]).arg(&out));
    assert!(!out.exists(), "who was removed reads nothing");
    fs::rename(made.path("newcomer"), made.path("identity")).unwrap();
    let listed = run(made.reader(&site).arg("list"));
    assert_eq!(listed.lines().count(), 3, "{listed}");
    let out = made.path("out");
    run(made.reader(&site).args(["restore", "latest"]).arg(&out));
    assert_same(&made, &out);
    let first = made.path("first");
    run(made.reader(&site).args(["restore", listed.split(' ').next().unwrap()]).arg(&first));
    assert!(files(&first).keys().any(|path| path.ends_with("large")));
}

#[test]
fn the_python_reader_refuses_a_flipped_bit_in_any_kind_of_object_that_a_restore_reads() {
    let made = make(true);
    let site = made.path("site");
    let listed = run(made.reader(&site.display().to_string()).arg("list"));
    let newest = listed.lines().last().unwrap().split(' ').next().unwrap().to_owned();
    let original = files(&site);
    let mut hurt = BTreeSet::new();
    for (number, (path, body)) in original.iter().enumerate() {
        let mut broken = body.clone();
        // In the middle: of a pack, within a chunk.
        broken[body.len() / 2] ^= 0x10;
        fs::write(site.join(path), &broken).unwrap();
        let out = made.path(&format!("out-{number}"));
        let mut restore = made.reader(&site.display().to_string());
        restore.args(["restore", &newest]).arg(&out);
        if restore.output().unwrap().status.success() {
            // What this point does not need may be broken; then all of it came back.
            assert_same(&made, &out);
        } else {
            let _ = fs::remove_dir_all(&out);
            refused(&mut restore);
            hurt.insert(path.iter().next().unwrap().to_str().unwrap().to_owned());
        }
        fs::write(site.join(path), body).unwrap();
    }
    assert_eq!(hurt.iter().map(String::as_str).collect::<Vec<_>>(), ["indexes", "keys", "packs", "points", "repository.json"]);
}

#[test]
fn the_python_reader_restores_the_golden_repository_of_format_1() {
    let scratch = tempfile::tempdir().unwrap();
    let reader = || {
        let mut command = python();
        command.arg("--identity").arg(golden("identity")).arg(golden("site"));
        command
    };
    let listed = run(reader().arg("list"));
    let ids: Vec<_> = listed.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(ids.len(), 2, "{listed}");
    for (id, name) in ids.into_iter().zip(["first.sha256", "second.sha256"]) {
        let out = scratch.path().join(name);
        run(reader().args(["restore", id]).arg(&out));
        let digests: BTreeMap<_, _> =
            files(&out).into_iter().map(|(path, bytes)| (path, hex::encode(Sha256::digest(bytes)))).collect();
        let expected = fs::read_to_string(golden(name)).unwrap();
        let expected = expected.lines().map(|line| line.split_once("  ").unwrap());
        assert_eq!(digests, expected.map(|(hash, path)| (PathBuf::from(path), hash.to_owned())).collect(), "{name}");
    }
}

#[test]
fn the_python_reader_says_in_one_line_what_is_wrong() {
    let scratch = tempfile::tempdir().unwrap();
    let (site, identity) = (golden("site").display().to_string(), golden("identity").display().to_string());
    let (out, absent) = (scratch.path().join("out").display().to_string(), scratch.path().join("absent").display().to_string());
    for (words, said) in [
        (&["--identity", &absent, &site, "list"][..], absent.as_str()),
        (&["--identity", &site, &site, "list"], &site),
        (&[&site, "list"], "give --identity FILE"),
        (&["--identity", &identity, &absent, "list"], &absent),
        (&["--identity", &identity, &site, "restore", "ffffffff", &out], "0 points go by the name ffffffff"),
        (&["--identity", &identity, &site, "restore", "latest"], "expected: restore POINT DIRECTORY"),
    ] {
        let told = refused(python().args(words));
        assert!(told.contains(said) && !Path::new(&out).exists(), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_reader_restores_from_s3() {
    let made = tokio::task::spawn_blocking(|| make(true)).await.unwrap();
    let (endpoint, key, secret) =
        (server("FARSHORE_TEST_S3_ENDPOINT"), server("FARSHORE_TEST_S3_ACCESS_KEY"), server("FARSHORE_TEST_S3_SECRET_KEY"));
    let prefix = format!("reader-{:032x}", rand::random::<u128>());
    let store: Arc<dyn Store> = Arc::new(S3Store::connect(s3::config("farshore-reader", &prefix)).await.unwrap());
    store.create().await.unwrap();
    for (path, body) in files(&made.path("site")) {
        store.put(path.to_str().unwrap(), body.into(), PutOptions::default()).await.unwrap();
    }
    let out = made.path("out");
    let mut command = made.reader(&format!("s3://farshore-reader/{prefix}"));
    command.env("AWS_ENDPOINT_URL", endpoint).env("AWS_ACCESS_KEY_ID", key).env("AWS_SECRET_ACCESS_KEY", secret);
    command.env("AWS_DEFAULT_REGION", "us-east-1").args(["restore", "latest"]).arg(&out);
    tokio::task::spawn_blocking(move || {
        run(&mut command);
        assert_same(&made, &out);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_log_can_be_read_without_farshore() {
    use farshore::{
        clock::SystemClock,
        repository::{Expected, Identities, LogKey, LogName, LogPut, LogWriter, Recipients, Repository, generate_identity},
        stores::{FilesystemStore, SharedStore},
    };
    use secrecy::ExposeSecret;
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for encrypted in [true, false] {
        let site = path(if encrypted { "sealed" } else { "open" });
        fs::create_dir(&site).unwrap();
        let store: SharedStore = FilesystemStore::new(site.clone());
        let (secret, public) = generate_identity(chrono::DateTime::UNIX_EPOCH);
        fs::write(path("identity"), secret.expose_secret()).unwrap();
        let (recipients, identities, expected) = match encrypted {
            true => (Recipients::parse(&[public], &[]).unwrap(), Identities::parse("x", &secret).unwrap(), Expected::Encrypted),
            false => (Recipients::Nobody, Identities::none(), Expected::Unencrypted),
        };
        let clock = SystemClock::shared();
        Repository::init(&store, &clock, &recipients).await.unwrap();
        let repository = Repository::open(store, clock, &identities, expected, &path("cache")).await.unwrap();
        let writer = LogWriter::new(Arc::new(repository), recipients, LogKey::default(), 3).unwrap();
        // Of several blocks, of which some can be compressed.
        let long = [noise(5 << 20, 1), vec![0; 5 << 20], noise(100, 2)].concat();
        for (file, bytes) in [("00000001000000000000000A", long), ("00000002.history", b"1\t0/A000000\tx\n".to_vec())] {
            let name = LogName::new(42, file).unwrap();
            assert_eq!(writer.put(&name, bytes.clone().into()).await.unwrap(), LogPut::Stored);
            let reader = |words: &[&str]| {
                let mut command = Command::new(server("FARSHORE_TEST_PYTHON"));
                command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reader/farshore_read_log.py"));
                if encrypted {
                    command.arg("--identity").arg(path("identity"));
                }
                command.arg(&site).args(words).output().unwrap()
            };
            let listed = reader(&["list"]);
            assert!(String::from_utf8_lossy(&listed.stdout).contains(&name.to_string()), "{listed:?}");
            let to = path("out");
            let got = reader(&["get", "42", file, to.to_str().unwrap()]);
            assert!(got.status.success(), "{got:?}");
            assert!(fs::read(&to).unwrap() == bytes, "{file}");
            fs::remove_file(&to).unwrap();
            let object = site.join(name.to_string());
            let mut broken = fs::read(&object).unwrap();
            let middle = broken.len() - 20;
            broken[middle] ^= 1;
            fs::write(&object, broken).unwrap();
            let refused = reader(&["get", "42", file, to.to_str().unwrap()]);
            assert!(!refused.status.success() && !to.exists(), "{refused:?}");
            assert!(String::from_utf8_lossy(&refused.stderr).contains("tag does not match"), "{refused:?}");
        }
    }
}
