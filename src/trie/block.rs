//! Prefix hashes, 64 bytes of a path at a time and without a branch per component.
//!
//! Components are short and of all lengths, so a loop over them mispredicts at almost every slash, which
//! costs more than the work. Here the path is cut into words of 8 bytes wherever the slashes are; the slashes
//! become a bit mask, and the hash of the prefix before any of them is one step from the state before its word.

/// Bytes of a path looked at together: one bit each in a `u64`.
pub(super) const BLOCK_BYTES: usize = 64;
const WORDS: usize = BLOCK_BYTES / 8;

/// Odd, with about half of the bits set in no pattern: digits of the golden ratio and of pi.
const SEED: u64 = 0x243f_6a88_85a3_08d3;
const ABSORB: u64 = 0x9e37_79b9_7f4a_7c15;
const FINISH: u64 = 0xa409_3822_299f_31d1;

/// Both halves of the product, so every bit of `a` reaches the low bits (the slot) and the high ones
/// (the fingerprint).
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    (product >> 64) as u64 ^ product as u64
}

const fn absorb(state: u64, word: u64) -> u64 {
    fold(state ^ word, ABSORB)
}

/// `tail`: the bytes after the last whole word, padded with NUL, which no path contains.
const fn finish(state: u64, tail: u64) -> u64 {
    fold(state ^ tail, FINISH)
}

/// The hash of a tidy path, byte by byte: for everything that is not in a hurry.
#[derive(Clone, Copy)]
pub(super) struct PrefixHash {
    state: u64,
    tail: u64,
    len: usize,
}

impl PrefixHash {
    pub(super) const EMPTY: Self = Self { state: SEED, tail: 0, len: 0 };

    pub(super) fn of(path: &[u8]) -> u64 {
        let mut hash = Self::EMPTY;
        for &byte in path {
            hash.push(byte);
        }
        hash.finish()
    }

    pub(super) const fn push(&mut self, byte: u8) {
        self.tail |= (byte as u64) << (8 * (self.len % 8));
        self.len += 1;
        if self.len.is_multiple_of(8) {
            self.state = absorb(self.state, self.tail);
            self.tail = 0;
        }
    }

    pub(super) const fn finish(&self) -> u64 {
        finish(self.state, self.tail)
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }
}

/// Up to [`BLOCK_BYTES`] of a path, scanned.
pub(super) struct Block {
    words: [u64; WORDS],
    /// The state of the hash before each word.
    states: [u64; WORDS],
    /// The state behind the last word.
    state: u64,
    /// Bit `n`: byte `n` is a slash.
    slashes: u64,
    /// The last byte of the block before is a slash.
    after_slash: bool,
    /// The bit behind the path's last byte, if that is in this block.
    path_end: u64,
}

impl Block {
    /// What is before the first byte of a path.
    pub(super) const FIRST: Self = Self {
        words: [0; WORDS],
        states: [0; WORDS],
        state: SEED,
        slashes: 0,
        after_slash: false,
        path_end: 0,
    };

    /// The block after this one; `ahead` is the path from there to its end.
    #[inline]
    pub(super) fn next(&self, ahead: &[u8]) -> Self {
        let words = load(ahead);
        let mut states = [0; WORDS];
        let mut state = self.state;
        let mut slashes = 0;
        for (index, (&word, before)) in words.iter().zip(&mut states).enumerate() {
            *before = state;
            state = absorb(state, word);
            slashes |= slashes_in(word) << (8 * index);
        }
        let path_end = if ahead.len() < BLOCK_BYTES { 1 << ahead.len() } else { 0 };
        Self { words, states, state, slashes, after_slash: self.slashes >> (BLOCK_BYTES - 1) != 0, path_end }
    }

    /// Whether a slash follows another, which may be in the block before.
    #[inline]
    pub(super) const fn has_doubled_slash(&self) -> bool {
        self.slashes & (self.slashes << 1 | self.after_slash as u64) != 0
    }

    /// Bit `n`: the path up to byte `n` of this block is a prefix of whole components.
    #[inline]
    pub(super) const fn prefix_ends(&self) -> u64 {
        self.slashes | self.path_end
    }

    /// The hash of the path up to byte `end` of this block.
    #[inline]
    pub(super) const fn prefix_hash(&self, end: u32) -> u64 {
        let word = end as usize / 8 % WORDS;
        let tail = self.words[word] & !(u64::MAX << (8 * (end % 8)));
        finish(self.states[word], tail)
    }
}

/// The first bytes as little-endian words, NUL behind the end.
#[inline]
fn load(ahead: &[u8]) -> [u64; WORDS] {
    let mut bytes = [0; BLOCK_BYTES];
    let len = ahead.len().min(BLOCK_BYTES);
    bytes[..len].copy_from_slice(&ahead[..len]);
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// Bit `n`: byte `n` of the word is a slash.
#[inline]
const fn slashes_in(word: u64) -> u64 {
    const LOW_7: u64 = u64::from_ne_bytes([0x7f; 8]);
    let other = word ^ u64::from_ne_bytes([b'/'; 8]);
    // The top bit of each byte that is zero in `other`; exact, no carry leaves its byte.
    let zero = !(((other & LOW_7) + LOW_7) | other | LOW_7);
    // One bit per byte, gathered in the top byte; no two products meet, so there is no carry here either.
    (zero >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}
