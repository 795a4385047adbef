//! Fetching ahead what a server that recovers will ask for next.
//!
//! ```text
//! pg_wal/.farshore/lock                 held by the process that fetches
//! pg_wal/.farshore/last                 what is delivered, or was last: a link to its name, which is replaced without writing a file
//! pg_wal/.farshore/looking              a process was started that does not know yet what comes next
//! pg_wal/.farshore/<system>/<segment>.coming   it is being fetched
//! pg_wal/.farshore/<system>/<segment>.<boot>   whole, authenticated
//! ```
//!
//! What was fetched need not outlive a crash of the machine, and is not put on the disk: its name holds the machine's boot, and nobody looks for
//! one of an earlier boot, of which only a part may be there. Where the boot is not known, files are put on the disk.
//!
//! A delivery takes what is there by renaming it. The directory lies beside the server's files and is for its user alone, like them. What
//! is no longer wanted is removed; the process ends when nothing was delivered for a while, and leaves nothing behind.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use rustix::fs::{FlockOperation, flock};
use tokio::sync::Semaphore;

use super::{
    archives::Archives,
    deliver::StartPrefetch,
    io, off_thread,
    written::{Lasting, is_temporary, write_opened},
};
use crate::{
    clock::SharedClock,
    operations::OperationError,
    repository::{FetchedLogFile, LogKind, LogName, processors},
};

const DIRECTORY: &str = ".farshore";
/// Where Linux says what boot this is.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// Segments ahead of the one delivered last.
const AHEAD: usize = 8;
/// Fetched at once.
const AT_ONCE: usize = 4;
/// Names taken from one listing.
const LISTED: usize = 64;
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How often a delivery looks for what is being fetched.
const LOOK_FOR_COMING_EVERY: Duration = Duration::from_millis(2);
/// A delivery waits so long for what is being fetched, before it fetches by itself.
const PATIENCE: Duration = Duration::from_secs(3);
/// The same for one that does not know yet what comes next: it may be that nothing does.
const PATIENCE_TO_LOOK: Duration = Duration::from_secs(1);
/// A process that has just been started holds the lock after this, or does not live.
const YOUTH: Duration = Duration::from_millis(200);
/// The process ends when nothing was delivered for so long.
const IDLE: Duration = Duration::from_secs(60);
/// How often one that has just been started tries for the lock.
const HOLD_TRIES: u32 = 20;
/// A site that failed is asked again after this.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the end of the archive is believed to be the end.
const LIST_EVERY: Duration = Duration::from_secs(5);

/// What became of the wish for a file that may have been fetched ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It was there.
    File,
    /// It was not.
    Nothing,
    /// It was not, and the process that was started for it did not get so far as to know whether there is one.
    InVain,
}

/// Whether this segment comes after that one on the same timeline.
fn is_later(name: &LogName, than: &LogName) -> bool {
    let both = name.segment().zip(than.segment()).filter(|_| name.kind() == LogKind::Segment && name.system() == than.system());
    both.is_some_and(|(name, than)| name.get(..8) == than.get(..8) && name > than)
}

/// The directory of what was fetched ahead.
#[derive(Debug, Clone)]
pub(super) struct Ahead {
    directory: PathBuf,
    /// The machine's boot; nothing where it is not known.
    boot: Option<String>,
}

impl Ahead {
    /// For deliveries into this directory.
    pub(super) fn beside(directory: &Path) -> Self {
        Self::at(directory.join(DIRECTORY))
    }

    fn at(directory: PathBuf) -> Self {
        let boot = fs::read_to_string(BOOT).ok().map(|boot| boot.trim().to_owned()).filter(|boot| !boot.is_empty());
        Self { directory, boot }
    }

    fn path(&self, name: &LogName) -> PathBuf {
        let file = match &self.boot {
            Some(boot) => format!("{}.{boot}", name.file()),
            None => name.file().to_owned(),
        };
        self.directory.join(name.system().to_string()).join(file)
    }

    /// The name that says that a file is being fetched.
    fn coming(&self, name: &LogName) -> PathBuf {
        self.directory.join(name.system().to_string()).join(format!("{}.coming", name.file()))
    }

