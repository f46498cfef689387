//! Private directories, one for each mount: links and renames do not cross mounts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::object::{Object, c_string, is, join};
use crate::sys::file::Identity;
use crate::sys::names;

/// What a store's directory in a mount's root is called, before the kind of store.
pub const PREFIX: &str = ".writegate-";
/// Nobody but root looks in.
const MODE: u32 = 0o700;

/// One directory. It is not kept open, so that its filesystem can be unmounted.
#[derive(Debug)]
pub struct Store {
    /// Where.
    pub path: PathBuf,
    /// Which.
    pub id: Identity,
}

impl Store {
    /// Opens it, if it still is what it was.
    pub fn open(&self) -> Result<Object, Failure> {
        let directory = Object::directory_following(&self.path).map_err(|_| Failure::StoreLost)?;
        match directory.inode() {
            Ok(inode) if inode.id == self.id => Ok(directory),
            _ => Err(Failure::StoreLost),
        }
    }
}

/// All stores of one kind.
#[derive(Debug)]
pub struct Stores {
    state_dir: PathBuf,
    kind: &'static str,
    all: Vec<Store>,
    by_mount: HashMap<u64, usize>,
}

impl Stores {
    /// None yet. `kind` names them: `state_dir/kind`, or `.writegate-kind` in a mount's root.
    pub fn new(state_dir: &Path, kind: &'static str) -> Self {
        let state_dir = std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
        Self { state_dir, kind, all: Vec::new(), by_mount: HashMap::new() }
    }

    /// The state directory and its mount; made where it is missing, also when somebody has removed it.
    fn state(&self) -> Result<(Object, u64), Failure> {
        // A file where the directory should be is no race.
        std::fs::create_dir_all(&self.state_dir).map_err(|error| Failure::Call {
            call: "mkdir",
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })?;
        let top = Object::directory_following(&self.state_dir).map_err(Failure::of("open"))?;
        let mount = top.inode().map_err(Failure::of("statx"))?.mount;
        Ok((top, mount))
    }

    /// The store in the state directory.
    pub fn in_state(&mut self) -> Result<usize, Failure> {
        let (top, mount) = self.state()?;
        let (path, kind) = (self.state_dir.clone(), self.kind);
        self.add(mount, &top, &path, kind)
    }

    /// The store on `mount`, through which `path` is reached; made where there is none.
    pub fn on_mount(&mut self, mount: u64, path: &Path) -> Result<usize, Failure> {
        if let Some(&index) = self.by_mount.get(&mount)
            && self.all[index].open().is_ok()
        {
            return Ok(index);
        }
        self.by_mount.remove(&mount);
        // Who keeps removing it must not have the mount's root filled.
        if self.state()?.1 == mount {
            return self.in_state();
        }
        let (top, path) = mount_root(mount, path).ok_or(Failure::NoPlace)?;
        let name = format!("{PREFIX}{}", self.kind);
        self.add(mount, &top, &path, &name)
    }

    fn add(&mut self, mount: u64, top: &Object, path: &Path, name: &str) -> Result<usize, Failure> {
        let path = path.join(name);
        let name = c_string(name.as_bytes()).map_err(Failure::of("name"))?;
        match names::make_dir(std::os::fd::AsFd::as_fd(top), &name, MODE) {
            Err(error) if !is(&error, libc::EEXIST) => return Err(Failure::of("mkdir")(error)),
            _ => {}
        }
        let directory = top.child(&name).map_err(Failure::of("open"))?;
        let inode = directory.inode().map_err(Failure::of("statx"))?;
        if !inode.is_dir() || inode.mount != mount {
            return Err(Failure::NoPlace);
        }
        let me = nix::unistd::geteuid().as_raw();
        if inode.uid != me || inode.mode & 0o7777 != MODE {
            directory.set_owner(me, u32::MAX).map_err(Failure::of("chown"))?;
            directory.set_mode(MODE).map_err(Failure::of("chmod"))?;
        }
        if let Some(index) = self.all.iter().position(|store| store.id == inode.id) {
            self.by_mount.insert(mount, index);
            return Ok(index);
        }
        self.all.push(Store { path, id: inode.id });
        self.by_mount.insert(mount, self.all.len() - 1);
        Ok(self.all.len() - 1)
    }

    /// One of them.
    pub fn get(&self, index: usize) -> Option<&Store> {
        self.all.get(index)
    }

    /// Where they are.
    pub fn paths(&self) -> impl DoubleEndedIterator<Item = &Path> {
        self.all.iter().map(|store| store.path.as_path())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether an object is one of the stores, which no healing touches.
    pub fn is_own(&self, id: Identity) -> bool {
        self.all.iter().any(|store| store.id == id)
    }
}

/// The topmost directory on `mount` that `path` passes through.
fn mount_root(mount: u64, path: &Path) -> Option<(Object, PathBuf)> {
    let mut found = None;
    for ancestor in path.ancestors() {
        let Ok(object) = Object::at_path(ancestor) else { continue };
        match object.inode() {
            Ok(inode) if inode.mount == mount && inode.is_dir() => {
                found = Some((object, ancestor.to_owned()));
            }
            // A file that is itself a mount point has no directory on its mount.
            Ok(inode) if inode.mount != mount => break,
            _ => {}
        }
    }
    found
}

/// Free names in a directory, for things that exist only for a moment.
#[derive(Debug, Default)]
pub struct Temporary(u64);

impl Temporary {
    /// The next; unlikely enough to be taken already, and then the caller tries again.
    pub fn next(&mut self) -> std::ffi::CString {
        self.0 += 1;
        let name = format!("{PREFIX}tmp-{:x}-{:x}", std::process::id(), self.0);
        c_string(name.as_bytes()).unwrap_or_default()
    }
}

/// The path of `name` in a store.
pub fn path_in(store: &Store, name: &std::ffi::CStr) -> PathBuf {
    join(&store.path, name)
}
