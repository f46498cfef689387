//! The way from `status` and `reload` to the running gate: one JSON document there, one back, on a Unix socket.
#![forbid(unsafe_code)]


pub mod protocol;
