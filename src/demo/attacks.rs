//! The attacks. Each runs in a process of its own, on a directory of its own.

use std::ffi::CString;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

use crate::sys::attack as raw;

/// What the protected file holds before the attack.
pub(super) const ORIGINAL: &[u8] = b"as it was\n";
/// What an attacker writes.
const INTRUDER: &[u8] = b"intruder\n";
/// The protected file's name.
pub(super) const FILE: &str = "file";
/// The directory that one attack makes before it goes on.
pub(super) const NEW_DIRECTORY: &str = "new";
/// For the gate to have seen a new directory.
const SETTLE: Duration = Duration::from_millis(300);

/// Where an attack happens.
pub(super) struct Place {
    /// Protected; holds [`FILE`].
    pub inside: PathBuf,
    /// Not protected, on the same filesystem.
    pub outside: PathBuf,
}

impl Place {
    /// Of the attack called `name` below `scratch`.
    pub fn new(scratch: &Path, name: &str) -> Self {
        Self { inside: scratch.join("protected").join(name), outside: scratch.join("outside").join(name) }
    }

    /// The protected file.
    pub fn file(&self) -> PathBuf {
        self.inside.join(FILE)
    }

    /// An entry outside.
    pub fn other(&self) -> PathBuf {
        self.outside.join("other")
    }
}

/// One attack.
pub(super) struct Attack {
    /// Its directory, and the argument of its process.
    pub name: &'static str,
    /// For people.
    pub technique: &'static str,
    /// The row of the doctor's table that says what becomes of it.
    pub mutation: &'static str,
    /// A feature without which it cannot be done.
    pub needs: Option<&'static str>,
    /// It mounts: only in a mount namespace of our own.
    pub mounts: bool,
    /// Done before the gate is up.
    pub prepare: fn(&Place) -> io::Result<()>,
    /// The attack.
    pub run: fn(&Place) -> io::Result<()>,
}

/// The attack that a descriptor from before the start makes: its process is the demo itself.
pub(super) const HOLDER: &str = "holder";

/// The attack before which the demo kills the worker of its own gate.
pub(super) const WORKER_KILLED: &str = "worker-killed";

const CHATTR: &str = "chattr";

/// Takes off the flag that would keep the scratch directory from being removed.
pub(super) fn clear_flags(scratch: &Path) {
    // Where the gate has taken it off, or the file is gone, there is nothing to do.
    if let Ok(file) = File::open(Place::new(scratch, CHATTR).file()) {
        let _ = raw::set_inode_flags(file.as_fd(), 0);
    }
}

const OPEN: &str = "open for writing: open, openat, creat";
const TRUNCATE: &str = "empty a file: O_TRUNC";
const CREATE: &str = "create a file: O_CREAT";

const fn attack(
    name: &'static str,
    technique: &'static str,
    mutation: &'static str,
    run: fn(&Place) -> io::Result<()>,
) -> Attack {
    Attack { name, technique, mutation, needs: None, mounts: false, prepare: nothing, run }
}

