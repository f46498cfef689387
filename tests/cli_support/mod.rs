//! A directory and the binary run in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A scratch directory.
pub struct Dir(tempfile::TempDir);

impl Dir {
    /// A new one.
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a scratch directory"))
    }

    /// Makes a file in it.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).expect("a scratch file");
        path
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// `writegate ARGUMENTS`, in this directory.
    pub fn command(&self, arguments: &[&str]) -> TestCommand {
        let mut command = Command::new(env!("CARGO_BIN_EXE_writegate"));
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null());
        TestCommand(command)
    }
}

/// A run of the binary that knows how to complain.
pub struct TestCommand(pub Command);

/// What came of it.
#[derive(Debug)]
pub struct Done {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl TestCommand {
    /// Runs it to its end.
    pub fn run(&mut self) -> Done {
        let Output { status, stdout, stderr } = self.0.output().expect("the binary runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Done { code: status.code().unwrap_or(-1), stdout: text(stdout), stderr: text(stderr) }
    }

    /// Runs it and insists on its exit code; gives what it wrote to stdout, or where that is empty to stderr.
    #[track_caller]
    pub fn exits(&mut self, code: i32) -> String {
        let done = self.run();
        assert_eq!(done.code, code, "{:?}\n{}\n{}", self.0, done.stdout, done.stderr);
        if done.stdout.is_empty() { done.stderr } else { done.stdout }
    }

    /// As [`TestCommand::exits`], as JSON.
    #[track_caller]
    pub fn json(&mut self, code: i32) -> serde_json::Value {
        let text = self.exits(code);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}
