//! The maps in the kernel that hold a table's addresses, and the gate in front of each.
//!
//! A lookup in a hash map costs about 17 ns, one in a prefix trie 60 to 80, and a miss has to make two of them. A gate is
//! a bit map in an array, which the kernel reads without a call, in 1 or 2 ns; nearly every miss ends there. What it lets
//! through is looked up, so the answer is exact.

use std::collections::HashMap;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use super::cover::{Address, ByRole, FamilyChanges, FamilyCounts, Prefix, Role, SPREAD};
use super::maker::Maker;
use super::sys::{Map, MapKind, SharedWords};

/// Octets of a value.
const VALUE_OCTETS: usize = size_of::<u32>();
/// Octets in front of a trie's key: the prefix length.
const LENGTH_OCTETS: usize = size_of::<u32>();
/// Entries for each word of a gate, of which each sets two bits: one in a hundred misses finds both set when the map is
/// as full as it gets.
const ENTRIES_PER_WORD: usize = 4;
/// Exponents of the words of the smallest and of the largest gate: 4 KiB, which is a page, and 2 MiB.
const GATE_WORDS_LOG2: (u8, u8) = (9, 18);
/// Exponent of the bits of a gate's word.
const WORD_BITS_LOG2: u8 = 6;
const _: () = assert!(1 << WORD_BITS_LOG2 == u64::BITS);
/// Hosts that the smallest host map has room for.
const HOSTS_MIN: usize = 1 << 10;
/// Entries that short prefixes may always take in a gate; beyond that, four for each prefix.
const GRANULES_MIN: u64 = 1 << 16;
/// A bound only: a trie takes memory for what it holds.
const TRIE_ENTRIES: u32 = 1 << 24;

fn too_many() -> io::Error {
    io::ErrorKind::OutOfMemory.into()
}

/// A bit map: where an address leads to two bits of a word that are not both set, the map behind does not hold it.
#[derive(Debug)]
pub(super) struct Gate {
    words: SharedWords,
    words_log2: u8,
    /// Entries that are gone and left their bits.
    stale: usize,
}

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.words.as_fd()
    }
}

impl Gate {
    fn create(entries: usize, maker: &Maker) -> io::Result<Self> {
        let words_log2 = (entries / ENTRIES_PER_WORD)
            .checked_next_power_of_two()
            .and_then(|words| u8::try_from(words.trailing_zeros()).ok())
            .map_or(GATE_WORDS_LOG2.1, |log2| {
                log2.clamp(GATE_WORDS_LOG2.0, GATE_WORDS_LOG2.1)
            });
        Ok(Self {
            words: maker.words(1 << words_log2)?,
            words_log2,
            stale: 0,
        })
    }

    /// By how many bits the program shifts what it has multiplied, to get the number of a word.
    pub(super) const fn word_shift(&self) -> u8 {
        64 - self.words_log2
    }

    /// The same for the numbers of both bits of an entry, which are in the lowest bits after the shift.
    pub(super) const fn bit_shifts(&self) -> [u8; 2] {
        let next = self.word_shift() - WORD_BITS_LOG2;
        [next, next - WORD_BITS_LOG2]
    }

    /// Entries for which most bits stay unset.
    fn room(&self) -> usize {
        self.words.as_slice().len().saturating_mul(ENTRIES_PER_WORD)
    }

    /// Which word an entry leads to, and the bits that it sets there.
    fn place(&self, seed: u64) -> (usize, u64) {
        let spread = seed.wrapping_mul(SPREAD);
        let at = usize::try_from(spread >> self.word_shift()).unwrap_or(usize::MAX);
        let bits = self.bit_shifts().into_iter().fold(0, |bits, shift| {
            bits | 1 << (spread >> shift & u64::from(u64::BITS - 1))
        });
        (at, bits)
    }

    /// Adds entries.
    fn add(&self, seeds: impl Iterator<Item = u64>) {
        for seed in seeds {
            let (at, bits) = self.place(seed);
            if let Some(word) = self.words.as_slice().get(at) {
                word.fetch_or(bits, Ordering::SeqCst);
            }
        }
    }

    /// Forgets what is gone: `seeds` are all entries that there are. Each word changes in one step, so the program sees
    /// every bit that was set and stays set.
    fn refresh(&mut self, seeds: impl Iterator<Item = u64>) {
        let words = self.words.as_slice();
        let mut fresh = vec![0; words.len()];
        for seed in seeds {
            let (at, bits) = self.place(seed);
            if let Some(word) = fresh.get_mut(at) {
                *word |= bits;
            }
        }
        for (word, fresh) in words.iter().zip(fresh) {
            word.store(fresh, Ordering::SeqCst);
        }
        self.stale = 0;
    }
}

