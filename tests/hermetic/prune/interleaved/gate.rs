//! The gate: every call of every actor waits here until it is its turn, and an actor that was killed gets nothing through any more.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use farshore::stores::{
    Download, GetOptions, ObjectAttributes, ObjectStat, Page, PutOptions, SharedStore, Store, StoreError, UploadedPart,
};
use tokio::sync::{Notify, oneshot};

use super::{
    roles::{ROLES, Role},
    witness::Witness,
};

/// What an actor wants to do at the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// Begin something new.
    Begin,
    Put,
    Get,
    Stat,
    List,
    Delete,
    Time,
}

/// A call that waits.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) verb: Verb,
    pub(super) key: String,
    /// The scheduler has thought about stopping the actor here.
    pub(super) considered: bool,
    opens: oneshot::Sender<Turn>,
}

/// Who waits at the gate, and for whom it opens.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<Waiting>,
    /// Somebody came, went through, or is done.
    moved: Notify,
}

#[derive(Debug)]
struct Waiting {
    /// By actor: calls that it wants to make.
    calls: Vec<Vec<Call>>,
    /// What the actor is at was killed: nothing of it gets through any more.
    killed: Vec<bool>,
    done: Vec<bool>,
    /// A call is being carried out.
    busy: bool,
    /// How long the commit took of what the actor is at or has just done, from the last look on.
    commits: Vec<Option<TimeDelta>>,
    /// Whether it has looked at the doom records since.
    looked_again: Vec<bool>,
}

/// The right to make one call; given back when it is dropped.
#[derive(Debug)]
struct Turn(Arc<Gate>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().busy = false;
        self.0.moved.notify_one();
    }
}

impl Gate {
    pub(super) fn of(actors: usize) -> Arc<Self> {
        let calls = (0..actors).map(|_| Vec::new()).collect();
        let no = vec![false; actors];
        let state =
            Waiting { calls, killed: no.clone(), done: no.clone(), busy: false, commits: vec![None; actors], looked_again: no };
        Arc::new(Self { state: Mutex::new(state), moved: Notify::new() })
    }

    async fn pass(&self, actor: usize, verb: Verb, key: &str) -> Result<Turn, StoreError> {
        let killed = || StoreError::Unavailable { place: "gate".to_owned(), detail: "killed".to_owned() };
        let turn = {
            let mut state = self.state.lock().unwrap();
            if state.killed[actor] {
                return Err(killed());
            }
            let (opens, turn) = oneshot::channel();
            state.calls[actor].push(Call { verb, key: key.to_owned(), considered: false, opens });
            turn
        };
        self.moved.notify_one();
        turn.await.map_err(|_| killed())
    }

    /// The actor begins something new, in its turn.
    pub(super) async fn begin(&self, actor: usize) {
        self.state.lock().unwrap().killed[actor] = false;
        drop(self.pass(actor, Verb::Begin, "").await);
        let mut state = self.state.lock().unwrap();
        // Killed while it waited to begin: that kills nothing.
        state.killed[actor] = false;
        state.commits[actor] = None;
    }

    pub(super) fn is_killed(&self, actor: usize) -> bool {
        self.state.lock().unwrap().killed[actor]
    }

    /// How long the actor's commit took, from its last look on, if it came so far.
    pub(super) fn commit_took(&self, actor: usize) -> Option<TimeDelta> {
        self.state.lock().unwrap().commits[actor]
    }

    pub(super) fn commits(&self, actor: usize, took: TimeDelta) {
        let mut state = self.state.lock().unwrap();
        state.commits[actor] = Some(took);
        state.looked_again[actor] = false;
    }

    /// Whether the actor has asked for the doom records since its commit.
    pub(super) fn has_looked_again(&self, actor: usize) -> bool {
        self.state.lock().unwrap().looked_again[actor]
    }

    pub(super) fn looks(&self, actor: usize) {
        self.state.lock().unwrap().looked_again[actor] = true;
    }

    /// Whether it is in the midst of something.
    pub(super) fn is_at_work(&self, actor: usize) -> bool {
        let state = self.state.lock().unwrap();
        !state.done[actor] && !state.calls[actor].iter().any(|call| call.verb == Verb::Begin)
    }

