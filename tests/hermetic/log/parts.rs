//! A segment that the server was still writing when it was lost.

use std::{fs, ops::Range, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use farshore::{
    clock::SystemClock,
    operations::{Archives, Delivered, GetRequest, OpenArchive, OperationError, deliver},
    repository::{LogKey, LogName, LogPut, LogReader, LogWriter},
    stores::SharedStore,
};

use super::{
    SEGMENT_BYTES, SYSTEM,
    faults::{begun, log_name, opened, put, writer},
    name, segment, segment_of,
};
use crate::support::recovery::Recovery;

struct Site<'a>(&'a Recovery, SharedStore);

#[async_trait]
impl OpenArchive for Site<'static> {
    fn name(&self) -> String {
        "far".to_owned()
    }

    async fn open(&self) -> Result<LogReader, OperationError> {
        Ok(LogReader::new(opened(self.0, &self.0.identities, self.1.clone()).await))
    }
}

/// Sites of one repository each, all for the same readers, and where a server recovers.
struct Far {
    recovery: &'static Recovery,
    stores: Vec<SharedStore>,
    writers: Vec<LogWriter>,
    pg_wal: tempfile::TempDir,
}

impl Far {
    async fn new() -> Self {
        let (recovery, store) = begun(true).await;
        // The sites are opened by futures that outlive this function.
        let recovery: &'static Recovery = Box::leak(Box::new(recovery));
        let writer = writer(recovery, store.clone(), &LogKey::default()).await;
        Self { recovery, stores: vec![store], writers: vec![writer], pg_wal: tempfile::tempdir().unwrap() }
    }

    async fn part(&self, number: u64, range: Range<u64>) {
        self.part_of(number, range, &segment(number)).await;
    }

    async fn part_of(&self, number: u64, range: Range<u64>, bytes: &[u8]) {
        let name = LogName::part(SYSTEM, &name(1, number), &range).unwrap();
        let bytes = bytes[range.start as usize..range.end as usize].to_vec();
        assert_eq!(self.writers[0].put(&name, bytes.into()).await.unwrap(), LogPut::Stored);
    }

    async fn get(&self, number: u64) -> Result<Delivered, String> {
        let site = |store: &SharedStore| -> Arc<dyn OpenArchive> { Arc::new(Site(self.recovery, store.clone())) };
        let sites: Vec<_> = self.stores.iter().map(site).collect();
        let _ = fs::remove_file(self.to());
        let (name, to, clock) = (log_name(&name(1, number)), self.to(), SystemClock::shared());
        let request = GetRequest { name: &name, to: &to, in_place: false, start: None, clock };
        deliver(request, async || Ok::<_, OperationError>(Archives::new(sites.clone()))).await.map_err(|error| error.to_string())
    }

    fn to(&self) -> std::path::PathBuf {
        self.pg_wal.path().join("RECOVERYXLOG")
    }

    /// A segment comes as far as this, and zeros after it.
    #[track_caller]
    fn delivered(&self, number: u64, known: usize) {
        let bytes = fs::read(self.to()).unwrap();
        assert_eq!(bytes.len(), SEGMENT_BYTES);
        assert!(bytes[..known] == segment(number)[..known] && bytes[known..].iter().all(|byte| *byte == 0), "{known}");
    }
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_segment_is_delivered_as_far_as_its_parts_go_and_others_are_not() {
    let far = Far::new().await;
    put(&far.writers[0], 1).await.unwrap();
    assert_eq!(far.get(2).await, Ok(Delivered::Absent));
    far.part(2, 5000..6000).await;
    assert_eq!(far.get(2).await, Ok(Delivered::Absent), "nothing from the beginning");
    assert!(is_empty(far.pg_wal.path()));
    far.part(2, 0..39).await;
    assert_eq!(far.get(2).await, Ok(Delivered::Absent), "not even a header");
    far.part(2, 0..3000).await;
    assert_eq!(far.get(2).await, Ok(Delivered::File));
    far.delivered(2, 3000);
    // Another run began anew, and reaches over the hole.
    far.part(2, 0..5500).await;
    far.part(2, 100_000..200_000).await;
    assert_eq!(far.get(2).await, Ok(Delivered::File));
    far.delivered(2, 6000);
    assert_eq!(far.get(1).await, Ok(Delivered::File));
    far.delivered(1, SEGMENT_BYTES);
    assert_eq!(far.get(3).await, Ok(Delivered::Absent));
    // What comes later makes a gap of it: another segment, or parts of one.
    far.part(4, 0..3000).await;
    far.recovery.clock.advance(Duration::from_secs(60));
    for number in [2, 3] {
        assert!(far.get(number).await.unwrap_err().contains("the log has a gap"));
    }
    put(&far.writers[0], 4).await.unwrap();
    assert!(far.get(2).await.unwrap_err().contains("the log has a gap"));
    put(&far.writers[0], 2).await.unwrap();
    assert_eq!(far.get(2).await, Ok(Delivered::File));
    far.delivered(2, SEGMENT_BYTES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_that_do_not_fit_each_other_or_their_name_stop_a_recovery() {
    let far = Far::new().await;
    far.part(2, 0..3000).await;
    let other = segment_of(SYSTEM, 1, 2, 99);
    far.part_of(2, 500..4000, &other).await;
    assert!(far.get(2).await.unwrap_err().contains("other bytes than an earlier part"));
    // Another place in the log, another cluster.
    far.part_of(5, 0..3000, &segment(4)).await;
    assert!(far.get(5).await.unwrap_err().contains("used again"));
    far.part_of(7, 0..3000, &segment_of(1, 1, 7, 0)).await;
    assert!(far.get(7).await.unwrap_err().contains("system identifier"));
    // Fewer bytes than the name says, sealed as they are.
    let name = LogName::part(SYSTEM, &super::name(1, 9), &(0..9000)).unwrap();
    far.writers[0].put(&name, segment(9)[..3000].to_vec().into()).await.unwrap();
    assert!(far.get(9).await.unwrap_err().contains("has 3000 bytes"));
    // More than a segment has.
    far.part_of(11, 0..SEGMENT_BYTES as u64 + 10, &[segment(11), vec![1; 10]].concat()).await;
    assert!(far.get(11).await.unwrap_err().contains("its header says"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_has_itself_beyond_the_parts_is_taken_and_what_it_has_less_is_not() {
    let far = Far::new().await;
    far.part(2, 0..30_000).await;
    let own = far.pg_wal.path().join(name(1, 2));
    let known = |bytes: usize| {
        let mut known = segment(2);
        known[bytes..].fill(0);
        known
    };
    for (has, expected) in [
        (known(SEGMENT_BYTES), Delivered::AtHand),
        (known(50_000), Delivered::AtHand),
        (known(30_000), Delivered::File),
        (known(20_000), Delivered::File),
        (segment(1), Delivered::File),
        (vec![], Delivered::File),
    ] {
        fs::write(&own, &has).unwrap();
        assert_eq!(far.get(2).await, Ok(expected.clone()));
        assert_eq!(far.to().exists(), expected == Delivered::File);
    }
}