/// Addresses with the roles in which they count.
///
/// One map for both roles: an address that counts as source and as destination, as those of most criteria do, takes one
/// entry, and no more lookups than with two maps. Its entries are allocated in advance: room for 131,072 takes 10.5 MB,
/// and 100,000 are filled in in 35 ms; allocated one by one these take 9.3 MB and 75 ms, and lookups cost the same.
#[derive(Debug)]
pub(super) struct HostMap<A> {
    map: Map,
    pub(super) gate: Gate,
    capacity: usize,
    addresses: PhantomData<A>,
}

impl<A> AsFd for HostMap<A> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

impl<A: Address> HostMap<A> {
    /// A map with room for a quarter more than there are, at least, and with all that there are.
    fn create(counts: &FamilyCounts<A>, maker: &Maker) -> io::Result<Self> {
        let hosts = counts.hosts.len();
        let capacity = hosts
            .saturating_add(hosts / 4)
            .checked_next_power_of_two()
            .ok_or_else(too_many)?
            .max(HOSTS_MIN);
        let entries = u32::try_from(capacity).map_err(|_large| too_many())?;
        let key_octets = usize::from(A::BITS / 8);
        let mut made = Self {
            map: maker.map(MapKind::Hash, key_octets, VALUE_OCTETS, entries)?,
            gate: Gate::create(capacity, maker)?,
            capacity,
            addresses: PhantomData,
        };
        let all: Vec<A> = counts.hosts.keys().copied().collect();
        made.follow(&all, counts)?;
        Ok(made)
    }

    /// Makes the map say what the counts say of these addresses; false where there is no room.
    fn follow(&mut self, changed: &[A], counts: &FamilyCounts<A>) -> io::Result<bool> {
        if counts.hosts.len() > self.capacity {
            return Ok(false);
        }
        let (mut keys, mut values, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        let mut seeds = Vec::new();
        for address in changed {
            let octets = address.octets();
            if let Some(roles) = counts.hosts.get(address) {
                keys.extend_from_slice(octets.as_ref());
                values.extend_from_slice(&u32::from(roles.bits()).to_ne_bytes());
                seeds.push(address.seed());
            } else {
                gone.extend_from_slice(octets.as_ref());
                self.gate.stale += 1;
            }
        }
        // What has gone makes room first.
        self.map.delete(&gone)?;
        match self.map.update(&keys, &values) {
            // Full: the kernel counts otherwise than we do.
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) => return Ok(false),
            done => done?,
        }
        self.gate.add(seeds.into_iter());
        if self.gate.stale > self.capacity / 2 {
            let all = counts.hosts.keys();
            self.gate.refresh(all.map(|address| address.seed()));
        }
        Ok(true)
    }
}

/// The prefixes that count in one role.
#[derive(Debug)]
pub(super) struct PrefixMap<A> {
    trie: Map,
    pub(super) gate: Gate,
    /// How many bits of an address the gate looks at.
    granule: u8,
    /// Entries of the gate, those that are gone included, and how many there may be.
    entries: usize,
    room: usize,
    addresses: PhantomData<A>,
}

impl<A> AsFd for PrefixMap<A> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.trie.as_fd()
    }
}

/// Entries in a gate that looks at `granule` bits, for a prefix of `length`: a shorter one has an entry for each way to
/// go on.
fn entries_of(length: u8, granule: u8) -> u64 {
    1_u64
        .checked_shl(granule.saturating_sub(length).into())
        .unwrap_or(u64::MAX)
}

impl<A: Address> PrefixMap<A> {
    fn create(prefixes: &HashMap<Prefix<A>, u32>, maker: &Maker) -> io::Result<Self> {
        let mut by_length = HashMap::<u8, u64>::new();
        for prefix in prefixes.keys() {
            let number = by_length.entry(prefix.length()).or_default();
            *number = number.saturating_add(1);
        }
        let total = |granule: u8| {
            by_length.iter().fold(0_u64, |sum, (&length, number)| {
                sum.saturating_add(number.saturating_mul(entries_of(length, granule)))
            })
        };
        let budget = u64::try_from(prefixes.len())
            .unwrap_or(u64::MAX)
            .saturating_mul(4)
            .max(GRANULES_MIN);
        // The more the gate sees, the less it lets through. One bit always fits: no prefix has fewer.
        let granule = (1..=A::GRANULE_MAX)
            .rev()
            .find(|&granule| total(granule) <= budget)
            .unwrap_or(1);
        let wanted = usize::try_from(total(granule))
            .map_err(|_small_machine| too_many())?
            .saturating_mul(2);
        let gate = Gate::create(wanted, maker)?;
        let key_octets = LENGTH_OCTETS + usize::from(A::BITS / 8);
        let mut made = Self {
            trie: maker.map(MapKind::PrefixTrie, key_octets, VALUE_OCTETS, TRIE_ENTRIES)?,
            room: gate.room().max(wanted),
            gate,
            granule,
            entries: 0,
            addresses: PhantomData,
        };
        let all: Vec<Prefix<A>> = prefixes.keys().copied().collect();
        made.follow(&all, prefixes)?;
        Ok(made)
    }

