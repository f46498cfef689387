//! Where the gate listens: on every directory of a protected tree, on files with several names, and on the
//! nearest existing ancestor of what does not exist yet.
#![forbid(unsafe_code)]

pub mod table;
pub mod walk;

pub use table::MarkTable;
