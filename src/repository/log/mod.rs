//! The archive of databases' logs: files as PostgreSQL names them, under `wal/<system>/<timeline>/`.
//!
//! Promises:
//! * A file is written once, only if absent. The same file again is told from another one of the same name by a keyed hash that an
//!   agent can read, which opens no data.
//! * A file is sealed under a key that lives in one process, for a day at most; the key is stored before anything is sealed under it,
//!   and lies with the other keys, so that rotation finds it.
//! * A file that is read is whole and what its name says, or there is an error. Nothing of it is handed out before, but by [`FetchedLogFile::open`], whose taker
//!   must not call whole what it has until that has ended well.
//! * Of a segment that is not there whole, parts may be: objects of the same form, which [`LogReader::fetch_parts`] joins.
//! * That a file is not there is told from every other reason not to get it ([`LogAnswer`]).
//!
//! Leaves out on purpose: what the bytes mean, and which files are no longer needed (operations decide that).

mod format;
mod list;
mod name;
mod parts;
mod put;
mod read;
mod remove;

pub use format::{LogHead, LogSealing, MAX_LOG_FILE_BYTES, open_log_file};
pub use list::StoredLog;
pub use name::{LogKind, LogName};
pub use put::{LogKey, LogPut, LogWriter, SealedLog};
pub use read::{FetchedLogFile, LaterLog, LogAnswer, LogKeys, LogReader, Looked};
pub use remove::LogRemoved;
