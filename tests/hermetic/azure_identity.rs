//! Managed and workload identities on Azure, as far as a machine without them can show: where tokens are asked for, and what is said
//! when none comes. The token's endpoint is a server of the test's own; the storage account is nobody.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
};

use crate::support::agent::Agent;

/// Answers every request alike, and keeps what was asked.
fn endpoint(status: &'static str, body: &'static str) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 8192];
            let length = stream.read(&mut request).unwrap_or(0);
            seen.lock().unwrap().push(String::from_utf8_lossy(&request[..length]).into_owned());
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (address, asked)
}

#[test]
fn without_a_secret_the_machines_identity_is_asked_for_a_token_of_the_storage_service() {
    let (address, asked) = endpoint(
        "200 OK",
        "{\"access_token\": \"hush-hush\", \"expires_on\": \"4102444800\", \"resource\": \"r\", \"token_type\": \"Bearer\"}",
    );
    let mut agent = Agent::new("");
    agent.set("IDENTITY_ENDPOINT", &*address);
    agent.set("IDENTITY_HEADER", "header-of-the-test");
    agent.set("AZURE_CLIENT_ID", "client-of-the-test");
    // Nobody listens on port 1: the token was got, the container is not reached.
    agent.set("AZURE_STORAGE_SERVICE_ENDPOINT", "https://127.0.0.1:1");
    let ended = agent.operator(["points", "--site", "azure://account/container"]).ends_with(6);
    assert!(ended.stderr.contains("not reachable") && !ended.stderr.contains("hush-hush"), "{}", ended.stderr);
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 1, "a token that holds is not asked for again");
    for part in ["resource=https%3A%2F%2Fstorage.azure.com", "client_id=client-of-the-test", "header-of-the-test"] {
        assert!(asked[0].contains(part), "{part}: {}", asked[0]);
    }
}

#[test]
fn an_identity_that_is_refused_is_told_with_what_else_could_be_given() {
    let (address, _) = endpoint("400 Bad Request", "{\"error\": \"no such identity\"}");
    let mut agent = Agent::new("");
    agent.set("IDENTITY_ENDPOINT", &*address);
    agent.set("IDENTITY_HEADER", "header-of-the-test");
    let ended = agent.operator(["points", "--site", "azure://account/container"]).ends_with(6);
    assert!(
        ended.stderr.contains("credentials were refused") && ended.stderr.contains("shared access signature"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_workload_whose_token_file_is_missing_is_told_so() {
    let mut agent = Agent::new("");
    for (variable, value) in [("AZURE_FEDERATED_TOKEN_FILE", "/nowhere/token"), ("AZURE_CLIENT_ID", "c"), ("AZURE_TENANT_ID", "t")]
    {
        agent.set(variable, value);
    }
    let ended = agent.operator(["points", "--site", "azure://account/container"]).ends_with(6);
    assert!(ended.stderr.contains("credentials were refused"), "{}", ended.stderr);
}
