//! The fanotify groups of one gate. Supervisor and worker both hold them.

use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;

use crate::sys::fanotify::{Group, Mask};

/// Whether writes to the files of a directory are reported to the watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// They are.
    Reported,
    /// Everybody may write there: a notification for each would only cost.
    Ignored,
}

impl Written {
    const fn mask(self) -> Mask {
        match self {
            Self::Reported => Mask::CHANGES,
            Self::Ignored => Mask::NAMES,
        }
    }
}

/// What is wanted of a directory beside the opens of its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Writes to its files.
    pub written: Written,
    /// Truncations by path; every read of its files costs a round trip then.
    pub truncations: bool,
}

/// One group per purpose, because each is read by another party at another pace.
///
/// The gate's is opened last wherever they are opened. An opener that waits for it holds marks of the others
/// (`fsnotify_prepare_user_wait`), and the kernel waits for these before it gives up a group (`fsnotify_destroy_group`). A
/// process that is killed gives up first what it has opened last (`task_work_run`): the other way round both would wait
/// for ever (seen on 6.18).
#[derive(Debug)]
pub struct Groups {
    /// Permission events; `None` in observe mode, which must not be able to block anybody.
    pub gate: Option<Group>,
    /// Proofs of creation for the responders; `None` where the kernel cannot name targets.
    pub creates: Option<Group>,
    /// New directories, and in observe mode every change.
    pub watch: Option<Group>,
}

impl Groups {
    /// The groups of a gate that refuses.
    ///
    /// # Errors
    /// Without the permission group there is no gate; the notification groups may be missing.
    pub fn enforcing() -> io::Result<Self> {
        let (creates, watch) = (Group::notification().ok(), Group::notification().ok());
        Ok(Self { gate: Some(Group::permission()?), creates, watch })
    }

    /// The groups of a gate that only looks.
    ///
    /// # Errors
    /// Kernels before 5.17 cannot report what observe mode needs.
    pub fn observing() -> io::Result<Self> {
        Ok(Self { gate: None, creates: None, watch: Some(Group::notification()?) })
    }

    /// Other descriptors of the same groups.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn try_clone(&self) -> io::Result<Self> {
        let clone = |group: &Option<Group>| group.as_ref().map(Group::try_clone).transpose();
        let (creates, watch) = (clone(&self.creates)?, clone(&self.watch)?);
        Ok(Self { gate: clone(&self.gate)?, creates, watch })
    }

    /// Marks an open directory for everything this gate wants to know of its entries.
    ///
    /// # Errors
    /// Only the permission mark's, or in observe mode the watch's: the rest is evidence, not protection, and
    /// filesystems without file handles refuse it. Kernels and filesystems without truncations have the rest.
    pub fn mark_directory(&self, directory: BorrowedFd<'_>, wanted: Wanted) -> io::Result<()> {
        if let Some(gate) = &self.gate {
            gate.mark_object(Mask::OPEN_PERM_CHILDREN, directory)?;
            if wanted.truncations {
                let _ = gate.mark_object(Mask::PRE_ACCESS_CHILDREN, directory);
            }
            if let Some(creates) = &self.creates {
                let _ = creates.mark_object(Mask::CREATE, directory);
            }
            if let Some(watch) = &self.watch {
                let _ = watch.mark_object(wanted.written.mask(), directory);
            }
        } else if let Some(watch) = &self.watch {
            watch.mark_object(Mask::CHANGES, directory)?;
        }
        Ok(())
    }

    /// Takes off what [`Groups::mark_directory`] put on. A directory that is gone has no marks any more.
    pub fn unmark_directory(&self, path: &CStr) {
        self.unmark_truncations(path);
        let pairs = [
            (&self.gate, Mask::OPEN_PERM_CHILDREN),
            (&self.creates, Mask::CREATE),
            (&self.watch, Mask::CHANGES),
        ];
        for (group, mask) in pairs {
            if let Some(group) = group {
                let _ = group.mark_remove(mask, path);
            }
        }
    }

    /// Marks one file: opens through any of its names are seen, with `truncations` also these.
    ///
    /// # Errors
    /// Those of `fanotify_mark(2)` for opens.
    pub fn mark_file(&self, path: &CStr, truncations: bool) -> io::Result<()> {
        let Some(gate) = &self.gate else { return Ok(()) };
        gate.mark_add(Mask::OPEN_PERM, path)?;
        if truncations {
            let _ = gate.mark_add(Mask::PRE_ACCESS, path);
        }
        if let Some(watch) = &self.watch {
            let _ = watch.mark_add(Mask::LINKS, path);
        }
        Ok(())
    }

    /// Takes truncations, and the cost of every read with them, off a mark that stays.
    pub fn unmark_truncations(&self, path: &CStr) {
        if let Some(gate) = &self.gate {
            let _ = gate.mark_remove(Mask::PRE_ACCESS, path);
        }
    }

    /// Takes off what [`Groups::mark_file`] put on.
    pub fn unmark_file(&self, path: &CStr) {
        self.unmark_truncations(path);
        if let Some(gate) = &self.gate {
            let _ = gate.mark_remove(Mask::OPEN_PERM, path);
        }
        if let Some(watch) = &self.watch {
            let _ = watch.mark_remove(Mask::LINKS, path);
        }
    }

    /// Watches the filesystem that `path` lies on for renames: where a protected name went is told by nothing else.
    ///
    /// # Errors
    /// Those of `fanotify_mark(2)`; without it the name comes back all the same, and the other one stays.
    pub fn watch_renames(&self, path: &CStr) -> io::Result<()> {
        self.watch.as_ref().map_or(Ok(()), |watch| watch.mark_filesystem(Mask::RENAMES, path))
    }

    /// Watches a directory for entries that come and go: for one that does not exist yet, or one above a tree.
    ///
    /// # Errors
    /// Those of `fanotify_mark(2)`.
    pub fn watch_for_entries(&self, path: &CStr) -> io::Result<()> {
        self.watch.as_ref().map_or(Ok(()), |watch| watch.mark_add(Mask::ENTRIES, path))
    }
}
