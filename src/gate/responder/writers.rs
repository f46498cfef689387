//! What a responder finds out about trusted writers beside its verdict.

use super::Responder;
use crate::access::{Access, Mutation};
use crate::gate::in_force::InForce;
use crate::gate::look::Look;
use crate::gate::pending::Pending;
use crate::sys::file::{self, Stat};
use crate::sys::{clock, proc};
use crate::verdict::{Change, Outcome, decide, writers_that_matter};

impl Responder {
    /// Verifies a writer that has started, whatever it opens: see [`Starting`].
    pub(super) fn verify_once_started(&mut self, pending: &Pending<'_>, look: &Look) {
        let (tid, starting) = (pending.tid(), &self.shared.starting);
        let InForce { snapshot, writers } = &*self.in_force.1;
        if look.access == Access::Exec {
            if file::stat_fd(pending.fd()).is_ok_and(|program| writers.is_program(program.id)) {
                starting.begins(tid);
                let at_ns = clock::monotonic_ns();
                self.shared.notes.starts(tid, self.position_of_start(tid), at_ns);
            }
        } else if starting.is(tid) {
            let at_ns = clock::monotonic_ns();
            if let Some(verified) = self.verifier.verify_started(snapshot, writers, &self.proc, tid, look.pc)
            {
                starting.ends(tid);
                if verified.is_somebody() {
                    self.shared.notes.note(tid, verified, at_ns);
                }
            }
        }
    }

    /// Where in the stream of notifications the program that `tid` is about to execute begins. Another thread may go on
    /// until then with what it did before.
    fn position_of_start(&self, tid: i32) -> Option<u64> {
        let watch = self.shared.groups.watch.as_ref()?;
        let is_alone = proc::threads_of(&self.proc, tid).is_ok_and(|threads| threads == 1);
        is_alone.then(|| self.shared.stream.end(watch)).flatten()
    }

    /// A trusted writer has made this file. When it is to take another trusted executable's place, and its maker may
    /// put something there, it is remembered.
    pub(super) fn note_successor(&mut self, pending: &Pending<'_>, stat: &Stat) {
        let InForce { snapshot, writers } = &*self.in_force.1;
        let Some(gate) = &self.shared.groups.gate else { return };
        let Some(place) = writers.place_for(self.resolver.path.as_bytes()) else { return };
        let Some(rule) = snapshot.rule_for(place) else { return };
        let change = Change::Mutation(Mutation::Rename);
        let matter = writers_that_matter(snapshot, rule, change);
        let verified = self.verifier.verify(snapshot, writers, &self.proc, pending.tid(), matter);
        if decide(snapshot, rule, change, verified.writers).outcome != Outcome::Deny {
            writers.remembered.successors.note(gate, pending.fd(), stat.id, place);
        }
    }
}