/// All of them.
pub(super) const ATTACKS: &[Attack] = &[
    attack("touch", "touch a new file", CREATE, |place| {
        File::create_new(place.inside.join("made")).map(drop)
    }),
    attack("append", "append, as a shell's >> does", OPEN, |place| {
        write_to(OpenOptions::new().append(true).create(true).open(place.file())?)
    }),
    attack("write", "open for reading and writing, overwrite", OPEN, |place| {
        write_to(OpenOptions::new().read(true).write(true).open(place.file())?)
    }),
    attack("shell", "empty and write, as a shell's > does", TRUNCATE, |place| {
        write_to(File::create(place.file())?)
    }),
    attack("cp", "cp another file over it", TRUNCATE, |place| {
        fs::write(place.other(), INTRUDER)?;
        fs::copy(place.other(), place.file()).map(drop)
    }),
    attack("sed", "replace it by a new file, as sed -i does", CREATE, |place| {
        let new = place.inside.join("sedXXXX");
        fs::write(&new, INTRUDER)?;
        fs::rename(&new, place.file())
    }),
    attack(
        "read-truncate",
        "empty it with O_RDONLY|O_TRUNC",
        "empty a file: O_RDONLY|O_TRUNC with open or openat",
        |place| read_truncate(&place.file()),
    ),
    #[cfg(target_arch = "x86_64")]
    attack("open", "open(2), the old system call", OPEN, |place| {
        write_to(raw::by_open(&c_path(&place.file())?, libc::O_WRONLY)?.into())
    }),
    #[cfg(target_arch = "x86_64")]
    attack("creat", "creat(2)", TRUNCATE, |place| write_to(raw::by_creat(&c_path(&place.file())?)?.into())),
    attack("openat2", "openat2", "open for writing: openat2", |place| {
        write_to(raw::by_openat2(&c_path(&place.file())?, libc::O_WRONLY)?.into())
    }),
    attack(
        "openat2-truncate",
        "openat2 with O_RDONLY|O_TRUNC",
        "empty a file: O_RDONLY|O_TRUNC with openat2",
        |place| raw::by_openat2(&c_path(&place.file())?, libc::O_RDONLY | libc::O_TRUNC).map(drop),
    ),
    Attack {
        needs: Some("io_uring"),
        ..attack("io-uring", "io_uring", "open for writing: io_uring", |place| {
            write_to(raw::by_io_uring(&c_path(&place.file())?, libc::O_WRONLY)?.into())
        })
    },
    Attack {
        needs: Some("io_uring"),
        ..attack("io-uring-create", "make a file with io_uring", CREATE, |place| {
            let path = c_path(&place.inside.join("made"))?;
            write_to(raw::by_io_uring(&path, libc::O_WRONLY | libc::O_CREAT)?.into())
        })
    },
    Attack {
        needs: Some("io_uring"),
        ..attack(
            "io-uring-truncate",
            "io_uring with O_RDONLY|O_TRUNC",
            "empty a file: O_RDONLY|O_TRUNC with io_uring",
            |place| raw::by_io_uring(&c_path(&place.file())?, libc::O_RDONLY | libc::O_TRUNC).map(drop),
        )
    },
    #[cfg(target_arch = "x86_64")]
    Attack {
        needs: Some("i386"),
        ..attack("i386", "int 0x80, the i386 table", "open for writing: i386 system calls", |place| {
            write_to(raw::by_i386(&c_path(&place.file())?, libc::O_WRONLY)?.into())
        })
    },
    attack("handle", "open_by_handle_at", "open for writing: open_by_handle_at", |place| {
        write_to(raw::by_handle(&c_path(&place.file())?, libc::O_WRONLY)?.into())
    }),
    attack(
        "reopen",
        "reopen a descriptor through /proc/self/fd",
        "open for writing: reopening /proc/self/fd/N",
        |place| {
            use std::os::fd::AsRawFd;
            let read = File::open(place.file())?;
            write_to(File::options().write(true).open(format!("/proc/self/fd/{}", read.as_raw_fd()))?)
        },
    ),
    attack("tmpfile", "O_TMPFILE", "create a file: O_TMPFILE", |place| {
        let flags = libc::O_TMPFILE;
        write_to(OpenOptions::new().write(true).custom_flags(flags).mode(0o600).open(&place.inside)?)
    }),
    attack("symlink-write", "through a symbolic link", "write through a symbolic link", |place| {
        std::os::unix::fs::symlink(place.file(), place.other())?;
        write_to(File::options().write(true).open(place.other())?)
    }),
    Attack {
        mounts: true,
        ..attack(
            "bind",
            "through a bind mount",
            "write through a bind mount, made before or after the start",
            |place| {
                let target = place.other();
                fs::create_dir(&target)?;
                bind(&place.inside, &target)?;
                let written = File::options().write(true).open(target.join(FILE)).and_then(write_to);
                umount2(&target, MntFlags::MNT_DETACH)?;
                written
            },
        )
    },
    attack(
        "namespace",
        "from another mount namespace",
        "write from another mount namespace or container",
        |place| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            write_to(File::options().write(true).open(place.file())?)
        },
    ),
    Attack {
        prepare: |place| fs::hard_link(place.file(), place.other()),
        ..attack(
            "old-link",
            "through a hard link made before the start",
            "write through a hard link that exists when the gate starts or reloads",
            |place| write_to(File::options().write(true).open(place.other())?),
        )
    },
    attack(
        "new-link",
        "through a hard link made now",
        "write through a hard link made later, outside every protected tree",
        |place| {
            fs::hard_link(place.file(), place.other())?;
            write_to(File::options().write(true).open(place.other())?)
        },
    ),
    attack("mmap", "shared writable mapping", "write through a shared mapping", |place| {
        let file: OwnedFd = File::options().read(true).write(true).open(place.file())?.into();
        raw::write_mapped(&file, b'X')
    }),
    attack(
        "new-directory",
        "a new file in a directory made a moment ago",
        "write in a directory made later in a protected tree",
        |place| {
            let directory = place.inside.join(NEW_DIRECTORY);
            fs::create_dir(&directory)?;
            std::thread::sleep(SETTLE);
            fs::write(directory.join("made"), INTRUDER)
        },
    ),
    attack(
        HOLDER,
        "a descriptor opened before the start",
        "write through a descriptor from before the start",
        nothing,
    ),
    attack("truncate", "truncate(2)", "empty or extend a file: truncate by path", |place| {
        Ok(nix::unistd::truncate(&place.file(), 0)?)
    }),
    attack("unlink", "rm", "delete a file: unlink", |place| fs::remove_file(place.file())),
    attack("rename", "mv it away", "rename a protected name away", |place| {
        fs::rename(place.file(), place.other())
    }),
    attack("rename-over", "mv another file over it", "rename something over a protected name", |place| {
        fs::write(place.other(), INTRUDER)?;
        fs::rename(place.other(), place.file())
    }),
    attack("link", "ln: a new name in the tree", "make a hard link: link", |place| {
        fs::write(place.other(), INTRUDER)?;
        fs::hard_link(place.other(), place.inside.join("made"))
    }),
    attack("symlink", "ln -s: a link in the tree", "make a symbolic link: symlink", |place| {
        std::os::unix::fs::symlink("/etc", place.inside.join("made"))
    }),
    attack("mkdir", "mkdir", "make a directory: mkdir", |place| fs::create_dir(place.inside.join("made"))),
    attack("mkfifo", "mkfifo", "make a FIFO, socket or device node: mknod", |place| {
        Ok(nix::unistd::mkfifo(&place.inside.join("made"), Mode::S_IRWXU)?)
    }),
    attack("chmod", "chmod 777", "change permissions: chmod", |place| {
        fs::set_permissions(place.file(), fs::Permissions::from_mode(0o777))
    }),
    attack("chown", "chown", "change owner or group: chown", |place| {
        std::os::unix::fs::chown(place.file(), Some(1), Some(1))
    }),
    attack(
        "setxattr",
        "set an extended attribute",
        "change extended attributes, ACLs, file capabilities: setxattr",
        |place| raw::set_attribute(&c_path(&place.file())?, c"trusted.intruder", b"1"),
    ),
    attack("utimes", "touch -d: set its times", "change times: utimes", |place| {
        let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
        File::open(place.file())?.set_times(times)
    }),
    attack(CHATTR, "chattr +i", "change inode flags: chattr", |place| {
        const IMMUTABLE: libc::c_long = 0x10;
        raw::set_inode_flags(File::open(place.file())?.as_fd(), IMMUTABLE)
    }),
    Attack {
        mounts: true,
        ..attack(
            "mount-over",
            "mount another file over it",
            "mount something over a protected path",
            |place| {
                fs::write(place.other(), INTRUDER)?;
                bind(&place.other(), &place.file())
            },
        )
    },
    attack(WORKER_KILLED, "kill -9 the gate's worker, write at once", "kill the worker", |place| {
        write_to(OpenOptions::new().append(true).open(place.file())?)
    }),
];

