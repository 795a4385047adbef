//! Libraries that a restored cluster loads, and whether the server that is to serve it has them.
//!
//! Looked for and never loaded: what is in them would run, and some reach out.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{configured::Configured, facts::PhysicalFacts};
use crate::{
    progress::Check,
    sources::postgres::quote::{identifier, list_elements},
};

/// Settings that name libraries.
const LOADED: [&str; 3] = ["shared_preload_libraries", "session_preload_libraries", LOCAL];
/// The one that everybody may set, and whose libraries therefore lie in a directory of their own.
const LOCAL: &str = "local_preload_libraries";
/// Where libraries without a directory are looked for.
const PATH: &str = "dynamic_library_path";
/// The server's word for its own directory of libraries, which is also where it looks if nothing is set.
const OWN: &str = "$libdir";
/// What a name may lack.
const SUFFIX: &str = ".so";
/// Places that are named of each library, and libraries.
const NAMED: usize = 3;
const MOST_MISSING: usize = 10;

/// A setting that is attached to a database, a role, or both.
#[derive(Debug)]
pub struct Attached {
    /// The database, unless all are meant.
    pub database: Option<String>,
    /// The role, unless all are meant.
    pub role: Option<String>,
    /// `name=value`.
    pub assignment: String,
}

impl Attached {
    fn place(&self, name: &str) -> String {
        match (&self.role, &self.database) {
            (None, Some(database)) => format!("ALTER DATABASE {} SET {name}", identifier(database)),
            (Some(role), None) => format!("ALTER ROLE {} SET {name}", identifier(role)),
            (Some(role), Some(database)) => {
                format!("ALTER ROLE {} IN DATABASE {} SET {name}", identifier(role), identifier(database))
            }
            (None, None) => format!("ALTER ROLE ALL SET {name}"),
        }
    }
}

/// Libraries by name, each with where it is asked for.
#[derive(Debug, Default)]
pub struct Libraries {
    needed: BTreeMap<String, BTreeSet<String>>,
    /// The server's own directory.
    own: PathBuf,
    searched: String,
    unread: Vec<String>,
}

impl Libraries {
    /// What a cluster's settings name. `own` is the server's directory of libraries (`pg_config --pkglibdir`).
    pub fn of_settings(own: &str, configured: &Configured, attached: &[Attached], facts: &PhysicalFacts) -> Self {
        let ran_with = |name: &str| facts.settings.get(name).map(String::as_str);
        let searched = configured.value(PATH).map(|(value, _)| value).or_else(|| ran_with(PATH)).unwrap_or(OWN);
        let mut libraries =
            Self { needed: BTreeMap::new(), own: own.into(), searched: searched.to_owned(), unread: configured.unread().to_vec() };
        for name in LOADED {
            if let Some((value, file)) = configured.value(name) {
                libraries.add(name, value, &format!("{name} in {}", file.display()));
            }
        }
        for one in attached {
            let Some((name, value)) = one.assignment.split_once('=') else { continue };
            if let Some(name) = LOADED.into_iter().find(|known| known.eq_ignore_ascii_case(name)) {
                libraries.add(name, value, &one.place(name));
            }
        }
        // What a command line said, or a file that is not in the point.
        let before = libraries.needed.clone();
        for name in LOADED {
            libraries.add(name, ran_with(name).unwrap_or_default(), &format!("{name} of the captured server"));
        }
        for (library, places) in before {
            libraries.needed.insert(library, places);
        }
        libraries
    }

    fn add(&mut self, setting: &str, value: &str, place: &str) {
        for library in list_elements(value).into_iter().filter(|library| !library.is_empty()) {
            let library = if setting == LOCAL && !library.contains('/') { format!("{OWN}/plugins/{library}") } else { library };
            self.needed.entry(library).or_default().insert(place.to_owned());
        }
    }

    /// One that functions of a database are in: so many, and one of them.
    pub fn add_functions(&mut self, library: String, database: &str, count: u64, example: &str) {
        let place = format!("{count} functions of database {database}, as {example}");
        self.needed.entry(library).or_default().insert(place);
    }

