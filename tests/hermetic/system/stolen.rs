//! The agent's files in the hands of a thief: policy, key, caches, and every byte of the site.

use std::{collections::BTreeMap, fs, io::Read, iter};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf,
};
use serde_json::Value;

use crate::support::agent::{Agent, noise, tree};

type Key = [u8; 32];

struct Length;

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        32
    }
}

fn derive(secret: &Key, salt: &[u8], purpose: &str) -> Key {
    let mut out = [0; 32];
    let salted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    salted.expand(&[purpose.as_bytes()], Length).unwrap().fill(&mut out).unwrap();
    out
}

/// As `docs/format.md` says it: nonce, ciphertext, tag.
fn open(key: &Key, associated: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
    let mut bytes = sealed[12..].to_vec();
    let plain = key.open_in_place(Nonce::try_assume_unique_for_key(&sealed[..12]).unwrap(), Aad::from(associated), &mut bytes);
    plain.ok().map(|plain| plain.to_vec())
}

/// What this identity file makes of a wrapped key.
fn unwrap(identity: &str, wrapped: &[u8]) -> Option<Key> {
    let line = identity.lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).unwrap();
    let identity: age::x25519::Identity = line.parse().unwrap();
    let decryptor = age::Decryptor::new(wrapped).unwrap();
    let mut reader = decryptor.decrypt(iter::once(&identity as &dyn age::Identity)).ok()?;
    let mut json = Vec::new();
    reader.read_to_end(&mut json).unwrap();
    let held: Value = serde_json::from_slice(&json).unwrap();
    Some(hex::decode(held["key"].as_str().unwrap()).unwrap().try_into().unwrap())
}

/// The chunks of a data pack as its directory names them (associated data, sealed bytes), the directory opened with the
/// catalogue key.
fn chunks<'a>(pack: &'a [u8], catalogue: &Key) -> Vec<(Vec<u8>, &'a [u8])> {
    let (body, trailer) = pack.split_at(pack.len() - 16);
    let directory_bytes = u32::from_le_bytes(trailer[..4].try_into().unwrap()) as usize;
    let run_key = derive(catalogue, &pack[28..44], "farshore 1 catalogue run");
    let directory = open(&run_key, &pack[..64], &body[body.len() - directory_bytes..]).expect("the catalogue key opens it");
    let record = |record: &'a [u8]| {
        let number = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().unwrap()) as usize;
        let associated = [&record[..32], &record[44..45], &record[40..44]].concat();
        (associated, &pack[number(32)..number(32) + number(36)])
    };
    let directory: &'a [u8] = directory.leak();
    directory.chunks(45).map(record).collect()
}

/// Whether any of these keys opens any chunk of any data pack at the site; how many chunks were tried.
fn opened(site: &BTreeMap<String, Vec<u8>>, catalogue: &Key, keys: &[Key]) -> (u64, u64) {
    let (mut tried, mut opened) = (0, 0);
    for pack in site.iter().filter(|(name, bytes)| name.starts_with("packs/") && bytes[9] == 1).map(|(_, bytes)| bytes) {
        for (associated, sealed) in chunks(pack, catalogue) {
            tried += 1;
            opened += u64::from(keys.iter().any(|key| open(key, &associated, sealed).is_some()));
        }
    }
    (tried, opened)
}

#[test]
fn with_the_agents_files_alone_no_earlier_pack_opens_and_yet_the_next_backup_builds_on_them() {
    let agent = Agent::with_everything();
    agent.init();
    agent.backup();
    agent.operator(["key", "rotate", "policy.toml", "--anew"]).succeeds();
    fs::write(agent.path("data/new"), noise(7, 300_000)).unwrap();
    let report = agent.backup();
    let unchanged: u64 = report["sources"].as_array().unwrap().iter().map(|one| one["items_unchanged"].as_u64().unwrap()).sum();
    assert!(unchanged >= 20 && report["bytes_stored"].as_u64().unwrap() < 400_000, "it builds on the first point: {report}");

    // The thief has what the agent has: key, caches, policy, and the site.
    let site = tree(&agent.path("site"));
    let thief = fs::read_to_string(agent.path("agent.key")).unwrap();
    let wraps = |kind: &str| {
        site.iter().filter(|(name, _)| name.starts_with(&format!("keys/{kind}"))).map(|(_, bytes)| bytes).collect::<Vec<_>>()
    };
    let catalogue = wraps("catalogue-").into_iter().find_map(|wrap| unwrap(&thief, wrap)).expect("the agent opens the catalogue");
    let repository: Value = serde_json::from_slice(&site["repository.json"]).unwrap();
    let id = hex::decode(repository["id"].as_str().unwrap()).unwrap();
    let mut keys: Vec<Key> = vec![catalogue, [0; 32]];
    keys.extend(wraps("data-").into_iter().filter_map(|wrap| unwrap(&thief, wrap)));
    for purpose in ["data chunk id", "catalogue chunk id", "repository file", "cut seed", "catalogue run"] {
        keys.push(derive(&catalogue, &id, &format!("farshore 1 {purpose}")));
    }
    for (_, bytes) in site.iter().filter(|(_, bytes)| bytes.starts_with(b"FARSHORE")) {
        for salt in [&bytes[28..44], &bytes[44..60], &bytes[12..28]] {
            keys.extend(
                ["catalogue run", "data chunk id"].map(|purpose| derive(&catalogue, salt, &format!("farshore 1 {purpose}"))),
            );
        }
    }
    // Whatever 32 bytes lie in a row in his files could be a key.
    let cache: Vec<u8> = tree(&agent.path("home/.cache")).into_values().flatten().collect();
    assert!(cache.len() > 1000, "there is a local index");
    keys.extend(cache.windows(32).step_by(8).take(20_000).map(|window| Key::try_from(window).unwrap()));
    let (tried, found) = opened(&site, &catalogue, &keys);
    assert!(tried >= 20, "{tried} chunks");
    assert_eq!(found, 0, "a thief reads data");

    // The same attempt with a reader's identity opens everything: it fails for want of a key, not of effort.
    let reader = fs::read_to_string(agent.path("operator.txt")).unwrap();
    let right: Vec<Key> = wraps("data-").into_iter().filter_map(|wrap| unwrap(&reader, wrap)).collect();
    assert_eq!(right.len(), 2, "one wrap of each data key, the first of them wrapped anew");
    assert_eq!(opened(&site, &catalogue, &right), (tried, tried));
    agent.run(["cat", "policy.toml", "latest:cluster/output"]).fails(7, &["none of the identities at hand opens this key"]);
}
