//! The watcher: marks what appears in protected trees, and in observe mode records what changes there.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Worker, observe};
use crate::event::{Notification, Notifications, Place};
use crate::marks::Marker;
use crate::options::Mode;
use crate::policy::snapshot::Snapshot;
use crate::sys::file;
use crate::sys::path::FixedPath;
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
    let proc = Proc::open()?;
    std::thread::Builder::new().name("writegate-watch".to_owned()).spawn(move || {
        worker.page.add_own_thread(system_thread::gettid());
        Watcher {
            worker,
            proc,
            filesystems: HashMap::new(),
            path: FixedPath::default(),
            observer: observe::Observer::default(),
        }
        .run();
    })?;
    Ok(())
}

struct Watcher {
    worker: Arc<Worker>,
    proc: Proc,
    /// An open directory on each filesystem that events come from, to open handles by.
    filesystems: HashMap<u64, OwnedFd>,
    path: FixedPath,
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
        let Some(path) = self.locate(snapshot, &place) else { return };
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

    /// The canonical path of an event's place.
    fn locate(&mut self, snapshot: &Snapshot, place: &Place<'_>) -> Option<PathBuf> {
        if !self.filesystems.contains_key(&place.directory.filesystem) {
            self.find_filesystems(snapshot);
        }
        let mount = self.filesystems.get(&place.directory.filesystem)?;
        let directory =
            file::open_handle(mount.as_fd(), place.directory.handle_type, place.directory.handle).ok()?;
        let id = file::stat_fd(directory.as_fd()).ok()?.id;
        if !self.worker.shared.table.directory(id, &mut self.path) {
            self.proc.path_of(directory.as_fd(), &mut self.path).ok()?;
        }
        let directory = PathBuf::from(OsStr::from_bytes(self.path.as_bytes()));
        Some(match place.name {
            b"" | b"." => directory,
            name => directory.join(OsStr::from_bytes(name)),
        })
    }

    fn find_filesystems(&mut self, snapshot: &Snapshot) {
        for root in &snapshot.roots {
            let Some(top) = root.path.ancestors().find(|path| path.is_dir()) else { continue };
            if let Ok(directory) = File::open(top)
                && let Ok(id) = file::filesystem_id(directory.as_fd())
            {
                self.filesystems.entry(id).or_insert_with(|| directory.into());
            }
        }
    }
}
