//! The page that supervisor and workers share: what has been read and not yet answered (`slot.rs`), and the counters.

use std::cell::UnsafeCell;
use std::io;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering};

use super::atomic_bytes::AtomicBytes;
use super::fanotify::Group;
use super::slot::Slot;

/// The most responders of one worker; more threads than this only wake each other.
pub const RESPONDERS_MAX: usize = 128;

/// Threads of the worker that are not responders: main, logger, watcher, control, and some that are starting.
const OTHER_THREADS_MAX: usize = 64;

/// Denials that the supervisor gave and no worker has recorded yet. Openers can be in flight once per responder,
/// and safe mode lasts some tens of milliseconds; what does not fit is counted.
pub const LEFTOVERS_MAX: usize = 512;

/// Creations that are remembered. Each opener needs its own only until its verdict, so this is for bursts of
/// allowed creations, and for those that happen while there is no worker.
pub const CREATIONS_MAX: usize = 1024;

/// How far the worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// No worker, or not far enough to answer: the supervisor reads the queue.
    Starting = 0,
    /// Responders answer; marks are still being placed.
    Answering = 1,
    /// Everything is in place.
    Ready = 2,
}

/// A denial of the supervisor, waiting to be recorded by a worker.
#[repr(C)]
#[derive(Debug)]
pub struct Leftover {
    /// The opener; 0: nothing here.
    pub tid: AtomicI32,
    /// 0: the worker died; 1: safe mode.
    pub safe_mode: AtomicU32,
    /// The opener's system call, -1 when not known.
    pub syscall: AtomicI32,
    /// Its open flags; `u64::MAX` when not known.
    pub flags: AtomicU64,
    /// Device of the object, 0 when not known.
    pub dev: AtomicU64,
    /// Inode of the object, 0 when not known.
    pub ino: AtomicU64,
    /// Nanoseconds since the epoch.
    pub time_ns: AtomicU64,
    /// 1: the new file of a refused create has been removed already.
    pub rolled_back: AtomicU32,
    /// The opener's last creation before it was refused: a copy, because the ring may go round before a worker
    /// comes to look.
    pub made: Creation,
    /// The path it was reached by; empty when not known or longer than this.
    pub path: AtomicBytes<128>,
    /// The opener's process, -1 when not known.
    pub pid: AtomicI32,
    /// Its parent.
    pub ppid: AtomicI32,
    /// Its real user.
    pub uid: AtomicI64,
    /// Its login user.
    pub auid: AtomicI64,
    /// Its thread name.
    pub comm: AtomicBytes<2>,
    /// Its executable.
    pub exe: AtomicBytes<64>,
    /// Its parent's executable.
    pub parent_exe: AtomicBytes<64>,
}

/// A file that somebody has made lately, from a `FAN_CREATE` record.
#[repr(C)]
#[derive(Debug)]
pub struct Creation {
    /// Who; 0: nothing here.
    pub tid: AtomicI32,
    /// Type number of `target`.
    pub target_type: AtomicI32,
    /// Type number of `directory`.
    pub directory_type: AtomicI32,
    /// `f_fsid` of both.
    pub filesystem: AtomicU64,
    /// Handle of the file.
    pub target: AtomicBytes<16>,
    /// Handle of the directory.
    pub directory: AtomicBytes<16>,
    /// The file's name in it.
    pub name: AtomicBytes<32>,
}

impl Creation {
    /// Becomes a copy of `other`, or empty.
    pub fn copy_of(&self, other: Option<&Self>) {
        use Ordering::Relaxed;
        self.tid.store(other.map_or(0, |other| other.tid.load(Relaxed)), Relaxed);
        let Some(other) = other else { return };
        self.target_type.store(other.target_type.load(Relaxed), Relaxed);
        self.directory_type.store(other.directory_type.load(Relaxed), Relaxed);
        self.filesystem.store(other.filesystem.load(Relaxed), Relaxed);
        let mut room = [0; 256];
        self.target.store(other.target.load(&mut room));
        self.directory.store(other.directory.load(&mut room));
        self.name.store(other.name.load(&mut room));
    }
}

