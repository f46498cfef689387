//! The pool of records, the queue to the logger, and the account of what did not fit.
//!
//! Everything is made at start. Nothing on the responder's side allocates, frees, blocks or does IO: a full
//! queue or an empty pool is counted, per policy, and the count becomes a record itself.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};

use super::record::{Record, TEXT_BYTES};
use super::text::now_ns;

/// Records in the pool, and places in the queue. At 100 denials in a millisecond, which is what two CPUs can
/// refuse, it bridges a disk that stalls for 5 ms; at the 100 a second of a noisy attack, 5 s. Costs 24 MiB of
/// address space, of which a burst touches two or three pages a record.
pub const RECORDS: usize = 512;

/// Policies with a loss counter of their own; the rest share one. More policies than this are unusual, and the
/// sum stays exact.
pub const LOSS_SLOTS: usize = 512;

/// A slot's word: the count below, the low bits of the generation above.
const COUNT_BITS: u32 = 48;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

#[allow(clippy::vec_box, reason = "the boxes travel; the records must not be copied")]
type Boxes = Vec<Box<Record>>;

/// The records that are not under way.
pub struct RecordPool {
    /// Last in, first out, so that few pages stay hot. The lock is held for a push or a pop only.
    free: Mutex<Boxes>,
    /// Filled but not taken by the queue: they wait for the logger to drop their snapshot.
    retired: Mutex<Boxes>,
}

impl RecordPool {
    /// Makes `records` records. Their texts are parts of one slab that is never freed: the pool lives as long
    /// as the process, and one large zeroed allocation stays untouched until used, where single ones do not.
    fn new(records: usize) -> Self {
        let slab = vec![0_u8; records * TEXT_BYTES].leak();
        let mut free = Vec::with_capacity(records);
        free.extend(slab.chunks_exact_mut(TEXT_BYTES).map(|part| Box::new(Record::in_slab(part))));
        Self { free: Mutex::new(free), retired: Mutex::new(Vec::with_capacity(records)) }
    }

    /// A cleared record, if one is left. Never blocks on IO, never allocates. Prefer [`AuditQueue::take`], which
    /// counts the loss.
    pub fn take(&self) -> Option<Box<Record>> {
        self.free.lock().pop()
    }

    /// Gives a record back that was not filled in (no snapshot in it), or that was cleared.
    pub fn give_back(&self, record: Box<Record>) {
        debug_assert!(record.snapshot.is_none(), "clear() belongs to the logger");
        push_within_capacity(&self.free, record);
    }

    /// How many are free.
    pub fn free(&self) -> usize {
        self.free.lock().len()
    }

    /// Clears a record, which may free its snapshot, and gives it back. For the logger.
    fn recycle(&self, mut record: Box<Record>) {
        record.clear();
        self.give_back(record);
    }

    /// Recycles what responders could not hand over. For the logger.
    fn reclaim(&self) {
        loop {
            let retired = self.retired.lock().pop();
            match retired {
                Some(record) => self.recycle(record),
                None => return,
            }
        }
    }
}

/// Never grows the vector: it was made for every record there is.
fn push_within_capacity(list: &Mutex<Boxes>, record: Box<Record>) {
    let mut list = list.lock();
    if list.len() < list.capacity() {
        list.push(record);
    }
}

/// What was lost of one policy since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Index into the policies of the snapshot of `generation`; `None`: no policy, or several without a slot.
    pub policy: Option<u16>,
    /// The low 16 bits of the snapshot's generation.
    pub generation: u16,
    /// How many records.
    pub count: u64,
    /// When the first was lost, nanoseconds since the epoch.
    pub since_ns: u64,
}

#[derive(Default)]
struct Slot {
    word: AtomicU64,
    since_ns: AtomicU64,
}

