//! Identities: where they come from, and the passphrase of one that is wrapped.
//!
//! A passphrase comes from the terminal, unseen; for a machine, from the file that `FARSHORE_PASSPHRASE_FILE` names, from
//! `FARSHORE_PASSPHRASE`, or from the systemd credential `identity-passphrase`. Never from the command line.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{CliError, exposed::warn_if_exposed};
use crate::repository::{Identities, RepositoryError, is_passphrase_wrapped, open_identities};

/// The file that holds a passphrase.
const PASSPHRASE_FILE: &str = "FARSHORE_PASSPHRASE_FILE";
/// The passphrase itself.
const PASSPHRASE: &str = "FARSHORE_PASSPHRASE";
/// Name of the systemd credential.
const CREDENTIAL: &str = "identity-passphrase";
/// Ctrl-C, Ctrl-D, Ctrl-H, Ctrl-U and the key above Return, as a terminal sends them.
const INTERRUPT: u8 = 3;
const END: u8 = 4;
const BACKSPACE: u8 = 8;
const KILL: u8 = 21;
const DELETE: u8 = 127;
/// Longest passphrase, bytes.
const MAX_PASSPHRASE_BYTES: usize = 4096;

/// Runs what asks a person or works on a passphrase, away from the threads that must not wait.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CliError> + Send + 'static,
) -> Result<T, CliError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| CliError::other("identity", error))?
}

/// Reads these identity files; without any, the systemd credential `identity`, where there is one.
pub(super) async fn read(files: Vec<PathBuf>) -> Result<Identities, CliError> {
    off_thread(move || {
        let mut all = Identities::none();
        let from_systemd = credential("identity").filter(|_| files.is_empty());
        for path in files.iter().chain(&from_systemd) {
            all = all.and(&file(path)?);
        }
        Ok(all)
    })
    .await
}

/// A systemd credential of this name, where there is one.
fn credential(name: &str) -> Option<PathBuf> {
    let directory = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?);
    Some(directory.join(name)).filter(|path| path.exists())
}

/// The bytes of an identity file.
pub(super) fn contents(path: &Path) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let read = std::fs::read(path).map_err(|error| RepositoryError::Key {
        place: path.display().to_string(),
        detail: format!(
            "the identity cannot be read: {error}; name a file that `farshore key generate` made, with --identity FILE"
        ),
    })?;
    warn_if_exposed(path);
    Ok(Zeroizing::new(read))
}

/// Reads an identity file, wrapped with a passphrase or not. Blocks: it may ask a person.
pub(super) fn file(path: &Path) -> Result<Identities, CliError> {
    let place = path.display().to_string();
    let bytes = contents(path)?;
    if is_passphrase_wrapped(&bytes) {
        let passphrase = match given_passphrase()? {
            Some(passphrase) => passphrase,
            None => ask(&place, &format!("Passphrase of {place}: "))?,
        };
        return Ok(open_identities(&place, &bytes, &passphrase)?);
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| RepositoryError::Key {
        place: place.clone(),
        detail: "is no identity: not even text; name a file that `farshore key generate` made".to_owned(),
    })?;
    Ok(Identities::parse(&place, &SecretString::from(text))?)
}

/// A passphrase for a new identity: given, or typed twice. Blocks.
pub(super) fn choose_passphrase() -> Result<SecretString, CliError> {
    if let Some(passphrase) = given_passphrase()? {
        return Ok(passphrase);
    }
    let first = ask("passphrase", "New passphrase: ")?;
    let again = ask("passphrase", "The same again: ")?;
    if first.expose_secret() != again.expose_secret() {
        return Err(CliError::other("passphrase", "the two are not the same; nothing was written, try again"));
    }
    Ok(first)
}

/// The passphrase that the environment holds, if it does.
fn given_passphrase() -> Result<Option<SecretString>, CliError> {
    let file = std::env::var_os(PASSPHRASE_FILE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let (place, text) = match (file, std::env::var(PASSPHRASE).ok().filter(|value| !value.is_empty())) {
        (Some(path), _) => (path.display().to_string(), read_passphrase(&path)?),
        (None, Some(text)) => (PASSPHRASE.to_owned(), Zeroizing::new(text)),
        (None, None) => match credential(CREDENTIAL) {
            Some(path) => (path.display().to_string(), read_passphrase(&path)?),
            None => return Ok(None),
        },
    };
    let line = text.strip_suffix('\n').unwrap_or(&text);
    if line.trim().is_empty() {
        return Err(CliError::setting(place, "the passphrase is missing: nothing but white space is there"));
    }
    Ok(Some(SecretString::from(line)))
}

fn read_passphrase(path: &Path) -> Result<Zeroizing<String>, CliError> {
    warn_if_exposed(path);
    std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| CliError::setting(path.display().to_string(), format!("the passphrase cannot be read: {error}")))
}

/// A terminal that shows nothing of what is typed, until it is dropped.
struct Unseen {
    terminal: File,
    before: Termios,
}

impl Unseen {
    fn open() -> std::io::Result<Self> {
        let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        // Without signals from the keyboard: nothing must end us before the terminal is as it was. Each key arrives at once and
        // as a byte, Ctrl-C, too.
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG | LocalModes::ICANON);
        tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
        let _ = self.terminal.write_all(b"\n");
    }
}

/// Asks for a line that is not shown.
fn ask(place: &str, question: &str) -> Result<SecretString, CliError> {
    let nowhere = |error: std::io::Error| {
        CliError::setting(
            place,
            format!(
                "a passphrase is needed and there is no terminal to ask on ({error}); put it into a file and name that in {PASSPHRASE_FILE}, or into the credential {CREDENTIAL}"
            ),
        )
    };
    let mut unseen = Unseen::open().map_err(nowhere)?;
    unseen.terminal.write_all(question.as_bytes()).map_err(nowhere)?;
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_PASSPHRASE_BYTES));
    let mut byte = [0];
    while line.len() < MAX_PASSPHRASE_BYTES && unseen.terminal.read(&mut byte).map_err(nowhere)? == 1 {
        match byte[0] {
            b'\n' | b'\r' => break,
            INTERRUPT | END => return Err(CliError::other(place, "no passphrase was given; nothing was done")),
            BACKSPACE | DELETE => while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            KILL => line.clear(),
            other => line.push(other),
        }
    }
    let text = std::str::from_utf8(&line).map_err(|_| CliError::other(place, "the passphrase is no UTF-8 text"))?;
    Ok(SecretString::from(text))
}
