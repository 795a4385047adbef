//! What a `[[site]]` may say for itself: retention and recipients.

use std::time::Duration;

use farshore::policy::{Encryption, Policy, SecretReference};

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
