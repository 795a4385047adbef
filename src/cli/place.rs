//! Which repository a command means: a policy's site, or on the bad day a bare address.

use std::path::{Path, PathBuf};

use super::{
    CliError,
    assemble::{self, Way},
    identity,
};
use crate::{
    clock::{SharedClock, SystemClock},
    operations::expected_of,
    policy::{Encryption, Limits, Policy, SitePolicy},
    repository::{Expected, Identities, LockTerm, Repository},
    stores::{Location, SharedStore},
};

/// Where a policy given by name is looked up.
const POLICIES: &str = "/etc/farshore/policies";

/// What `--site` means to a command that goes through all of them.
pub(super) const EACH_SITE: &str = "Only this site of the policy; without it, each in turn. Or, without a policy, where the repository is: a directory with a slash in it (./far), s3://bucket/prefix, or azure://account/container/prefix";

/// Names the repository.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct PlaceArgs {
    /// A site of the policy (its first, unless said); or, without a policy, where the repository is: a directory with a slash
    /// in it (./far), s3://bucket/prefix, or azure://account/container/prefix.
    #[arg(long, value_name = "SITE")]
    pub(super) site: Option<String>,
    /// A file with an age identity that opens the data (repeatable). If it is wrapped with a passphrase, that is asked for on the
    /// terminal, or read from the file that FARSHORE_PASSPHRASE_FILE names.
    #[arg(long, value_name = "FILE", env = "FARSHORE_IDENTITY_FILE", value_delimiter = ':')]
    pub(super) identity: Vec<PathBuf>,
    /// Read of each object the version that the site stored first, whatever was written or marked as deleted over it since (a versioned
    /// bucket on S3, or a container of an Azure account that keeps versions).
    #[arg(long)]
    pub(super) first_versions: bool,
}

/// A command's policy and POINT-like words, told apart.
pub(super) struct Words {
    pub(super) policy: Option<String>,
    pub(super) rest: Vec<String>,
}

impl PlaceArgs {
    /// A site of a policy, read with identities that come from elsewhere.
    pub(super) fn of_site(name: &str) -> Self {
        Self { site: Some(name.to_owned()), identity: Vec::new(), first_versions: false }
    }

    /// With an address in `--site` there is no POLICY among the words; otherwise it is the first.
    pub(super) fn words(&self, words: Vec<String>, wanted: usize, usage: &str) -> Result<Words, CliError> {
        let mut rest = words;
        let bare = self.site.as_deref().is_some_and(is_address) && rest.len() == wanted;
        let policy = if bare {
            None
        } else if rest.is_empty() {
            return Err(CliError::Usage(format!("a POLICY is needed, or --site with an address: {usage}")));
        } else {
            Some(rest.remove(0))
        };
        if rest.len() != wanted {
            return Err(CliError::Usage(format!("expected: {usage}")));
        }
        Ok(Words { policy, rest })
    }
}

/// Whether a word is an address and not the name of a site (names have no slash).
fn is_address(word: &str) -> bool {
    word.contains('/') || word.starts_with('.')
}

/// An open place.
pub(super) struct Place {
    pub(super) policy: Option<Policy>,
    /// What of the policy holds for this site alone.
    pub(super) site: Option<SitePolicy>,
    /// How the site's policy has locked what is written.
    pub(super) lock: Option<LockTerm>,
    pub(super) store: SharedStore,
    pub(super) identities: Identities,
    pub(super) clock: SharedClock,
}

impl Place {
    pub(super) async fn open(&self, cache: &Path) -> Result<Repository, CliError> {
        let (store, clock) = (self.store.clone(), self.clock.clone());
        let repository = Repository::open(store, clock, &self.identities, self.expected(), cache).await?;
        Ok(match self.lock {
            Some(term) => repository.with_lock(term),
            None => repository,
        })
    }

    /// What is known of the repository from others than its site: the policy decides; without one, whether there is an identity.
    pub(super) fn expected(&self) -> Expected {
        match self.policy.as_ref().map(|policy| &policy.encryption) {
            Some(encryption) => expected_of(encryption),
            None if self.identities.is_empty() => Expected::Unknown,
            None => Expected::Encrypted,
        }
    }

    /// The policy, and what of it holds for this site.
    ///
    /// # Errors
    /// [`CliError::Usage`] where the place is a bare address.
    pub(super) fn of_policy(&self) -> Result<(&Policy, &SitePolicy), CliError> {
        self.policy.as_ref().zip(self.site.as_ref()).ok_or_else(|| CliError::Usage("a POLICY is needed".to_owned()))
    }

    /// Name of the policy whose points are meant.
    pub(super) fn policy_name(&self) -> Option<&str> {
        self.policy.as_ref().map(|policy| policy.name.as_str())
    }
}

/// Finds the place: reads the policy, resolves its secrets, reads the identities.
pub(super) async fn find(policy: Option<&str>, args: &PlaceArgs) -> Result<Place, CliError> {
    find_with(policy, args, identity::read(args.identity.clone()).await?).await
}

