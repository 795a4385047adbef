//! From directories into a sink: the walk merged with the newest point's entries.

use std::{collections::HashMap, io, sync::Arc};

use async_trait::async_trait;
use futures_util::{
    FutureExt, StreamExt, TryStreamExt,
    future::{BoxFuture, Either, Ready, ready},
    stream::{self, BoxStream},
};
use serde_bytes::ByteBuf;
use tokio::sync::mpsc;

use super::{
    FILE, FileAttributes, FilesOptions, HARDLINK,
    attributes::{Fingerprint, size},
    filter::Filter,
    outcome::Counts,
    owners::Owners,
    read::{self, blocking, read_file},
    walk::{Step, Walk, look, roots},
};
use crate::{
    clock::SharedClock,
    progress::{Finding, Problem, SharedObserver},
    sources::{Capture, CaptureContext, Captured, Content, Entry, Examination, Sink, SourceError, earlier::Earlier, entry::unpack},
};

/// Steps handed over at once by the walking thread, and how many such hands may wait.
const STEPS_AT_ONCE: usize = 64;
const HANDS_WAITING: usize = 8;

/// Entries that may wait for the sink.
const ENTRIES_WAITING: usize = 256;

/// Captures directories and files.
#[derive(Debug)]
pub struct FilesSource {
    options: FilesOptions,
}

impl FilesSource {
    /// A source of what `options` name.
    pub fn new(options: FilesOptions) -> Self {
        Self { options }
    }

    /// The paths that exist; the others are problems, and fatal if there are no others.
    async fn roots(&self, observer: &SharedObserver) -> Result<Vec<Vec<u8>>, SourceError> {
        let mut present = Vec::new();
        let mut missing = None;
        for root in roots(&self.options.paths)? {
            let looked = root.clone();
            let path = format!("/{}", String::from_utf8_lossy(&root));
            match blocking(move || look(&looked)).await {
                Ok(link) => {
                    if link {
                        observer.problem(Problem::new(
                            path,
                            "is a symbolic link and stored as no more than that; name its destination in the policy to capture what is behind it",
                        ));
                    }
                    present.push(root);
                }
                Err(error) => {
                    observer.problem(Problem::new(
                        path.clone(),
                        format!("cannot be captured: {error}; correct the path in the policy, or create it"),
                    ));
                    missing = Some((path, error));
                }
            }
        }
        match missing {
            Some((path, error)) if present.is_empty() => Err(SourceError::Unfit {
                subject: path,
                detail: format!("{error}, and no other path of this source is there; correct the paths in the policy"),
            }),
            None if present.is_empty() => Err(SourceError::Unfit {
                subject: "files".to_owned(),
                detail: "no path is named; name at least one in the policy".to_owned(),
            }),
            _ => Ok(present),
        }
    }
}

/// What the walk and the newest point say together.
enum Outcome {
    Unchanged { entry: Entry, several_names: bool },
    Looked(read::Outcome),
    Step(Step),
}

enum Planned {
    Known(Outcome),
    Read { path: Vec<u8>, size: u64 },
}

/// The ordered merge of walk and newest point.
struct Merge<'a> {
    steps: mpsc::Receiver<Vec<Step>>,
    hand: std::vec::IntoIter<Step>,
    earlier: Earlier<'a>,
}

impl Merge<'_> {
    async fn next(&mut self) -> Result<Option<Planned>, SourceError> {
        let step = loop {
            if let Some(step) = self.hand.next() {
                break step;
            }
            let Some(hand) = self.steps.recv().await else { return Ok(None) };
            self.hand = hand.into_iter();
        };
        let path = match &step {
            Step::File { path, .. } | Step::HardLink { path, .. } => path,
            Step::Entry(entry) => &entry.path,
            Step::Socket | Step::Partial { .. } | Step::Unreadable { .. } => return Ok(Some(Planned::Known(Outcome::Step(step)))),
        };
        let earlier = self.earlier.find(path).await?;
        Ok(Some(match step {
            Step::File { path, stat } => match earlier {
                Some(entry) if unchanged(&entry, &stat) => {
                    Planned::Known(Outcome::Unchanged { entry, several_names: stat.st_nlink > 1 })
                }
                _ => Planned::Read { path, size: size(&stat) },
            },
            other => Planned::Known(Outcome::Step(other)),
        }))
    }
}

fn unchanged(entry: &Entry, stat: &rustix::fs::Stat) -> bool {
    entry.kind == FILE
        && entry.content.is_some()
        && unpack::<Fingerprint>(&entry.attributes).is_ok_and(|fingerprint| fingerprint.is_of(stat))
}

