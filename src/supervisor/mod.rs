//! Stand-in for the running gate.
#![forbid(unsafe_code)]

/// Runs the gate.
pub fn run(_options: crate::options::RunOptions) -> std::process::ExitCode {
    std::process::ExitCode::from(3)
}