impl Slot {
    /// Counts one; `false` when the slot still holds losses of another generation.
    fn add(&self, generation: u16, now_ns: u64) -> bool {
        // Before the count, so that whoever takes the count mostly finds the time; if not, "now" is close.
        let _ = self.since_ns.compare_exchange(0, now_ns, Relaxed, Relaxed);
        let tag = u64::from(generation) << COUNT_BITS;
        self.word
            .fetch_update(Relaxed, Relaxed, |word| {
                let same = word & COUNT_MASK == 0 || word & !COUNT_MASK == tag;
                same.then_some(tag | ((word & COUNT_MASK) + 1))
            })
            .is_ok()
    }

    fn take(&self, policy: Option<u16>) -> Option<Loss> {
        if self.word.load(Relaxed) == 0 {
            return None;
        }
        let word = self.word.swap(0, Relaxed);
        let since_ns = match self.since_ns.swap(0, Relaxed) {
            0 => now_ns(),
            since => since,
        };
        let count = word & COUNT_MASK;
        (count > 0).then_some(Loss { policy, generation: (word >> COUNT_BITS) as u16, count, since_ns })
    }
}

/// The account of records that could not be made: a fixed array, nothing but atomics.
pub struct Losses {
    slots: Box<[Slot]>,
    other: Slot,
    total: AtomicU64,
    last_ns: AtomicU64,
}

impl Losses {
    fn new() -> Self {
        Self {
            slots: std::iter::repeat_with(Slot::default).take(LOSS_SLOTS).collect(),
            other: Slot::default(),
            total: AtomicU64::new(0),
            last_ns: AtomicU64::new(0),
        }
    }

    /// Counts one lost record of the policy at index `policy` in the snapshot of `generation`.
    pub fn count(&self, policy: Option<u16>, generation: u64) {
        let now = now_ns();
        self.total.fetch_add(1, Relaxed);
        self.last_ns.store(now, Relaxed);
        let slot = policy.and_then(|policy| self.slots.get(policy as usize));
        if !slot.is_some_and(|slot| slot.add(generation as u16, now)) {
            // Always succeeds: every loss of this slot has the same tag.
            self.other.add(0, now);
        }
    }

    /// How many were lost since start.
    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// Takes every count that is not zero, which zeroes it.
    pub(super) fn take(&self) -> impl Iterator<Item = Loss> + '_ {
        let slots = self.slots.iter().enumerate().filter_map(|(policy, slot)| slot.take(Some(policy as u16)));
        slots.chain(std::iter::once_with(|| self.other.take(None)).flatten())
    }
}

/// What the logger tells `status`.
#[derive(Default)]
pub(super) struct Progress {
    pub written: AtomicU64,
    pub write_errors: AtomicU64,
    pub stalled: AtomicBool,
    pub last_lost_count: AtomicU64,
}

/// The audit side at one moment, for `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gauge {
    /// Records waiting for the logger.
    pub queue_depth: usize,
    /// Records left in the pool.
    pub pool_free: usize,
    /// Records in the trail since start, `lost` and lifecycle records included.
    pub written: u64,
    /// Records lost since start.
    pub lost: u64,
    /// When the last loss was, nanoseconds since the epoch; `None`: never.
    pub last_loss_ns: Option<u64>,
    /// `count` of the last `lost` record in the trail.
    pub last_loss_count: u64,
    /// Failed writes, opens and syncs of the trail since start.
    pub write_errors: u64,
    /// The trail cannot be written right now.
    pub stalled: bool,
}

pub(super) struct Shared {
    pub pool: RecordPool,
    pub losses: Losses,
    pub progress: Progress,
    filed: (Sender<Filed>, Receiver<Filed>),
}

impl Shared {
    /// The logger has numbered a record about something in the quarantine. Nobody waits: where the watcher does not
    /// come to it, the note there stays without the number.
    pub fn file(&self, id: String, seq: u64) {
        let _ = self.filed.0.try_send(Filed { id, seq });
    }
}

/// A record about something in the quarantine has its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filed {
    /// What it is called there.
    pub id: String,
    /// The record's number in the trail.
    pub seq: u64,
}

/// The responders' end. Cheap to clone; one for each thread.
#[derive(Clone)]
pub struct AuditQueue {
    shared: Arc<Shared>,
    sender: Sender<Box<Record>>,
}

