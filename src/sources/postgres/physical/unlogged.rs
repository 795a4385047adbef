//! Relations without a log of their own that begin to exist while a backup is made.
//!
//! An index of an unlogged table has its file from the moment that it is begun, and its init fork, which tells that it has no log, when it is
//! built: maybe after the data directory was listed, or after the backup. Then the file is in the point. The log makes the fork, and at the
//! end of recovery the server copies the one to the other, and ends: `could not create file "base/5/16384": File exists`. Started again, it
//! removes the file first, as it does with all that have such a fork when it starts (`ResetUnloggedRelations` in PostgreSQL's `reinit.c`).
//!
//! Hence a restore leaves out the files of relations whose fork the backup's own log makes ([`in_the_way`]). What is built only after the
//! backup is found when a server is started ([`is_in_the_way`]).

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use super::{
    listing::Listing,
    select::{Fork, Relation, is_database, locator},
    summary::{INIT_FORK, Locator},
    tablespace::data_at,
};

/// `pg_tblspc/16400/PG_15_202209061/5`.
const DEEPEST: usize = 4;

/// The relation whose init fork a record makes that makes a fork, by what comes after its header: `xl_smgr_create`.
pub(super) fn init_fork(body: &[u8]) -> Option<Locator> {
    let data = body.get(data_at(body).ok()??..)?;
    let word = |at: usize| Some(u32::from_le_bytes(*data.get(at..)?.first_chunk()?));
    (word(12)? == INIT_FORK).then_some(Locator { tablespace: word(0)?, database: word(4)?, number: word(8)? })
}

/// Of what is listed, the files of relations whose init fork the log makes.
pub(super) fn in_the_way(listing: &Listing, init_forks: &[Locator]) -> Vec<String> {
    let made: HashSet<&Locator> = init_forks.iter().collect();
    let is = |path: &str| {
        locator(path).is_some_and(|one| made.contains(&one)) && Relation::of(path).is_some_and(|one| one.fork != Fork::Init)
    };
    let files = listing.items.iter().filter(|item| !item.is_directory && is(&item.path));
    files.map(|item| item.path.clone()).collect()
}

/// The first files of all relations that have an init fork. Blocking.
pub(super) fn with_init_fork(data: &Path) -> HashSet<PathBuf> {
    let mut found = HashSet::new();
    let mut waiting = vec!["base".to_owned(), "pg_tblspc".to_owned()];
    while let Some(directory) = waiting.pop() {
        let at = data.join(&directory);
        // What is no directory, or is gone, has none.
        let Ok(entries) = fs::read_dir(&at) else { continue };
        for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
            if is_database(&directory) {
                let relation = Relation::parse(&name).filter(|one| one.fork == Fork::Init && one.segment == 0);
                found.extend(relation.map(|one| at.join(one.number.to_string())));
            } else if directory.split('/').count() < DEEPEST {
                waiting.push(format!("{directory}/{name}"));
            }
        }
    }
    found
}

/// Whether a recovery has made an init fork for a file that was there before it. Blocking.
pub(super) fn is_in_the_way(data: &Path, before: &HashSet<PathBuf>) -> bool {
    with_init_fork(data).difference(before).any(|file| file.exists())
}

#[cfg(test)]
mod tests {
    use super::{is_in_the_way, with_init_fork};

    #[test]
    fn a_file_is_in_the_way_of_a_fork_that_was_not_there_before() {
        let data = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let path = data.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        for path in
            ["base/5/1", "base/5/2", "base/5/2_init", "pg_tblspc/7/PG_15_1/5/3", "base/5/PG_VERSION", "base/pgsql_tmp/9_init"]
        {
            write(path);
        }
        let before = with_init_fork(data.path());
        assert_eq!(before, [data.path().join("base/5/2")].into());
        // Made by the log, and of nothing that was restored.
        for path in ["base/5/4_init", "base/5/1_vm", "base/5/1_fsm"] {
            write(path);
        }
        assert!(!is_in_the_way(data.path(), &before));
        write("pg_tblspc/7/PG_15_1/5/3_init");
        assert!(is_in_the_way(data.path(), &before));
        std::fs::remove_file(data.path().join("pg_tblspc/7/PG_15_1/5/3")).unwrap();
        assert!(!is_in_the_way(data.path(), &before));
        write("base/5/1_init");
        assert!(is_in_the_way(data.path(), &before));
    }
}
