//! Policies: what a set of paths may undergo, and by whom.
#![forbid(unsafe_code)]

pub mod model;
pub mod snapshot;