/// Everything supervisor and workers share. All fields are atomics: a process may die between any two stores.
#[repr(C)]
pub struct SharedPage {
    /// A [`Stage`].
    stage: AtomicU32,
    /// The process that started everything.
    pub supervisor_pid: AtomicI32,
    /// The present worker.
    pub worker_pid: AtomicI32,
    /// Workers that were replaced.
    pub restarts: AtomicU64,
    /// Events that the supervisor answered itself: allowed.
    pub supervisor_allowed: AtomicU64,
    /// Events that the supervisor answered itself: denied.
    pub supervisor_denied: AtomicU64,
    /// Events and records lost, all kinds.
    pub lost: AtomicU64,
    /// Nanoseconds since the epoch of the last loss; 0: never.
    pub last_loss_ns: AtomicU64,
    own_threads: [AtomicI32; RESPONDERS_MAX + OTHER_THREADS_MAX],
    own_threads_len: AtomicU32,
    /// Those of the worker that died last: some of what they did is reported to the next one.
    former_threads: [AtomicI32; RESPONDERS_MAX + OTHER_THREADS_MAX],
    /// The supervisor is between its look at [`SharedPage::stage`] and the end of its read.
    supervisor_reads: AtomicU32,
    /// Where the supervisor itself receives events, in safe mode.
    pub supervisor_slot: Slot,
    /// Which of the two memory files holds the policies in force: 1 or 2; 0: neither.
    pub bundle: AtomicU32,
    /// Generation of the snapshot in force.
    pub generation: AtomicU64,
    /// Nanoseconds since the epoch when the supervisor started.
    pub started_ns: AtomicU64,
    /// See [`Leftover`].
    pub leftovers: [Leftover; LEFTOVERS_MAX],
    /// See [`Creation`]; a ring.
    pub creations: [Creation; CREATIONS_MAX],
    /// Where the next creation goes.
    pub creations_next: AtomicU32,
    /// What the watcher has read and not yet dealt with.
    pub watched: WatchBuffer,
    /// Which of the two memory files holds the inventory: 1 or 2; 0: neither.
    pub inventory: AtomicU32,
    /// 1 while something is being learned that is not in the inventory yet: what it does not know is not foreign.
    pub learning: AtomicU32,
    /// Generation of the snapshot whose roots are all in the inventory.
    pub learned_generation: AtomicU64,
    /// Up to this number mounts are older than the gate, see [`super::mount`]; 0: not known.
    pub mounts_at_start: AtomicU64,
    /// See [`crate::watch::MountWatch::exceptions`]; 0: no more.
    pub mount_exceptions: [AtomicU64; MOUNT_EXCEPTIONS_MAX],
    /// Things that were put back.
    pub healed: AtomicU64,
    /// One per responder.
    pub slots: [Slot; RESPONDERS_MAX],
}

/// So many mounts are remembered that came before a policy covered their place, or were moved over it: a few. What came
/// later and finds no room is new to the next worker.
pub const MOUNT_EXCEPTIONS_MAX: usize = 64;

/// One read of the watch's queue: some hundreds of records.
pub const WATCH_BUFFER_BYTES: usize = 64 * 1024;

/// More than an event can take, with two names of 255 bytes and three handles of 128.
const LONGEST_EVENT: usize = 4096;

/// What one read of the watch's queue gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// How many.
    pub events: usize,
    /// Nothing was left then.
    pub emptied: bool,
}

/// Notifications that were read and not yet dealt with: the next worker goes on where the last one died.
///
/// The bytes are zero from the end of what was read, and a record begins with its length, so that what was read is
/// on record the instant read(2) returns.
#[repr(C, align(8))]
pub struct WatchBuffer {
    bytes: UnsafeCell<[u8; WATCH_BUFFER_BYTES]>,
    done: AtomicU32,
}

// SAFETY: of all threads and processes that see it, only the watcher of the one living worker uses the bytes: a
// worker is made when the one before it is dead, and has one watcher.
unsafe impl Sync for WatchBuffer {}

impl WatchBuffer {
    /// Reads from `group`. Everything read before must be done.
    ///
    /// # Errors
    /// `WouldBlock` when the queue is empty; otherwise see [`Group::read`].
    pub fn fill(&self, group: &Group) -> io::Result<Fill> {
        // SAFETY: only the watcher's thread comes here, see the impl of Sync; no slice of the bytes is alive, because
        // `rest` gives them out for less time than the next call to this.
        let bytes = unsafe { &mut *self.bytes.get() };
        bytes.fill(0);
        self.done.store(0, Ordering::Release);
        let length = group.read(bytes)?;
        let (mut events, mut at) = (0, 0);
        while at < length
            && let Some(first) = bytes.get(at..at + 4).and_then(<[u8]>::first_chunk)
        {
            // At least the length itself, whatever stands there.
            at += (u32::from_ne_bytes(*first) as usize).max(4);
            events += 1;
        }
        Ok(Fill { events, emptied: length + LONGEST_EVENT < WATCH_BUFFER_BYTES })
    }

