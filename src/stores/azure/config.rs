//! How a container is reached: address, credentials, connections.

use std::{env, sync::Arc, time::Duration};

use azure_core::{
    credentials::TokenCredential,
    http::{
        ClientOptions, Pipeline, RetryOptions, Transport, Url, policies::Policy, policies::auth::BearerTokenAuthorizationPolicy,
    },
};
use azure_identity::{ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId, WorkloadIdentityCredential};
use secrecy::{ExposeSecret, SecretString};

use super::{StoreError, sign::SharedKey, transport::Sender};
use crate::{
    clock::SharedClock,
    stores::{
        error::chain,
        wire::{Wire, WireConfig},
    },
};

/// Whom a token is for.
const SCOPE: &str = "https://storage.azure.com/.default";
/// A machine without an identity has nobody at the address that would answer for one.
const IDENTITY_TIMEOUT: Duration = Duration::from_secs(20);

/// Which container, and how it is reached.
#[derive(Debug, Clone, Default)]
pub struct AzureConfig {
    /// The storage account.
    pub account: String,
    /// The container's name.
    pub container: String,
    /// Keys live under this and a slash; empty for the whole container. Slashes at its ends are dropped.
    pub prefix: String,
    /// URL of the account's blob service where it is not `https://ACCOUNT.blob.core.windows.net`.
    pub endpoint: Option<String>,
    /// What proves who asks.
    pub credential: AzureCredential,
    /// Read the version of each blob that was stored first, whatever was written over it or deleted since; for accounts that keep versions.
    /// One more request for each read.
    pub first_versions: bool,
    /// How the server is reached.
    pub wire: WireConfig,
}

/// What proves who asks.
#[derive(Debug, Clone, Default)]
pub enum AzureCredential {
    /// The identity of the workload (`AZURE_FEDERATED_TOKEN_FILE` names its token) or of the machine.
    #[default]
    Identity,
    /// A connection string with a key or a shared access signature; also names the endpoint.
    ConnectionString(SecretString),
    /// A key of the account, in Base64.
    AccountKey(SecretString),
    /// A shared access signature: the query part of a URL.
    Sas(SecretString),
}

impl AzureConfig {
    /// With the credentials that the environment names, as the provider's own tools take them: `AZURE_STORAGE_CONNECTION_STRING`,
    /// `AZURE_STORAGE_KEY`, `AZURE_STORAGE_SAS_TOKEN`, in this order; otherwise an identity. `AZURE_STORAGE_SERVICE_ENDPOINT` is the endpoint.
    pub fn from_environment(account: &str, container: &str, prefix: &str) -> Self {
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let secret = |name: &str| variable(name).map(SecretString::from);
        let credential = secret("AZURE_STORAGE_CONNECTION_STRING")
            .map(AzureCredential::ConnectionString)
            .or_else(|| secret("AZURE_STORAGE_KEY").map(AzureCredential::AccountKey))
            .or_else(|| secret("AZURE_STORAGE_SAS_TOKEN").map(AzureCredential::Sas))
            .unwrap_or_default();
        Self {
            account: account.to_owned(),
            container: container.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: variable("AZURE_STORAGE_SERVICE_ENDPOINT"),
            credential,
            ..Self::default()
        }
    }

    /// How an operator would write the place down.
    pub(super) fn place(&self) -> String {
        let prefix = self.prefix.trim_matches('/');
        let separator = if prefix.is_empty() { "" } else { "/" };
        format!("azure://{}/{}{separator}{prefix}", self.account, self.container)
    }

    /// The requests' way to the server, the container's URL without a slash at its end, and the signature that goes into queries.
    pub(super) async fn connect(&self, clock: &SharedClock) -> Result<(Pipeline, String, Option<SecretString>), StoreError> {
        let parts = match &self.credential {
            AzureCredential::ConnectionString(text) => self.read_connection_string(text)?,
            AzureCredential::AccountKey(key) => Parts { key: Some(key.clone()), ..Parts::default() },
            AzureCredential::Sas(sas) => Parts { sas: Some(sas.clone()), ..Parts::default() },
            AzureCredential::Identity => Parts::default(),
        };
        let endpoint = self.endpoint.clone().or(parts.endpoint);
        let endpoint = endpoint.unwrap_or_else(|| format!("https://{}.blob.core.windows.net", self.account));
        let endpoint = endpoint.trim_end_matches('/');
        let fits = Url::parse(endpoint).is_ok_and(|url| {
            matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none() && url.password().is_none()
        });
        if !fits {
            return Err(self.unauthenticated("the endpoint is no http:// or https:// address without a query"));
        }
        let wire = Wire::new(self.wire.clone()).map_err(|detail| self.unauthenticated(&detail))?;
        let transport = Transport::new(Arc::new(Sender(wire)));
        let mut each_try: Vec<Arc<dyn Policy>> = Vec::new();
        match (parts.key, &parts.sas) {
            (Some(key), _) => {
                let signer = SharedKey::new(&self.account, &key, clock.clone());
                each_try.push(Arc::new(signer.map_err(|detail| self.unauthenticated(detail))?));
            }
            (None, Some(_)) => {}
            (None, None) => {
                let credential = self.identity(transport.clone()).await?;
                each_try.push(Arc::new(BearerTokenAuthorizationPolicy::new(credential, [SCOPE])));
            }
        }
        let options = options(transport);
        let name = option_env!("CARGO_PKG_NAME");
        let pipeline = Pipeline::new(name, option_env!("CARGO_PKG_VERSION"), options, Vec::new(), each_try, None);
        let sas = parts.sas.map(|sas| SecretString::from(sas.expose_secret().trim().trim_start_matches('?').to_owned()));
        Ok((pipeline, format!("{endpoint}/{}", self.container), sas))
    }

