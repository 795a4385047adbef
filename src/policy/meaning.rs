//! From what is typed to what is meant, piece by piece.
//!
//! Each function reports what is wrong with its piece and returns what it could make of it; only if nothing at all was reported
//! is the result used. `source_meaning` and `consistency` are the other two parts of the same step.

use std::{
    ops::RangeInclusive,
    path::{Component, Path as FilePath, PathBuf},
    str::FromStr,
    time::Duration,
};

use bytesize::ByteSize;

use super::{
    AzurePolicy, DrillPolicy, Encryption, FilesystemPolicy, Limits, LockModePolicy, LockPolicy, Objectives, PlainOrSecret,
    Recipients, Retention, S3Policy, SecretReference, ServerEncryption, StorePolicy, connection,
    document::{Findings, Path},
    typed::{
        TypedDrill, TypedEncryption, TypedLimits, TypedLock, TypedLockMode, TypedObjectives, TypedPlainOrSecret, TypedRetention,
        TypedSecret, TypedServerEncryption, TypedStore,
    },
};

/// A name of a policy, source or site.
pub fn name(name: Option<String>, path: &Path, findings: &mut Findings<'_>) -> String {
    let Some(name) = name else { return String::new() };
    let fine = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte));
    if !fine || !name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit()) {
        findings.add(
            path,
            "is no good as a name: it becomes part of object keys and unit names; use lower-case letters, digits, '.', '_' and '-', \
             beginning with a letter or digit",
        );
    } else if name.len() > 64 {
        findings.add(path, "is longer than 64 characters");
    }
    name
}

/// The longest duration that a policy may name.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// A duration with units, above zero.
pub fn duration(text: Option<String>, example: &str, path: &Path, findings: &mut Findings<'_>) -> Option<Duration> {
    let text = text?;
    match humantime::parse_duration(&text) {
        Ok(duration) if duration.is_zero() => findings.add(path, format!("is zero; should be a duration such as \"{example}\"")),
        // Dates are computed with it, and a date has its limits.
        Ok(duration) if duration > LONGEST => findings.add(path, "is longer than a hundred years"),
        Ok(duration) => return Some(duration),
        Err(_) => findings.add(
            path,
            format!(
                "is no duration; should be numbers with units (s, m, h, d, w; m is minutes, M is months) such as \"{example}\""
            ),
        ),
    }
    None
}

/// An absolute path without `..`.
pub fn absolute(text: &str, path: &Path, findings: &mut Findings<'_>) -> PathBuf {
    let file = FilePath::new(text);
    if !file.is_absolute() {
        findings.add(path, "is not absolute; a timer does not run where you do: begin it with /");
    } else if file.components().any(|component| component == Component::ParentDir) {
        findings.add(path, "contains ..; write the path it stands for");
    }
    // Without doubled or trailing slashes, so that paths can be compared.
    file.components().collect()
}

/// Where a secret is.
pub fn secret(typed: Option<TypedSecret>, path: &Path, findings: &mut Findings<'_>) -> Option<SecretReference> {
    let typed = typed?;
    match (typed.file, typed.env, typed.credential) {
        (Some(file), None, None) => Some(SecretReference::File(absolute(&file, &path.key("file"), findings))),
        (None, Some(env), None) => {
            let mut letters = env.chars();
            let begins = letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
            if !begins || !letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
                findings.add(&path.key("env"), "is no name of an environment variable; letters, digits and _ only (and no $)");
            }
            Some(SecretReference::Env(env))
        }
        (None, None, Some(credential)) => {
            if credential.is_empty() || credential.contains('/') || credential.starts_with('.') || credential.len() > 255 {
                findings.add(
                    &path.key("credential"),
                    "is no name of a systemd credential; it is the part before the colon in LoadCredential=name:/path",
                );
            }
            Some(SecretReference::Credential(credential))
        }
        (None, None, None) => {
            findings.add(path, "says nothing; should be one of { file = \"/…\" }, { env = \"NAME\" }, { credential = \"name\" }");
            None
        }
        _ => {
            findings.add(path, "says more than one of file, env, credential; keep the one that holds");
            None
        }
    }
}