    pub(super) fn done(&self, actor: usize) {
        self.state.lock().unwrap().done[actor] = true;
        self.moved.notify_one();
    }

    /// The actors that wait, when all of them wait or are done; none when all are done.
    pub(super) async fn settled(&self) -> Vec<usize> {
        loop {
            {
                let mut state = self.state.lock().unwrap();
                for calls in &mut state.calls {
                    calls.retain(|call| !call.opens.is_closed());
                }
                let actors = 0..state.done.len();
                let rests = |actor: usize| state.done[actor] || !state.calls[actor].is_empty();
                if !state.busy && actors.clone().all(rests) {
                    return actors.filter(|actor| !state.calls[*actor].is_empty()).collect();
                }
            }
            self.moved.notified().await;
        }
    }

    /// Lets the scheduler see the calls with which the actor waits.
    pub(super) fn waiting<T>(&self, actor: usize, look: impl FnOnce(&mut Vec<Call>) -> T) -> T {
        look(&mut self.state.lock().unwrap().calls[actor])
    }

    pub(super) fn kill(&self, actor: usize) {
        let mut state = self.state.lock().unwrap();
        state.killed[actor] = true;
        state.calls[actor].clear();
    }

    /// Opens for one of the calls with which the actor waits.
    pub(super) fn open(self: &Arc<Self>, actor: usize, number: usize) {
        let mut state = self.state.lock().unwrap();
        let call = state.calls[actor].swap_remove(number);
        state.busy = true;
        drop(state);
        // Dropped, where the actor does not wait any more: that gives the turn back.
        drop(call.opens.send(Turn(Arc::clone(self))));
    }
}

/// The site, as one actor reaches it.
#[derive(Debug)]
pub(super) struct Gated {
    pub(super) inner: SharedStore,
    pub(super) gate: Arc<Gate>,
    pub(super) actor: usize,
    pub(super) witness: Arc<Witness>,
}

#[async_trait]
impl Store for Gated {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    async fn put(&self, key: &str, body: Bytes, options: PutOptions) -> Result<ObjectStat, StoreError> {
        let _turn = self.gate.pass(self.actor, Verb::Put, key).await?;
        self.inner.put(key, body, options).await
    }
    async fn get(&self, key: &str, options: GetOptions) -> Result<Download, StoreError> {
        let _turn = self.gate.pass(self.actor, Verb::Get, key).await?;
        self.inner.get(key, options).await
    }
    async fn stat(&self, key: &str) -> Result<ObjectStat, StoreError> {
        let _turn = self.gate.pass(self.actor, Verb::Stat, key).await?;
        self.inner.stat(key).await
    }
    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let _turn = self.gate.pass(self.actor, Verb::List, prefix).await?;
        self.inner.list(prefix, start_after, limit).await
    }
    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let _turn = self.gate.pass(self.actor, Verb::Delete, key).await?;
        if ROLES[self.actor] == Role::Prune {
            self.witness.sees_deleted(key).await;
        }
        self.inner.delete(key).await
    }
    async fn begin_upload(&self, key: &str, _: ObjectAttributes) -> Result<String, StoreError> {
        panic!("this test does not stop the multipart upload of {key}")
    }
    async fn upload_part(&self, key: &str, _: &str, _: u32, _: Bytes) -> Result<UploadedPart, StoreError> {
        panic!("this test does not stop the multipart upload of {key}")
    }
    async fn complete_upload(&self, key: &str, _: &str, _: &[UploadedPart], _: bool) -> Result<ObjectStat, StoreError> {
        panic!("this test does not stop the multipart upload of {key}")
    }
    async fn abort_upload(&self, key: &str, _: &str) -> Result<(), StoreError> {
        panic!("this test does not stop the multipart upload of {key}")
    }
    async fn time(&self) -> Result<DateTime<Utc>, StoreError> {
        let _turn = self.gate.pass(self.actor, Verb::Time, "").await?;
        self.inner.time().await
    }
    async fn create(&self) -> Result<(), StoreError> {
        self.inner.create().await
    }
}