    /// Asked for a token here, so that a missing identity is told before the work begins, not by its first request.
    async fn identity(&self, transport: Transport) -> Result<Arc<dyn TokenCredential>, StoreError> {
        let failed = |detail: String| {
            self.unauthenticated(&format!(
                "{detail}: no connection string, key or shared access signature was given, so the workload's or the machine's own identity was asked for"
            ))
        };
        let named = |variable: &str| env::var(variable).ok().filter(|value| !value.is_empty());
        let credential: Arc<dyn TokenCredential> = if named("AZURE_FEDERATED_TOKEN_FILE").is_some() {
            let mut workload = azure_identity::WorkloadIdentityCredentialOptions::default();
            workload.credential_options.client_options.transport = Some(transport);
            WorkloadIdentityCredential::new(Some(workload)).map_err(|error| failed(chain(&error)))?
        } else {
            let managed = ManagedIdentityCredentialOptions {
                user_assigned_id: named("AZURE_CLIENT_ID").map(UserAssignedId::ClientId),
                client_options: ClientOptions { transport: Some(transport), ..ClientOptions::default() },
            };
            ManagedIdentityCredential::new(Some(managed)).map_err(|error| failed(chain(&error)))?
        };
        match tokio::time::timeout(IDENTITY_TIMEOUT, credential.get_token(&[SCOPE], None)).await {
            Ok(Ok(_)) => Ok(credential),
            Ok(Err(error)) => Err(failed(chain(&error))),
            Err(_) => Err(failed(format!("no identity answered within {} s", IDENTITY_TIMEOUT.as_secs()))),
        }
    }

    fn read_connection_string(&self, text: &SecretString) -> Result<Parts, StoreError> {
        let mut parts = Parts::default();
        let (mut protocol, mut suffix) = ("https", "core.windows.net");
        for setting in text.expose_secret().trim().split(';').filter(|setting| !setting.trim().is_empty()) {
            let (name, value) =
                setting.split_once('=').ok_or_else(|| self.unauthenticated("the connection string has a part without ="))?;
            match name.trim().to_ascii_lowercase().as_str() {
                "accountname" if value != self.account => {
                    return Err(self.unauthenticated("the connection string is another account's"));
                }
                "accountkey" => parts.key = Some(SecretString::from(value.to_owned())),
                "sharedaccesssignature" => parts.sas = Some(SecretString::from(value.to_owned())),
                "blobendpoint" => parts.endpoint = Some(value.to_owned()),
                "defaultendpointsprotocol" => protocol = value,
                "endpointsuffix" => suffix = value,
                // Endpoints of other services.
                _ => {}
            }
        }
        if parts.key.is_none() && parts.sas.is_none() {
            return Err(self.unauthenticated("the connection string has neither an AccountKey nor a SharedAccessSignature"));
        }
        if parts.endpoint.is_none() {
            parts.endpoint = Some(format!("{protocol}://{}.blob.{suffix}", self.account));
        }
        Ok(parts)
    }

    fn unauthenticated(&self, detail: &str) -> StoreError {
        StoreError::Unauthenticated { place: self.place(), detail: detail.to_owned() }
    }
}

/// What a credential comes down to.
#[derive(Default)]
struct Parts {
    key: Option<SecretString>,
    sas: Option<SecretString>,
    endpoint: Option<String>,
}

/// Retrying is decided by the `retry` wrapper alone.
fn options(transport: Transport) -> ClientOptions {
    ClientOptions { transport: Some(transport), retry: RetryOptions::none(), ..ClientOptions::default() }
}

#[cfg(test)]
mod tests {
    use super::{AzureConfig, AzureCredential, ExposeSecret};

    fn config(text: &str) -> AzureConfig {
        AzureConfig {
            account: "acc".to_owned(),
            container: "con".to_owned(),
            credential: AzureCredential::ConnectionString(text.into()),
            ..AzureConfig::default()
        }
    }

    #[test]
    fn the_place_names_account_container_and_prefix() {
        assert_eq!(config("").place(), "azure://acc/con");
        assert_eq!(AzureConfig { prefix: "/p/q/".to_owned(), ..config("") }.place(), "azure://acc/con/p/q");
    }

    #[test]
    fn secrets_do_not_print() {
        assert!(!format!("{:?}", config("AccountKey=hush")).contains("hush"));
    }

    #[test]
    fn connection_strings_are_read_as_the_provider_writes_them() {
        let read = |text: &str| config(text).read_connection_string(&text.into());
        let key =
            read("DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=aGk=;EndpointSuffix=core.usgovcloudapi.net").unwrap();
        assert_eq!(key.key.unwrap().expose_secret(), "aGk=");
        assert_eq!(key.endpoint.unwrap(), "https://acc.blob.core.usgovcloudapi.net");
        let sas = read("BlobEndpoint=https://acc.example/;SharedAccessSignature=sv=1&sig=a%3D").unwrap();
        assert_eq!(sas.sas.unwrap().expose_secret(), "sv=1&sig=a%3D");
        assert_eq!(sas.endpoint.unwrap(), "https://acc.example/");
        for (text, reason) in
            [("AccountName=other;AccountKey=aGk=", "another account"), ("AccountName=acc", "neither"), ("nonsense", "without =")]
        {
            let error = read(text).err().unwrap().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
