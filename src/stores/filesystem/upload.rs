//! Multipart uploads: parts as files under the reserved directory, joined into the object on completion.
//!
//! `.farshore/uploads/<id>/upload.json` names the key and its attributes, `<number>-<SHA-256>` are the parts.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
};

use rustix::fs::{Mode, OFlags, Stat};
use serde::{Deserialize, Serialize};

use super::{
    Inner, ObjectAttributes, UploadedPart,
    directory::{open_directory, open_object},
    temporary::{UPLOADS, random_name, remove_tree},
};
use crate::stores::bounds::sha256;

/// Describes the upload, in its directory.
const DESCRIPTION: &str = "upload.json";

#[derive(Serialize, Deserialize)]
struct Upload {
    key: String,
    attributes: ObjectAttributes,
}

/// Makes the upload's directory and returns its id.
pub(super) fn begin(store: &Inner, key: &str, attributes: ObjectAttributes) -> io::Result<String> {
    let uploads = store.temporaries.reserved(UPLOADS)?;
    let id = random_name();
    rustix::fs::mkdirat(&uploads, &id, Mode::from_raw_mode(0o777))?;
    let directory = open_directory(&uploads, &id)?;
    let text = serde_json::to_vec(&Upload { key: key.to_owned(), attributes })?;
    create(&directory, DESCRIPTION)?.write_all(&text)?;
    Ok(id)
}

/// Stores one part.
pub(super) fn part(store: &Inner, key: &str, id: &str, number: u32, body: &[u8]) -> io::Result<UploadedPart> {
    let (directory, _) = open(store, key, id)?;
    let sha256 = sha256(body);
    let part = UploadedPart { number, etag: hex::encode(sha256), sha256 };
    create(&directory, &part_name(&part))?.write_all(body)?;
    Ok(part)
}

/// Joins the parts into the object and drops the upload.
///
/// # Errors
/// `InvalidInput` if the parts are not those that were uploaded, in ascending order.
pub(super) fn complete(store: &Inner, key: &str, id: &str, parts: &[UploadedPart], if_absent: bool) -> io::Result<Stat> {
    let (directory, upload) = open(store, key, id)?;
    let (mut file, temporary) = store.temporaries.file()?;
    let mut last = 0;
    for part in parts {
        let (mut stored, stat) = match open_object(&directory, &part_name(part)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(found) if part.number > last => found,
            _ => {
                let detail = format!("part {} was not uploaded like this, or the parts are not in ascending order", part.number);
                return Err(io::Error::new(io::ErrorKind::InvalidInput, detail));
            }
        };
        last = part.number;
        // The standard library copies within the kernel (copy_file_range) where both are files, by hand where it cannot.
        if io::copy(&mut stored, &mut file)? != stat.st_size.cast_unsigned() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("part {} changed while it was joined", part.number)));
        }
    }
    let stat = store.install(key, &file, temporary, &upload.attributes, if_absent)?;
    abort(store, id)?;
    Ok(stat)
}

/// Drops an upload and its parts; no error if there is none.
pub(super) fn abort(store: &Inner, id: &str) -> io::Result<()> {
    if !valid(id) {
        return Ok(());
    }
    remove_tree(&store.temporaries.reserved(UPLOADS)?, id)
}

/// Ids are ours alone; anything else could be a path.
fn valid(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn part_name(part: &UploadedPart) -> String {
    format!("{}-{}", part.number, hex::encode(part.sha256))
}

fn open(store: &Inner, key: &str, id: &str) -> io::Result<(OwnedFd, Upload)> {
    if !valid(id) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let directory = open_directory(store.temporaries.reserved(UPLOADS)?, id)?;
    let mut text = Vec::new();
    open_object(&directory, DESCRIPTION)?.0.read_to_end(&mut text)?;
    let upload: Upload = serde_json::from_slice(&text)?;
    if upload.key == key { Ok((directory, upload)) } else { Err(io::ErrorKind::NotFound.into()) }
}

fn create(directory: &OwnedFd, name: &str) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o666))?.into())
}
