//! Content, by every kind of open, and past the open.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use io_uring::squeue::Flags;
use libc::{O_APPEND, O_CREAT, O_PATH, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};
use nix::fcntl::{self, FallocateFlags};
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use writegate::sys::{attack, inode};

use super::{EVIL, Place, Way, nameless, way, write};
use crate::support::{Finally, rare, raw};

/// Descriptors from before the start, by place.
static HELD: Mutex<Vec<(usize, File)>> = Mutex::new(Vec::new());

fn hold(place: &Place) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(place.file())?;
    let mut held = HELD.lock().unwrap();
    // What a way before this one had no time for.
    held.retain(|(number, _)| *number != place.number);
    held.push((place.number, file));
    Ok(())
}

fn held(place: &Place) -> File {
    let mut held = HELD.lock().unwrap();
    let index = held.iter().position(|(number, _)| *number == place.number).expect("it was prepared");
    held.swap_remove(index).1
}

fn put(fd: OwnedFd) -> io::Result<()> {
    File::from(fd).write_all(EVIL)
}

const OPEN: &str = "open for writing: open, openat, creat";
const OPENAT2: &str = "open for writing: openat2";
const URING: &str = "open for writing: io_uring";
const I386: &str = "open for writing: i386 system calls";
const HANDLE: &str = "open for writing: open_by_handle_at";
const REOPEN: &str = "open for writing: reopening /proc/self/fd/N";
const PROC: &str = "open for writing: through /proc/<pid>/root, cwd or map_files";
const TRUNC: &str = "empty a file: O_TRUNC";
const CREATE: &str = "create a file: O_CREAT";
const COPY: &str = "write with copy_file_range, sendfile, splice or fallocate";
const BLOCKS: &str = "take over or exchange blocks: FICLONE, EXT4_IOC_MOVE_EXT, EXT4_IOC_SWAP_BOOT";
const DEVICE: &str = "use a file as a disk: swapon, losetup";
const TRUNCATE: &str = "empty or extend a file: truncate by path";
const GROUP: &str = "write through the event descriptors of a fanotify group of the intruder's own";
const OLD: &str = "write through a descriptor from before the start";
const OLD_MAPPING: &str = "write through a shared mapping from before the start";

/// The kernel opens what it reports for whoever listens, and asks nobody.
fn write_through_group(place: &Place) -> io::Result<()> {
    let group = Fanotify::init(InitFlags::FAN_CLASS_NOTIF, EventFFlags::O_RDWR)?;
    group.mark(MarkFlags::FAN_MARK_ADD, MaskFlags::FAN_OPEN, fcntl::AT_FDCWD, Some(&place.file()))?;
    drop(File::open(place.file())?);
    for event in group.read_events()? {
        let fd = event.fd().ok_or(io::ErrorKind::UnexpectedEof)?;
        nix::unistd::write(fd, EVIL)?;
    }
    Ok(())
}

/// How often the flags are rewritten before the file is given up as not to be emptied.
const FLIPS: usize = 2000;

