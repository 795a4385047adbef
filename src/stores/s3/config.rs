//! How an S3 bucket is reached: address, credentials.

use std::{net::IpAddr, time::Duration};

use aws_config::BehaviorVersion;
use aws_sdk_s3::{
    Client,
    config::{
        Credentials, ProvideCredentials, Region, RequestChecksumCalculation, StalledStreamProtectionConfig, retry::RetryConfig,
        timeout::TimeoutConfig,
    },
};
use secrecy::{ExposeSecret, SecretString};

use super::{S3Encryption, StoreError, transport::http_client};
use crate::stores::{
    error::chain,
    wire::{Wire, WireConfig},
};

/// How long the server may think about joining parts: minutes (S3's documentation of CompleteMultipartUpload).
const COMPLETE_ANSWER: Duration = Duration::from_secs(600);
/// The region of requests where nothing names one: what S3-compatible servers expect.
const DEFAULT_REGION: &str = "us-east-1";

/// Which bucket, and how it is reached.
#[derive(Debug, Clone, Default)]
pub struct S3Config {
    /// The bucket's name.
    pub bucket: String,
    /// Keys live under this and a slash; empty for the whole bucket. Slashes at its ends are dropped.
    pub prefix: String,
    /// The region; otherwise as the provider's own tools find it, or `us-east-1`.
    pub region: Option<String>,
    /// URL of an S3-compatible server; otherwise AWS (or what `AWS_ENDPOINT_URL` says).
    pub endpoint: Option<String>,
    /// Whether the bucket goes into the path (`host/bucket/key`) instead of the host name; most compatible servers want it.
    pub path_style: bool,
    /// Access key id. Without keys the standard chain is asked: environment, profile, web identity, container, instance.
    pub access_key: Option<String>,
    /// The key's secret.
    pub secret_key: Option<SecretString>,
    /// The session token of temporary keys.
    pub session_token: Option<SecretString>,
    /// The profile of the shared configuration files that the chain reads.
    pub profile: Option<String>,
    /// Read of each object the version that was stored first, whatever was written or marked as deleted over it since. One more
    /// request for each read; the identity needs the right to list versions.
    pub first_versions: bool,
    /// What the server is told to encrypt with; otherwise the bucket's default holds.
    pub encryption: Option<S3Encryption>,
    /// Whoever asks pays for requests and transfer, and not the bucket's owner: sent where the bucket is one of those ("Requester Pays").
    pub requester_pays: bool,
    /// How the server is reached.
    pub wire: WireConfig,
}

impl S3Config {
    /// How an operator would write the place down.
    pub(super) fn place(&self) -> String {
        match self.prefix.trim_matches('/') {
            "" => format!("s3://{}", self.bucket),
            prefix => format!("s3://{}/{prefix}", self.bucket),
        }
    }

    /// Whether what is sent stays between this program and the server: over TLS, or within this machine.
    pub(super) fn is_private(&self) -> bool {
        let Some(open) = self.endpoint.as_deref().filter(|endpoint| !endpoint.starts_with("https://")) else { return true };
        let open = open.split_once("://").map_or(open, |(_, open)| open);
        let host = open.split(['/', '?']).next().unwrap_or_default();
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        name == "localhost" || name.trim_matches(['[', ']']).parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }

    /// A client, and the region it asks.
    pub(super) async fn client(&self) -> Result<(Client, String), StoreError> {
        let wire = Wire::new(self.wire.clone()).map_err(|detail| self.unauthenticated(&detail))?;
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(http_client(wire));
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(profile) = &self.profile {
            loader = loader.profile_name(profile);
        }
        match (&self.access_key, &self.secret_key) {
            (Some(access_key), Some(secret_key)) => {
                let token = self.session_token.as_ref().map(|token| token.expose_secret().to_owned());
                loader = loader.credentials_provider(Credentials::new(
                    access_key,
                    secret_key.expose_secret(),
                    token,
                    None,
                    "farshore policy",
                ));
            }
            (None, None) => {}
            _ => return Err(self.unauthenticated("an access key was given without its secret, or a secret without its key")),
        }
        let shared = loader.load().await;
        let Some(provider) = shared.credentials_provider() else {
            return Err(self.unauthenticated("no credentials were found"));
        };
        // Asked here so that a missing key is told before the work begins, not by its first request.
        if let Err(error) = provider.provide_credentials().await {
            return Err(self.unauthenticated(&with_sign_in(chain(&error))));
        }
        let region = shared.region().map_or_else(|| DEFAULT_REGION.to_owned(), ToString::to_string);
        let mut builder = aws_sdk_s3::config::Builder::from(&shared)
            .region(Region::new(region.clone()))
            .force_path_style(self.path_style)
            // Decided by the `retry` wrapper alone.
            .retry_config(RetryConfig::disabled())
            .timeout_config(none_of_the_sdk())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            // Every upload brings a checksum, which the server verifies.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        Ok((Client::from_conf(builder.build()), region))
    }

    fn unauthenticated(&self, detail: &str) -> StoreError {
        StoreError::Unauthenticated { place: self.place(), detail: detail.to_owned() }
    }
}

/// What the chain says of a profile of IAM Identity Center is that a file is missing or a token has expired; what mends both is added.
fn with_sign_in(detail: String) -> String {
    let of_sign_in = detail.contains("SSO token") || detail.contains("sso/cache");
    if of_sign_in { format!("{detail}; sign in: aws sso login") } else { detail }
}

/// Limits of joining parts.
pub(super) fn joining() -> TimeoutConfig {
    TimeoutConfig::builder().read_timeout(COMPLETE_ANSWER).build()
}

/// The transport has all limits: the SDK's own know nothing of what holds a body back.
fn none_of_the_sdk() -> TimeoutConfig {
    TimeoutConfig::builder()
        .disable_connect_timeout()
        .disable_read_timeout()
        .disable_operation_attempt_timeout()
        .disable_operation_timeout()
        .build()
}

#[cfg(test)]
mod tests {
    use super::{S3Config, StoreError};

    #[test]
    fn the_place_names_bucket_and_prefix() {
        let config = |prefix: &str| S3Config { bucket: "b".to_owned(), prefix: prefix.to_owned(), ..S3Config::default() };
        assert_eq!(config("").place(), "s3://b");
        assert_eq!(config("/p/q/").place(), "s3://b/p/q");
    }

    #[test]
    fn secrets_do_not_print() {
        let config = S3Config { secret_key: Some("hush".into()), session_token: Some("hush".into()), ..S3Config::default() };
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[tokio::test]
    async fn half_a_pair_of_keys_is_refused() {
        let config = S3Config { bucket: "b".to_owned(), access_key: Some("A".to_owned()), ..S3Config::default() };
        assert!(matches!(config.client().await, Err(StoreError::Unauthenticated { .. })));
    }

    #[test]
    fn a_connection_is_private_over_tls_and_within_this_machine() {
        let is_private =
            |endpoint: Option<&str>| S3Config { endpoint: endpoint.map(str::to_owned), ..S3Config::default() }.is_private();
        for endpoint in ["https://far.example", "http://localhost:8333", "http://127.0.0.1:9000/", "http://[::1]:9000"] {
            assert!(is_private(Some(endpoint)), "{endpoint}");
        }
        assert!(is_private(None));
        for endpoint in [
            "http://far.example",
            "http://far.example:80/localhost",
            "http://10.0.0.1:9000",
            "http://localhost.example",
            "HTTP://far.example",
        ] {
            assert!(!is_private(Some(endpoint)), "{endpoint}");
        }
    }
}
