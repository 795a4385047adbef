//! The program from the outside on Azure: a container as the source and another one's prefix as the site; to S3 and back.

use bytes::Bytes;
use farshore::{
    clock::SystemClock,
    stores::{
        AzureConfig, AzureCredential, AzureStore, GetOptions, ObjectAttributes, PutOptions, Retry, RetryPolicy, S3Store,
        SharedStore, read_all,
    },
};
use std::sync::Arc;

use crate::{
    s3,
    support::{
        agent::{Agent, noise, tree},
        server,
    },
};

const CONTAINER: &str = "farshore-system";

/// An application with its objects on Azure, and an agent that protects it.
struct Protected {
    agent: Agent,
    prefix: String,
    runtime: tokio::runtime::Runtime,
}

impl Protected {
    fn new() -> Self {
        let mut agent = Agent::with_everything();
        let string = format!(
            "AccountName={};AccountKey={};BlobEndpoint={}",
            server("FARSHORE_TEST_AZURE_ACCOUNT"),
            server("FARSHORE_TEST_AZURE_KEY"),
            server("FARSHORE_TEST_AZURE_ENDPOINT")
        );
        for (variable, value) in [
            // As the policy names them, and as the provider's own tools take them.
            ("SOURCE_KEY", server("FARSHORE_TEST_AZURE_KEY")),
            ("SITE_SAS", server("FARSHORE_TEST_AZURE_SAS")),
            ("AZURE_STORAGE_CONNECTION_STRING", string),
            ("AWS_ACCESS_KEY_ID", server("FARSHORE_TEST_S3_ACCESS_KEY")),
            ("AWS_SECRET_ACCESS_KEY", server("FARSHORE_TEST_S3_SECRET_KEY")),
            ("AWS_ENDPOINT_URL", server("FARSHORE_TEST_S3_ENDPOINT")),
            ("AWS_REGION", "us-east-1".to_owned()),
        ] {
            agent.set(variable, value);
        }
        let prefix = s3::fresh_prefix();
        let protected = Self { agent, prefix, runtime: tokio::runtime::Runtime::new().unwrap() };
        let sources = format!(
            "[[source]]\nname = \"attachments\"\nkind = \"bucket\"\nstore = {}\n\n{}",
            protected.table("primary", "account_key = { env = \"SOURCE_KEY\" }"),
            protected.agent.files_source()
        );
        let site = format!("[[site]]\nname = \"far\"\nstore = {}\n", protected.table("site", "sas = { env = \"SITE_SAS\" }"));
        protected.agent.write_policy_with(&sources, &site, &protected.agent.drill_table());
        protected
    }

    fn table(&self, part: &str, credential: &str) -> String {
        format!(
            "{{ kind = \"azure\", account = \"{}\", container = \"{CONTAINER}\", prefix = \"{}/{part}\", endpoint = \"{}\", {credential} }}",
            server("FARSHORE_TEST_AZURE_ACCOUNT"),
            self.prefix,
            server("FARSHORE_TEST_AZURE_ENDPOINT")
        )
    }

    fn azure(&self, part: &str) -> (SharedStore, String) {
        let config = AzureConfig {
            account: server("FARSHORE_TEST_AZURE_ACCOUNT"),
            container: CONTAINER.to_owned(),
            prefix: format!("{}/{part}", self.prefix),
            endpoint: Some(server("FARSHORE_TEST_AZURE_ENDPOINT")),
            credential: AzureCredential::AccountKey(server("FARSHORE_TEST_AZURE_KEY").into()),
            ..AzureConfig::default()
        };
        let store: SharedStore = Arc::new(self.runtime.block_on(AzureStore::connect(config)).unwrap());
        let address = store.describe();
        // As the program has it: this server now and then answers on a connection what nobody asked, when many make a container at once.
        (Retry::over(store, RetryPolicy::default(), SystemClock::shared()), address)
    }

    fn s3(&self, part: &str) -> (SharedStore, String) {
        let config = s3::config(CONTAINER, &format!("{}/{part}", self.prefix));
        let store: SharedStore = Arc::new(self.runtime.block_on(S3Store::connect(config)).unwrap());
        let address = store.describe();
        (store, address)
    }

    /// Objects with all that may travel beside their bytes, one of them large enough to go in parts.
    fn fill(&self, store: &SharedStore) -> Vec<(String, Bytes)> {
        let mut objects: Vec<(String, Bytes)> =
            (0..30_u64).map(|number| (format!("2026/ünï {number:02}.png"), noise(number, 20_000).into())).collect();
        objects.push(("empty".to_owned(), Bytes::new()));
        objects.push(("large".to_owned(), noise(99, 20 << 20).into()));
        self.runtime.block_on(async {
            store.create().await.unwrap();
            for (key, bytes) in &objects {
                let options = PutOptions { attributes: attributes(), ..PutOptions::default() };
                store.put(key, bytes.clone(), options).await.unwrap();
            }
        });
        objects
    }

