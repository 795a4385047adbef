//! Which points need which packs: a bit for each pair, so that it stays small with 400 points and 200,000 packs.

use std::collections::HashMap;

/// Points, by their numbers in one walk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PointSet(Vec<u64>);

impl PointSet {
    pub(super) fn insert(&mut self, point: usize) {
        if self.0.len() <= point / 64 {
            self.0.resize(point / 64 + 1, 0);
        }
        self.0[point / 64] |= 1 << (point % 64);
    }

    pub(super) fn contains(&self, point: usize) -> bool {
        self.0.get(point / 64).is_some_and(|word| word & (1 << (point % 64)) != 0)
    }

    pub(super) fn meets(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(left, right)| left & right != 0)
    }

    pub(super) fn remove_all(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(left, right)| *left &= !right);
    }

    pub(super) fn add_all(&mut self, other: &Self) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        self.0.iter_mut().zip(&other.0).for_each(|(left, right)| *left |= right);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        (0..self.0.len() * 64).filter(|point| self.contains(*point))
    }
}

/// By pack number: the points that need it.
pub(super) type Needs = HashMap<u32, PointSet>;

#[cfg(test)]
mod tests {
    use super::PointSet;

    #[test]
    fn a_set_of_points_holds_what_was_put_into_it_and_not_what_was_taken_out() {
        let (mut some, mut others) = (PointSet::default(), PointSet::default());
        [3, 64, 200].into_iter().for_each(|point| some.insert(point));
        [64, 65].into_iter().for_each(|point| others.insert(point));
        assert!(some.meets(&others) && !PointSet::default().meets(&some));
        some.remove_all(&others);
        assert_eq!(some.iter().collect::<Vec<_>>(), [3, 200]);
        assert!(!some.meets(&others));
        others.add_all(&some);
        assert_eq!(others.iter().collect::<Vec<_>>(), [3, 64, 65, 200]);
        some.remove_all(&others);
        assert!(some.is_empty() && !others.is_empty());
    }
}
