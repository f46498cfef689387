//! What the vault should hold and does not: links at once, contents little by little.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::action::Content;
use super::expected::Expected;
use super::healer::Healer;
use super::learn::{AT_ONCE, is_held};
use super::object::Object;
use super::vault::Copy;

/// Files up to so long are copied first, then longer ones: what the bounds allow is then for the settings, scripts
/// and small programs that most of a host consists of.
const SIZES: [u64; 4] = [16 << 10, 128 << 10, 1 << 20, u64::MAX];
/// Names that are looked at between two looks at the clock, some microseconds each where there is nothing to do.
const NAMES: usize = 64;

/// Where it has come to.
#[derive(Debug, Default)]
pub(super) struct Copying {
    /// Which of [`SIZES`].
    class: usize,
    /// The last path that was looked at.
    after: PathBuf,
}

impl Healer {
    /// After a restart, or when somebody else was at the vault or the quarantine: finds out again what they hold,
    /// links what is missing of what still is the expected object, drops the rest, and has contents copied again.
    pub fn rehold(&mut self) {
        if let Err(error) = self.quarantine.load() {
            tracing::warn!(%error, "the quarantine cannot be read");
        }
        self.vault.recheck();
        for (path, expected) in self.inventory.iter().filter(|(_, expected)| expected.is_dir()) {
            if let Ok(inode) = Object::at_path(path).and_then(|object| object.inode())
                && inode.id == expected.id
            {
                let _ = self.vault.prepare(inode.mount, path);
            }
        }
        let all: Vec<PathBuf> = self
            .inventory
            .iter()
            .filter(|(_, expected)| is_held(expected))
            .map(|(path, _)| path.to_owned())
            .collect();
        for path in all {
            let Some(mut expected) = self.inventory.get(&path) else { continue };
            if self.vault.adopt(expected.id) {
                continue;
            }
            let Ok(object) = Object::at_path(&path) else { continue };
            let Ok(inode) = object.inode() else { continue };
            if expected.id != inode.id {
                continue;
            }
            self.vault.hold(&path, &object, &inode, Copy::None, false);
            // What was touched before must not look untouched.
            if expected.is_untouched(&inode)
                && let Ok(inode) = object.inode()
            {
                expected.ctime = inode.ctime;
                self.inventory.put(&path, &expected);
            }
        }
        self.vault.prune();
        self.begin_copying();
    }

    /// Contents that may not change are to be copied, as far as there is no copy yet.
    pub(super) fn begin_copying(&mut self) {
        self.copying = Some(Copying::default());
    }

    /// Whether [`Healer::copy_some`] has something to do.
    pub const fn is_copying(&self) -> bool {
        self.copying.is_some()
    }

    /// Copies some contents that have no copy yet, and says whether there was something to do.
    pub fn copy_some(&mut self) -> bool {
        let Some(mut copying) = self.copying.take() else { return false };
        let started = Instant::now();
        while started.elapsed() < AT_ONCE {
            let names = self.inventory.after(&copying.after).take(NAMES);
            let names: Vec<_> = names.map(|(path, expected)| (path.to_owned(), expected)).collect();
            if names.is_empty() {
                if copying.class + 1 == SIZES.len() {
                    return false;
                }
                copying = Copying { class: copying.class + 1, after: PathBuf::new() };
            }
            for (path, expected) in names {
                if copying.is_of_class(&expected) {
                    self.copy_one(&path, expected);
                }
                copying.after = path;
                if started.elapsed() > AT_ONCE {
                    break;
                }
            }
        }
        self.copying = Some(copying);
        true
    }

    fn copy_one(&mut self, path: &Path, mut expected: Expected) {
        let has_copy = self.vault.has_copy(expected.id);
        if has_copy && expected.sum.is_some() || (self.duties)(path).content != Content::Fixed {
            return;
        }
        let Ok(object) = Object::at_path(path) else { return };
        let Ok(inode) = object.inode() else { return };
        // Where only the change time differs (removing a link sets it too), a known sum tells whether it is right.
        let untouched = expected.is_untouched(&inode);
        let alike = (expected.id, expected.size, expected.mtime) == (inode.id, inode.size, inode.mtime);
        if !alike || expected.sum.is_none() && !untouched {
            return;
        }
        let sum = self.vault.hold(path, &object, &inode, Copy::Fresh, false);
        if expected.sum.is_none()
            && sum.is_some()
            && object.inode().is_ok_and(|now| expected.is_untouched(&now))
        {
            expected.sum = sum;
            self.inventory.put(path, &expected);
        } else if sum.is_some() && sum != expected.sum {
            self.vault.discard_copy(expected.id);
        }
    }
}

impl Copying {
    fn is_of_class(&self, expected: &Expected) -> bool {
        let over = if self.class == 0 { 0 } else { SIZES[self.class - 1] };
        expected.is_file() && expected.size > over && expected.size <= SIZES[self.class]
    }
}