/// A text, or where a secret is.
pub fn plain_or_secret(typed: Option<TypedPlainOrSecret>, path: &Path, findings: &mut Findings<'_>) -> Option<PlainOrSecret> {
    match typed? {
        TypedPlainOrSecret::Plain(text) => Some(PlainOrSecret::Plain(text)),
        TypedPlainOrSecret::Secret(typed) => secret(Some(typed), path, findings).map(PlainOrSecret::Secret),
    }
}

/// A connection URI.
pub fn url(text: Option<String>, password_key: &str, path: &Path, findings: &mut Findings<'_>) -> Option<String> {
    let text = text?;
    for problem in connection::problems(&text, password_key) {
        findings.add(path, problem);
    }
    Some(text)
}

/// A place that holds objects.
pub fn store(typed: Option<TypedStore>, path: &Path, findings: &mut Findings<'_>) -> Option<StorePolicy> {
    match typed? {
        TypedStore::Filesystem { path: directory } => {
            let directory = absolute(&directory?, &path.key("path"), findings);
            Some(StorePolicy::Filesystem(FilesystemPolicy { path: directory }))
        }
        TypedStore::S3 {
            bucket,
            prefix,
            region,
            endpoint,
            path_style,
            access_key,
            secret_key,
            session_token,
            profile,
            encryption,
            requester_pays,
        } => {
            credentials_fit(path, findings);
            let bucket = bucket.unwrap_or_default();
            if bucket.contains(['/', ':']) || bucket.chars().any(char::is_whitespace) {
                findings.add(
                    &path.key("bucket"),
                    "is no bucket name; only the name stands here, the rest goes into prefix and endpoint",
                );
            }
            let prefix = prefix_of(prefix, path, findings);
            if region
                .as_ref()
                .is_some_and(|region| region.is_empty() || !region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'))
            {
                findings.add(&path.key("region"), "is no region; should be a text such as \"us-east-1\"");
            }
            if let Some(endpoint) = &endpoint {
                endpoint_fits(endpoint, &path.key("endpoint"), findings);
            }
            Some(StorePolicy::S3(S3Policy {
                path_style: path_style.unwrap_or(endpoint.is_some()),
                bucket,
                prefix,
                region,
                endpoint,
                access_key: plain_or_secret(access_key, &path.key("access_key"), findings),
                secret_key: secret(secret_key, &path.key("secret_key"), findings),
                session_token: secret(session_token, &path.key("session_token"), findings),
                profile,
                encryption: encryption.map(|typed| server_encryption(typed, &path.key("encryption"), findings)),
                requester_pays: requester_pays.unwrap_or(false),
            }))
        }
        TypedStore::Azure { account, container, prefix, endpoint, connection_string, account_key, sas } => {
            let secrets = ["connection_string", "account_key", "sas"];
            if secrets.iter().filter(|key| findings.is_there(&path.key(key))).count() > 1 {
                findings.add(path, "has more than one of connection_string, account_key and sas; keep the one that holds");
            }
            let (account, container) = (account.unwrap_or_default(), container.unwrap_or_default());
            azure_name(&account, 3..=24, false, &path.key("account"), findings);
            azure_name(&container, 3..=63, true, &path.key("container"), findings);
            if let Some(endpoint) = &endpoint {
                azure_endpoint_fits(endpoint, &path.key("endpoint"), findings);
            }
            Some(StorePolicy::Azure(AzurePolicy {
                account,
                container,
                prefix: prefix_of(prefix, path, findings),
                endpoint,
                connection_string: secret(connection_string, &path.key("connection_string"), findings),
                account_key: secret(account_key, &path.key("account_key"), findings),
                sas: secret(sas, &path.key("sas"), findings),
            }))
        }
    }
}

/// An alias is no resource that rights are given on, and an id is looked for in the account of whoever asks: so that only an ARN of a key will do.
fn server_encryption(typed: TypedServerEncryption, path: &Path, findings: &mut Findings<'_>) -> ServerEncryption {
    match typed {
        TypedServerEncryption::SseS3 {} => ServerEncryption::SseS3,
        TypedServerEncryption::SseKms { key, bucket_key } => {
            let is_arn = |key: &String| key.starts_with("arn:") && key.contains(":kms:") && key.contains(":key/");
            if key.as_ref().is_some_and(|key| !is_arn(key)) {
                findings.add(
                    &path.key("key"),
                    "is no ARN of a KMS key; should be \"arn:aws:kms:REGION:ACCOUNT:key/ID\" (aws kms describe-key shows it)",
                );
            }
            ServerEncryption::SseKms { key, bucket_key }
        }
    }
}

fn prefix_of(prefix: Option<String>, path: &Path, findings: &mut Findings<'_>) -> String {
    let prefix = prefix.unwrap_or_default();
    if prefix.starts_with('/') || prefix.ends_with('/') {
        findings.add(&path.key("prefix"), "begins or ends with a slash; leave it away, one is added between prefix and key");
    }
    prefix
}

/// Names as Azure has them ("Naming and referencing containers"); one that is missing was reported as that.
fn azure_name(name: &str, lengths: RangeInclusive<usize>, hyphens: bool, path: &Path, findings: &mut Findings<'_>) {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || (hyphens && byte == b'-');
    if !name.is_empty() && (!lengths.contains(&name.len()) || !name.bytes().all(fits)) {
        let also = if hyphens { " and hyphens" } else { "" };
        findings.add(
            path,
            format!(
                "is no such name in Azure; only the name stands here: {} to {} lower-case letters, digits{also}",
                lengths.start(),
                lengths.end()
            ),
        );
    }
}

/// Unlike S3's, an endpoint may have a path: emulators have the account there.
fn azure_endpoint_fits(endpoint: &str, path: &Path, findings: &mut Findings<'_>) {
    let fine = url::Url::parse(endpoint).is_ok_and(|url| {
        let bare = url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
        matches!(url.scheme(), "http" | "https") && url.has_host() && bare
    });
    if !fine {
        findings.add(
            path,
            "is no endpoint; should be http:// or https:// with a host and no query, such as \"https://account.blob.core.windows.net\"",
        );
    }
}

fn credentials_fit(path: &Path, findings: &mut Findings<'_>) {
    // By what stands in the file: a key that was written in a wrong way is reported as that, not as missing.
    let [access, secret, token, profile] =
        ["access_key", "secret_key", "session_token", "profile"].map(|key| findings.is_there(&path.key(key)));
    if access && !secret {
        findings.add(path, "has an access_key without a secret_key; give both, or neither and leave it to the provider's own ways");
    }
    if secret && !access {
        findings.add(path, "has a secret_key without an access_key; give both, or neither and leave it to the provider's own ways");
    }
    if token && !secret {
        findings.add(&path.key("session_token"), "belongs to an access_key and a secret_key, which are not there");
    }
    if profile && (access || secret) {
        findings.add(&path.key("profile"), "stands beside keys; keep one of the two");
    }
}

fn endpoint_fits(endpoint: &str, path: &Path, findings: &mut Findings<'_>) {
    let fine = url::Url::parse(endpoint).is_ok_and(|url| {
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        matches!(url.scheme(), "http" | "https") && url.has_host() && bare && url.username().is_empty() && url.password().is_none()
    });
    if !fine {
        findings.add(
            path,
            "is no endpoint; should be http:// or https:// with a host and perhaps a port, such as \"https://s3.example.org:9000\"",
        );
    }
}

/// `[objectives]`.
pub fn objectives(typed: TypedObjectives, path: &Path, findings: &mut Findings<'_>) -> Objectives {
    Objectives {
        rpo: duration(typed.rpo, "26h", &path.key("rpo"), findings),
        rto: duration(typed.rto, "1h", &path.key("rto"), findings),
    }
}

/// `lock` of a `[[site]]`; `None` for one of which a part is missing or wrong, which the schema reported.
pub fn lock(typed: TypedLock) -> Option<LockPolicy> {
    let mode = match typed.mode? {
        TypedLockMode::Governance => LockModePolicy::Governance,
        TypedLockMode::Compliance => LockModePolicy::Compliance,
    };
    Some(LockPolicy { mode, days: u32::try_from(typed.days?).ok()? })
}

/// `[retention]`, or a site's own; what is left out is as in `default`.
pub fn retention(typed: TypedRetention, default: Retention, path: &Path, findings: &mut Findings<'_>) -> Retention {
    let count = |typed: Option<i64>, otherwise| typed.and_then(|count| u32::try_from(count).ok()).unwrap_or(otherwise);
    Retention {
        keep_within: duration(typed.keep_within, "30d", &path.key("keep_within"), findings).unwrap_or(default.keep_within),
        keep_last: count(typed.keep_last, default.keep_last),
        keep_hourly: count(typed.keep_hourly, default.keep_hourly),
        keep_daily: count(typed.keep_daily, default.keep_daily),
        keep_weekly: count(typed.keep_weekly, default.keep_weekly),
        keep_monthly: count(typed.keep_monthly, default.keep_monthly),
        keep_yearly: count(typed.keep_yearly, default.keep_yearly),
        keep_verified: count(typed.keep_verified, default.keep_verified),
        grace: grace(typed.grace, &path.key("grace"), findings).unwrap_or(default.grace),
        max_unused: count(typed.max_unused, default.max_unused),
    }
}

/// A backup may sleep, and a commit takes its time: below this prune could not tell one that is at work from one that died.
const LEAST_GRACE: Duration = Duration::from_secs(3600);

fn grace(text: Option<String>, path: &Path, findings: &mut Findings<'_>) -> Option<Duration> {
    let grace = duration(text, "26h", path, findings)?;
    if grace < LEAST_GRACE {
        findings.add(
            path,
            "is shorter than \"1h\": a backup at work could lose what it builds on; make it longer than the longest backup",
        );
        return None;
    }
    Some(grace)
}

/// The least that the pipeline runs in: a pack being filled, one being sent, and a few chunks in each stage. Bytes.
const LEAST_MEMORY_BYTES: u64 = 64 << 20;

/// A size with a unit.
pub fn size(text: Option<String>, example: &str, least: u64, path: &Path, findings: &mut Findings<'_>) -> Option<u64> {
    match ByteSize::from_str(&text?) {
        Ok(size) if size.as_u64() >= least => return Some(size.as_u64()),
        Ok(_) => findings.add(path, format!("is less than \"{}MiB\", the least that makes sense", least >> 20)),
        Err(_) => {
            findings.add(path, format!("is no size; should be a number with a unit (MiB, GiB, MB, GB) such as \"{example}\""))
        }
    }
    None
}

/// More than any machine gives to its backup agent. Bytes.
const MOST_MEMORY_BYTES: u64 = 1 << 40;

/// `[limits]`.
pub fn limits(typed: TypedLimits, path: &Path, findings: &mut Findings<'_>) -> Limits {
    let mut limits = Limits::default();
    if let Some(memory) = typed.memory {
        match ByteSize::from_str(&memory) {
            Ok(size) if (LEAST_MEMORY_BYTES..=MOST_MEMORY_BYTES).contains(&size.as_u64()) => limits.memory_bytes = size.as_u64(),
            Ok(size) if size.as_u64() > MOST_MEMORY_BYTES => {
                findings.add(&path.key("memory"), "is more than \"1TiB\", surely a slip")
            }
            Ok(_) => findings.add(&path.key("memory"), "is less than \"64MiB\", which the pipeline needs at least"),
            Err(_) => findings
                .add(&path.key("memory"), "is no size; should be a number with a unit (MiB, GiB, MB, GB) such as \"256MiB\""),
        }
    }
    limits.parallelism = typed.parallelism.and_then(|count| usize::try_from(count).ok());
    limits.requests = typed.requests.and_then(|count| usize::try_from(count).ok());
    limits.backup_time = duration(typed.backup_time, "20h", &path.key("backup_time"), findings);
    if let Some(level) = typed.compression_level.and_then(|level| i32::try_from(level).ok()) {
        limits.compression_level = level;
    }
    limits
}

/// `[encryption]`, or the word.
pub fn encryption(typed: TypedEncryption, path: &Path, findings: &mut Findings<'_>) -> Encryption {
    let typed = match typed {
        TypedEncryption::Word(_) => return Encryption::None,
        TypedEncryption::Recipients(typed) => typed,
    };
    let recipients = public_keys(typed.recipients, &path.key("recipients"), findings);
    Encryption::Recipients(Recipients { recipients, agent: secret(typed.agent, &path.key("agent"), findings) })
}

/// The public keys of recipients, each once.
pub fn public_keys(typed: Option<Vec<Option<String>>>, path: &Path, findings: &mut Findings<'_>) -> Vec<String> {
    let mut recipients: Vec<String> = Vec::new();
    for (index, recipient) in typed.into_iter().flatten().enumerate() {
        let Some(recipient) = recipient else { continue };
        let place = path.index(index);
        if recipient.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
            findings.add(
                &place,
                "is a secret key, not a public one; take it out of this file, treat it as lost if the file was shared, and write the \
                 public key (age1…) that belongs to it",
            );
        } else if let Err(reason) = age::x25519::Recipient::from_str(&recipient) {
            findings.add(&place, format!("is no public key of age ({reason}); should be age1 and 58 more letters and digits, as `farshore key generate` prints it"));
        } else if recipients.contains(&recipient) {
            findings.add(&place, "is there twice; the second recipient should be another key, for instance one in escrow");
        }
        recipients.push(recipient);
    }
    recipients
}

