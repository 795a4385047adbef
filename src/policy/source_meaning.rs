//! The part of `meaning` that is about sources.

use std::{collections::BTreeMap, path::PathBuf};

use ignore::gitignore::GitignoreBuilder;

use super::{
    BucketPolicy, CommandPolicy, FilesPolicy, PlainOrSecret, PostgresMethod, PostgresPolicy, PostgresReadBy, PostgresReceiveBy,
    RehydratePolicy, RetrievalSpeed, SourceKind, SourcePolicy, StorePolicy, WalPolicy,
    document::{Findings, Path},
    meaning::{absolute, duration, name, plain_or_secret, secret, size, store, url},
    source::is_slot_name,
    typed::{TypedMethod, TypedPlainOrSecret, TypedReadBy, TypedReceiveBy, TypedRetrieval, TypedSource, TypedWal},
};

/// One `[[source]]`; nothing if it lacks what its kind cannot be without (which was reported).
pub fn source(typed: TypedSource, path: &Path, findings: &mut Findings<'_>) -> Option<SourcePolicy> {
    let (own, kind) = match typed {
        TypedSource::Postgres { name, method, url: text, password, bin_directory, read_by, wal: typed } => {
            let method = match method {
                None | Some(TypedMethod::Logical) => PostgresMethod::Logical,
                Some(TypedMethod::Physical) => PostgresMethod::Physical,
            };
            let postgres = PostgresPolicy {
                method,
                url: url(text, "password", &path.key("url"), findings).unwrap_or_default(),
                password: secret(password, &path.key("password"), findings),
                bin_directory: bin_directory.map(|directory| absolute(&directory, &path.key("bin_directory"), findings)),
                read_by: reading(read_by, method, &path.key("read_by"), findings),
                wal: wal(typed, method, &path.key("wal"), findings),
            };
            (name, Some(SourceKind::Postgres(postgres)))
        }
        TypedSource::Bucket { name, store: typed, locks, rehydrate, rehydrate_days } => {
            let store = store(typed, &path.key("store"), findings);
            let locks = locks.unwrap_or(false);
            if matches!(store, Some(StorePolicy::Filesystem(_))) {
                for (key, is_said, why) in
                    [("locks", locks, "nothing is locked"), ("rehydrate", rehydrate.is_some(), "nothing is archived")]
                {
                    if is_said {
                        let message = format!("goes with a store of kind \"s3\" or \"azure\" only: in a directory {why}");
                        findings.add(&path.key(key), message);
                    }
                }
            }
            let rehydrate = rehydration(rehydrate, rehydrate_days, &path.key("rehydrate_days"), findings);
            (name, store.map(|store| SourceKind::Bucket(BucketPolicy { store, locks, rehydrate })))
        }
        TypedSource::Files { name, paths, include, exclude, one_file_system } => {
            let files = FilesPolicy {
                paths: directories(paths, &path.key("paths"), findings),
                include: patterns(include, &path.key("include"), findings),
                exclude: patterns(exclude, &path.key("exclude"), findings),
                one_file_system: one_file_system.unwrap_or(false),
            };
            (name, Some(SourceKind::Files(files)))
        }
        TypedSource::Command { name, capture, timeout, environment, restore } => {
            let command = CommandPolicy {
                capture: program(capture, &path.key("capture"), findings),
                timeout: duration(timeout, "2m", &path.key("timeout"), findings).unwrap_or(CommandPolicy::DEFAULT_TIMEOUT),
                environment: variables(environment.unwrap_or_default(), &path.key("environment"), findings),
                restore: restore.map(|restore| program(Some(restore), &path.key("restore"), findings)),
            };
            (name, Some(SourceKind::Command(command)))
        }
    };
    let name = name_of(own, path, findings);
    kind.map(|kind| SourcePolicy { name, kind })
}

/// How objects are brought back from an archive.
fn rehydration(
    typed: Option<TypedRetrieval>,
    days: Option<i64>,
    path: &Path,
    findings: &mut Findings<'_>,
) -> Option<RehydratePolicy> {
    let speed = match typed {
        None => {
            if days.is_some() {
                findings.add(path, "goes with rehydrate only: nothing is asked for without it");
            }
            return None;
        }
        Some(TypedRetrieval::Bulk) => RetrievalSpeed::Bulk,
        Some(TypedRetrieval::Standard) => RetrievalSpeed::Standard,
        Some(TypedRetrieval::High) => RetrievalSpeed::High,
    };
    // Others than those of the range were reported already.
    let days = days.and_then(|days| u16::try_from(days).ok()).unwrap_or(RehydratePolicy::DEFAULT_DAYS);
    Some(RehydratePolicy { speed, days })
}

