//! How long to look again at openers that have not come to rest.

use crate::sys::clock;

/// Looks at once while the opener is on its way to sleep on another CPU; that takes it less than a microsecond.
/// More looks only keep an opener that waits for this CPU from getting there: with eight openers on two CPUs, 30 of
/// them halved the throughput.
const LOOKS_AT_ONCE: u32 = 2;
/// Looks that yield the CPU in between: the opener may be waiting for the very CPU that the responder is on.
const LOOKS_YIELDING: u32 = 200;
/// All looks after the first ones together, nanoseconds: enough but for a host with many more runnable threads than
/// CPUs. A time and not a number of looks: there each yield and each sleep of ours costs milliseconds too.
const USUAL_NS: u64 = 20_000_000;
/// For an opener that could change the file: to refuse a read because its reader gets no CPU is worse than to wait,
/// and to let it pass unseen would let it empty the file. Below the 0.9 s after which a worker is replaced.
const LONG_NS: u64 = 450_000_000;
const SLEEP_BETWEEN: std::time::Duration = std::time::Duration::from_micros(100);

/// Waits between looks, up to a time.
#[derive(Debug)]
pub struct Patience {
    limit_ns: u64,
    waits: u32,
    until_ns: Option<u64>,
}

impl Patience {
    /// With any opener.
    pub const fn usual() -> Self {
        Self { limit_ns: USUAL_NS, waits: 0, until_ns: None }
    }

    /// With one who could change the file.
    pub const fn long() -> Self {
        Self { limit_ns: LONG_NS, ..Self::usual() }
    }

    /// Waits a moment; false when it is over.
    pub fn wait(&mut self) -> bool {
        self.waits += 1;
        if self.waits <= LOOKS_AT_ONCE {
            std::hint::spin_loop();
            return true;
        }
        let now_ns = clock::monotonic_ns();
        if now_ns > *self.until_ns.get_or_insert(now_ns + self.limit_ns) {
            return false;
        }
        if self.waits <= LOOKS_AT_ONCE + LOOKS_YIELDING {
            std::thread::yield_now();
        } else {
            std::thread::sleep(SLEEP_BETWEEN);
        }
        true
    }
}
