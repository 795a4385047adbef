//! The way back: entries into a directory.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};

use super::{
    DIRECTORY, FILE, FileAttributes, HARDLINK, delta, finish,
    place::Placing,
    read::blocking,
    room::free_bytes,
    tree::Tree,
    write::{Progress, Writing, is_there, link},
    writeback,
};
use crate::{
    progress::PhaseTime,
    sources::{Content, Entry, Piece, Rebuild, RebuildContext, Rebuilt, SourceError},
};

/// Bounds of what is asked of the repository at once: enough for it to order reads by pack, little enough for memory.
const BATCH_FILES: usize = 4096;
const BATCH_BYTES: u64 = 512 << 20;

/// More names are never spared: so many are read to find one that is not.
const SPARED_AT_MOST: usize = 16;

/// Writes at once for each thread that decompresses: one that waits for the disk must not keep them waiting.
const WRITES_EACH: usize = 4;

/// Pieces that came together are handed to a blocking thread together, those of one file: with one for each, a tenth of a restore was spent on
/// handing over and on opening files.
const PIECES_AT_ONCE: usize = 64;

/// Entries handed to a blocking thread at once.
const ENTRIES_AT_ONCE: usize = 256;

/// Rebuilds files below a directory.
#[derive(Debug)]
pub struct FilesTarget {
    directory: PathBuf,
    /// What is there already is brought to the snapshot by its bytes, and the rest is removed.
    is_delta: bool,
    /// Paths that are neither in the way nor touched.
    spared: Vec<Vec<u8>>,
}

/// Files whose bytes are wanted, and names that wait for them. Dropped, it removes what is not whole.
struct Batch {
    placing: Arc<Placing>,
    files: Vec<Arc<Writing>>,
    contents: Vec<Content>,
    links: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: u64,
}

impl Drop for Batch {
    fn drop(&mut self) {
        for file in &self.files {
            file.abandon(&self.placing);
        }
    }
}

/// What is counted, and remembered from batch to batch.
struct State {
    batch: Batch,
    /// Where the first names of files with several were put.
    firsts: HashMap<Vec<u8>, Vec<u8>>,
    /// Part of each temporary name, so that no snapshot can hold one.
    secret: u64,
    made: u64,
    kept: u64,
    bytes: u64,
}

