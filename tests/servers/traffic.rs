//! A database and its bucket as an application uses them, backed up to Azure while uploads, overwrites and deletes never pause: every row of a
//! point finds its object, because the bucket keeps versions; and it does not where it keeps none.

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use farshore::stores::{PutOptions, S3Config, S3Store, SharedStore};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{runtime::Runtime, task::JoinHandle};
use tokio_postgres::{Client, NoTls};

use crate::{
    postgres::{Database, Server},
    s3,
    support::{
        agent::{Agent, Outcome, tree},
        fault_proxy::{Direction, Fault, FaultProxy},
        server,
    },
};

const BACKUPS: usize = 20;

/// Every so many backups one finds the bucket's server silent after the database was captured, as after a long dump.
const HELD_EVERY: usize = 7;

/// Longer than what the choice of versions allows for clocks.
const HOLD: Duration = Duration::from_secs(6);

/// What the choice allows for clocks beside the window that it knows T to lie in.
const MARGIN: TimeDelta = TimeDelta::seconds(2);

/// Every so many points are drilled as well, so that the program's own cross-check is heard.
const DRILLED_EVERY: usize = 5;

/// Users, each with objects of its own.
const USERS: u64 = 3;

/// Objects of each at the beginning, and about so many all the time: a backup that finds a third of them gone rightly suspects something.
const FILES: usize = 120;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Uploaded,
    Overwritten,
    Deleted,
}

/// A deed that is done, row and object: when it was begun and ended.
struct Done {
    deed: Deed,
    key: String,
    began: DateTime<Utc>,
    ended: DateTime<Utc>,
}

#[derive(Default)]
struct Traffic {
    stop: AtomicBool,
    done: Mutex<Vec<Done>>,
}

impl Traffic {
    /// Deeds of each kind that were begun and ended in between.
    fn between(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> [usize; 3] {
        let done = self.done.lock().unwrap();
        let within = || done.iter().filter(|done| done.began >= from && done.ended <= until);
        [Deed::Uploaded, Deed::Overwritten, Deed::Deleted].map(|deed| within().filter(|done| done.deed == deed).count())
    }

    /// When objects were gone.
    fn deleted(&self) -> BTreeMap<String, DateTime<Utc>> {
        let done = self.done.lock().unwrap();
        let deleted = done.iter().filter(|done| done.deed == Deed::Deleted);
        deleted.map(|done| (done.key.clone(), done.ended)).collect()
    }
}

/// One who uploads (object, then row), changes a picture in place (object, then row), and deletes (row, then object).
struct User {
    number: u64,
    random: StdRng,
    client: Client,
    store: SharedStore,
    traffic: Arc<Traffic>,
    /// Keys that are there and may be deleted.
    files: Vec<String>,
    writes: u64,
}

impl User {
    async fn write(&mut self, deed: Deed, key: String) {
        self.writes += 1;
        let began = Utc::now();
        let body = format!("{key} {} {}", self.writes, began.timestamp_millis());
        self.store.put(&key, body.into(), PutOptions::default()).await.unwrap();
        let sql = "INSERT INTO fileinfo (path, number) VALUES ($1, $2) ON CONFLICT (path) DO UPDATE SET number = $2";
        self.client.execute(sql, &[&key, &i64::try_from(self.writes).unwrap()]).await.unwrap();
        self.note(deed, key, began);
    }

    async fn upload(&mut self) {
        let key = format!("files/{}/{:05}", self.number, self.writes);
        self.write(Deed::Uploaded, key.clone()).await;
        self.files.push(key);
    }

    async fn delete(&mut self) {
        let key = self.files.swap_remove(self.random.random_range(0..self.files.len()));
        let began = Utc::now();
        self.client.execute("UPDATE fileinfo SET deleteat = 1 WHERE path = $1", &[&key]).await.unwrap();
        self.store.delete(&key).await.unwrap();
        self.note(Deed::Deleted, key, began);
    }

    fn note(&self, deed: Deed, key: String, began: DateTime<Utc>) {
        self.traffic.done.lock().unwrap().push(Done { deed, key, began, ended: Utc::now() });
    }