#[cfg(target_arch = "x86_64")]
pub const WAYS: &[Way] = &[
    way(OPEN, "open", |p| put(raw::open(&p.file(), O_WRONLY)?)),
    way(OPEN, "openat, O_APPEND", |p| put(raw::openat(&p.file(), O_WRONLY | O_APPEND)?)),
    way(OPEN, "openat, O_RDWR", |p| put(raw::openat(&p.file(), O_RDWR)?)),
    way(OPEN, "open, O_ACCMODE", |p| raw::open(&p.file(), 3).map(drop)),
    way(OPEN, "creat", |p| put(raw::creat(&p.file())?)),
    way(OPENAT2, "openat2", |p| put(raw::openat2(&p.file(), O_WRONLY)?)),
    way(URING, "inline", |p| put(raw::open_uring(&p.file(), O_WRONLY, Flags::empty())?)).needs("io_uring"),
    way(URING, "IOSQE_ASYNC", |p| put(raw::open_uring(&p.file(), O_RDWR, Flags::ASYNC)?)).needs("io_uring"),
    way(I386, "int 0x80", |p| put(raw::open_i386(&p.file(), O_WRONLY)?)).needs("i386"),
    way(HANDLE, "open_by_handle_at", |p| put(raw::open_by_handle(&p.file(), O_WRONLY)?)),
    way(REOPEN, "of a reader", |p| put(raw::reopen(&p.file(), O_RDONLY, O_WRONLY)?)),
    way(REOPEN, "of O_PATH", |p| put(raw::reopen(&p.file(), O_PATH, O_RDWR)?)),
    way(PROC, "root", |p| {
        write(&Path::new("/proc/self/root").join(p.file().strip_prefix("/").expect("absolute")))
    }),
    way(PROC, "cwd", write_through_cwd),
    way(PROC, "map_files", write_through_mapping),
    way(TRUNC, "O_WRONLY|O_TRUNC", |p| raw::openat(&p.file(), O_WRONLY | O_TRUNC).map(drop)),
    way("empty a file: O_RDONLY|O_TRUNC with open or openat", "open", |p| {
        raw::open(&p.file(), O_RDONLY | O_TRUNC).map(drop)
    }),
    way("empty a file: O_RDONLY|O_TRUNC with openat2", "openat2", |p| {
        raw::openat2(&p.file(), O_RDONLY | O_TRUNC).map(drop)
    }),
    way(
        "empty a file: O_RDONLY|O_TRUNC with openat2 while another thread rewrites the flags",
        "two threads",
        truncate_behind_flags,
    ),
    way("empty a file: O_RDONLY|O_TRUNC with io_uring", "io_uring", |p| {
        raw::open_uring(&p.file(), O_RDONLY | O_TRUNC, Flags::empty()).map(drop)
    })
    .needs("io_uring"),
    way(TRUNCATE, "to nothing", |p| raw::truncate(&p.file(), 0)),
    way(TRUNCATE, "to more", |p| raw::truncate(&p.file(), 1 << 20)),
    way(CREATE, "openat, O_CREAT", |p| put(raw::openat(&p.at("new"), O_WRONLY | O_CREAT)?)),
    way(CREATE, "O_RDONLY|O_CREAT", |p| raw::openat(&p.at("new"), O_RDONLY | O_CREAT).map(drop)),
    way(CREATE, "openat2", |p| put(raw::openat2(&p.at("new"), O_WRONLY | O_CREAT)?)),
    way(CREATE, "io_uring", |p| put(raw::open_uring(&p.at("new"), O_WRONLY | O_CREAT, Flags::empty())?))
        .needs("io_uring"),
    way("create a file: O_TMPFILE", "in the tree", |p| nameless(&p.inside).map(drop)),
    way("write through a shared mapping", "mmap", |p| {
        attack::write_mapped(&raw::openat(&p.file(), O_RDWR)?, b'X')
    }),
    way(COPY, "copy_file_range", |p| raw::copy_range(&p.out("file"), &p.file())),
    way(COPY, "sendfile", |p| raw::send_file(&p.out("file"), &p.file())),
    way(COPY, "splice", |p| raw::splice_into(EVIL, &p.file())),
    way(COPY, "fallocate, punch hole", |p| {
        let file = File::options().write(true).open(p.file())?;
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(nix::fcntl::fallocate(&file, flags, 0, 4)?)
    }),
    way(COPY, "ftruncate", |p| File::options().write(true).open(p.file())?.set_len(0)),
    way(BLOCKS, "FICLONE", |p| {
        let to = raw::openat(&p.file(), O_WRONLY)?;
        inode::clone_content(File::open(p.out("file"))?.as_fd(), to.as_fd())
    }),
    way(BLOCKS, "EXT4_IOC_MOVE_EXT, into it", |p| {
        rare::move_extent(&raw::openat(&p.file(), O_RDWR)?, &raw::openat(&p.out("file"), O_RDWR)?)
    }),
    way(BLOCKS, "EXT4_IOC_MOVE_EXT, out of it", |p| {
        rare::move_extent(&raw::openat(&p.out("file"), O_RDWR)?, &raw::openat(&p.file(), O_RDWR)?)
    }),
    way(BLOCKS, "EXT4_IOC_SWAP_BOOT", |p| rare::swap_boot(&raw::openat(&p.file(), O_RDWR)?)),
    way(DEVICE, "swapon", |p| rare::swap_on(&p.file())),
    way(DEVICE, "losetup", |p| {
        let mut losetup = Command::new("losetup");
        losetup.arg("--find").arg(p.file()).stderr(Stdio::piped());
        let said = String::from_utf8_lossy(&losetup.output()?.stderr).into_owned();
        let refused = said.contains("Operation not permitted");
        if refused { Err(io::Error::from_raw_os_error(libc::EPERM)) } else { Err(io::Error::other(said)) }
    }),
    way(GROUP, "O_RDWR", write_through_group),
    way(OLD, "write", |p| held(p).write_all(EVIL)).prepare(hold),
    way(OLD, "ftruncate", |p| held(p).set_len(0)).prepare(hold),
    way(OLD, "fallocate, punch hole", |p| {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(nix::fcntl::fallocate(held(p), flags, 0, 4)?)
    })
    .prepare(hold),
    way(OLD_MAPPING, "mmap", |p| attack::write_mapped(&held(p).into(), b'X')).prepare(hold),
    way("write in a directory made later in a protected tree", "mkdir, openat", create_in_new),
    way("overwrite a log opened for appending, after clearing O_APPEND with fcntl", "fcntl", overwrite_log)
        .policy("modification = 'append'"),
];