/// What became of everything, in order, several files being read at once.
fn look_at_all<'a>(
    merge: &'a mut Merge<'_>,
    sink: &'a dyn Sink,
    observer: &'a SharedObserver,
    owners: &'a Arc<Owners>,
    clock: &'a SharedClock,
    parallelism: usize,
) -> BoxStream<'a, Result<Outcome, SourceError>> {
    stream::try_unfold(merge, |merge| async move { Ok::<_, SourceError>(merge.next().await?.map(|next| (next, merge))) })
        .map_ok(move |planned| look_at(planned, sink, observer, owners, clock))
        .try_buffered(parallelism)
        .boxed()
}

/// Known at once, or after reading.
type Look<'a> = Either<Ready<Result<Outcome, SourceError>>, BoxFuture<'a, Result<Outcome, SourceError>>>;

/// A reader's state is boxed apart, so that an unchanged file does not pay for its size.
fn look_at<'a>(
    planned: Planned,
    sink: &'a dyn Sink,
    observer: &'a SharedObserver,
    owners: &'a Arc<Owners>,
    clock: &SharedClock,
) -> Look<'a> {
    match planned {
        Planned::Known(outcome) => Either::Left(ready(Ok(outcome))),
        Planned::Read { path, size } => {
            let now = clock.now();
            Either::Right(async move { Ok(Outcome::Looked(read_file(path, size, sink, observer, owners, now).await?)) }.boxed())
        }
    }
}

/// Hands entries to the sink, in order, and counts.
struct HandingOver<'a> {
    sink: &'a dyn Sink,
    observer: &'a SharedObserver,
    counts: Counts,
    /// First names of files with several, for the names to come.
    firsts: HashMap<Vec<u8>, (Content, Vec<u8>)>,
}

impl HandingOver<'_> {
    async fn outcome(&mut self, outcome: Outcome) -> Result<(), SourceError> {
        match outcome {
            Outcome::Unchanged { entry, several_names } => {
                self.counts.unchanged += 1;
                self.counts.unchanged_bytes += entry.size();
                self.observer.bytes(entry.size());
                self.file(entry, several_names).await
            }
            Outcome::Looked(read::Outcome::Read { entry, several_names, changed, partial }) => {
                if changed {
                    self.counts.changed += 1;
                    self.problem(
                        &entry.path,
                        "changed while it was read: its parts may show different instants; if it matters, stop its writer or capture it by a `command` source",
                    );
                }
                if let Some(partial) = partial {
                    self.problem(&entry.path, &format!("{partial} and are not in this point; run the agent as root"));
                }
                self.counts.read += 1;
                self.counts.read_bytes += entry.size();
                self.file(entry, several_names).await
            }
            Outcome::Looked(read::Outcome::Unreadable { path, error }) | Outcome::Step(Step::Unreadable { path, error }) => {
                self.unreadable(&path, &error);
                Ok(())
            }
            Outcome::Step(Step::Entry(entry)) => self.entry(entry).await,
            Outcome::Step(Step::HardLink { path, first, last }) => self.hard_link(path, first, last).await,
            Outcome::Step(Step::Partial { path, problem }) => {
                self.problem(&path, &problem);
                Ok(())
            }
            Outcome::Step(Step::Socket) => {
                self.counts.sockets += 1;
                Ok(())
            }
            // The merge turns files into the outcomes above.
            Outcome::Step(Step::File { path, .. }) => {
                self.unreadable(&path, &io::Error::other("it was not looked at"));
                Ok(())
            }
        }
    }

    async fn file(&mut self, entry: Entry, several_names: bool) -> Result<(), SourceError> {
        if several_names && let Some(content) = &entry.content {
            self.firsts.insert(entry.path.clone(), (content.clone(), entry.attributes.clone()));
        }
        self.entry(entry).await
    }

    async fn hard_link(&mut self, path: Vec<u8>, first: Vec<u8>, last: bool) -> Result<(), SourceError> {
        let known = if last { self.firsts.remove(&first) } else { self.firsts.get(&first).cloned() };
        let Some((content, attributes)) = known else {
            let first = String::from_utf8_lossy(&first).into_owned();
            self.counts.unreadable += 1;
            self.problem(&path, &format!("is another name of {first}, which could not be read; see there"));
            return Ok(());
        };
        let mut entry = Entry { path, kind: HARDLINK.to_owned(), modified: None, content: Some(content), attributes };
        let mut attributes: FileAttributes = entry.attributes()?;
        entry.modified = attributes.mtime.timestamp();
        attributes.link = Some(ByteBuf::from(first));
        entry.set_attributes(&attributes)?;
        self.entry(entry).await
    }

    async fn entry(&mut self, entry: Entry) -> Result<(), SourceError> {
        self.counts.entry(&entry);
        self.observer.items(1);
        Ok(self.sink.entry(entry).await?)
    }

    fn unreadable(&mut self, path: &[u8], error: &io::Error) {
        if error.kind() == io::ErrorKind::NotFound {
            self.counts.vanished += 1;
            self.problem(
                path,
                "vanished after it was listed and is not in this point; the next backup will show whether it is back",
            );
            return;
        }
        self.counts.unreadable += 1;
        self.problem(
            path,
            &format!("could not be read and is not in this point: {error}; give the agent the right to read it, or exclude it in the policy"),
        );
    }

    fn problem(&self, path: &[u8], message: &str) {
        self.observer.problem(Problem::new(format!("/{}", String::from_utf8_lossy(path)), message));
    }
}

