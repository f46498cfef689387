//! What the benches that drive the real binary share; none of them uses all of it.
#![allow(dead_code, reason = "each bench uses a part")]

pub mod clock;
pub mod gate;
pub mod opener;
pub mod options;
pub mod report;
pub mod responder;
pub mod stats;
pub mod svg;
pub mod tree;
