//! Doctor: what a backup, a restore and a drill will need, looked at before they do, and what mends what is missing.
//!
//! At a site it writes a few tiny objects below `probe/` and removes them where it may; everything else only looks.

use std::path::Path;

use futures_util::future::join_all;

use super::NamedSource;
use crate::{
    clock::SharedClock,
    policy::{DrillPolicy, Limits},
    report::{Examined, Finding, bytes},
    repository::{Expected, Identities, LockTerm, Recipients, Repository, examine_store, site_time},
    sources::{
        Examination,
        files::{free_bytes, nearest_existing},
    },
    stores::SharedStore,
};

/// Below this much free space the local index may not fit. Bytes.
const LEAST_CACHE_BYTES: u64 = 1 << 30;

/// A site to be examined.
#[derive(Debug)]
pub struct SiteExamination<'a> {
    /// Its name in the policy.
    pub name: &'a str,
    /// Its store, without locks.
    pub store: SharedStore,
    /// Keys of the agent, or of a reader.
    pub identities: &'a Identities,
    /// What the policy says of its encryption.
    pub expected: Expected,
    /// To whom the policy wraps its keys there.
    pub recipients: &'a Recipients,
    /// How the policy locks.
    pub lock: Option<LockTerm>,
    /// Write and remove probe objects, too.
    pub writes: bool,
}

/// This machine.
#[derive(Debug)]
pub struct MachineExamination<'a> {
    /// The policy's limits.
    pub limits: &'a Limits,
    /// The policy's drills.
    pub drill: &'a DrillPolicy,
    /// Where local indexes are kept.
    pub cache: &'a Path,
    /// Plain bytes of the newest point, where there is one: what a drill restores.
    pub point_bytes: Option<u64>,
}

/// Examines every source, all at once.
pub async fn examine_sources(sources: &[NamedSource], context: &Examination) -> Vec<Examined> {
    join_all(sources.iter().map(|source| async move {
        let findings = source.capture.examine(context).await;
        Examined { subject: format!("source {}", source.name), place: source.capture.describe(), findings }
    }))
    .await
}

/// Examines a site. Also returns the plain bytes of the policy's newest point there, if there is one.
pub async fn examine_site(site: &SiteExamination<'_>, policy: &str, clock: &SharedClock, cache: &Path) -> (Examined, Option<u64>) {
    let mut findings = Vec::new();
    let opened = Repository::open(site.store.clone(), clock.clone(), site.identities, site.expected, cache).await;
    let mut newest = None;
    match opened {
        Err(error) => findings.push(Finding::failed("repository", error)),
        Ok(repository) => {
            let file = repository.file();
            findings.push(Finding::sound("repository", format!("{}, encryption {}", file.id, file.encryption)));
            findings.push(Finding::of("recipients", repository.check_recipients(site.recipients).await, |()| {
                "those whom the policy names".to_owned()
            }));
            match newest_point(&repository, policy).await {
                Ok(Some((id, bytes))) => {
                    findings.push(Finding::sound("newest point", id));
                    newest = Some(bytes);
                }
                Ok(None) => findings.push(Finding::note("newest point", "there is none", "run `farshore backup`")),
                Err(error) => findings.push(Finding::failed("newest point", error)),
            }
        }
    }
    findings.push(Finding::of("clock", site_time(&site.store, clock).await, |_| "as this machine's".to_owned()));
    if site.writes {
        match examine_store(&site.store, site.lock).await {
            Ok(found) => findings.extend(found),
            Err(error) => findings.push(Finding::failed("writing", error)),
        }
    }
    (Examined { subject: format!("site {}", site.name), place: site.store.describe(), findings }, newest)
}

async fn newest_point(repository: &Repository, policy: &str) -> Result<Option<(String, u64)>, crate::repository::RepositoryError> {
    let names = repository.point_names(Some(policy)).await?;
    let Some(newest) = names.into_iter().max_by_key(|name| name.time) else { return Ok(None) };
    let point = repository.point(&newest).await?;
    let bytes = point.snapshots.iter().map(|snapshot| snapshot.content_bytes).sum();
    Ok(Some((format!("{} of {}", point.id, point.consistent_at.format("%Y-%m-%d %H:%M:%SZ")), bytes)))
}

/// Examines this machine.
pub fn examine_machine(machine: &MachineExamination<'_>) -> Examined {
    let mut findings = Vec::new();
    findings.push(match memory_bytes() {
        Some(all) if machine.limits.memory_bytes > all / 2 => Finding::note(
            "memory",
            format!("limits.memory is {}, and the machine has {}", bytes(machine.limits.memory_bytes), bytes(all)),
            "set limits.memory to half of it at most",
        ),
        Some(all) => Finding::sound("memory", format!("{} of {}", bytes(machine.limits.memory_bytes), bytes(all))),
        None => Finding::note("memory", "/proc/meminfo says nothing of it", "see yourself that limits.memory fits"),
    });
    findings.push(room(
        "local index",
        machine.cache,
        LEAST_CACHE_BYTES,
        "every run reads all indexes anew",
        "set --cache-dir (FARSHORE_CACHE_DIR) to a directory with room",
    ));
    let needed = machine.point_bytes.unwrap_or(0);
    findings.push(room(
        "drill directory",
        &machine.drill.directory,
        needed,
        "drills fail",
        "set [drill] directory in the policy to one with room for all that is restored",
    ));
    Examined {
        subject: "this machine".to_owned(),
        place: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        findings,
    }
}

/// Whether files can be made in a directory, or in the nearest one above it that there is, and that so many bytes are free.
fn room(name: &str, directory: &Path, needed: u64, otherwise: &str, mend: &str) -> Finding {
    let tried = tempfile::tempfile_in(nearest_existing(directory)).and_then(|_| free_bytes(directory));
    match tried {
        Err(error) => Finding::note(name, format!("{}: {error}: {otherwise}", directory.display()), mend),
        Ok(free) => {
            let said = format!("{}, {} free, {} wanted", directory.display(), bytes(free), bytes(needed));
            if free < needed { Finding::note(name, format!("{said}: {otherwise}"), mend) } else { Finding::sound(name, said) }
        }
    }
}

/// All memory of the machine, or of what it is confined to by its control group, bytes.
fn memory_bytes() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let line = read("/proc/meminfo")?.lines().find_map(|line| line.strip_prefix("MemTotal:").map(str::to_owned))?;
    let all = line.split_whitespace().next()?.parse::<u64>().ok()? << 10;
    let group = read("/sys/fs/cgroup/memory.max").and_then(|most| most.trim().parse().ok());
    Some(group.map_or(all, |most: u64| most.min(all)))
}
