//! A scratch directory in a mount namespace of its own, a real gate on it, and what is done to it.
//!
//! Works with one process per test (nextest) and with one thread per test (cargo test): a mount namespace and a
//! working directory belong to a thread, and the processes and threads that a test starts inherit its own.
#![allow(dead_code, reason = "each test uses a part")]

pub mod actor;
pub mod attacks;
mod gate;
pub mod look;
pub mod rare;
pub mod raw;

use std::any::type_name;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

pub use gate::Gate;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where a test that cannot run leaves its name for the runner's last line.
const SKIPPED_TESTS: &str = "WRITEGATE_SKIPPED_TESTS";

/// The scratch of one test.
pub struct Lab {
    dir: tempfile::TempDir,
    mounts: Mutex<Vec<PathBuf>>,
    /// Supervisors that were started: the time limit ends them, which frees every opener that waits.
    supervisors: Arc<Mutex<Vec<i32>>>,
}

/// Runs `body` in a lab of its own, at most `limit_s` seconds long; without the needed rights says so and counts.
pub fn in_lab<F: FnOnce(&Lab)>(limit_s: u64, body: F) {
    let name = type_name::<F>().trim_end_matches("::{{closure}}");
    if let Err(missing) = writegate::preflight::preflight() {
        return skip(name, &missing.to_string());
    }
    if let Err(error) = own_mount_namespace() {
        return skip(name, &format!("cannot have a mount namespace of its own: {error}"));
    }
    let lab = Lab {
        dir: tempfile::Builder::new().prefix("writegate-test-").tempdir().expect("a scratch directory"),
        mounts: Mutex::default(),
        supervisors: Arc::default(),
    };
    for part in ["tree", "free", "run"] {
        fs::create_dir(lab.path(part)).expect("a scratch directory");
    }
    let _limit = Limit::start(name, Duration::from_secs(limit_s), Arc::clone(&lab.supervisors));
    body(&lab);
}

/// Says loudly that a test did not run.
pub fn skip(name: &str, why: &str) {
    eprintln!("SKIPPED {name}: {why}");
    if let Some(list) = std::env::var_os(SKIPPED_TESTS) {
        let mut list =
            fs::File::options().append(true).create(true).open(list).expect("the list of the skipped");
        writeln!(list, "SKIPPED {name}: {why}").expect("the list of the skipped");
    }
}

fn own_mount_namespace() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
}

/// Ends the whole process when a test takes too long: an opener that waits for ever cannot be unwound.
struct Limit {
    done: Arc<(Mutex<bool>, Condvar)>,
}

impl Limit {
    fn start(name: &str, limit: Duration, supervisors: Arc<Mutex<Vec<i32>>>) -> Self {
        let done = Arc::new((Mutex::new(false), Condvar::new()));
        let (waited, name) = (Arc::clone(&done), name.to_owned());
        std::thread::spawn(move || {
            let (ended, wake) = &*waited;
            let guard = ended.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = wake.wait_timeout_while(guard, limit, |ended| !*ended);
            if !*waited.unwrap_or_else(PoisonError::into_inner).0 {
                eprintln!("TIME LIMIT: {name} took longer than {limit:?}");
                for &supervisor in supervisors.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                    for pid in gate::children_of(supervisor).into_iter().chain([supervisor]) {
                        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    }
                }
                std::process::abort();
            }
        });
        Self { done }
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        *self.done.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.done.1.notify_all();
    }
}

/// What is on disk at a path: everything that an attack could change, but for the time of the last read.
pub type Contents = BTreeMap<PathBuf, (u64, u32, u64, i64, Vec<u8>)>;

impl Lab {
    /// A path in the lab.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The directory that tests protect.
    pub fn tree(&self) -> PathBuf {
        self.path("tree")
    }

    /// Makes a file with its directories.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(&path, content).expect("a scratch file");
        path
    }

    /// `text` with every `@` made the lab's directory.
    pub fn here(&self, text: &str) -> String {
        text.replace('@', self.dir.path().to_str().expect("a plain path"))
    }

    /// Everything in the protected tree.
    pub fn contents(&self) -> Contents {
        let mut found = Contents::new();
        let mut waiting = vec![self.tree()];
        while let Some(path) = waiting.pop() {
            let metadata = fs::symlink_metadata(&path).expect("what is in the lab");
            let mut bytes = Vec::new();
            if metadata.is_dir() {
                waiting.extend(fs::read_dir(&path).expect("a directory").map(|entry| entry.unwrap().path()));
            } else if metadata.is_file() {
                bytes = fs::read(&path).expect("a protected file can be read");
            }
            found.insert(
                path,
                (metadata.ino(), metadata.mode(), metadata.size(), metadata.mtime_nsec(), bytes),
            );
        }
        found
    }

    /// Mounts something here, in this test's namespace only.
    pub fn mount(&self, source: &Path, target: &Path, kind: Option<&str>, flags: MsFlags) {
        mount(Some(source), target, kind, flags, None::<&str>).expect("a mount of our own");
        self.mounts.lock().unwrap().push(target.to_owned());
    }

    /// Shows `source` at `target` too.
    pub fn bind(&self, source: &Path, target: &Path) {
        self.mount(source, target, None, MsFlags::MS_BIND);
    }

    /// A gate with `--protect` on the tree.
    pub fn protect_tree(&self) -> Gate<'_> {
        Gate::start(self, &["--protect", &self.here("@/tree/")])
    }

    /// A gate with this policy; see [`Lab::here`].
    pub fn gate(&self, policy: &str) -> Gate<'_> {
        self.write_policy(policy);
        Gate::start(self, &["--policy", &self.here("@/run/policy.toml")])
    }

    /// A gate with exactly these arguments.
    pub fn gate_with(&self, arguments: &[&str]) -> Gate<'_> {
        let arguments: Vec<_> = arguments.iter().map(|argument| self.here(argument)).collect();
        Gate::start(self, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The policy file of [`Lab::gate`].
    pub fn write_policy(&self, policy: &str) {
        self.file("run/policy.toml", &self.here(policy));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for target in self.mounts.lock().unwrap_or_else(PoisonError::into_inner).drain(..).rev() {
            let _ = umount2(&target, MntFlags::MNT_DETACH);
        }
    }
}

/// Sets a flag when it goes: threads that wait for it end also when the test panics.
pub struct Finally<'a>(pub &'a AtomicBool);

impl Drop for Finally<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The errno of a refusal.
#[track_caller]
pub fn refused<T>(result: io::Result<T>) {
    match result {
        Ok(_) => panic!("it was let through"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}"),
    }
}
