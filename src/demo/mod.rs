//! `demo`: real attacks on a scratch tree.
#![forbid(unsafe_code)]

use std::path::Path;

use crate::cli::report::{Exit, Failure, Report};

/// Attacks.
pub fn demo(_keep: bool, _json: bool) -> Result<Report, Failure> {
    Err(Failure::new(Exit::Unavailable, "not yet", "wait"))
}

/// One attack.
pub fn attack(_name: &str, _directory: &Path) -> Result<Report, Failure> {
    Err(Failure::new(Exit::Unavailable, "not yet", "wait"))
}
