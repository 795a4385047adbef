//! Into a data directory.

use std::{
    collections::BTreeMap,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use futures_util::TryStreamExt;
use serde_json::json;

use super::{
    CONFIG, CONTROL, DATA, LABEL, WAL,
    control::Control,
    existing,
    facts::{PhysicalFacts, TablespaceFacts, is_physical},
    in_place::empty_in,
    label::write_map,
    part::{Made, Part, Selected},
    recovery::Recovery,
    room,
    start::Start,
};
use crate::{
    progress::{Check, PhaseTime},
    sources::{Origin, Rebuild, RebuildContext, Rebuilt, SourceError, files::FilesTarget, postgres::account},
};

/// How to rebuild.
#[derive(Debug, Clone, Default)]
pub struct PhysicalTargetOptions {
    /// Where tablespaces go: by OID or name. Each needs one, since the places they were in may belong to the living primary; one that was
    /// made while the backup ran lies in the data directory without.
    pub tablespaces: Vec<(String, PathBuf)>,
    /// For a server that must reach nothing else: settings that were made with `ALTER SYSTEM` stay behind.
    pub is_isolated: bool,
    /// How far it replays the log.
    pub recovery: Recovery,
    /// It is started, too.
    pub start: Option<Start>,
}

/// Rebuilds a cluster in a directory that is empty or not there.
#[derive(Debug)]
pub struct PhysicalTarget {
    directory: PathBuf,
    options: PhysicalTargetOptions,
}

/// How a part of a snapshot goes to a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// It is empty.
    Fresh,
    /// Beside what is there.
    Beside,
    /// In the place of what is there, of which what matches is kept, and these names are left alone.
    Delta(Vec<Vec<u8>>),
}

/// Files directly below the data directory that make a server a standby, or replay: the restore says itself what it is to be.
const SIGNALS: [&str; 2] = ["recovery.signal", "standby.signal"];
/// Where settings of `ALTER SYSTEM` are, the last that a server reads.
pub(super) const AUTO_CONF: &str = "postgresql.auto.conf";
/// Where they are in a cluster that is isolated, and whose server must not read them.
pub(super) const AUTO_CONF_APART: &str = "postgresql.auto.conf.captured";
/// Copies of configuration that lay outside of the data directory.
pub(super) const CAPTURED_CONFIG: &str = "captured-config";
/// What is said of unlogged relations where nobody can tell their names.
pub(super) const UNLOGGED: &str = "unlogged relations";

impl PhysicalTarget {
    /// A target at `directory`.
    pub fn new(directory: impl Into<PathBuf>, options: PhysicalTargetOptions) -> Self {
        Self { directory: directory.into(), options }
    }

    fn shown(&self) -> String {
        self.directory.display().to_string()
    }

    fn unfit(&self, detail: impl Into<String>) -> SourceError {
        SourceError::UnfitTarget { subject: self.shown(), detail: detail.into() }
    }

    fn facts(&self, facts: &serde_json::Value) -> Result<PhysicalFacts, SourceError> {
        if !is_physical(facts) {
            return Err(self.unfit(
                "the snapshot is of one database and not of a cluster: restore it into a database, --to postgres://user@host/database",
            ));
        }
        PhysicalFacts::read(facts)
    }