impl FilesTarget {
    /// A target at `directory`, which is made if it is missing.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), is_delta: false, spared: Vec::new() }
    }

    /// The same, where these paths may be there, and stay as they are.
    #[must_use]
    pub fn sparing<P: AsRef<[u8]>>(self, paths: &[P]) -> Self {
        Self { spared: paths.iter().map(|path| path.as_ref().to_vec()).collect(), ..self }
    }

    /// The same, where something may be there already, of which nothing is left at the end beside the snapshot. Files are held against it
    /// chunk by chunk and mended in place, so nobody may use them until the restore has ended.
    #[must_use]
    pub fn delta(self) -> Self {
        Self { is_delta: true, ..self }
    }

    fn shown(&self) -> String {
        self.directory.display().to_string()
    }

    /// Whether the directory exists, and a refusal if it is not fit.
    async fn look(&self, into_existing: bool) -> Result<bool, SourceError> {
        let (directory, spared) = (self.directory.clone(), self.spared.clone());
        let is_spared = move |name: &std::ffi::OsStr| spared.iter().any(|path| path == name.as_encoded_bytes());
        let found = blocking(move || match std::fs::read_dir(&directory) {
            Ok(names) => {
                let names: Vec<_> = names.map(|name| Ok(name?.file_name())).take(SPARED_AT_MOST).collect::<io::Result<_>>()?;
                Ok(Some(names.into_iter().find(|name| !is_spared(name))))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        });
        match found.await {
            Ok(None) => Ok(false),
            Ok(Some(Some(first))) if !into_existing => Err(SourceError::UnfitTarget {
                subject: self.shown(),
                detail: format!(
                    "is not empty (it holds {first:?}); name an empty directory, or say --into-existing to keep what matches and replace what differs"
                ),
            }),
            Ok(Some(_)) => Ok(true),
            Err(error) => Err(SourceError::UnfitTarget {
                subject: self.shown(),
                detail: format!("{error}; name a directory that can be read"),
            }),
        }
    }

    /// Bytes that are free where the target is or will be.
    async fn free_bytes(&self) -> Result<u64, SourceError> {
        let directory = self.directory.clone();
        blocking(move || free_bytes(&directory)).await.map_err(SourceError::io(self.shown()))
    }

    async fn deliver(&self, context: &RebuildContext<'_>, state: &mut State) -> Result<(), SourceError> {
        let batch = &mut state.batch;
        let contents = std::mem::take(&mut batch.contents);
        if !contents.is_empty() {
            let (files, placing, subject) = (&batch.files, &batch.placing, self.shown());
            let mut written = context
                .origin
                .deliver(contents)
                .try_ready_chunks(PIECES_AT_ONCE)
                // Pieces before an error are no use without those after it.
                .map_err(|chunk| SourceError::from(chunk.1))
                .map_ok(|pieces| stream::iter(by_content(pieces)).map(Ok))
                .try_flatten()
                .map_ok(|(index, pieces)| {
                    let (file, placing, subject) = (files.get(index).cloned(), Arc::clone(placing), subject.clone());
                    async move {
                        let Some(file) = file else {
                            return Err(SourceError::Malformed { subject, detail: format!("content {index} was not asked for") });
                        };
                        let length = pieces.iter().map(|piece| piece.bytes.len() as u64).sum();
                        let writing = Arc::clone(&file);
                        let work = {
                            let placing = Arc::clone(&placing);
                            move || writing.pieces(&placing, pieces)
                        };
                        let _turn = file.turn.lock().await;
                        match blocking(work).await {
                            Ok(progress) => Ok((progress, length)),
                            Err(error) => {
                                if file.abandon(&placing) {
                                    give_up_or_go_on(&placing, &file.path, error)?;
                                }
                                Ok((Progress::Unwanted, length))
                            }
                        }
                    }
                    .boxed()
                })
                .try_buffer_unordered(context.parallelism.max(1) * WRITES_EACH)
                .boxed();
            while let Some(done) = written.next().await {
                let (progress, length) = done?;
                if progress != Progress::Unwanted {
                    state.bytes += length;
                    context.observer.bytes(length);
                }
                if progress == Progress::Whole {
                    state.made += 1;
                    context.observer.items(1);
                }
            }
        }
        for file in &batch.files {
            if file.abandon(&batch.placing) {
                return Err(SourceError::Malformed {
                    subject: String::from_utf8_lossy(&file.path).into_owned(),
                    detail: "not all of its bytes came from the repository".to_owned(),
                });
            }
        }
        batch.files.clear();
        batch.bytes = 0;
        let (links, placing) = (std::mem::take(&mut batch.links), Arc::clone(&batch.placing));
        let (made, kept) = blocking(move || Ok(make_links(&placing, &links))).await.map_err(SourceError::io(self.shown()))?;
        state.made += made?;
        state.kept += kept;
        context.observer.items(kept);
        Ok(())
    }

    async fn transfer(&self, context: &RebuildContext<'_>, placing: &Arc<Placing>) -> Result<(u64, u64, u64), SourceError> {
        let batch = Batch { placing: Arc::clone(placing), files: Vec::new(), contents: Vec::new(), links: Vec::new(), bytes: 0 };
        let mut state = State { batch, firsts: HashMap::new(), secret: rand::random(), made: 0, kept: 0, bytes: 0 };
        let mut groups = context.origin.entries().try_ready_chunks(ENTRIES_AT_ONCE);
        while let Some(group) = groups.next().await {
            // Entries before an error are no use without those after it.
            let group = group.map_err(|chunk| chunk.1)?;
            let placing = Arc::clone(placing);
            let subject = self.shown();
            let stop = StopOnDrop::default();
            let flag = Arc::clone(&stop.0);
            state = blocking(move || Ok(prepare(&placing, state, group, &flag))).await.map_err(SourceError::io(subject))??;
            drop(stop);
            if state.batch.files.len() >= BATCH_FILES || state.batch.bytes >= BATCH_BYTES || state.batch.links.len() >= BATCH_FILES
            {
                self.deliver(context, &mut state).await?;
            }
        }
        self.deliver(context, &mut state).await?;
        Ok((state.made, state.kept, state.bytes))
    }
}

