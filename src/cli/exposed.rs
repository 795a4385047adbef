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

/// Whether others than those who are meant may read or change it. What belongs to root may be readable by its group, as PostgreSQL allows
/// it for the key of a certificate: so two system users share one key, and neither can change it.
fn is_open(mode: u32, owner: u32) -> bool {
    mode & if owner == 0 { 0o037 } else { 0o077 } != 0
}

/// Warns, once for each file, if a file that holds a secret is open to others than its owner (root's: and its group). What systemd hands
/// over in its credentials directory is its own business.
pub(super) fn warn_if_exposed(path: &Path) {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|value| !value.is_empty()).map(PathBuf::from);
    if credentials.is_some_and(|directory| path.starts_with(directory)) || HANDED_OVER.iter().any(|place| path.starts_with(place)) {
        return;
    }
    let Ok(found) = std::fs::metadata(path) else { return };
    let mode = found.mode() & 0o7777;
    if !found.is_file() || !is_open(mode, found.uid()) {
        return;
    }
    if SAID.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(path.to_owned()) {
        let path = printable(&path.display().to_string());
        tracing::warn!("{path} holds a secret and is open to others than its owner (mode {mode:04o}): chmod 600 {path}");
    }
}

#[cfg(test)]
mod tests {
    use super::is_open;

    #[test]
    fn a_secret_of_roots_may_be_read_by_its_group_and_nobody_elses_may() {
        for (mode, owner, open) in [
            (0o600, 0, false),
            (0o640, 0, false),
            (0o440, 0, false),
            (0o660, 0, true),
            (0o650, 0, true),
            (0o644, 0, true),
            (0o602, 0, true),
            (0o600, 990, false),
            (0o640, 990, true),
            (0o604, 990, true),
        ] {
            assert_eq!(is_open(mode, owner), open, "mode {mode:04o} of user {owner}");
        }
    }
}
