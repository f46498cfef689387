//! The only place with `unsafe`: thin, typed wrappers of the kernel calls that nix does not have, or has only
//! with an allocation.
#![allow(unsafe_code)]

pub mod atomic_bytes;
pub mod attack;
pub mod checks;
pub mod child;
pub mod clock;
pub mod connector;
pub mod directory;
pub mod fanotify;
pub mod features;
pub mod file;
pub mod histogram;
pub mod inode;
pub mod lease;
pub mod mount;
pub mod names;
pub mod path;
pub mod proc;
pub mod process;
pub mod random;
pub mod reach;
pub mod shared;
pub mod slot;
pub mod thread;
pub mod xattr;
