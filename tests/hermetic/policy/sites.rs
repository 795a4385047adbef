//! What a `[[site]]` may say for itself: retention, recipients, bandwidth.

use std::time::Duration;

use farshore::policy::{
    BandwidthHours, DayTime, Encryption, Policy, RehydratePolicy, RetrievalSpeed, SecretReference, ServerEncryption, SourceKind,
    StorePolicy,
};

use super::{GOOD, RECIPIENT, problems, with};

#[test]
fn a_site_may_keep_points_longer_and_have_other_readers_than_the_policy_says() {
    let other = "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg";
    let of_site = format!("name = \"far\"\nretention = {{ keep_monthly = 12 }}\nrecipients = [\"{other}\"]\n");
    let policy = Policy::parse(&with("name = \"far\"\n", &of_site), "p.toml").unwrap();
    let site = policy.site("far").unwrap();
    let day = Duration::from_secs(24 * 3600);
    assert_eq!((site.retention.keep_monthly, site.retention.keep_within), (12, 14 * day), "what it leaves out is the policy's");
    assert_eq!((policy.retention.keep_monthly, policy.retention.keep_within), (0, 14 * day));
    let Encryption::Recipients(keys) = &site.encryption else { panic!("{:?}", site.encryption) };
    assert_eq!(
        (keys.recipients.as_slice(), &keys.agent),
        (&[other.to_owned()][..], &Some(SecretReference::Credential("agent-key".into())))
    );
    let plain = Policy::parse(GOOD, "p.toml").unwrap();
    let site = plain.site("far").unwrap();
    assert_eq!((&site.retention, &site.encryption), (&plain.retention, &plain.encryption), "a site that says nothing");
}

#[test]
fn what_a_site_says_wrongly_of_retention_and_recipients_is_told_with_its_place() {
    let cases = [
        ("retention = { keep_within = \"soon\" }", "26:29: site[far].retention.keep_within: is no duration"),
        ("retention = { keep = 3 }", "26:15: site[far].retention.keep: "),
        ("retention = { grace = \"2h\" }", ""),
        ("recipients = [\"age1nonsense\"]", "26:15: site[far].recipients[#1]: is no public key of age"),
        ("recipients = []", "26:14: site[far].recipients: "),
        (
            "lock = { mode = \"compliance\", days = 20 }\nretention = { keep_within = \"21d\" }",
            "26:38: site[far].lock.days: is shorter than retention.keep_within (21days)",
        ),
    ];
    for (line, expected) in cases {
        let found = problems(&with("name = \"far\"\n", &format!("name = \"far\"\n{line}\n")));
        let fits = if expected.is_empty() { found.is_empty() } else { found.len() == 1 && found[0].starts_with(expected) };
        assert!(fits, "{line}: {found:?}");
    }
    let slow = with("parallelism = 3", "parallelism = 3, backup_time = \"20h\"");
    let hasty = slow.replacen("name = \"far\"\n", "name = \"far\"\nretention = { grace = \"2h\" }\n", 1);
    let found = problems(&hasty);
    assert!(
        found.len() == 1 && found[0].starts_with("26:23: site[far].retention.grace: is shorter than limits.backup_time"),
        "{found:?}"
    );
    let unencrypted = GOOD.lines().map(|line| if line.starts_with("encryption") { "encryption = \"none\"" } else { line });
    let text = unencrypted.collect::<Vec<_>>().join("\n").replacen(
        "name = \"far\"",
        &format!("name = \"far\"\nrecipients = [\"{RECIPIENT}\"]"),
        1,
    );
    let found = problems(&text);
    assert!(found.len() == 1 && found[0].starts_with("26:14: site[far].recipients: stands beside encryption"), "{found:?}");
}

fn bandwidth(line: &str) -> Vec<BandwidthHours> {
    let text = with("name = \"far\"\n", &format!("name = \"far\"\n{line}\n"));
    let policy = Policy::parse(&text, "p.toml").unwrap_or_else(|errors| panic!("{line}: {errors}"));
    policy.site("far").unwrap().bandwidth.clone()
}

