//! Keys that part a bucket into pieces of much the same number of objects, found without listing it.
//!
//! Here and there a page is listed. Each says how dense keys lie behind it, and so how many there are up to the next page that is
//! known; where most are guessed, the middle is looked at next. The result is as good as the guesses: pieces differ in length, and
//! lack nothing, whatever lies where.

use super::shape::{Sample, Shape};
use crate::stores::{SharedStore, StoreError};

/// Pages that are looked at for each piece.
const PAGES_PER_PIECE: usize = 24;
/// The most pages that are looked at.
const MOST_PAGES: usize = 4096;

/// Keys of which the first page was seen.
#[derive(Debug)]
struct Region {
    /// Of the page.
    sample: Sample,
    /// There is nothing between the page and the next region.
    is_whole: bool,
    /// There is nothing from here on before the next region.
    empty_from: Option<String>,
    /// It was looked at what lies beyond the digits that its keys show.
    is_left_behind: bool,
}

/// Finds the keys: at most one fewer than `pieces`, ascending.
pub(super) async fn find(store: &SharedStore, pieces: u32, page_keys: usize) -> Result<Vec<String>, StoreError> {
    if pieces < 2 {
        return Ok(Vec::new());
    }
    if !store.seeks() {
        return counted(store, pieces, page_keys).await;
    }
    let mut shape = Shape::default();
    let mut regions: Vec<Region> = Vec::new();
    let (first, more) = look(store, None, page_keys, &mut shape).await?;
    let Some(first) = first else { return Ok(Vec::new()) };
    regions.push(Region { sample: first, is_whole: !more, empty_from: None, is_left_behind: false });
    for _ in 0..(PAGES_PER_PIECE * pieces as usize).min(MOST_PAGES) {
        // First what lies beyond the digits that the last keys show: there may be most of them.
        let unseen = regions
            .len()
            .checked_sub(1)
            .filter(|last| regions.get(*last).is_some_and(|last| !last.is_left_behind && !last.is_whole));
        let widest = (0..regions.len())
            .filter(|index| regions.get(*index).is_some_and(|region| !region.is_whole))
            .max_by(|left, right| guessed(&shape, &regions, *left).total_cmp(&guessed(&shape, &regions, *right)));
        let Some(index) = unseen.or(widest) else { break };
        let next = regions.get(index + 1).map(|region| region.sample.first.clone());
        let Some(region) = regions.get_mut(index) else { break };
        let end = region.empty_from.clone().or_else(|| next.clone());
        let middle = if unseen.is_some() {
            region.is_left_behind = true;
            let beyond = shape.ahead(&region.sample, &region.sample.last, f64::MAX);
            beyond.filter(|beyond| end.as_ref().is_none_or(|end| beyond < end))
        } else {
            shape.middle(&region.sample.last, end.as_deref())
        };
        let Some(middle) = middle else {
            region.is_whole = unseen.is_none();
            continue;
        };
        let (found, more) = look(store, Some(&middle), page_keys, &mut shape).await?;
        match found {
            Some(found) if end.as_deref().is_none_or(|end| *found.first < *end) => {
                let is_whole = !more || next.as_deref().is_some_and(|next| *next <= *found.last);
                let empty_from = regions.get_mut(index).and_then(|region| region.empty_from.take());
                regions.insert(index + 1, Region { sample: found, is_whole, empty_from, is_left_behind: false });
            }
            _ => region.empty_from = Some(middle),
        }
    }
    Ok(parted(&shape, &regions, pieces))
}

/// So many keys are remembered of a listing, at most; more are thinned out.
const MOST_REMEMBERED: usize = 8192;

/// The same where nothing can be looked at but the beginning: everything is listed once, and counted.
async fn counted(store: &SharedStore, pieces: u32, page_keys: usize) -> Result<Vec<String>, StoreError> {
    let (mut keys, mut every, mut count, mut after): (Vec<String>, usize, usize, Option<String>) = (Vec::new(), 1, 0, None);
    loop {
        let page = store.list("", after.as_deref(), page_keys).await?;
        let last = page.objects.last().map(|object| object.key.clone());
        for object in page.objects {
            count += 1;
            if count % every != 0 {
                continue;
            }
            keys.push(object.key);
            if keys.len() == MOST_REMEMBERED {
                let mut is_odd = false;
                keys.retain(|_| {
                    is_odd = !is_odd;
                    !is_odd
                });
                every *= 2;
            }
        }
        match last {
            Some(last) if page.more => after = Some(last),
            _ => break,
        }
    }
    let cut = |piece: u32| keys.get((keys.len() * piece as usize / pieces as usize).checked_sub(1)?).cloned();
    let mut cuts: Vec<String> = (1..pieces).filter_map(cut).collect();
    cuts.dedup();
    Ok(cuts)
}