    /// Hands a file over, if it is there.
    fn hand_over(&self, name: &LogName, to: &Path) -> Result<bool, OperationError> {
        match fs::rename(self.path(name), to) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
            Err(error) => Err(io(to.display().to_string())(error)),
        }
    }

    /// Hands a file over, if it was fetched; waits a little for one that is on its way, or may be soon.
    pub(super) async fn take(&self, name: &LogName, to: &Path, clock: &SharedClock) -> Result<Taken, OperationError> {
        if self.hand_over(name, to)? {
            return Ok(Taken::File);
        }
        let began = clock.monotonic();
        let may_follow = self.last().is_some_and(|last| is_later(name, &last));
        let (is_looking, waited) = loop {
            let waited = clock.monotonic().saturating_sub(began);
            // In this order: files are announced before the mark goes.
            let is_looking = may_follow && self.looking().exists();
            let is_coming = match self.coming(name).exists() {
                true => waited < PATIENCE && self.is_held().unwrap_or(false),
                false => is_looking && waited < PATIENCE_TO_LOOK && (waited < YOUTH || self.is_held().unwrap_or(false)),
            };
            if !is_coming {
                break (is_looking, waited);
            }
            tokio::time::sleep(LOOK_FOR_COMING_EVERY).await;
            if self.hand_over(name, to)? {
                return Ok(Taken::File);
            }
        };
        // It may have come between the two looks.
        if self.hand_over(name, to)? {
            return Ok(Taken::File);
        }
        if !is_looking || waited < YOUTH {
            return Ok(Taken::Nothing);
        }
        if !self.is_held().unwrap_or(true) {
            // Of one that died: the next delivery is not to wait for it again.
            self.looks_no_more();
        }
        Ok(Taken::InVain)
    }

    /// Says what is delivered, and starts the process that fetches what follows, if there is none; the next delivery may wait for that one.
    pub(super) fn follow(&self, name: &LogName, start: &StartPrefetch<'_>, is_worth_waiting: bool) -> std::io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let (last, new) = (self.directory.join("last"), self.directory.join(".last.new"));
        if let Err(error) = symlink(name.to_string(), &new) {
            // Left by one that was killed.
            fs::remove_file(&new).map_err(|_| error)?;
            symlink(name.to_string(), &new)?;
        }
        fs::rename(&new, &last)?;
        if self.is_held()? {
            return Ok(());
        }
        if is_worth_waiting {
            fs::write(self.looking(), [])?;
        }
        start(&self.directory).inspect_err(|_| self.looks_no_more())
    }

    fn looking(&self) -> PathBuf {
        self.directory.join("looking")
    }

    /// What comes next is known, or nobody can tell now.
    fn looks_no_more(&self) {
        let _ = fs::remove_file(self.looking());
    }

    fn last(&self) -> Option<LogName> {
        LogName::parse(fs::read_link(self.directory.join("last")).ok()?.to_str()?)
    }

    /// Whether a process fetches.
    fn is_held(&self) -> std::io::Result<bool> {
        Ok(self.flock(FlockOperation::NonBlockingLockShared)?.is_none())
    }

    /// Becomes the process that fetches; nothing while another one is. Whoever looks whether it is held has the lock for an instant.
    async fn hold(&self) -> std::io::Result<Option<File>> {
        for _ in 0..HOLD_TRIES {
            if let Some(held) = self.flock(FlockOperation::NonBlockingLockExclusive)? {
                return Ok(Some(held));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(None)
    }

    fn flock(&self, operation: FlockOperation) -> std::io::Result<Option<File>> {
        let path = self.directory.join("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match flock(&file, operation) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes everything away.
    pub(super) fn discard(&self) {
        let _ = fs::remove_dir_all(&self.directory);
    }

    /// Takes away what is none of these; what is being written stays.
    fn keep_only(&self, wanted: &[LogName]) {
        let folders = fs::read_dir(&self.directory).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
        for entry in folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten()) {
            let path = entry.path();
            let is_written = is_temporary(&entry.file_name().to_string_lossy());
            if !is_written && !wanted.iter().any(|name| [self.path(name), self.coming(name)].contains(&path)) {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Takes away all that was fetched.
    fn clear(&self) {
        let folders = fs::read_dir(&self.directory).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
        folders.for_each(|folder| drop(fs::remove_dir_all(folder.path())));
    }

    /// Says that a file is being fetched. Where nobody hears it, a delivery fetches by itself.
    fn announce(&self, name: &LogName) {
        let _ = fs::write(self.coming(name), []);
    }

    /// Fetches a segment that was announced; says whether there is one: it was listed, and a prune may have been faster.
    async fn fetch(&self, archives: &Archives, openers: &Semaphore, name: &LogName) -> Result<bool, OperationError> {
        let (path, lasting) = (self.path(name), if self.boot.is_some() { Lasting::Cached } else { Lasting::Synced });
        let taken = async |file: FetchedLogFile| {
            let _turn = openers.acquire().await;
            let (path, name) = (path.clone(), name.clone());
            off_thread(move || write_opened(&file, &name, &path, lasting)).await
        };
        let outcome = archives.fetch_listed(name, taken).await;
        let _ = fs::remove_file(self.coming(name));
        match outcome? {
            Some(written) => written.map(|()| true),
            None => Ok(false),
        }
    }
}

/// What fetching ahead needs.
pub struct PrefetchRequest<'a> {
    /// The directory that a delivery has named.
    pub directory: &'a Path,
    /// Where everything comes from.
    pub archives: &'a Archives,
    /// The time.
    pub clock: SharedClock,
}

/// Fetches ahead of deliveries until there were none for a while. Errors of sites are for deliveries to meet, and to tell.
///
/// # Errors
/// [`OperationError::Io`].
pub async fn prefetch(request: PrefetchRequest<'_>) -> Result<(), OperationError> {
    let ahead = Ahead::at(request.directory.to_owned());
    let place = ahead.directory.display().to_string();
    let Some(_held) = ahead.hold().await.map_err(io(&place))? else { return Ok(()) };
    ahead.clear();
    if follow(&ahead, &request).await? == End::Idle {
        ahead.discard();
    }
    Ok(())
}

/// Why nothing is fetched any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing was delivered for a while.
    Idle,
    /// A delivery came to the end of the log, and took the directory away; it may be another process's by now.
    Gone,
}

async fn follow(ahead: &Ahead, request: &PrefetchRequest<'_>) -> Result<End, OperationError> {
    let clock = &request.clock;
    let mut last: Option<LogName> = None;
    // What the archive has after `last`, as it was listed; and when that was.
    let (mut listed, mut listed_at): (Vec<LogName>, Option<Duration>) = (Vec::new(), None);
    let mut failed_at = None;
    // More at once than there are processors only take each other's caches.
    let openers = Semaphore::new(processors());
    let (mut fetches, mut on_their_way) = (FuturesUnordered::new(), HashSet::new());
    let mut moved_at = clock.monotonic();
    while let Some(now) = ahead.last() {
        if last.as_ref() != Some(&now) {
            moved_at = clock.monotonic();
            match listed.iter().position(|name| *name == now) {
                Some(at) => drop(listed.drain(..=at)),
                // It went elsewhere.
                None if last.is_some() => (listed, listed_at) = (Vec::new(), None),
                None => {}
            }
            let folder = ahead.path(&now);
            let folder = folder.parent().unwrap_or(&ahead.directory);
            match DirBuilder::new().mode(0o700).create(folder) {
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(io(folder.display().to_string())(error)),
                _ => {}
            }
            last = Some(now.clone());
        } else if clock.monotonic().saturating_sub(moved_at) >= IDLE {
            return Ok(End::Idle);
        }
        // A site that fails keeps nobody from what is here already.
        let may_ask = failed_at.is_none_or(|at| clock.monotonic().saturating_sub(at) >= PAUSE);
        let is_due = may_ask && listed_at.is_none_or(|at| clock.monotonic().saturating_sub(at) >= LIST_EVERY);
        if now.kind() == LogKind::Segment && listed.len() < AHEAD && is_due {
            match request.archives.after(&now, LISTED).await {
                Ok(found) => {
                    // A full list is not the end.
                    listed_at = (found.len() < LISTED).then(|| clock.monotonic());
                    listed = found;
                }
                Err(error) => {
                    tracing::warn!(%error, "what comes next cannot be listed");
                    failed_at = Some(clock.monotonic());
                }
            }
        }
        let wanted = &listed[..listed.len().min(AHEAD)];
        ahead.keep_only(wanted);
        for name in wanted {
            if may_ask && on_their_way.len() < AT_ONCE && !on_their_way.contains(name) && !ahead.path(name).exists() {
                ahead.announce(name);
                on_their_way.insert(name.clone());
                let (name, openers) = (name.clone(), &openers);
                fetches.push(async move { (ahead.fetch(request.archives, openers, &name).await, name) });
            }
        }
        ahead.looks_no_more();
        tokio::select! {
            Some((outcome, name)) = fetches.next() => {
                on_their_way.remove(&name);
                match outcome {
                    Ok(true) => {}
                    // What was listed is no longer what there is.
                    Ok(false) => (listed, listed_at, failed_at) = (Vec::new(), None, Some(clock.monotonic())),
                    Err(error) => {
                        tracing::warn!(%error, "{name} cannot be fetched ahead");
                        failed_at = Some(clock.monotonic());
                    }
                }
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    Ok(End::Gone)
}
