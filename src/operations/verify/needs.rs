//! Which points need which packs: a bit for each pair, so that it stays small with 400 points and 200,000 packs.

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

/// By pack number: the points that need it. Numbers are dense, and most packs are needed by most points: a row for each number.
#[derive(Debug, Default)]
pub(super) struct Needs(Vec<Option<PointSet>>);

impl Needs {
    pub(super) fn insert(&mut self, pack: u32, point: usize) {
        let row = pack as usize;
        if self.0.len() <= row {
            self.0.resize(row + 1, None);
        }
        self.0[row].get_or_insert_default().insert(point);
    }

    pub(super) fn get(&self, pack: u32) -> Option<&PointSet> {
        self.0.get(pack as usize)?.as_ref()
    }

    pub(super) fn take(&mut self, pack: u32) -> Option<PointSet> {
        self.0.get_mut(pack as usize)?.take()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &PointSet)> {
        (0..).zip(&self.0).filter_map(|(pack, points)| Some((pack, points.as_ref()?)))
    }

    pub(super) fn points_mut(&mut self) -> impl Iterator<Item = &mut PointSet> {
        self.0.iter_mut().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::{Needs, PointSet};

    #[test]
    fn needs_are_known_by_pack_and_only_of_packs_that_some_point_needs() {
        let mut needs = Needs::default();
        [(7, 1), (2, 0), (7, 65)].into_iter().for_each(|(pack, point)| needs.insert(pack, point));
        let all = |needs: &Needs| needs.iter().map(|(pack, points)| (pack, points.iter().collect::<Vec<_>>())).collect::<Vec<_>>();
        assert_eq!(all(&needs), [(2, vec![0]), (7, vec![1, 65])]);
        assert!(needs.get(3).is_none() && needs.get(1000).is_none() && needs.take(1000).is_none());
        assert_eq!(needs.take(7).unwrap().iter().collect::<Vec<_>>(), [1, 65]);
        assert_eq!(all(&needs), [(2, vec![0])]);
    }

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