/// The logger's end.
pub struct AuditDrain {
    pub(super) shared: Arc<Shared>,
    pub(super) receiver: Receiver<Box<Record>>,
}

/// Makes pool and queue of [`RECORDS`] records. All memory is allocated here.
pub fn audit_queue() -> (AuditQueue, AuditDrain) {
    audit_queue_with(RECORDS)
}

/// As [`audit_queue`], with another number of records.
pub fn audit_queue_with(records: usize) -> (AuditQueue, AuditDrain) {
    // As many places as records: what the pool gives, the queue can hold.
    let (sender, receiver) = bounded(records);
    let shared = Arc::new(Shared {
        pool: RecordPool::new(records),
        losses: Losses::new(),
        progress: Progress::default(),
        // There are no more records under way than that.
        filed: bounded(records),
    });
    (AuditQueue { shared: Arc::clone(&shared), sender }, AuditDrain { shared, receiver })
}

impl AuditQueue {
    /// Call once at the start of each responder: a thread that first waits for a `parking_lot` lock allocates
    /// its place in the parking lot, and that must not happen between an event and its answer.
    pub fn warm_thread(&self) {
        let lot = Mutex::new(());
        let _ = Condvar::new().wait_for(&mut lot.lock(), Duration::from_nanos(1));
    }

    /// A cleared record to fill. `None`: the pool is empty, and the loss has been counted.
    pub fn take(&self, policy: Option<u16>, generation: u64) -> Option<Box<Record>> {
        let record = self.shared.pool.take();
        if record.is_none() {
            self.shared.losses.count(policy, generation);
        }
        record
    }

    /// Hands a record to the logger. `false`: there is no logger or no room, and the loss has been counted.
    pub fn offer(&self, record: Box<Record>) -> bool {
        match self.sender.try_send(record) {
            Ok(()) => true,
            Err(error) => {
                let record = error.into_inner();
                self.shared.losses.count(record.policy, record.generation());
                // Not cleared here: dropping the snapshot may free it.
                push_within_capacity(&self.shared.pool.retired, record);
                false
            }
        }
    }

    /// The pool, for records that are taken and not needed after all.
    pub fn pool(&self) -> &RecordPool {
        &self.shared.pool
    }

    /// What the logger has numbered since the last call.
    pub fn take_filed(&self) -> impl Iterator<Item = Filed> + '_ {
        self.shared.filed.1.try_iter()
    }

    /// The account of losses.
    pub fn losses(&self) -> &Losses {
        &self.shared.losses
    }

    /// Where the audit side stands.
    pub fn gauge(&self) -> Gauge {
        let Shared { pool, losses, progress, filed: _ } = &*self.shared;
        let last_loss_ns = losses.last_ns.load(Relaxed);
        Gauge {
            queue_depth: self.sender.len(),
            pool_free: pool.free(),
            written: progress.written.load(Relaxed),
            lost: losses.total(),
            last_loss_ns: (last_loss_ns > 0).then_some(last_loss_ns),
            last_loss_count: progress.last_lost_count.load(Relaxed),
            write_errors: progress.write_errors.load(Relaxed),
            stalled: progress.stalled.load(Relaxed),
        }
    }
}

impl AuditDrain {
    /// The next record, if one waits. Give it back with [`AuditDrain::recycle`].
    pub fn try_next(&self) -> Option<Box<Record>> {
        self.receiver.try_recv().ok()
    }

    /// Clears a record and gives it back to the pool.
    pub fn recycle(&self, record: Box<Record>) {
        self.shared.pool.recycle(record);
        self.shared.pool.reclaim();
    }

    /// Takes the losses counted so far.
    pub fn take_losses(&self) -> impl Iterator<Item = Loss> + '_ {
        self.shared.losses.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::time::Instant;

