//! The watcher's thread: reads notifications, marks what appears in protected trees, and has changes judged. In
//! observe mode it records them.

mod mounts;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

use super::{Worker, observe};
use crate::event::{Notification, Notifications, Place};
use crate::marks::{Marker, Places};
use crate::options::Mode;
use crate::policy::snapshot::Snapshot;
use crate::subject::lineage::Moment;
use crate::supervisor::Inheritance;
use crate::sys::clock;
use crate::sys::fanotify::Group;
use crate::sys::file::Identity;
use crate::sys::path::FixedPath;
use crate::sys::proc::Proc;
use crate::sys::thread as system_thread;
use crate::watch::{Incident, Journal, Keeper, MountWatch, Parts, Remount};
use mounts::Looked;
pub use mounts::mounts;

/// Something was elsewhere before.
const MOVED: u64 = libc::FAN_RENAME | libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;
/// How often creations that nobody asked about are taken from the kernel's queue.
const DRAIN: Duration = Duration::from_secs(1);
/// How often it is looked whether a watcher that was told to has ended.
const FINISH_EVERY: Duration = Duration::from_millis(2);

/// The running watcher.
pub struct Watching {
    thread: JoinHandle<()>,
    ending: Arc<EventFd>,
}

impl Watching {
    /// Has it deal with what was reported so far, and end; waits at most `patience`.
    pub fn finish(self, patience: Duration) {
        let until = Instant::now() + patience;
        let _ = self.ending.write(1);
        while !self.thread.is_finished() && Instant::now() < until {
            std::thread::sleep(FINISH_EVERY);
        }
    }
}

/// Takes up or makes what healing needs, and starts the thread; nothing to do where the kernel cannot report names.
///
/// # Errors
/// No thread.
pub fn start(
    worker: &Arc<Worker>,
    inheritance: &Inheritance,
    mounts: Option<(MountWatch, Vec<Remount>)>,
) -> io::Result<Option<Watching>> {
    let Some((mounts, remounts)) = mounts else {
        tracing::warn!(
            "this kernel cannot report changes of names: new directories are covered after the next reload"
        );
        return Ok(None);
    };
    let keeper = match worker.options.mode {
        Mode::Enforce => keeper(worker, inheritance)?,
        Mode::Observe => None,
    };
    let worker = Arc::clone(worker);
    let ending = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
    let watcher = Watcher {
        ending: Arc::clone(&ending),
        proc: Proc::open()?,
        places: Places::new()?,
        observer: observe::Observer::default(),
        mounts,
        remounts,
        looked: Looked::default(),
        unmarked: BTreeSet::new(),
        scratch: FixedPath::default(),
        when: Moment::default(),
        emptied_ns: 0,
        inherits: true,
        keeper,
        worker,
    };
    let thread = std::thread::Builder::new().name("writegate-watch".to_owned()).spawn(move || {
        watcher.worker.page.add_own_thread(system_thread::gettid());
        // What is to be put right should not wait for the end of somebody's turn.
        let _ = system_thread::take_short_turns();
        let mut watcher = watcher;
        watcher.run();
    })?;
    Ok(Some(Watching { thread, ending }))
}

fn keeper(worker: &Arc<Worker>, inheritance: &Inheritance) -> io::Result<Option<Keeper>> {
    let connector = inheritance.connector.as_ref().and_then(|connector| connector.try_clone().ok());
    if connector.is_none() {
        tracing::info!("no process events: changes by processes that end at once count as unknown");
    }
    let checks = inheritance.checks.as_ref().and_then(|checks| checks.inherited().ok());
    if checks.is_none() {
        tracing::info!("the kernel does not tell who uses chattr: the patrol finds what was changed");
    }
    let parts = Parts {
        connector,
        checks,
        shared: Arc::clone(&worker.shared),
        journal: Journal::new(worker.page, &inheritance.inventories)?,
        state_dir: worker.options.state_dir.clone(),
        notes: Arc::clone(&worker.shared.notes),
        account: Arc::clone(&worker.account),
    };
    match Keeper::new(parts, Proc::open()?) {
        Ok(keeper) => Ok(Some(keeper)),
        Err(failure) => {
            let state_dir = worker.options.state_dir.display();
            let why = format!("nothing can be put back: {failure} in {state_dir}; opens are still refused");
            tracing::error!("{why}");
            worker.logger.degraded(&why);
            Ok(None)
        }
    }
}

