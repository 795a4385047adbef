//! Content type, metadata and tags of objects, which files have no place for.
//!
//! They lie at `.farshore/attributes/<2 hex>/<SHA-256 of the key>-<size>-<mtime in ns>` as JSON, and only when there are any. The
//! name ties them to one state of the object: they are written before the object becomes visible, so that it never appears
//! without them, and an object that was replaced never shows those of its predecessor. A copy of the tree that keeps times
//! (`cp -a`, `rsync -a`) keeps them too.

use std::{
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::fs::{AtFlags, Stat};
use serde::{Deserialize, Serialize};

use super::{
    ObjectAttributes,
    directory::{Missing, descend, install, open_object, open_root},
    path::RESERVED,
    temporary::Temporaries,
};
use crate::stores::bounds::sha256;

/// Directory under [`RESERVED`].
const ATTRIBUTES: &str = "attributes";

#[derive(Serialize, Deserialize)]
struct Sidecar {
    /// For people who look into the directory.
    key: String,
    attributes: ObjectAttributes,
}

fn names(key: &str, stat: &Stat) -> ([String; 3], String) {
    let digest = hex::encode(sha256(key.as_bytes()));
    let name = format!("{digest}-{}-{}", stat.st_size, super::modified_ns(stat));
    ([RESERVED.to_owned(), ATTRIBUTES.to_owned(), digest[..2].to_owned()], name)
}

/// Writes the attributes of the object that is about to become visible, if it has any.
pub(super) fn write(
    root: &Path,
    temporaries: &Temporaries,
    key: &str,
    stat: &Stat,
    attributes: &ObjectAttributes,
) -> io::Result<()> {
    if *attributes == ObjectAttributes::default() {
        return Ok(());
    }
    let (directories, name) = names(key, stat);
    let parent = descend(open_root(root)?, &directories, Missing::Make(temporaries))?;
    let (mut file, mut temporary) = temporaries.file()?;
    let text = serde_json::to_vec(&Sidecar { key: key.to_owned(), attributes: attributes.clone() })?;
    file.write_all(&text)?;
    file.sync_all()?;
    install((temporary.parent(), temporary.name()), &parent, &name, false)?;
    temporary.keep();
    Ok(())
}

/// The attributes of the object in this state.
///
/// # Errors
/// `InvalidData` if they are not what [`write`] wrote.
pub(super) fn read(root: &Path, key: &str, stat: &Stat) -> io::Result<ObjectAttributes> {
    let (directories, name) = names(key, stat);
    let opened = find(root, &directories).and_then(|parent| open_object(&parent, &name));
    let mut text = Vec::new();
    match opened {
        Ok((mut file, _)) => file.read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ObjectAttributes::default()),
        Err(error) => return Err(error),
    };
    let sidecar: Sidecar = serde_json::from_slice(&text)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}/{name}: {error}", directories.join("/"))))?;
    Ok(sidecar.attributes)
}

/// Forgets the attributes of a state that is gone; what cannot be removed stays and is never read again.
pub(super) fn forget(root: &Path, key: &str, stat: &Stat) {
    let (directories, name) = names(key, stat);
    if let Ok(parent) = find(root, &directories)
        && let Err(error) = rustix::fs::unlinkat(&parent, &name, AtFlags::empty())
        && error != rustix::io::Errno::NOENT
    {
        tracing::debug!(%error, name, "old attributes could not be removed");
    }
}

fn find(root: &Path, directories: &[String]) -> io::Result<OwnedFd> {
    descend(open_root(root)?, directories, Missing::Stop)
}
