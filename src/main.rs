//! The `writegate` binary.
#![forbid(unsafe_code)]

fn main() {}
