//! Whether there is room for a cluster: on each file system for what lands on it, whichever parts those are.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::sources::{
    SourceError,
    files::{free_bytes, nearest_existing},
};

/// A file takes whole blocks. Bytes.
const BLOCK_BYTES: u64 = 4096;

/// What goes to a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// In words.
    pub(super) name: String,
    pub(super) directory: PathBuf,
    /// Bytes that it has in the end.
    pub(super) bytes: u64,
    /// Names in it that are parts by themselves.
    pub(super) without: &'static [&'static str],
}

/// What a file of so many bytes takes.
pub(super) fn taken(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}

/// Looks whether all of this fits. What lies there already is overwritten or removed, so that only what is missing needs room.
///
/// # Errors
/// [`SourceError::UnfitTarget`] for the first file system that has too little; [`SourceError::Io`].
pub(super) fn check(parts: &[Part]) -> Result<(), SourceError> {
    let mut systems: BTreeMap<u64, Vec<(&Part, u64)>> = BTreeMap::new();
    for part in parts {
        let io = || SourceError::io(part.directory.display().to_string());
        let device = fs::metadata(nearest_existing(&part.directory)).map_err(io())?.dev();
        let there = there(&part.directory, part.without).map_err(io())?;
        systems.entry(device).or_default().push((part, part.bytes.saturating_sub(there)));
    }
    for parts in systems.values() {
        let (Some((first, _)), needed) = (parts.first(), parts.iter().map(|(_, missing)| missing).sum()) else { continue };
        let free = free_bytes(&first.directory).map_err(SourceError::io(first.directory.display().to_string()))?;
        if needed > free {
            let shown = |bytes: u64| bytesize::ByteSize(bytes).to_string();
            let each: Vec<String> = parts.iter().map(|(part, missing)| format!("{} {}", part.name, shown(*missing))).collect();
            return Err(SourceError::UnfitTarget {
                subject: first.directory.display().to_string(),
                detail: format!(
                    "{} are free and {} are needed on this file system ({}); free some space, or name another target",
                    shown(free),
                    shown(needed),
                    each.join(", ")
                ),
            });
        }
    }
    Ok(())
}

/// Bytes that what lies below a directory takes, holes as if they were filled, as in what is to be written; links are not followed.
fn there(directory: &Path, without: &[&str]) -> std::io::Result<u64> {
    let (mut bytes, mut open) = (0, vec![directory.to_owned()]);
    while let Some(next) = open.pop() {
        let entries = match fs::read_dir(&next) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let is_apart = next == directory && without.iter().any(|name| entry.file_name() == *name);
            let found = entry.metadata()?;
            if found.is_dir() && !is_apart {
                open.push(entry.path());
            } else if found.is_file() {
                bytes += taken(found.len());
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Part, check, free_bytes, taken, there};

    #[test]
    fn a_file_system_must_have_room_for_all_parts_that_land_on_it_and_only_for_what_is_missing() {
        let place = tempfile::tempdir().unwrap();
        // Others use this disk as well.
        let (free, slack) = (free_bytes(place.path()).unwrap(), 1 << 30);
        let part = |name: &str, bytes: u64| Part {
            name: name.to_owned(),
            directory: place.path().join(name).join("not/there/yet"),
            bytes,
            without: &[],
        };
        if let Some(most) = free.checked_sub(2 * slack) {
            check(&[part("a", most / 2), part("b", most / 2)]).unwrap();
        }
        let each = free / 2 + slack;
        let said = check(&[part("a", each), part("b", each)]).unwrap_err().to_string();
        assert!(said.contains("are needed on this file system (a ") && said.contains(", b "), "{said}");
        check(&[part("a", 0)]).unwrap();
    }

    #[test]
    fn what_lies_there_counts_by_what_it_takes() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir_all(at("deep/er")).unwrap();
        fs::create_dir_all(at("apart")).unwrap();
        fs::write(at("deep/er/file"), vec![1; 40_000]).unwrap();
        fs::write(at("apart/file"), vec![1; 80_000]).unwrap();
        std::os::unix::fs::symlink(at("apart"), at("deep/link")).unwrap();
        assert_eq!(there(place.path(), &["apart"]).unwrap(), 40_960);
        assert_eq!(there(place.path(), &[]).unwrap(), 40_960 + 81_920);
        assert_eq!(there(&at("nothing"), &[]).unwrap(), 0);
        assert_eq!((taken(0), taken(1), taken(4096), taken(4097)), (0, 4096, 4096, 8192));
    }
}
