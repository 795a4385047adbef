//! What lies in a target already, brought to what the snapshot says by what it holds: chunk by chunk, in place, so that only what differs
//! is fetched and written.
//!
//! Promises: nothing is followed out of the target; what is not in the snapshot is removed. A file that was cut off in the middle of
//! this is neither the old nor the new one: whoever calls it sees to it that nobody uses the target before the end.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Timespec, Timestamps, fstat, ftruncate, futimens, openat, statat, unlinkat,
};

use super::{DIRECTORY, FILE, FileAttributes, read::blocking, tree::Tree};
use crate::sources::{Content, Entry, RebuildContext, SourceError};

/// Bounds of what is held against the snapshot before what differs is fetched.
const BATCH_FILES: usize = 128;
const BATCH_BYTES: u64 = 256 << 20;

/// A file that is there.
struct Found {
    entry: Entry,
    attributes: FileAttributes,
    file: Arc<File>,
}

/// Where a content that was asked for goes.
struct Gap {
    file: Arc<File>,
    offset: u64,
}

/// Brings what lies in `target` to the snapshot, but for what is `spared`, which is not even looked into. What is missing stays missing.
/// Returns the bytes written.
///
/// # Errors
/// The origin's, and the file system's.
pub(super) async fn bring(target: &Path, context: &RebuildContext<'_>, spared: &[Vec<u8>]) -> Result<u64, SourceError> {
    let mut names: HashMap<Vec<u8>, Wanted> = HashMap::new();
    let mut entries = context.origin.entries();
    while let Some(entry) = entries.try_next().await? {
        names.insert(entry.path, if entry.kind == DIRECTORY { Wanted::Directory } else { Wanted::File });
    }
    drop(entries);
    names.extend(spared.iter().map(|path| (path.clone(), Wanted::AsItIs)));
    let subject = || target.display().to_string();
    let directory: PathBuf = target.to_owned();
    let tree = blocking(move || {
        let tree = Tree::open(&directory)?;
        let root = openat(tree.root(), ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        sweep(root, &[], &names)?;
        Ok(Arc::new(tree))
    })
    .await
    .map_err(SourceError::io(subject()))?;
    let mut groups = context.origin.entries().try_ready_chunks(BATCH_FILES);
    let mut written = 0;
    while let Some(group) = groups.next().await {
        let group = group.map_err(|chunk| chunk.1)?;
        let tree = Arc::clone(&tree);
        let found = blocking(move || Ok(find(&tree, group))).await.map_err(SourceError::io(subject()))??;
        let mut batch = Vec::new();
        let mut bytes = 0;
        for one in found {
            bytes += one.entry.size();
            batch.push(one);
            if bytes >= BATCH_BYTES {
                written += mend(context, std::mem::take(&mut batch), target).await?;
                bytes = 0;
            }
        }
        written += mend(context, batch, target).await?;
    }
    Ok(written)
}

/// What is to lie at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Directory,
    File,
    AsItIs,
}

/// Removes what is no entry, and what is of another kind than its entry.
fn sweep(directory: std::os::fd::OwnedFd, prefix: &[u8], names: &HashMap<Vec<u8>, Wanted>) -> io::Result<()> {
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let path = if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() };
        let kind = FileType::from_raw_mode(statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
        match (kind, names.get(&path)) {
            (_, Some(Wanted::AsItIs)) => {}
            (FileType::Directory, wanted) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                sweep(openat(&directory, name, flags, Mode::empty())?, &path, names)?;
                if wanted != Some(&Wanted::Directory) {
                    unlinkat(&directory, name, AtFlags::REMOVEDIR)?;
                }
            }
            (FileType::RegularFile, Some(Wanted::File)) => {}
            _ => unlinkat(&directory, name, AtFlags::empty())?,
        }
    }
    Ok(())
}

/// Those of the entries that are files and are there as such, open.
fn find(tree: &Tree, group: Vec<Entry>) -> Result<Vec<Found>, SourceError> {
    let mut found = Vec::new();
    for entry in group.into_iter().filter(|entry| entry.kind == FILE) {
        let attributes: FileAttributes = entry.attributes()?;
        let open = || -> io::Result<Option<File>> {
            if tree.stat(&entry.path)?.is_none_or(|stat| stat.st_nlink != 1) {
                return Ok(None);
            }
            let place = tree.place(&entry.path, false)?;
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            Ok(Some(File::from(openat(&place.directory, place.name, flags, Mode::empty())?)))
        };
        let subject = String::from_utf8_lossy(&entry.path).into_owned();
        // A file of several names, or one with holes, is made anew.
        if attributes.data.is_none()
            && let Some(file) = open().map_err(SourceError::io(subject))?
        {
            found.push(Found { entry, attributes, file: Arc::new(file) });
        }
    }
    Ok(found)
}

/// Fetches what differs of these files.
async fn mend(context: &RebuildContext<'_>, batch: Vec<Found>, target: &Path) -> Result<u64, SourceError> {
    let compare = |found: &Found| {
        let content = found.entry.content.clone().unwrap_or_default();
        let (differing, file) = (context.origin.differing(&content, Arc::clone(&found.file)), Arc::clone(&found.file));
        async move { Ok::<_, SourceError>((differing.await?, file)) }
    };
    let compared: Vec<_> = batch.iter().map(compare).collect();
    let mut differing = stream::iter(compared).buffer_unordered(context.parallelism.max(1));
    let (mut gaps, mut contents): (Vec<Gap>, Vec<Content>) = (Vec::new(), Vec::new());
    while let Some((parts, file)) = differing.try_next().await? {
        for part in parts {
            gaps.push(Gap { file: Arc::clone(&file), offset: part.offset });
            contents.push(part.content);
        }
    }
    drop(differing);
    let subject = || target.display().to_string();
    let mut written = 0;
    if !contents.is_empty() {
        let gaps = &gaps;
        let mut pieces = context
            .origin
            .deliver(contents)
            .map_err(SourceError::from)
            .map_ok(|piece| async move {
                let Some(Gap { file, offset }) = gaps.get(piece.index) else {
                    let detail = format!("content {} was not asked for", piece.index);
                    return Err(SourceError::Malformed { subject: subject(), detail });
                };
                let (file, at, length) = (Arc::clone(file), offset + piece.offset, piece.bytes.len() as u64);
                blocking(move || file.write_all_at(&piece.bytes, at)).await.map_err(SourceError::io(subject()))?;
                Ok(length)
            })
            .try_buffer_unordered(context.parallelism.max(1))
            .boxed();
        while let Some(length) = pieces.try_next().await? {
            written += length;
            context.observer.bytes(length);
        }
    }
    blocking(move || batch.iter().try_for_each(settle)).await.map_err(SourceError::io(subject()))?;
    Ok(written)
}

/// Cuts a file to its length and gives it the time by which the restore knows it for the right one.
fn settle(found: &Found) -> io::Result<()> {
    let Found { attributes, file, .. } = found;
    if fstat(&**file)?.st_size.cast_unsigned() != attributes.size {
        ftruncate(&**file, attributes.size)?;
    }
    let time = Timespec { tv_sec: attributes.mtime.seconds, tv_nsec: attributes.mtime.nanoseconds.into() };
    Ok(futimens(&**file, &Timestamps { last_access: time, last_modification: time })?)
}