    /// Where each tablespace goes.
    fn mapping<'a>(&'a self, facts: &'a PhysicalFacts) -> Result<Vec<(&'a TablespaceFacts, &'a Path)>, SourceError> {
        let is = |wanted: &str, one: &TablespaceFacts| one.name == wanted || one.oid.to_string() == wanted;
        let known = |wanted: &str| facts.tablespaces.iter().chain(&facts.made_tablespaces).any(|one| is(wanted, one));
        if let Some((unknown, _)) = self.options.tablespaces.iter().find(|(wanted, _)| !known(wanted)) {
            return Err(self.unfit(format!("the point has no tablespace {unknown}; it has {}", names(facts))));
        }
        let given = |one: &TablespaceFacts| self.options.tablespaces.iter().find(|(wanted, _)| is(wanted, one));
        let place = |one: &'a TablespaceFacts| match given(one) {
            Some((_, directory)) if directory.is_absolute() => Ok((one, directory.as_path())),
            Some((_, directory)) => Err(self.unfit(format!("{} is no absolute path", directory.display()))),
            None => Err(self.unfit(format!(
                "tablespace {} was in {}; say where it goes with --tablespace {}=DIRECTORY",
                one.name, one.location, one.name
            ))),
        };
        // Replay goes through a link that is there already.
        let made = facts.made_tablespaces.iter().filter(|one| given(one).is_some());
        let all: Vec<_> = facts.tablespaces.iter().chain(made).map(place).collect::<Result<_, _>>()?;
        // As they are named: what stands at either end of a link is refused as not empty.
        let own = std::path::absolute(&self.directory).map_err(SourceError::io(self.shown()))?;
        for (number, (one, directory)) in all.iter().enumerate() {
            let others = all.iter().take(number).map(|(_, other)| *other).chain([own.as_path()]);
            if let Some(other) = others.into_iter().find(|other| directory.starts_with(other) || other.starts_with(directory)) {
                return Err(self.unfit(format!(
                    "tablespace {} would go to {}, which is not apart from {}: name a directory of its own",
                    one.name,
                    directory.display(),
                    other.display()
                )));
            }
        }
        Ok(all)
    }

    fn owner(&self) -> Result<(u32, u32), SourceError> {
        if let Ok(found) = std::fs::metadata(&self.directory)
            && (found.uid() != 0 || !rustix::process::geteuid().is_root())
        {
            return Ok((found.uid(), found.gid()));
        }
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Ok(account::unprivileged().map_err(|detail| self.unfit(detail))?.unwrap_or(own))
    }

    /// Makes an empty directory that only its owner can enter.
    fn make(&self, directory: &Path, mode: u32, owner: (u32, u32)) -> Result<(), SourceError> {
        let io = || SourceError::io(directory.display().to_string());
        // Only the last directory is PostgreSQL's; its user has to get through those above.
        if let Some(above) = directory.parent() {
            std::fs::create_dir_all(above).map_err(SourceError::io(above.display().to_string()))?;
        }
        std::fs::DirBuilder::new().recursive(true).mode(mode).create(directory).map_err(io())?;
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode)).map_err(io())?;
        if rustix::process::geteuid().is_root() {
            chown(directory, Some(owner.0), Some(owner.1)).map_err(io())?;
        }
        Ok(())
    }

    /// The same for one that may be there from a restore that was cut off.
    fn write_new(&self, path: &Path, bytes: &[u8], made: Made) -> Result<(), SourceError> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(SourceError::io(path.display().to_string())(error)),
            _ => {
                let mut options = std::fs::OpenOptions::new();
                Self::write_with(options.write(true).create_new(true), path, bytes, made)
            }
        }
    }

    /// Writes a file of few bytes, or what comes at its end, and through to the disk.
    fn write(&self, path: &Path, bytes: &[u8], made: Made) -> Result<(), SourceError> {
        Self::write_with(std::fs::OpenOptions::new().append(true).create(true), path, bytes, made)
    }

    /// Never through a link: others may write to the directory, and we may be root.
    fn write_with(options: &mut std::fs::OpenOptions, path: &Path, bytes: &[u8], made: Made) -> Result<(), SourceError> {
        let mut write = || -> std::io::Result<()> {
            let mut file = options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()).open(path)?;
            file.set_permissions(std::fs::Permissions::from_mode(made.mode & 0o666))?;
            if rustix::process::geteuid().is_root() {
                std::os::unix::fs::fchown(&file, Some(made.owner.0), Some(made.owner.1))?;
            }
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(SourceError::io(path.display().to_string()))
    }

    async fn rebuild_part(
        &self,
        context: &RebuildContext<'_>,
        directory: &Path,
        part: Part,
        way: Way,
        total: Option<u64>,
    ) -> Result<Rebuilt, SourceError> {
        let facts = total.map_or(json!({}), |bytes| json!({ "bytes": bytes }));
        let origin = Arc::new(Selected { origin: Arc::clone(&context.origin), part });
        let context = RebuildContext {
            origin,
            facts: &facts,
            observer: context.observer.clone(),
            clock: context.clock.clone(),
            parallelism: context.parallelism,
            into_existing: !matches!(way, Way::Fresh),
            partial: false,
        };
        let target = FilesTarget::new(directory);
        let target = match &way {
            Way::Delta(spared) => {
                let spared: Vec<&[u8]> = spared.iter().map(Vec::as_slice).chain([existing::MARKER.as_bytes()]).collect();
                target.delta().sparing(&spared)
            }
            Way::Fresh => target.sparing(&[existing::MARKER]),
            Way::Beside => target,
        };
        target.rebuild(context).await
    }
}

