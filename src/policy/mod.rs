//! Policies: what a set of paths may undergo, and by whom.
//!
//! The way of a policy: [`filesystem`] reads a [`source`], `toml_language` or [`kubearmor`] makes a
//! [`parsed`] file of it, [`load`] joins the files into a [`model::PolicySet`], [`compile`] makes the
//! [`snapshot`] that responders consult, and [`lint`] says what of it will surprise its author. [`check`] does
//! all of that in one call; [`explain`] asks the result. Only [`filesystem`] touches a file system.
#![forbid(unsafe_code)]

pub mod builtin;
pub mod check;
pub mod choice;
pub mod compile;
pub mod diagnostic;
pub mod explain;
mod fields;
pub mod filesystem;
pub mod kubearmor;
mod kubearmor_entries;
pub mod lint;
pub mod load;
pub mod model;
mod node;
pub mod parsed;
mod paths;
pub mod resolver;
pub mod snapshot;
pub mod source;
mod suggest;
mod toml_language;
mod toml_tree;
mod yaml_tree;
