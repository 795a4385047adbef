//! What was captured comes back as it was.

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
};

use farshore::sources::{Rebuild, files::FilesTarget};
use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::tree::{picture, raw, restored, set_mtime, source};
use crate::support::exchange::{Capturing, Rebuilding, assert_checks, names};

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

async fn there_and_back(top: &Path) -> tempfile::TempDir {
    let target = tempfile::tempdir().unwrap();
    let capturing = Capturing::first();
    let captured = capturing.run(&source(top)).await.unwrap();
    assert_eq!(capturing.problems(), Vec::<String>::new());
    let rebuilding = Rebuilding::anew();
    let rebuilt = rebuilding.run(&FilesTarget::new(target.path()), capturing.sink.origin(), &captured.facts).await.unwrap();
    assert_eq!(rebuilding.problems(), Vec::<String>::new());
    assert_checks(&rebuilt);
    assert_eq!(rebuilt.items as usize, capturing.sink.entries().len());
    target
}

#[tokio::test]
async fn every_kind_of_file_comes_back_with_its_modes_times_links_and_attributes() {
    let top = tempfile::tempdir().unwrap();
    let at = |name: &str| top.path().join(name);
    fs::create_dir_all(at("a/deep/er")).unwrap();
    for name in ["a-b", "a.txt", "a0", "a/z", "a/deep/x", "empty"] {
        fs::write(at(name), name.repeat(name.len())).unwrap();
    }
    fs::write(at("empty"), "").unwrap();
    fs::write(at("large"), (0..3_000_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()).unwrap();
    fs::write(raw(top.path(), b"not\xffutf8\n"), "x").unwrap();
    symlink("a/deep", at("to-inside")).unwrap();
    symlink("/etc/passwd", at("to-outside")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    fs::hard_link(at("a.txt"), at("a/again")).unwrap();
    fs::hard_link(at("a.txt"), at("zz-once-more")).unwrap();
    mknodat(CWD, at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    chmod(&at("pipe"), 0o640);
    if rustix::process::geteuid().is_root() {
        mknodat(CWD, at("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), rustix::fs::makedev(1, 3)).unwrap();
        std::os::unix::fs::chown(at("a0"), Some(12345), Some(54321)).unwrap();
        std::os::unix::fs::lchown(at("dangling"), Some(12345), Some(54321)).unwrap();
        chmod(&at("a0"), 0o6755);
    }
    chmod(&at("a-b"), 0o400);
    let probe = xattr::set(at("a.txt"), "user.note", b"kept \x00 as it is");
    assert!(probe.is_ok() || probe.is_err_and(|error| error.kind() == std::io::ErrorKind::Unsupported));
    set_mtime(&at("a.txt"), 123_456_789);
    chmod(&at("a/deep"), 0o1500);
    set_mtime(&at("a/deep/er"), 5);
    set_mtime(&at("a"), 987_654_321);
    let before = picture(top.path());
    let target = there_and_back(top.path()).await;
    let after = picture(&restored(target.path(), top.path()));
    pretty_equal(&before, &after);
    chmod(&at("a/deep"), 0o700);
    chmod(&restored(target.path(), &at("a/deep")), 0o700);
}

fn pretty_equal(before: &super::tree::Picture, after: &super::tree::Picture) {
    for (name, line) in before {
        assert_eq!(after.get(name), Some(line), "{}", name.display());
    }
    assert_eq!(before.len(), after.len(), "{after:#?}");
}

#[tokio::test]
async fn holes_are_neither_stored_nor_filled() {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("sparse");
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&[1; 5000]).unwrap();
    file.seek(SeekFrom::Start(40 << 20)).unwrap();
    file.write_all(&[2; 300_000]).unwrap();
    file.set_len(100 << 20).unwrap();
    drop(file);
    fs::File::create(top.path().join("only-a-hole")).unwrap().set_len(10 << 20).unwrap();
    let capturing = Capturing::first();
    let captured = capturing.run(&source(top.path())).await.unwrap();
    assert!(captured.facts["bytes"].as_u64().unwrap() < 1 << 20, "{}", captured.facts);
    let target = there_and_back(top.path()).await;
    pretty_equal(&picture(top.path()), &picture(&restored(target.path(), top.path())));
    let back = fs::metadata(restored(target.path(), &path)).unwrap();
    assert!(back.blocks() * 512 < 2 << 20, "{} blocks", back.blocks());
}

#[tokio::test]
async fn a_hard_link_restored_without_its_first_name_is_a_whole_file() {
    let top = tempfile::tempdir().unwrap();
    fs::write(top.path().join("first"), "shared").unwrap();
    fs::hard_link(top.path().join("first"), top.path().join("second")).unwrap();
    fs::hard_link(top.path().join("first"), top.path().join("third")).unwrap();
    let capturing = Capturing::first();
    let captured = capturing.run(&source(top.path())).await.unwrap();
    assert_eq!(capturing.sink.opened(), 1);
    let target = tempfile::tempdir().unwrap();
    let origin = capturing.sink.origin().only(|entry| entry.kind == "hardlink");
    let rebuilding = Rebuilding { partial: true, ..Rebuilding::anew() };
    let rebuilt = rebuilding.run(&FilesTarget::new(target.path()), origin, &captured.facts).await.unwrap();
    assert_checks(&rebuilt);
    let back = restored(target.path(), top.path());
    assert_eq!(names(&back), ["second", "third"]);
    assert_eq!(fs::read(back.join("second")).unwrap(), b"shared");
    assert_eq!(fs::metadata(back.join("second")).unwrap().ino(), fs::metadata(back.join("third")).unwrap().ino());
}

#[tokio::test]
async fn into_an_existing_directory_only_what_differs_is_written_and_the_rest_is_left() {
    let top = tempfile::tempdir().unwrap();
    for name in ["same", "other-bytes", "missing", "was-a-link", "other-mode"] {
        fs::write(top.path().join(name), format!("{name}!")).unwrap();
    }
    symlink("same", top.path().join("link")).unwrap();
    let target = there_and_back(top.path()).await;
    let back = restored(target.path(), top.path());
    let capturing = Capturing::first();
    let captured = capturing.run(&source(top.path())).await.unwrap();

    let refused = FilesTarget::new(target.path()).inspect(&captured.facts, false).await.unwrap_err().to_string();
    assert!(refused.contains("not empty") && refused.contains("--into-existing"), "{refused}");
    let refused = Rebuilding::anew().run(&FilesTarget::new(target.path()), capturing.sink.origin(), &captured.facts).await;
    assert!(refused.is_err());

    let kept = fs::metadata(back.join("same")).unwrap().ino();
    fs::File::options().write(true).open(back.join("other-bytes")).unwrap().write_all_at(b"X", 0).unwrap();
    fs::remove_file(back.join("missing")).unwrap();
    fs::remove_file(back.join("was-a-link")).unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    symlink(outside.path(), back.join("was-a-link")).unwrap();
    chmod(&back.join("other-mode"), 0o666);
    fs::write(back.join("of-someone-else"), "left alone").unwrap();
    let rebuilt = Rebuilding::over().run(&FilesTarget::new(target.path()), capturing.sink.origin(), &captured.facts).await.unwrap();
    assert_checks(&rebuilt);
    assert_eq!(rebuilt.items, 3, "{rebuilt:?}");
    assert_eq!(fs::metadata(back.join("same")).unwrap().ino(), kept);
    assert_eq!(fs::read(outside.path()).unwrap(), b"");
    fs::remove_file(back.join("of-someone-else")).unwrap();
    set_mtime_like(&back, top.path());
    pretty_equal(&picture(top.path()), &picture(&back));
}

fn set_mtime_like(path: &Path, model: &Path) {
    let time = fs::metadata(model).unwrap().modified().unwrap();
    fs::File::open(path).unwrap().set_times(fs::FileTimes::new().set_modified(time)).unwrap();
}

#[tokio::test]
async fn a_target_that_is_missing_is_made() {
    let top = tempfile::tempdir().unwrap();
    fs::write(top.path().join("x"), "x").unwrap();
    let capturing = Capturing::first();
    let captured = capturing.run(&source(top.path())).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    let target = FilesTarget::new(place.path().join("new/er"));
    let found = target.inspect(&captured.facts, false).await.unwrap();
    assert!(found.contains("will be made") && found.contains("free"), "{found}");
    assert!(!place.path().join("new").exists());
    assert_checks(&Rebuilding::anew().run(&target, capturing.sink.origin(), &captured.facts).await.unwrap());
    assert!(restored(&place.path().join("new/er"), &top.path().join("x")).exists());
}

#[tokio::test]
async fn a_delivery_that_breaks_off_leaves_whole_files_only_and_the_next_restore_completes_them() {
    let top = tempfile::tempdir().unwrap();
    for name in ["one", "two", "three"] {
        fs::write(top.path().join(name), vec![7; 350_000]).unwrap();
    }
    let capturing = Capturing::first();
    let captured = capturing.run(&source(top.path())).await.unwrap();
    let target = tempfile::tempdir().unwrap();
    let rebuild = FilesTarget::new(target.path());
    // Of twelve pieces; in their disorder, some of every file are missing or one file is whole.
    for pieces in [1, 6, 11] {
        let origin = capturing.sink.origin().breaking_after(pieces);
        let error = Rebuilding::over().run(&rebuild, origin, &captured.facts).await.unwrap_err().to_string();
        assert!(error.contains("the site went away"), "{error}");
        for name in names(&restored(target.path(), top.path())) {
            assert!(["one", "two", "three"].contains(&name.as_str()), "{name} is left over");
            assert_eq!(fs::metadata(restored(target.path(), top.path()).join(name)).unwrap().len(), 350_000);
        }
    }
    assert_checks(&Rebuilding::over().run(&rebuild, capturing.sink.origin(), &captured.facts).await.unwrap());
    set_mtime_like(&restored(target.path(), top.path()), top.path());
    pretty_equal(&picture(top.path()), &picture(&restored(target.path(), top.path())));
}

/// One thing to make: names along its path, what it is, and a number for whatever it needs.
type Made = (Vec<usize>, u8, u32);

const NAMES: [&[u8]; 9] = [b"a", b"a-b", b"a.b", b"a0", b" ", b"\xff\xfe", "é".as_bytes(), b"new\nline", b"-rf"];

fn make(top: &Path, things: &[Made]) {
    let mut files = Vec::new();
    for (names, kind, number) in things {
        let (last, above) = names.split_last().unwrap();
        let mut directory = top.to_owned();
        // Nothing is made through a link: it may lead anywhere. What lies below a file or a link is passed over.
        let real = above.iter().all(|name| {
            directory = raw(&directory, NAMES[*name]);
            match fs::symlink_metadata(&directory) {
                Ok(found) => found.is_dir(),
                Err(_) => fs::create_dir(&directory).is_ok(),
            }
        });
        let path = raw(&directory, NAMES[*last]);
        if !real || fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        match kind {
            0 => fs::create_dir(&path).unwrap(),
            1 => symlink(["a", "../..", "/", "a-b/a"][*number as usize % 4], &path).unwrap(),
            2 if !files.is_empty() => fs::hard_link(&files[*number as usize % files.len()], &path).unwrap(),
            _ => {
                fs::write(&path, vec![*number as u8; (*number % 250_000) as usize]).unwrap();
                chmod(&path, 0o400 | (number & 0o377));
                set_mtime(&path, u64::from(*number) * 1_000_003);
                files.push(path);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back_and_its_entries_ascend(
        things in prop::collection::vec((prop::collection::vec(0..NAMES.len(), 1..4), 0u8..6, any::<u32>()), 0..40)
    ) {
        let top = tempfile::tempdir().unwrap();
        make(top.path(), &things);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // That entries ascend is checked by the sink.
        let target = runtime.block_on(there_and_back(top.path()));
        prop_assert_eq!(picture(top.path()), picture(&restored(target.path(), top.path())));
        prop_assert!(OsStrExt::as_bytes(top.path().as_os_str()).starts_with(b"/"));
    }
}
