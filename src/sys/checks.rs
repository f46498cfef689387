//! The kernel's own word on who changes `chattr +i` and `+a`: no event tells of that, but the kernel asks for
//! `CAP_LINUX_IMMUTABLE` then, whatever way the request came (ioctl(2), `file_setattr(2)`, 32 bits), and only then. The
//! tracepoint `capability:cap_capable` tells of it (Linux 6.14) and costs nobody else anything but a comparison.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

/// Where the tracepoint's number stands.
const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
const TRACEPOINT: &str = "events/capability/cap_capable/id";
/// `CAP_LINUX_IMMUTABLE` is 9. Whoever does not have it changes nothing.
const FILTER: &std::ffi::CStr = c"cap == 9 && ret == 0";

/// Numbers and ranges of numbers, in order.
const POSSIBLE_CPUS: &str = "/sys/devices/system/cpu/possible";

// linux/perf_event.h, which the libc crate does not have.
const TYPE_TRACEPOINT: u32 = 2;
const SAMPLE_TID: u64 = 1 << 1;
const SAMPLE_TIME: u64 = 1 << 2;
const DISABLED: u64 = 1;
const USE_CLOCKID: u64 = 1 << 25;
const FLAG_CLOEXEC: u64 = 1 << 3;
const IOC_ENABLE: libc::c_ulong = 0x2400;
const IOC_SET_FILTER: libc::c_ulong = 0x4008_2406;
const RECORD_SAMPLE: u32 = 9;
/// Where `data_head` and `data_tail` are in `struct perf_event_mmap_page`.
const HEAD: usize = 1024;
const TAIL: usize = 1032;
/// A record's header: its type, and its length in the last two bytes.
const HEADER_BYTES: usize = 8;

/// `struct perf_event_attr` up to `PERF_ATTR_SIZE_VER3`.
#[repr(C)]
#[derive(Default)]
struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint: [u32; 7],
    regs_user: u64,
    stack_user: u32,
    clock: i32,
}

/// Somebody was found to have the capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// The thread; 0: one of several, of which nothing more is known.
    pub tid: i32,
    /// When, by the monotonic clock. The flags are set some microseconds later.
    pub at_ns: u64,
}

/// Tells of everybody on this host who uses the capability.
pub struct Checks {
    rings: Vec<Ring>,
    epoll: Epoll,
}

impl Checks {
    /// Listens on the CPUs that are online now.
    ///
    /// # Errors
    /// `ENOENT` where there is no such tracepoint, or tracefs is not mounted; those of `perf_event_open(2)`.
    pub fn listen() -> io::Result<Self> {
        let ids = PLACES.map(|place| fs::read_to_string(format!("{place}/{TRACEPOINT}")));
        let id = ids.into_iter().reduce(io::Result::or).ok_or(io::ErrorKind::NotFound)??;
        let id = id.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
        let mut rings = Vec::new();
        let possible = fs::read_to_string(POSSIBLE_CPUS)?;
        let last = possible.trim().rsplit([',', '-']).next().and_then(|last| last.parse().ok());
        let last: i32 = last.ok_or(io::ErrorKind::InvalidData)?;
        for cpu in 0..=last {
            match Ring::open(id, cpu) {
                Ok(ring) => rings.push(ring),
                // It is offline.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => return Err(error),
            }
        }
        Self::of(rings)
    }

    /// The same for the process that has inherited this one: who takes something takes it from all. What is told while
    /// nobody takes it waits. No new descriptors are made for it: the kernel needs some 40 ms to give up the last, and
    /// gives up first what a process that ends has opened last.
    ///
    /// # Errors
    /// No memory that can be locked.
    pub fn inherited(&self) -> io::Result<Self> {
        let rings = self.rings.iter().map(|ring| Ring::map(Arc::clone(&ring.event)));
        Self::of(rings.collect::<io::Result<_>>()?)
    }

