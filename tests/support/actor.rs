//! A small program of our own to be a trusted writer, or not; see actor.c.

use std::path::Path;
use std::process::Command;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/actor.c");

/// Compiles it to `target`: statically, or with these arguments of the compiler.
pub fn build(target: &Path, arguments: &[&str]) {
    compile(Path::new(SOURCE), target, if arguments.is_empty() { &["-static"] } else { arguments });
}

/// Runs the C compiler, which Rust needs as its linker too.
pub fn compile(source: &Path, target: &Path, arguments: &[&str]) {
    let done =
        Command::new("cc").args(["-O1", "-w"]).args(arguments).arg("-o").arg(target).arg(source).output();
    let done = done.expect("the C compiler cc");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Runs `program ARGUMENTS` and gives the errno that it printed.
#[track_caller]
pub fn errno(program: &Path, arguments: &[&Path]) -> i32 {
    errno_of(Command::new(program).args(arguments))
}

/// As [`errno`].
#[track_caller]
pub fn errno_of(command: &mut Command) -> i32 {
    // To the end of its output, not only of the process: an orphan prints later.
    let done = command.output().expect("the actor runs");
    let text = String::from_utf8_lossy(&done.stdout);
    text.trim().parse().unwrap_or_else(|_| panic!("{command:?} printed {text:?}, {done:?}"))
}
