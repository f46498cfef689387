//! The floors: what the least that can answer costs.
//!
//! As many pinned threads as the gate has by default, the same group, the same read into one event's room, the
//! same answer, the same close; nothing else but two looks at the clock, as the gate takes them. The second floor also
//! makes the lease probe.

use std::ffi::CString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use writegate::sys::fanotify::{Answer, Group, Mask};
use writegate::sys::histogram::{self, Histogram};
use writegate::sys::{clock as own_clock, lease, thread};

use super::clock;
use super::stats::Buckets;

/// What a floor does before it allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Nothing.
    None,
    /// One lease probe.
    Lease,
}

/// A floor in a process of its own, so that its CPU time can be told from the bench's.
pub struct Floor {
    child: Child,
    says: BufReader<ChildStdout>,
    /// Its process.
    pub pid: i32,
}

impl Floor {
    /// Starts this program again as a floor on the directory.
    pub fn start(work: Work, directory: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args([Path::new("--floor"), Path::new(word(work)), directory])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a floor starts");
        let says = BufReader::new(child.stdout.take().expect("piped"));
        let mut floor = Self { pid: child.id() as i32, child, says };
        assert_eq!(floor.line(), "ready\n", "the floor is not up: is this root?");
        floor
    }

    /// How long it took from read to answer, of all events since its start.
    pub fn buckets(&mut self) -> Buckets {
        self.child.stdin.as_mut().expect("piped").write_all(b"\n").expect("the floor listens");
        Buckets::parse(&self.line())
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).expect("a line");
        line
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        clock::stop(&mut self.child);
    }
}

const fn word(work: Work) -> &'static str {
    match work {
        Work::None => "none",
        Work::Lease => "lease",
    }
}

/// The body of that process: `<work> <directory>`.
pub fn main(arguments: &[String]) -> ! {
    let [work, directory] = arguments else { panic!("--floor none|lease DIRECTORY") };
    let work = if work == word(Work::Lease) { Work::Lease } else { Work::None };
    let directory = PathBuf::from(directory);
    let group = Arc::new(Group::permission().expect("fanotify_init: root is needed"));
    let path = CString::new(directory.as_os_str().as_bytes()).expect("no NUL in a path");
    let cpus = thread::allowed_cpus().expect("own CPUs");
    // A lease that is broken by a writer raises it.
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    let histograms: Vec<Arc<Histogram>> = cpus.iter().map(|_| Arc::default()).collect();
    for (cpu, histogram) in cpus.into_iter().zip(&histograms) {
        let (group, histogram) = (Arc::clone(&group), Arc::clone(histogram));
        std::thread::spawn(move || {
            thread::pin_to(cpu).expect("pinned");
            answer_all(&group, work, &histogram);
        });
    }
    group.mark_add(Mask::OPEN_PERM_CHILDREN, &path).expect("marked");
    println!("ready");
    for _ in std::io::stdin().lines() {
        let buckets = histogram::sum(histograms.iter().map(AsRef::as_ref));
        println!("{}", serde_json::to_string(&buckets).expect("JSON"));
    }
    std::process::exit(0);
}

fn answer_all(group: &Group, work: Work, histogram: &Histogram) {
    let mut event = [0u8; size_of::<libc::fanotify_event_metadata>()];
    loop {
        match group.read(&mut event) {
            Ok(n) if n == event.len() => {}
            _ => continue,
        }
        let read_ns = own_clock::monotonic_ns();
        let number = i32::from_ne_bytes([event[16], event[17], event[18], event[19]]);
        if number < 0 {
            continue;
        }
        // SAFETY: the kernel has just made this descriptor for us.
        let file = unsafe { OwnedFd::from_raw_fd(number) };
        if work == Work::Lease {
            std::hint::black_box(lease::probe(file.as_fd()));
        }
        let _ = group.respond(file.as_raw_fd(), Answer::Allow);
        histogram.add(own_clock::monotonic_ns() - read_ns);
    }
}
