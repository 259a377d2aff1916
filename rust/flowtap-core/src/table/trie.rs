//! A trie of prefixes that shares what it does not change.
//!
//! A node looks at six bits of a key and names, in two bitmaps, the prefixes that end within these bits and the longer
//! ones below; both lie in one dense list. Stretches where nothing branches have no node. So a look-up of an IPv4 address
//! passes at most 6 nodes and a leaf, one of an IPv6 address 22, one of a port with its protocol 3, one of a protocol 2,
//! whatever the prefixes are.
//!
//! Nodes are shared between a trie and its copies. A change copies the nodes on its way and nothing else. The form
//! depends on the content alone, not on the order of the changes that led to it.

use std::sync::Arc;

use super::prefix::{Bits, Prefix};

/// Bits that one node looks at.
const STRIDE: u32 = 6;

/// Sees the steps of a look-up.
pub(super) trait Seek {
    /// One more node or leaf is looked at.
    fn probe(&mut self) {}
}

impl Seek for () {}

/// Prefixes and what belongs to each.
#[derive(Clone, Debug)]
pub(super) struct Trie<K, V> {
    root: Option<Item<K, V>>,
}

#[derive(Clone, Debug)]
enum Item<K, V> {
    /// The only prefix in its place.
    Leaf {
        bits: K,
        host_bits: u8,
        value: V,
    },
    Node(Arc<Node<K, V>>),
}

/// At least two items below one stretch of bits.
#[derive(Clone, Debug)]
struct Node<K, V> {
    /// Any key below; the bits above the chunk are common to all.
    bits: K,
    /// Bits below the chunk that the node looks at, a multiple of the stride.
    rest: u8,
    /// How many prefixes end within the chunk.
    first_child: u8,
    /// Which prefixes end within the chunk: the prefix of length n and value v has bit 2^n + v.
    prefixes: u64,
    /// For which chunks there are longer prefixes.
    children: u64,
    /// First those that end here, then those below, each in the order of its bitmap.
    items: Vec<Item<K, V>>,
}

/// The bits that the prefixes of one chunk have in [`Node::prefixes`].
const fn ancestors(chunk: u32) -> u64 {
    let mut bits = 0;
    let mut length = 0;
    while length < STRIDE {
        bits |= 1 << ((1 << length) | (chunk >> (STRIDE - length)));
        length += 1;
    }
    bits
}

/// [`ancestors`] of every chunk.
const ANCESTORS: [u64; 64] = {
    let mut table = [0; 64];
    let mut chunk = 0;
    #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
    while chunk < 64 {
        #[expect(clippy::cast_possible_truncation, reason = "below 64")]
        {
            table[chunk] = ancestors(chunk as u32);
        }
        chunk += 1;
    }
    table
};

/// How many bits are set below `bit`: the place of its item.
#[inline]
fn rank(bitmap: u64, bit: u32) -> usize {
    let below = bitmap & !u64::MAX.checked_shl(bit).unwrap_or(0);
    usize::try_from(below.count_ones()).unwrap_or(usize::MAX)
}

/// Where an item of a node is, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    is_child: bool,
    bit: u32,
}

impl<K: Bits, V> Node<K, V> {
    fn rest(&self) -> u32 {
        self.rest.into()
    }

    /// Whether the key agrees in all bits above the chunk.
    #[inline]
    fn leads_to(&self, key: K) -> bool {
        let above = self.rest() + STRIDE;
        key.above(above) == self.bits.above(above)
    }

    /// Whether the prefix has its place here or below.
    fn covers(&self, prefix: Prefix<K>) -> bool {
        u32::from(prefix.host_bits) <= self.rest() + STRIDE && self.leads_to(prefix.bits)
    }

    fn place(&self, prefix: Prefix<K>) -> Place {
        let host_bits = u32::from(prefix.host_bits);
        let chunk = prefix.bits.chunk(self.rest());
        if host_bits <= self.rest() {
            return Place {
                is_child: true,
                bit: chunk,
            };
        }
        let length = (self.rest() + STRIDE).saturating_sub(host_bits);
        Place {
            is_child: false,
            bit: (1 << length) | (chunk >> (STRIDE - length)),
        }
    }

