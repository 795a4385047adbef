//! The policy: what is refused, in which words and where; what is meant by what is accepted.

mod received;
mod sites;

use std::{path::PathBuf, time::Duration};

use farshore::policy::{
    CommandPolicy, Encryption, FilesystemPolicy, LockModePolicy, LockPolicy, PlainOrSecret, Policy, PostgresMethod, Retention,
    SecretReference, SourceKind, StorePolicy, schema,
};
use proptest::prelude::{prop, prop_assert, proptest};

const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

/// A policy with nothing wrong in it, and with every kind of thing a mistake can be made in.
const GOOD: &str = r#"name = "good"
encryption = { recipients = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"], agent = { credential = "agent-key" } }
objectives = { rpo = "26h", rto = "1h" }
limits = { memory = "512MiB", parallelism = 3, compression_level = 3 }
retention = { keep_within = "14d" }
[[source]]
name = "db"
kind = "postgres"
url = "postgres://farshore@db.internal:5432/app?sslmode=verify-full"
password = { file = "/etc/farshore/password" }
[[source]]
name = "objects"
kind = "bucket"
store = { kind = "s3", bucket = "primary" }
[[source]]
name = "config"
kind = "files"
paths = ["/etc/app"]
[[source]]
name = "cluster"
kind = "command"
capture = ["kubectl", "get", "all"]
environment = { KUBECONFIG = "/etc/kube", TOKEN = { env = "KUBE_TOKEN" } }
[[site]]
name = "far"
store = { kind = "s3", bucket = "far", prefix = "good", endpoint = "http://127.0.0.1:9000", access_key = "id", secret_key = { env = "KEY" } }
[[cross_check]]
source = "db"
query = "SELECT path FROM files"
objects = "objects"
[drill]
directory = "/var/tmp/drill"
[[drill.probe]]
source = "db"
query = "SELECT true"
expect = "t"
"#;

fn problems(text: &str) -> Vec<String> {
    match Policy::parse(text, "p.toml") {
        Ok(_) => Vec::new(),
        Err(errors) => errors.problems.iter().map(ToString::to_string).collect(),
    }
}

/// The good policy with one piece of text replaced.
fn with(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "the good policy has no {old:?}");
    GOOD.replacen(old, new, 1)
}

#[test]
fn a_policy_means_what_it_says() {
    let policy = Policy::parse(GOOD, "p.toml").unwrap();
    assert_eq!(policy.name, "good");
    assert_eq!(policy.text, GOOD);
    assert_eq!(policy.objectives.rpo, Some(Duration::from_secs(26 * 3600)));
    assert_eq!(policy.objectives.rto, Some(Duration::from_secs(3600)));
    assert_eq!(policy.retention.keep_within, Duration::from_secs(14 * 24 * 3600));
    assert_eq!((policy.limits.memory_bytes, policy.limits.parallelism, policy.limits.compression_level), (512 << 20, Some(3), 3));
    let Encryption::Recipients(keys) = &policy.encryption else { panic!("{:?}", policy.encryption) };
    assert_eq!(keys.recipients, [RECIPIENT]);
    assert_eq!(keys.agent, Some(SecretReference::Credential("agent-key".into())));
    let SourceKind::Postgres(postgres) = &policy.source("db").unwrap().kind else { panic!() };
    assert_eq!(postgres.method, PostgresMethod::Logical);
    assert_eq!(postgres.password, Some(SecretReference::File("/etc/farshore/password".into())));
    let SourceKind::Command(command) = &policy.source("cluster").unwrap().kind else { panic!() };
    assert_eq!(command.timeout, CommandPolicy::DEFAULT_TIMEOUT);
    assert_eq!(command.environment["KUBECONFIG"], PlainOrSecret::Plain("/etc/kube".into()));
    assert_eq!(command.environment["TOKEN"], PlainOrSecret::Secret(SecretReference::Env("KUBE_TOKEN".into())));
    let StorePolicy::S3(site) = &policy.site("far").unwrap().store else { panic!() };
    assert!(site.path_style, "an endpoint is addressed by path unless the policy says otherwise");
    assert_eq!(policy.site("far").unwrap().store.place(), "s3://far/good");
    assert_eq!(policy.drill.directory, PathBuf::from("/var/tmp/drill"));
    assert_eq!(policy.drill.probes[0].expect, "t");
    assert_eq!(policy.cross_checks[0].objects, "objects");
}

