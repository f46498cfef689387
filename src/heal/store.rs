//! Private directories, one for each mount: links and renames do not cross mounts.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::object::{Object, c_string, is};
use crate::sys::file::{self, Identity};
use crate::sys::{names, random, reach};

/// What a store's directory in a mount's root is called, before the kind of store.
pub const PREFIX: &str = ".writegate-";
/// The file in the state directory with the id of the instance: two gates that protect the same mount, each with its
/// own state directory, must not take each other's stores for their own.
const INSTANCE: &CStr = c"instance";
/// The file in a store in a mount's root with the path of its state directory: who finds it can tell whose it is.
pub const OWNER: &CStr = c"owner";
/// What copies leave free on their filesystem, where that is not more than a tenth of it: the audit trail and the host
/// write there too.
const RESERVE_MAX: u64 = 1 << 30;
/// How long an id is: 64 bits in hexadecimal.
pub const ID_DIGITS: usize = 16;
/// Nobody but root looks in.
const MODE: u32 = 0o700;
/// The same for the files that are written there.
const FILE_MODE: u32 = 0o600;
/// How many random names are tried: that even one is taken does not happen by chance.
const NAMES_MAX: usize = 4;

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

/// Bytes that copies below `directory` may still take.
///
/// # Errors
/// Those of statvfs.
pub fn room(directory: &Object) -> Result<u64, Failure> {
    let (free, all) = names::space(directory.as_fd()).map_err(Failure::of("statvfs"))?;
    Ok(free.saturating_sub(RESERVE_MAX.min(all / 10)))
}

/// All stores of one kind.
#[derive(Debug)]
pub struct Stores {
    state_dir: PathBuf,
    kind: &'static str,
    /// Whose these are: see [`INSTANCE`].
    instance: Option<String>,
    all: Vec<Store>,
    by_mount: HashMap<u64, usize>,
    in_state: Option<usize>,
}

impl Stores {
    /// None yet. `kind` names them: `state_dir/kind`, or `.writegate-kind-instance` in a mount's root.
    pub fn new(state_dir: &Path, kind: &'static str) -> Self {
        let state_dir = std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
        Self { state_dir, kind, instance: None, all: Vec::new(), by_mount: HashMap::new(), in_state: None }
    }

    /// The state directory and its mount; made where it is missing, also when somebody has removed it.
    fn state(&self) -> Result<(Object, u64), Failure> {
        let path = c_string(self.state_dir.as_os_str().as_bytes()).map_err(Failure::of("open"))?;
        reach::check(&path).map_err(Failure::of("open"))?;
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
        if let Err(failure) = self.instance(&top) {
            tracing::warn!(%failure, "the state directory has no instance: other mounts get no store");
        }
        let (path, kind) = (self.state_dir.clone(), self.kind);
        let (index, _) = self.add(mount, &top, &path, kind)?;
        self.in_state = Some(index);
        Ok(index)
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
        let (state, state_mount) = self.state()?;
        if state_mount == mount {
            return self.in_state();
        }
        let instance = self.instance(&state)?;
        let (top, path) = mount_root(mount, path).ok_or(Failure::NoPlace)?;
        let name = self.name_of(&instance);
        let (index, directory) = self.add(mount, &top, &path, &name)?;
        if directory.child(OWNER).is_err() {
            let owner = self.state_dir.as_os_str().as_bytes();
            if let Err(error) = write_file(&directory, OWNER, owner, names::NOREPLACE) {
                tracing::info!(path = %path.join(&name).display(), %error, "it does not say whose it is");
            }
        }
        Ok(index)
    }

    /// The store in the state directory, opened; made again where somebody has removed it.
    pub fn open_in_state(&mut self) -> Result<Object, Failure> {
        if let Some(Ok(directory)) = self.in_state.map(|index| self.open(index)) {
            return Ok(directory);
        }
        let index = self.in_state()?;
        self.open(index)
    }

