//! Loading rows and large objects, in parallel.

use std::{
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use futures_util::{SinkExt, TryStreamExt, future::try_join_all};

use super::{
    PostgresConfig,
    connect::Session,
    failure::Side,
    large_objects,
    quote::{identifiers, qualified},
    tables::SegmentAttributes,
    target::LOCK_TIMEOUT,
};
use crate::sources::{Content, Entry, RebuildContext, SourceError};

/// A segment of a table to load.
pub(super) struct TableSegment {
    pub(super) attributes: SegmentAttributes,
    pub(super) content: Content,
}

/// A table of at least so many bytes, in one segment, is truncated and loaded frozen in one transaction: nobody else can see the
/// database yet, so rows visible early harm nobody, and a server with `wal_level = minimal` skips the WAL. Smaller ones are not worth a new file.
const FREEZE_FROM_BYTES: u64 = 1 << 20;

/// A session for loading.
pub(super) async fn session(build: &PostgresConfig) -> Result<Session, SourceError> {
    let session = build.connect(Side::Target).await?;
    session.settle(LOCK_TIMEOUT).await?;
    // A crash loses the whole database that is being built anyway.
    session.execute("setting up the session", "SET synchronous_commit = off").await?;
    Ok(session)
}

/// Sessions for loading.
pub(super) async fn sessions(build: &PostgresConfig, parallelism: usize) -> Result<Vec<Session>, SourceError> {
    try_join_all((0..parallelism.max(1)).map(|_| session(build))).await
}

/// Ends them politely.
pub(super) async fn close(sessions: Vec<Session>) {
    for session in sessions {
        session.close().await;
    }
}

/// Loads all tables, the biggest segments first.
pub(super) async fn tables(
    sessions: &[Session],
    segments: &[TableSegment],
    context: &RebuildContext<'_>,
) -> Result<(), SourceError> {
    let mut queue: Vec<&TableSegment> = segments.iter().collect();
    queue.sort_by_key(|segment| std::cmp::Reverse(segment.content.size));
    let next = AtomicUsize::new(0);
    let work = |session| {
        let (queue, next) = (&queue, &next);
        async move {
            while let Some(segment) = queue.get(next.fetch_add(1, Ordering::Relaxed)) {
                table(session, segment, context).await?;
                context.observer.items(1);
            }
            Ok::<_, SourceError>(())
        }
    };
    try_join_all(sessions.iter().map(work)).await?;
    Ok(())
}

async fn table(session: &Session, segment: &TableSegment, context: &RebuildContext<'_>) -> Result<(), SourceError> {
    let attributes = &segment.attributes;
    if attributes.rows == 0 {
        return Ok(());
    }
    let own = qualified(&attributes.schema, &attributes.table);
    let name = attributes.through.as_ref().map_or_else(|| own.clone(), |(schema, table)| qualified(schema, table));
    let doing = format!("loading {own}");
    let columns = match attributes.columns.as_slice() {
        [] => String::new(),
        columns => format!(" ({})", identifiers(columns)),
    };
    // An extension's table has rows of the extension's own, which must stay.
    let alone = attributes.segments == 1 && attributes.through.is_none() && attributes.condition.is_none();
    let frozen = alone && segment.content.size >= FREEZE_FROM_BYTES;
    if frozen {
        session.execute(&doing, &format!("BEGIN; TRUNCATE ONLY {name}")).await?;
    }
    let statement = format!("COPY {name}{columns} FROM STDIN{}", if frozen { " WITH (FREEZE)" } else { "" });
    let loaded = copy_in(session, &doing, &statement, &segment.content, context).await?;
    if loaded != attributes.rows {
        return Err(SourceError::Malformed {
            subject: own,
            detail: format!("{loaded} rows were loaded, {} were captured", attributes.rows),
        });
    }
    if frozen {
        session.execute(&doing, "COMMIT").await?;
    }
    Ok(())
}

async fn copy_in(
    session: &Session,
    doing: &str,
    statement: &str,
    content: &Content,
    context: &RebuildContext<'_>,
) -> Result<u64, SourceError> {
    let copy = session.client.copy_in::<_, Bytes>(statement).await.map_err(|error| session.failed(doing, &error))?;
    let mut copy = pin!(copy);
    let mut stream = context.origin.read(content);
    while let Some(bytes) = stream.try_next().await? {
        context.observer.bytes(bytes.len() as u64);
        if let Err(error) = copy.send(bytes).await {
            // The server's reason, if it gave one, is only told at the end.
            let reason = copy.as_mut().finish().await.err().filter(|reason| reason.as_db_error().is_some());
            return Err(session.failed(doing, &reason.unwrap_or(error)));
        }
    }
    copy.finish().await.map_err(|error| session.failed(doing, &error))
}

/// Makes all large objects, an entry per session at a time.
pub(super) async fn large_objects(
    sessions: &[Session],
    entries: &[Entry],
    context: &RebuildContext<'_>,
) -> Result<(), SourceError> {
    let next = AtomicUsize::new(0);
    let work = |session| {
        let next = &next;
        async move {
            while let Some(entry) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
                let content = entry.content.clone().unwrap_or_default();
                large_objects::rebuild(session, entry, context.origin.read(&content), |bytes| context.observer.bytes(bytes))
                    .await?;
                context.observer.items(1);
            }
            Ok::<_, SourceError>(())
        }
    };
    try_join_all(sessions.iter().map(work)).await?;
    Ok(())
}
