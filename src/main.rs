//! The `writegate` binary.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    writegate::cli::main()
}
