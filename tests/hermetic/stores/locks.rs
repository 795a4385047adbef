//! Locks: the contract of stores that lock, and of those that cannot.

use std::time::Duration;

use farshore::{
    clock::SystemClock,
    stores::{FilesystemStore, Limit, MemoryStore, Retry, RetryPolicy},
};

use crate::support::{
    faulty_store::{Call, Fault, FaultyStore},
    lock_contract::a_store_without_locks_refuses_them,
    store_contract::Fresh,
};

async fn memory() -> Fresh {
    Fresh::new(MemoryStore::locking("test", SystemClock::shared()))
}

/// Every wrapper over it, and every call failing once.
async fn wrapped() -> Fresh {
    let faulty = FaultyStore::over(MemoryStore::locking("test", SystemClock::shared()));
    for call in [Call::Put, Call::Lock, Call::Delete, Call::Create] {
        faulty.queue(call, [Fault::Throttled]);
    }
    let quick = RetryPolicy { first_pause: Duration::from_micros(10), ..RetryPolicy::default() };
    Fresh::new(Retry::over(Limit::over(faulty, 2), quick, SystemClock::shared()))
}

mod memory_contract {
    crate::lock_contract!(super::memory);
}

mod wrapped_contract {
    crate::lock_contract!(super::wrapped);
}

/// A versioned store is a store like any other.
mod versioned_contract {
    crate::store_contract!(super::memory);
}

#[tokio::test]
async fn a_memory_store_without_locks_refuses_them() {
    a_store_without_locks_refuses_them(&(MemoryStore::new("test") as _)).await;
}

#[tokio::test]
async fn a_directory_refuses_locks() {
    let directory = tempfile::tempdir().unwrap();
    a_store_without_locks_refuses_them(&(FilesystemStore::new(directory.path().to_owned()) as _)).await;
}
