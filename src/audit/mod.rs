//! The audit side: a fixed-size record, a bounded queue, a logger thread, its formats.
//!
//! The way of a record: a responder takes a box from the [`queue`]'s pool, fills it and offers it; the
//! [`logger`] thread drains, numbers and encodes it ([`json`] or [`kubearmor`]), appends it to the trail and
//! gives the box back. [`tail`] reads the trail.
#![forbid(unsafe_code)]

pub mod context;
pub mod flags;
pub mod json;
pub mod kubearmor;
pub mod logger;
pub mod queue;
pub mod record;
pub mod syscall;
pub mod tail;
pub mod text;
mod trail;
mod writer;