    fn of(rings: Vec<Ring>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for ring in &rings {
            epoll.add(&ring.event, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        }
        Ok(Self { rings, epoll })
    }

    /// All that was told and not taken yet, without waiting.
    pub fn take(&mut self) -> Vec<Check> {
        self.rings.iter_mut().flat_map(Ring::take).collect()
    }
}

impl AsFd for Checks {
    /// Readable when there is something to take.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

/// What one CPU tells.
/// A child process does not inherit the pages (`VM_DONTCOPY`): it must not drop what it has inherited, only
/// [`Checks::inherited`] it.
struct Ring {
    event: Arc<OwnedFd>,
    /// One of counters, one of records.
    pages: NonNull<u64>,
    page_bytes: usize,
}

// SAFETY: the pages are the ring's own as long as it lives, and only reached through it.
unsafe impl Send for Ring {}

impl Ring {
    fn open(tracepoint: u64, cpu: i32) -> io::Result<Self> {
        let attr = Attr {
            kind: TYPE_TRACEPOINT,
            size: size_of::<Attr>() as u32,
            config: tracepoint,
            sample_period: 1,
            sample_type: SAMPLE_TID | SAMPLE_TIME,
            flags: DISABLED | USE_CLOCKID,
            wakeup_events: 1,
            clock: libc::CLOCK_MONOTONIC,
            ..Attr::default()
        };
        // SAFETY: perf_event_open(2) reads as much of `attr` as its size says, and makes a descriptor.
        let fd =
            unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, -1, cpu, -1, FLAG_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made it for us.
        let event = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        // SAFETY: perf reads the filter up to its end, which a CStr has.
        if unsafe { libc::ioctl(event.as_raw_fd(), IOC_SET_FILTER, FILTER.as_ptr()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let ring = Self::map(Arc::new(event))?;
        // SAFETY: this request takes nothing.
        if unsafe { libc::ioctl(ring.event.as_raw_fd(), IOC_ENABLE, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(ring)
    }

    fn map(event: Arc<OwnedFd>) -> io::Result<Self> {
        // SAFETY: sysconf takes a number and touches no memory of ours.
        let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        // SAFETY: a new mapping, wherever there is room: a page for the counters and one for the records.
        let pages = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                2 * page_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                event.as_raw_fd(),
                0,
            )
        };
        if pages == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let pages = NonNull::new(pages.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { event, pages, page_bytes })
    }

    fn counter(&self, at: usize) -> &AtomicU64 {
        // SAFETY: inside the first page and aligned; the kernel writes the one and reads the other as one word
        // (perf_event_open(2)), and the mapping lives as long as the ring.
        unsafe { AtomicU64::from_ptr(self.pages.as_ptr().add(at / 8)) }
    }

    fn take(&mut self) -> Vec<Check> {
        let head = self.counter(HEAD).load(Ordering::Acquire);
        let mut tail = self.counter(TAIL).load(Ordering::Relaxed);
        let mut checks = Vec::new();
        while tail < head {
            let header = self.word(tail);
            let length = header >> 48;
            if length < HEADER_BYTES as u64 {
                break;
            }
            checks.push(if header as u32 == RECORD_SAMPLE {
                Check { tid: (self.word(tail + 8) >> 32) as i32, at_ns: self.word(tail + 16) }
            } else {
                // Some were lost.
                Check { tid: 0, at_ns: super::clock::monotonic_ns() }
            });
            tail += length;
        }
        // What is not understood is passed over.
        self.counter(TAIL).store(head, Ordering::Release);
        checks
    }

    /// Eight bytes of the records: all lengths and places are multiples of that.
    fn word(&self, at: u64) -> u64 {
        let at = self.page_bytes + at as usize % self.page_bytes;
        // SAFETY: inside the second page and aligned. The kernel does not write there before it sees a tail behind it.
        unsafe { self.pages.as_ptr().add(at / 8).read_volatile() }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: these pages were mapped with this length, and nothing borrowed from the ring outlives it.
        unsafe { libc::munmap(self.pages.as_ptr().cast(), 2 * self.page_bytes) };
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn whoever_sets_a_flag_is_told_of() {
        let mut checks = match Checks::listen() {
            Ok(checks) => checks,
            Err(error) => return eprintln!("SKIPPED: no tracepoint of capabilities: {error}"),
        };
        let file = tempfile::NamedTempFile::new().expect("a file");
        let before_ns = crate::sys::clock::monotonic_ns();
        let chattr = |flag: &str| {
            let mut child = std::process::Command::new("chattr").arg(flag).arg(file.path()).spawn().ok()?;
            child.wait().ok()?.success().then_some(child.id() as i32)
        };
        let (Some(set), Some(cleared)) = (chattr("+i"), chattr("-i")) else {
            return eprintln!("SKIPPED: chattr does not work here");
        };
        let (mut seen, started) = (Vec::new(), Instant::now());
        while !(seen.contains(&set) && seen.contains(&cleared)) {
            assert!(started.elapsed() < Duration::from_secs(5), "{seen:?}");
            for check in checks.take() {
                assert!(check.at_ns >= before_ns);
                seen.push(check.tid);
            }
        }
    }
}
