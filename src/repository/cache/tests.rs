use std::collections::HashSet;

use super::{ChunkCache, ChunkId, ChunkRef, Class, Encoding, PackEntry, Place, Seen};

fn pack(name: u8, run: u8, chunks: &[u8]) -> PackEntry {
    let place =
        |id: &u8| Place { id: ChunkId([*id; 32]), offset: 64, sealed_bytes: 40, plain_bytes: 12, encoding: Encoding::Plain };
    PackEntry {
        sha256: [name; 32],
        size: 1000,
        class: Class::Data,
        run: [run; 16],
        data_key: [7; 16],
        places: chunks.iter().map(place).collect(),
    }
}

fn wanted(chunk: u8) -> ChunkRef {
    ChunkRef { id: ChunkId([chunk; 32]), length: 12 }
}

/// The packs whose copies of a chunk count as needed, by their names.
fn needed(cache: &ChunkCache, chunk: u8) -> HashSet<u8> {
    let copies = cache.needed_copies(&wanted(chunk)).unwrap();
    copies.iter().map(|copy| cache.pack(copy.pack).unwrap().sha256[0]).collect()
}

fn seen(cache: &ChunkCache, doomed: &[u8]) -> Seen {
    let is_doomed = |name: &[u8; 32]| doomed.contains(&name[0]);
    let doomed = cache.packs().unwrap().into_iter().filter(|(_, record)| is_doomed(&record.sha256)).map(|(number, _)| number);
    Seen { doomed: doomed.collect(), ..Seen::default() }
}

#[test]
fn what_an_index_says_of_a_chunk_with_another_length_counts_for_nothing_whenever_it_came() {
    let mut lie = pack(5, 0, &[1, 9]);
    lie.places.iter_mut().for_each(|place| place.plain_bytes = 13);
    let indexes = [([1; 32], vec![lie]), ([2; 32], vec![pack(20, 1, &[1])])];
    for order in [[0, 1], [1, 0]] {
        let directory = tempfile::tempdir().unwrap();
        let cache = ChunkCache::open(directory.path()).unwrap();
        for number in order {
            let (name, packs) = &indexes[number];
            cache.add(name, packs).unwrap();
        }
        let found = cache.find(&wanted(1)).unwrap().unwrap();
        assert_eq!(cache.pack(found.pack).unwrap().sha256[0], 20);
        assert_eq!(needed(&cache, 1), [20].into());
        assert!(cache.find(&wanted(9)).unwrap().is_none() && needed(&cache, 9).is_empty());
    }
}

#[test]
fn of_a_chunk_in_several_packs_all_local_indexes_count_the_same_copy_as_needed_whatever_order_they_met_them_in() {
    let indexes =
        [([1; 32], vec![pack(10, 3, &[1, 2])]), ([2; 32], vec![pack(20, 1, &[1])]), ([3; 32], vec![pack(30, 2, &[1, 2])])];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let directory = tempfile::tempdir().unwrap();
        let cache = ChunkCache::open(directory.path()).unwrap();
        for number in order {
            let (name, packs) = &indexes[number];
            cache.add(name, packs).unwrap();
        }
        // The earliest run's.
        assert_eq!((needed(&cache, 1), needed(&cache, 2)), (HashSet::from([20]), HashSet::from([30])), "{order:?}");
        cache.set_seen(seen(&cache, &[20]));
        assert_eq!(needed(&cache, 1), HashSet::from([30]), "{order:?}: one that is not doomed");
        cache.set_seen(seen(&cache, &[10, 20, 30]));
        assert_eq!(needed(&cache, 1), HashSet::from([10, 20, 30]), "{order:?}: where all are doomed, all");
        cache.forget(&[[2; 32]]).unwrap();
        cache.set_seen(Seen::default());
        assert_eq!(needed(&cache, 1), HashSet::from([30]), "{order:?}: nobody names the other any more");
    }
}