struct Watcher {
    worker: Arc<Worker>,
    proc: Proc,
    places: Places,
    observer: observe::Observer,
    mounts: MountWatch,
    /// What was seen of them and not dealt with.
    remounts: Vec<Remount>,
    looked: Looked,
    /// What no walk could mark, because something lies over it: that is made up for.
    unmarked: BTreeSet<PathBuf>,
    keeper: Option<Keeper>,
    scratch: FixedPath,
    /// When that was reported which is being dealt with.
    when: Moment,
    /// Then nothing was waiting to be read.
    emptied_ns: u64,
    /// What is read now may have happened while the worker before this one lived.
    inherits: bool,
    /// Readable when it is to end.
    ending: Arc<EventFd>,
}

impl Watcher {
    fn run(&mut self) {
        let shared = Arc::clone(&self.worker.shared);
        let Some(watch) = &shared.groups.watch else { return };
        self.look_at_mounts();
        // What the worker before this one had read and not dealt with.
        self.spare_memory(true);
        self.work_off();
        self.spare_memory(false);
        let mut timeout = Duration::ZERO;
        loop {
            let is_ending = self.wait(watch, timeout);
            let _at_work = self.worker.account.work(system_thread::gettid());
            if let Some(creates) = &shared.groups.creates {
                shared.creations.drain(creates);
            }
            // Before anything looks at a path that may be hidden by now.
            self.look_at_mounts_if_due();
            while self.read(watch) {
                self.work_off();
                if let Some(keeper) = &mut self.keeper {
                    keeper.meanwhile();
                }
            }
            self.inherits = false;
            self.mark_uncovered();
            timeout = self.keeper.as_mut().map_or(DRAIN, Keeper::idle);
            if self.looked.is_due {
                timeout = timeout.min(self.looked.again.saturating_duration_since(Instant::now()));
            }
            if is_ending {
                return;
            }
        }
    }

    fn spare_memory(&mut self, spare: bool) {
        if let Some(keeper) = &mut self.keeper {
            keeper.spare_memory(spare);
        }
    }