    /// The index of an item; None where there is none.
    fn find(&self, place: Place) -> Option<usize> {
        let bitmap = if place.is_child {
            self.children
        } else {
            self.prefixes
        };
        (bitmap >> place.bit & 1 == 1).then(|| self.index(place))
    }

    /// The index that an item in this place has, or would have.
    fn index(&self, place: Place) -> usize {
        if place.is_child {
            self.first_child() + rank(self.children, place.bit)
        } else {
            rank(self.prefixes, place.bit)
        }
    }

    #[inline]
    fn first_child(&self) -> usize {
        self.first_child.into()
    }

    fn put(&mut self, place: Place, item: Item<K, V>) -> usize {
        let at = self.index(place);
        // Room for an eighth more: nodes are many and mostly small.
        if self.items.len() == self.items.capacity() {
            self.items.reserve_exact(1 + self.items.len() / 8);
        }
        self.items.insert(at.min(self.items.len()), item);
        if place.is_child {
            self.children |= 1 << place.bit;
        } else {
            self.prefixes |= 1 << place.bit;
            self.first_child += 1;
        }
        at
    }

    fn take_away(&mut self, place: Place, at: usize) {
        self.items.remove(at);
        if place.is_child {
            self.children &= !(1 << place.bit);
        } else {
            self.prefixes &= !(1 << place.bit);
            self.first_child -= 1;
        }
    }

    /// Every item with its place.
    fn places(&self) -> impl Iterator<Item = (Place, &Item<K, V>)> {
        let bits = |bitmap: u64| (0..u64::BITS).filter(move |bit| bitmap >> bit & 1 == 1);
        let prefixes = bits(self.prefixes).map(|bit| (false, bit));
        let children = bits(self.children).map(|bit| (true, bit));
        let places = prefixes
            .chain(children)
            .map(|(is_child, bit)| Place { is_child, bit });
        places.zip(&self.items)
    }
}

/// The bits below the chunk in which a prefix of so many host bits ends. A whole key ends below every chunk.
const fn rest_of(host_bits: u8) -> u32 {
    floor(host_bits.saturating_sub(1) as u32)
}

/// The multiple of the stride at or below `bit`.
const fn floor(bit: u32) -> u32 {
    bit / STRIDE * STRIDE
}

impl<K: Bits, V> Item<K, V> {
    /// The node above both this item and a prefix outside it.
    fn joining(&self, prefix: Prefix<K>) -> Node<K, V> {
        let (bits, rest) = match self {
            Self::Leaf {
                bits, host_bits, ..
            } => (*bits, rest_of(*host_bits)),
            Self::Node(node) => (node.bits, node.rest()),
        };
        let difference = bits.highest_difference(prefix.bits).map_or(0, floor);
        let rest = rest.max(rest_of(prefix.host_bits)).max(difference);
        Node {
            bits: prefix.bits,
            rest: u8::try_from(rest).unwrap_or(u8::MAX),
            first_child: 0,
            prefixes: 0,
            children: 0,
            items: Vec::new(),
        }
    }

    /// The prefix whose place this item takes: its own, or for a node any below it.
    fn prefix(&self) -> Prefix<K> {
        match self {
            Self::Leaf {
                bits, host_bits, ..
            } => Prefix {
                bits: *bits,
                host_bits: *host_bits,
            },
            Self::Node(node) => Prefix::one(node.bits),
        }
    }
}

impl<K: Bits, V> Item<K, V> {
    /// Hands every prefix at or below the item to `each`.
    fn prefixes(&self, each: &mut impl FnMut(Prefix<K>)) {
        match self {
            Self::Leaf { .. } => each(self.prefix()),
            Self::Node(node) => node.items.iter().for_each(|item| item.prefixes(each)),
        }
    }

    /// Hands every prefix to `each` that is at or below only one of two items.
    fn differences(&self, other: &Self, each: &mut impl FnMut(Prefix<K>)) {
        match (self, other) {
            (Self::Node(left), Self::Node(right)) if Arc::ptr_eq(left, right) => {}
            (Self::Node(left), Self::Node(right))
                if left.rest == right.rest && left.leads_to(right.bits) =>
            {
                for (place, item) in left.places() {
                    match right.find(place).and_then(|at| right.items.get(at)) {
                        Some(other) => item.differences(other, each),
                        None => item.prefixes(each),
                    }
                }
                for (place, item) in right.places() {
                    if left.find(place).is_none() {
                        item.prefixes(each);
                    }
                }
            }
            (Self::Node(node), inner) | (inner, Self::Node(node)) if node.is_above(inner) => {
                node.differences(inner, each);
            }
            (Self::Leaf { .. }, Self::Leaf { .. }) if self.prefix() == other.prefix() => {}
            _ => {
                self.prefixes(each);
                other.prefixes(each);
            }
        }
    }
}

