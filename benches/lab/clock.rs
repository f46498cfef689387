//! CPU clocks of other processes.

use std::fs;
use std::process::Child;

/// Nanoseconds of CPU that all threads of a process have used, user and system.
pub fn cpu_ns(pid: i32) -> u64 {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` is writable for the call (clock_getcpuclockid(3)).
    let found = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    assert_eq!(found, 0, "process {pid} is gone");
    read(clock)
}

/// Nanoseconds on a clock that never steps.
pub fn now_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a writable timespec (clock_gettime(2)).
    let read = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(read, 0, "a clock cannot be read");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Resident memory of a process in KiB, its program and what it shares included.
pub fn resident_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

/// What is allocated in the slabs of the kernel, in KiB: marks live there, and the inodes that they keep in memory.
/// Of all slabs, because they share those of one size with others; pages that are kept for later do not count.
pub fn slab_kib() -> u64 {
    let text = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    // Name, active objects, all objects, bytes of one (slabinfo(5)).
    let bytes = text.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1).map(str::parse::<u64>);
        let (active, _, size) = (fields.next()?.ok()?, fields.next()?.ok()?, fields.next()?.ok()?);
        Some(active * size)
    });
    bytes.sum::<u64>() / 1024
}

/// Ends a child and waits for it.
pub fn stop(child: &mut Child) {
    // SAFETY: the child has not been waited for, so its number is still its own (kill(2)).
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    for _ in 0..500 {
        if let Ok(Some(_)) = child.try_wait() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
}
