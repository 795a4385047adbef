//! Source `files`: directories with everything that a restore needs to put them back.
//!
//! Promises:
//! * Regular files (holes are not stored), directories, symbolic links (never followed), hard links, fifos and device nodes,
//!   with modes, owners by number and name, times to the nanosecond and extended attributes (POSIX ACLs are among them).
//! * A file is read only if its size, mtime, ctime or inode is another than in the newest point.
//! * What changes while it is read, vanishes, or cannot be read is a problem, named; the rest goes on.
//! * Rebuilding follows no symbolic link below the target, whoever made it, and refuses `..`: nothing is written elsewhere.
//!   A file appears under its name when it is whole; one barrier at the end puts everything on disk.
//!
//! Assumes: one directory's names fit into memory (they are sorted); so do the first names of files with several hard links.
//!
//! Leaves out on purpose: sockets (counted in the facts: they mean nothing without their process), file flags (`chattr`), and
//! names of owners that only a directory service knows (their numbers are kept).

mod attributes;
mod capture;
mod delta;
mod filter;
mod finish;
mod metadata;
mod outcome;
mod owners;
mod place;
mod read;
mod rebuild;
mod room;
mod sparse;
mod tree;
mod walk;
mod write;
pub(crate) mod writeback;

use std::path::PathBuf;

pub use attributes::{FileAttributes, Instant};
pub use capture::FilesSource;
pub use rebuild::FilesTarget;
pub use room::{free_bytes, nearest_existing};

/// Which files are captured.
#[derive(Debug, Clone, Default)]
pub struct FilesOptions {
    /// Absolute paths; directories with all that is below them.
    pub paths: Vec<PathBuf>,
    /// Patterns as in `.gitignore`, relative to `/`: only files that match one (or lie in a directory that does) are captured.
    /// None is all. Directories are walked and kept in any case.
    pub include: Vec<String>,
    /// Patterns as in `.gitignore`, relative to `/`: what matches is left out, a directory with all that is below it.
    pub exclude: Vec<String>,
    /// Do not enter other file systems mounted below the paths.
    pub one_file_system: bool,
}

/// A regular file.
pub const FILE: &str = "file";
/// A directory.
pub const DIRECTORY: &str = "directory";
/// A symbolic link.
pub const SYMLINK: &str = "symlink";
/// Another name of a file that came earlier; it carries the same content, so that it can be restored alone.
pub const HARDLINK: &str = "hardlink";
/// A named pipe.
pub const FIFO: &str = "fifo";
/// A character device node.
pub const CHARACTER_DEVICE: &str = "character-device";
/// A block device node.
pub const BLOCK_DEVICE: &str = "block-device";

/// All kinds, in the order of reports.
const KINDS: [&str; 7] = [FILE, DIRECTORY, SYMLINK, HARDLINK, FIFO, CHARACTER_DEVICE, BLOCK_DEVICE];