/// Pieces by content, in the order in which they came, at most so many bytes together that the disk can be told of them in time.
fn by_content(pieces: Vec<Piece>) -> Vec<(usize, Vec<Piece>)> {
    let mut groups: Vec<(usize, Vec<Piece>)> = Vec::new();
    let bytes = |pieces: &[Piece]| pieces.iter().map(|piece| piece.bytes.len() as u64).sum::<u64>();
    for piece in pieces {
        // The last of a content: those before it are full.
        match groups.iter_mut().rfind(|(index, _)| *index == piece.index) {
            Some((_, group)) if bytes(group) + piece.bytes.len() as u64 <= writeback::STEP => group.push(piece),
            _ => groups.push((piece.index, vec![piece])),
        }
    }
    groups
}

/// Tells a blocking thread that nobody waits for it any more.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Makes what has no bytes, and puts what has into the batch.
fn prepare(placing: &Placing, mut state: State, group: Vec<Entry>, stop: &AtomicBool) -> Result<State, SourceError> {
    for entry in group {
        if stop.load(std::sync::atomic::Ordering::Relaxed) {
            break;
        }
        let attributes: FileAttributes = entry.attributes()?;
        let path = entry.path.clone();
        let done = match entry.kind.as_str() {
            DIRECTORY => placing.make_directory(&path).map(Some),
            FILE | HARDLINK => prepare_file(placing, &mut state, entry, attributes),
            kind => placing.make_special(&path, kind, &attributes).map(Some),
        };
        match done {
            Ok(Some(new)) => {
                placing.observer.items(1);
                *if new { &mut state.made } else { &mut state.kept } += 1;
            }
            Ok(None) => {}
            Err(error) => give_up_or_go_on(placing, &path, error)?,
        }
    }
    Ok(state)
}

/// None if it is in the batch now.
fn prepare_file(placing: &Placing, state: &mut State, entry: Entry, attributes: FileAttributes) -> io::Result<Option<bool>> {
    let path = entry.path;
    // Refuse what leads out before anything remembers it.
    placing.tree.place(&path, true)?;
    let first = if entry.kind == HARDLINK { attributes.link.as_ref().map(|link| link.to_vec()) } else { None };
    if let Some(first) = first {
        if let Some(there) = state.firsts.get(&first) {
            state.batch.links.push((path, there.clone()));
            return Ok(None);
        }
        // The first name was not asked for, or could not be: the content is here as well.
        state.firsts.insert(first, path.clone());
    } else if attributes.links > 1 {
        state.firsts.insert(path.clone(), path.clone());
    }
    if placing.into_existing && is_there(placing, &path, &attributes)? {
        return Ok(Some(false));
    }
    let content = entry.content.unwrap_or_default();
    let temporary = format!(".farshore-{:016x}-{}", state.secret, state.batch.files.len()).into_bytes();
    let file = Writing::new(path, content.size, attributes, temporary)?;
    if content.size == 0 {
        return match file.pieces(placing, Vec::new()) {
            Ok(_) => Ok(Some(true)),
            Err(error) => {
                file.abandon(placing);
                Err(error)
            }
        };
    }
    state.batch.bytes += content.size;
    state.batch.contents.push(content);
    state.batch.files.push(Arc::new(file));
    Ok(None)
}

/// Returns how many names are new and how many were there.
fn make_links(placing: &Placing, links: &[(Vec<u8>, Vec<u8>)]) -> (Result<u64, SourceError>, u64) {
    let (mut made, mut kept) = (0, 0);
    for (path, first) in links {
        match link(placing, path, first) {
            Ok(true) => {
                made += 1;
                placing.observer.items(1);
            }
            Ok(false) => kept += 1,
            Err(error) => {
                if let Err(fatal) = give_up_or_go_on(placing, path, error) {
                    return (Err(fatal), kept);
                }
            }
        }
    }
    (Ok(made), kept)
}

