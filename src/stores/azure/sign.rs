//! Shared key: every request carries an HMAC over what it asks (Microsoft's "Authorize with Shared Key"). The SDK has none.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use aws_lc_rs::hmac;
use azure_core::http::{
    Context, Request,
    policies::{Policy, PolicyResult},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};

use crate::clock::SharedClock;

/// Headers whose values are signed by their place; the date travels as `x-ms-date`.
const BY_PLACE: [&str; 8] =
    ["content-md5", "content-type", "date", "if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"];

/// Signs each request anew, and so each attempt.
pub(super) struct SharedKey {
    account: String,
    key: hmac::Key,
    clock: SharedClock,
}

impl SharedKey {
    /// Fails where the key is no Base64.
    pub(super) fn new(account: &str, key: &SecretString, clock: SharedClock) -> Result<Self, &'static str> {
        let bytes = STANDARD.decode(key.expose_secret().trim()).map_err(|_| "the account key is no Base64")?;
        Ok(Self { account: account.to_owned(), key: hmac::Key::new(hmac::HMAC_SHA256, &bytes), clock })
    }

    fn sign(&self, request: &Request) -> String {
        let text = string_to_sign(&self.account, request);
        let tag = hmac::sign(&self.key, text.as_bytes());
        format!("SharedKey {}:{}", self.account, STANDARD.encode(tag))
    }
}

impl fmt::Debug for SharedKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SharedKey({})", self.account)
    }
}

#[async_trait]
impl Policy for SharedKey {
    async fn send(&self, context: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        request.insert_header("x-ms-date", self.clock.now().format("%a, %d %b %Y %H:%M:%S GMT").to_string());
        let authorization = self.sign(request);
        request.insert_header("authorization", authorization);
        next[0].send(context, request, &next[1..]).await
    }
}

fn string_to_sign(account: &str, request: &Request) -> String {
    let headers: BTreeMap<String, &str> =
        request.headers().iter().map(|(name, value)| (name.as_str().to_ascii_lowercase(), value.as_str().trim())).collect();
    let header = |name: &str| headers.get(name).copied().unwrap_or_default();
    // An empty body counts as no length.
    let length = request.body().len().filter(|length| *length > 0).map_or_else(String::new, |length| length.to_string());
    let mut text =
        format!("{}\n{}\n{}\n{length}\n", request.method().as_str(), header("content-encoding"), header("content-language"));
    for name in BY_PLACE {
        text.push_str(header(name));
        text.push('\n');
    }
    for (name, value) in headers.iter().filter(|(name, _)| name.starts_with("x-ms-")) {
        text.push_str(&format!("{name}:{value}\n"));
    }
    text.push_str(&format!("/{account}{}", request.url().path()));
    let mut query: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in request.url().query_pairs() {
        query.entry(name.to_lowercase()).or_default().push(value.into_owned());
    }
    for (name, mut values) in query {
        values.sort();
        text.push_str(&format!("\n{name}:{}", values.join(",")));
    }
    text
}

#[cfg(test)]
mod tests {
    use azure_core::http::{Method, Request, Url};

    use super::string_to_sign;

    #[test]
    fn what_is_signed_is_what_the_documentation_says() {
        let url = Url::parse("https://acc.blob.core.windows.net/con/a%20b?comp=block&blockid=QUE%3D").unwrap();
        let mut request = Request::new(url, Method::Put);
        request.insert_header("x-ms-version", "2021-12-02");
        request.insert_header("x-ms-meta-b", "2");
        request.insert_header("if-none-match", "*");
        request.set_body(azure_core::Bytes::from_static(b"12345"));
        let expected =
            "PUT\n\n\n5\n\n\n\n\n\n*\n\n\nx-ms-meta-b:2\nx-ms-version:2021-12-02\n/acc/con/a%20b\nblockid:QUE=\ncomp:block";
        assert_eq!(string_to_sign("acc", &request), expected);
    }
}
