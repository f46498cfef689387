//! Byte strings made of atomics, for memory that two processes share and either may die over.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// At most `8 * WORDS` bytes.
#[repr(C)]
#[derive(Debug)]
pub struct AtomicBytes<const WORDS: usize> {
    len: AtomicU32,
    words: [AtomicU64; WORDS],
}

impl<const WORDS: usize> AtomicBytes<WORDS> {
    /// Stores `bytes`; what does not fit leaves it empty, because half a name names something else.
    pub fn store(&self, bytes: &[u8]) {
        if bytes.len() > 8 * WORDS {
            self.len.store(0, Relaxed);
            return;
        }
        for (word, chunk) in self.words.iter().zip(bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_ne_bytes(padded), Relaxed);
        }
        self.len.store(bytes.len() as u32, Relaxed);
    }

    /// Copies into `room`; the part that was filled.
    pub fn load<'r>(&self, room: &'r mut [u8]) -> &'r [u8] {
        let len = (self.len.load(Relaxed) as usize).min(8 * WORDS).min(room.len());
        for (chunk, word) in room[..len].chunks_mut(8).zip(&self.words) {
            chunk.copy_from_slice(&word.load(Relaxed).to_ne_bytes()[..chunk.len()]);
        }
        &room[..len]
    }

    /// Whether it holds exactly `bytes`.
    pub fn is(&self, bytes: &[u8]) -> bool {
        self.len.load(Relaxed) as usize == bytes.len()
            && bytes
                .chunks(8)
                .zip(&self.words)
                .all(|(chunk, word)| word.load(Relaxed).to_ne_bytes()[..chunk.len()] == *chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_loads_and_compares() {
        let bytes: AtomicBytes<2> =
            AtomicBytes { len: AtomicU32::new(0), words: [AtomicU64::new(0), AtomicU64::new(0)] };
        let mut room = [0; 16];
        for text in [&b""[..], b"a", b"12345678", b"123456789", b"1234567890123456"] {
            bytes.store(text);
            assert_eq!(bytes.load(&mut room), text);
            assert!(bytes.is(text) && !bytes.is(b"other"));
        }
        bytes.store(&[b'x'; 17]);
        assert_eq!(bytes.load(&mut room), b"");
    }
}
