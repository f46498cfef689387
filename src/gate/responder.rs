//! One responder: read → classify → resolve → decide → respond → close → queue the record.

mod recording;
mod writers;

use std::io;
use std::sync::Arc;

use super::creation::Creations;
use super::in_force::{InForce, InForceCell};
use super::look::{Glance, Look, Looker};
use super::object::{self, Found, Resolver};
use super::opened::Opened;
use super::patience::Patience;
use super::pending::Pending;
use super::rollback::Rollback;
use super::starting::Starting;
use super::stream::Stream;
use crate::access::Access;
use crate::audit::queue::AuditQueue;
use crate::marks::{Groups, MarkTable};
use crate::subject::Notes;
use crate::subject::Verifier;
use crate::sys::clock;
use crate::sys::fanotify::{Answer, EVENTS_MAX, Group};
use crate::sys::file::{self, Stat};
use crate::sys::proc::{Proc, TaskCache};
use crate::sys::shared::{Creation, SharedPage};
use crate::sys::slot::{Deliveries, Delivery, Request, Slot};
use crate::trie::RuleId;
use crate::verdict::{Change, Outcome, Reason, Verdict, decide, writers_that_matter};

/// Governed names of one file that are looked at. More are a pathology, and every name beyond has the same file
/// behind it as these.
const NAMES_MAX: usize = 16;

/// What became of the first looks at an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Its opener has not come to rest.
    Restless,
    /// It is to be allowed: of a thread of ours, or a read where everybody reads.
    Passes,
    /// It asks for this, and the policies judge.
    Seen(Look),
    /// It wants a closer look.
    Unclear,
}

/// What all responders of a worker share.
pub struct Shared {
    /// The page that the supervisor sees too.
    pub page: &'static SharedPage,
    /// Where events come from.
    pub groups: Groups,
    /// What is in force.
    pub in_force: InForceCell,
    /// What is marked.
    pub table: MarkTable,
    /// What was created lately.
    pub creations: Creations,
    /// The way to the logger.
    pub audit: AuditQueue,
    /// Who has been verified, for the watch: what he does to names is reported when he may be gone.
    pub notes: Arc<Notes>,
    /// Writers who are still to be verified.
    pub starting: Starting,
    /// What the watch has been told.
    pub stream: Stream,
    /// What was opened lately.
    pub opened: Opened,
}

/// The state of one responder thread.
pub struct Responder {
    shared: Arc<Shared>,
    /// A descriptor of its own: a count of references that all responders share would move between their CPUs with
    /// every event.
    group: Option<Group>,
    slot: &'static Slot,
    in_force: (u64, Arc<InForce>),
    proc: Proc,
    looker: Looker,
    resolver: Resolver,
    verifier: Verifier,
    rollback: Rollback,
    parents: TaskCache,
    audit: AuditQueue,
}

impl Responder {
    /// The responder that uses slot `index`. All its memory is allocated here.
    ///
    /// # Errors
    /// /proc cannot be opened.
    pub fn new(shared: Arc<Shared>, index: usize) -> io::Result<Self> {
        Ok(Self {
            group: shared.groups.gate.as_ref().map(Group::try_clone).transpose()?,
            slot: &shared.page.slots[index],
            in_force: shared.in_force.load(),
            proc: Proc::open()?,
            looker: Looker::default(),
            resolver: Resolver::default(),
            verifier: Verifier::default(),
            rollback: Rollback::default(),
            parents: TaskCache::default(),
            audit: shared.audit.clone(),
            shared,
        })
    }

    /// Answers events for ever; ends only when the group is unusable.
    ///
    /// # Errors
    /// What read(2) said.
    pub fn run(&mut self) -> io::Result<()> {
        loop {
            self.answer_next()?;
        }
    }

    /// Waits for events and answers those that are there.
    ///
    /// # Errors
    /// The group is unusable. Every other failure to read is one lost event, which the kernel has denied.
    pub fn answer_next(&mut self) -> io::Result<()> {
        let Some(group) = self.group.take() else { return Err(io::ErrorKind::Unsupported.into()) };
        let outcome = self.answer_next_of(&group);
        self.group = Some(group);
        outcome
    }