    /// What the gate lets an address be seen of.
    pub(super) fn gate_mask(&self) -> u64 {
        A::ONES.masked(self.granule).prefix_seed()
    }

    /// The gate's entries for a prefix.
    fn seeds(prefix: &Prefix<A>, granule: u8) -> impl Iterator<Item = u64> {
        let last = u32::try_from(entries_of(prefix.length(), granule) - 1).unwrap_or(u32::MAX);
        let first = prefix.address().masked(granule);
        (0..=last).map(move |number| first.sibling(number, granule).prefix_seed())
    }

    /// Makes the trie say what the counts say of these prefixes; false where the gate would have no room.
    fn follow(
        &mut self,
        changed: &[Prefix<A>],
        prefixes: &HashMap<Prefix<A>, u32>,
    ) -> io::Result<bool> {
        let granule = self.granule;
        let (come, gone): (Vec<_>, Vec<_>) = changed
            .iter()
            .partition(|prefix| prefixes.contains_key(prefix));
        let entries = |changed: &[Prefix<A>]| {
            let sizes = changed
                .iter()
                .map(|prefix| entries_of(prefix.length(), granule));
            let sum = sizes.fold(0_u64, u64::saturating_add);
            usize::try_from(sum).unwrap_or(usize::MAX)
        };
        let after = self.entries.saturating_add(entries(&come));
        if after > self.room {
            return Ok(false);
        }
        self.entries = after;
        self.gate.stale = self.gate.stale.saturating_add(entries(&gone));
        self.trie.delete(&Self::keys(&gone))?;
        let values = vec![0; come.len() * VALUE_OCTETS];
        self.trie.update(&Self::keys(&come), &values)?;
        let seeds = come.iter().flat_map(|prefix| Self::seeds(prefix, granule));
        self.gate.add(seeds);
        if self.gate.stale > self.room / 2 {
            let all: Vec<Prefix<A>> = prefixes.keys().copied().collect();
            self.entries = entries(&all);
            let seeds = all.iter().flat_map(|prefix| Self::seeds(prefix, granule));
            self.gate.refresh(seeds);
        }
        Ok(true)
    }

    fn keys(prefixes: &[Prefix<A>]) -> Vec<u8> {
        let mut keys = Vec::new();
        for prefix in prefixes {
            keys.extend_from_slice(&u32::from(prefix.length()).to_ne_bytes());
            keys.extend_from_slice(prefix.address().octets().as_ref());
        }
        keys
    }
}

/// All maps of one family; those that nobody has needed yet are not there.
#[derive(Debug)]
pub(super) struct FamilyMaps<A> {
    pub(super) hosts: Option<HostMap<A>>,
    pub(super) prefixes: ByRole<Option<PrefixMap<A>>>,
}

impl<A: Address> FamilyMaps<A> {
    /// Maps with all that is counted.
    pub(super) fn create(counts: &FamilyCounts<A>, maker: &Maker) -> io::Result<Self> {
        let prefix_map = |role: Role| {
            let prefixes = counts.prefixes.of(role);
            (!prefixes.is_empty())
                .then(|| PrefixMap::create(prefixes, maker))
                .transpose()
        };
        Ok(Self {
            hosts: (!counts.hosts.is_empty())
                .then(|| HostMap::create(counts, maker))
                .transpose()?,
            prefixes: ByRole {
                source: prefix_map(Role::Source)?,
                destination: prefix_map(Role::Destination)?,
            },
        })
    }

    /// Makes the maps say what the counts say of what has changed; false where that took new maps, of which a program
    /// that is there knows nothing.
    pub(super) fn follow(
        &mut self,
        changes: &FamilyChanges<A>,
        counts: &FamilyCounts<A>,
        maker: &Maker,
    ) -> io::Result<bool> {
        let mut same = true;
        if !changes.hosts.is_empty() {
            let followed = match &mut self.hosts {
                Some(hosts) => hosts.follow(&changes.hosts, counts)?,
                None => false,
            };
            if !followed {
                self.hosts = Some(HostMap::create(counts, maker)?);
                same = false;
            }
        }
        for role in Role::BOTH {
            let (changed, prefixes) = (changes.prefixes.of(role), counts.prefixes.of(role));
            if changed.is_empty() {
                continue;
            }
            let place = self.prefixes.of_mut(role);
            let followed = match place {
                Some(map) => map.follow(changed, prefixes)?,
                None => false,
            };
            if !followed {
                *place = Some(PrefixMap::create(prefixes, maker)?);
                same = false;
            }
        }
        Ok(same)
    }

