//! Questions that a drill asks a restored database. Both run in read only transactions.

use futures_util::{StreamExt, stream::BoxStream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{PostgresConfig, connect::Session, failure::Side, target::LOCK_TIMEOUT};
use crate::sources::SourceError;

async fn read_only(config: &PostgresConfig) -> Result<Session, SourceError> {
    let session = config.connect(Side::Source).await?;
    // The application's own search_path stays: the operator writes queries as the application does.
    session
        .execute(
            "beginning a read only transaction",
            "SET row_security = off; SET client_encoding = 'UTF8'; SET statement_timeout = 0",
        )
        .await?;
    session.execute("beginning a read only transaction", &format!("SET lock_timeout = {}", LOCK_TIMEOUT.as_millis())).await?;
    session.execute("beginning a read only transaction", "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
    Ok(session)
}

/// The single value that a query yields, as PostgreSQL writes it (`t`, `42`); NULL is the empty string.
///
/// # Errors
/// Those of connecting; [`SourceError::Unfit`] if the query fails, writes, or does not yield one row of one column.
pub async fn probe(config: &PostgresConfig, sql: &str) -> Result<String, SourceError> {
    let session = read_only(config).await?;
    let messages = session.client.simple_query(sql).await.map_err(|error| session.failed("running the probe", &error))?;
    let rows: Vec<_> = messages
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })
        .collect();
    let value = match rows.as_slice() {
        [row] if row.len() == 1 => row.get(0).unwrap_or_default().to_owned(),
        rows => {
            let columns = rows.first().map_or(0, |row| row.len());
            let detail = format!("the probe yields {} rows of {columns} columns: write one that yields a single value", rows.len());
            return Err(SourceError::Unfit { subject: config.describe(), detail });
        }
    };
    session.close().await;
    Ok(value)
}

/// Keys held ready ahead of the reader.
const KEYS_AHEAD: usize = 1024;

/// The distinct keys that a query of one column yields, in byte order, streamed: memory does not grow with their number
/// (the server sorts). NULLs are left out.
pub fn sorted_keys(config: &PostgresConfig, query: &str) -> BoxStream<'static, Result<String, SourceError>> {
    let (sender, receiver) = mpsc::channel(KEYS_AHEAD);
    let (config, query) = (config.clone(), query.trim().trim_end_matches(';').to_owned());
    // Dropping the stream ends the task, and with it the query.
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = send_keys(&config, &query, &sender).await {
            // If nobody listens any more, nobody wants the error either.
            let _ = sender.send(Err(error)).await;
        }
    }));
    futures_util::stream::unfold((receiver, task), |(mut receiver, task)| async move {
        let next = receiver.recv().await?;
        Some((next, (receiver, task)))
    })
    .boxed()
}

async fn send_keys(
    config: &PostgresConfig,
    query: &str,
    sender: &mpsc::Sender<Result<String, SourceError>>,
) -> Result<(), SourceError> {
    let session = read_only(config).await?;
    let doing = "running the cross-check's query";
    // The line break keeps a comment at the query's end from swallowing the bracket.
    let sql = format!(
        "SELECT k FROM (SELECT DISTINCT k::text COLLATE \"C\" AS k FROM ({query}\n) q(k) WHERE k IS NOT NULL) d ORDER BY k COLLATE \"C\""
    );
    let none: [&str; 0] = [];
    let rows = session.client.query_raw(&sql, none).await.map_err(|error| session.failed(doing, &error))?;
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = rows.next().await {
        let key = row.and_then(|row| row.try_get(0)).map_err(|error| session.failed(doing, &error))?;
        if sender.send(Ok(key)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
