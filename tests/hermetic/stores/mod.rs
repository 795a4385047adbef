//! Stores that need no server, each held to the contract.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says why by panicking")]

mod azure_locks;
mod busy;
mod filesystem;
mod limit;
mod locks;
mod retry;
mod s3;
mod s3_requests;

mod memory {
    use farshore::stores::MemoryStore;

    use crate::support::store_contract::Fresh;

    async fn fresh() -> Fresh {
        Fresh::new(MemoryStore::new("test"))
    }

    crate::store_contract!(fresh);
}
