//! From the bits of a notification to what is asked of the policies and of the healer.

use std::path::PathBuf;

use crate::access::{Access, Mutation};
use crate::heal;
use crate::subject::lineage::Moment;
use crate::sys::file::Identity;
use crate::verdict::Change;

/// The name is new here.
const APPEARED: u64 = libc::FAN_CREATE | libc::FAN_MOVED_TO;
/// Somebody has written, or could have.
const WRITTEN: u64 = libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE;

/// One notification, placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// `FAN_*` bits; several may have been merged.
    pub mask: u64,
    /// Who.
    pub tid: i32,
    /// When.
    pub when: Moment,
    /// Where, canonical.
    pub path: PathBuf,
    /// Where the object that was here is now, after a rename, or the name that was made for it, after a link.
    pub now: Option<PathBuf>,
    /// Which object it is about, where the kernel says.
    pub target: Option<Identity>,
}

impl Incident {
    /// Whether the name has come to be.
    pub const fn appeared(&self) -> bool {
        self.mask & APPEARED != 0
    }

    /// Whether the name was taken away.
    pub const fn went(&self) -> bool {
        self.mask & (libc::FAN_DELETE | libc::FAN_MOVED_FROM) != 0
    }

    /// Whether a directory was removed here.
    pub const fn took_directory(&self) -> bool {
        self.mask & libc::FAN_ONDIR != 0 && self.mask & libc::FAN_DELETE != 0
    }

    /// Whether a directory was made here, not moved here.
    pub const fn is_new_directory(&self) -> bool {
        self.mask & libc::FAN_ONDIR != 0 && self.mask & APPEARED == libc::FAN_CREATE
    }

    /// Whether content may have changed. A directory's time that is set alone is reported in the same way.
    pub const fn written(&self) -> bool {
        self.mask & WRITTEN != 0 && self.mask & libc::FAN_ONDIR == 0
    }

    /// Whether all that happened is that somebody closed the file: what he wrote has been reported before.
    pub const fn only_closed(&self) -> bool {
        self.mask & !libc::FAN_ONDIR == libc::FAN_CLOSE_WRITE
    }

    /// Whether all that happened is that somebody wrote and has not closed yet.
    pub const fn only_written(&self) -> bool {
        self.mask & !libc::FAN_ONDIR == libc::FAN_MODIFY
    }

    /// What the policies are asked. `expected`: something should be here.
    pub const fn change(&self, expected: bool) -> Change {
        let directory = self.mask & libc::FAN_ONDIR != 0;
        if self.mask & libc::FAN_DELETE != 0 {
            Change::Mutation(Mutation::Unlink)
        } else if self.mask & libc::FAN_MOVED_FROM != 0 || expected && self.mask & libc::FAN_MOVED_TO != 0 {
            Change::Mutation(Mutation::Rename)
        } else if self.appeared() {
            if directory { Change::Mutation(Mutation::Mkdir) } else { Change::Access(Access::Create) }
        } else if self.written() {
            Change::Access(Access::Write)
        } else if self.now.is_some() {
            Change::Mutation(Mutation::Link)
        } else {
            Change::Mutation(Mutation::Chmod)
        }
    }

    /// What the healer is told.
    pub fn hint(&self) -> heal::Change {
        if self.mask & libc::FAN_MOVED_FROM != 0
            && let Some(now) = &self.now
        {
            heal::Change::MovedTo(now.clone())
        } else if self.appeared() {
            heal::Change::Unknown
        } else if self.written() {
            heal::Change::Modified
        } else {
            heal::Change::Metadata
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incident(mask: u64) -> Incident {
        Incident { mask, tid: 1, when: Moment::default(), path: "/a".into(), now: None, target: None }
    }

    #[test]
    fn a_name_that_comes_over_another_is_a_rename() {
        let moved = incident(libc::FAN_MOVED_TO);
        assert_eq!(moved.change(true), Change::Mutation(Mutation::Rename));
        assert_eq!(moved.change(false), Change::Access(Access::Create));
        let made = incident(libc::FAN_CREATE | libc::FAN_ONDIR);
        assert_eq!(made.change(false), Change::Mutation(Mutation::Mkdir));
    }

    #[test]
    fn the_healer_learns_where_it_went() {
        let moved = Incident { now: Some("/b".into()), ..incident(libc::FAN_MOVED_FROM) };
        assert_eq!(moved.hint(), heal::Change::MovedTo("/b".into()));
        assert_eq!(incident(libc::FAN_DELETE).hint(), heal::Change::Metadata);
        assert_eq!(incident(libc::FAN_MODIFY | libc::FAN_ATTRIB).hint(), heal::Change::Modified);
        assert_eq!(incident(libc::FAN_MODIFY | libc::FAN_ONDIR).hint(), heal::Change::Metadata);
    }
}
