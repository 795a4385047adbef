//! Where a store is, in one word, as `--site` and `--to` take it.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

use super::{AzureConfig, AzureStore, FilesystemStore, S3Config, S3Store, SharedStore, StoreError};

/// A place that holds objects. Credentials are never part of it: they come as the provider's own tools take them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory.
    Directory(PathBuf),
    /// `s3://bucket/prefix`.
    S3 {
        /// The bucket.
        bucket: String,
        /// Without slashes at its ends; empty for the whole bucket.
        prefix: String,
    },
    /// `azure://account/container/prefix`.
    Azure {
        /// The storage account.
        account: String,
        /// The container.
        container: String,
        /// Without slashes at its ends; empty for the whole container.
        prefix: String,
    },
}

/// A word that names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} names no place: {problem}; write a directory, s3://bucket/prefix or azure://account/container/prefix")]
pub struct LocationError {
    /// What was given; without what stood before an `@`, which could be a secret.
    pub word: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Location {
    /// Reads a word: with a scheme it is an address, without one a directory (relative ones too, `file://` is not needed).
    ///
    /// # Errors
    /// An unknown scheme, a missing or impossible name, credentials within the address.
    pub fn parse(word: &str) -> Result<Self, LocationError> {
        let Some((scheme, rest)) = word.split_once("://") else {
            return match word {
                "" => Err(wrong(word, "it is empty")),
                word if word.contains('\0') => Err(wrong(word, "a path cannot hold a NUL")),
                word => Ok(Self::Directory(PathBuf::from(word))),
            };
        };
        let authority = rest.split('/').next().unwrap_or_default();
        if authority.contains('@') {
            return Err(wrong(word, "credentials do not belong into an address (they would show in process lists)"));
        }
        match scheme {
            "s3" => {
                let (bucket, prefix) = split(rest);
                check_name(word, bucket, "the bucket is missing", "a bucket has no such name")?;
                Ok(Self::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
            }
            "azure" => {
                let (account, rest) = split(rest);
                let (container, prefix) = split(rest);
                check_name(word, account, "the account is missing", "an account has no such name")?;
                check_name(word, container, "the container is missing", "a container has no such name")?;
                Ok(Self::Azure { account: account.to_owned(), container: container.to_owned(), prefix: prefix.to_owned() })
            }
            _ => Err(wrong(word, "its scheme is not known")),
        }
    }

    /// The store at the place, bare: whoever opens it puts `Retry` and `Limit` over it. An S3 bucket is reached as the provider's
    /// own tools would (`AWS_*` variables, profile, instance); where they name an endpoint, the bucket goes into the path. A container
    /// as [`AzureConfig::from_environment`] says.
    ///
    /// # Errors
    /// Those of [`S3Store::connect`] and [`AzureStore::connect`].
    pub async fn open(&self) -> Result<SharedStore, StoreError> {
        self.open_reading(false).await
    }

    /// As [`Self::open`], to read the version of each object that was stored first ([`S3Config::first_versions`],
    /// [`AzureConfig::first_versions`]).
    ///
    /// # Errors
    /// As [`Self::open`]; [`StoreError::Unsupported`] for a directory.
    pub async fn open_first_versions(&self) -> Result<SharedStore, StoreError> {
        self.open_reading(true).await
    }

    async fn open_reading(&self, first_versions: bool) -> Result<SharedStore, StoreError> {
        match self {
            Self::Directory(_) if first_versions => {
                Err(StoreError::Unsupported { place: self.to_string(), what: "reading earlier versions" })
            }
            Self::Directory(path) => Ok(FilesystemStore::new(path.clone())),
            Self::S3 { bucket, prefix } => {
                let named = |variable| std::env::var_os(variable).is_some_and(|value| !value.is_empty());
                let config = S3Config {
                    bucket: bucket.clone(),
                    prefix: prefix.clone(),
                    path_style: named("AWS_ENDPOINT_URL") || named("AWS_ENDPOINT_URL_S3"),
                    first_versions,
                    ..S3Config::default()
                };
                Ok(Arc::new(S3Store::connect(config).await?))
            }
            Self::Azure { account, container, prefix } => {
                let config = AzureConfig { first_versions, ..AzureConfig::from_environment(account, container, prefix) };
                Ok(Arc::new(AzureStore::connect(config).await?))
            }
        }
    }
}

fn split(text: &str) -> (&str, &str) {
    let (first, rest) = text.split_once('/').unwrap_or((text, ""));
    (first, rest.trim_matches('/'))
}

/// Letters, digits and `.-_`: what buckets (older ones too), accounts and containers are named with.
fn check_name(word: &str, name: &str, missing: &'static str, impossible: &'static str) -> Result<(), LocationError> {
    if name.is_empty() {
        return Err(wrong(word, missing));
    }
    let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    if fits { Ok(()) } else { Err(wrong(word, impossible)) }
}

fn wrong(word: &str, problem: &'static str) -> LocationError {
    let shown = match (word.split_once("://"), word.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, after))) => format!("{scheme}://…@{after}"),
        _ => word.to_owned(),
    };
    LocationError { word: shown, problem }
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(word: &str) -> Result<Self, LocationError> {
        Self::parse(word)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, prefix) = match self {
            Self::Directory(path) => return path.display().fmt(formatter),
            Self::S3 { bucket, prefix } => (format!("s3://{bucket}"), prefix),
            Self::Azure { account, container, prefix } => (format!("azure://{account}/{container}"), prefix),
        };
        if prefix.is_empty() { formatter.write_str(&start) } else { write!(formatter, "{start}/{prefix}") }
    }
}

