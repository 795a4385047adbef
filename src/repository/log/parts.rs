//! Segments of which only parts are there, as the server wrote them: joined from the beginning on, as far as they go.

use super::{LogKind, LogName, LogReader, read::LogAnswer};
use crate::repository::{RepositoryError, error::Result, point::list_all};

/// Those of these parts of one segment that take it furthest from its beginning without a hole, in their order; each goes further than the one before. Pure.
fn chain(parts: &[LogName]) -> Vec<&LogName> {
    let (mut chain, mut reached) = (Vec::new(), 0);
    loop {
        let reaching = parts.iter().filter_map(|part| Some((part.range()?, part))).filter(|(range, _)| range.start <= reached);
        match reaching.max_by_key(|(range, _)| range.end).filter(|(range, _)| range.end > reached) {
            Some((range, part)) => {
                reached = range.end;
                chain.push(part);
            }
            None => return chain,
        }
    }
}

impl LogReader {
    /// The bytes of a segment from its beginning on, as far as its parts go without a hole; none if there is no part of its beginning. Of two
    /// runs of a receiver that overlap both are right.
    ///
    /// # Errors
    /// The store's; [`RepositoryError::Key`]; [`RepositoryError::Damaged`] for a part that is, that is gone, or that does not fit the others.
    pub async fn fetch_parts(&self, segment: &LogName) -> Result<Vec<u8>> {
        let repository = self.repository();
        let listed = list_all(repository, &format!("{segment}.part-")).await?;
        let parts: Vec<LogName> =
            listed.iter().filter_map(|object| LogName::parse(&object.key)).filter(|name| name.kind() == LogKind::Part).collect();
        let mut joined: Vec<u8> = Vec::new();
        for (part, range) in chain(&parts).into_iter().filter_map(|part| Some((part, part.range()?))) {
            let damaged =
                |detail: String| RepositoryError::Damaged { place: format!("{}/{part}", repository.store().describe()), detail };
            let LogAnswer::File(bytes) = self.fetch(part).await? else {
                return Err(damaged("the site lists it, and says that it is not there; a prune removes parts of a segment that is stored whole: try again".to_owned()));
            };
            if bytes.len() as u64 != range.end - range.start {
                return Err(damaged(format!("has {} bytes", bytes.len())));
            }
            let known = joined.len() - usize::try_from(range.start).unwrap_or(0);
            if joined[joined.len() - known..] != bytes[..known] {
                return Err(damaged("has other bytes than an earlier part of the same place".to_owned()));
            }
            joined.extend_from_slice(&bytes[known..]);
        }
        Ok(joined)
    }
}

#[cfg(test)]
mod tests {
    use super::{LogName, chain};

    fn joined(ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let part = |(from, to): &(u64, u64)| LogName::part(7, "0000000A000000010000000F", &(*from..*to)).unwrap();
        let parts: Vec<LogName> = ranges.iter().map(part).collect();
        chain(&parts).into_iter().map(|part| part.range().map(|range| (range.start, range.end)).unwrap()).collect()
    }

    #[test]
    fn parts_are_joined_from_the_beginning_to_the_first_hole() {
        assert_eq!(joined(&[]), []);
        assert_eq!(joined(&[(1, 5)]), []);
        assert_eq!(joined(&[(0, 5), (5, 9), (9, 10)]), [(0, 5), (5, 9), (9, 10)]);
        assert_eq!(joined(&[(0, 5), (6, 9)]), [(0, 5)]);
        assert_eq!(joined(&[(9, 10), (0, 5), (5, 9)]), [(0, 5), (5, 9), (9, 10)]);
        // A receiver that was started again began anew: what goes furthest is taken, and joins wherever it reaches back.
        assert_eq!(joined(&[(0, 5), (5, 9), (0, 12), (12, 14)]), [(0, 12), (12, 14)]);
        assert_eq!(joined(&[(0, 5), (5, 14), (0, 12)]), [(0, 12), (5, 14)]);
        assert_eq!(joined(&[(0, 5), (0, 5), (3, 7), (2, 7), (7, 8)]).last(), Some(&(7, 8)));
        assert_eq!(joined(&[(0, 5), (4, 5), (0, 3)]), [(0, 5)]);
    }
}
