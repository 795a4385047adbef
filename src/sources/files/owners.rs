//! Names of owners and groups, from the machine's own files.
//!
//! Not through the C library: its look-ups need unsafe code and may ask a directory service once per file.

use std::collections::HashMap;

/// Numbers and names, both ways.
#[derive(Debug, Default)]
pub(super) struct Owners {
    users: Names,
    groups: Names,
}

#[derive(Debug, Default)]
struct Names {
    by_number: HashMap<u32, String>,
    by_name: HashMap<String, u32>,
}

impl Owners {
    /// Reads `/etc/passwd` and `/etc/group`; a machine without them has no names.
    pub(super) fn of_this_machine() -> Self {
        Self { users: Names::read("/etc/passwd"), groups: Names::read("/etc/group") }
    }

    pub(super) fn user_name(&self, uid: u32) -> Option<String> {
        self.users.by_number.get(&uid).cloned()
    }

    pub(super) fn group_name(&self, gid: u32) -> Option<String> {
        self.groups.by_number.get(&gid).cloned()
    }

    /// The number that a stored owner has here: by name where this machine knows it, as the numbers of two machines differ.
    pub(super) fn uid(&self, name: Option<&str>, uid: u32) -> u32 {
        name.and_then(|name| self.users.by_name.get(name).copied()).unwrap_or(uid)
    }

    /// As [`Self::uid`], for a group.
    pub(super) fn gid(&self, name: Option<&str>, gid: u32) -> u32 {
        name.and_then(|name| self.groups.by_name.get(name).copied()).unwrap_or(gid)
    }
}

impl Names {
    fn read(path: &str) -> Self {
        std::fs::read(path).map(|text| Self::parse(&String::from_utf8_lossy(&text))).unwrap_or_default()
    }

    fn parse(text: &str) -> Self {
        let mut names = Self::default();
        for line in text.lines() {
            let mut fields = line.split(':');
            let (Some(name), Some(_), Some(Ok(number))) = (fields.next(), fields.next(), fields.next().map(str::parse::<u32>))
            else {
                continue;
            };
            // The first line wins, as with the C library.
            names.by_number.entry(number).or_insert_with(|| name.to_owned());
            names.by_name.entry(name.to_owned()).or_insert(number);
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::{Names, Owners};

    #[test]
    fn the_first_of_two_names_of_a_number_wins_and_an_unknown_name_keeps_its_number() {
        let users = Names::parse(
            "root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/root:/bin/sh\n# comment\nbroken:x:what\nmm:x:993:993::/:/bin/false\n",
        );
        let owners = Owners { users, groups: Names::default() };
        assert_eq!(owners.user_name(0).as_deref(), Some("root"));
        assert_eq!(owners.uid(Some("mm"), 2000), 993);
        assert_eq!(owners.uid(Some("nobody-here"), 2000), 2000);
        assert_eq!(owners.gid(None, 7), 7);
    }
}
