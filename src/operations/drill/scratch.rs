//! Scratch targets: where a drill restores to, and how they are kept from production and removed afterwards.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::DrillRequest;
use crate::{
    operations::{OperationError, look_beyond},
    progress::{Check, Problem},
    report::Isolation,
    repository::{Point, Repository, Snapshot},
    sources::{
        Rebuild, SourceError,
        bucket::BucketTarget,
        command::CommandTarget,
        files::FilesTarget,
        postgres::{
            PostgresConfig, PostgresTarget, ScratchCluster, TargetOptions,
            physical::{
                PhysicalScratch, Recovery, RecoveryTarget, Timeline,
                facts::{PhysicalFacts, is_physical},
            },
        },
    },
    stores::SharedStore,
};

/// What a drill restores into.
pub(super) struct Targets {
    /// Name of a source, and where it is rebuilt: databases first, as in a real recovery.
    pub(super) rebuild: Vec<(String, Arc<dyn Rebuild>)>,
    /// How each is kept apart.
    pub(super) isolation: Vec<Isolation>,
    /// Restored databases by source.
    pub(super) databases: BTreeMap<String, PostgresConfig>,
    /// Restored buckets by source.
    pub(super) stores: BTreeMap<String, SharedStore>,
    /// What was found out on the way.
    pub(super) checks: Vec<Check>,
}

/// A directory of this drill's own, and what was started in it. Dropping it stops and removes what can be without waiting.
pub(super) struct Scratch {
    cluster: Option<ScratchCluster>,
    directory: PathBuf,
    /// Databases made on a server that is not ours.
    databases: Vec<PostgresConfig>,
}