impl<K: Bits, V> Node<K, V> {
    /// Whether an item of another trie would have its place below this node.
    fn is_above(&self, item: &Item<K, V>) -> bool {
        match item {
            Item::Leaf { .. } => self.covers(item.prefix()),
            Item::Node(node) => node.rest < self.rest && self.leads_to(node.bits),
        }
    }

    /// Hands every prefix to `each` that only the node or only an item below it has.
    fn differences(&self, item: &Item<K, V>, each: &mut impl FnMut(Prefix<K>)) {
        let place = self.place(item.prefix());
        let below = self.find(place).and_then(|at| self.items.get(at));
        match below {
            Some(below) => below.differences(item, each),
            None => item.prefixes(each),
        }
        for (other, beside) in self.places() {
            if other != place {
                beside.prefixes(each);
            }
        }
    }
}

impl<K, V> Default for Trie<K, V> {
    fn default() -> Self {
        Self { root: None }
    }
}

impl<K: Bits, V> Trie<K, V> {
    pub(super) const fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Hands the value of every prefix that holds `key` to `found`, from the shortest to the longest.
    #[inline]
    pub(super) fn walk<S: Seek>(&self, key: K, seek: &mut S, mut found: impl FnMut(&V, &mut S)) {
        let mut next = self.root.as_ref();
        while let Some(item) = next.take() {
            seek.probe();
            match item {
                Item::Leaf {
                    bits,
                    host_bits,
                    value,
                } => {
                    let prefix = Prefix {
                        bits: *bits,
                        host_bits: *host_bits,
                    };
                    if prefix.holds(key) {
                        found(value, seek);
                    }
                }
                Item::Node(node) => {
                    if !node.leads_to(key) {
                        return;
                    }
                    let chunk = key.chunk(node.rest());
                    let mut hits = node.prefixes & ancestors_of(chunk);
                    while hits != 0 {
                        let bit = hits.trailing_zeros();
                        hits &= hits - 1;
                        if let Some(Item::Leaf { value, .. }) =
                            node.items.get(rank(node.prefixes, bit))
                        {
                            found(value, seek);
                        }
                    }
                    if node.children >> chunk & 1 == 1 {
                        next = node
                            .items
                            .get(node.first_child() + rank(node.children, chunk));
                    }
                }
            }
        }
    }

    /// The value of exactly this prefix.
    pub(super) fn get(&self, prefix: Prefix<K>) -> Option<&V> {
        let mut item = self.root.as_ref()?;
        loop {
            match item {
                Item::Leaf { value, .. } => return (item.prefix() == prefix).then_some(value),
                Item::Node(node) => {
                    if !node.covers(prefix) {
                        return None;
                    }
                    item = node.items.get(node.find(node.place(prefix))?)?;
                }
            }
        }
    }

    /// Every prefix with its value, ascending where no prefix holds another.
    pub(super) fn iter(&self) -> Iter<'_, K, V> {
        Iter {
            root: self.root.as_ref(),
            below: Vec::new(),
        }
    }

    /// Hands every prefix to `each` that only one of two tries has. What they share is not looked at.
    pub(super) fn differences(&self, other: &Self, each: &mut impl FnMut(Prefix<K>)) {
        match (&self.root, &other.root) {
            (None, None) => {}
            (Some(only), None) | (None, Some(only)) => only.prefixes(each),
            (Some(left), Some(right)) => left.differences(right, each),
        }
    }

    /// Octets on the heap; `value_octets` says what a value holds there.
    pub(super) fn heap_octets(&self, value_octets: impl Fn(&V) -> usize) -> usize {
        let mut octets = 0;
        let mut items: Vec<&Item<K, V>> = self.root.iter().collect();
        while let Some(item) = items.pop() {
            match item {
                Item::Leaf { value, .. } => octets += value_octets(value),
                Item::Node(node) => {
                    octets += ARC_OCTETS
                        + size_of::<Node<K, V>>()
                        + node.items.capacity() * size_of::<Item<K, V>>();
                    items.extend(&node.items);
                }
            }
        }
        octets
    }
}

