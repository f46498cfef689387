//! Writers that are starting.
//!
//! A writer that only deletes or renames asks the gate for nothing that it has to be verified for, and may have ended
//! before its notifications are read. So whoever executes a writer's program is verified with the first protected file
//! that the program itself opens, before that open is answered. No sooner: as long as the dynamic loader runs, code
//! that nobody has looked at may still be mapped (`LD_PRELOAD`, `LD_LIBRARY_PATH`).

use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering::Relaxed;

/// Writers that are between their execve and their first own open at the same time: package managers start a few at
/// once, and one takes a millisecond. One that loses its place is judged while it lives, or is unknown.
const PLACES: usize = 64;

/// Which threads have executed a writer's program and have not been verified since. 0: nobody.
#[derive(Debug)]
pub struct Starting {
    tids: [AtomicI32; PLACES],
}

impl Default for Starting {
    fn default() -> Self {
        Self { tids: [const { AtomicI32::new(0) }; PLACES] }
    }
}

impl Starting {
    /// `tid` is about to execute a writer's program, if that succeeds.
    pub fn begins(&self, tid: i32) {
        self.place(tid).store(tid, Relaxed);
    }

    /// Whether `tid` has begun and not ended.
    pub fn is(&self, tid: i32) -> bool {
        self.place(tid).load(Relaxed) == tid
    }

    /// `tid` has been verified, or is somebody else.
    pub fn ends(&self, tid: i32) {
        let _ = self.place(tid).compare_exchange(tid, 0, Relaxed, Relaxed);
    }

    fn place(&self, tid: i32) -> &AtomicI32 {
        &self.tids[tid.unsigned_abs() as usize % PLACES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_loses_its_place_ends_nobody_else() {
        let starting = Starting::default();
        assert!(!starting.is(7));
        starting.begins(7);
        assert!(starting.is(7) && !starting.is(7 + PLACES as i32));
        starting.begins(7 + PLACES as i32);
        starting.ends(7);
        assert!(!starting.is(7) && starting.is(7 + PLACES as i32));
    }
}
