//! Stores that need no server, each held to the contract.

mod filesystem;

mod memory {
    use farshore::stores::MemoryStore;

    use crate::support::store_contract::Fresh;

    async fn fresh() -> Fresh {
        Fresh::new(MemoryStore::new("test"))
    }

    crate::store_contract!(fresh);
}
