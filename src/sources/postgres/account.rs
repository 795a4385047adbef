//! The user that PostgreSQL runs as.

/// User and group to run as: none when we are not root, since then it is our own.
///
/// # Errors
/// Why there is no such user, and the next step, in words.
pub(super) fn unprivileged() -> Result<Option<(u32, u32)>, String> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let accounts = std::fs::read_to_string("/etc/passwd").map_err(|error| format!("/etc/passwd: {error}; make it readable"))?;
    let account = |wanted: &str| {
        accounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            (fields.first() == Some(&wanted)).then(|| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))?
        })
    };
    let none = || "PostgreSQL does not run as root, and there is neither a user postgres nor nobody: add one".to_owned();
    account("postgres").or_else(|| account("nobody")).map(Some).ok_or_else(none)
}