#[test]
fn each_rule_of_retention_is_the_one_that_it_says() {
    let text = with(
        "keep_within = \"14d\"",
        "keep_within = \"14d\", keep_last = 1, keep_hourly = 2, keep_daily = 3, keep_weekly = 4, keep_monthly = 5, keep_yearly = 6, keep_verified = 7, grace = \"30h\", max_unused = 8",
    );
    let expected = Retention {
        keep_within: Duration::from_secs(14 * 24 * 3600),
        keep_last: 1,
        keep_hourly: 2,
        keep_daily: 3,
        keep_weekly: 4,
        keep_monthly: 5,
        keep_yearly: 6,
        keep_verified: 7,
        grace: Duration::from_secs(30 * 3600),
        max_unused: 8,
    };
    assert_eq!(Policy::parse(&text, "p.toml").unwrap().retention, expected);
}

#[test]
fn what_is_left_out_has_the_documented_defaults() {
    let text = "name = \"n\"\nencryption = \"none\"\n[[source]]\nname = \"f\"\nkind = \"files\"\npaths = [\"/etc/\"]\n\
                [[site]]\nname = \"s\"\nstore = { kind = \"filesystem\", path = \"/far//x/\" }\n";
    let policy = Policy::parse(text, "p.toml").unwrap();
    assert_eq!(policy.encryption, Encryption::None);
    assert_eq!(policy.retention, Retention::default());
    assert_eq!((policy.retention.keep_within, policy.retention.keep_verified), (Duration::from_secs(30 * 24 * 3600), 2));
    assert_eq!((policy.limits.memory_bytes, policy.limits.parallelism, policy.limits.compression_level), (256 << 20, None, 1));
    assert_eq!(policy.limits.requests, None);
    assert_eq!((policy.objectives.rpo, policy.objectives.rto), (None, None));
    assert_eq!(policy.drill.directory, PathBuf::from("/var/lib/farshore/drill"));
    assert_eq!(policy.drill.server, None);
    assert_eq!(policy.sites[0].store, StorePolicy::Filesystem(FilesystemPolicy { path: "/far/x".into() }));
}

