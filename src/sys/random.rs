//! Names that nobody can guess.

/// Unpredictable bits of the kernel's; zero on a system that gives none.
pub fn bits() -> u64 {
    let mut bits = [0u8; 8];
    // SAFETY: `bits` is writable for its length; so few bytes come whole or not at all (getrandom(2)).
    let n = unsafe { libc::getrandom(bits.as_mut_ptr().cast(), bits.len(), 0) };
    if n == bits.len() as isize { u64::from_ne_bytes(bits) } else { 0 }
}
