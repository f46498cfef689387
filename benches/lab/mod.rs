//! What the benches that drive the real binary share.

pub mod clock;
pub mod gate;
pub mod opener;
pub mod report;
pub mod responder;
pub mod stats;
pub mod svg;
pub mod tree;