    /// Sleeps until something is reported; whether the gate stops.
    fn wait(&mut self, watch: &Group, timeout: Duration) -> bool {
        let flags = self.keeper.as_ref().and_then(Keeper::told_of_flags);
        let mut fds = [
            PollFd::new(self.mounts.as_fd(), PollFlags::POLLPRI),
            PollFd::new(self.ending.as_fd(), PollFlags::POLLIN),
            PollFd::new(watch.as_fd(), PollFlags::POLLIN),
            PollFd::new(flags.unwrap_or(watch.as_fd()), PollFlags::POLLIN),
        ];
        // EINTR and the like: everything else is looked at anyway.
        let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(timeout)), None);
        let [mounts, ending, ..] = fds.map(|fd| fd.any().unwrap_or_default());
        self.looked.is_due |= mounts;
        ending
    }

    /// Whether something was waiting.
    fn read(&mut self, watch: &Group) -> bool {
        let now = clock::monotonic_ns();
        let page = self.worker.page;
        match self.worker.shared.stream.take(|| page.watched.fill(watch)) {
            Ok((position, filled)) => {
                self.when = Moment { position, after_ns: self.emptied_ns };
                if filled.emptied {
                    self.emptied_ns = now;
                }
                true
            }
            Err(error) => {
                if error.kind() == io::ErrorKind::WouldBlock {
                    self.emptied_ns = now;
                }
                false
            }
        }
    }

    /// Deals with everything in the buffer.
    fn work_off(&mut self) {
        let shared = Arc::clone(&self.worker.shared);
        let page = self.worker.page;
        // A reload places and removes marks too; one at a time.
        let worker = Arc::clone(&self.worker);
        let _one_at_a_time = worker.marking.lock();
        if let Some(keeper) = &mut self.keeper {
            keeper.catch_up();
        }
        let snapshot = Arc::clone(&shared.in_force.load().1.snapshot);
        while let Some(notification) = Notifications::new(page.watched.rest()).next() {
            self.look_out_for_mounts();
            self.take(&snapshot, &notification);
            if let Some(keeper) = &mut self.keeper {
                keeper.save();
            }
            page.watched.advance(notification.length);
            self.when.position += 1;
        }
    }

    fn take(&mut self, snapshot: &Snapshot, notification: &Notification<'_>) {
        if notification.mask & libc::FAN_Q_OVERFLOW != 0 {
            self.places.forget();
            self.worker.logger.notifications_lost();
            if let Some(keeper) = &mut self.keeper {
                keeper.overflowed();
            }
            return;
        }
        let own = self.worker.page.is_own_thread(notification.tid)
            || self.inherits && self.worker.page.was_own_thread(notification.tid)
            || self.worker.page.supervisor_pid.load(Relaxed) == notification.tid;
        let is_directory = notification.mask & libc::FAN_ONDIR != 0;
        if is_directory && notification.mask & MOVED != 0 {
            self.places.forget();
        }
        if !is_directory && self.is_unconcerned(snapshot, notification.place, own) {
            return;
        }
        if notification.mask & libc::FAN_RENAME != 0 {
            if !own {
                self.take_rename(snapshot, notification);
            }
            return;
        }
        let Some(path) = self.locate(snapshot, notification.place) else {
            if !own {
                self.take_link(snapshot, notification);
            }
            return;
        };
        if notification.mask & (libc::FAN_CREATE | libc::FAN_MOVED_TO) != 0 {
            self.mark_new(snapshot, &path);
        }
        if own {
            let by_others = notification.tid != system_thread::gettid();
            if notification.mask & libc::FAN_DELETE != 0
                && by_others
                && let Some(keeper) = &mut self.keeper
            {
                keeper.rolled_back(&path);
            }
            return;
        }
        if self.worker.options.mode == Mode::Observe {
            return self.observer.record(&self.worker.shared, &self.proc, &path, notification);
        }
        let target = self.whereabouts(snapshot, notification);
        if let Some(keeper) = &mut self.keeper {
            let target = target.map(|(_, id, _)| id);
            let Notification { mask, tid, .. } = *notification;
            keeper.take(Incident { mask, tid, when: self.when, path, now: None, target });
        }
    }

    /// A rename anywhere on a filesystem that holds protected names: of these it comes before their directories' own
    /// notifications, which then find everything as it should be.
    fn take_rename(&mut self, snapshot: &Snapshot, notification: &Notification<'_>) {
        let Some(path) = self.locate(snapshot, notification.place) else { return };
        let bytes = path.as_os_str().as_bytes();
        if snapshot.rule_for(bytes).is_none() && !snapshot.trie.below(bytes) {
            return;
        }
        let now = self.locate(snapshot, notification.new_place);
        if let Some(keeper) = &mut self.keeper {
            let mask = libc::FAN_MOVED_FROM | notification.mask & libc::FAN_ONDIR;
            let (tid, when) = (notification.tid, self.when);
            keeper.take(Incident { mask, tid, when, path, now, target: None });
        }
    }

    /// Whether a file there is no concern of any policy. What others do in our own stores is; what our own hand does
    /// there is not.
    fn is_unconcerned(&mut self, snapshot: &Snapshot, place: Option<Place<'_>>, own: bool) -> bool {
        let Some(Place { directory, name }) = place else { return false };
        let handle = (directory.handle_type, directory.handle);
        let (table, keeper) = (&self.worker.shared.table, &self.keeper);
        let path = self.places.unconcerned(snapshot, table, directory.filesystem, handle, name);
        path.is_some_and(|path| own || keeper.as_ref().is_none_or(|keeper| !keeper.is_in_store(path)))
    }

    fn locate(&mut self, snapshot: &Snapshot, place: Option<Place<'_>>) -> Option<PathBuf> {
        let place = place?;
        let directory = (place.directory.handle_type, place.directory.handle);
        let (table, filesystem) = (&self.worker.shared.table, place.directory.filesystem);
        self.places.locate(snapshot, table, filesystem, directory, place.name)
    }

    /// Where the object of a notification is now, by itself and not by the name it had, with its number of names.
    fn whereabouts(
        &mut self,
        snapshot: &Snapshot,
        notification: &Notification<'_>,
    ) -> Option<(PathBuf, Identity, u32)> {
        let target = notification.target?;
        self.places.find(snapshot, target.filesystem, (target.handle_type, target.handle))
    }

    /// A notification without a place is about a file's number of names.
    fn take_link(&mut self, snapshot: &Snapshot, notification: &Notification<'_>) {
        let Some((seen, id, links)) = self.whereabouts(snapshot, notification) else { return };
        let Some(keeper) = &mut self.keeper else { return };
        keeper.check_held(id);
        if !self.worker.shared.table.file(id, &mut self.scratch) {
            return;
        }
        let path = PathBuf::from(OsStr::from_bytes(self.scratch.as_bytes()));
        let now = keeper.foreign_link(id, links, &seen, &path);
        // Through a name that is rightly elsewhere metadata may have been changed.
        if now.is_some() || keeper.has_other_names(id) {
            let (mask, tid, when) = (libc::FAN_ATTRIB, notification.tid, self.when);
            keeper.take(Incident { mask, tid, when, path, now, target: Some(id) });
        }
    }

    fn mark_new(&self, snapshot: &Snapshot, path: &Path) {
        let marker = Marker {
            groups: &self.worker.shared.groups,
            table: &self.worker.shared.table,
            snapshot,
            walk: snapshot.generation,
        };
        let report = marker.mark_new(path);
        if !report.unmarked.is_empty() {
            self.worker.note_unmarked(report);
        }
    }
}
