//! The end of a restore: directories get their modes and times, everything is looked at once more, and all of it goes to disk.

use std::{collections::BTreeMap, fs::File, io, sync::Arc};

use futures_util::{StreamExt, TryStreamExt};
use rustix::fs::{Mode, OFlags, openat, syncfs};

use super::{DIRECTORY, FILE, FileAttributes, HARDLINK, KINDS, attributes::size, metadata::kind, place::Placing, read::blocking};
use crate::{
    progress::Check,
    sources::{Entry, RebuildContext, SourceError},
};

/// Entries handed to a blocking thread at once.
const ENTRIES_AT_ONCE: usize = 256;

/// Counts of entries by kind, and of the bytes of files.
#[derive(Debug, Default)]
struct Counts {
    entries: BTreeMap<String, u64>,
    bytes: u64,
}

impl Counts {
    fn add(&mut self, entry: &Entry) {
        *self.entries.entry(entry.kind.clone()).or_default() += 1;
        if entry.kind == FILE {
            self.bytes += entry.size();
        }
    }
}

#[derive(Default)]
struct Finish {
    expected: Counts,
    found: Counts,
    /// Directories that entries may still follow below, outermost first.
    open: Vec<(Vec<u8>, FileAttributes)>,
}

/// Sets what could only be set at the end, syncs, and compares what is there with the entries.
pub(super) async fn finish(context: &RebuildContext<'_>, placing: &Arc<Placing>) -> Result<Vec<Check>, SourceError> {
    let mut state = Finish::default();
    let mut groups = context.origin.entries().try_ready_chunks(ENTRIES_AT_ONCE);
    while let Some(group) = groups.next().await {
        let group = group.map_err(|chunk| chunk.1)?;
        let placing = Arc::clone(placing);
        state = blocking(move || Ok(state.group(&placing, group))).await.map_err(SourceError::io("the restore target"))??;
    }
    let last = Arc::clone(placing);
    let state = blocking(move || {
        while let Some((path, attributes)) = state.open.pop() {
            dress_directory(&last, &path, &attributes);
        }
        syncfs(last.tree.root())?;
        Ok(state)
    })
    .await
    .map_err(SourceError::io("writing the restore target to disk"))?;
    Ok(state.checks(context))
}

impl Finish {
    fn group(mut self, placing: &Placing, group: Vec<Entry>) -> Result<Self, SourceError> {
        for entry in group {
            let attributes: FileAttributes = entry.attributes()?;
            self.expected.add(&entry);
            let mut there_too = false;
            // A path that is refused was reported when it was to be written.
            if let Ok(Some(there)) = placing.tree.stat(&entry.path) {
                let wanted = if entry.kind == HARDLINK { FILE } else { entry.kind.as_str() };
                if kind(&there) == Some(wanted) && (wanted != FILE || size(&there) == attributes.size) {
                    self.found.add(&entry);
                    there_too = true;
                }
            }
            while let Some((path, attributes)) = self.open.pop_if(|(path, _)| is_past(&entry.path, path)) {
                dress_directory(placing, &path, &attributes);
            }
            if entry.kind == DIRECTORY && there_too {
                self.open.push((entry.path, attributes));
            }
        }
        Ok(self)
    }

    fn checks(self, context: &RebuildContext<'_>) -> Vec<Check> {
        let mut checks = Vec::new();
        for kind in KINDS {
            let of = |counts: &Counts| counts.entries.get(kind).copied().unwrap_or(0);
            let captured = context.facts.pointer(&format!("/entries/{kind}")).and_then(serde_json::Value::as_u64).unwrap_or(0);
            if !context.partial && context.facts.get("entries").is_some() && captured != of(&self.expected) {
                checks.push(Check::equal(format!("{kind} entries in the point"), captured, of(&self.expected)));
            }
            if of(&self.expected) > 0 {
                checks.push(Check::equal(format!("{kind} entries in the target"), of(&self.expected), of(&self.found)));
            }
        }
        checks.push(Check::equal("file bytes in the target", self.expected.bytes, self.found.bytes));
        checks
    }
}

/// Whether nothing below the directory `outer` can follow once `path` came, in byte order: `a-b` comes between `a` and `a/b`.
fn is_past(path: &[u8], outer: &[u8]) -> bool {
    match path.strip_prefix(outer) {
        Some(rest) => rest.first().is_some_and(|next| *next > b'/'),
        None => true,
    }
}

fn dress_directory(placing: &Placing, path: &[u8], attributes: &FileAttributes) {
    let dress = || -> io::Result<()> {
        let place = placing.tree.place(path, false)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = File::from(openat(&place.directory, place.name, flags, Mode::empty())?);
        placing.dress(&directory, path, attributes)
    };
    if let Err(error) = dress() {
        placing.problem(path, error);
    }
}

#[cfg(test)]
mod tests {
    use super::is_past;

    #[test]
    fn a_directory_stays_open_over_siblings_that_sort_before_its_contents() {
        assert!(!is_past(b"a-b", b"a"));
        assert!(!is_past(b"a/b", b"a"));
        assert!(is_past(b"a0", b"a"));
        assert!(is_past(b"b", b"a"));
        assert!(is_past(b"a/b", b"a-b"));
    }
}