/// An error of one entry is a problem; one that every other entry would meet as well ends the restore.
fn give_up_or_go_on(placing: &Placing, path: &[u8], error: io::Error) -> Result<(), SourceError> {
    let shown = String::from_utf8_lossy(path).into_owned();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Err(SourceError::UnfitTarget {
            subject: shown,
            detail: format!(
                "{error}; free some space or enlarge the target, then restore again with --into-existing, which keeps what is there"
            ),
        }),
        io::ErrorKind::FileTooLarge => Err(SourceError::UnfitTarget {
            subject: shown,
            detail: format!(
                "{error}: the file system or a limit (ulimit -f) takes no file of this size; lift the limit or name another target, then restore again with --into-existing"
            ),
        }),
        io::ErrorKind::ReadOnlyFilesystem => {
            Err(SourceError::UnfitTarget { subject: shown, detail: format!("{error}; mount it writable or name another target") })
        }
        _ => {
            placing.problem(path, error);
            Ok(())
        }
    }
}

#[async_trait]
impl Rebuild for FilesTarget {
    fn describe(&self) -> String {
        self.shown()
    }

    async fn inspect(&self, facts: &serde_json::Value, into_existing: bool) -> Result<String, SourceError> {
        let exists = self.look(into_existing).await?;
        let free = bytesize::ByteSize(self.free_bytes().await?);
        let needed = facts
            .get("bytes")
            .and_then(serde_json::Value::as_u64)
            .map_or(String::new(), |bytes| format!(", the whole snapshot needs {}", bytesize::ByteSize(bytes)));
        let found = if exists { "a directory" } else { "does not exist yet and will be made" };
        Ok(format!("{}: {found}; {free} are free{needed}", self.shown()))
    }

    async fn rebuild(&self, context: RebuildContext<'_>) -> Result<Rebuilt, SourceError> {
        self.look(context.into_existing || self.is_delta).await?;
        let total = context.facts.get("bytes").and_then(serde_json::Value::as_u64).filter(|_| !context.partial);
        let free = self.free_bytes().await?;
        if let Some(total) = total.filter(|total| *total > free && !context.into_existing && !self.is_delta) {
            return Err(SourceError::UnfitTarget {
                subject: self.shown(),
                detail: format!(
                    "{} are free and {} are needed; free some space, or name another target",
                    bytesize::ByteSize(free),
                    bytesize::ByteSize(total)
                ),
            });
        }
        context.observer.phase("object transfer", total);
        let started = context.clock.monotonic();
        let into_existing = context.into_existing || self.is_delta;
        let (directory, observer) = (self.directory.clone(), context.observer.clone());
        let placing = blocking(move || {
            std::fs::create_dir_all(&directory)?;
            Ok(Placing::new(Tree::open(&directory)?, observer, into_existing))
        })
        .await
        .map_err(SourceError::io(self.shown()))?;
        let mended = match self.is_delta {
            true => delta::bring(&self.directory, &context, &self.spared).await?,
            false => 0,
        };
        let (items, items_kept, bytes) = self.transfer(&context, &placing).await?;
        let transferred = context.clock.monotonic();
        context.observer.phase("verification", None);
        let mut checks = finish::finish(&context, &placing).await?;
        checks.extend(placing.notes());
        let phase = |name: &str, time: Duration| PhaseTime { name: name.to_owned(), seconds: time.as_secs_f64() };
        Ok(Rebuilt {
            checks,
            phases: vec![
                phase("object transfer", transferred.saturating_sub(started)),
                phase("verification", context.clock.monotonic().saturating_sub(transferred)),
            ],
            items,
            items_kept,
            bytes: bytes + mended,
            replayed: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Placing, Tree, give_up_or_go_on, io};
    use crate::progress::Tally;

    #[test]
    fn a_full_disk_ends_the_restore_with_the_next_step_and_a_refused_file_does_not() {
        let target = tempfile::tempdir().unwrap();
        let tally = Tally::alone();
        let placing = Placing::new(Tree::open(target.path()).unwrap(), tally.clone(), false);
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        for full in [StorageFull, QuotaExceeded, FileTooLarge, ReadOnlyFilesystem] {
            let error = give_up_or_go_on(&placing, b"a/b", full.into()).unwrap_err().to_string();
            assert!(
                error.starts_with("a/b: not a fit target") && (error.contains("--into-existing") || error.contains("mount it")),
                "{error}"
            );
        }
        assert!(tally.problems().is_empty());
        give_up_or_go_on(&placing, b"a/b", io::ErrorKind::PermissionDenied.into()).unwrap();
        assert_eq!(tally.problems().len(), 1);
    }
}
