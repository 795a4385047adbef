//! Where the keys for S3 come from, as the provider's own tools find them: each link of the chain against servers of the test's own, which
//! give keys out (the token service, a container's endpoint, an instance's metadata) and note with whose the bucket was asked.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use crate::support::agent::Agent;

/// Everything in one server: the bucket, the token service, the container's endpoint, the instance's metadata.
#[derive(Clone)]
struct Cloud {
    address: String,
    /// Key ids that the bucket was asked with, each with its session token.
    used: Arc<Mutex<Vec<(String, String)>>>,
    /// What was asked of those who give out keys: first lines, and bodies.
    asked: Arc<Mutex<Vec<String>>>,
}

struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    fn read(stream: &mut BufReader<TcpStream>) -> Option<Self> {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|length| *length > 0)?;
        let mut headers = Vec::new();
        loop {
            let mut header = String::new();
            stream.read_line(&mut header).ok()?;
            match header.trim_end().split_once(": ") {
                Some((name, value)) => headers.push((name.to_lowercase(), value.to_owned())),
                None if header.trim_end().is_empty() => break,
                None => headers.push((header.trim_end().trim_end_matches(':').to_lowercase(), String::new())),
            }
        }
        let mut request = Self { line: line.trim_end().to_owned(), headers, body: String::new() };
        let mut body = vec![0; request.header("content-length").parse().unwrap_or(0)];
        stream.read_exact(&mut body).ok()?;
        request.body = String::from_utf8_lossy(&body).into_owned();
        Some(request)
    }

    fn header(&self, wanted: &str) -> &str {
        self.headers.iter().find(|(name, _)| name == wanted).map_or("", |(_, value)| value)
    }
}

const EXPIRES: &str = "2100-01-01T00:00:00Z";

fn keys(name: &str) -> String {
    format!(
        "{{\"Code\": \"Success\", \"Type\": \"AWS-HMAC\", \"AccessKeyId\": \"{name}\", \"SecretAccessKey\": \"hush-hush\", \"Token\": \"token-of-{name}\", \
         \"Expiration\": \"{EXPIRES}\", \"LastUpdated\": \"2026-01-01T00:00:00Z\"}}"
    )
}

fn assumed(action: &str, name: &str) -> String {
    format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><Credentials><AccessKeyId>{name}</AccessKeyId>\
         <SecretAccessKey>hush-hush</SecretAccessKey><SessionToken>token-of-{name}</SessionToken><Expiration>{EXPIRES}</Expiration></Credentials>\
         <AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/r/s</Arn><AssumedRoleId>r:s</AssumedRoleId></AssumedRoleUser></{action}Result></{action}Response>"
    )
}

