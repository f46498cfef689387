//! What threads have done with their time.

use std::io;

use super::Proc;

/// How a thread has spent its time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThreadTime {
    /// On a CPU, nanoseconds.
    pub ran_ns: u64,
    /// Ready to run, until it got a CPU, nanoseconds.
    pub waited_ns: u64,
    /// It is on a CPU now or waits for one; that time is not counted yet.
    pub wants_cpu: bool,
}

impl ThreadTime {
    /// Of thread `tid`; waits for nothing that another process can hold.
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` when it is gone; `Unsupported` where the kernel does not count.
    pub fn of(proc: &Proc, tid: i32) -> io::Result<Self> {
        /// More than the three numbers of `schedstat`, and more than `stat` has up to the state.
        const BYTES: usize = 96;
        let mut text = [0; BYTES];
        let task = proc.task(tid)?;
        let n = task.read_small(c"stat", &mut text)?;
        // The name is in parentheses and may hold some itself.
        let wants_cpu =
            text[..n].rsplit(|&byte| byte == b')').next().is_some_and(|rest| rest.starts_with(b" R"));
        let n = task.read_small(c"schedstat", &mut text)?;
        let line = std::str::from_utf8(&text[..n]).unwrap_or_default();
        let mut numbers = line.split_ascii_whitespace().map_while(|number| number.parse().ok());
        match (numbers.next(), numbers.next()) {
            // All zeros from a kernel that could count and does not.
            (Some(ran_ns @ 1..), Some(waited_ns)) => Ok(Self { ran_ns, waited_ns, wants_cpu }),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// How many threads the process of `tid` has (proc(5), `/proc/<pid>/stat`).
///
/// # Errors
/// `ENOENT` or `ESRCH` when it is gone.
pub fn threads_of(proc: &Proc, tid: i32) -> io::Result<u64> {
    /// More than a line has up to that number: twenty of them, and a name.
    const BYTES: usize = 512;
    /// The threads are the twentieth field; the second is the name, in parentheses.
    const BEHIND_NAME: usize = 17;
    let mut text = [0; BYTES];
    let n = proc.task(tid)?.read_small(c"stat", &mut text)?;
    let rest = text[..n].rsplit(|&byte| byte == b')').next().unwrap_or_default();
    let mut fields = rest.split(|&byte| byte == b' ').filter(|field| !field.is_empty());
    let threads = fields.nth(BEHIND_NAME).and_then(|field| std::str::from_utf8(field).ok()?.parse().ok());
    threads.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
