//! The openers: this program again, in fresh processes, timing its own opens.

use std::ffi::CString;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use super::clock::now_ns;
use super::tree::{EXISTING, LOADER, PROGRAM};

/// What an opener does again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// `open(O_RDONLY)`, one process.
    Read,
    /// The same, each by a process that has never opened anything here.
    ReadAnew,
    /// `open(O_WRONLY)` of an existing file.
    Write,
    /// `open(O_WRONLY|O_CREAT)` of a new name.
    Create,
    /// `fork`, `exec` of a dynamically linked program whose files all lie in the directory, and its end.
    Spawn,
}

const DEEDS: [(Deed, &str); 5] = [
    (Deed::Read, "read"),
    (Deed::ReadAnew, "read-anew"),
    (Deed::Write, "write"),
    (Deed::Create, "create"),
    (Deed::Spawn, "spawn"),
];

/// Opens that are not counted: the first faults pages in and finds the responders asleep.
fn warm_up(deed: Deed) -> usize {
    match deed {
        Deed::Read | Deed::Write => 50,
        Deed::ReadAnew | Deed::Create | Deed::Spawn => 5,
    }
}

/// Whether the gate lets the deed happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// It succeeds.
    Allowed,
    /// EPERM.
    Denied,
}

/// What one opener saw.
pub struct Seen {
    /// When the first counted deed began.
    pub started_ns: u64,
    /// When the last one had ended.
    pub ended_ns: u64,
    /// How long each took.
    pub latencies: Vec<u32>,
}

/// An opener that waits for its start.
pub struct Opener {
    child: Child,
}

impl Opener {
    /// A fresh process of `program` (a copy of this one, or this one).
    pub fn prepare(program: &Path, deed: Deed, count: usize, directory: &Path, expect: Expect) -> Self {
        let word = DEEDS.iter().find(|(of, _)| *of == deed).expect("all are listed").1;
        let child = Command::new(program)
            .args(["--opener", word, &count.to_string()])
            .arg(directory)
            .arg(if expect == Expect::Denied { "denied" } else { "allowed" })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("an opener starts");
        let mut opener = Self { child };
        let mut byte = [0];
        opener.child.stdout.as_mut().expect("piped").read_exact(&mut byte).expect("the opener is up");
        opener
    }

    /// Lets it begin.
    pub fn begin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Seen {
        let mut bytes = Vec::new();
        self.child.stdout.take().expect("piped").read_to_end(&mut bytes).expect("figures");
        let status = self.child.wait().expect("an end");
        assert!(status.success() && bytes.len() >= 16, "an opener failed: {status}");
        let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let latencies = bytes[16..].as_chunks().0.iter().map(|&chunk| u32::from_ne_bytes(chunk)).collect();
        Seen { started_ns: word(0), ended_ns: word(8), latencies }
    }
}

/// The body of an opener: `<deed> <count> <directory> <allowed|denied>`.
pub fn main(arguments: &[String]) -> ! {
    let [deed, count, directory, expect] = arguments else { panic!("--opener DEED COUNT DIRECTORY EXPECT") };
    let deed = DEEDS.iter().find(|(_, word)| word == deed).expect("a known deed").0;
    let count: usize = count.parse().expect("a number");
    let doer = Doer::new(deed, Path::new(directory), expect == "denied");
    let mut out = std::io::stdout().lock();
    out.write_all(b"!").and_then(|()| out.flush()).expect("the bench listens");
    std::io::stdin().read_to_end(&mut Vec::new()).expect("the bench says when");
    let mut latencies = vec![0u32; count];
    for number in 0..warm_up(deed) {
        doer.once(usize::MAX - number);
    }
    let started = now_ns();
    for (number, latency) in latencies.iter_mut().enumerate() {
        *latency = doer.once(number);
    }
    let ended = now_ns();
    let mut bytes = Vec::with_capacity(16 + 4 * count);
    bytes.extend(started.to_ne_bytes());
    bytes.extend(ended.to_ne_bytes());
    bytes.extend(latencies.iter().flat_map(|latency| latency.to_ne_bytes()));
    out.write_all(&bytes).and_then(|()| out.flush()).expect("the bench listens");
    std::process::exit(0);
}

struct Doer {
    deed: Deed,
    directory: PathBuf,
    existing: CString,
    denied: bool,
    shared: &'static AtomicU64,
}

impl Doer {
    fn new(deed: Deed, directory: &Path, denied: bool) -> Self {
        let existing = directory.join(EXISTING);
        Self {
            deed,
            directory: directory.to_owned(),
            existing: CString::new(existing.as_os_str().as_bytes()).expect("no NUL"),
            denied,
            shared: shared_word(),
        }
    }

    fn once(&self, number: usize) -> u32 {
        let took = match self.deed {
            Deed::Read => self.open(&self.existing, libc::O_RDONLY),
            Deed::Write => self.open(&self.existing, libc::O_WRONLY),
            Deed::ReadAnew => self.in_a_new_process(|| self.open(&self.existing, libc::O_RDONLY)),
            Deed::Create => {
                let path = self.directory.join(format!("new-{}-{number:x}", std::process::id()));
                let name = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
                let took = self.open(&name, libc::O_WRONLY | libc::O_CREAT);
                // SAFETY: `name` is NUL-terminated.
                let removed = unsafe { libc::unlink(name.as_ptr()) } == 0;
                assert_eq!(removed, !self.denied, "a denied create is rolled back");
                took
            }
            Deed::Spawn => self.spawn(),
        };
        u32::try_from(took).unwrap_or(u32::MAX)
    }

    fn open(&self, path: &CString, flags: i32) -> u64 {
        let started = now_ns();
        // SAFETY: `path` is NUL-terminated; a mode is given for O_CREAT.
        let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, 0o644) };
        let took = now_ns() - started;
        if fd >= 0 {
            // SAFETY: the descriptor is ours.
            unsafe { libc::close(fd) };
        }
        assert_eq!(fd < 0, self.denied, "{path:?}: {}", std::io::Error::last_os_error());
        took
    }

    fn in_a_new_process(&self, deed: impl Fn() -> u64) -> u64 {
        // SAFETY: this process has one thread, so its child may do whatever it does.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork");
        if pid == 0 {
            self.shared.store(deed(), Ordering::Release);
            // SAFETY: ends the child without running what its parent has registered.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: waits for our own child.
        let ended = unsafe { libc::waitpid(pid, &raw mut status, 0) };
        assert!(ended == pid && status == 0, "a child failed");
        self.shared.load(Ordering::Acquire)
    }

    fn spawn(&self) -> u64 {
        let started = now_ns();
        let status = Command::new(self.directory.join(LOADER))
            .args([Path::new("--inhibit-cache"), Path::new("--library-path"), &self.directory])
            .arg(self.directory.join(PROGRAM))
            .status()
            .expect("the program runs");
        let took = now_ns() - started;
        assert!(status.success(), "the program fails");
        took
    }
}

fn shared_word() -> &'static AtomicU64 {
    // SAFETY: an anonymous mapping at an address of the kernel's choice.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
            -1,
            0,
        )
    };
    assert_ne!(address, libc::MAP_FAILED, "mmap");
    // SAFETY: mapped, aligned, zeroed and never unmapped.
    unsafe { &*address.cast::<AtomicU64>() }
}
