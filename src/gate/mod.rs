//! The permission side: event → access → object → verdict → response → audit record.
//!
//! Nothing here may allocate, block, log or format: it runs while somebody waits.
#![forbid(unsafe_code)]

mod creation;
mod in_force;
mod look;
pub mod mounts;
mod object;
mod opened;
mod patience;
mod pending;
mod responder;
mod rollback;
mod starting;
mod stream;
mod truncation;

pub use creation::Creations;
pub use in_force::{InForce, InForceCell};
pub use look::{Glance, Look, Looker};
pub use opened::Opened;
pub use pending::Pending;
pub use responder::{Responder, Shared};
pub use rollback::Rollback;
pub use starting::Starting;
pub use stream::Stream;
