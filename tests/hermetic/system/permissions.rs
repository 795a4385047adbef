//! `farshore permissions`: documents that can be handed to the provider as they are.

use std::collections::BTreeSet;

use crate::support::agent::Agent;

fn sample() -> String {
    format!("{}/policies/mattermost-aws.toml", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_locked_bucket_has_a_document_for_each_identity_and_none_may_lift_or_reconfigure() {
    let agent = Agent::with_everything();
    let printed = agent.run(["permissions", &sample(), "--json"]).succeeds().json();
    let roles: Vec<_> = printed.as_array().unwrap().iter().map(|one| one["role"].as_str().unwrap()).collect();
    assert_eq!(
        roles,
        ["writer", "reader", "pruner", "writer", "reader", "pruner", "source"],
        "for each of its sites, and the bucket"
    );
    let source = &printed[6];
    assert_eq!((&source["source"], source.get("site")), (&"attachments".into(), None), "{source}");
    let read = serde_json::to_string(&source["document"]).unwrap();
    assert!(read.contains("s3:GetObjectVersionTagging") && !read.contains("s3:Put") && !read.contains("kms:"), "{read}");
    // The first site is locked.
    for one in &printed.as_array().unwrap()[..3] {
        let document = &one["document"];
        assert_eq!(document["Version"], "2012-10-17");
        let mut actions = BTreeSet::new();
        for statement in document["Statement"].as_array().unwrap() {
            let resource = statement["Resource"].as_str().unwrap();
            assert!(resource.starts_with("arn:aws:s3:::example-dr-us-east-1"), "{resource}");
            actions.extend(statement["Action"].as_array().unwrap().iter().map(|action| action.as_str().unwrap().to_owned()));
        }
        let deletes = actions.iter().any(|action| action.starts_with("s3:Delete"));
        assert_eq!(deletes, one["role"] == "pruner", "{actions:?}");
        assert!(actions.contains("s3:PutObjectRetention"), "the sample's site is locked: {actions:?}");
        for action in &actions {
            let forbidden = ["Bypass", "*", "Lifecycle", "PutBucket", "Policy", "LegalHold", "Acl"];
            assert!(!forbidden.iter().any(|word| action.contains(word)), "{action}");
        }
    }
    let text = agent.run(["permissions", &sample()]).succeeds().stdout;
    let document = text.split_once("writer (IAM policy document):\n").unwrap().1.split("\nsite ").next().unwrap();
    let parsed: serde_json::Value = serde_json::from_str(document).unwrap();
    assert_eq!(parsed, printed[0]["document"]);
    assert!(text.contains("source attachments, the agent (IAM policy document):\n{"), "{text}");
    assert_eq!(agent.run(["permissions", &sample(), "--site", "us", "--json"]).succeeds().json().as_array().unwrap().len(), 3);
}

#[test]
fn a_container_has_the_definition_of_a_role_for_each_identity_and_only_the_pruner_may_delete() {
    let agent = Agent::with_everything();
    let sample = format!("{}/policies/mattermost-azure.toml", env!("CARGO_MANIFEST_DIR"));
    let printed = agent.run(["permissions", &sample, "--json"]).succeeds().json();
    let all = printed.as_array().unwrap();
    assert_eq!(all.iter().map(|one| one["role"].as_str().unwrap()).collect::<Vec<_>>(), ["writer", "reader", "pruner"]);
    for one in all {
        let actions: Vec<_> =
            one["document"]["DataActions"].as_array().unwrap().iter().map(|action| action.as_str().unwrap()).collect();
        let ends = |end: &str| actions.iter().any(|action| action.ends_with(end));
        assert_eq!(ends("blobs/delete") && ends("blobs/deleteBlobVersion/action"), one["role"] == "pruner", "{actions:?}");
        assert!(ends("blobs/immutableStorage/runAsSuperUser/action"), "the sample's site is locked: {actions:?}");
        assert!(!ends("blobs/write") && !ends("blobs/permanentDelete/action"), "nobody overwrites: {actions:?}");
    }
    let text = agent.run(["permissions", &sample]).succeeds().stdout;
    assert!(text.contains("site northeurope, writer (Azure role definition):\n{"), "{text}");
}

#[test]
fn a_directory_has_no_documents_and_says_who_decides() {
    let agent = Agent::with_everything();
    agent.run(["permissions", "policy.toml"]).fails(2, &["file system's owner and mode"]);
    agent.run(["points", "policy.toml", "--first-versions"]).fails(6, &["reading earlier versions is not supported"]);
}

#[test]
fn a_source_whose_locks_are_asked_for_needs_to_see_them_and_no_other_does() {
    let agent = Agent::with_everything();
    let policy = std::fs::read_to_string(sample()).unwrap();
    let (kind, with_locks) = ("kind  = \"bucket\"\n", "kind  = \"bucket\"\nlocks = true\n");
    for (text, sees) in [(policy.clone(), false), (policy.replacen(kind, with_locks, 1), true)] {
        std::fs::write(agent.path("locks.toml"), text).unwrap();
        let printed = agent.run(["permissions", "locks.toml", "--json"]).succeeds().json();
        let source = printed.as_array().unwrap().last().unwrap().to_string();
        for action in ["s3:GetObjectRetention", "s3:GetObjectLegalHold"] {
            assert_eq!(source.contains(action), sees, "{action}: {source}");
        }
        assert!(!source.contains("PutObject"), "{source}");
    }
}
