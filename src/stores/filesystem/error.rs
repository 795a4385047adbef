//! What the operating system's errors mean to a store's caller.

use std::io;

use rustix::io::Errno;

use super::StoreError;

/// The store's error for the operating system's. `NotFound` and `AlreadyExists` are about the object.
pub(super) fn store_error(place: String, action: &'static str, error: &io::Error) -> StoreError {
    let detail = error.to_string();
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => return StoreError::Full { place, detail },
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => return StoreError::Denied { place, action, detail },
        // A network file system whose server is away, or too many open files: passing states.
        Some(Errno::TIMEDOUT | Errno::STALE | Errno::HOSTDOWN | Errno::MFILE | Errno::NFILE | Errno::AGAIN) => {
            return StoreError::Unavailable { place, detail };
        }
        _ => {}
    }
    match error.kind() {
        io::ErrorKind::NotFound => StoreError::NotFound { place },
        io::ErrorKind::AlreadyExists => StoreError::AlreadyExists { place },
        io::ErrorKind::PermissionDenied => StoreError::Denied { place, action, detail },
        io::ErrorKind::InvalidData => StoreError::Corrupt { place, detail },
        _ => StoreError::Other { place, action, detail },
    }
}

#[cfg(test)]
mod tests {
    use super::{Errno, StoreError, store_error};

    fn of(errno: Errno) -> StoreError {
        store_error("/srv/backup/a".to_owned(), "put", &errno.into())
    }

    #[test]
    fn a_full_disk_and_an_exhausted_quota_are_full() {
        assert!(matches!(of(Errno::NOSPC), StoreError::Full { .. }));
        assert!(matches!(of(Errno::DQUOT), StoreError::Full { .. }));
        assert!(matches!(of(Errno::FBIG), StoreError::Full { .. }), "a limit on the size of files (ulimit -f)");
    }

    #[test]
    fn missing_rights_and_a_read_only_mount_are_denied() {
        assert!(matches!(of(Errno::ACCESS), StoreError::Denied { action: "put", .. }));
        assert!(matches!(of(Errno::ROFS), StoreError::Denied { .. }));
    }

    #[test]
    fn only_passing_states_are_transient() {
        assert!(of(Errno::STALE).is_transient());
        assert!(of(Errno::MFILE).is_transient());
        assert!(!of(Errno::IO).is_transient());
        assert!(!of(Errno::NOENT).is_transient());
    }
}