    /// The same, for who only looks: makes nothing.
    ///
    /// # Errors
    /// `ENOENT` where there is none yet.
    pub fn found_in_state(&mut self) -> io::Result<usize> {
        let top = Object::directory_following(&self.state_dir)?;
        if self.instance.is_none() {
            self.instance = instance_in(&top).ok();
        }
        let inode = top.child(&c_string(self.kind.as_bytes())?)?.inode()?;
        if !inode.is_dir() || inode.mount != top.inode()?.mount {
            return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
        }
        let index = self.take_up(self.state_dir.join(self.kind), inode.id);
        self.in_state = Some(index);
        Ok(index)
    }

    /// The store that an earlier process had at `path`, which somebody else may have written down: only what has our
    /// own name, in the root of a mount, and is for us alone is one.
    pub fn found_at(&mut self, path: &Path) -> Option<usize> {
        let known = |store: &Store| store.path == path && store.open().is_ok();
        if let Some(index) = self.all.iter().position(known) {
            return Some(index);
        }
        let name = self.name_of(self.instance.as_deref()?);
        if !path.is_absolute() || path.file_name()? != name.as_str() {
            return None;
        }
        let top_path = path.parent()?;
        let top = Object::at_path(top_path).ok()?;
        let mount = top.inode().ok()?.mount;
        let above = top.child(c"..").ok()?.inode().ok()?;
        let inode = top.child(&c_string(name.as_bytes()).ok()?).ok()?.inode().ok()?;
        let is_root = above.mount != mount || top_path == Path::new("/");
        let private = inode.uid == nix::unistd::geteuid().as_raw() && inode.mode & 0o7777 == MODE;
        (is_root && private && inode.is_dir() && inode.mount == mount)
            .then(|| self.take_up(path.to_owned(), inode.id))
    }

    fn take_up(&mut self, path: PathBuf, id: Identity) -> usize {
        if let Some(index) = self.all.iter().position(|store| store.id == id) {
            return index;
        }
        self.all.push(Store { path, id });
        self.all.len() - 1
    }

    /// What a store in a mount's root is called.
    fn name_of(&self, instance: &str) -> String {
        format!("{PREFIX}{}-{instance}", self.kind)
    }

    /// Once known it stays, whatever becomes of the file.
    fn instance(&mut self, state: &Object) -> Result<String, Failure> {
        if let Some(instance) = &self.instance {
            return Ok(instance.clone());
        }
        let instance = instance_made(state)?;
        self.instance = Some(instance.clone());
        Ok(instance)
    }