    fn answer_next_of(&mut self, group: &Group) -> io::Result<()> {
        match self.slot.receive(group, group.events_at_once(EVENTS_MAX)) {
            Ok(deliveries) => self.handle(group, deliveries),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EBADF | libc::EINVAL | libc::EFAULT) | None => return Err(error),
                Some(errno) => self.kernel_refused(-1, errno),
            },
        }
        Ok(())
    }

    /// Looks at all before it answers the first, because every answer wakes all who wait, and who is awake shows no
    /// registers. What passes is answered in a row; what takes longer holds none of it up.
    fn handle(&mut self, group: &Group, deliveries: Deliveries<'_>) {
        let read_ns = clock::monotonic_ns();
        self.shared.in_force.refresh(&mut self.in_force);
        let mut waiting: [Option<Pending<'_>>; EVENTS_MAX] = Default::default();
        let mut refused = [None; EVENTS_MAX];
        for (at, delivery) in deliveries.enumerate() {
            match delivery {
                Delivery::Event(arrival) => {
                    waiting[at] = Some(Pending::new(group, self.slot, arrival, read_ns));
                }
                // What the kernel has refused ourselves, for somebody's lease, is told where it was wanted.
                Delivery::Refused { tid, .. } if self.shared.page.is_own_thread(tid) => {}
                Delivery::Refused { tid, errno } => refused[at] = Some((tid, errno)),
                Delivery::Nothing => {}
            }
        }
        let standings = self.answer_what_passes(group, &mut waiting);
        for (event, standing) in waiting.iter_mut().zip(standings) {
            let Some(pending) = event.take() else { continue };
            let look = if let Standing::Seen(look) = standing { Some(look) } else { self.look(&pending) };
            let Some(look) = look else {
                pending.answer(Answer::Allow);
                continue;
            };
            self.verify_once_started(&pending, &look);
            if look.only_reads() && self.in_force.1.snapshot.everybody_reads {
                self.note_open(&pending);
                pending.answer(Answer::Allow);
            } else {
                self.judge(pending, look);
            }
        }
        for (tid, errno) in refused.into_iter().flatten() {
            self.kernel_refused(tid, errno);
        }
        self.looker.tidy_up();
    }

    /// Answers what needs no judgement, as soon as its opener has come to rest, and says what stands in the way of the
    /// others.
    fn answer_what_passes(
        &mut self,
        group: &Group,
        waiting: &mut [Option<Pending<'_>>; EVENTS_MAX],
    ) -> [Standing; EVENTS_MAX] {
        let mut standings = [Standing::Restless; EVENTS_MAX];
        let mut patience = Patience::usual();
        loop {
            let mut restless = false;
            for (event, standing) in waiting.iter().zip(&mut standings) {
                if let Some(pending) = event
                    && *standing == Standing::Restless
                {
                    *standing = self.standing_of(pending);
                    restless |= *standing == Standing::Restless;
                }
            }
            Pending::allow_all(group, waiting, |place| standings[place] == Standing::Passes);
            if !restless || !patience.wait() {
                return standings;
            }
        }
    }

    /// What of the event is to be judged; `None`: nothing.
    fn look(&mut self, pending: &Pending<'_>) -> Option<Look> {
        let (tid, fd) = (pending.tid(), pending.fd());
        match pending.request() {
            Request::Open => Some(self.looker.look(&self.proc, tid, fd)),
            Request::Access { bytes } => self.looker.look_at_access(&self.proc, tid, Some(fd), bytes),
        }
    }

    fn standing_of(&mut self, pending: &Pending<'_>) -> Standing {
        if self.shared.page.is_own_thread(pending.tid()) {
            return Standing::Passes;
        }
        let glance = match pending.request() {
            Request::Open => self.looker.glance(&self.proc, pending.tid(), pending.fd()),
            Request::Access { bytes } => {
                match self.looker.glance_at_access(&self.proc, pending.tid(), bytes) {
                    Some(glance) => glance,
                    None => return Standing::Passes,
                }
            }
        };
        match glance {
            Glance::Seen(look) if self.passes(pending, &look) => {
                self.note_open(pending);
                Standing::Passes
            }
            Glance::Seen(look) => Standing::Seen(look),
            Glance::Restless => Standing::Restless,
            Glance::Unclear => Standing::Unclear,
        }
    }

    /// A read where everybody reads, of somebody who is not about to be verified.
    fn passes(&self, pending: &Pending<'_>, look: &Look) -> bool {
        look.only_reads()
            && look.access != Access::Exec
            && self.in_force.1.snapshot.everybody_reads
            && !self.shared.starting.is(pending.tid())
    }

    /// A descriptor is all that chattr needs.
    fn note_open(&self, pending: &Pending<'_>) {
        let opened = &self.shared.opened;
        if pending.request() == Request::Open
            && opened.has_room(pending.read_ns())
            && let Ok(stat) = file::stat_fd(pending.fd())
        {
            opened.note(pending.tid(), stat.id);
        }
    }

    /// The way of an event that is not simply a read for everybody.
    fn judge(&mut self, pending: Pending<'_>, look: Look) {
        // An object that cannot be looked at is not let through.
        let Ok(stat) = file::stat_fd(pending.fd()) else { return pending.answer(Answer::Deny) };
        let created = look.may_create && self.has_created(&look, &stat, &pending);
        let access = if created { Access::Create } else { look.access };
        let in_force = &self.in_force.1;
        if !created && look.access == Access::Read && in_force.snapshot.everybody_reads {
            return pending.answer(Answer::Allow);
        }
        let mut found = self.resolver.resolve(
            in_force,
            &self.shared.table,
            &self.proc,
            pending.fd(),
            &stat,
            pending.tid(),
        );
        if created
            && found == Found::Unresolved
            && let Some(made) = self.proof_of_creation(&pending)
        {
            let table = &self.shared.table;
            found = self.resolver.resolve_creation(&self.in_force.1, table, pending.fd(), &stat, made);
        }
        let change = look.change(access);
        let mut verdict = self.decide(found, change, pending.tid());
        if stat.links > 1 && verdict.outcome != Outcome::Deny {
            verdict = self.strictest_of_names(&stat, change, pending.tid(), verdict);
        }
        if verdict.outcome == Outcome::Allow {
            if created && verdict.reason == Reason::TrustedWriter {
                self.note_successor(&pending, &stat);
            }
            self.note_open(&pending);
            return pending.answer(Answer::Allow);
        }
        let answer = if verdict.outcome == Outcome::Deny { Answer::Deny } else { Answer::Allow };
        let mut record = self.audit.take(verdict.policy, self.in_force.1.snapshot.generation);
        if let Some(record) = &mut record {
            self.describe(record, &pending, &look, &stat, access, verdict);
        }
        let rolled_back = (created && answer == Answer::Deny && stat.links > 0)
            .then(|| self.rollback.remove(self.resolver.path.as_bytes(), &stat));
        let read_ns = pending.read_ns();
        pending.answer(answer);
        if let Some(mut record) = record {
            record.rolled_back = rolled_back;
            record.latency_ns = clock::monotonic_ns().saturating_sub(read_ns);
            self.audit.offer(record);
        }
    }

    /// Whether this open has made the file. Only an empty file can be that new.
    fn has_created(&self, look: &Look, stat: &Stat, pending: &Pending<'_>) -> bool {
        stat.size == 0 && (look.must_create || self.proof_of_creation(pending).is_some())
    }

    fn proof_of_creation(&self, pending: &Pending<'_>) -> Option<&'static Creation> {
        let group = self.shared.groups.creates.as_ref()?;
        self.shared.creations.prove(group, pending.tid(), pending.fd())
    }

    fn decide(&mut self, found: Found, change: Change, tid: i32) -> Verdict {
        let snapshot = &self.in_force.1.snapshot;
        let (rule, unresolved) = match found {
            Found::NotProtected => {
                return Verdict { outcome: Outcome::Allow, policy: None, reason: Reason::NotProtected };
            }
            Found::Protected(RuleId(id)) => (&snapshot.rules[id as usize], false),
            Found::Unresolved => (&snapshot.everything, true),
        };
        let matter = writers_that_matter(snapshot, rule, change);
        let at_ns = clock::monotonic_ns();
        let verified = self.verifier.verify(snapshot, &self.in_force.1.writers, &self.proc, tid, matter);
        if verified.is_somebody() {
            self.shared.notes.note(tid, verified, at_ns);
        }
        let mut verdict = decide(snapshot, rule, change, verified.writers);
        if unresolved && verdict.outcome != Outcome::Allow {
            verdict.reason = Reason::UnresolvedAlias;
        }
        verdict
    }

    /// A file with several names is opened by all of them at once: the strictest verdict counts.
    fn strictest_of_names(&mut self, stat: &Stat, change: Change, tid: i32, by_this: Verdict) -> Verdict {
        let mut rules = [None; NAMES_MAX];
        let mut count = 0;
        let trie = &self.in_force.1.snapshot.trie;
        self.shared.table.names_of_file(stat.id, |name| {
            if let (Some(place), Some(rule)) = (rules.get_mut(count), trie.lookup(name)) {
                *place = Some(rule);
                count += 1;
            }
        });
        let mut strictest = by_this;
        for (index, rule) in rules[..count].iter().flatten().enumerate() {
            let verdict = self.decide(Found::Protected(*rule), change, tid);
            if verdict.outcome > strictest.outcome && self.governed_name(stat, index) {
                strictest = verdict;
            }
        }
        strictest
    }

    /// Takes the `index`th governed name of the file as its path, if it still is one.
    fn governed_name(&mut self, stat: &Stat, index: usize) -> bool {
        let trie = &self.in_force.1.snapshot.trie;
        let name = &mut self.resolver.name;
        let (mut at, mut found) = (0, false);
        self.shared.table.names_of_file(stat.id, |candidate| {
            if trie.lookup(candidate).is_some() {
                found = found || at == index && name.set(candidate);
                at += 1;
            }
        });
        found && object::names(name, stat) && self.resolver.path.set(name.as_bytes())
    }
}