/// Through the working directory of another process.
fn write_through_cwd(place: &Place) -> io::Result<()> {
    let mut other = Command::new("sleep").arg("60").current_dir(&place.inside).spawn()?;
    let wrote = write(Path::new(&format!("/proc/{}/cwd/file", other.id())));
    other.kill()?;
    other.wait()?;
    wrote
}

/// Through what /proc says of a mapping that was made for reading.
fn write_through_mapping(place: &Place) -> io::Result<()> {
    let mapped = rare::Mapping::of(&File::open(place.file())?)?;
    write(&mapped.proc_path())
}

/// openat2(2) whose flags another thread changes between what the gate sees and what the kernel has read.
fn truncate_behind_flags(place: &Place) -> io::Result<()> {
    let how = raw::OpenHow::default();
    // SAFETY: the struct outlives the scope below and is only touched through this atomic and by the kernel.
    let flags = unsafe { AtomicU64::from_ptr((&raw const how.flags).cast_mut()) };
    let (over, path) = (AtomicBool::new(false), place.file());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                flags.store((O_RDONLY | O_TRUNC) as u64, Ordering::Relaxed);
                flags.store(O_RDONLY as u64, Ordering::Relaxed);
            }
        });
        let _end = Finally(&over);
        let emptied = |_: &usize| {
            raw::openat2_at(&path, &raw const how)
                .is_ok_and(|file| File::from(file).metadata().is_ok_and(|metadata| metadata.len() == 0))
        };
        (0..FLIPS).find(emptied).map(drop).ok_or_else(|| io::Error::from_raw_os_error(libc::EPERM))
    })
}

/// A log may grow; what stands in it may not change, which no open for appending shows.
fn overwrite_log(place: &Place) -> io::Result<()> {
    let log = File::options().append(true).open(place.file())?;
    raw::set_status_flags(&log, 0)?;
    log.write_all_at(EVIL, 0)
}

/// A directory that is healed away itself: until then nothing may be made in it.
fn create_in_new(place: &Place) -> io::Result<()> {
    let made = place.at("made");
    fs::create_dir(&made)?;
    while made.exists() {
        // Let through only until the directory is marked; it goes to the quarantine with what is in it.
        let _ = raw::openat(&made.join("new"), O_WRONLY | O_CREAT);
    }
    Ok(())
}