impl Cloud {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let cloud = Self { address, used: Arc::default(), asked: Arc::default() };
        let serving = cloud.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), serving) = (stream, serving.clone()) else { return };
                std::thread::spawn(move || serving.serve(stream));
            }
        });
        cloud
    }

    fn serve(&self, stream: TcpStream) {
        let mut writer = stream.try_clone().unwrap();
        let mut reader = BufReader::new(stream);
        while let Some(request) = Request::read(&mut reader) {
            let (status, body) = self.answer(&request);
            let head = format!(
                "HTTP/1.1 {status}\r\ndate: Thu, 26 Nov 2026 12:00:00 GMT\r\nx-aws-ec2-metadata-token-ttl-seconds: 21600\r\n"
            );
            if write!(writer, "{head}content-length: {}\r\n\r\n{body}", body.len()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, request: &Request) -> (&'static str, String) {
        let (line, body) = (&request.line, &request.body);
        if line.starts_with("POST / ") || line.contains("/credentials") || line.contains("/latest/") {
            self.asked.lock().unwrap().push(format!("{line} {} {body}", request.header("authorization")));
        }
        if body.contains("Action=AssumeRoleWithWebIdentity") {
            return ("200 OK", assumed("AssumeRoleWithWebIdentity", "WEBIDENTITY"));
        }
        if body.contains("Action=AssumeRole&") {
            return ("200 OK", assumed("AssumeRole", "ASSUMED"));
        }
        // What IAM Identity Center answers to GetRoleCredentials.
        if line.starts_with("GET /federation/credentials?") {
            let keys = "{\"roleCredentials\": {\"accessKeyId\": \"SSO\", \"secretAccessKey\": \"hush-hush\", \"sessionToken\": \"token-of-SSO\", \"expiration\": 4102444800000}}";
            self.asked
                .lock()
                .unwrap()
                .push(format!("{line}, signed in: {}", request.header("x-amz-sso_bearer_token") == "signed-in-hush-hush"));
            return ("200 OK", keys.to_owned());
        }
        if line.contains("/credentials-of-the-container") {
            return ("200 OK", keys("CONTAINER"));
        }
        if line.starts_with("PUT /latest/api/token") {
            return ("200 OK", "metadata-token".to_owned());
        }
        if line.contains("/security-credentials/example-role") || line.contains("/security-credentials-extended/example-role") {
            return ("200 OK", keys("INSTANCE"));
        }
        if line.contains("/security-credentials") {
            return ("200 OK", "example-role".to_owned());
        }
        if line.contains("/latest/") {
            return ("404 Not Found", String::new());
        }
        let signed = request.header("authorization");
        let key = signed.split_once("Credential=").and_then(|(_, rest)| rest.split('/').next()).unwrap_or("nobody");
        self.used.lock().unwrap().push((key.to_owned(), request.header("x-amz-security-token").to_owned()));
        ("404 Not Found", "<Error><Code>NoSuchKey</Code><Message>no</Message></Error>".to_owned())
    }

    /// An agent whose bucket is this one, without keys.
    fn agent(&self) -> Agent {
        let mut agent = Agent::new("");
        for service in ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL_SSO"] {
            agent.set(service, &*self.address);
        }
        agent.set("AWS_REGION", "eu-central-1");
        agent.set("AWS_EC2_METADATA_DISABLED", "true");
        agent.set("AWS_CONFIG_FILE", "/nonexistent");
        agent.set("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent");
        agent
    }

    /// Asks for the points of the bucket: whose keys that was done with.
    #[track_caller]
    fn asked_by(&self, agent: &Agent) -> (String, String) {
        let ended = agent.operator(["points", "--site", "s3://bucket/prefix"]).ends_with(6);
        assert!(!ended.stderr.contains("hush-hush") && !ended.stderr.contains("token-of"), "{}", ended.stderr);
        let used = self.used.lock().unwrap();
        assert!(!used.is_empty() && used.iter().all(|keys| *keys == used[0]), "{used:?}: {}", ended.stderr);
        used[0].clone()
    }

    fn asked(&self) -> String {
        self.asked.lock().unwrap().join("\n")
    }
}

fn with_token(name: &str) -> (String, String) {
    (name.to_owned(), format!("token-of-{name}"))
}

