//! Recipients change, and everything that can come in between.

mod beside;
mod damage;
mod interrupted;
mod racing;
mod slow;
mod stale;

use chrono::DateTime;
use farshore::{
    operations::OperationError,
    progress::Tally,
    repository::{Identities, Recipients, RotationRequest, RotationSummary, generate_identity},
    stores::SharedStore,
};

use crate::support::recovery::{Objects, Recovery, noise, objects, store_of};

/// Somebody with an identity.
#[derive(Clone)]
struct Person {
    identity: Identities,
    public: String,
}

impl Person {
    fn new() -> Self {
        let (secret, public) = generate_identity(DateTime::UNIX_EPOCH);
        Self { identity: Identities::parse("test", &secret).unwrap(), public }
    }
}

/// Ann and Bob are the recipients, Cid shall become one, and the agent works every night.
struct Team {
    recovery: Recovery,
    ann: Person,
    bob: Person,
    cid: Person,
    agent: Person,
}

impl Team {
    fn new() -> Self {
        let mut recovery = Recovery::new(true);
        let [ann, bob, cid, agent] = std::array::from_fn(|_| Person::new());
        recovery.recipients =
            Recipients::parse(&[ann.public.clone(), bob.public.clone()], std::slice::from_ref(&agent.public)).unwrap();
        recovery.identities = agent.identity.clone();
        recovery.agent = agent.identity.clone();
        Self { recovery, ann, bob, cid, agent }
    }

    /// A site with two points; what each of them gives back.
    async fn begun(&self) -> (Objects, [Objects; 2]) {
        let store: SharedStore = store_of(&Objects::new()).await;
        self.recovery.init(&store).await;
        let cache = self.recovery.fresh_cache();
        self.recovery.put("first", noise(60_000, 1)).await;
        self.recovery.backup(store.clone(), &cache).await.unwrap();
        let then = objects(self.recovery.source.as_ref()).await;
        self.recovery.put("second", noise(70_000, 2)).await;
        self.recovery.backup(store.clone(), &cache).await.unwrap();
        (objects(store.as_ref()).await, [then, objects(self.recovery.source.as_ref()).await])
    }

    /// Those whom a policy with these readers names.
    fn named(&self, readers: &[&Person]) -> Recipients {
        let keys: Vec<_> = readers.iter().map(|person| person.public.clone()).collect();
        Recipients::parse(&keys, std::slice::from_ref(&self.agent.public)).unwrap()
    }

    fn request(&self, readers: &[&Person]) -> RotationRequest {
        RotationRequest { readers: readers.iter().map(|person| person.public.clone()).collect(), ..RotationRequest::default() }
    }

    async fn rotate(&self, who: &Person, store: SharedStore, request: &RotationRequest) -> Result<RotationSummary, OperationError> {
        let repository = self.recovery.open_with(&who.identity, store, &self.recovery.fresh_cache()).await?;
        Ok(repository.rotate(request, Tally::alone().as_ref()).await?)
    }

    /// What this person alone gets back from the n-th point, the oldest first.
    async fn restore(&self, who: &Person, store: SharedStore, number: usize) -> Result<Objects, OperationError> {
        let cache = self.recovery.fresh_cache();
        let ids: Vec<_> = {
            let repository = self.recovery.open_with(&who.identity, store.clone(), &cache).await?;
            repository.point_names(Some("p")).await?.into_iter().map(|name| name.id).collect()
        };
        self.recovery.restore_with(&who.identity, store, &cache, &ids[number]).await
    }

    async fn assert_opens_everything(&self, who: &Person, store: &SharedStore, contents: &[Objects], what: &str) {
        for (number, content) in contents.iter().enumerate() {
            let restored = self.restore(who, store.clone(), number).await;
            assert!(restored.unwrap_or_else(|error| panic!("{what}, point {number}: {error}")) == *content, "{what}");
        }
        let verified = self.recovery.verify_with(&who.identity, store.clone(), &self.recovery.fresh_cache()).await.unwrap();
        assert_eq!(verified.damage, [], "{what}");
    }
}

/// The objects whose keys begin so.
fn below(all: &Objects, prefix: &str) -> Objects {
    all.iter().filter(|(key, _)| key.starts_with(prefix)).map(|(key, body)| (key.clone(), body.clone())).collect()
}