#[test]
fn a_site_may_have_a_limit_of_bandwidth_all_day_or_by_the_hour() {
    let all_day = |rate| BandwidthHours { window: None, upload: rate, download: rate };
    assert_eq!(bandwidth(""), []);
    for (text, rate) in [
        ("20 MB/s", Some(20_000_000)),
        ("20MB/s", Some(20_000_000)),
        ("1.5 MiB/s", Some(3 << 19)),
        ("200 Mbit/s", Some(25_000_000)),
        ("unlimited", None),
    ] {
        assert_eq!(bandwidth(&format!("bandwidth = \"{text}\"")), [all_day(rate)], "{text}");
    }
    let time = |hour, minute, is_utc| DayTime { hour, minute, is_utc };
    let listed = "bandwidth = [{ from = \"08:00\", until = \"18:30\", rate = \"5 MB/s\", download = \"unlimited\" }, \
                  { from = \"22:00Z\", until = \"06:00Z\", upload = \"64 KB/s\" }, { rate = \"20 MB/s\" }]";
    let expected = [
        BandwidthHours { window: Some((time(8, 0, false), time(18, 30, false))), upload: Some(5_000_000), download: None },
        BandwidthHours { window: Some((time(22, 0, true), time(6, 0, true))), upload: Some(64_000), download: None },
        all_day(Some(20_000_000)),
    ];
    assert_eq!(bandwidth(listed), expected);
}

#[test]
fn what_a_site_says_wrongly_of_bandwidth_is_told_with_its_place_and_what_would_be_right() {
    let cases = [
        ("bandwidth = 20", "site[far].bandwidth: is a number; should be a text such as \"20 MB/s\", or a list"),
        ("bandwidth = \"20 MB\"", "site[far].bandwidth: is no speed; should be a size in a second such as"),
        ("bandwidth = \"fast/s\"", "site[far].bandwidth: is no speed; should be"),
        ("bandwidth = \"1 KB/s\"", "site[far].bandwidth: is less than \"16 KB/s\""),
        ("bandwidth = [{ from = \"08:00\", rate = \"5 MB/s\" }]", "site[far].bandwidth[#1]: has one of from and until; give both"),
        (
            "bandwidth = [{ from = \"8:00\", until = \"9:00\", rate = \"5 MB/s\" }]",
            "site[far].bandwidth[#1].from: is no time of day",
        ),
        (
            "bandwidth = [{ from = \"24:00\", until = \"09:00\", rate = \"5 MB/s\" }]",
            "site[far].bandwidth[#1].from: is no time of day",
        ),
        (
            "bandwidth = [{ from = \"08:00Z\", until = \"09:00\", rate = \"5 MB/s\" }]",
            "site[far].bandwidth[#1]: has one time by UTC",
        ),
        (
            "bandwidth = [{ from = \"08:00\", until = \"08:00\", rate = \"5 MB/s\" }]",
            "site[far].bandwidth[#1]: ends when it begins",
        ),
        ("bandwidth = [{ from = \"08:00\", until = \"18:00\" }]", "site[far].bandwidth[#1]: says no speed; give a rate"),
        ("bandwidth = [{ rate = \"5 MB/s\" }, { rate = \"6 MB/s\" }]", "site[far].bandwidth[#2]: never holds"),
        ("bandwidth = [{ speed = \"5 MB/s\", rate = \"5 MB/s\" }]", "site[far].bandwidth[#1].speed: unknown key"),
    ];
    for (line, expected) in cases {
        let found = problems(&with("name = \"far\"\n", &format!("name = \"far\"\n{line}\n")));
        assert!(found.first().is_some_and(|found| found.contains(expected)) && found.len() <= 2, "{line}: {found:?}");
    }
}