/// The recipients of a site that has its own; the agent is everywhere the same.
pub fn site_encryption(
    recipients: Option<Vec<String>>,
    policy: &Encryption,
    path: &Path,
    findings: &mut Findings<'_>,
) -> Encryption {
    match (recipients, policy) {
        (None, encryption) => encryption.clone(),
        (Some(recipients), Encryption::Recipients(of_policy)) => {
            Encryption::Recipients(Recipients { recipients, agent: of_policy.agent.clone() })
        }
        (Some(_), Encryption::None) => {
            findings.add(
                path,
                "stands beside encryption = \"none\" of the policy, which holds for all sites; leave it out, or write [encryption] with recipients",
            );
            Encryption::None
        }
    }
}

/// `[drill]` without its probes.
pub fn drill(typed: TypedDrill, path: &Path, findings: &mut Findings<'_>) -> DrillPolicy {
    let mut drill = DrillPolicy::default();
    if let Some(directory) = typed.directory {
        drill.directory = absolute(&directory, &path.key("directory"), findings);
        if drill.directory == FilePath::new("/") {
            findings.add(
                &path.key("directory"),
                "is the whole machine, and drills clean up after themselves; name a directory of their own",
            );
        }
    }
    if typed.server_password.is_some() && typed.server.is_none() {
        findings.add(&path.key("server_password"), "belongs to a server, which is not there");
    }
    drill.server = url(typed.server, "server_password", &path.key("server"), findings);
    drill.server_password = secret(typed.server_password, &path.key("server_password"), findings);
    drill
}
