//! What the configuration of a restored cluster says, read as its own server will read it at its next start.
//!
//! The server that looks at a restored cluster does without that configuration, so that it reaches nothing. And what the captured server
//! ran with is not all: what `ALTER SYSTEM` wrote may have waited for a start.
//!
//! Leaves out on purpose: what only a command line or the environment said.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::{
    facts::PhysicalFacts,
    target::{AUTO_CONF, AUTO_CONF_APART, CAPTURED_CONFIG},
};

/// Files may name files so deep (`CONF_FILE_MAX_DEPTH`).
const DEPTH: u32 = 10;
/// No file of settings is longer; what is beyond is not read.
const MOST_BYTES: u64 = 1 << 20;
/// The file that a server reads first, unless it is told otherwise.
const MAIN: &str = "postgresql.conf";

/// Where files of the captured server are now.
#[derive(Debug)]
struct Places<'a> {
    /// The restored data directory.
    data: &'a Path,
    /// The one that was captured.
    was: &'a Path,
}

impl Places<'_> {
    fn restored(&self, path: &Path) -> PathBuf {
        let apart = self.data.join(AUTO_CONF_APART);
        match path.strip_prefix(self.was) {
            Ok(within) if within == Path::new(AUTO_CONF) && apart.exists() => apart,
            Ok(within) => self.data.join(within),
            Err(_) => self.data.join(CAPTURED_CONFIG).join(path.strip_prefix("/").unwrap_or(path)),
        }
    }
}

/// Settings by name, as files have them.
#[derive(Debug, Default)]
pub struct Configured {
    /// The value that counts, and the file that has it, by its path at the captured server.
    values: BTreeMap<String, (String, PathBuf)>,
    /// Files that are not in the point, by their path there.
    unread: Vec<String>,
}

impl Configured {
    /// Reads the configuration of the cluster that was restored into `data`.
    pub fn read(data: &Path, facts: &PhysicalFacts) -> Self {
        let was = Path::new(&facts.data_directory);
        let places = Places { data, was };
        let mut configured = Self::default();
        let main = facts.settings.get("config_file").map_or_else(|| was.join(MAIN), PathBuf::from);
        configured.file(&places, &main, true, 0);
        configured.file(&places, &was.join(AUTO_CONF), false, 0);
        configured
    }

    /// The value of a setting, and the file that has it.
    pub fn value(&self, name: &str) -> Option<(&str, &Path)> {
        self.values.get(name).map(|(value, file)| (value.as_str(), file.as_path()))
    }

    /// Files that are not in the point.
    pub fn unread(&self) -> &[String] {
        &self.unread
    }