impl Scratch {
    /// Makes the directory, below `parent`.
    pub(super) fn make(parent: &Path) -> Result<Self, OperationError> {
        let io = |source| OperationError::Io {
            subject: format!("drill directory {} (the policy's [drill] directory)", parent.display()),
            source,
        };
        std::fs::create_dir_all(parent).map_err(io)?;
        let directory = tempfile::Builder::new().prefix("drill-").tempdir_in(parent).map_err(io)?.keep();
        Ok(Self { directory, cluster: None, databases: Vec::new() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.directory
    }

    /// A target for every snapshot of the point.
    pub(super) async fn targets(
        &mut self,
        request: &DrillRequest<'_>,
        repository: &Repository,
        point: &Point,
    ) -> Result<Targets, OperationError> {
        let mut snapshots: Vec<&Snapshot> = point.snapshots.iter().collect();
        snapshots.sort_by_key(|snapshot| snapshot.kind != "postgres");
        let mut targets = Targets {
            rebuild: Vec::new(),
            isolation: Vec::new(),
            databases: BTreeMap::new(),
            stores: BTreeMap::new(),
            checks: Vec::new(),
        };
        for snapshot in snapshots {
            let name = &snapshot.source;
            let failed = |error: SourceError| OperationError::rebuilding(name, error);
            let (target, means): (Arc<dyn Rebuild>, String) = match snapshot.kind.as_str() {
                "postgres" if is_physical(&snapshot.facts) => {
                    let recovery = archived(request, repository, snapshot, &mut targets.checks).await?;
                    let (target, config) = PhysicalScratch::make(
                        &self.path().join("clusters").join(name),
                        request.bin_directory.clone(),
                        &snapshot.facts,
                        recovery,
                    )
                    .map_err(failed)?;
                    targets.databases.insert(name.clone(), config);
                    (
                        Arc::new(target),
                        "a scratch cluster of the restored files: own directory, socket and configuration, no network, archive_mode=off, no preloaded libraries, tablespaces beside it"
                            .to_owned(),
                    )
                }
                "postgres" => {
                    let (config, means) = self.database(request, name, major(snapshot)).await.map_err(failed)?;
                    targets.databases.insert(name.clone(), config.clone());
                    let options =
                        TargetOptions { bin_directory: request.bin_directory.clone(), isolated: true, ..TargetOptions::default() };
                    (Arc::new(PostgresTarget::new(config, options)), means)
                }
                "bucket" => {
                    let store = (request.open_directory)(self.directory_for("objects", name)?);
                    targets.stores.insert(name.clone(), store.clone());
                    (Arc::new(BucketTarget::new(store)), "a directory of the drill's own".to_owned())
                }
                "files" => {
                    (Arc::new(FilesTarget::new(self.directory_for("files", name)?)), "a directory of the drill's own".to_owned())
                }
                "command" => {
                    let file = self.directory_for("output", name)?.join("output");
                    (
                        Arc::new(CommandTarget::File(file)),
                        "a file in a directory of the drill's own; no restore command is run".to_owned(),
                    )
                }
                other => {
                    return Err(OperationError::Refused {
                        subject: format!("source {name}"),
                        detail: format!(
                            "is of kind {other}, which this version of farshore does not know; use the version that wrote the point"
                        ),
                    });
                }
            };
            targets.isolation.push(Isolation { source: name.clone(), target: target.describe(), means });
            targets.rebuild.push((name.clone(), target));
        }
        Ok(targets)
    }

    fn directory_for(&self, kind: &str, source: &str) -> Result<PathBuf, OperationError> {
        let path = self.path().join(kind).join(source);
        std::fs::create_dir_all(&path).map_err(|source| OperationError::Io { subject: path.display().to_string(), source })?;
        Ok(path)
    }

    async fn database(
        &mut self,
        request: &DrillRequest<'_>,
        source: &str,
        captured: u32,
    ) -> Result<(PostgresConfig, String), SourceError> {
        if let Some(server) = &request.server {
            let id = self.path().file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
            let config = server.with_database(&format!("farshore_{}_{source}", id.replace('-', "_")));
            self.databases.push(config.clone());
            return Ok((config, "a database of the drill's own, on the server that the policy sets aside for drills".to_owned()));
        }
        if self.cluster.is_none() {
            let (directory, bin) = (self.path().join("cluster"), request.bin_directory.clone());
            self.cluster = Some(ScratchCluster::start(&directory, bin.as_deref(), captured).await?);
        }
        let cluster = self.cluster.as_ref().ok_or_else(|| SourceError::UnfitTarget {
            subject: "scratch cluster".to_owned(),
            detail: "a defect: was not started".to_owned(),
        })?;
        let config = PostgresConfig::parse(&cluster.url(source), None)?;
        Ok((config, "a scratch cluster: own directory and socket, no network, archive_mode=off, no preloaded libraries".to_owned()))
    }

    /// Stops and removes everything; says what could not be.
    pub(super) async fn clean_up(&mut self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for database in self.databases.drain(..) {
            if let Err(error) = PostgresTarget::new(database.clone(), TargetOptions::default()).remove().await {
                problems.push(Problem::new(
                    database.describe(),
                    format!("could not be dropped after the drill: {error}; drop it by hand"),
                ));
            }
        }
        if let Some(cluster) = self.cluster.take() {
            // Stopping waits for processes.
            if tokio::task::spawn_blocking(move || drop(cluster)).await.is_err() {
                problems.push(Problem::new(
                    "scratch cluster",
                    "could not be stopped cleanly; look for a postgres process in the drill directory",
                ));
            }
        }
        let path = self.path().to_owned();
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(path)).await;
        if let Ok(Err(error)) = removed {
            problems.push(Problem::new(
                self.path().display().to_string(),
                format!("could not be removed after the drill: {error}; remove it by hand"),
            ));
        }
        problems
    }
}

/// How often the removal is tried, and the pause between.
const REMOVALS: u32 = 50;
const REMOVAL_PAUSE: Duration = Duration::from_millis(100);

impl Drop for Scratch {
    fn drop(&mut self) {
        // The server first: it must have stopped writing. Files that other threads were writing when the drill was given up may
        // still appear for a moment.
        self.cluster = None;
        for _ in 0..REMOVALS {
            match std::fs::remove_dir_all(&self.directory) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
                Err(error) => tracing::debug!(%error, "the drill directory is not removed yet"),
            }
            std::thread::sleep(REMOVAL_PAUSE);
        }
        tracing::warn!(directory = %self.directory.display(), "could not be removed after the drill; remove it by hand");
    }
}

/// How far a cluster's log is replayed: to the end of what is archived, where anything of it is. An archive that breaks off, or that
/// cannot be fetched from, is a failed check: nobody should find that out on the day of need.
async fn archived(
    request: &DrillRequest<'_>,
    repository: &Repository,
    snapshot: &Snapshot,
    checks: &mut Vec<Check>,
) -> Result<Recovery, OperationError> {
    let facts = PhysicalFacts::read(&snapshot.facts).map_err(|error| OperationError::rebuilding(&snapshot.source, error))?;
    let (target, timeline) = (RecoveryTarget::Latest, Timeline::Latest);
    let found = match look_beyond(repository, &facts, &target, timeline).await {
        Ok(None) => return Ok(Recovery::default()),
        Ok(Some(found)) => (request.fetch)(&facts, found),
        Err(OperationError::Refused { detail, .. }) => Err(detail),
        Err(error) => return Err(error),
    };
    Ok(match found {
        Ok(fetch) => Recovery { target, timeline, fetch: Some(fetch), ..Recovery::default() },
        Err(detail) => {
            checks.push(Check::equal(format!("archived log of {}", snapshot.source), "can be replayed to its end", detail));
            Recovery::default()
        }
    })
}

/// Major version of the captured server; a scratch cluster must be at least as new.
fn major(snapshot: &Snapshot) -> u32 {
    let number = snapshot.facts.get("server_version_num").and_then(serde_json::Value::as_u64).unwrap_or(0);
    u32::try_from(number / 10_000).unwrap_or(0)
}
