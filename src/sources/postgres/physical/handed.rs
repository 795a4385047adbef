//! Identities handed to a server for as long as it recovers: whoever restores may read them, and the server's user may not.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, chown},
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use zeroize::Zeroizing;

use super::recovery::Fetch;
use crate::sources::{SourceError, postgres::scratch::private_directory};

/// A file system that lies in memory on every Linux: nothing of a key gets to a disk.
const MEMORY: &str = "/dev/shm";

/// Copies that only the server's user can read. Dropping this removes them.
#[derive(Debug)]
pub struct Handed {
    /// The same call with the copies.
    pub fetch: Fetch,
    _directory: Option<TempDir>,
}

impl Handed {
    /// Copies the identities of a call for `owner`, where we are root; otherwise the server runs as we do, and reads them itself.
    ///
    /// # Errors
    /// [`SourceError::Io`].
    pub fn to(fetch: &Fetch, owner: (u32, u32)) -> Result<Self, SourceError> {
        if fetch.identities.is_empty() || !rustix::process::geteuid().is_root() {
            return Ok(Self { fetch: fetch.clone(), _directory: None });
        }
        let place = if Path::new(MEMORY).is_dir() { PathBuf::from(MEMORY) } else { std::env::temp_dir() };
        let io = |path: &Path| SourceError::io(path.display().to_string());
        let directory = private_directory("farshore-keys-", &place).map_err(io(&place))?;
        chown(directory.path(), Some(owner.0), Some(owner.1)).map_err(io(directory.path()))?;
        let mut identities = Vec::new();
        for (number, path) in fetch.identities.iter().enumerate() {
            let key = Zeroizing::new(fs::read(path).map_err(io(path))?);
            let copy = directory.path().join(number.to_string());
            let write = || -> std::io::Result<()> {
                let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&copy)?;
                file.write_all(&key)?;
                chown(&copy, Some(owner.0), Some(owner.1))
            };
            write().map_err(io(&copy))?;
            identities.push(copy);
        }
        Ok(Self { fetch: Fetch { identities, ..fetch.clone() }, _directory: Some(directory) })
    }

    /// As a setting of a server's command line.
    pub fn setting(&self) -> String {
        format!("restore_command={}", self.fetch.command())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::{Fetch, Handed};

    #[test]
    fn copies_are_for_one_user_alone_and_go_away() {
        let place = tempfile::tempdir().unwrap();
        let own = place.path().join("key.txt");
        std::fs::write(&own, "AGE-SECRET-KEY-1").unwrap();
        let fetch = Fetch { argv: vec!["get".to_owned()], identities: vec![own.clone()], ..Fetch::default() };
        let handed = Handed::to(&fetch, (65_534, 65_534)).unwrap();
        let copy = handed.fetch.identities[0].clone();
        assert!(handed.setting().starts_with("restore_command='get' '--identity' '/"), "{}", handed.setting());
        assert_eq!(std::fs::read_to_string(&copy).unwrap(), "AGE-SECRET-KEY-1");
        if rustix::process::geteuid().is_root() {
            let found = std::fs::metadata(&copy).unwrap();
            assert_eq!((found.mode() & 0o777, found.uid()), (0o400, 65_534));
            assert_eq!(std::fs::metadata(copy.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
            drop(handed);
            assert!(!copy.exists());
        } else {
            assert_eq!(copy, own, "the server runs as we do");
        }
        assert!(own.exists());
    }
}