    async fn live(mut self) {
        while !self.traffic.stop.load(Ordering::Relaxed) {
            match self.random.random_range(0..10) {
                0..3 if self.files.len() > FILES / 2 => self.delete().await,
                3..6 => {
                    let key = format!("pictures/{}/{}", self.number, self.random.random_range(0..4));
                    self.write(Deed::Overwritten, key).await;
                }
                _ if self.files.len() < FILES * 3 / 2 => self.upload().await,
                _ => self.delete().await,
            }
            let pause = self.random.random_range(40..100);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }
}

/// The application, living, and the agent that protects it.
struct Region {
    runtime: Runtime,
    agent: Agent,
    database: Database,
    traffic: Arc<Traffic>,
    users: Vec<JoinHandle<()>>,
    /// Between the agent and the bucket.
    proxy: FaultProxy,
    /// For what is restored and looked at once: nothing that needs a disk to keep it.
    scratch: TempDir,
}

impl Region {
    fn living(versions: bool) -> Self {
        let seed = std::env::var("FARSHORE_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse::<u64>().unwrap());
        println!("FARSHORE_TEST_SEED={seed}");
        let runtime = Runtime::new().unwrap();
        let database = Server::Fifteen.database();
        database.psql(
            "CREATE TABLE fileinfo (path text PRIMARY KEY, number bigint NOT NULL, deleteat bigint NOT NULL DEFAULT 0); \
             CREATE TABLE posts (id bigserial, message text); \
             INSERT INTO posts (message) SELECT repeat(md5(n::text), 20) FROM generate_series(1, 2000) n",
        );
        let endpoint = server("FARSHORE_TEST_S3_ENDPOINT");
        let target = endpoint.strip_prefix("http://").unwrap().parse().unwrap();
        let proxy = runtime.block_on(FaultProxy::start(target)).unwrap();
        // Shared with other tests: the server keeps volumes for each bucket, and has so many.
        let bucket = if versions { "farshore-locks" } else { "farshore-bucket-source" };
        let prefix = s3::fresh_prefix();
        let traffic = Arc::new(Traffic::default());
        let users = runtime.block_on(async {
            let store = primary(bucket, &prefix, endpoint).await;
            if versions { store.create_locking().await } else { store.create().await }.unwrap();
            let mut moving_in = Vec::new();
            for number in 0..USERS {
                let random = StdRng::seed_from_u64(seed.wrapping_add(number));
                let client = connected(&database).await;
                let (store, traffic) = (Arc::clone(&store), Arc::clone(&traffic));
                let mut user = User { number, random, client, store, traffic, files: Vec::new(), writes: 0 };
                moving_in.push(tokio::spawn(async move {
                    for _ in 0..FILES {
                        user.upload().await;
                    }
                    user
                }));
            }
            let mut users = Vec::new();
            for user in moving_in {
                users.push(tokio::spawn(user.await.unwrap().live()));
            }
            users
        });
        let scratch = TempDir::new_in("/dev/shm").unwrap();
        let agent = agent(&database, bucket, &prefix, &proxy, &scratch);
        agent.init();
        Self { runtime, agent, database, traffic, users, proxy, scratch }
    }

    /// A backup, of which the bucket's server says nothing for so long.
    fn backup(&self, hold: Duration) -> (Outcome, DateTime<Utc>, DateTime<Utc>) {
        let silence = Fault::Stall { direction: Direction::ToTarget, after_bytes: 0 };
        if !hold.is_zero() {
            self.runtime.block_on(self.proxy.set(silence));
        }
        let began = Utc::now();
        let mut command = self.agent.command(["backup", "policy.toml", "--json"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(hold);
        self.runtime.block_on(self.proxy.set(Fault::Pass));
        let outcome = child.wait_with_output().unwrap().into();
        (outcome, began, Utc::now())
    }

    /// What the newest point says of the bucket.
    fn facts(&self) -> Value {
        let shown = self.agent.run(["show", "policy.toml", "latest", "--json"]).succeeds().json();
        shown["snapshots"].as_array().unwrap().iter().find(|snapshot| snapshot["source"] == "attachments").unwrap()["facts"].clone()
    }

    fn end(&mut self) {
        self.traffic.stop.store(true, Ordering::Relaxed);
        for user in std::mem::take(&mut self.users) {
            self.runtime.block_on(user).unwrap();
        }
    }
}

async fn primary(bucket: &str, prefix: &str, endpoint: String) -> SharedStore {
    let config = S3Config { endpoint: Some(endpoint), ..s3::config(bucket, prefix) };
    Arc::new(S3Store::connect(config).await.unwrap())
}

async fn connected(database: &Database) -> Client {
    let (client, connection) = tokio_postgres::connect(&database.server.url(&database.name), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn agent(database: &Database, bucket: &str, prefix: &str, proxy: &FaultProxy, scratch: &TempDir) -> Agent {
    let mut agent = Agent::new("");
    agent.set("S3_SECRET", server("FARSHORE_TEST_S3_SECRET_KEY"));
    agent.set("AWS_REGION", "us-east-1");
    agent.set("AZURE_KEY", server("FARSHORE_TEST_AZURE_KEY"));
    let sources = format!(
        "[[source]]\nname = \"db\"\nkind = \"postgres\"\nurl = \"{}\"\nbin_directory = \"{}\"\n\n\
         [[source]]\nname = \"attachments\"\nkind = \"bucket\"\nstore = {{ kind = \"s3\", bucket = \"{bucket}\", prefix = \"{prefix}\", \
         endpoint = \"http://{}\", path_style = true, access_key = \"{}\", secret_key = {{ env = \"S3_SECRET\" }} }}\n",
        database.server.url(&database.name),
        database.server.bin().display(),
        proxy.address(),
        server("FARSHORE_TEST_S3_ACCESS_KEY"),
    );
    let site = format!(
        "[[site]]\nname = \"far\"\nstore = {{ kind = \"azure\", account = \"{}\", container = \"farshore-traffic\", prefix = \"{prefix}\", \
         endpoint = \"{}\", account_key = {{ env = \"AZURE_KEY\" }} }}\n",
        server("FARSHORE_TEST_AZURE_ACCOUNT"),
        server("FARSHORE_TEST_AZURE_ENDPOINT"),
    );
    let rest = format!(
        "[[cross_check]]\nsource = \"db\"\nquery = \"SELECT path FROM fileinfo WHERE deleteat = 0\"\nobjects = \"attachments\"\n\n\
         [drill]\ndirectory = \"{}\"\nserver = \"{}\"\n",
        scratch.path().join("drill").display(),
        database.server.url("postgres"),
    );
    agent.write_policy_with(&sources, &site, &rest);
    agent
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

/// A point that was made.
struct Made {
    number: usize,
    id: String,
    consistent_at: DateTime<Utc>,
    /// The window that T lies in, on the bucket's clock, which is this machine's.
    window: (DateTime<Utc>, DateTime<Utc>),
}

/// Restores a point and holds each row against its object; how many rows there were.
fn check(region: &Region, point: &Made) -> usize {
    let said = |what: String| format!("point {}, T {}: {what}", point.number, point.consistent_at);
    let began = Instant::now();
    let fresh = region.database.server.absent_database();
    let (database, objects) = (fresh.server.url(&fresh.name), region.scratch.path().join(format!("restored-{}", point.number)));
    let targets = ["--source", "db", "--to", &database, "--source", "attachments", "--to", objects.to_str().unwrap()];
    region.agent.operator(["restore", "policy.toml", &point.id].into_iter().chain(targets)).succeeds();
    let mut restored = tree(&objects);
    // Where a directory keeps the headers of its objects.
    restored.retain(|key, _| !key.starts_with(".farshore/"));
    let read = |key: &str| {
        let text = std::str::from_utf8(restored.get(key)?).unwrap();
        let words: Vec<&str> = text.split(' ').collect();
        assert_eq!(words[0], key);
        Some((words[1].parse::<i64>().unwrap(), DateTime::from_timestamp_millis(words[2].parse().unwrap()).unwrap()))
    };
    let rows = fresh.psql("SELECT path || ' ' || number FROM fileinfo WHERE deleteat = 0");
    let mut missing = Vec::new();
    for row in rows.lines() {
        let (path, number) = row.split_once(' ').unwrap();
        let number: i64 = number.parse().unwrap();
        match read(path) {
            None => missing.push(row),
            Some((found, _)) if path.starts_with("files/") => assert_eq!(found, number, "{}", said(row.to_owned())),
            Some((found, _)) => assert!(found >= number, "{}", said(format!("{row}: an older object, {found}"))),
        }
    }
    assert!(missing.is_empty(), "{}", said(format!("{} rows without an object: {missing:?}", missing.len())));
    let deleted = region.traffic.deleted();
    for key in restored.keys() {
        let (_, written) = read(key).unwrap();
        assert!(written <= point.window.1 + MARGIN, "{}", said(format!("{key} was written at {written}")));
        let gone = deleted.get(key).filter(|gone| **gone < point.window.0 - MARGIN);
        assert!(gone.is_none(), "{}", said(format!("{key} was deleted at {gone:?}")));
    }
    if point.number.is_multiple_of(DRILLED_EVERY) {
        let drilled = region.agent.operator(["drill", "policy.toml", "--point", &point.id, "--json"]).succeeds().json();
        let checks = drilled["checks"].to_string();
        assert!(checks.contains(&format!("{} keys, 0 missing", rows.lines().count())), "{checks}");
    }
    println!("point {} restored and checked in {} ms: {} rows", point.number, began.elapsed().as_millis(), rows.lines().count());
    std::fs::remove_dir_all(objects).unwrap();
    rows.lines().count()
}

#[test]
fn twenty_points_made_under_constant_traffic_miss_no_object_of_any_row() {
    let mut region = Region::living(true);
    let (sender, made) = mpsc::channel();
    std::thread::scope(|scope| {
        let checking = scope.spawn(|| made.into_iter().map(|point| check(&region, &point)).collect::<Vec<_>>());
        let mut raced = 0;
        for number in 0..BACKUPS {
            let hold = if number % HELD_EVERY == HELD_EVERY - 1 { HOLD } else { Duration::ZERO };
            let (outcome, began, ended) = region.backup(hold);
            let report = outcome.succeeds().json()[0].clone();
            let happened = region.traffic.between(began, ended);
            assert!(happened.iter().all(|times| *times > 0), "nothing went on beside backup {number}: {happened:?}");
            let consistent_at = time(&report["consistent_at"]);
            let note = report["sources"][1]["note"].as_str().unwrap();
            assert!(note.starts_with("read as of ") && note.contains(", by versions"), "{note}");
            let facts = region.facts();
            let window = (time(&facts["as_of"]["from"]), time(&facts["as_of"]["until"]));
            assert!(window.0 <= consistent_at && consistent_at <= window.1, "{facts}");
            if !hold.is_zero() {
                assert!(ended > window.1 + MARGIN, "the bucket was not listed long after T");
                assert!(facts["versioning"] == "enabled" && facts["modified_after_consistency"].as_u64().unwrap() > 0, "{facts}");
                // Their rows are there at T, and they are gone before the bucket can be listed.
                raced += region.traffic.between(consistent_at, began + hold)[Deed::Deleted as usize];
            }
            println!("backup {number}: T {consistent_at}, {} ms, {happened:?} beside it", (ended - began).num_milliseconds());
            let id = report["point_id"].as_str().unwrap().to_owned();
            if sender.send(Made { number, id, consistent_at, window }).is_err() {
                // A point did not pass, and says so.
                break;
            }
        }
        drop(sender);
        region.traffic.stop.store(true, Ordering::Relaxed);
        let rows = checking.join().unwrap();
        assert!(rows.len() == BACKUPS && rows.iter().all(|rows| *rows > FILES), "{rows:?}");
        assert!(raced >= BACKUPS, "hardly anything raced the backups: {raced}");
    });
    region.end();
}

/// The same without versions: that the test above can fail, and that what is missing then is counted, and found by a drill.
#[test]
fn without_versions_the_same_traffic_leaves_rows_without_objects_and_report_and_drill_say_so() {
    let mut region = Region::living(false);
    let (outcome, ..) = region.backup(HOLD);
    region.end();
    let report = outcome.json()[0].clone();
    let note = report["sources"][1]["note"].as_str().unwrap();
    assert!(note.contains("the bucket keeps no versions") && note.contains("objects were written after that"), "{note}");
    let facts = region.facts();
    assert!(facts["versioning"] == "off" && facts["modified_after_consistency"].as_u64().unwrap() > 0, "{facts}");
    let drilled = region.agent.operator(["drill", "policy.toml", "--json"]).ends_with(10).json();
    let checks = drilled["checks"].to_string();
    assert!(checks.contains(" missing: files/"), "{checks}");
}
