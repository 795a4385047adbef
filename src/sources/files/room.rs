//! Room for what is going to be written to a directory that may not be there yet.

use std::{
    io,
    path::{Path, PathBuf},
};

/// The directory, or the nearest above it that there is.
pub fn nearest_existing(directory: &Path) -> PathBuf {
    let mut place = directory;
    while !place.exists() {
        place = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    }
    place.to_owned()
}

/// Bytes that are free where a directory is or will be.
///
/// # Errors
/// The file system's.
pub fn free_bytes(directory: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(nearest_existing(directory))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}
