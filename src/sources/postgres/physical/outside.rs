//! Configuration that lies outside of the data directory.

use super::{CONFIG, capture::content, server::Server};
use crate::{
    progress::{Problem, SharedObserver},
    sources::{Sink, SourceError, postgres::connect::Session},
};

/// The server's configuration files that lie elsewhere.
///
/// # Errors
/// The server's.
pub async fn paths(session: &Session, data_directory: &str) -> Result<Vec<String>, SourceError> {
    let sql = "SELECT path FROM (SELECT setting FROM pg_catalog.pg_settings WHERE name IN ('config_file', 'hba_file', 'ident_file') \
               UNION SELECT sourcefile FROM pg_catalog.pg_settings WHERE sourcefile IS NOT NULL) AS s(path) \
               WHERE path <> '' AND NOT starts_with(path, $1) ORDER BY path COLLATE \"C\"";
    let doing = "looking for configuration outside of the data directory";
    let inside = format!("{}/", data_directory.trim_end_matches('/'));
    let rows = session.client.query(sql, &[&inside]).await.map_err(|error| session.failed(doing, &error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Captures configuration files that lie elsewhere, as on Debian; returns how many. One that the role may not read is told to the
/// observer: the cluster itself is captured all the same.
///
/// # Errors
/// The server's and the sink's.
pub async fn capture_outside(
    session: &Session,
    server: &Server,
    sink: &dyn Sink,
    observer: &SharedObserver,
) -> Result<u64, SourceError> {
    let doing = "reading configuration outside of the data directory";
    let mut captured = 0;
    for path in paths(session, &server.data_directory).await? {
        let sql = "SELECT pg_catalog.pg_read_binary_file($1, 0, 16777216, true)";
        match session.client.query_one(sql, &[&path]).await {
            Ok(row) => {
                let Some(bytes) = row.get::<_, Option<Vec<u8>>>(0) else { continue };
                let entry = content(sink, &format!("{CONFIG}{}", path.trim_start_matches('/')), "config", bytes.into()).await?;
                sink.entry(entry).await?;
                captured += 1;
            }
            Err(error) if error.as_db_error().is_some() => observer.problem(Problem::new(
                path,
                "lies outside of the data directory, where this role may not read, and is not in this point: GRANT pg_read_server_files to the role, or add the file to a source of kind \"files\"",
            )),
            Err(error) => return Err(session.failed(doing, &error)),
        }
    }
    Ok(captured)
}