    #[test]
    fn the_pool_is_last_in_first_out_and_finite() {
        let (queue, _drain) = audit_queue_with(3);
        let mut first = queue.take(None, 1).unwrap();
        first.time_ns = 7;
        queue.pool().give_back(first);
        let held: Vec<_> = (0..3).map(|_| queue.take(None, 1).unwrap()).collect();
        assert_eq!(held[0].time_ns, 7);
        assert!(queue.take(Some(2), 1).is_none());
        assert_eq!(queue.losses().total(), 1);
    }

    #[test]
    fn what_cannot_be_handed_over_is_counted_and_kept_for_the_logger() {
        let (queue, drain) = audit_queue_with(2);
        drop(drain);
        let mut record = queue.take(Some(1), 1).unwrap();
        record.policy = Some(1);
        assert!(!queue.offer(record));
        let losses: Vec<_> = queue.losses().take().collect();
        assert_eq!((losses.len(), losses[0].policy, losses[0].count), (1, Some(1), 1));
        assert_eq!(queue.pool().free(), 1);
        queue.shared.pool.reclaim();
        assert_eq!(queue.pool().free(), 2);
    }

    #[test]
    fn losses_are_told_apart_by_policy_and_generation() {
        let losses = Losses::new();
        for _ in 0..3 {
            losses.count(Some(4), 1);
        }
        losses.count(Some(4), 2);
        losses.count(Some(LOSS_SLOTS as u16), 1);
        losses.count(None, 9);
        let taken: Vec<_> = losses.take().map(|loss| (loss.policy, loss.generation, loss.count)).collect();
        assert_eq!(taken, [(Some(4), 1, 3), (None, 0, 3)]);
        assert!(losses.take().next().is_none());
        losses.count(Some(4), 2);
        assert_eq!(losses.take().next().map(|loss| loss.generation), Some(2));
        assert_eq!(losses.total(), 7);
    }

    /// Producers against a consumer that stalls half of the time: nobody waits, and nothing is unaccounted for.
    #[test]
    fn producers_never_block_and_the_account_balances() {
        const PRODUCERS: u64 = 4;
        const EACH: u64 = 20_000;
        let (queue, drain) = audit_queue_with(64);
        let slowest = AtomicU64::new(0);
        let done = AtomicBool::new(false);
        let (mut seen, mut lost) = (0, 0);
        std::thread::scope(|scope| {
            let producers: Vec<_> = (0..PRODUCERS)
                .map(|producer| {
                    let (queue, slowest) = (queue.clone(), &slowest);
                    scope.spawn(move || {
                        for _ in 0..EACH {
                            let start = Instant::now();
                            let policy = Some(producer as u16);
                            if let Some(mut record) = queue.take(policy, 1) {
                                record.policy = policy;
                                record.path = record.push_text(b"/usr/bin/ls");
                                queue.offer(record);
                            }
                            slowest.fetch_max(start.elapsed().as_nanos() as u64, Relaxed);
                        }
                    })
                })
                .collect();
            let consumer = scope.spawn(|| {
                let (mut seen, mut policies) = (0_u64, HashSet::new());
                while !done.load(Relaxed) {
                    std::thread::sleep(Duration::from_millis(2));
                    while let Some(record) = drain.try_next() {
                        seen += 1;
                        policies.insert(record.policy);
                        drain.recycle(record);
                    }
                }
                (seen, policies)
            });
            for producer in producers {
                producer.join().unwrap();
            }
            // The consumer's last round sees what is left.
            std::thread::sleep(Duration::from_millis(50));
            done.store(true, Relaxed);
            seen = consumer.join().unwrap().0;
        });
        while let Some(record) = drain.try_next() {
            seen += 1;
            drain.recycle(record);
        }
        for loss in drain.take_losses() {
            assert!(loss.since_ns > 0);
            lost += loss.count;
        }
        assert_eq!(seen + lost, PRODUCERS * EACH);
        assert!(lost > 0, "the consumer was meant to be too slow");
        assert_eq!(queue.losses().total(), lost);
        assert_eq!(queue.pool().free(), 64);
        // Scheduling on a loaded machine counts in; blocking on the consumer would take forever.
        assert!(slowest.load(Relaxed) < 2_000_000_000);
    }
}
