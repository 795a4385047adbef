//! A server that does what Microsoft's documents say of blobs with versions and immutability policies, as no server that can be had for
//! tests does: Azurite ignores the headers and answers 501 to the rest. It is a fake: what it does is what we read, not what Azure did.
//!
//! Read were "Put Blob", "Delete Blob", "Get Blob Properties", "Get Container Properties", "List Blobs", "Set" and "Delete Blob
//! Immutability Policy", "Set Blob Tier", "Blob versioning", "Version-level WORM policies". What these leave open can be set both ways in [`Rules`].
//!
//! It verifies no signature and knows no rights.

mod http;
mod listing;
mod state;

use std::{
    net::TcpListener,
    sync::{Arc, Mutex, MutexGuard},
};

use chrono::TimeDelta;
use farshore::{
    clock::{SharedClock, SystemClock},
    stores::{AzureConfig, AzureCredential, AzureStore},
};

use http::{Answer, Request};
use state::State;

pub const ACCOUNT: &str = "fakeaccount";
pub const CONTAINER: &str = "farshore";
/// Signs requests that nobody verifies. Base64.
pub const KEY: &str = "bm8tc2VjcmV0";

/// How the server behaves where that can differ.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// The container has version-level immutability support, and says so.
    pub supports_policies: bool,
    /// It says so whether it has or not.
    pub claims_support: bool,
    /// The identity may not read the container's properties, as one with a signature for the container may not.
    pub denies_properties: bool,
    /// Deleting by name what a policy holds makes it an earlier version (as "Blob versioning" may be read) and is not refused (as recorded
    /// sessions of other clients have it).
    pub deleting_hides: bool,
    /// The current version's policy is set by the blob's name alone.
    pub current_by_name_only: bool,
    /// Whoever asks may shorten a locked policy: a server that does not keep its promise.
    pub lets_locks_be_shortened: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            supports_policies: true,
            claims_support: true,
            denies_properties: false,
            deleting_hides: false,
            current_by_name_only: false,
            lets_locks_be_shortened: false,
        }
    }
}

/// The server. It answers as long as the process lives.
pub struct FakeAzure {
    endpoint: String,
    state: Arc<Mutex<State>>,
}

impl FakeAzure {
    /// With an empty container, and a clock of its own.
    pub fn start(rules: Rules, clock: SharedClock) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}/{ACCOUNT}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::new(rules, clock)));
        let served = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let state = Arc::clone(&served);
                std::thread::spawn(move || {
                    // As long as the client keeps the connection.
                    while let Some(request) = Request::read(&mut stream) {
                        let answer = lock(&state).answer(&request);
                        if answer.write(&request, &mut stream).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { endpoint, state }
    }

    /// Where clocks are the machine's.
    pub fn today(rules: Rules) -> Self {
        Self::start(rules, SystemClock::shared())
    }

    /// The address of the account.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub fn config(&self, prefix: &str) -> AzureConfig {
        AzureConfig {
            account: ACCOUNT.to_owned(),
            container: CONTAINER.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: Some(self.endpoint.clone()),
            credential: AzureCredential::AccountKey(KEY.into()),
            ..AzureConfig::default()
        }
    }

    pub async fn store(&self, prefix: &str) -> AzureStore {
        AzureStore::connect(self.config(prefix)).await.unwrap()
    }

    /// The container is gone.
    pub fn remove_container(&self) {
        lock(&self.state).container_exists = false;
    }

    /// A legal hold on everything.
    pub fn hold_everything(&self) {
        lock(&self.state).hold_everything();
    }

    /// Everything under a prefix was stored so much earlier.
    pub fn age(&self, prefix: &str, by: TimeDelta) {
        lock(&self.state).age(prefix, by);
    }

    /// A rule moves everything under a prefix to the archive tier.
    pub fn archive(&self, prefix: &str) {
        lock(&self.state).archive(prefix);
    }

    /// The priorities with which blobs were brought back so far.
    pub fn priorities(&self) -> Vec<String> {
        lock(&self.state).priorities.clone()
    }

    /// The time of every policy has come.
    pub fn end_policies(&self) {
        lock(&self.state).end_policies();
    }

    /// Methods, paths and queries of all requests so far.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.state).asked.clone()
    }

    /// Names with their numbers of versions, and whether one of them is current.
    pub fn versions(&self) -> Vec<(String, usize, bool)> {
        lock(&self.state).versions()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
