//! Connection poolers that stand in between.

use super::{PostgresConfig, connect::Session, failure::Side};
use crate::sources::SourceError;

/// A pooler in transaction mode gives every transaction another server process: settings, snapshots and backups would be lost. While
/// a second session holds the process that the first one was shown, a pooler has to show the first one another.
///
/// # Errors
/// [`SourceError::Unfit`] when there is one.
pub(super) async fn refuse(config: &PostgresConfig, leader: &Session) -> Result<(), SourceError> {
    let other = config.connect(Side::Source).await?;
    let doing = "looking for a pooler";
    // Simple queries: a pooler may lose a prepared statement between preparing and executing it.
    let pid = async |session: &Session| {
        let answer = session.client.simple_query("SELECT pg_backend_pid()").await.map_err(|error| session.failed(doing, &error))?;
        let row = answer.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok::<_, SourceError>(row)
    };
    let first = pid(leader).await?;
    other.execute(doing, "BEGIN").await?;
    let second = pid(&other).await?;
    let again = pid(leader).await?;
    other.execute(doing, "ROLLBACK").await?;
    other.close().await;
    if first == again && first != second {
        return Ok(());
    }
    Err(SourceError::Unfit {
        subject: config.describe(),
        detail: "a connection pooler in transaction mode stands in between: give the server's own host and port, or a pool in session mode".to_owned(),
    })
}