    /// What is not done yet.
    pub fn rest(&self) -> &[u8] {
        let done = (self.done.load(Ordering::Acquire) as usize).min(WATCH_BUFFER_BYTES);
        // SAFETY: see `fill`.
        unsafe { &(&*self.bytes.get())[done..] }
    }

    /// `count` more bytes are dealt with.
    pub fn advance(&self, count: usize) {
        self.done.fetch_add(count as u32, Ordering::AcqRel);
    }
}

impl SharedPage {
    /// Maps a new one, zeroed and resident; it is never unmapped, and children share it.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn map() -> io::Result<&'static Self> {
        // SAFETY: an anonymous mapping at an address of the kernel's choice; no memory of ours is touched.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Self>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping is as large as Self, page-aligned (more than 128), zeroed, which is valid for
        // atomics, and lives as long as the process.
        Ok(unsafe { &*address.cast::<Self>() })
    }

    /// How far the worker is.
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            1 => Stage::Answering,
            2 => Stage::Ready,
            _ => Stage::Starting,
        }
    }

    /// Says how far the worker is.
    pub fn set_stage(&self, stage: Stage) {
        self.stage.store(stage as u32, Ordering::Release);
    }

    /// The supervisor asks whether it may read the queue: only while no responder does, so that its read finds
    /// what poll(2) has shown it. Followed by [`SharedPage::end_supervisor_read`] in either case.
    pub fn may_supervisor_read(&self) -> bool {
        self.supervisor_reads.store(1, Ordering::SeqCst);
        self.stage.load(Ordering::SeqCst) == Stage::Starting as u32
    }

    /// See [`SharedPage::may_supervisor_read`].
    pub fn end_supervisor_read(&self) {
        self.supervisor_reads.store(0, Ordering::SeqCst);
    }

    /// The worker takes the queue over: from now on the supervisor does not read it. Waits for a read under way,
    /// which ends within the time of one event.
    pub fn take_queue_over(&self) {
        self.stage.store(Stage::Answering as u32, Ordering::SeqCst);
        while self.supervisor_reads.load(Ordering::SeqCst) != 0 {
            std::thread::yield_now();
        }
    }

    /// Registers a thread whose opens are allowed at once.
    pub fn add_own_thread(&self, tid: i32) {
        for place in &self.own_threads {
            if place.compare_exchange(0, tid, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                let used = self.own_threads.iter().rposition(|p| p.load(Ordering::Relaxed) != 0);
                self.own_threads_len.store(used.map_or(0, |i| i as u32 + 1), Ordering::Release);
                return;
            }
        }
    }

    /// Forgets all own threads: their process is dead.
    pub fn forget_own_threads(&self) {
        for (place, former) in self.own_threads.iter().zip(&self.former_threads) {
            former.store(place.swap(0, Ordering::AcqRel), Ordering::Release);
        }
        self.own_threads_len.store(0, Ordering::Release);
        self.slots.iter().for_each(|slot| slot.reader.store(0, Ordering::Relaxed));
    }

    /// Whether `tid` was one of the worker's that died last. Numbers are given away again: only for what happened
    /// before that.
    pub fn was_own_thread(&self, tid: i32) -> bool {
        tid != 0 && self.former_threads.iter().any(|former| former.load(Ordering::Relaxed) == tid)
    }

    /// Whether `tid` is one of ours.
    pub fn is_own_thread(&self, tid: i32) -> bool {
        let len = self.own_threads_len.load(Ordering::Acquire) as usize;
        self.own_threads[..len.min(self.own_threads.len())].iter().any(|p| p.load(Ordering::Relaxed) == tid)
    }

    /// Counts a loss of `count` events or records.
    pub fn add_loss(&self, count: u64, now_ns: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
        self.last_loss_ns.store(now_ns, Ordering::Relaxed);
    }

    /// Leaves a denial for the next worker to record: `fill` stores all but the opener.
    pub fn leave(&self, tid: i32, now_ns: u64, fill: impl FnOnce(&Leftover)) {
        match self.leftovers.iter().find(|place| place.tid.load(Ordering::Acquire) == 0) {
            Some(place) => {
                place.time_ns.store(now_ns, Ordering::Relaxed);
                fill(place);
                place.tid.store(tid, Ordering::Release);
            }
            None => self.add_loss(1, now_ns),
        }
    }

    /// Sums one counter over all slots.
    pub fn total(&self, counter: impl Fn(&Slot) -> &AtomicU64) -> u64 {
        self.slots.iter().map(|slot| counter(slot).load(Ordering::Relaxed)).sum()
    }
}
