//! The audit side: a fixed-size record, a bounded queue, a logger thread, its formats.
#![forbid(unsafe_code)]

pub mod record;