#[allow(clippy::unnecessary_wraps, reason = "it stands where others can fail")]
fn nothing(_place: &Place) -> io::Result<()> {
    Ok(())
}

/// What every attack that got a descriptor does with it.
pub(super) fn write_to(mut file: File) -> io::Result<()> {
    file.write_all(INTRUDER)
}

fn read_truncate(path: &Path) -> io::Result<()> {
    let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_TRUNC;
    nix::fcntl::open(path, flags, Mode::empty())?;
    Ok(())
}

fn bind(source: &Path, target: &Path) -> io::Result<()> {
    Ok(mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::coverage::row_of;
    use crate::doctor::features::Features;

    #[test]
    fn every_attack_has_a_name_of_its_own_and_a_row() {
        let mut names: Vec<_> = ATTACKS.iter().map(|attack| attack.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ATTACKS.len());
        let features = Features::of(&[]);
        for attack in ATTACKS {
            assert!(row_of(attack.mutation, &features).is_some(), "{}", attack.mutation);
        }
    }

    /// Without a gate each of them does what it says: otherwise a refusal would prove nothing.
    #[test]
    fn attacks_work_where_nothing_is_protected() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED attacks_work_where_nothing_is_protected: needs root");
            return;
        }
        let features = Features::probe();
        let scratch = tempfile::tempdir().unwrap();
        for attack in ATTACKS {
            let place = Place::new(scratch.path(), attack.name);
            fs::create_dir_all(&place.inside).unwrap();
            fs::create_dir_all(&place.outside).unwrap();
            fs::write(place.file(), ORIGINAL).unwrap();
            (attack.prepare)(&place).unwrap();
            // Namespaces and mounts would be those of all tests.
            let apart = attack.mounts || attack.name == "namespace";
            if apart || attack.needs.is_some_and(|need| !features.has(need)) {
                continue;
            }
            match (attack.run)(&place) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    eprintln!("SKIPPED {}: this filesystem cannot do it", attack.name);
                }
                Err(error) => panic!("{}: {error}", attack.name),
            }
        }
        clear_flags(scratch.path());
    }
}