    fn expanded(&self, path: &str) -> PathBuf {
        match path.strip_prefix(OWN) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => self.own.join(rest.trim_start_matches('/')),
            _ => PathBuf::from(path),
        }
    }

    fn has(&self, library: &str) -> bool {
        let is_there = |path: &Path| path.is_file() || Path::new(&format!("{}{SUFFIX}", path.display())).is_file();
        match library.contains('/') {
            true => is_there(&self.expanded(library)),
            false => self.searched.split(':').any(|directory| is_there(&self.expanded(directory.trim()).join(library))),
        }
    }

    /// Whether all are there.
    pub fn check(&self) -> Check {
        let (name, expected) = ("libraries that the cluster loads", "each is installed beside the server");
        let missing: Vec<String> = self.needed.iter().filter(|(library, _)| !self.has(library)).map(shown).collect();
        let not_read = match self.unread.as_slice() {
            [] => String::new(),
            some => format!("; settings in {} were not looked at: the point does not have them", some.join(", ")),
        };
        match missing.as_slice() {
            [] if not_read.is_empty() => Check::equal(name, expected, expected),
            [] => Check::note(name, expected, format!("{expected}{not_read}")),
            some => {
                let more = some.len().saturating_sub(MOST_MISSING);
                let more = if more > 0 { format!(", and {more} more") } else { String::new() };
                let first = some[..some.len().min(MOST_MISSING)].join(", ");
                let next =
                    format!("install the packages that have them in {}, or take them out where they stand", self.own.display());
                Check::equal(name, expected, format!("missing: {first}{more}{not_read}: {next}"))
            }
        }
    }
}

fn shown((library, places): (&String, &BTreeSet<String>)) -> String {
    let more = if places.len() > NAMED { "; …" } else { "" };
    let first: Vec<&str> = places.iter().take(NAMED).map(String::as_str).collect();
    format!("{library} ({}{more})", first.join("; "))
}

#[cfg(test)]
mod tests {
    use super::{Attached, Libraries};
    use crate::{
        progress::CheckOutcome,
        sources::postgres::physical::{configured::Configured, facts::tests::facts},
    };

    #[test]
    fn each_library_is_looked_for_where_a_server_looks_and_a_missing_one_is_told_with_its_place() {
        let place = tempfile::tempdir().unwrap();
        let (own, more) = (place.path().join("lib"), place.path().join("more"));
        for file in ["lib/here.so", "lib/plugins/local.so", "more/elsewhere.so", "data/whole name"] {
            let file = place.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        let data = place.path().join("data");
        let conf = format!(
            "shared_preload_libraries = 'here, elsewhere, \"{}\", gone'\nlocal_preload_libraries = 'local, \"$libdir/here\"'\ndynamic_library_path = '$libdir:{}'\n",
            data.join("whole name").display(),
            more.display()
        );
        std::fs::write(data.join("postgresql.conf"), conf).unwrap();
        let attached = |database: Option<&str>, role: Option<&str>, assignment: &str| Attached {
            database: database.map(str::to_owned),
            role: role.map(str::to_owned),
            assignment: assignment.to_owned(),
        };
        let attached = [
            attached(Some("app"), None, "session_preload_libraries=here, lost"),
            attached(Some("app"), Some("o'b"), "local_preload_libraries=here"),
            attached(None, Some("o'b"), "search_path=nowhere"),
        ];
        let mut facts = facts();
        for (name, value) in [("shared_preload_libraries", "gone, by_command_line"), ("session_preload_libraries", "")] {
            facts.settings.insert(name.to_owned(), value.to_owned());
        }
        let own = own.display().to_string();
        let mut libraries = Libraries::of_settings(&own, &Configured::read(&data, &facts), &attached, &facts);
        libraries.add_functions("$libdir/here".to_owned(), "app", 3, "public.f");
        libraries.add_functions("$libdir/absent".to_owned(), "app", 3, "public.g");
        let check = libraries.check();
        assert_eq!(check.outcome, CheckOutcome::Failed);
        let expected = format!(
            "missing: $libdir/absent (3 functions of database app, as public.g), \
             $libdir/plugins/here (ALTER ROLE \"o'b\" IN DATABASE \"app\" SET local_preload_libraries), \
             by_command_line (shared_preload_libraries of the captured server), \
             gone (shared_preload_libraries in /d/postgresql.conf), lost (ALTER DATABASE \"app\" SET session_preload_libraries): \
             install the packages that have them in {own}, or take them out where they stand"
        );
        assert_eq!(check.actual, expected);
        // Nothing is missing of nothing, and a configuration that was not found is told.
        facts.settings.clear();
        let none = Libraries::of_settings(&own, &Configured::read(place.path(), &facts), &[], &facts).check();
        assert_eq!(none.outcome, CheckOutcome::Note);
        assert!(none.actual.contains("settings in /d/postgresql.conf were not looked at"), "{}", none.actual);
    }
}
