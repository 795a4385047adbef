//! Repositories of every format version ever released stay readable. `tests/golden/make` made them; they are never changed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest, Sha256};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(name)
}

fn farshore(scratch: &Path, site: &Path, identity: &str, words: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_farshore"))
        .env("FARSHORE_CACHE_DIR", scratch.join("cache"))
        .env_remove("FARSHORE_IDENTITY_FILE")
        .arg(words[0])
        .arg("--site")
        .arg(site)
        .arg("--identity")
        .arg(golden(identity))
        .args(&words[1..])
        .output()
        .unwrap()
}

fn succeeded(output: std::process::Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Verification writes a record, so everything happens to a copy.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::write(target, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

fn digests(root: &Path, at: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(at).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            digests(root, &entry.path(), found);
        } else if kind.is_file() {
            let path = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.insert(path, hex::encode(Sha256::digest(fs::read(entry.path()).unwrap())));
        }
    }
}

fn expected(name: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(golden(name)).unwrap();
    text.lines().map(|line| line.split_once("  ").unwrap()).map(|(hash, path)| (path.to_owned(), hash.to_owned())).collect()
}

#[test]
fn a_repository_of_format_1_is_listed_verified_and_restored() {
    let scratch = tempfile::tempdir().unwrap();
    let site = scratch.path().join("site");
    copy(&golden("site"), &site);
    let listed = succeeded(farshore(scratch.path(), &site, "identity", &["points", "--json"]));
    let points: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
    assert_eq!(points.len(), 2, "{listed}");
    assert!(points.iter().all(|point| !point["verified"].is_null()), "the golden record of a verification is read: {listed}");
    for (point, name) in points.iter().zip(["first.sha256", "second.sha256"]) {
        let out = scratch.path().join(name);
        fs::create_dir(&out).unwrap();
        let id = point["id"].as_str().unwrap();
        let to = |source: &str| out.join(source).display().to_string();
        let (files, bucket, command) = (to("files"), to("bucket"), to("command/output"));
        fs::create_dir(out.join("command")).unwrap();
        let mut words = vec!["restore", id];
        for (source, target) in [("files", &files), ("bucket", &bucket), ("command", &command)] {
            words.extend(["--source", source, "--to", target.as_str()]);
        }
        // Owners of the machine that made it cannot be given back by everybody, which is a problem and no failure.
        let output = farshore(scratch.path(), &site, "identity", &words);
        assert!(matches!(output.status.code(), Some(0 | 4)), "{}", String::from_utf8_lossy(&output.stderr));
        let mut found = BTreeMap::new();
        digests(&out, &out, &mut found);
        assert_eq!(found, expected(name));
    }
    let verified = succeeded(farshore(scratch.path(), &site, "identity", &["verify", "--read-data", "--json"]));
    let report: serde_json::Value = serde_json::from_str(&verified).unwrap();
    assert_eq!(report[0]["damage"], serde_json::json!([]), "{report}");
    assert_eq!(report[0]["points_checked"], 2);
}

#[test]
fn the_golden_repository_of_format_1_is_never_changed() {
    let mut found = BTreeMap::new();
    digests(&golden(""), &golden(""), &mut found);
    let listed: String = found.iter().map(|(path, hash)| format!("{hash}  {path}\n")).collect();
    let all = hex::encode(Sha256::digest(&listed));
    assert_eq!(
        all, "e9a853b5bc3d9dde310738b057c5dee6a3f9a32e05bc83ebd43f74b9b889f994",
        "somebody changed what must stay readable as it is:\n{listed}"
    );
}

#[test]
fn the_agent_of_a_repository_of_format_1_lists_points_and_reads_no_data() {
    let scratch = tempfile::tempdir().unwrap();
    let listed = succeeded(farshore(scratch.path(), &golden("site"), "agent", &["points", "--json"]));
    assert_eq!(serde_json::from_str::<Vec<serde_json::Value>>(&listed).unwrap().len(), 2);
    let out = scratch.path().join("out").display().to_string();
    let refused = farshore(scratch.path(), &golden("site"), "agent", &["restore", "latest", "--source", "bucket", "--to", &out]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--identity"), "{}", String::from_utf8_lossy(&refused.stderr));
    assert!(!Path::new(&out).exists() || fs::read_dir(&out).unwrap().next().is_none());
}

#[test]
fn the_example_in_the_format_document_is_what_it_says() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/format.md")).unwrap();
    let dump = text.lines().filter_map(|line| line.split_once("  ")).filter(|(at, _)| at.len() == 4 && hex::decode(at).is_ok());
    let bytes: Vec<u8> = dump.flat_map(|(_, bytes)| hex::decode(bytes).unwrap()).collect();
    assert_eq!(bytes.len(), 186);
    let name = hex::encode(Sha256::digest(&bytes));
    assert!(text.contains(&format!("packs/{}/{name}", &name[..2])), "{name}");
    // The chunk under its data key, both as the document has them.
    let chunk = &bytes[0x40..0x61];
    let key = text.split("\"kind\":\"data\"").nth(1).unwrap().split("\"key\":\"").nth(1).unwrap();
    let key = aws_lc_rs::aead::UnboundKey::new(&aws_lc_rs::aead::AES_256_GCM, &hex::decode(&key[..64]).unwrap()).unwrap();
    let id = text.split("\n6162a181").nth(1).unwrap();
    let mut associated = hex::decode(format!("6162a181{}", &id[..56])).unwrap();
    associated.extend_from_slice(&[0, 5, 0, 0, 0]);
    let mut sealed = chunk[12..].to_vec();
    let nonce = aws_lc_rs::aead::Nonce::try_assume_unique_for_key(&chunk[..12]).unwrap();
    let opened = aws_lc_rs::aead::LessSafeKey::new(key).open_in_place(nonce, aws_lc_rs::aead::Aad::from(associated), &mut sealed);
    assert_eq!(opened.unwrap(), b"hello");
}