/// How a cluster's files are read.
fn reading(typed: Option<TypedReadBy>, method: PostgresMethod, path: &Path, findings: &mut Findings<'_>) -> PostgresReadBy {
    if typed.is_some() && method != PostgresMethod::Physical {
        findings.add(path, "goes with method = \"physical\" only: a logical capture reads no files");
    }
    match typed {
        None | Some(TypedReadBy::Auto) => PostgresReadBy::Auto,
        Some(TypedReadBy::Sql) => PostgresReadBy::Sql,
        Some(TypedReadBy::Files) => PostgresReadBy::Files,
    }
}

/// How a cluster's log is archived.
fn wal(typed: Option<TypedWal>, method: PostgresMethod, path: &Path, findings: &mut Findings<'_>) -> WalPolicy {
    let Some(typed) = typed else { return WalPolicy::default() };
    if method != PostgresMethod::Physical {
        findings.add(path, "goes with method = \"physical\" only: a logical capture has no use for the log");
    }
    let hold = size(typed.hold, "10GiB", WalPolicy::LEAST_HOLD_BYTES, &path.key("hold"), findings);
    if typed.slot.as_ref().is_some_and(|slot| !is_slot_name(slot)) {
        findings.add(&path.key("slot"), "is no name of a slot; should be lower-case letters, digits and _, 63 at most");
    }
    let limit = size(typed.limit, "1GiB", WalPolicy::LEAST_LIMIT_BYTES, &path.key("limit"), findings);
    WalPolicy {
        is_wanted: true,
        spool: typed.spool.map(|spool| absolute(&spool, &path.key("spool"), findings)),
        limit_bytes: limit.unwrap_or(WalPolicy::DEFAULT_LIMIT_BYTES),
        synchronous: typed.synchronous.unwrap_or(false),
        slot: typed.slot,
        receive_by: match typed.receive_by {
            None | Some(TypedReceiveBy::Auto) => PostgresReceiveBy::Auto,
            Some(TypedReceiveBy::Stream) => PostgresReceiveBy::Stream,
            Some(TypedReceiveBy::Sql) => PostgresReceiveBy::Sql,
        },
        hold_bytes: hold.unwrap_or(WalPolicy::DEFAULT_HOLD_BYTES),
    }
}

fn name_of(own: Option<String>, path: &Path, findings: &mut Findings<'_>) -> String {
    name(own, &path.key("name"), findings)
}

/// Absolute paths, none within another: each file is captured once, under one path.
fn directories(typed: Option<Vec<Option<String>>>, path: &Path, findings: &mut Findings<'_>) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for (index, text) in typed.into_iter().flatten().enumerate() {
        let Some(text) = text else { continue };
        let place = path.index(index);
        let own = absolute(&text, &place, findings);
        if let Some(other) = paths.iter().find(|other| own.starts_with(other) || other.starts_with(&own)) {
            findings.add(&place, format!("overlaps {}; name the outer one only, or leave things out by exclude", other.display()));
        }
        paths.push(own);
    }
    paths
}

fn patterns(typed: Option<Vec<Option<String>>>, path: &Path, findings: &mut Findings<'_>) -> Vec<String> {
    let mut patterns = Vec::new();
    for (index, pattern) in typed.into_iter().flatten().enumerate() {
        let Some(pattern) = pattern else { continue };
        let place = path.index(index);
        if pattern.trim().is_empty() || pattern.starts_with('#') {
            findings.add(&place, "matches nothing: it is empty, or a comment in the language of .gitignore");
        } else if let Err(reason) = GitignoreBuilder::new("/").add_line(None, &pattern) {
            findings.add(&place, format!("is no pattern in the language of .gitignore: {reason}"));
        }
        patterns.push(pattern);
    }
    patterns
}

fn program(typed: Option<Vec<Option<String>>>, path: &Path, findings: &mut Findings<'_>) -> Vec<String> {
    let arguments: Vec<String> = typed.into_iter().flatten().flatten().collect();
    match arguments.first() {
        Some(program) if program.trim().is_empty() => findings.add(path, "names no program: its first text is empty"),
        Some(program) if arguments.len() == 1 && program.trim().contains(char::is_whitespace) => findings.add(
            path,
            "is one text with spaces, and no shell is involved; write each argument as a text of its own: [\"kubectl\", \"get\", …]",
        ),
        Some(_) | None => {}
    }
    arguments
}

fn variables(
    typed: BTreeMap<String, Option<TypedPlainOrSecret>>,
    path: &Path,
    findings: &mut Findings<'_>,
) -> BTreeMap<String, PlainOrSecret> {
    let mut variables = BTreeMap::new();
    for (name, value) in typed {
        if name.is_empty() || name.contains(['=', '\0']) {
            findings.add_at_key(path, &name, "is no name of an environment variable");
        }
        if let Some(value) = plain_or_secret(value, &path.key(&name), findings) {
            variables.insert(name, value);
        }
    }
    variables
}