fn names(facts: &PhysicalFacts) -> String {
    let names: Vec<&str> = facts.tablespaces.iter().chain(&facts.made_tablespaces).map(|one| one.name.as_str()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Those that were made while the backup ran and are given no place.
fn in_place<'a>(facts: &'a PhysicalFacts, mapping: &[(&TablespaceFacts, &Path)]) -> Vec<&'a TablespaceFacts> {
    facts.made_tablespaces.iter().filter(|one| !mapping.iter().any(|(mapped, _)| mapped.oid == one.oid)).collect()
}

/// What of a snapshot is written last, and how much each part of it takes.
#[derive(Debug, Default)]
struct Last {
    label: Option<Vec<u8>>,
    control: Option<Vec<u8>>,
    auto_conf: Option<Vec<u8>>,
    config: u64,
    /// Bytes in the data directory itself, and of configuration that is put there.
    data_bytes: u64,
    log_bytes: u64,
    /// By the tablespace's OID, of those that go elsewhere.
    tablespace_bytes: BTreeMap<u32, u64>,
}

/// No file that is written last is larger.
const MOST_LAST_BYTES: u64 = 1 << 20;

impl Last {
    async fn gather(
        origin: &Arc<dyn Origin>,
        mapping: &[(&TablespaceFacts, &Path)],
        is_isolated: bool,
    ) -> Result<Self, SourceError> {
        let tablespace_bytes = mapping.iter().map(|(one, _)| (one.oid, 0)).collect();
        let mut last = Self { tablespace_bytes, ..Self::default() };
        let mut entries = origin.entries();
        while let Some(entry) = entries.try_next().await? {
            let place = match entry.path.as_slice() {
                path if path == LABEL.as_bytes() => &mut last.label,
                path if path == CONTROL.as_bytes() => &mut last.control,
                path => {
                    last.config += u64::from(path.starts_with(CONFIG.as_bytes()));
                    *last.part_of(path) += room::taken(entry.size());
                    if !is_isolated || path.strip_prefix(DATA.as_bytes()) != Some(AUTO_CONF.as_bytes()) {
                        continue;
                    }
                    &mut last.auto_conf
                }
            };
            let too_long =
                || SourceError::Malformed { subject: entry.display_path(), detail: format!("has {} bytes", entry.size()) };
            let Some(content) = entry.content.as_ref().filter(|content| content.size <= MOST_LAST_BYTES) else {
                return Err(too_long());
            };
            *place = Some(
                origin
                    .read(content)
                    .try_fold(Vec::new(), |mut all, bytes| async move {
                        all.extend_from_slice(&bytes);
                        Ok(all)
                    })
                    .await?,
            );
        }
        Ok(last)
    }

