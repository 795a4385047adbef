//! Include and exclude patterns.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::sources::SourceError;

/// Compiled patterns.
#[derive(Debug)]
pub(super) struct Filter {
    include: Option<Gitignore>,
    exclude: Gitignore,
}

impl Filter {
    pub(super) fn new(include: &[String], exclude: &[String]) -> Result<Self, SourceError> {
        Ok(Self { include: if include.is_empty() { None } else { Some(compile(include)?) }, exclude: compile(exclude)? })
    }

    /// Whether something is captured. A directory that is not captured is not entered. `path` is an entry's: no leading `/`.
    pub(super) fn takes(&self, path: &[u8], directory: bool) -> bool {
        let path = Path::new(OsStr::from_bytes(path));
        if self.exclude.matched(path, directory).is_ignore() {
            return false;
        }
        match &self.include {
            Some(include) if !directory => include.matched_path_or_any_parents(path, false).is_ignore(),
            _ => true,
        }
    }
}

fn compile(patterns: &[String]) -> Result<Gitignore, SourceError> {
    let unfit = |pattern: &str, error: &ignore::Error| SourceError::Unfit {
        subject: format!("pattern {pattern:?}"),
        detail: format!("{error}; write it as in a .gitignore file"),
    };
    let mut builder = GitignoreBuilder::new("/");
    // git takes `a[` literally; in a policy it is a slip of the pen that would leave out too little or too much.
    builder.allow_unclosed_class(false);
    for pattern in patterns {
        builder.add_line(None, pattern).map_err(|error| unfit(pattern, &error))?;
    }
    builder.build().map_err(|error| unfit(&patterns.join(" "), &error))
}

#[cfg(test)]
mod tests {
    use super::Filter;

    fn filter(include: &[&str], exclude: &[&str]) -> Filter {
        let owned = |patterns: &[&str]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
        Filter::new(&owned(include), &owned(exclude)).unwrap()
    }

    #[test]
    fn patterns_work_as_in_gitignore() {
        let filter = filter(&[], &["*.tmp", "/srv/cache/", "!keep.tmp"]);
        assert!(!filter.takes(b"srv/a/x.tmp", false));
        assert!(filter.takes(b"srv/a/keep.tmp", false));
        assert!(!filter.takes(b"srv/cache", true));
        assert!(filter.takes(b"srv/cache", false));
        assert!(filter.takes(b"var/srv/cache", true));
    }

    #[test]
    fn includes_choose_files_and_leave_directories_in() {
        let filter = filter(&["*.conf", "/etc/ssl/"], &["secret.conf"]);
        assert!(filter.takes(b"etc", true));
        assert!(filter.takes(b"etc/a.conf", false));
        assert!(!filter.takes(b"etc/a.txt", false));
        assert!(filter.takes(b"etc/ssl/certs/x.pem", false));
        assert!(!filter.takes(b"etc/secret.conf", false));
    }

    #[test]
    fn a_broken_pattern_is_named() {
        let error = Filter::new(&[], &["a[".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("a["), "{error}");
    }
}