    fn assert_holds(&self, store: &SharedStore, objects: &[(String, Bytes)]) {
        self.runtime.block_on(async {
            let page = store.list("", None, 1000).await.unwrap();
            assert_eq!(page.objects.len(), objects.len());
            for (key, bytes) in objects {
                let options = GetOptions { attributes: true, ..GetOptions::default() };
                assert!(read_all(&**store, key, options.clone(), 1 << 30).await.unwrap() == bytes, "{key}");
                let back = store.get(key, options).await.unwrap().attributes;
                assert_eq!(ObjectAttributes { storage_class: None, ..back }, attributes(), "{key}");
            }
        });
    }

    fn restore(&self, site: &str, to: &str) {
        let arguments = ["restore", "--site", site, "latest", "--json", "--source", "attachments", "--to", to];
        let restored = self.agent.operator(arguments).succeeds();
        assert_eq!(restored.json()["sources"].as_array().unwrap().len(), 1);
        assert!(!restored.stderr.contains("sig="), "{}", restored.stderr);
    }
}

fn attributes() -> ObjectAttributes {
    ObjectAttributes {
        content_type: Some("image/png".to_owned()),
        cache_control: Some("max-age=60".to_owned()),
        metadata: [("owner-id".to_owned(), "mm".to_owned()), ("title".to_owned(), "Grüße".to_owned())].into(),
        tags: [("tier".to_owned(), "a@b".to_owned())].into(),
        ..ObjectAttributes::default()
    }
}

#[test]
fn everything_on_azure_comes_back_from_the_site_alone_into_azure_and_into_s3() {
    let protected = Protected::new();
    let agent = &protected.agent;
    let (primary, _) = protected.azure("primary");
    let objects = protected.fill(&primary);
    agent.init();
    let report = agent.backup();
    let again = agent.backup();
    assert_eq!(again["sources"].as_array().unwrap().len(), 2);
    // The region is gone: the objects, the policy, the agent's key and cache.
    protected.runtime.block_on(async {
        for (key, _) in &objects {
            primary.delete(key).await.unwrap();
        }
    });
    for file in ["policy.toml", "agent.key"] {
        std::fs::remove_file(agent.path(file)).unwrap();
    }
    let data = tree(&agent.path("data"));
    std::fs::remove_dir_all(agent.path("data")).unwrap();
    agent.delete_cache();

    let (_, site) = protected.azure("site");
    let points = agent.operator(["points", "--site", &site, "--json"]).succeeds().json();
    let ids: Vec<_> = points.as_array().unwrap().iter().map(|point| point["id"].clone()).collect();
    assert!(ids.contains(&report["point_id"]) && ids.contains(&again["point_id"]), "{points}");
    agent.operator(["verify", "--site", &site, "--read-data"]).succeeds();
    let (azure, to_azure) = protected.azure("restored");
    protected.restore(&site, &to_azure);
    protected.assert_holds(&azure, &objects);
    let (s3, to_s3) = protected.s3("restored");
    protected.runtime.block_on(s3.create()).unwrap();
    protected.restore(&site, &to_s3);
    protected.assert_holds(&s3, &objects);
    agent.operator(["restore", "--site", &site, "latest", "--source", "config", "--to", "restored"]).succeeds();
    assert_eq!(tree(&agent.path(&format!("restored{}", agent.text("data")))), data);
    let drilled = agent.operator(["drill", "--site", &site, "--json"]).succeeds().json();
    assert_eq!(drilled["verdict"], "passed");
}

#[test]
fn a_point_of_an_s3_bucket_is_restored_into_a_container() {
    let protected = Protected::new();
    let agent = &protected.agent;
    let (primary, _) = protected.s3("primary");
    let objects = protected.fill(&primary);
    let sources = format!(
        "[[source]]\nname = \"attachments\"\nkind = \"bucket\"\nstore = {{ kind = \"s3\", bucket = \"{CONTAINER}\", prefix = \"{}/primary\", \
         endpoint = \"{}\" }}\n",
        protected.prefix,
        server("FARSHORE_TEST_S3_ENDPOINT")
    );
    agent.write_policy(&sources);
    agent.init();
    agent.backup();
    let (azure, to_azure) = protected.azure("restored");
    protected.runtime.block_on(azure.create()).unwrap();
    protected.restore("./site", &to_azure);
    protected.assert_holds(&azure, &objects);
}

#[test]
fn a_policy_with_a_lock_is_refused_where_nothing_would_be_locked_and_nothing_is_stored() {
    let protected = Protected::new();
    let agent = &protected.agent;
    let (site, _) = protected.azure("site");
    protected.runtime.block_on(site.create()).unwrap();
    let table = protected.table("site", "sas = { env = \"SITE_SAS\" }");
    let locked = format!("[[site]]\nname = \"far\"\nlock = {{ mode = \"compliance\", days = 30 }}\nstore = {table}\n");
    agent.write_policy_with(&agent.files_source(), &locked, "");
    for arguments in [&["init", "policy.toml"][..], &["init", "policy.toml", "--create"]] {
        agent.run(arguments.iter().copied()).fails(
            1,
            &[
                &format!("The container {CONTAINER} of the account"),
                "has no version-level immutability support",
                "--enable-vlw true",
            ],
        );
    }
    assert!(protected.runtime.block_on(site.list("", None, 10)).unwrap().objects.is_empty());
    agent.run(["backup", "policy.toml"]).ends_with(6);
}