#[test]
fn a_lock_is_understood_and_a_directory_cannot_have_one() {
    let lock = "name = \"far\"\nlock = { mode = \"governance\", days = 14 }\n";
    let policy = Policy::parse(&with("name = \"far\"\n", lock), "p.toml").unwrap();
    assert_eq!(policy.sites[0].lock, Some(LockPolicy { mode: LockModePolicy::Governance, days: 14 }));
    let directory = with("name = \"far\"\n", lock);
    let store = directory.lines().find(|line| line.contains("bucket = \"far\"")).unwrap();
    let found = problems(&directory.replace(store, "store = { kind = \"filesystem\", path = \"/far\" }"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("site[far].lock: a directory cannot be locked"), "{found:?}");
}

#[test]
fn a_lock_on_azure_is_in_compliance_mode_or_none() {
    let with_mode = |mode: &str| {
        let policy = with("name = \"far\"\n", &format!("name = \"far\"\nlock = {{ mode = \"{mode}\", days = 14 }}\n"));
        let store = policy.lines().find(|line| line.contains("bucket = \"far\"")).unwrap();
        policy.replace(store, "store = { kind = \"azure\", account = \"acc\", container = \"con\" }")
    };
    let policy = Policy::parse(&with_mode("compliance"), "p.toml").unwrap();
    assert_eq!(policy.sites[0].lock, Some(LockPolicy { mode: LockModePolicy::Compliance, days: 14 }));
    let found = problems(&with_mode("governance"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("site[far].lock.mode: governance holds nothing on Azure"), "{found:?}");
}

#[test]
fn each_mistake_is_told_with_its_place_and_what_would_be_right() {
    // What is replaced in the good policy, by what, and the one problem that this makes.
    let table: &[(&str, &str, &str)] = &[
        ("name = \"good\"\n", "", "1:1: name: missing; should be a text such as \"mattermost-eu\""),
        ("name = \"good\"", "name = 7", "1:8: name: is a number; should be a text such as \"mattermost-eu\""),
        (
            "name = \"good\"",
            "name = \"a/b\"",
            "1:8: name: is no good as a name: it becomes part of object keys and unit names; use lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit",
        ),
        ("retention =", "retentoin =", "5:1: retentoin: unknown key; did you mean retention?"),
        (
            "retention = { keep_within",
            "retention = { keep_for",
            "5:15: retention.keep_for: unknown key; may stand here: grace, keep_daily, keep_hourly, keep_last, keep_monthly, keep_verified, keep_weekly, keep_within, keep_yearly, max_unused",
        ),
        (
            "keep_within = \"14d\"",
            "keep_daily = -1",
            "5:28: retention.keep_daily: is out of range; should be a whole number from 0 to 100000",
        ),
        (
            "keep_within = \"14d\"",
            "keep_verified = 0",
            "5:31: retention.keep_verified: is out of range; should be a whole number from 1 to 100000",
        ),
        (
            "name = \"far\"\n",
            "name = \"far\"\nlock = { mode = \"compliance\", days = 13 }\n",
            "26:38: site[far].lock.days: is shorter than retention.keep_within (14days): points that are to be kept could be deleted; make it as long",
        ),
        (
            "name = \"far\"\n",
            "name = \"far\"\nlock = { mode = \"compliance\" }\n",
            "26:8: site[far].lock.days: missing; should be a whole number from 1 to 36500",
        ),
        (
            "keep_within = \"14d\"",
            "grace = \"59m\"",
            "5:23: retention.grace: is shorter than \"1h\": a backup at work could lose what it builds on; make it longer than the longest backup",
        ),
        (
            "compression_level = 3",
            "compression_level = 3, backup_time = \"27h\"",
            "5:13: retention.grace: is shorter than limits.backup_time (1day 3h): prune could delete what a backup at work builds on; make it longer",
        ),
        ("\"14d\"", "14", "5:29: retention.keep_within: is a number; should be a text such as \"30d\""),
        (
            "\"14d\"",
            "\"14\"",
            "5:29: retention.keep_within: is no duration; should be numbers with units (s, m, h, d, w; m is minutes, M is months) such as \"30d\"",
        ),
        ("\"1h\"", "\"200y\"", "3:35: objectives.rto: is longer than a hundred years"),
        ("\"512MiB\"", "\"512TiB\"", "4:21: limits.memory: is more than \"1TiB\", surely a slip"),
        ("\"1h\"", "\"0s\"", "3:35: objectives.rto: is zero; should be a duration such as \"1h\""),
        (
            "\"512MiB\"",
            "\"512 of them\"",
            "4:21: limits.memory: is no size; should be a number with a unit (MiB, GiB, MB, GB) such as \"256MiB\"",
        ),
        ("\"512MiB\"", "\"1MiB\"", "4:21: limits.memory: is less than \"64MiB\", which the pipeline needs at least"),
        ("parallelism = 3", "parallelism = 0", "4:45: limits.parallelism: is out of range; should be a whole number from 1 to 256"),
        (
            "parallelism = 3",
            "parallelism = 99999999999999999999",
            "4:45: limits.parallelism: is out of range; should be a whole number from 1 to 256",
        ),
        (
            "compression_level = 3",
            "compression_level = 3.5",
            "4:68: limits.compression_level: is a number with a fraction; should be a whole number from 1 to 19",
        ),
        ("encryption = {", "encryption = \"non\" #", "2:14: encryption: unknown \"non\"; did you mean \"none\"?"),
        (
            RECIPIENT,
            "age1qqqq",
            "2:30: encryption.recipients[#1]: is no public key of age (invalid Bech32 encoding); should be age1 and 58 more letters and digits, as `farshore key generate` prints it",
        ),
        (
            "{ credential = \"agent-key\" }",
            "\"hunter2\"",
            "2:105: encryption.agent: is a text, and secrets are never written in a policy; should be { file = \"/…\" }, { env = \"NAME\" } or { credential = \"name\" }",
        ),
        (
            "{ credential = \"agent-key\" }",
            "{ credential = \"../key\" }",
            "2:120: encryption.agent.credential: is no name of a systemd credential; it is the part before the colon in LoadCredential=name:/path",
        ),
        (
            "{ env = \"KUBE_TOKEN\" }",
            "{ env = \"$KUBE_TOKEN\" }",
            "23:59: source[cluster].environment.TOKEN.env: is no name of an environment variable; letters, digits and _ only (and no $)",
        ),
        (
            "{ env = \"KUBE_TOKEN\" }",
            "{}",
            "23:51: source[cluster].environment.TOKEN: says nothing; should be one of { file = \"/…\" }, { env = \"NAME\" }, { credential = \"name\" }",
        ),
        (
            "kind = \"postgres\"",
            "kind = \"postgresql\"",
            "8:8: source[db].kind: unknown \"postgresql\"; did you mean \"postgres\"?",
        ),
        (
            "kind = \"postgres\"",
            "kind = \"oracle\"",
            "8:8: source[db].kind: unknown \"oracle\"; should be \"postgres\", \"bucket\", \"files\" or \"command\"",
        ),
        (
            "kind = \"postgres\"\n",
            "",
            "6:1: source[db].kind: missing; should be \"postgres\", \"bucket\", \"files\" or \"command\"",
        ),
        (
            "kind = \"postgres\"",
            "kind = \"postgres\"\nmethod = \"phisical\"",
            "9:10: source[db].method: unknown \"phisical\"; did you mean \"physical\"?",
        ),
        (
            "farshore@db",
            "farshore:hunter2@db",
            "9:7: source[db].url: holds a password, which would be stored with every recovery point; take it out and write password = { credential = \"…\" } (or file, env) beside it",
        ),
        (
            "farshore@db",
            "farshore:hun/ter2@db",
            "9:7: source[db].url: holds a password, which would be stored with every recovery point; take it out and write password = { credential = \"…\" } (or file, env) beside it",
        ),
        (
            "sslmode=verify-full",
            "password=hunter2",
            "9:7: source[db].url: holds a password, which would be stored with every recovery point; take it out and write password = { credential = \"…\" } (or file, env) beside it",
        ),
        (
            "sslmode=verify-full",
            "sslmode=verify_full",
            "9:7: source[db].url: has an unknown sslmode (did you mean verify-full?); should be one of disable, allow, prefer, require, verify-ca, verify-full",
        ),
        (
            "sslmode=verify-full",
            "sslmod=verify-full",
            "9:7: source[db].url: has an unknown parameter after the ?; did you mean sslmode?",
        ),
        (
            "/app?sslmode=verify-full",
            "",
            "9:7: source[db].url: names no database; write it after the host: postgres://host/database",
        ),
        (
            "postgres://farshore",
            "mysql://farshore",
            "9:7: source[db].url: should be a connection URI such as \"postgres://user@host:5432/database?sslmode=verify-full\"",
        ),
        (
            "{ file = \"/etc/farshore/password\" }",
            "{ file = \"password\" }",
            "10:21: source[db].password.file: is not absolute; a timer does not run where you do: begin it with /",
        ),
        (
            "bucket = \"primary\"",
            "bucket = \"primary\", regoin = \"x\"",
            "14:44: source[objects].store.regoin: unknown key; did you mean region?",
        ),
        (
            "bucket = \"primary\"",
            "bucket = \"s3://primary/x\"",
            "14:33: source[objects].store.bucket: is no bucket name; only the name stands here, the rest goes into prefix and endpoint",
        ),
        (
            "kind = \"s3\", bucket = \"primary\"",
            "kind = \"azure\", account = \"acc\", container = \"con/p\"",
            "14:56: source[objects].store.container: is no such name in Azure; only the name stands here: 3 to 63 lower-case letters, digits and hyphens",
        ),
        (
            "kind = \"s3\", bucket = \"primary\"",
            "kind = \"azure\", account = \"acc\", container = \"con\", sas = { env = \"S\" }, account_key = { env = \"K\" }",
            "14:9: source[objects].store: has more than one of connection_string, account_key and sas; keep the one that holds",
        ),
        (
            "kind = \"s3\", bucket = \"primary\"",
            "kind = \"azure\", account = \"acc\", container = \"con\", account_key = \"a2V5\"",
            "14:77: source[objects].store.account_key: is a text, and secrets are never written in a policy; should be { file = \"/…\" }, { env = \"NAME\" } or { credential = \"name\" }",
        ),
        (
            "kind = \"s3\", bucket = \"primary\"",
            "kind = \"azure\", account = \"acc\", container = \"con\", endpoint = \"https://h/?sig=x\"",
            "14:74: source[objects].store.endpoint: is no endpoint; should be http:// or https:// with a host and no query, such as \"https://account.blob.core.windows.net\"",
        ),
        (
            "kind = \"s3\", bucket = \"primary\"",
            "kind = \"s3\"",
            "14:9: source[objects].store.bucket: missing; should be a text such as \"dr-us-east-1\"",
        ),
        ("[\"/etc/app\"]", "\"/etc/app\"", "18:9: source[config].paths: is a text; should be a list such as [\"/etc/mattermost\"]"),
        ("[\"/etc/app\"]", "[]", "18:9: source[config].paths: is empty; should be a list such as [\"/etc/mattermost\"]"),
        (
            "[\"/etc/app\"]",
            "[\"etc\"]",
            "18:10: source[config].paths[#1]: is not absolute; a timer does not run where you do: begin it with /",
        ),
        ("[\"/etc/app\"]", "[\"/etc/../app\"]", "18:10: source[config].paths[#1]: contains ..; write the path it stands for"),
        (
            "[\"/etc/app\"]",
            "[\"/etc/app\", \"/etc\"]",
            "18:22: source[config].paths[#2]: overlaps /etc/app; name the outer one only, or leave things out by exclude",
        ),
        (
            "[\"/etc/app\"]",
            "[\"/etc/app\"]\nexclude = [\"{a\"]",
            "19:12: source[config].exclude[#1]: is no pattern in the language of .gitignore: error parsing glob '{a': unclosed alternate group; missing '}' (maybe escape '{' with '[{]'?)",
        ),
        (
            "[\"kubectl\", \"get\", \"all\"]",
            "[\"kubectl get all\"]",
            "22:11: source[cluster].capture: is one text with spaces, and no shell is involved; write each argument as a text of its own: [\"kubectl\", \"get\", …]",
        ),
        (
            "name = \"cluster\"",
            "name = \"config\"",
            "20:8: source[config].name: is the name of source #3 already; every source needs its own",
        ),
        (
            "bucket = \"far\", prefix = \"good\"",
            "bucket = \"far\", prefix = \"good/\"",
            "26:49: site[far].store.prefix: begins or ends with a slash; leave it away, one is added between prefix and key",
        ),
        (
            "\"http://127.0.0.1:9000\"",
            "\"127.0.0.1:9000\"",
            "26:68: site[far].store.endpoint: is no endpoint; should be http:// or https:// with a host and perhaps a port, such as \"https://s3.example.org:9000\"",
        ),
        (
            "access_key = \"id\", ",
            "",
            "26:9: site[far].store: has a secret_key without an access_key; give both, or neither and leave it to the provider's own ways",
        ),
        (
            "{ env = \"KEY\" }",
            "\"hunter2\"",
            "26:125: site[far].store.secret_key: is a text, and secrets are never written in a policy; should be { file = \"/…\" }, { env = \"NAME\" } or { credential = \"name\" }",
        ),
        (
            "{ kind = \"s3\", bucket = \"primary\" }",
            "{ kind = \"s3\", bucket = \"far\", endpoint = \"http://127.0.0.1:9000/\" }",
            "26:9: site[far].store: overlaps the source objects (s3://far): backups would capture backups, and lie beside what they protect; use another bucket, best in another region",
        ),
        (
            "source = \"db\"\nquery = \"SELECT path",
            "source = \"bd\"\nquery = \"SELECT path",
            "28:10: cross_check[#1].source: is no source of this policy; did you mean \"db\"?",
        ),
        (
            "objects = \"objects\"",
            "objects = \"config\"",
            "30:11: cross_check[#1].objects: is a source of kind files; should be one of kind bucket",
        ),
        (
            "\"SELECT path FROM files\"",
            "\"\"",
            "29:9: cross_check[#1].query: is empty; should be a text such as \"SELECT path FROM fileinfo WHERE deleteat = 0\"",
        ),
        (
            "\"/var/tmp/drill\"",
            "\"/\"",
            "32:13: drill.directory: is the whole machine, and drills clean up after themselves; name a directory of their own",
        ),
        ("expect = \"t\"", "expect = true", "36:10: drill.probe[#1].expect: is true or false; should be a text such as \"t\""),
        (
            "expect = \"t\"",
            "region = \"x\"\nexpect = \"t\"",
            "36:1: drill.probe[#1].region: unknown key here, since it stands below a [header] and so belongs to that; move region above the first [header]",
        ),
        (
            "[drill]",
            "[drill]\nserver_password = { env = \"X\" }",
            "32:19: drill.server_password: belongs to a server, which is not there",
        ),
    ];
    let wrong: Vec<_> = table.iter().map(|(old, new, expected)| (new, expected, problems(&with(old, new)))).collect();
    let wrong: Vec<_> = wrong.into_iter().filter(|(_, expected, found)| found != &[**expected]).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_site_within_a_protected_directory_is_refused() {
    let text = "name = \"n\"\nencryption = \"none\"\n[[source]]\nname = \"f\"\nkind = \"files\"\npaths = [\"/srv\"]\n\
                [[site]]\nname = \"s\"\nstore = { kind = \"filesystem\", path = \"/srv/far\" }\n";
    let expected = "9:9: site[s].store: overlaps /srv of the source f: backups would capture backups; put the repository elsewhere, best on another machine";
    assert_eq!(problems(text), [expected]);
}

#[test]
fn an_empty_file_says_everything_a_policy_must_have() {
    assert_eq!(
        problems(""),
        [
            "1:1: name: missing; should be a text such as \"mattermost-eu\"",
            "1:1: source: missing; add at least one [[source]] with name and kind: what is protected",
            "1:1: site: missing; add at least one [[site]] with name and store: where it goes",
            "1:1: encryption: missing, and there is no default; choose [encryption] with recipients = [\"age1…\"] (`farshore key generate` \
             makes a pair of keys), or encryption = \"none\" if everybody who can read the site may read the data",
        ]
    );
}

#[test]
fn all_mistakes_of_a_file_are_told_at_once_in_the_order_of_its_lines() {
    let text = "name = \"Bad Name\"\nregoin = \"eu\"\n[objectives]\nrpo = 26\nrto = \"1 hou\"\n[source]\nname = \"db\"\n\
                [[site]]\nname = \"us\"\nstore = { kind = \"s4\" }\n[[site]]\nname = \"us\"\nstore = { kind = \"filesystem\", path = \"x\" }\n\
                [[cross_check]]\nsource = \"db\"\nobjects = \"attachments\"\n";
    let errors = Policy::parse(text, "/etc/farshore/policies/p.toml").unwrap_err();
    let places: Vec<_> = errors.problems.iter().map(|problem| (problem.line, problem.key.as_str())).collect();
    assert_eq!(
        places,
        [
            (1, "encryption"),
            (1, "name"),
            (2, "regoin"),
            (4, "objectives.rpo"),
            (5, "objectives.rto"),
            (6, "source"),
            (10, "site[us].store.kind"),
            (12, "site[us].name"),
            (13, "site[us].store.path"),
            (14, "cross_check[#1].query"),
            (16, "cross_check[#1].objects"),
        ]
    );
    assert!(errors.to_string().starts_with("/etc/farshore/policies/p.toml:1:1: encryption: missing"), "{errors}");
    assert_eq!(errors.to_string().lines().count(), places.len());
}

#[test]
fn a_line_that_is_not_toml_does_not_hide_other_mistakes_nor_invent_missing_keys() {
    let text = with("name = \"good\"", "name = ").replace("retention =", "retentoin =");
    let found = problems(&text);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("1:") && found[0].contains("not TOML"), "{found:#?}");
    assert_eq!(found[1], "5:1: retentoin: unknown key; did you mean retention?");
}

#[test]
fn a_secret_in_the_wrong_place_is_not_repeated_in_the_error() {
    for (old, new) in [
        ("{ credential = \"agent-key\" }", "\"hunter2\""),
        ("{ env = \"KEY\" }", "\"hunter2\""),
        ("farshore@db", "farshore:hunter2@db"),
        ("farshore@db", "farshore:hunter2/?#@db"),
        ("sslmode=verify-full", "sslpassword=hunter2"),
        (RECIPIENT, "AGE-SECRET-KEY-1HUNTER2hunter2"),
        ("\"id\"", "hunter2"),
    ] {
        let errors = Policy::parse(&with(old, new), "p.toml").unwrap_err();
        assert!(!format!("{errors} {errors:?}").to_lowercase().contains("hunter2"), "{errors}");
    }
}

#[test]
fn absurd_nesting_is_refused_and_not_followed() {
    for text in [
        format!("a = {}", "[".repeat(50_000)),
        format!("a = {}{}", "[".repeat(50_000), "]".repeat(50_000)),
        format!("a{} = 1", ".a".repeat(50_000)),
        format!("a = {}", "{ a = ".repeat(50_000)),
        format!("[source{}]", ".source".repeat(50_000)),
    ] {
        assert!(!problems(&text).is_empty(), "{}", &text[..20]);
    }
}

#[test]
fn every_sample_policy_is_good() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir("policies").unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let policy = Policy::parse(&text, &path).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(!policy.sources.is_empty() && !policy.sites.is_empty());
        names.push(policy.name);
    }
    names.sort();
    assert_eq!(names, ["laptop-demo", "mattermost-azure", "mattermost-eu", "self-run-postgresql"]);
}

