//! The program at the other end of a long line from its bucket and its site: 80 ms that the line's speed decides, and 150 ms that lose and
//! break.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use farshore::stores::{PutOptions, S3Store, Store};
use futures_util::{StreamExt, stream};

use crate::{
    s3,
    support::{
        agent::{Agent, noise},
        far_link::FarLink,
        fault_proxy::{Direction, Fault, FaultProxy},
        server,
    },
};

const BUCKET: &str = "farshore-system";

/// An agent in the far region; this side has the server, behind a proxy.
struct Region {
    agent: Agent,
    proxy: FaultProxy,
    prefix: String,
    objects: BTreeMap<String, Vec<u8>>,
    _link: FarLink,
}

impl Region {
    /// With so many objects of so many bytes in the bucket that the agent protects.
    async fn with(link: FarLink, objects: usize, size: usize) -> Self {
        let target: SocketAddr = server("FARSHORE_TEST_S3_ENDPOINT").strip_prefix("http://").unwrap().parse().unwrap();
        let proxy = FaultProxy::start_on(link.here, target).await.unwrap();
        let prefix = s3::fresh_prefix();
        let store = S3Store::connect(s3::config(BUCKET, &format!("{prefix}/bucket"))).await.unwrap();
        store.create().await.unwrap();
        let objects: BTreeMap<_, _> = (0..objects).map(|number| (format!("o{number:05}"), noise(number as u64, size))).collect();
        let puts = objects.iter().map(|(key, body)| store.put(key, Bytes::from(body.clone()), PutOptions::default()));
        let stored: Vec<_> = stream::iter(puts).buffer_unordered(16).collect().await;
        stored.into_iter().for_each(|stored| drop(stored.unwrap()));
        let mut agent = Agent::new("");
        agent.set("S3_SECRET", server("FARSHORE_TEST_S3_SECRET_KEY"));
        agent.move_to(&link.namespace);
        let region = Self { agent, proxy, prefix, objects, _link: link };
        let bucket = format!("[[source]]\nname = \"b\"\nkind = \"bucket\"\nstore = {}\n", region.table("bucket"));
        let site = format!("[[site]]\nname = \"far\"\nstore = {}\n", region.table("site"));
        region.agent.write_policy_with(&bucket, &site, "");
        region
    }

    fn table(&self, part: &str) -> String {
        format!(
            "{{ kind = \"s3\", bucket = \"{BUCKET}\", prefix = \"{}/{part}\", endpoint = \"http://{}\", path_style = true, access_key = \"{}\", \
             secret_key = {{ env = \"S3_SECRET\" }} }}",
            self.prefix,
            self.proxy.address(),
            server("FARSHORE_TEST_S3_ACCESS_KEY"),
        )
    }

    /// Runs the program over there; how long it took.
    async fn run(&self, arguments: &[&str]) -> Duration {
        let mut command = tokio::process::Command::from(self.agent.command(arguments.iter().copied()));
        let started = Instant::now();
        let output = command.kill_on_drop(true).output().await.unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        started.elapsed()
    }

    async fn back_up(&self) -> Duration {
        let policy = self.agent.text("policy.toml");
        self.run(&["init", &policy]).await;
        self.run(&["backup", &policy]).await
    }

    async fn restore(&self) -> Duration {
        let (policy, to, identity) = (self.agent.text("policy.toml"), self.agent.text("restored"), self.agent.text("operator.txt"));
        let took = self.run(&["restore", &policy, "latest", "--source", "b", "--to", &to, "--identity", &identity]).await;
        for (key, body) in &self.objects {
            assert!(std::fs::read(self.agent.path("restored").join(key)).unwrap() == *body, "{key}");
        }
        took
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_80_ms_many_small_objects_take_the_time_of_their_bytes_and_not_of_their_round_trips() {
    let Some(link) = FarLink::up(40, 200, 0.0) else { return };
    let region = Region::with(link, 1000, 12_000).await;
    let backup = region.back_up().await;
    let restore = region.restore().await;
    eprintln!("1,000 objects of 12 kB over 80 ms and 200 Mbit/s: backup {backup:?}, restore {restore:?}");
    // Each object is asked for twice, for its bytes and its tags. Three at a time would take 53 s for their round trips alone; how much less it is
    // depends on what else the machine has to do.
    assert!(backup < Duration::from_secs(25), "{backup:?}");
    assert!(restore < Duration::from_secs(25), "{restore:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_150_ms_that_lose_and_break_a_point_is_made_and_comes_back_whole() {
    let Some(link) = FarLink::up(75, 200, 1.0) else { return };
    let region = Region::with(link, 50, 6000).await;
    // An upload that breaks begins anew: were its connection broken again and again, it would not end.
    let breaking = async {
        for direction in [Direction::FromTarget, Direction::ToTarget].into_iter().cycle().take(8) {
            region.proxy.set_once(Fault::Reset { direction, after_bytes: 3000 }).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let ((), backup) = tokio::join!(breaking, region.back_up());
    region.proxy.set_once(Fault::Reset { direction: Direction::FromTarget, after_bytes: 40_000 }).await;
    let restore = region.restore().await;
    eprintln!("over 150 ms with 1 % loss and resets: backup {backup:?}, restore {restore:?}");
}
