//! Where to cut a range of keys that nobody has listed yet: a guess from the keys that were, of whatever shape they are.
//!
//! Keys are taken for numbers whose digits are characters: at each position the bytes that were ever seen there. A position that never
//! showed but one byte (a separator, the year) counts for nothing; every other may show whatever of the same classes (figures, small and
//! capital letters, the rest) any of these has shown. The keys of the
//! newest page say how far apart two of them lie, and so where the key so many pages on should be. A guess that is wrong costs a
//! request, and nothing else: a range is listed from wherever it begins to wherever it ends.

/// Bytes of a key that are looked at: all that S3 allows.
const MOST_POSITIONS: usize = 1024;

/// Positions behind the first one in which two keys of a page differ: 1,000 keys differ in hardly more.
const DIGITS_BEHIND: usize = 6;

/// The largest number of values: products of two of them must fit.
const MOST_VALUES: u128 = 1 << 100;

/// After every printable ASCII character: the end of what begins like a key.
const LAST: &str = "~";

/// One bit for each byte.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Bytes([u128; 2]);

impl Bytes {
    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte >> 7)] |= 1 << (byte & 127);
    }

    fn join(&mut self, other: Self) {
        self.0[0] |= other.0[0];
        self.0[1] |= other.0[1];
    }

    /// Those of `all` that are of a class of which there is one here.
    fn of_classes_here(self, all: Self) -> Self {
        let class = |from: u8, to: u8| (from..=to).fold(0_u128, |bits, byte| bits | 1 << byte);
        let classes = [class(b'0', b'9'), class(b'a', b'z'), class(b'A', b'Z')];
        let rest = !classes.iter().fold(0, |all, class| all | class);
        let low = classes.into_iter().chain([rest]).filter(|class| self.0[0] & class != 0).fold(0, |all, class| all | class);
        Self([all.0[0] & low, if self.0[1] == 0 { 0 } else { all.0[1] }])
    }

    fn count(self) -> u32 {
        self.0[0].count_ones() + self.0[1].count_ones()
    }

    /// How many of them are smaller.
    fn rank(self, byte: u8) -> u32 {
        let below = (1_u128 << (byte & 127)) - 1;
        if byte < 128 { (self.0[0] & below).count_ones() } else { self.0[0].count_ones() + (self.0[1] & below).count_ones() }
    }

    /// The one of this rank.
    fn at(self, rank: u32) -> Option<u8> {
        (0..=u8::MAX).filter(|byte| self.0[usize::from(byte >> 7)] >> (byte & 127) & 1 == 1).nth(rank as usize)
    }
}

/// What a page showed, of whatever was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) first: String,
    pub(super) last: String,
    /// Keys, or versions, from the one to the other.
    pub(super) items: usize,
}

/// The bytes that keys have shown so far, by position.
#[derive(Debug, Default)]
pub(super) struct Shape {
    seen: Vec<Bytes>,
}

/// Positions of keys as digits of a number.
struct Digits {
    /// Position of the first one.
    start: usize,
    symbols: Vec<Bytes>,
}

impl Digits {
    fn values(&self) -> u128 {
        self.symbols.iter().map(|symbols| u128::from(symbols.count())).product()
    }

    fn number(&self, key: &[u8]) -> u128 {
        let digit = |(index, symbols): (usize, &Bytes)| {
            let rank = key.get(self.start + index).map_or(0, |byte| symbols.rank(*byte));
            (u128::from(rank.min(symbols.count().saturating_sub(1))), u128::from(symbols.count()))
        };
        self.symbols.iter().enumerate().map(digit).fold(0, |number, (digit, base)| number * base + digit)
    }

    fn key(&self, mut number: u128) -> Option<Vec<u8>> {
        let mut key = Vec::with_capacity(self.symbols.len());
        for symbols in self.symbols.iter().rev() {
            let base = u128::from(symbols.count());
            key.push(symbols.at(u32::try_from(number % base).ok()?)?);
            number /= base;
        }
        key.reverse();
        Some(key)
    }

