//! Healing: puts back what no permission event covers. Knows files and directories, and nothing of fanotify: the
//! watcher says at which path something happened, and the policies say, through [`Duty`], what is to be kept.
//!
//! [`Inventory`] knows what should be there, [`Vault`] holds what it is restored from, [`Quarantine`] takes what an
//! intruder left, and [`Healer`] compares and acts.
#![forbid(unsafe_code)]

mod abandoned;
mod action;
mod build;
mod content;
mod copies;
mod copying;
mod expected;
mod failure;
pub mod fight;
mod fluid;
mod fresh;
mod healer;
mod inventory;
mod journal;
mod learn;
mod links;
mod mend;
mod notes;
mod object;
mod packed;
mod quarantine;
mod reconcile;
mod release;
mod scan;
mod sidecar;
mod store;
mod tree;
mod vault;

pub use abandoned::abandoned;
pub use action::{Action, Change, Content, Did, Duty, Hint};
pub use expected::{Expected, Extra, Xattr};
pub use failure::Failure;
pub use healer::{Duties, Healer};
pub use inventory::{Decoded, Inventory};
pub use learn::{Known, Learned};
pub use quarantine::{Bounds, Quarantine, Taken};
pub use sidecar::{Item, JsonPath};
pub use store::is_store;
pub use vault::{Limits, Usage, Vault};
