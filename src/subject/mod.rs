//! Who asks: captured for the record, and verified where a policy trusts writers.
#![forbid(unsafe_code)]

pub mod capture;
mod departed;
mod fdinfo;
mod libraries;
pub mod lineage;
mod loader;
mod maps;
mod notes;
mod status;
mod succession;
mod verifier;
mod writers;

pub use fdinfo::access_of_fdinfo;
pub use maps::{Mapping, parse as parse_mapping};
pub use notes::Notes;
pub use status::{Credentials, Status};
pub use verifier::{Verified, Verifier};
pub use writers::{Remembered, TrustedWriters, WriterProblem};
