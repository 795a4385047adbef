//! What can go wrong with a repository, named by what the caller can do.

use crate::stores::StoreError;

/// An error of the repository.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// There is no repository under this prefix.
    #[error(
        "{place}: there is no Farshore repository here; check the site in the policy, or make one with `farshore init`; if there was one, somebody may have marked it as deleted: a versioned bucket shows it with --first-versions"
    )]
    NoRepository {
        /// The site.
        place: String,
    },
    /// `init` found one already.
    #[error(
        "{place}: there is a repository here already; use it, or choose another prefix; --site NAME makes that of another site alone"
    )]
    AlreadyThere {
        /// The site.
        place: String,
    },
    /// The repository's format is one this program does not know.
    #[error(
        "{place}: the repository has format {found}, this program reads format {known}; use the farshore version that wrote it, or a newer one"
    )]
    UnknownFormat {
        /// The object.
        place: String,
        /// What it says.
        found: u64,
        /// What this program knows.
        known: u64,
    },
    /// None of the keys at hand opens what is needed.
    #[error("{place}: {detail}")]
    Key {
        /// The wrapped key.
        place: String,
        /// What was tried, and the next step.
        detail: String,
    },
    /// A policy names others than those for whom the keys are wrapped.
    #[error(
        "{place}: the policy names other recipients than the newest recipient set (generation {generation}): {}; if the policy is right, run `farshore key rotate {policy} --identity FILE` with a reader's identity, which wraps the keys anew; if not, mend [encryption] in the policy",
        difference(missing, unnamed)
    )]
    OtherRecipients {
        /// The site.
        place: String,
        /// Of the newest recipient set.
        generation: u32,
        /// How the operator calls the policy.
        policy: String,
        /// Whom the policy names and the set lacks.
        missing: Vec<String>,
        /// Whom the set has and the policy does not name.
        unnamed: Vec<String>,
    },
    /// Something read from the site is not what was written there.
    #[error(
        "{place}: damaged: {detail}; `farshore repair` names every path that is hurt by what `verify --read-data` has found; restore the rest with --path, or from another point or site"
    )]
    Damaged {
        /// The object, and where in it.
        place: String,
        /// What did not match.
        detail: String,
    },
    /// A chunk that a point needs is in no index.
    #[error(
        "chunk {id} is in no index of {place}: an index or a pack was lost; `farshore repair` makes packs known again that no index names, and names every path that is hurt; restore the rest with --path, or from another point or site"
    )]
    MissingChunk {
        /// The site.
        place: String,
        /// The chunk's id, hexadecimal.
        id: String,
    },
    /// An entry of a point cannot be read, for this reason.
    #[error("{}: {error}", entry_words(name, path.as_deref()))]
    Entry {
        /// Name of the source.
        name: String,
        /// Path of the entry; nothing where it is the list of entries that cannot be read, or where the entry is not known.
        path: Option<String>,
        /// What happened.
        error: Box<RepositoryError>,
    },
    /// No point, or more than one, goes by this name.
    #[error("{wanted}: {detail}")]
    NoSuchPoint {
        /// What was asked for.
        wanted: String,
        /// What there is.
        detail: String,
    },
    /// A caller broke the rules of the entry stream or gave impossible parameters.
    #[error("{subject}: {detail}")]
    Refused {
        /// The entry or parameter.
        subject: String,
        /// Which rule.
        detail: String,
    },
    /// The local cache cannot be used.
    #[error("local cache {path}: {detail}; delete that directory (it is rebuilt from the site) or point --cache-dir elsewhere")]
    Cache {
        /// Where.
        path: String,
        /// What happened.
        detail: String,
    },
    /// The site.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another task of the same run failed first; this is its error.
    #[error("{0}")]
    Earlier(std::sync::Arc<RepositoryError>),
}

fn entry_words(name: &str, path: Option<&str>) -> String {
    path.map_or_else(|| format!("source {name}"), |path| format!("source {name}, {path}"))
}

fn difference(missing: &[String], unnamed: &[String]) -> String {
    let side = |keys: &[String], words: &str| (!keys.is_empty()).then(|| format!("{words} {}", keys.join(", ")));
    let sides = [side(missing, "the set lacks"), side(unnamed, "the policy lacks")];
    sides.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// The error of reading an object that an index, a point or a list says is there.
pub(super) fn reading(error: StoreError) -> RepositoryError {
    match error {
        StoreError::NotFound { place } => RepositoryError::Damaged { place, detail: "is missing from the site".to_owned() },
        StoreError::InvalidRange { place } => {
            RepositoryError::Damaged { place, detail: "is shorter than what is recorded of it".to_owned() }
        }
        StoreError::Corrupt { place, detail } => RepositoryError::Damaged { place, detail },
        other => other.into(),
    }
}

impl RepositoryError {
    /// Whether it says that something stored is damaged or missing, and not that the site or the keys cannot be used: another
    /// point, or everything else, may well be sound.
    pub fn is_damage(&self) -> bool {
        match self.root() {
            Self::Damaged { .. } | Self::MissingChunk { .. } | Self::UnknownFormat { .. } => true,
            Self::Store(error) => {
                matches!(error, StoreError::NotFound { .. } | StoreError::Corrupt { .. } | StoreError::InvalidRange { .. })
            }
            _ => false,
        }
    }

    /// With the entry where it was met, if it is damage and no entry is named yet.
    pub fn at_entry(self, source: &str, path: Option<&[u8]>) -> Self {
        if !self.is_damage() || matches!(self, Self::Entry { .. }) {
            return self;
        }
        let path = path.map(|path| String::from_utf8_lossy(path).into_owned());
        Self::Entry { name: source.to_owned(), path, error: Box::new(self) }
    }

    /// The error itself, behind any [`Self::Earlier`] and [`Self::Entry`].
    pub fn root(&self) -> &Self {
        match self {
            Self::Earlier(inner) => inner.root(),
            Self::Entry { error, .. } => error.root(),
            other => other,
        }
    }
}

/// Shorthand of this room.
pub type Result<T, E = RepositoryError> = std::result::Result<T, E>;
