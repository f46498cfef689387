//! writegate: a gate in front of the files that must not change.
//!
//! The module list follows the way of an event: [`event`] → [`access`] → [`object`] → [`verdict`] →
//! [`gate`] → [`audit`]. Deciding modules are pure; everything that talks to the kernel with `unsafe`
//! lives in [`sys`].

pub mod access;
pub mod audit;
pub mod policy;
pub mod trie;
pub mod verdict;