    /// The key that begins as this one does and goes on with a number, up to a character that the number cuts through.
    fn text(&self, like: &[u8], number: u128) -> Option<String> {
        let mut whole = [like.get(..self.start)?, &self.key(number)?].concat();
        let length = std::str::from_utf8(&whole).map_or_else(|error| error.valid_up_to(), str::len);
        whole.truncate(length);
        String::from_utf8(whole).ok()
    }
}

/// Where two keys differ first.
fn first_difference(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).position(|(left, right)| left != right).unwrap_or_else(|| left.len().min(right.len()))
}

impl Shape {
    /// Remembers a key.
    pub(super) fn see(&mut self, key: &str) {
        for (position, byte) in key.bytes().take(MOST_POSITIONS).enumerate() {
            if position == self.seen.len() {
                self.seen.push(Bytes::default());
            }
            self.seen[position].add(byte);
        }
    }

    /// A key about so many `items` after `from`, where keys lie as dense as in the sample: greater than `from`, or none.
    pub(super) fn ahead(&self, sample: &Sample, from: &str, items: f64) -> Option<String> {
        let (first, last, from_bytes) = (sample.first.as_bytes(), sample.last.as_bytes(), from.as_bytes());
        let digits = self.digits(first_difference(first, last))?;
        if from_bytes.get(..digits.start) != last.get(..digits.start) {
            return None;
        }
        let distance = digits.number(last).saturating_sub(digits.number(first));
        let apart = distance as f64 / sample.items.saturating_sub(1).max(1) as f64;
        let steps = apart * items;
        let target = digits.number(from_bytes).saturating_add(steps.max(1.0) as u128);
        let cut = if target < digits.values() {
            digits.text(last, target)?
        } else {
            let constant = digits.symbols.iter().take_while(|symbols| symbols.count() == 1).count();
            format!("{}{LAST}", sample.last.get(..digits.start + constant)?)
        };
        (cut.as_str() > from).then_some(cut)
    }

    /// How many keys there are behind a sample and before `next` (or the end), if they lie as dense as in it.
    pub(super) fn between(&self, sample: &Sample, next: Option<&str>) -> f64 {
        let next = next.unwrap_or(LAST);
        let Some(digits) = self.digits_between(&sample.first, next) else { return 0.0 };
        let number = |key: &str| digits.number(key.as_bytes());
        let apart = number(&sample.last).saturating_sub(number(&sample.first)) as f64 / sample.items.max(1) as f64;
        let distance = number(next).saturating_sub(number(&sample.last)) as f64;
        // Keys closer to one another than the digits can tell are many.
        distance / apart.max(0.001)
    }

    /// A key half-way from one to another, or to the end: greater than the one and smaller than the other, or none.
    pub(super) fn middle(&self, from: &str, to: Option<&str>) -> Option<String> {
        let digits = self.digits_between(from, to.unwrap_or(LAST))?;
        let (low, high) = (digits.number(from.as_bytes()), digits.number(to.unwrap_or(LAST).as_bytes()));
        let middle = low + high.checked_sub(low)? / 2;
        let middle = digits.text(from.as_bytes(), middle)?;
        (middle.as_str() > from && to.is_none_or(|to| middle.as_str() < to)).then_some(middle)
    }

    /// The positions that tell keys from one to another apart.
    fn digits_between(&self, from: &str, to: &str) -> Option<Digits> {
        let (from, to) = (from.as_bytes(), to.as_bytes());
        let differ = first_difference(from, to);
        let bounds = (from.get(differ).copied().unwrap_or(b' '), to.get(differ).copied().unwrap_or(b'~'));
        // Between two keys that are there anything may be.
        let mut first = *self.seen.get(differ)?;
        (bounds.0..=bounds.1).filter(|byte| (b' '..=b'~').contains(byte)).for_each(|byte| first.add(byte));
        let symbols = [first].into_iter().chain(self.symbols(differ + 1..self.seen.len()));
        let symbols = as_many_as_fit(symbols);
        (!symbols.is_empty()).then_some(Digits { start: differ, symbols })
    }