    fn file(&mut self, places: &Places<'_>, path: &Path, is_needed: bool, depth: u32) {
        let text = match read(&places.restored(path)) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound && !is_needed => return,
            Err(_) => return self.unread.push(path.display().to_string()),
        };
        let beside = |name: &str| path.parent().unwrap_or(path).join(name);
        for (name, value) in text.lines().filter_map(assignment) {
            match name.as_str() {
                "include" | "include_if_exists" | "include_dir" if depth == DEPTH => {}
                "include" => self.file(places, &beside(&value), true, depth + 1),
                "include_if_exists" => self.file(places, &beside(&value), false, depth + 1),
                "include_dir" => self.directory(places, &beside(&value), depth + 1),
                _ => {
                    self.values.insert(name, (value, path.to_owned()));
                }
            }
        }
    }

    /// The files of a directory whose names end in `.conf`, in the order of their names.
    fn directory(&mut self, places: &Places<'_>, path: &Path, depth: u32) {
        let Ok(entries) = std::fs::read_dir(places.restored(path)) else {
            return self.unread.push(path.display().to_string());
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(".conf") && !name.starts_with('.')).collect();
        names.sort();
        for name in names {
            self.file(places, &path.join(name), true, depth);
        }
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A line's name, in lower case, and its value; nothing for one that says nothing.
fn assignment(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let is_name = |character: char| character.is_alphanumeric() || matches!(character, '_' | '.' | '$');
    let (name, rest) = line.split_at(line.find(|character| !is_name(character)).unwrap_or(line.len()));
    let rest = rest.trim_start();
    let value = value(rest.strip_prefix('=').unwrap_or(rest).trim_start())?;
    Some((name.to_ascii_lowercase(), value)).filter(|(name, _)| !name.is_empty())
}

/// A value: a word, or anything in quotes, in which a quote is written twice or after a backslash.
fn value(text: &str) -> Option<String> {
    let Some(quoted) = text.strip_prefix('\'') else {
        let end = text.find(|character: char| character.is_whitespace() || character == '#').unwrap_or(text.len());
        return Some(text[..end].to_owned()).filter(|word| !word.is_empty());
    };
    let mut value = String::new();
    let mut characters = quoted.chars().peekable();
    loop {
        match characters.next()? {
            '\\' => value.push(match characters.next()? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                other => other,
            }),
            '\'' if characters.next_if_eq(&'\'').is_none() => return Some(value),
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{AUTO_CONF_APART, Configured, assignment};
    use crate::sources::postgres::physical::facts::tests::facts;

    #[test]
    fn lines_are_read_as_a_server_reads_them() {
        let table = [
            ("shared_preload_libraries = 'a, b' # both", Some(("shared_preload_libraries", "a, b"))),
            ("  Shared_Preload_Libraries 'a'", Some(("shared_preload_libraries", "a"))),
            ("work_mem=4MB#x", Some(("work_mem", "4MB"))),
            ("my.thing = 'it''s \\'here\\' \\\\'", Some(("my.thing", "it's 'here' \\"))),
            ("x = ''", Some(("x", ""))),
            ("#x = 1", None),
            ("", None),
            ("x = 'without an end", None),
            ("x =", None),
        ];
        for (line, expected) in table {
            let found = assignment(line);
            assert_eq!(found.as_ref().map(|(name, value)| (name.as_str(), value.as_str())), expected, "{line}");
        }
    }

    #[test]
    fn files_that_others_name_are_read_where_they_are_now_and_the_last_value_counts() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path();
        let write = |path: &str, text: &str| {
            let path = data.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let mut facts = facts();
        facts.data_directory = "/old/data".to_owned();
        write(
            "captured-config/etc/pg/postgresql.conf",
            "a = 1\nb = 1\ninclude 'more.conf'\ninclude_dir = '/old/data/conf.d'\ninclude = gone.conf\n",
        );
        write("captured-config/etc/pg/more.conf", "b = 2\nc = 2\ninclude_if_exists = 'also gone.conf'\n");
        write("conf.d/2.conf", "c = 4\n");
        write("conf.d/1.conf", "c = 3\nd = 3\n");
        write("conf.d/.hidden.conf", "c = 5\n");
        write("conf.d/other", "c = 6\n");
        write("postgresql.conf", "a = 'of another file'\n");
        write("postgresql.auto.conf", "d = 'left behind'\n");
        write(AUTO_CONF_APART, "d = 7\n");
        facts.settings.insert("config_file".to_owned(), "/etc/pg/postgresql.conf".to_owned());
        let configured = Configured::read(data, &facts);
        let value = |name: &str| configured.value(name).map(|(value, file)| (value.to_owned(), file.to_owned()));
        let is = |value: &str, file: &str| Some((value.to_owned(), Path::new(file).to_owned()));
        assert_eq!(value("a"), is("1", "/etc/pg/postgresql.conf"));
        assert_eq!(value("b"), is("2", "/etc/pg/more.conf"));
        assert_eq!(value("c"), is("4", "/old/data/conf.d/2.conf"));
        assert_eq!(value("d"), is("7", "/old/data/postgresql.auto.conf"));
        assert_eq!(configured.unread(), ["/etc/pg/gone.conf"]);
        // A point that does not say where it was.
        facts.settings.clear();
        assert_eq!(Configured::read(data, &facts).value("a").map(|(value, _)| value), Some("of another file"));
        // One that includes itself comes to an end.
        write("postgresql.conf", "include postgresql.conf\na = 8\n");
        assert_eq!(Configured::read(data, &facts).value("a").map(|(value, _)| value), Some("8"));
    }
}