/// A file in a directory that stays until the test ends.
fn file(directory: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = directory.path().join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn keys_of_the_environment_are_taken_with_their_session_token() {
    let cloud = Cloud::start();
    let mut agent = cloud.agent();
    agent.set("AWS_ACCESS_KEY_ID", "STATIC");
    agent.set("AWS_SECRET_ACCESS_KEY", "hush-hush");
    assert_eq!(cloud.asked_by(&agent), ("STATIC".to_owned(), String::new()));
    cloud.used.lock().unwrap().clear();
    agent.set("AWS_SESSION_TOKEN", "token-of-STATIC");
    assert_eq!(cloud.asked_by(&agent), with_token("STATIC"));
    assert_eq!(cloud.asked(), "");
}

#[test]
fn a_profile_gives_its_keys_or_the_role_that_it_assumes_with_them() {
    let directory = tempfile::tempdir().unwrap();
    let credentials = "[plain]\naws_access_key_id = PROFILE\naws_secret_access_key = hush-hush\n";
    let config = "[profile other-account]\nrole_arn = arn:aws:iam::210987654321:role/backup\nsource_profile = plain\nrole_session_name = s\n";
    let (credentials, config) = (file(&directory, "credentials", credentials), file(&directory, "config", config));
    for (profile, wanted) in [("plain", ("PROFILE".to_owned(), String::new())), ("other-account", with_token("ASSUMED"))] {
        let cloud = Cloud::start();
        let mut agent = cloud.agent();
        agent.set("AWS_SHARED_CREDENTIALS_FILE", &*credentials);
        agent.set("AWS_CONFIG_FILE", &*config);
        agent.set("AWS_PROFILE", profile);
        assert_eq!(cloud.asked_by(&agent), wanted);
        if profile == "other-account" {
            // The role of the other account, asked for with the profile's keys.
            let asked = cloud.asked();
            assert!(asked.contains("Credential=PROFILE/") && asked.contains("210987654321%3Arole%2Fbackup"), "{asked}");
        }
    }
}

/// What `aws sso login` leaves behind: a token, in a file named by the SHA-1 of the session's name.
const SIGNED_IN: &str = r#"{"accessToken": "signed-in-hush-hush", "expiresAt": "2100-01-01T00:00:00Z", "region": "eu-central-1", "startUrl": "https://example.awsapps.com/start"}"#;
/// `printf backup | sha1sum`.
const SESSION_FILE: &str = "89121dc99c7db9ce2553a093a2ab29e07f7df34f.json";

#[test]
fn a_profile_of_single_sign_on_gives_the_role_of_whoever_has_signed_in_and_says_so_if_nobody_has() {
    let directory = tempfile::tempdir().unwrap();
    let config = "[profile signed]\nsso_session = backup\nsso_account_id = 123456789012\nsso_role_name = Restorer\n\
                  [sso-session backup]\nsso_region = eu-central-1\nsso_start_url = https://example.awsapps.com/start\n";
    let config = file(&directory, "config", config);
    let cloud = Cloud::start();
    let mut agent = cloud.agent();
    agent.set("AWS_CONFIG_FILE", &*config);
    agent.set("AWS_PROFILE", "signed");
    let ended = agent.operator(["points", "--site", "s3://bucket/prefix"]);
    assert_ne!(ended.code, 0);
    assert!(ended.stderr.contains("credentials") && ended.stderr.contains("aws sso login"), "{}", ended.stderr);
    assert!(cloud.used.lock().unwrap().is_empty());

    let cache = agent.path("home/.aws/sso/cache");
    fs::create_dir_all(&cache).unwrap();
    fs::write(cache.join(SESSION_FILE), SIGNED_IN).unwrap();
    assert_eq!(cloud.asked_by(&agent), with_token("SSO"));
    let asked = cloud.asked();
    for part in ["signed in: true", "role_name=Restorer", "account_id=123456789012"] {
        assert!(asked.contains(part), "{part}: {asked}");
    }
}

#[test]
fn a_pod_assumes_its_role_by_the_token_that_kubernetes_mounts() {
    let cloud = Cloud::start();
    let directory = tempfile::tempdir().unwrap();
    let mut agent = cloud.agent();
    agent.set("AWS_WEB_IDENTITY_TOKEN_FILE", file(&directory, "token", "token-of-the-pod"));
    agent.set("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/writer");
    agent.set("AWS_ROLE_SESSION_NAME", "farshore");
    assert_eq!(cloud.asked_by(&agent), with_token("WEBIDENTITY"));
    let asked = cloud.asked();
    for part in ["WebIdentityToken=token-of-the-pod", "role%2Fwriter"] {
        assert!(asked.contains(part), "{part}: {asked}");
    }
    assert!(!asked.contains("Credential="), "nothing is signed with keys that nobody has: {asked}");
}

#[test]
fn a_container_asks_its_own_endpoint_with_the_token_that_it_was_given() {
    let cloud = Cloud::start();
    let mut agent = cloud.agent();
    agent.set("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*format!("{}/credentials-of-the-container", cloud.address));
    agent.set("AWS_CONTAINER_AUTHORIZATION_TOKEN", "token-of-the-task");
    assert_eq!(cloud.asked_by(&agent), with_token("CONTAINER"));
    assert!(cloud.asked().contains("token-of-the-task"), "{}", cloud.asked());
}

#[test]
fn an_instance_has_the_role_that_its_metadata_name() {
    let cloud = Cloud::start();
    let mut agent = cloud.agent();
    agent.set("AWS_EC2_METADATA_DISABLED", "false");
    agent.set("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*cloud.address);
    assert_eq!(cloud.asked_by(&agent), with_token("INSTANCE"));
    assert!(cloud.asked().contains("PUT /latest/api/token"), "{}", cloud.asked());
}

#[test]
fn without_any_it_is_said_where_they_are_looked_for() {
    let cloud = Cloud::start();
    let ended = cloud.agent().operator(["points", "--site", "s3://bucket/prefix"]);
    assert_ne!(ended.code, 0);
    assert!(ended.stderr.contains("credentials"), "{}", ended.stderr);
    assert!(cloud.used.lock().unwrap().is_empty());
}
