//! The watcher: marks what appears in protected trees, and in observe mode records what changes there.

use std::io;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Worker, observe};
use crate::event::{Notification, Notifications};
use crate::marks::{Marker, Places};
use crate::options::Mode;
use crate::policy::snapshot::Snapshot;
use crate::sys::proc::Proc;
use crate::sys::thread as system_thread;

/// One read of the queue: some five hundred records.
const BUFFER_BYTES: usize = 64 * 1024;
/// How often creations that nobody asked about are taken from the kernel's queue, milliseconds.
const DRAIN_MS: u16 = 1000;

/// Starts the thread; nothing to do where the kernel cannot report names.
///
/// # Errors
/// No thread.
pub fn start(worker: &Arc<Worker>) -> io::Result<()> {
    if worker.shared.groups.watch.is_none() {
        tracing::warn!("this kernel cannot report new directories: they are covered after the next reload");
        return Ok(());
    }
    let worker = Arc::clone(worker);
    let (proc, places) = (Proc::open()?, Places::new()?);
    std::thread::Builder::new().name("writegate-watch".to_owned()).spawn(move || {
        worker.page.add_own_thread(system_thread::gettid());
        Watcher { worker, proc, places, observer: observe::Observer::default() }.run();
    })?;
    Ok(())
}

struct Watcher {
    worker: Arc<Worker>,
    proc: Proc,
    places: Places,
    observer: observe::Observer,
}

impl Watcher {
    fn run(&mut self) {
        let shared = Arc::clone(&self.worker.shared);
        let Some(watch) = &shared.groups.watch else { return };
        let mut buffer = vec![0u8; BUFFER_BYTES];
        loop {
            let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::from(DRAIN_MS));
            if let Some(creates) = &shared.groups.creates {
                shared.creations.drain(creates);
            }
            while let Ok(n) = watch.read(&mut buffer) {
                if n == 0 {
                    break;
                }
                // A reload places and removes marks too; one at a time.
                let marking = Arc::clone(&self.worker);
                let _one_at_a_time = marking.marking.lock();
                let snapshot = Arc::clone(&shared.in_force.load().1.snapshot);
                for notification in Notifications::new(&buffer[..n]) {
                    self.take(&snapshot, &notification);
                }
            }
        }
    }

    fn take(&mut self, snapshot: &Snapshot, notification: &Notification<'_>) {
        let Some(place) = notification.place else { return };
        let directory = (place.directory.handle_type, place.directory.handle);
        let table = &self.worker.shared.table;
        let filesystem = place.directory.filesystem;
        let Some(path) = self.places.locate(snapshot, table, filesystem, directory, place.name) else {
            return;
        };
        if notification.mask & (libc::FAN_CREATE | libc::FAN_MOVED_TO) != 0 {
            let marker = Marker {
                groups: &self.worker.shared.groups,
                table: &self.worker.shared.table,
                snapshot,
                walk: snapshot.generation,
            };
            let report = marker.mark_new(&path);
            if !report.unmarked.is_empty() {
                self.worker.note_unmarked(report);
            }
        }
        if self.worker.options.mode == Mode::Observe {
            self.observer.record(&self.worker.shared, &self.proc, &path, notification);
        }
    }
}