/// What an `Arc` puts in front of its content: two counters.
pub(super) const ARC_OCTETS: usize = 2 * size_of::<usize>();

#[inline]
fn ancestors_of(chunk: u32) -> u64 {
    usize::try_from(chunk)
        .ok()
        .and_then(|chunk| ANCESTORS.get(chunk))
        .copied()
        .unwrap_or(0)
}

impl<K: Bits, V: Clone + Default> Trie<K, V> {
    /// The value of exactly this prefix, made where there is none. None never comes.
    pub(super) fn entry(&mut self, prefix: Prefix<K>) -> Option<&mut V> {
        let root = self.root.get_or_insert_with(|| Item::Leaf {
            bits: prefix.bits,
            host_bits: prefix.host_bits,
            value: V::default(),
        });
        Self::entry_below(root, prefix)
    }

    fn entry_below(item: &mut Item<K, V>, prefix: Prefix<K>) -> Option<&mut V> {
        let is_within = match item {
            Item::Leaf { .. } => item.prefix() == prefix,
            Item::Node(node) => node.covers(prefix),
        };
        if !is_within {
            let parent = item.joining(prefix);
            let place = parent.place(item.prefix());
            let sibling = std::mem::replace(item, Item::Node(Arc::new(parent)));
            if let Item::Node(parent) = item {
                Arc::make_mut(parent).put(place, sibling);
            }
        }
        match item {
            Item::Leaf { value, .. } => Some(value),
            Item::Node(node) => {
                let node = Arc::make_mut(node);
                let place = node.place(prefix);
                let at = node.find(place).unwrap_or_else(|| {
                    let leaf = Item::Leaf {
                        bits: prefix.bits,
                        host_bits: prefix.host_bits,
                        value: V::default(),
                    };
                    node.put(place, leaf)
                });
                Self::entry_below(node.items.get_mut(at)?, prefix)
            }
        }
    }

    /// Changes the value of a prefix, where there is one, and forgets the prefix if `change` says that nothing is left.
    pub(super) fn reduce(&mut self, prefix: Prefix<K>, change: impl FnOnce(&mut V) -> bool) {
        if self
            .root
            .as_mut()
            .is_some_and(|root| Self::reduce_below(root, prefix, change))
        {
            self.root = None;
        }
    }

    /// True where nothing is left of the item.
    fn reduce_below(
        item: &mut Item<K, V>,
        prefix: Prefix<K>,
        change: impl FnOnce(&mut V) -> bool,
    ) -> bool {
        let is_it = item.prefix() == prefix;
        match item {
            Item::Leaf { value, .. } => is_it && change(value),
            Item::Node(node) => {
                let place = node.place(prefix);
                let Some(at) = node.find(place).filter(|_| node.covers(prefix)) else {
                    return false;
                };
                let node = Arc::make_mut(node);
                let Some(below) = node.items.get_mut(at) else {
                    return false;
                };
                if Self::reduce_below(below, prefix, change) {
                    node.take_away(place, at);
                    // A node has at least two items: the last one takes its place.
                    if node.items.len() == 1
                        && let Some(last) = node.items.pop()
                    {
                        *item = last;
                    }
                }
                false
            }
        }
    }
}

/// Walks a whole trie.
#[derive(Debug)]
pub(super) struct Iter<'a, K, V> {
    root: Option<&'a Item<K, V>>,
    below: Vec<std::slice::Iter<'a, Item<K, V>>>,
}

impl<'a, K: Bits, V> Iterator for Iter<'a, K, V> {
    type Item = (Prefix<K>, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let item = if let Some(root) = self.root.take() {
                root
            } else if let Some(item) = self.below.last_mut()?.next() {
                item
            } else {
                self.below.pop();
                continue;
            };
            match item {
                Item::Leaf { value, .. } => return Some((item.prefix(), value)),
                Item::Node(node) => self.below.push(node.items.iter()),
            }
        }
    }
}