    fn add(&mut self, mount: u64, top: &Object, path: &Path, name: &str) -> Result<(usize, Object), Failure> {
        let path = path.join(name);
        let name = c_string(name.as_bytes()).map_err(Failure::of("name"))?;
        match names::make_dir(top.as_fd(), &name, MODE) {
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
        let index = self.take_up(path, inode.id);
        self.by_mount.insert(mount, index);
        Ok((index, directory))
    }

    /// One of them.
    pub fn get(&self, index: usize) -> Option<&Store> {
        self.all.get(index)
    }

    /// Opens one of them, if it still is what it was.
    pub fn open(&self, index: usize) -> Result<Object, Failure> {
        self.get(index).ok_or(Failure::NoPlace)?.open()
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

/// Whether it has the form of an id of ours: it has no other meaning as a name.
pub fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The instance that a state directory belongs to; `ENOENT` where it has none, `InvalidData` where it is none.
pub fn instance_in(state: &Object) -> io::Result<String> {
    // Whoever protects the state directory has a further link to it in the vault.
    let bytes = read_file(state, INSTANCE, ID_DIGITS as u64, u32::MAX)?;
    String::from_utf8(bytes).ok().filter(|text| is_id(text)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The same, made where there is none.
fn instance_made(state: &Object) -> Result<String, Failure> {
    for _ in 0..NAMES_MAX {
        match instance_in(state) {
            Ok(instance) => return Ok(instance),
            Err(error) if is(&error, libc::ENOENT) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                // Somebody planted it. It is evidence, so it is only moved out of the way.
                let aside = Temporary::default().next();
                let (from, to) = ((state.as_fd(), INSTANCE), (state.as_fd(), aside.as_c_str()));
                names::rename(from, to, names::NOREPLACE).map_err(Failure::of("rename"))?;
                tracing::warn!(?aside, "the file with the instance was none of ours and is renamed");
            }
            Err(error) => return Err(Failure::of("read")(error)),
        }
        let instance = format!("{:016x}", random::bits());
        match write_file(state, INSTANCE, instance.as_bytes(), names::NOREPLACE) {
            Ok(()) => return Ok(instance),
            // Another process of ours was faster.
            Err(error) if is(&error, libc::EEXIST) => {}
            Err(error) => return Err(Failure::of("write")(error)),
        }
    }
    Err(Failure::Raced)
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

/// Whether a path may be that of a store in the root of a mount, or lie in one.
pub fn is_store(path: &Path) -> bool {
    path.components().any(|name| name.as_os_str().as_bytes().starts_with(PREFIX.as_bytes()))
}

/// Free names in a directory, for things that exist only for a moment.
#[derive(Debug, Default)]
pub struct Temporary(u64);

impl Temporary {
    /// The next; nobody can plant something there ahead. Taken already all the same, the caller tries again.
    pub fn next(&mut self) -> CString {
        self.0 += 1;
        let name = format!("{PREFIX}tmp-{:016x}-{:x}", random::bits(), self.0);
        c_string(name.as_bytes()).unwrap_or_default()
    }
}

/// Makes a new file in `directory`, under the first of `names` that is free. It is never one that somebody else has
/// put there, nor what a symbolic link points to.
fn new_file(directory: &Object, names: impl IntoIterator<Item = CString>) -> io::Result<(CString, File)> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    for name in names {
        match names::open_at(directory.as_fd(), &name, flags, FILE_MODE) {
            Err(error) if is(&error, libc::EEXIST) => {}
            other => return other.map(|file| (name, file.into())),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EEXIST))
}

/// Reads the file `name` in `directory`, which is a regular one of ours with at most `links` names. Whatever else is
/// there is not even opened.
///
/// # Errors
/// `InvalidData` where it is something else or longer than `limit`.
pub fn read_file(directory: &Object, name: &CStr, limit: u64, links: u32) -> io::Result<Vec<u8>> {
    let object = directory.child(name)?;
    let inode = object.inode()?;
    let me = nix::unistd::geteuid().as_raw();
    if !inode.is_file() || inode.uid != me || inode.links > links || inode.size > limit {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    // It may grow while it is read.
    object.open(libc::O_RDONLY)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(bytes)
}

/// Writes `bytes` to the file `name` in `directory`, wholly or not at all. `flags`: of the rename to that name.
pub fn write_file(directory: &Object, name: &CStr, bytes: &[u8], flags: u32) -> io::Result<()> {
    let mut temporary = Temporary::default();
    let (half, mut file) = new_file(directory, std::iter::repeat_with(|| temporary.next()).take(NAMES_MAX))?;
    let written = file
        .write_all(bytes)
        .and_then(|()| names::rename((directory.as_fd(), &half), (directory.as_fd(), name), flags));
    if written.is_err() {
        let _ = file::unlink_at(directory.as_fd(), &half);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_nothing_that_was_planted() {
        let scratch = tempfile::tempdir().unwrap();
        let victim = scratch.path().join("victim");
        std::fs::write(&victim, "right").unwrap();
        std::os::unix::fs::symlink(&victim, scratch.path().join("link")).unwrap();
        std::fs::hard_link(&victim, scratch.path().join("name")).unwrap();
        let directory = Object::directory_following(scratch.path()).unwrap();
        let names = [c"link", c"name", c"free"].map(CStr::to_owned);
        let (name, mut file) = new_file(&directory, names.clone()).unwrap();
        file.write_all(b"ours").unwrap();
        assert_eq!((name.as_c_str(), std::fs::read(&victim).unwrap()), (c"free", b"right".to_vec()));
        assert!(is(&new_file(&directory, names).unwrap_err(), libc::EEXIST));
    }
}