#[async_trait]
impl Capture for FilesSource {
    fn kind(&self) -> &'static str {
        "files"
    }

    fn describe(&self) -> String {
        self.options.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
    }

    /// Opens each path that the policy names, and nothing below it.
    async fn examine(&self, _: &Examination) -> Vec<Finding> {
        let mut findings = Vec::new();
        for path in &self.options.paths {
            let (shown, opened) = (path.display().to_string(), path.clone());
            let open = blocking(move || match std::fs::symlink_metadata(&opened)? {
                kind if kind.is_dir() => std::fs::read_dir(&opened).map(|_| "a directory that can be read"),
                kind if kind.is_file() => std::fs::File::open(&opened).map(|_| "a file that can be read"),
                kind if kind.is_symlink() => Ok("a symbolic link, and stored as no more than that"),
                _ => Ok("something else than a file or directory"),
            });
            findings.push(match open.await {
                Ok(found) => Finding::sound(shown, found),
                Err(error) => Finding::wrong(
                    shown,
                    error.to_string(),
                    "mend `paths` in the policy, or let the user that farshore runs as read it",
                ),
            });
        }
        findings
    }

    async fn capture(&self, context: CaptureContext<'_>) -> Result<Captured, SourceError> {
        let CaptureContext { sink, earlier, observer, clock, parallelism, .. } = context;
        observer.phase(&format!("files {}", self.describe()), None);
        let started = clock.monotonic();
        let filter = Filter::new(&self.options.include, &self.options.exclude)?;
        let roots = self.roots(&observer).await?;
        let owners = Arc::new(blocking(|| Ok(Owners::of_this_machine())).await.map_err(SourceError::io("/etc/passwd"))?);
        let walk = Walk::new(roots, filter, Arc::clone(&owners), self.options.one_file_system);
        let (step_sender, steps) = mpsc::channel(HANDS_WAITING);
        // It ends when its receiver does.
        let walking = tokio::task::spawn_blocking(move || {
            let mut hand = Vec::with_capacity(STEPS_AT_ONCE);
            for step in walk {
                hand.push(step);
                if hand.len() == STEPS_AT_ONCE
                    && step_sender.blocking_send(std::mem::replace(&mut hand, Vec::with_capacity(STEPS_AT_ONCE))).is_err()
                {
                    return;
                }
            }
            let _ = step_sender.blocking_send(hand);
        });
        let mut merge = Merge { steps, hand: Vec::new().into_iter(), earlier: Earlier::new(earlier) };
        let (sender, mut outcomes) = mpsc::channel(ENTRIES_WAITING);
        let looked_at = look_at_all(&mut merge, sink, &observer, &owners, &clock, parallelism.max(1));
        let reading = async move {
            let mut looked_at = looked_at;
            while let Some(outcome) = looked_at.next().await {
                // The receiver only goes away with an error of its own, which is the one that is reported.
                if sender.send(outcome?).await.is_err() {
                    break;
                }
            }
            Ok::<(), SourceError>(())
        };
        let mut handing_over = HandingOver { sink, observer: &observer, counts: Counts::default(), firsts: HashMap::new() };
        let handing = async {
            while let Some(outcome) = outcomes.recv().await {
                handing_over.outcome(outcome).await?;
            }
            Ok::<(), SourceError>(())
        };
        futures_util::future::try_join(reading, handing).await?;
        // A walk that died would look like an empty directory.
        walking.await.map_err(|error| SourceError::io(self.describe())(io::Error::other(error)))?;
        let counts = handing_over.counts;
        let gone = merge.earlier.gone().await?;
        let paths: Vec<String> = self.options.paths.iter().map(|path| path.display().to_string()).collect();
        let seconds = clock.monotonic().saturating_sub(started).as_secs_f64();
        Ok(Captured { facts: counts.facts(&paths, gone, seconds), consistent_at: None })
    }
}
