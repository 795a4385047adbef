//! Secret files that others than their owner may read.
//!
//! Said and no more: whoever restores at three in the morning must not be stopped by a mode that was wrong for years.

use std::{
    collections::BTreeSet,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use crate::report::printable;

/// Places whose modes say nothing: what a shell hands over, and what a pipe was made with.
const HANDED_OVER: [&str; 3] = ["/dev/fd", "/dev/stdin", "/proc"];

/// Files that were spoken of already.
static SAID: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Warns, once for each file, if a file that holds a secret is open to others than its owner. What systemd hands over in its
/// credentials directory is its own business.
pub(super) fn warn_if_exposed(path: &Path) {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|value| !value.is_empty()).map(PathBuf::from);
    if credentials.is_some_and(|directory| path.starts_with(directory)) || HANDED_OVER.iter().any(|place| path.starts_with(place)) {
        return;
    }
    let Ok(found) = std::fs::metadata(path) else { return };
    let mode = found.mode() & 0o7777;
    if !found.is_file() || mode & 0o077 == 0 {
        return;
    }
    if SAID.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(path.to_owned()) {
        let path = printable(&path.display().to_string());
        tracing::warn!("{path} holds a secret and is open to others than its owner (mode {mode:04o}): chmod 600 {path}");
    }
}
