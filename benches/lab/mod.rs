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

/// The bench's arguments, once this process is no helper of it; `None`, loudly, where it cannot run.
pub fn begin(bench: &str) -> Option<Vec<String>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--floor") => responder::main(&arguments[1..]),
        Some("--opener") => opener::main(&arguments[1..]),
        _ => {}
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("{bench}: skipped, fanotify permission events need root");
        return None;
    }
    Some(arguments)
}
