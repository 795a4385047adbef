//! What the next prunes make of a site at which something stopped midway.

use std::time::Duration;

use farshore::{repository::Identities, stores::SharedStore};

use super::recovery::{Objects, Recovery};

/// Longer than the grace.
const LATER: Duration = Duration::from_secs(27 * 3600);

impl Recovery {
    /// Prunes a copy of a site until what nobody needs is gone: doomed, deleted after the grace, and once more. Every point that was
    /// committed gives back to `who` what it gave before. Returns how many packs were deleted.
    pub async fn assert_prunes_keep_every_point(&self, all: &Objects, who: &Identities, what: &str) -> u64 {
        let store: SharedStore = self.site_of(all).await;
        let cache = self.fresh_cache();
        let mut points = Vec::new();
        for name in self.open_with(who, store.clone(), &cache).await.unwrap().point_names(None).await.unwrap() {
            let content = self.restore_with(who, store.clone(), &cache, &name.id).await;
            points.push((name.id, content.unwrap_or_else(|error| panic!("{what}: {error}"))));
        }
        let mut deleted = 0;
        for _ in 0..3 {
            self.clock.advance(LATER);
            let report = self.prune(store.clone(), &self.fresh_cache()).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!((report.points_doomed, report.points_deleted), (0, 0), "{what}: {report:?}");
            deleted += report.packs_deleted.objects;
        }
        let cache = self.fresh_cache();
        for (id, content) in points {
            let restored = self.restore_with(who, store.clone(), &cache, &id).await;
            let restored = restored.unwrap_or_else(|error| panic!("{what}, point {id} after the prunes: {error}"));
            assert!(restored == content, "{what}: point {id} is another after the prunes");
        }
        assert_eq!(self.verify_with(who, store, &cache).await.unwrap().damage, [], "{what}, after the prunes");
        deleted
    }
}
