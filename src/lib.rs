//! writegate: a gate in front of the files that must not change.
//!
//! The module list follows the way of an event: [`classify`] → [`gate`] → [`verdict`] → [`audit`].
//! Deciding modules are pure; everything that talks to the kernel with `unsafe` lives in [`sys`].

pub mod access;
pub mod audit;
pub mod classify;
pub mod cli;
pub mod control;
pub mod demo;
pub mod doctor;
pub mod event;
pub mod gate;
pub mod heal;
pub mod marks;
pub mod options;
pub mod policy;
pub mod preflight;
mod scratch;
pub mod subject;
pub mod supervisor;
pub mod sys;
pub mod touch;
pub mod trie;
pub mod verdict;
pub mod watch;
mod worker;
