//! The watch: what no permission event covers. A notification says that something happened at a path; the state of
//! that path, compared with the inventory, says what; the policies say what becomes of it.
#![forbid(unsafe_code)]

mod account;
mod duty;
mod incident;
mod journal;
mod keeper;
mod mounts;
mod report;
mod trust;

pub use account::Account;
pub use duty::{duties, duty_at};
pub use incident::Incident;
pub use journal::Journal;
pub use keeper::{Keeper, Parts};
pub use mounts::{MountWatch, Remount, mounted};
pub use report::Reporter;
pub use trust::Trust;