/// The same with identities that were read before, for a command that goes to several sites: a passphrase is asked for once, and
/// a pipe can be read only once.
pub(super) async fn find_with(policy: Option<&str>, args: &PlaceArgs, mut identities: Identities) -> Result<Place, CliError> {
    let clock = SystemClock::shared();
    let Some(named) = policy else {
        let word = args.site.as_deref().unwrap_or_default();
        let location = Location::parse(word).map_err(|error| CliError::Usage(error.to_string()))?;
        let bare = if args.first_versions { location.open_first_versions().await? } else { location.open().await? };
        let store = assemble::wrap(bare, &Way::to_place(&Limits::default()), &clock);
        return Ok(Place { policy: None, site: None, lock: None, store, identities, clock });
    };
    let policy = load_policy(named)?;
    let site = choose_site(&policy, args.site.as_deref())?.clone();
    let store = assemble::store(&site.store, &Way::to_site(&policy.limits, &site, &clock), args.first_versions, &clock).await?;
    // Whoever brings an identity of his own need not have the agent's: a drill runs where the agent is not.
    if identities.is_empty() {
        identities = agent_identity(&policy)?;
    }
    let lock = site.lock.map(assemble::lock_term);
    Ok(Place { policy: Some(policy), site: Some(site), lock, store, identities, clock })
}

/// An end of a copy: a site of the policy, by its name or its address, or any other address. It is opened with these identities,
/// and with the agent's where that can be read.
pub(super) async fn end(policy: &Policy, word: &str, identities: Identities, clock: &SharedClock) -> Result<Place, CliError> {
    let path = std::path::absolute(word).map(|path| path.display().to_string()).unwrap_or_default();
    // By its address, too: what is written to it must be locked as the policy says.
    let of_policy = policy.sites.iter().find(|site| [word, path.as_str()].contains(&site.store.place().as_str()));
    let site = match of_policy {
        Some(site) => Some(site.clone()),
        None if is_address(word) => None,
        None => Some(choose_site(policy, Some(word))?.clone()),
    };
    let store = match &site {
        Some(site) => assemble::store(&site.store, &Way::to_site(&policy.limits, site, clock), false, clock).await?,
        None => {
            let location = Location::parse(word).map_err(|error| CliError::Usage(error.to_string()))?;
            assemble::wrap(location.open().await?, &Way::to_place(&policy.limits), clock)
        }
    };
    let identities = match agent_identity(policy) {
        Ok(agent) => identities.and(&agent),
        // Whoever brings an identity of his own need not have the agent's.
        Err(_) if !identities.is_empty() => identities,
        Err(error) => return Err(error),
    };
    let lock = site.as_ref().and_then(|site| site.lock).map(assemble::lock_term);
    Ok(Place { policy: Some(policy.clone()), site, lock, store, identities, clock: clock.clone() })
}

/// The site of a policy that a word names; its first without one.
pub(super) fn choose_site<'a>(policy: &'a Policy, name: Option<&str>) -> Result<&'a SitePolicy, CliError> {
    let names = || policy.sites.iter().map(|site| site.name.as_str()).collect::<Vec<_>>().join(", ");
    match name {
        None => policy.sites.first().ok_or_else(|| CliError::Usage("the policy has no site".to_owned())),
        Some(name) => policy
            .site(name)
            .ok_or_else(|| CliError::Usage(format!("policy {} has no site {name:?}; it has {}", policy.name, names()))),
    }
}

/// The file that a word means: itself, or one of that name under [`POLICIES`].
pub(super) fn policy_path(word: &str) -> PathBuf {
    let looked_up = Path::new(POLICIES).join(format!("{word}.toml"));
    if !word.contains('/') && !Path::new(word).exists() && looked_up.exists() { looked_up } else { PathBuf::from(word) }
}

/// The only policy under [`POLICIES`].
pub(super) fn only_policy() -> Result<PathBuf, CliError> {
    let listed = std::fs::read_dir(POLICIES).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = listed.filter(|path| path.extension().is_some_and(|ending| ending == "toml")).collect();
    match (found.pop(), found.len()) {
        (Some(only), 0) => Ok(only),
        (None, _) => Err(CliError::Usage(format!("a POLICY is needed: there is none in {POLICIES}"))),
        (Some(_), more) => Err(CliError::Usage(format!("a POLICY is needed: there are {} in {POLICIES}", more + 1))),
    }
}

/// Reads a policy: a file, or a name under [`POLICIES`].
pub(super) fn load_policy(word: &str) -> Result<Policy, CliError> {
    let path = policy_path(word);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        CliError::setting(
            path.display().to_string(),
            format!("the policy cannot be read: {error}; give a file, or a name of one in {POLICIES}"),
        )
    })?;
    Ok(Policy::parse(&text, &path)?)
}

/// The agent's own identity: opens the catalogue and no data.
pub(super) fn agent_identity(policy: &Policy) -> Result<Identities, CliError> {
    match &policy.encryption {
        Encryption::Recipients(recipients) => match &recipients.agent {
            Some(reference) => Ok(Identities::parse(&reference.to_string(), &assemble::secret(reference)?)?),
            None => Ok(Identities::none()),
        },
        Encryption::None => Ok(Identities::none()),
    }
}

/// `$CACHE_DIRECTORY` (systemd), `$XDG_CACHE_HOME/farshore`, `~/.cache/farshore`, in this order.
pub(super) fn default_cache_directory() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("CACHE_DIRECTORY")
        .or_else(|| variable("XDG_CACHE_HOME").map(|path| path.join("farshore")))
        .or_else(|| variable("HOME").map(|path| path.join(".cache/farshore")))
        .unwrap_or_else(|| std::env::temp_dir().join("farshore-cache"))
}
