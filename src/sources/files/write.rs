//! Writing files from pieces that come in any order.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Mutex, PoisonError},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, ftruncate, linkat, openat, renameat},
    io::Errno,
};

use super::{FILE, attributes::FileAttributes, metadata::kind, place::Placing, sparse, writeback};
use crate::{sources::Piece, stores::direct};

/// A file that is being written under a temporary name beside its own.
#[derive(Debug)]
pub(super) struct Writing {
    pub(super) path: Vec<u8>,
    pub(super) stored: u64,
    attributes: FileAttributes,
    temporary: Vec<u8>,
    state: Mutex<State>,
    /// Held by who writes pieces: the kernel lets one write to a file at a time, and others would spin for it instead of doing something else.
    pub(super) turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    made: bool,
    arrived: u64,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    Abandoned,
}

/// What pieces brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    Whole,
    /// They belong to a file that was given up.
    Unwanted,
}

impl Writing {
    /// A file of `stored` bytes; `temporary` is a name that no entry has.
    ///
    /// # Errors
    /// If the attributes contradict the number of bytes.
    pub(super) fn new(path: Vec<u8>, stored: u64, attributes: FileAttributes, temporary: Vec<u8>) -> io::Result<Self> {
        let sound = match &attributes.data {
            Some(segments) => sparse::sound(segments, attributes.size, stored),
            None => attributes.size == stored,
        };
        if !sound || i64::try_from(attributes.size).is_err() {
            return Err(io::Error::other(format!("its {stored} stored bytes do not make a file of {}", attributes.size)));
        }
        Ok(Self { path, stored, attributes, temporary, state: Mutex::default(), turn: tokio::sync::Mutex::default() })
    }

    /// Writes pieces; the last one completes the file and gives it its name.
    pub(super) fn pieces(&self, placing: &Placing, pieces: Vec<Piece>) -> io::Result<Progress> {
        let is_beyond = |piece: &Piece| piece.offset.checked_add(piece.bytes.len() as u64).is_none_or(|end| end > self.stored);
        if pieces.iter().any(is_beyond) {
            return Err(io::Error::other("a piece came that lies beyond its end"));
        }
        let place = placing.tree.place(&self.path, true)?;
        let file = {
            let mut state = self.lock();
            if state.end.is_some() {
                return Ok(Progress::Unwanted);
            }
            let mut flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if !state.made {
                flags |= OFlags::CREATE | OFlags::EXCL;
            }
            let file = File::from(openat(&place.directory, self.temporary.as_slice(), flags, Mode::from_raw_mode(0o600))?);
            if !state.made {
                state.made = true;
                // What is not written stays a hole.
                ftruncate(&file, self.attributes.size)?;
            }
            file
        };
        let length: u64 = pieces.iter().map(|piece| piece.bytes.len() as u64).sum();
        self.put(&file, &pieces)?;
        // Their memory goes back as soon as it is written.
        drop(pieces);
        let mut state = self.lock();
        let steps = state.arrived / writeback::STEP;
        state.arrived += length;
        if state.arrived < self.stored {
            let is_due = state.arrived / writeback::STEP > steps;
            drop(state);
            if is_due {
                writeback::begin(&file);
            }
            return Ok(Progress::More);
        }
        if state.end.is_some() {
            return Ok(Progress::Unwanted);
        }
        placing.dress(&file, &self.path, &self.attributes)?;
        renameat(&place.directory, self.temporary.as_slice(), &place.directory, place.name)?;
        state.end = Some(End::Whole);
        drop(state);
        if self.stored >= writeback::STEP {
            writeback::begin(&file);
        }
        Ok(Progress::Whole)
    }

    /// Writes stored bytes to where they belong.
    fn put(&self, file: &File, pieces: &[Piece]) -> io::Result<()> {
        let Some(segments) = &self.attributes.data else {
            let mut pieces: Vec<_> = pieces.iter().map(|piece| (piece.offset, &piece.bytes[..])).collect();
            // Several that a source read at once lie in turn in a pack.
            pieces.sort_unstable_by_key(|(offset, _)| *offset);
            return direct::write_pieces(file, &pieces);
        };
        for Piece { offset, bytes, .. } in pieces {
            let mut bytes = &bytes[..];
            for (start, count) in sparse::places(segments, *offset, bytes.len() as u64) {
                let (now, later) = bytes.split_at(usize::try_from(count).map_err(io::Error::other)?);
                file.write_all_at(now, start)?;
                bytes = later;
            }
        }
        Ok(())
    }

    /// Gives the file up, unless it is whole, and removes what was written. Returns whether it was given up by this call.
    pub(super) fn abandon(&self, placing: &Placing) -> bool {
        let mut state = self.lock();
        if state.end.is_some() {
            return false;
        }
        state.end = Some(End::Abandoned);
        if state.made
            && let Ok(place) = placing.tree.place(&self.path, false)
        {
            // If this fails too, the temporary name says what it is.
            let _ = rustix::fs::unlinkat(&place.directory, self.temporary.as_slice(), AtFlags::empty());
        }
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a file that is there already is the one to be restored, by size and time; its mode and owner are set if they differ.
pub(super) fn is_there(placing: &Placing, path: &[u8], attributes: &FileAttributes) -> io::Result<bool> {
    let Some(there) = placing.tree.stat(path)? else { return Ok(false) };
    let same = kind(&there) == Some(FILE)
        && super::attributes::size(&there) == attributes.size
        && super::attributes::mtime(&there) == attributes.mtime;
    if same && placing.undressed(&there, attributes) {
        let place = placing.tree.place(path, false)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&place.directory, place.name, flags, Mode::empty())?);
        placing.dress(&file, path, attributes)?;
    }
    Ok(same)
}

/// Gives a restored file one more name. Returns whether the name is new.
pub(super) fn link(placing: &Placing, path: &[u8], first: &[u8]) -> io::Result<bool> {
    let source = placing.tree.place(first, false)?;
    let Some(stat) = source.stat()?.filter(|stat| kind(stat) == Some(FILE)) else {
        return Err(io::Error::other(format!("its first name {} was not restored", String::from_utf8_lossy(first))));
    };
    let place = placing.tree.place(path, true)?;
    if placing.into_existing
        && let Some(there) = place.stat()?
    {
        if (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino) {
            return Ok(false);
        }
        place.clear()?;
    }
    match linkat(&source.directory, source.name, &place.directory, place.name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::MLINK | Errno::PERM | Errno::NOTSUP) => {
            Err(io::Error::other("the file system of the target has no hard links, or no more of them"))
        }
        Err(error) => Err(error.into()),
    }
}
