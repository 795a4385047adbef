//! How long a request may take.

use std::time::Duration;

/// How long a request may take, in its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// To a connection, with its TLS handshake. Far regions answer within a second.
    pub connect: Duration,
    /// Between two pieces of a body, in either direction.
    pub stall: Duration,
    /// What any request may take beside its bytes: to connect, to be thought about, to be answered. S3 promises no latency; its own tools
    /// give up after 60 s. A peer that is gone meanwhile is noticed earlier, by the kernel.
    pub answer: Duration,
    /// A body, in either direction, may take a second for so many bytes beside that, and no longer.
    pub least_bytes_per_second: u64,
}

impl Default for Deadlines {
    /// The least speed is that of a poor line shared by a few requests: 32 KiB/s each.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(20),
            answer: Duration::from_secs(60),
            least_bytes_per_second: 32 << 10,
        }
    }
}

impl Deadlines {
    /// What a request whose body has so many bytes may take.
    pub(super) fn whole(&self, bytes: u64) -> Duration {
        let speed = self.least_bytes_per_second.max(1);
        self.answer + Duration::from_secs(bytes / speed) + Duration::from_millis(bytes % speed * 1000 / speed)
    }
}

#[cfg(test)]
mod tests {
    use super::{Deadlines, Duration};

    #[test]
    fn every_request_has_a_deadline_that_grows_with_its_bytes() {
        let deadlines = Deadlines::default();
        assert_eq!(deadlines.whole(0), Duration::from_secs(60));
        assert_eq!(deadlines.whole(16 << 10), Duration::from_millis(60_500));
        assert_eq!(deadlines.whole(16 << 20), Duration::from_secs(60 + 512));
    }
}
