//! The fanotify groups of one gate. Supervisor and worker both hold them.

use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;

use crate::sys::fanotify::{Group, Mask};

/// One group per purpose, because each is read by another party at another pace.
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
        Ok(Self {
            gate: Some(Group::permission()?),
            creates: Group::notification().ok(),
            watch: Group::notification().ok(),
        })
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
        Ok(Self { gate: clone(&self.gate)?, creates: clone(&self.creates)?, watch: clone(&self.watch)? })
    }

    /// Marks an open directory for everything this gate wants to know of its entries.
    ///
    /// # Errors
    /// Only the permission mark's, or in observe mode the watch's: the rest is evidence, not protection, and
    /// filesystems without file handles refuse it.
    pub fn mark_directory(&self, directory: BorrowedFd<'_>) -> io::Result<()> {
        if let Some(gate) = &self.gate {
            gate.mark_object(Mask::OPEN_PERM_CHILDREN, directory)?;
            if let Some(creates) = &self.creates {
                let _ = creates.mark_object(Mask::CREATE, directory);
            }
            if let Some(watch) = &self.watch {
                let _ = watch.mark_object(Mask::TOPOLOGY, directory);
            }
        } else if let Some(watch) = &self.watch {
            watch.mark_object(Mask::CHANGES, directory)?;
        }
        Ok(())
    }

    /// Takes off what [`Groups::mark_directory`] put on. A directory that is gone has no marks any more.
    pub fn unmark_directory(&self, path: &CStr) {
        let pairs = [
            (&self.gate, Mask::OPEN_PERM_CHILDREN),
            (&self.creates, Mask::CREATE),
            (&self.watch, if self.gate.is_some() { Mask::TOPOLOGY } else { Mask::CHANGES }),
        ];
        for (group, mask) in pairs {
            if let Some(group) = group {
                let _ = group.mark_remove(mask, path);
            }
        }
    }

    /// Marks one file: opens through any of its names are seen.
    ///
    /// # Errors
    /// Those of `fanotify_mark(2)`.
    pub fn mark_file(&self, path: &CStr) -> io::Result<()> {
        self.gate.as_ref().map_or(Ok(()), |gate| gate.mark_add(Mask::OPEN_PERM, path))
    }

    /// Takes off what [`Groups::mark_file`] put on.
    pub fn unmark_file(&self, path: &CStr) {
        if let Some(gate) = &self.gate {
            let _ = gate.mark_remove(Mask::OPEN_PERM, path);
        }
    }

    /// Watches a directory for an entry that does not exist yet.
    ///
    /// # Errors
    /// Those of `fanotify_mark(2)`.
    pub fn watch_for_entries(&self, path: &CStr) -> io::Result<()> {
        self.watch.as_ref().map_or(Ok(()), |watch| watch.mark_add(Mask::TOPOLOGY, path))
    }
}
