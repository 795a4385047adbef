//! The log that a backup needs.

use std::{collections::HashMap, sync::Arc};

use super::{
    WAL,
    direct::Direct,
    in_place::KNOWN_FROM,
    read::{ROW_BYTES, Reading, Wanted},
    records::{Followed, Records},
    server::{Server, Stopped},
    wal::{Layout, Segment},
};
use crate::{
    progress::SharedObserver,
    sources::{Cut, Entry, Sink, SourceError, postgres::connect::Session},
};

/// Captures the log from the beginning of the backup to its end, and the histories of timelines; returns how many segments there are, and what they
/// say.
///
/// # Errors
/// [`SourceError::Unfit`] for a segment that is not there or does not hold what its name says, a record that cannot be replayed, and, of a
/// server that is too old to keep it in its data directory, one that makes a tablespace.
pub async fn capture_log(
    session: &Session,
    server: &Server,
    stopped: &Stopped,
    sink: &dyn Sink,
    observer: &SharedObserver,
) -> Result<(u64, Followed), SourceError> {
    let mut log = Log { session, direct: server.direct.as_ref(), layout: server.layout, stopped, sink, observer, records: None };
    let doing = "listing the log";
    let rows = session.client.query("SELECT pg_catalog.pg_ls_dir('pg_wal', true, false)", &[]).await;
    let names: Vec<String> = rows.map_err(|error| session.failed(doing, &error))?.iter().map(|row| row.get(0)).collect();
    let wanted = log.wanted(names)?;
    for (name, segment) in &wanted {
        let entry = log.file(name, *segment).await?;
        sink.entry(entry).await?;
        observer.items(1);
    }
    let Some(records) = log.records else { return Err(log.missing("from the beginning of the backup on")) };
    let followed = records.finish().map_err(|detail| unfit(session, &detail))?;
    if followed.naming > 0 && server.version < KNOWN_FROM {
        return Err(SourceError::Unfit {
            subject: session.subject.clone(),
            detail: "a tablespace was made while the backup ran, and a server before 14.5 that replays that writes to the same directory, on whatever machine: start the backup again, and update the server".to_owned(),
        });
    }
    Ok((wanted.iter().filter(|(_, segment)| segment.is_some()).count() as u64, followed))
}

fn unfit(session: &Session, detail: &str) -> SourceError {
    SourceError::Unfit {
        subject: session.subject.clone(),
        detail: format!("the log cannot be replayed: {detail}; see the server's log and its disks, and try again"),
    }
}

/// The log as it is read.
struct Log<'a> {
    session: &'a Session,
    direct: Option<&'a Arc<Direct>>,
    layout: Layout,
    stopped: &'a Stopped,
    sink: &'a dyn Sink,
    observer: &'a SharedObserver,
    /// From the first segment's first page on.
    records: Option<Records>,
}

impl Log<'_> {
    /// Which files are needed, in the order of their names.
    fn wanted(&self, names: Vec<String>) -> Result<Vec<(String, Option<Segment>)>, SourceError> {
        let (layout, label) = (self.layout, &self.stopped.label);
        // Of a segment that two timelines have, the later one's holds all of it.
        let mut there: HashMap<u64, Segment> = HashMap::new();
        for segment in names.iter().filter_map(|name| layout.parse(name)) {
            let latest = there.entry(segment.number).or_insert(segment);
            *latest = (*latest).max(segment);
        }
        let mut wanted: Vec<(String, Option<Segment>)> =
            names.into_iter().filter(|name| is_history(name)).map(|name| (name, None)).collect();
        for number in layout.segment_of(label.start)..=layout.segment_before(self.stopped.end) {
            let segment = there.get(&number).filter(|segment| segment.timeline >= label.timeline);
            let segment = *segment.ok_or_else(|| self.missing(&layout.name(Segment { number, timeline: label.timeline })))?;
            wanted.push((layout.name(segment), Some(segment)));
        }
        wanted.sort();
        Ok(wanted)
    }

    fn missing(&self, name: &str) -> SourceError {
        SourceError::Unfit {
            subject: self.session.subject.clone(),
            detail: format!(
                "segment {name} of the log, which the backup needs, is not there although a slot held it: see what removes files from pg_wal, and try again"
            ),
        }
    }

    async fn file(&mut self, name: &str, segment: Option<Segment>) -> Result<Entry, SourceError> {
        let (layout, Stopped { label, end, .. }) = (self.layout, self.stopped);
        let bytes = if segment.is_some() { layout.segment_bytes } else { ROW_BYTES };
        let mut reading =
            Reading::begin(self.session, self.direct, &[Wanted { path: format!("pg_wal/{name}"), offset: 0, bytes }]).await?;
        let mut writer = self.sink.content(Cut::ContentDefined, segment.map(|_| bytes)).await?;
        let mut check = segment.map(|segment| layout.check(segment, 1, *end));
        let wrong = |detail: String| SourceError::Unfit {
            subject: format!("pg_wal/{name}"),
            detail: format!("{detail}: the log that the backup needs is not there; see the server's log, and try again"),
        };
        let mut fresh = Vec::new();
        while let Some(row) = reading.next().await? {
            if !row.is_there {
                return Err(self.missing(name));
            }
            while let Some(bytes) = reading.bytes().await? {
                if let Some(check) = &mut check {
                    check.feed(&bytes).map_err(wrong)?;
                    if self.records.is_none() {
                        // The size of pages comes with the first header: what came so far waits for it.
                        fresh.extend_from_slice(&bytes);
                        if check.page_bytes() > 0 {
                            let mut records = Records::new(layout, check.page_bytes(), label.start, *end);
                            records.feed(&std::mem::take(&mut fresh)).map_err(wrong)?;
                            self.records = Some(records);
                        }
                    } else if let Some(records) = &mut self.records {
                        records.feed(&bytes).map_err(wrong)?;
                    }
                }
                self.observer.bytes(bytes.len() as u64);
                writer.write(bytes).await?;
            }
        }
        if let Some(check) = check {
            check.finish().map_err(wrong)?;
        }
        let mut entry = Entry::new(format!("{WAL}{name}"), "wal");
        entry.content = Some(writer.finish().await?);
        Ok(entry)
    }
}

/// `00000002.history`.
pub fn is_history(name: &str) -> bool {
    name.strip_suffix(".history").is_some_and(|number| number.len() == 8 && number.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
