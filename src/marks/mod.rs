//! Where the gate listens: on every directory of a protected tree, on files with several names, and on the
//! nearest existing ancestor of what does not exist yet.
#![forbid(unsafe_code)]

mod groups;
mod places;
pub mod table;
mod tree;
mod walk;

pub use groups::{Groups, Wanted, Written};
pub use places::Places;
pub use table::{MarkKind, MarkTable};
pub use walk::{Marker, Report, Unmarked};
