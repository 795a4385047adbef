//! A far region on this machine: a network namespace at the other end of a long line (`testbed/far-link`).

use std::{
    io::{BufRead, BufReader},
    net::IpAddr,
    process::{Child, ChildStdin, Command, Stdio},
};

/// Set to leave out tests over such a line, where network namespaces cannot be made; anything but this is a failure there.
const LEAVE_OUT: &str = "FARSHORE_TEST_WITHOUT_FAR_LINK";

/// The line; it goes away when it is dropped, or with the test's process.
pub struct FarLink {
    /// `ip netns exec` runs commands there.
    pub namespace: String,
    /// This side's address, as the other side sees it.
    pub here: IpAddr,
    /// What it stands on: it ends when that is closed.
    stands: Option<ChildStdin>,
    child: Child,
}

impl FarLink {
    /// With a round trip of twice `delay_ms`. `None` only where the caller's environment says that such tests are to be left out.
    ///
    /// # Panics
    /// If it cannot be made, for instance for want of root.
    pub fn up(delay_ms: u32, rate_mbit: u32, loss_percent: f64) -> Option<Self> {
        if std::env::var_os(LEAVE_OUT).is_some() {
            eprintln!("LEFT OUT, because {LEAVE_OUT} is set: a test over a long line");
            return None;
        }
        let mut child = Command::new(super::server("FARSHORE_TEST_FAR_LINK"))
            .args([delay_ms.to_string(), rate_mbit.to_string(), loss_percent.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stands, said) = (child.stdin.take(), child.stdout.take().unwrap());
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let [namespace, here, _] = words[..] else {
            panic!(
                "no long line could be made (far-link says why above); where network namespaces cannot be made, set {LEAVE_OUT}=1"
            );
        };
        Some(Self { namespace: namespace.to_owned(), here: here.parse().unwrap(), stands, child })
    }
}

impl Drop for FarLink {
    fn drop(&mut self) {
        drop(self.stands.take());
        let _ = self.child.wait();
    }
}