/// A page after a key: what it shows, and whether there is more behind it.
async fn look(
    store: &SharedStore,
    after: Option<&str>,
    page_keys: usize,
    shape: &mut Shape,
) -> Result<(Option<Sample>, bool), StoreError> {
    let page = store.list("", after, page_keys).await?;
    page.objects.iter().for_each(|object| shape.see(&object.key));
    let ends = page.objects.first().zip(page.objects.last());
    let sample = ends.map(|(first, last)| Sample { first: first.key.clone(), last: last.key.clone(), items: page.objects.len() });
    Ok((sample, page.more))
}

/// How many keys there are from the beginning of a region to the next.
fn guessed(shape: &Shape, regions: &[Region], index: usize) -> f64 {
    let Some(region) = regions.get(index) else { return 0.0 };
    let next = regions.get(index + 1).map(|region| region.sample.first.as_str());
    let end = region.empty_from.as_deref().or(next);
    let behind = if region.is_whole { 0.0 } else { shape.between(&region.sample, end) };
    region.sample.items as f64 + behind
}

/// Where the pieces should end, as far as the guesses tell.
fn parted(shape: &Shape, regions: &[Region], pieces: u32) -> Vec<String> {
    let counts: Vec<f64> = (0..regions.len()).map(|index| guessed(shape, regions, index)).collect();
    let all: f64 = counts.iter().sum();
    let (mut cuts, mut before): (Vec<String>, f64) = (Vec::new(), 0.0);
    for (region, count) in regions.iter().zip(counts) {
        for piece in 1..pieces {
            // What is wanting at the beginning of the region, if the piece ends in it.
            let into = all * f64::from(piece) / f64::from(pieces) - before;
            if into < 0.0 || into >= count {
                continue;
            }
            let cut = shape.ahead(&region.sample, &region.sample.first, into.max(1.0));
            cuts.extend(cut.filter(|cut| cuts.last().is_none_or(|last| last < cut)));
        }
        before += count;
    }
    cuts
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::find;
    use crate::stores::{MemoryStore, PutOptions, SharedStore, Store};

    async fn pieces(keys: &[String], pieces: u32) -> Vec<usize> {
        let store = MemoryStore::new("bucket");
        for key in keys {
            store.put(key, Bytes::new(), PutOptions::default()).await.unwrap();
        }
        let store: SharedStore = store;
        let cuts = find(&store, pieces, 100).await.unwrap();
        assert!(cuts.is_sorted_by(|left, right| left < right), "{cuts:?}");
        assert!(cuts.len() < pieces as usize);
        let mut counts = Vec::new();
        let mut rest = keys.to_vec();
        rest.sort();
        for cut in &cuts {
            let piece = rest.partition_point(|key| key <= cut);
            counts.push(piece);
            rest.drain(..piece);
        }
        counts.push(rest.len());
        counts
    }

    #[tokio::test]
    async fn pieces_of_a_bucket_are_of_much_the_same_length() {
        let hash = |n: u32| blake3::hash(&n.to_le_bytes()).to_hex().to_string();
        let shapes: Vec<(&str, Vec<String>)> = vec![
            ("hashes", (0..20_000).map(hash).collect()),
            ("numbers", (0..20_000).map(|n| format!("files/{n:08}.dat")).collect()),
            ("days", (0..20_000).map(|n| format!("2026{:02}{:02}/{}", 1 + n % 12, 1 + n % 28, hash(n))).collect()),
            (
                "most in one of three",
                (0..20_000).map(|n| if n % 20 == 0 { format!("a/{n}") } else { format!("m/{}", hash(n)) }).collect(),
            ),
        ];
        for (shape, keys) in shapes {
            let counts = pieces(&keys, 4).await;
            let longest = counts.iter().max().copied().unwrap_or_default();
            println!("{shape}: {counts:?}");
            assert!(longest < keys.len() / 2, "{shape}: {counts:?}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_looked_at_here_and_there_is_counted() {
        let store = MemoryStore::new("bucket");
        for n in 0..20_000 {
            store.put(&format!("{n:05}"), Bytes::new(), PutOptions::default()).await.unwrap();
        }
        let store: SharedStore = store;
        let cuts = super::counted(&store, 4, 1000).await.unwrap();
        let numbers: Vec<u32> = cuts.iter().map(|cut| cut.parse().unwrap()).collect();
        assert!(numbers.iter().zip([5_000, 10_000, 15_000]).all(|(cut, wanted)| cut.abs_diff(wanted) < 20), "{numbers:?}");
    }

    #[tokio::test]
    async fn a_bucket_of_few_objects_or_none_is_parted_too() {
        assert_eq!(pieces(&[], 4).await, [0]);
        assert_eq!(pieces(&["only".to_owned()], 4).await.iter().sum::<usize>(), 1);
        let few: Vec<String> = (0..50).map(|n| format!("{n:02}")).collect();
        let counts = pieces(&few, 3).await;
        assert_eq!(counts.iter().sum::<usize>(), 50);
        assert!(counts.iter().all(|count| *count < 35), "{counts:?}");
    }
}
