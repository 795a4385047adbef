//! One request: how it is built, how long it may take, how its refusal is read.

use std::time::Duration;

use azure_core::http::{
    Context, Method, Request, Url,
    headers::{HeaderName, Headers},
    request::Body,
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use percent_encoding::utf8_percent_encode;
use secrecy::ExposeSecret;

use super::{AzureStore, StoreError, error, transport::ANSWER, values::encode_path, xml};
use crate::stores::{
    error::{chain, retry_after},
    header_values::UNRESERVED,
};

/// How long the server may think about joining blocks.
pub(super) const COMPLETE_ANSWER: Duration = Duration::from_secs(600);
/// The version of the protocol: the first with the tier Cold, and known to every server since.
const VERSION: &str = "2021-12-02";
/// A refusal is read so far and no further. Bytes.
const MOST_REFUSAL_BYTES: usize = 64 << 10;

/// A request.
pub(super) struct Call {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    headers: Vec<(String, String)>,
    body: Bytes,
    /// How long the server may think, where that is not the usual time.
    answer: Option<Duration>,
}

impl Call {
    /// About the container.
    pub(super) fn container(method: Method) -> Self {
        let query = vec![("restype", "container".to_owned())];
        Self { method, path: String::new(), query, headers: Vec::new(), body: Bytes::new(), answer: None }
    }

    /// About a blob, by its whole name.
    pub(super) fn blob(method: Method, name: &str) -> Self {
        let path = format!("/{}", encode_path(name));
        Self { method, path, query: Vec::new(), headers: Vec::new(), body: Bytes::new(), answer: None }
    }

    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(super) fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(super) fn optional(self, name: &str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.header(name, value),
            None => self,
        }
    }

    /// About that version of the blob, by its id, and not about the current one.
    pub(super) fn version(self, id: Option<&str>) -> Self {
        match id {
            Some(id) => self.query("versionid", id),
            None => self,
        }
    }

    pub(super) fn body(mut self, body: Bytes) -> Self {
        self.body = body;
        self
    }

    pub(super) fn answered_within(mut self, answer: Duration) -> Self {
        self.answer = Some(answer);
        self
    }
}

/// A successful answer.
pub(super) struct Answer {
    headers: Headers,
    pub(super) body: azure_core::http::response::PinnedStream,
}

impl Answer {
    pub(super) fn header(&self, name: &'static str) -> Option<&str> {
        self.headers.get_optional_str(&HeaderName::from_static(name))
    }

    pub(super) fn number(&self, name: &'static str) -> Option<u64> {
        self.header(name)?.parse().ok()
    }

    pub(super) fn time(&self, name: &'static str) -> Option<DateTime<Utc>> {
        http_time(self.header(name)?)
    }

    /// Names, without the beginning that all have, and values of the headers that begin so.
    pub(super) fn headers_below<'a>(&'a self, beginning: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.headers.iter().filter_map(move |(name, value)| Some((name.as_str().strip_prefix(beginning)?, value.as_str())))
    }
}

/// A time as HTTP writes it.
pub(super) fn http_time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc2822(text).ok().map(|time| time.to_utc())
}

impl AzureStore {
    /// Sends a request; what is no success becomes an error. `key` is what the error is about.
    pub(super) async fn ask(&self, call: Call, key: &str, action: &'static str) -> Result<Answer, StoreError> {
        let place = self.object_place(key);
        let mut url = format!("{}{}", self.container_url, call.path);
        let mut separator = '?';
        for (name, value) in &call.query {
            url.push_str(&format!("{separator}{name}={}", utf8_percent_encode(value, UNRESERVED)));
            separator = '&';
        }
        if let Some(sas) = &self.sas {
            url.push(separator);
            url.push_str(sas.expose_secret());
        }
        // The address is in none of these errors: it may hold a signature.
        let other = |detail: &str| StoreError::Other { place: place.clone(), action, detail: detail.to_owned() };
        let url = Url::parse(&url).map_err(|_| other("the address that its name makes is none"))?;
        let mut request = Request::new(url, call.method);
        request.insert_header("x-ms-version", VERSION);
        for (name, value) in call.headers {
            request.insert_header(name, value);
        }
        request.set_body(Body::Bytes(call.body));
        let context = Context::new();
        let unchecked = azure_core::http::PipelineStreamOptions { skip_checks: true, ..Default::default() };
        let sending = self.pipeline.stream(&context, &mut request, Some(unchecked));
        let sent = match call.answer {
            Some(answer) => ANSWER.scope(answer, sending).await,
            None => sending.await,
        };
        let response = sent.map_err(|error| error::no_answer(place.clone(), action, &error))?;
        let (status, headers, body) = response.deconstruct();
        let answer = Answer { headers, body: Box::pin(body) };
        if status.is_success() {
            return Ok(answer);
        }
        Err(self.refusal(u16::from(status), answer, place, action).await)
    }

    async fn refusal(&self, status: u16, mut answer: Answer, place: String, action: &'static str) -> StoreError {
        let skew = answer.time("date").map(|date| (self.clock.now() - date).num_seconds());
        let after = retry_after(answer.header("retry-after"), answer.time("date"));
        let mut document = Vec::new();
        // Half a document says less, and the status is known without it.
        while let Some(Ok(piece)) = answer.body.next().await {
            if document.len() + piece.len() > MOST_REFUSAL_BYTES {
                break;
            }
            document.extend_from_slice(&piece);
        }
        let document = xml::read(&document);
        let text = |name: &str| document.as_ref().and_then(|document| document.text_of(name));
        let code = answer.header("x-ms-error-code").or_else(|| text("Code")).unwrap_or_default();
        // The lines after the first repeat the request's id and time.
        let message = text("Message").and_then(|message| message.lines().next()).unwrap_or_default();
        let refusal = error::Refusal { status, code, message: message.trim(), skew_seconds: skew.unwrap_or(0), after };
        match refusal.meaning(place, action) {
            StoreError::NoSuchPlace { .. } => StoreError::NoSuchPlace { place: self.place.clone() },
            meaning => meaning,
        }
    }

    /// The body of an answer as XML; at most so many bytes.
    pub(super) async fn document(&self, mut answer: Answer, key: &str, most: usize) -> Result<xml::Element, StoreError> {
        let mut document = Vec::new();
        while let Some(piece) = answer.body.next().await {
            let piece = piece.map_err(|error| StoreError::Unavailable { place: self.object_place(key), detail: chain(&error) })?;
            if document.len() + piece.len() > most {
                return Err(self.corrupt(key, format!("the answer has more than {most} bytes")));
            }
            document.extend_from_slice(&piece);
        }
        xml::read(&document).ok_or_else(|| self.corrupt(key, "the answer is no XML"))
    }
}