#[test]
fn the_schema_has_every_key_with_a_description_and_refuses_others() {
    fn walk(schema: &serde_json::Value, seen: &mut usize) {
        if let Some(properties) = schema.get("properties").and_then(|properties| properties.as_object()) {
            assert_eq!(schema["additionalProperties"], serde_json::json!(false), "{schema}");
            for (key, property) in properties {
                assert!(property.get("description").is_some() || key == "kind", "{key} has no description");
                *seen += 1;
            }
        }
        match schema {
            serde_json::Value::Object(object) => object.values().for_each(|value| walk(value, seen)),
            serde_json::Value::Array(array) => array.iter().for_each(|value| walk(value, seen)),
            _ => {}
        }
    }
    let mut seen = 0;
    walk(schema(), &mut seen);
    assert!(seen > 50, "{seen}");
    assert!(!schema().to_string().contains("null"), "TOML has no null");
    assert_eq!(schema()["required"], serde_json::json!(["name", "source", "site", "encryption"]));
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC*") {
        let _ = Policy::parse(&text, "p.toml");
    }

    #[test]
    fn no_damage_to_a_policy_makes_the_parser_panic_or_fail_without_a_place(
        at in 0..GOOD.len(), length in 0..40usize, insert in "[\\[\\]{}=\"'.,#a-z0-9\\n\u{e9}\u{0}]{0,12}",
    ) {
        let end = (at + length).min(GOOD.len());
        let text = format!("{}{insert}{}", &GOOD[..at], &GOOD[end..]);
        if let Err(errors) = Policy::parse(&text, "p.toml") {
            prop_assert!(!errors.problems.is_empty());
            for problem in &errors.problems {
                prop_assert!(problem.line >= 1 && problem.line <= text.lines().count() + 1);
                prop_assert!(!problem.message.contains("defect"), "{errors}");
            }
        }
    }

    #[test]
    fn values_of_any_type_in_any_place_are_told_and_never_a_defect(
        line in 0..35usize, value in prop::sample::select(vec!["1", "-1", "1.5", "true", "\"x\"", "[]", "[1]", "[[]]", "{}", "{ a = 1 }", "{ kind = 3 }", "2026-11-23", "nan", "0xffffffffffffffffff"]),
    ) {
        let text: String = GOOD.lines().enumerate().map(|(index, old)| match old.split_once('=') {
            Some((key, _)) if index == line => format!("{key}= {value}\n"),
            _ => format!("{old}\n"),
        }).collect();
        if let Err(errors) = Policy::parse(&text, "p.toml") {
            prop_assert!(!errors.problems.is_empty());
            prop_assert!(errors.problems.iter().all(|problem| !problem.message.contains("defect")), "{errors}");
        }
    }
}
