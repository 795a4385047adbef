//! The way back: a command's output into a file or into a restore command.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use super::{OUTPUT, process::Running};
use crate::{
    progress::{Check, PhaseTime},
    sources::{Content, Rebuild, RebuildContext, Rebuilt, SourceError},
};

/// Where a captured output goes.
#[derive(Debug, Clone)]
pub enum CommandTarget {
    /// Into this file, mode 0600; it appears under its name when it is whole and on disk.
    File(PathBuf),
    /// Into the standard input of this program (no shell), whose exit status is obeyed.
    Pipe(Vec<String>),
}

impl CommandTarget {
    async fn output(&self, context: &RebuildContext<'_>) -> Result<Content, SourceError> {
        let mut entries = context.origin.entries();
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            if entry.path == OUTPUT.as_bytes() {
                return Ok(entry.content.unwrap_or_default());
            }
        }
        Err(SourceError::Malformed { subject: self.describe(), detail: format!("the snapshot has no entry `{OUTPUT}`") })
    }

    async fn write_file(path: &Path, content: &Content, context: &RebuildContext<'_>) -> Result<u64, SourceError> {
        if !context.into_existing && tokio::fs::symlink_metadata(path).await.is_ok() {
            return Err(exists(path));
        }
        let directory = parent(path).to_owned();
        let subject = path.display().to_string();
        // Made with mode 0600: the output may hold secrets.
        let mut file = blocking(move || tempfile::Builder::new().prefix(".farshore-").tempfile_in(directory))
            .await
            .map_err(SourceError::io(subject.clone()))?;
        let mut total = 0;
        let mut pieces = context.origin.read(content);
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            total += piece.len() as u64;
            context.observer.bytes(piece.len() as u64);
            file = blocking(move || file.write_all(&piece).map(|()| file)).await.map_err(SourceError::io(subject.clone()))?;
        }
        let (target, replace) = (path.to_owned(), context.into_existing);
        blocking(move || {
            file.as_file().sync_all()?;
            let kept = if replace { file.persist(&target) } else { file.persist_noclobber(&target) };
            kept.map_err(|error| error.error)?;
            std::fs::File::open(parent(&target))?.sync_all()
        })
        .await
        .map_err(|error| {
            if error.kind() == std::io::ErrorKind::AlreadyExists { exists(path) } else { SourceError::io(subject)(error) }
        })?;
        Ok(total)
    }

    async fn feed_program(&self, argv: &[String], content: &Content, context: &RebuildContext<'_>) -> Result<u64, SourceError> {
        let (running, mut stdin) = Running::receiving(argv)?;
        let mut pieces = context.origin.read(content);
        let mut total = 0;
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            if let Err(error) = stdin.write_all(&piece).await {
                // What it says as it ends tells more than the broken pipe.
                drop(stdin);
                running.succeeded().await?;
                return Err(SourceError::Program {
                    program: self.describe(),
                    detail: format!(
                        "ended well, but stopped reading after {total} of {} bytes ({error}); it must read its whole standard input",
                        content.size
                    ),
                });
            }
            total += piece.len() as u64;
            context.observer.bytes(piece.len() as u64);
        }
        stdin.shutdown().await.map_err(SourceError::io(self.describe()))?;
        drop(stdin);
        running.succeeded().await?;
        Ok(total)
    }
}

#[async_trait]
impl Rebuild for CommandTarget {
    fn describe(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Pipe(argv) => argv.join(" "),
        }
    }

    async fn inspect(&self, _facts: &serde_json::Value, into_existing: bool) -> Result<String, SourceError> {
        match self {
            Self::File(path) => {
                let exists_already = tokio::fs::symlink_metadata(path).await.is_ok();
                if exists_already && !into_existing {
                    return Err(exists(path));
                }
                if !tokio::fs::metadata(parent(path)).await.is_ok_and(|found| found.is_dir()) {
                    return Err(SourceError::UnfitTarget {
                        subject: path.display().to_string(),
                        detail: "its directory does not exist; make it first".to_owned(),
                    });
                }
                Ok(format!("{}: {}", path.display(), if exists_already { "replaces a file" } else { "a new file" }))
            }
            Self::Pipe(argv) => {
                let program = argv.first().map_or("", String::as_str);
                if !found(program) {
                    return Err(SourceError::UnfitTarget {
                        subject: argv.join(" "),
                        detail: format!("there is no executable `{program}`; install it or name it by its full path"),
                    });
                }
                Ok(format!("into the standard input of `{}`", argv.join(" ")))
            }
        }
    }

    async fn rebuild(&self, context: RebuildContext<'_>) -> Result<Rebuilt, SourceError> {
        context.observer.phase("object transfer", context.facts.get("bytes").and_then(serde_json::Value::as_u64));
        let started = context.clock.monotonic();
        let content = self.output(&context).await?;
        let bytes = match self {
            Self::File(path) => Self::write_file(path, &content, &context).await?,
            Self::Pipe(argv) => self.feed_program(argv, &content, &context).await?,
        };
        context.observer.items(1);
        Ok(Rebuilt {
            checks: vec![Check::equal("output bytes", content.size, bytes)],
            phases: vec![PhaseTime {
                name: "object transfer".to_owned(),
                seconds: (context.clock.monotonic() - started).as_secs_f64(),
            }],
            items: 1,
            items_kept: 0,
            bytes,
            replayed: None,
        })
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn exists(path: &Path) -> SourceError {
    SourceError::UnfitTarget {
        subject: path.display().to_string(),
        detail: "exists already; name another file, or say --into-existing to replace it".to_owned(),
    }
}

/// Whether the system would find this program.
fn found(program: &str) -> bool {
    let executable = |path: &Path| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    if program.contains('/') {
        return executable(Path::new(program));
    }
    std::env::var_os("PATH").is_some_and(|all| std::env::split_paths(&all).any(|directory| executable(&directory.join(program))))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(std::io::Error::other(error)),
    }
}