    /// The descriptors of all maps.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let hosts = self
            .hosts
            .iter()
            .flat_map(|map| [map.as_fd(), map.gate.as_fd()]);
        let prefixes = Role::BOTH
            .into_iter()
            .filter_map(|role| self.prefixes.of(role).as_ref())
            .flat_map(|map| [map.as_fd(), map.gate.as_fd()]);
        hosts.chain(prefixes)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::prefilter::cover::{Address, Change, FamilyCover};

    fn hosts(addresses: impl Iterator<Item = u32>) -> FamilyCover<u32> {
        FamilyCover {
            source: addresses.map(Prefix::host).collect(),
            destination: Vec::new(),
            open: 0,
        }
    }

    /// Maps for a cover; None where this kernel gives us none.
    fn maps(cover: &FamilyCover<u32>) -> Option<(FamilyMaps<u32>, FamilyCounts<u32>)> {
        let mut counts = FamilyCounts::new();
        counts.change(Change::Add, cover);
        match FamilyMaps::create(&counts, &Maker::default()) {
            Ok(maps) => Some((maps, counts)),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
                assert!(
                    !root,
                    "root lacks CAP_BPF, without which this tests nothing"
                );
                eprintln!("not run: maps need CAP_BPF");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn lets_through(gate: &Gate, seed: u64) -> bool {
        let (at, bits) = gate.place(seed);
        gate.words.as_slice()[at].load(Ordering::SeqCst) & bits == bits
    }

    #[test]
    fn a_gate_ends_nearly_every_miss() {
        // Hosts as chance has it, and as networks have them; the others are apart.
        let chance = (0..100_000_u32).map(|number| number.wrapping_mul(0x9e37_79b1) | 1);
        let network = (0..100_000_u32).map(|number| 0x0a00_0000 + number);
        for cover in [hosts(chance), hosts(network)] {
            let Some((maps, _)) = maps(&cover) else {
                return;
            };
            let gate = &maps.hosts.as_ref().unwrap().gate;
            let wanted = cover.source.iter().map(Prefix::address);
            assert!(
                wanted
                    .into_iter()
                    .all(|host| lets_through(gate, host.seed()))
            );
            let others = (0..100_000_u32).map(|number| number.wrapping_mul(0x85eb_ca6b) & !1);
            let others = others.filter(|other| other >> 24 != 0x0a);
            let passed = others.filter(|other| lets_through(gate, other.seed()));
            let passed = passed.count();
            assert!(passed < 2_000, "{passed} of 100,000");
        }
    }

    #[test]
    fn a_gate_forgets_what_is_gone() {
        let Some((mut maps, mut counts)) = maps(&hosts(0..1)) else {
            return;
        };
        let bits = |maps: &FamilyMaps<u32>| -> u32 {
            let gate = &maps.hosts.as_ref().unwrap().gate;
            let words = gate.words.as_slice().iter();
            words
                .map(|word| word.load(Ordering::SeqCst).count_ones())
                .sum()
        };
        for round in 1..200 {
            let some = hosts(round * 400..round * 400 + 400);
            for change in [Change::Add, Change::Remove] {
                let changes = counts.change(change, &some);
                assert!(maps.follow(&changes, &counts, &Maker::default()).unwrap());
            }
            // Half as many as the map holds may be there for nothing, two bits each.
            let bits = usize::try_from(bits(&maps)).unwrap();
            assert!(bits <= 2 + 2 * (HOSTS_MIN / 2 + 400), "{bits}");
        }
    }

    #[test]
    fn a_gate_looks_at_as_much_as_short_prefixes_let_it() {
        let with = |length: u8, count: u32| {
            let prefixes = (0..count).map(|number| Prefix::new(number << 16, length).unwrap());
            let cover = FamilyCover {
                source: prefixes.collect(),
                destination: Vec::new(),
                open: 0,
            };
            let (maps, _) = maps(&cover)?;
            let prefixes = maps.prefixes.source.as_ref().unwrap();
            Some((prefixes.granule, prefixes.gate.words.as_slice().len()))
        };
        let Some(one) = with(24, 1) else {
            return;
        };
        assert_eq!(one, (24, 512));
        // 65,536 networks of 24 bits are what one of 8 bits is.
        assert_eq!(with(8, 1).unwrap(), (24, 1 << 15));
        assert_eq!(with(1, 1).unwrap().0, 17);
        assert_eq!(with(16, 10_000).unwrap().0, 18);
    }
}