    /// The positions that say where a key lies among those that differ at this one.
    fn digits(&self, differ: usize) -> Option<Digits> {
        let end = (differ + 1 + DIGITS_BEHIND).min(self.seen.len());
        let mut symbols = as_many_as_fit(self.symbols(0..end).rev());
        symbols.reverse();
        (!symbols.is_empty()).then_some(Digits { start: end - symbols.len(), symbols })
    }

    /// What the keys may show at these positions.
    fn symbols(&self, positions: std::ops::Range<usize>) -> impl DoubleEndedIterator<Item = Bytes> {
        let mut any = Bytes::default();
        self.seen.iter().filter(|seen| seen.count() > 1).for_each(|seen| any.join(*seen));
        self.seen.get(positions).unwrap_or_default().iter().map(move |seen| {
            let mut here = *seen;
            if here.count() > 1 {
                here.join(here.of_classes_here(any));
            }
            here
        })
    }
}

/// The first of these positions, as many as one number holds.
fn as_many_as_fit(positions: impl Iterator<Item = Bytes>) -> Vec<Bytes> {
    let mut values = 1;
    positions
        .take_while(|symbols| {
            values *= u128::from(symbols.count());
            values <= MOST_VALUES
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Sample, Shape};

    fn shape(keys: &[String]) -> Shape {
        let mut shape = Shape::default();
        keys.iter().for_each(|key| shape.see(key));
        shape
    }

    fn sample(keys: &[String]) -> Sample {
        Sample { first: keys[0].clone(), last: keys[keys.len() - 1].clone(), items: keys.len() }
    }

    /// How many keys lie between `from` and a guess that should be so many after it.
    fn reached(all: &[String], page: std::ops::Range<usize>, items: usize) -> usize {
        let page = &all[page];
        let from = &page[page.len() - 1];
        let cut = shape(&all[..all.len() / 2]).ahead(&sample(page), from, items as f64).unwrap();
        all.iter().filter(|key| from < *key && **key <= cut).count()
    }

    fn sorted(keys: impl Iterator<Item = String>) -> Vec<String> {
        let mut all: Vec<_> = keys.collect();
        all.sort();
        all
    }

    #[test]
    fn a_guess_among_keys_that_are_spread_evenly_is_near() {
        let hashes = sorted((0..100_000_u32).map(|n| format!("ab/{}", blake3::hash(&n.to_le_bytes()).to_hex())));
        let numbers = sorted((0..100_000).map(|n| format!("files/{n:08}.dat")));
        let words = sorted((0..100_000_u32).map(|n| {
            let hash = blake3::hash(&n.to_le_bytes());
            let id: String = hash.as_bytes()[..26]
                .iter()
                .map(|byte| char::from(b"ybndrfg8ejkmcpqxot1uwisza345h769"[usize::from(byte % 32)]))
                .collect();
            format!("20261126/teams/noteam/channels/{id}/x.png")
        }));
        for keys in [hashes, numbers, words] {
            for start in [5_000, 20_000, 43_000] {
                let reached = reached(&keys, start..start + 1000, 3000);
                assert!((2_000..4_500).contains(&reached), "{reached} from {}", keys[start]);
            }
        }
    }

    #[test]
    fn a_guess_lies_after_where_it_starts_and_is_text_whatever_the_keys_are() {
        let odd = ["a", "a/", "a//b", "ä", "äö/\u{1}", "日本語", "日本語/x", "\u{10FFFF}", "~", "~~"];
        let keys = sorted(odd.iter().map(|key| (*key).to_owned()));
        let shape = shape(&keys);
        for first in 0..keys.len() {
            for last in first..keys.len() {
                for from in &keys {
                    let cut = shape.ahead(&sample(&keys[first..=last]), from, 1000.0);
                    assert!(cut.is_none_or(|cut| &cut > from));
                }
            }
        }
        assert_eq!(Shape::default().ahead(&sample(&keys), "a", 1.0), None);
    }

    #[test]
    fn what_lies_beyond_the_digits_that_were_seen_is_reached_at_their_end() {
        let keys: Vec<String> = (0..1000).map(|n| format!("2026/{n:04}")).collect();
        assert_eq!(shape(&keys).ahead(&sample(&keys), "2026/0999", 1e9).as_deref(), Some("2026/0~"));
    }
}
