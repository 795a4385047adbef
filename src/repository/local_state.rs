//! What an operation notes down on this machine so that it can go on after it was killed. It can be deleted at any time.
//!
//! Sealed like everything of the catalogue, so that what is believed later is what this program wrote for this repository; who can
//! write to the cache's directory can at most put an older note of the same repository back.

use std::io::Write as _;

use super::{
    Repository, RepositoryError,
    error::Result,
    format::{Header, Kind, MAX_POINT_BYTES},
    index::{open_object, seal_object},
    keys::random,
    workers::off_thread,
};

impl Repository {
    /// Notes `json` down under a file name, in place of what was there. A note that cannot be written costs only time later.
    ///
    /// # Errors
    /// [`RepositoryError::Cache`].
    pub async fn keep_state(&self, name: &'static str, json: Vec<u8>) -> Result<()> {
        let run = random();
        let header = Header { kind: Kind::Mark, catalogue_key: self.catalogue.id, run, data_key: [0; 16] };
        let (directory, catalogue) = (self.cache_directory.clone(), std::sync::Arc::clone(&self.catalogue));
        off_thread(move || {
            let bytes = seal_object(&header, &catalogue.sealing_key(&run), &json);
            let failed = |error: std::io::Error| RepositoryError::Cache {
                path: directory.join(name).display().to_string(),
                detail: error.to_string(),
            };
            std::fs::create_dir_all(&directory).map_err(failed)?;
            let mut file = tempfile::NamedTempFile::new_in(&directory).map_err(failed)?;
            file.write_all(&bytes).map_err(failed)?;
            file.persist(directory.join(name)).map_err(|error| failed(error.error))?;
            Ok(())
        })
        .await
    }

    /// What was noted down under a file name; nothing where there is nothing, or something that this program did not write.
    pub async fn state(&self, name: &'static str) -> Option<Vec<u8>> {
        let path = self.cache_directory.join(name);
        let catalogue = std::sync::Arc::clone(&self.catalogue);
        off_thread(move || {
            let bounded = std::fs::metadata(&path).is_ok_and(|found| found.len() <= MAX_POINT_BYTES);
            let Some(bytes) = bounded.then(|| std::fs::read(&path).ok()).flatten() else { return Ok(None) };
            Ok(open_object(&path.display().to_string(), &bytes, Kind::Mark, &catalogue).ok().map(|(_, plain)| plain))
        })
        .await
        .unwrap_or_default()
    }

    /// Forgets what was noted down under a file name.
    pub fn forget_state(&self, name: &'static str) {
        let _ = std::fs::remove_file(self.cache_directory.join(name));
    }
}
