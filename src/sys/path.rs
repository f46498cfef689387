//! A path in a fixed buffer, always ended by NUL: what the kernel calls of the hot path take and give.

use std::ffi::CStr;

/// `PATH_MAX` of limits.h: the longest path, with its NUL, that a kernel call takes or gives.
pub const PATH_BYTES: usize = 4096;

/// Bytes of a path without NUL, in place; building one allocates nothing.
#[derive(Clone)]
pub struct FixedPath {
    len: usize,
    bytes: [u8; PATH_BYTES],
}

impl Default for FixedPath {
    fn default() -> Self {
        Self { len: 0, bytes: [0; PATH_BYTES] }
    }
}

impl FixedPath {
    /// Empties it.
    pub fn clear(&mut self) {
        self.len = 0;
        self.bytes[0] = 0;
    }

    /// Appends; false, leaving it as it was, when it would not fit or holds a NUL.
    #[must_use]
    pub fn push(&mut self, more: &[u8]) -> bool {
        let end = self.len + more.len();
        if end >= PATH_BYTES || more.contains(&0) {
            return false;
        }
        self.bytes[self.len..end].copy_from_slice(more);
        self.bytes[end] = 0;
        self.len = end;
        true
    }

    /// Appends a component, with exactly one slash before it.
    #[must_use]
    pub fn push_component(&mut self, name: &[u8]) -> bool {
        let before = self.len;
        let ok = (self.as_bytes().last() == Some(&b'/') || self.push(b"/")) && self.push(name);
        if !ok {
            self.truncate(before);
        }
        ok
    }

    /// Appends a decimal number.
    #[must_use]
    pub fn push_number(&mut self, number: u32) -> bool {
        let mut digits = [0u8; 10];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.push(&digits[at..])
    }

    /// Shortens to `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.len = len;
            self.bytes[len] = 0;
        }
    }

    /// Replaces all; false, and empty, when it would not fit.
    #[must_use]
    pub fn set(&mut self, bytes: &[u8]) -> bool {
        self.clear();
        self.push(bytes)
    }

    /// The path.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The path for a kernel call.
    pub fn as_cstr(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }

    /// Room for a kernel call to write a path into, without space for the NUL; then [`FixedPath::filled`].
    pub fn room(&mut self) -> &mut [u8] {
        self.len = 0;
        &mut self.bytes[..PATH_BYTES - 1]
    }

    /// The kernel wrote `len` bytes into [`FixedPath::room`].
    pub fn filled(&mut self, len: usize) {
        let len = len.min(PATH_BYTES - 1);
        self.len = len;
        self.bytes[len] = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_joins_and_refuses_what_does_not_fit() {
        let mut path = FixedPath::default();
        assert!(path.set(b"/"));
        assert!(path.push_component(b"usr"));
        assert!(path.push_component(b"bin"));
        assert_eq!(path.as_bytes(), b"/usr/bin");
        assert_eq!(path.as_cstr().to_bytes(), b"/usr/bin");
        assert!(!path.push_component(&[b'x'; PATH_BYTES]));
        assert_eq!(path.as_bytes(), b"/usr/bin");
        assert!(!path.push(b"a\0b"));
        path.truncate(4);
        assert!(path.push(b"/"));
        assert!(path.push_number(4_294_967_295));
        assert_eq!(path.as_cstr().to_bytes(), b"/usr/4294967295");
    }
}
