//! Taking mounts away that have come, and none that was there before.

use std::cmp::Reverse;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::list::{Mount, Pile};
use super::{MountWatch, Remount};
use crate::sys::{mount, names, reach};

/// Why a mount was not taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stays {
    /// It was mounted somewhere before the gate came up, and has only been moved.
    #[error("it is older than the gate")]
    Older,
    /// Something of that kind is mounted in it, and would go with it.
    #[error("a mount that is older than the gate is mounted in it")]
    BearsOlder,
    /// Something else is mounted over it.
    #[error("it cannot be reached")]
    Hidden,
    /// Somebody else has taken it away.
    #[error("it is gone again")]
    Gone,
    /// The kernel refuses.
    #[error("umount: {}", .0.desc())]
    Refused(Errno),
}

/// What is known before some are taken away.
pub struct Plan {
    pile: Pile,
    /// Those that are to stay, and what each stands on, by the numbers that are never given twice.
    older: Vec<(u64, u64)>,
}

impl MountWatch {
    /// From the list as it was read last.
    pub fn plan(&self) -> Plan {
        let pile = Pile::new(&self.known, |id, mount| self.is_older(id, mount));
        let older = self.known.iter().filter(|(id, mount)| mount.unique > 0 && self.is_older(**id, mount));
        let older = older.map(|(_, mount)| {
            (mount.unique, self.known.get(&mount.parent).map_or(0, |parent| parent.unique))
        });
        Plan { older: older.collect(), pile }
    }

    fn is_older(&self, id: u64, mount: &Mount) -> bool {
        if self.at_start > 0 {
            // What is not known yet may be.
            mount.unique <= self.at_start
        } else {
            self.first.contains(&id)
        }
    }

    /// Whether it is still where it came to.
    pub fn stands(&self, mount: &Remount) -> bool {
        self.known.get(&mount.id).is_some_and(|known| {
            known.point == mount.point && (mount.unique == 0 || known.unique == mount.unique)
        })
    }

    /// Unmounts what has come, lazily, with all that was mounted in it; the numbers of all that went. By descriptor: a
    /// path may lead to another mount by the time the kernel looks.
    ///
    /// # Errors
    /// It stays.
    pub fn detach(&mut self, plan: &mut Plan, mount: &Remount) -> Result<Vec<u64>, Stays> {
        let known = self.known.get(&mount.id).filter(|_| self.stands(mount)).ok_or(Stays::Gone)?;
        if self.at_start > 0 && known.unique == 0 {
            return Err(Stays::Hidden);
        }
        if self.is_older(mount.id, known) {
            return Err(Stays::Older);
        }
        if plan.pile.bears(mount.id) {
            return Err(Stays::BearsOlder);
        }
        let fd = reach_root(mount).ok_or(Stays::Hidden)?;
        // The last look before it goes: with an older mount that came into it since the list was read, it stays until the
        // list is read again, which is due.
        if plan.is_stale() {
            return Err(Stays::Hidden);
        }
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        umount2(path.as_str(), MntFlags::MNT_DETACH).map_err(Stays::Refused)?;
        let taken = plan.pile.take(mount.id);
        // The next ones may get their numbers.
        for id in &taken {
            self.known.remove(id);
        }
        Ok(taken)
    }
}

impl Plan {
    /// What is to be taken away first comes first: the outermost, and of those at one point the last.
    pub fn rank(&self, mount: &Remount) -> impl Ord + use<> {
        (mount.point.as_os_str().len(), Reverse(self.pile.depth(mount.id)))
    }

    /// Whether what is to stay stands elsewhere than the plan says.
    fn is_stale(&self) -> bool {
        let moved = |&(unique, parent): &(u64, u64)| {
            mount::status(unique).is_ok_and(|now| parent != 0 && now.parent != parent)
        };
        self.older.iter().any(moved)
    }
}

/// The root of this mount, if nothing lies over it and nothing that came before its point. The last step is onto what
/// nobody has to be asked about: no filesystem is, for its root and the number of its mount.
fn reach_root(mount: &Remount) -> Option<OwnedFd> {
    let name = CString::new(mount.point.file_name()?.as_bytes()).ok()?;
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let above = mount.point.parent().unwrap_or(Path::new("/"));
    let above = reach::open(above.as_os_str().as_bytes(), flags, libc::RESOLVE_NO_SYMLINKS).ok()?;
    let fd = names::open_at(above.as_fd(), &name, libc::O_PATH, 0).ok()?;
    mount::id(fd.as_fd()).is_ok_and(|id| id == mount.id).then_some(fd)
}