    /// The part that a path of the snapshot belongs to.
    fn part_of(&mut self, path: &[u8]) -> &mut u64 {
        if path.starts_with(WAL.as_bytes()) {
            return &mut self.log_bytes;
        }
        let below = path.strip_prefix(DATA.as_bytes()).and_then(|path| path.strip_prefix(b"pg_tblspc/"));
        let oid = below.and_then(|path| std::str::from_utf8(path.split(|byte| *byte == b'/').next()?).ok()?.parse().ok());
        match oid.and_then(|oid: u32| self.tablespace_bytes.get_mut(&oid)) {
            Some(bytes) => bytes,
            None => &mut self.data_bytes,
        }
    }

    /// What goes where.
    fn parts(&self, directory: &Path, log: &Path, mapping: &[(&TablespaceFacts, &Path)]) -> Vec<room::Part> {
        let part = |name: &str, directory: &Path, bytes, without| room::Part {
            name: name.to_owned(),
            directory: directory.to_owned(),
            bytes,
            without,
        };
        let own = [part("data directory", directory, self.data_bytes, &["pg_wal"][..]), part("log", log, self.log_bytes, &[])];
        let of = |(one, directory): &(&TablespaceFacts, &Path)| {
            part(&format!("tablespace {}", one.name), directory, self.bytes_of(one), &[])
        };
        own.into_iter().chain(mapping.iter().map(of)).collect()
    }

    fn bytes_of(&self, tablespace: &TablespaceFacts) -> u64 {
        self.tablespace_bytes.get(&tablespace.oid).copied().unwrap_or(0)
    }
}

#[async_trait]
impl Rebuild for PhysicalTarget {
    fn describe(&self) -> String {
        self.shown()
    }

    async fn inspect(&self, facts: &serde_json::Value, into_existing: bool) -> Result<String, SourceError> {
        let facts = self.facts(facts)?;
        let mapping = self.mapping(&facts)?;
        let is_there = into_existing && existing::look(&self.directory, &facts.system_identifier)?;
        let log = if is_there { existing::log_directory(&self.directory)? } else { self.directory.join("pg_wal") };
        for (one, directory) in &mapping {
            let is_there = is_there && existing::look_tablespace(&self.directory, one.oid, directory, &facts.system_identifier)?;
            FilesTarget::new(*directory).inspect(&json!({}), is_there).await?;
        }
        self.owner()?;
        if let Some(start) = &self.options.start {
            start.check(&facts).await?;
        }
        let found = FilesTarget::new(&self.directory).inspect(&json!({ "bytes": facts.bytes }), is_there).await?;
        let found =
            if is_there { format!("{found}; what matches is kept, and what the point does not have is removed") } else { found };
        let elsewhere = (log.parent() != Some(self.directory.as_path()))
            .then(|| format!("; log to {}, where pg_wal leads, in the place of what lies there", log.display()));
        let to = mapping.iter().map(|(one, directory)| format!("; tablespace {} to {}", one.name, directory.display()));
        let to = elsewhere.into_iter().chain(to);
        let within = in_place(&facts, &mapping).into_iter().map(|one| {
            format!(
                "; tablespace {}, made during the backup in {}, to pg_tblspc/{} in the data directory (--tablespace {}=DIRECTORY for another place)",
                one.name, one.location, one.oid, one.name
            )
        });
        let to: String = to.chain(within).collect();
        let recovery = &self.options.recovery;
        let archive = recovery.fetch.iter().map(|fetch| format!(" ({})", fetch.found)).collect::<String>();
        let until = format!("{}{archive}", recovery.target.words());
        Ok(format!("PostgreSQL {}, {found}{to}; replayed to {until}", facts.major()))
    }