#[test]
fn a_bucket_is_encrypted_and_paid_for_as_its_store_says() {
    const KEY: &str = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd";
    let of = |line: &str| {
        let text = with(
            "store = { kind = \"s3\", bucket = \"primary\" }",
            &format!("store = {{ kind = \"s3\", bucket = \"primary\"{line} }}"),
        );
        let policy = Policy::parse(&text, "p.toml").map_err(|errors| errors.to_string())?;
        let SourceKind::Bucket(bucket) = &policy.source("objects").unwrap().kind else { panic!() };
        let StorePolicy::S3(s3) = &bucket.store else { panic!() };
        Ok::<_, String>((s3.encryption.clone(), s3.requester_pays))
    };
    assert_eq!(of(""), Ok((None, false)));
    assert_eq!(of(", requester_pays = true"), Ok((None, true)));
    assert_eq!(of(", encryption = { kind = \"sse-s3\" }"), Ok((Some(ServerEncryption::SseS3), false)));
    let kms = |key: Option<&str>, bucket_key| Some(ServerEncryption::SseKms { key: key.map(str::to_owned), bucket_key });
    assert_eq!(of(", encryption = { kind = \"sse-kms\" }"), Ok((kms(None, None), false)));
    let full = format!(", encryption = {{ kind = \"sse-kms\", key = \"{KEY}\", bucket_key = true }}");
    assert_eq!(of(&full), Ok((kms(Some(KEY), Some(true)), false)));
    for (wrong, said) in [
        ("{ kind = \"sse-kms\", key = \"alias/mine\" }", "encryption.key: is no ARN of a KMS key"),
        ("{ kind = \"sse-kms\", key = \"arn:aws:kms:eu-central-1:1:alias/mine\" }", "encryption.key: is no ARN of a KMS key"),
        ("{ kind = \"sse-c\" }", "encryption"),
        ("{ kind = \"sse-s3\", key = \"k\" }", "encryption.key"),
        ("{ key = \"k\" }", "encryption"),
    ] {
        let error = of(&format!(", encryption = {wrong}")).unwrap_err();
        assert!(error.contains(said) && !error.contains("defect"), "{wrong}: {error}");
    }
}

#[test]
fn archived_objects_are_asked_for_only_where_the_source_says_so() {
    let of = |lines: &str| {
        let mut text = with("kind = \"bucket\"\n", &format!("kind = \"bucket\"\n{lines}\n"));
        if lines.ends_with("in a directory") {
            text = text.replace("{ kind = \"s3\", bucket = \"primary\" }", "{ kind = \"filesystem\", path = \"/srv/objects\" }");
        }
        let policy = Policy::parse(&text, "p.toml").map_err(|errors| errors.to_string())?;
        let SourceKind::Bucket(bucket) = &policy.source("objects").unwrap().kind else { panic!() };
        Ok::<_, String>(bucket.rehydrate)
    };
    assert_eq!(of(""), Ok(None));
    let standard = RehydratePolicy { speed: RetrievalSpeed::Standard, days: 3 };
    assert_eq!(of("rehydrate = \"standard\""), Ok(Some(standard)));
    let bulk = RehydratePolicy { speed: RetrievalSpeed::Bulk, days: 14 };
    assert_eq!(of("rehydrate = \"bulk\"\nrehydrate_days = 14"), Ok(Some(bulk)));
    for (wrong, said) in [
        ("rehydrate = \"expedited\"", "rehydrate"),
        ("rehydrate_days = 5", "rehydrate_days: goes with rehydrate only"),
        ("rehydrate = \"bulk\" # in a directory", "rehydrate: goes with a store of kind \"s3\" or \"azure\" only"),
        ("rehydrate = \"high\"\nrehydrate_days = 0", "rehydrate_days: is out of range; should be a whole number from 1 to 365"),
        ("rehydrate = \"high\"\nrehydrate_days = 70000", "rehydrate_days: is out of range; should be a whole number from 1 to 365"),
    ] {
        let error = of(wrong).unwrap_err();
        assert!(error.contains(said) && !error.contains("defect"), "{wrong}: {error}");
    }
}

#[test]
fn a_bucket_may_have_its_locks_asked_for_and_a_directory_has_none() {
    let of = |line: &str, store: &str| {
        let text = with("store = { kind = \"s3\", bucket = \"primary\" }", &format!("{line}\nstore = {store}"));
        let policy = Policy::parse(&text, "p.toml").map_err(|errors| errors.to_string())?;
        let SourceKind::Bucket(bucket) = &policy.source("objects").unwrap().kind else { panic!() };
        Ok::<_, String>(bucket.locks)
    };
    let s3 = "{ kind = \"s3\", bucket = \"primary\" }";
    let azure = "{ kind = \"azure\", account = \"acc\", container = \"con\" }";
    let directory = "{ kind = \"filesystem\", path = \"/srv/objects\" }";
    assert_eq!((of("", s3), of("locks = false", s3), of("locks = true", s3)), (Ok(false), Ok(false), Ok(true)));
    assert_eq!((of("locks = true", azure), of("locks = false", directory)), (Ok(true), Ok(false)));
    for (line, store, said) in [
        ("locks = true", directory, "source[objects].locks: goes with a store of kind \"s3\" or \"azure\" only"),
        ("locks = \"yes\"", s3, "source[objects].locks: is a text; should be true or false"),
    ] {
        let error = of(line, store).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}
