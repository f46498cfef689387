//! Who asks: captured for the record, and verified where a policy trusts writers.
#![forbid(unsafe_code)]

pub mod capture;
mod libraries;
mod maps;
mod status;
mod writers;

pub use status::Status;
pub use writers::{TrustedWriters, Verifier, WriterProblem};