    async fn rebuild(&self, context: RebuildContext<'_>) -> Result<Rebuilt, SourceError> {
        self.inspect(context.facts, context.into_existing).await?;
        if context.partial {
            return Err(self.unfit("a part of a cluster is no use to a server: leave out --path. To see a single file, write it out with `farshore cat POLICY POINT:SOURCE/data/PATH`"));
        }
        let facts = self.facts(context.facts)?;
        let mapping = self.mapping(&facts)?;
        let last = Last::gather(&context.origin, &mapping, self.options.is_isolated).await?;
        let missing = |what: &str| SourceError::Malformed { subject: what.to_owned(), detail: "is not in the snapshot".to_owned() };
        let label = last.label.as_ref().ok_or_else(|| missing(LABEL))?;
        let control = last.control.as_ref().ok_or_else(|| missing(CONTROL))?;
        let found = Control::parse(control).map(|control| control.system.to_string());
        if found.as_ref() != Some(&facts.system_identifier) {
            return Err(SourceError::Malformed {
                subject: CONTROL.to_owned(),
                detail: "is damaged, or another cluster's".to_owned(),
            });
        }
        let began = context.clock.monotonic();
        let made = Made { owner: self.owner()?, mode: if facts.data_directory_mode == "750" { 0o750 } else { 0o700 } };
        let is_there = context.into_existing && existing::look(&self.directory, &facts.system_identifier)?;
        let log = if is_there { existing::log_directory(&self.directory)? } else { self.directory.join("pg_wal") };
        // Before the links go that say whose they are.
        let are_there = mapping.iter().map(|(one, directory)| {
            Ok(is_there && existing::look_tablespace(&self.directory, one.oid, directory, &facts.system_identifier)?)
        });
        let are_there: Vec<bool> = are_there.collect::<Result<_, SourceError>>()?;
        let parts = last.parts(&self.directory, &log, &mapping);
        let looked = tokio::task::spawn_blocking(move || room::check(&parts)).await;
        looked.map_err(|error| SourceError::io(self.shown())(std::io::Error::other(error)))??;
        self.make(&self.directory, made.mode, made.owner)?;
        // Before anything is changed: what is half restored is known as such, and no server starts from it.
        self.write_new(&self.directory.join(existing::MARKER), facts.system_identifier.as_bytes(), made)?;
        for (_, directory) in &mapping {
            self.make(directory, made.mode, made.owner)?;
            self.write_new(&directory.join(existing::MARKER), facts.system_identifier.as_bytes(), made)?;
        }
        if is_there {
            existing::unmake(&self.directory)?;
        }
        let links = mapping.iter().map(|(one, _)| format!("pg_tblspc/{}", one.oid).into_bytes());
        let meanwhile = |below: &str| -> Vec<Vec<u8>> {
            facts.unlogged_meanwhile.iter().filter_map(|path| Some(path.strip_prefix(below)?.as_bytes().to_vec())).collect()
        };
        let signals = SIGNALS.iter().map(|name| name.as_bytes().to_vec());
        let mut without: Vec<Vec<u8>> = signals.chain(links).chain(meanwhile("")).collect();
        if self.options.is_isolated {
            without.push(AUTO_CONF.into());
        }
        if log.parent() != Some(self.directory.as_path()) {
            // The link to it stays.
            without.push("pg_wal".into());
        }
        let part = |prefix: &str, without: Vec<Vec<u8>>| Part { prefix: prefix.into(), without, made };
        let mut all = Rebuilt::default();
        // The log's own directory is a part by itself.
        let way = if is_there { Way::Delta(vec!["pg_wal".into()]) } else { Way::Fresh };
        let rebuilt = self.rebuild_part(&context, &self.directory, part(DATA, without), way, Some(last.data_bytes)).await?;
        add(&mut all, "data directory", rebuilt);
        if let Some(settings) = last.auto_conf.as_ref().filter(|_| self.options.is_isolated) {
            self.write_new(&self.directory.join(AUTO_CONF_APART), settings, made)?;
        }
        for ((one, directory), is_there) in mapping.iter().zip(are_there) {
            let way = if is_there { Way::Delta(existing::of_others(directory, facts.major())?) } else { Way::Fresh };
            let below = format!("pg_tblspc/{}/", one.oid);
            let part = part(&format!("{DATA}{below}"), meanwhile(&below));
            let rebuilt = self.rebuild_part(&context, directory, part, way, Some(last.bytes_of(one))).await?;
            add(&mut all, &format!("tablespace {}", one.name), rebuilt);
            let link = self.directory.join("pg_tblspc").join(one.oid.to_string());
            symlink(directory, &link).map_err(SourceError::io(link.display().to_string()))?;
        }
        let way = if is_there { Way::Delta(vec!["lost+found".into()]) } else { Way::Beside };
        add(&mut all, "log", self.rebuild_part(&context, &log, part(WAL, Vec::new()), way, None).await?);
        let (directory, of) = (log.clone(), facts.clone());
        let emptied = tokio::task::spawn_blocking(move || empty_in(&directory, &of)).await;
        emptied.map_err(|error| SourceError::io(log.display().to_string())(std::io::Error::other(error)))??;
        for one in in_place(&facts, &mapping) {
            all.checks.push(Check::note(
                format!("tablespace {}, made during the backup", one.name),
                "in a place of its own",
                format!(
                    "lies in the data directory, in pg_tblspc/{} (it was in {}): move what it has with ALTER TABLE … SET TABLESPACE, or restore with --tablespace {}=DIRECTORY",
                    one.oid, one.location, one.name
                ),
            ));
        }
        if last.config > 0 {
            let directory = self.directory.join(CAPTURED_CONFIG);
            self.make(&directory, made.mode, made.owner)?;
            let rebuilt = self.rebuild_part(&context, &directory, part(CONFIG, Vec::new()), Way::Beside, None).await?;
            add(&mut all, "captured configuration", rebuilt);
            all.checks.push(Check::note(
                "configuration outside of the data directory",
                "in its old place, or mended by you",
                format!("copies lie in {}", directory.display()),
            ));
        }
        if facts.unlogged_relations > 0 {
            all.checks.push(Check::note(
                UNLOGGED,
                "empty",
                format!("{} come back empty: nothing of them is in a physical backup", facts.unlogged_relations),
            ));
        }
        self.write(&self.directory.join(AUTO_CONF), self.options.recovery.settings(facts.server_version_num).as_bytes(), made)?;
        self.write(&self.directory.join("recovery.signal"), b"", made)?;
        self.write(&self.directory.join("backup_label"), label, made)?;
        if !mapping.is_empty() {
            let map: Vec<_> = mapping.iter().map(|(one, directory)| (one.oid, directory.display().to_string())).collect();
            self.write(&self.directory.join("tablespace_map"), write_map(&map).as_bytes(), made)?;
        }
        self.sync()?;
        // From here on a server starts from this directory.
        self.write(&self.directory.join("global/pg_control"), control, made)?;
        self.sync()?;
        for directory in mapping.iter().map(|(_, directory)| *directory).chain([self.directory.as_path()]) {
            existing::forget(directory)?;
        }
        if facts.checksums {
            all.checks.push(Check::equal("pages with wrong checksums at the source", 0, facts.pages_damaged));
        }
        all.checks.push(Check::equal("system identifier", &facts.system_identifier, found.unwrap_or_default()));
        let seconds = context.clock.monotonic().saturating_sub(began).as_secs_f64();
        all.phases = vec![PhaseTime { name: "database transfer".to_owned(), seconds }];
        if let Some(start) = &self.options.start {
            start.start(&self.directory, made.owner, &facts, &self.options.recovery, &context, &mut all).await?;
        }
        Ok(all)
    }
}

impl PhysicalTarget {
    fn sync(&self) -> Result<(), SourceError> {
        let sync = || rustix::fs::syncfs(std::fs::File::open(&self.directory)?).map_err(std::io::Error::from);
        sync().map_err(SourceError::io(self.shown()))
    }
}

fn add(all: &mut Rebuilt, part: &str, more: Rebuilt) {
    all.checks.extend(more.checks.into_iter().map(|check| Check { name: format!("{part}: {}", check.name), ..check }));
    all.items += more.items;
    all.items_kept += more.items_kept;
    all.bytes += more.bytes;
}