#[cfg(test)]
mod tests {
    use super::{Location, StoreError};

    #[test]
    fn every_kind_of_place_is_read_and_written_back() {
        for (word, normal) in [
            ("/srv/backup", "/srv/backup"),
            ("relative/dir", "relative/dir"),
            ("a:b", "a:b"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://dr-us.east_1/mattermost/eu/", "s3://dr-us.east_1/mattermost/eu"),
            ("azure://account/container", "azure://account/container"),
            ("azure://account/container/p/q", "azure://account/container/p/q"),
        ] {
            let location = Location::parse(word).unwrap();
            assert_eq!(location.to_string(), normal);
            assert_eq!(Location::parse(normal), Ok(location));
        }
    }

    #[tokio::test]
    async fn a_directory_has_no_earlier_versions_and_it_says_so() {
        let location = Location::parse("/srv/backup").unwrap();
        let error = location.open_first_versions().await.unwrap_err();
        assert!(matches!(error, StoreError::Unsupported { .. }));
        assert!(error.to_string().starts_with("/srv/backup: reading earlier versions"), "{error}");
    }

    #[tokio::test]
    async fn a_directory_is_opened_where_it_is() {
        let location = Location::parse("/srv/backup").unwrap();
        assert_eq!(location.open().await.unwrap().describe(), "/srv/backup");
    }

    #[test]
    fn what_names_no_place_is_refused_with_the_reason() {
        for (word, reason) in [
            ("", "empty"),
            ("s3://", "bucket is missing"),
            ("s3:///prefix", "bucket is missing"),
            ("s3://buck et/p", "no such name"),
            ("azure://account", "container is missing"),
            ("azure:///container", "account is missing"),
            ("gs://bucket", "scheme is not known"),
            ("postgres://host/db", "scheme is not known"),
        ] {
            let error = Location::parse(word).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("write a directory"), "{word}: {error}");
        }
    }

    #[test]
    fn credentials_in_an_address_are_refused_and_not_repeated() {
        for word in ["s3://key:hush@bucket/p", "postgres://me:hush@host/db"] {
            let error = Location::parse(word).unwrap_err();
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }
}
