//! What this host can do, asked of the host itself.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::resource::{Resource, getrlimit};

use crate::scratch::Scratch;
use crate::sys::checks::Checks;
use crate::sys::connector::Connector;
use crate::sys::fanotify::Group;
use crate::sys::features as kernel;
use crate::sys::lease::{self, Probe};
use crate::watch::MountWatch;

/// One thing that the host can do or cannot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// The key in JSON.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// Can it? Otherwise why not.
    pub found: Result<(), String>,
}

/// Everything that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Features {
    list: Vec<Feature>,
    /// Active security modules, where they can be told.
    pub security_modules: Vec<String>,
    /// Soft and hard limit of open descriptors.
    pub open_files: (u64, u64),
}

impl Features {
    /// Whether the host has this one.
    pub fn has(&self, name: &str) -> bool {
        self.list.iter().any(|feature| feature.name == name && feature.found.is_ok())
    }

    /// All of them, in the order they are shown.
    pub fn iter(&self) -> impl Iterator<Item = &Feature> {
        self.list.iter()
    }

    /// Asks the host. Needs a scratch directory for some of it.
    pub fn probe() -> Self {
        let scratch = Scratch::new("doctor");
        let scratch = scratch.as_ref().map(Scratch::path).map_err(ToString::to_string);
        let mut list = Vec::new();
        let mut add = |name, purpose, found| list.push(Feature { name, purpose, found });
        let told = |result: io::Result<()>| result.map_err(|error| error.to_string());
        add("permission_events", "refuses an open before it happens", told(kernel::permission_events()));
        add("thread_ids", "says which thread asks", told(kernel::thread_ids()));
        add(
            "syscall_registers",
            "tells reads and writes apart, exactly",
            told(fs::read(parent_registers()).map(drop)),
        );
        add(
            "leases",
            "tells them apart where registers cannot: openat2, io_uring",
            scratch.clone().and_then(probe_lease),
        );
        add("event_fd_errors", "records what the kernel itself refused", told(kernel::event_fd_errors()));
        add(
            "notification_targets",
            "sees changes of names and metadata, so that they can be put back; proves who made a new file",
            told(Group::notification().map(drop)),
        );
        add(
            "pre_access",
            "refuses truncate by path before it happens",
            scratch.clone().and_then(probe_pre_access),
        );
        add(
            "process_events",
            "tells who a short-lived process was: without, what it changed is nobody's and put back",
            told(Connector::listen().map(drop)),
        );
        add(
            "capability_checks",
            "tells who uses chattr +i and +a: without, the patrol finds what was changed",
            told(Checks::listen().map(drop)),
        );
        add(
            "mount_list",
            "sees what is mounted over a protected path",
            told(MountWatch::new(Path::new("/")).map(drop)),
        );
        add(
            "mount_events",
            "could see mounts; the list of mounts does that everywhere",
            told(kernel::mount_events()),
        );
        add("io_uring", "a way to open files that hides its flags from the gate", told(kernel::io_uring()));
        add("i386", "32-bit programs and their own system call table", scratch.and_then(probe_i386));
        for (name, bit, purpose) in CAPABILITIES {
            add(name, purpose, capability(bit));
        }
        Self { list, security_modules: security_modules(), open_files: open_files() }
    }
}

/// Somebody else's: one's own can always be read.
fn parent_registers() -> String {
    match nix::unistd::getppid().as_raw() {
        // It is in another process namespace.
        0 => "/proc/self/syscall".to_owned(),
        parent => format!("/proc/{parent}/syscall"),
    }
}

const CAPABILITIES: [(&str, u32, &str); 9] = [
    ("cap_sys_admin", 21, "permission events at all"),
    ("cap_sys_ptrace", 19, "reads the registers and the identity of other users' processes"),
    ("cap_lease", 28, "the lease probe on other users' files"),
    ("cap_dac_read_search", 2, "walks protected trees, opens objects by handle"),
    ("cap_linux_immutable", 9, "takes off an intruder's chattr +i and +a before healing"),
    ("cap_chown", 0, "gives back owner and group"),
    ("cap_fowner", 3, "gives back mode, times and attributes of other users' files"),
    ("cap_mknod", 27, "makes removed device nodes again"),
    ("cap_net_admin", 12, "process events"),
];

fn capability(bit: u32) -> Result<(), String> {
    let status = fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .ok_or("/proc/self/status does not say")?;
    if effective >> bit & 1 == 1 { Ok(()) } else { Err("not in the effective set".to_owned()) }
}

fn scratch_file(directory: &Path, name: &str, content: &[u8]) -> Result<CString, String> {
    let path = directory.join(name);
    fs::write(&path, content).map_err(|error| error.to_string())?;
    CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())
}

fn probe_lease(directory: &Path) -> Result<(), String> {
    scratch_file(directory, "lease", b"x")?;
    let file = File::open(directory.join("lease")).map_err(|error| error.to_string())?;
    match lease::probe(file.as_fd()) {
        Probe::NoWriter => Ok(()),
        Probe::Writer => Err("a writer where there is none".to_owned()),
        Probe::Unsupported => Err(format!("not on the filesystem of {}", directory.display())),
    }
}

fn probe_pre_access(directory: &Path) -> Result<(), String> {
    let path = scratch_file(directory, "pre-access", b"x")?;
    kernel::pre_access(&path).map_err(|error| error.to_string())
}

/// Runs the smallest i386 program there is: exit(0).
#[cfg(target_arch = "x86_64")]
fn probe_i386(directory: &Path) -> Result<(), String> {
    use std::io::Write as _;
    const PROGRAM: [u8; 93] = *b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\
        \x02\0\x03\0\x01\0\0\0\x54\x80\x04\x08\x34\0\0\0\0\0\0\0\0\0\0\0\x34\0\x20\0\x01\0\0\0\0\0\0\0\
        \x01\0\0\0\0\0\0\0\0\x80\x04\x08\0\x80\x04\x08\x5d\0\0\0\x5d\0\0\0\x05\0\0\0\0\x10\0\0\
        \x31\xdb\xb8\x01\0\0\0\xcd\x80";
    let path = directory.join("i386");
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o700)
        .open(&path)
        .and_then(|mut file| file.write_all(&PROGRAM))
        .map_err(|error| error.to_string())?;
    let status = Command::new(&path).stdin(Stdio::null()).status().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("an i386 program ended with {status}")) }
}

#[cfg(not(target_arch = "x86_64"))]
fn probe_i386(_directory: &Path) -> Result<(), String> {
    Err("not on this architecture".to_owned())
}

/// Where securityfs is not mounted the kernel is asked by number (`LSM_ID_*` of linux/lsm.h).
fn security_modules() -> Vec<String> {
    const NAMES: [&str; 14] = [
        "capability",
        "selinux",
        "smack",
        "tomoyo",
        "apparmor",
        "yama",
        "loadpin",
        "safesetid",
        "lockdown",
        "bpf",
        "landlock",
        "ima",
        "evm",
        "ipe",
    ];
    const FIRST_ID: u64 = 100;
    if let Ok(list) = fs::read_to_string("/sys/kernel/security/lsm") {
        return list.trim().split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    }
    let name = |id: u64| {
        let known = id.checked_sub(FIRST_ID).and_then(|index| NAMES.get(index as usize));
        known.map_or_else(|| format!("id {id}"), ToString::to_string)
    };
    kernel::security_modules().unwrap_or_default().into_iter().map(name).collect()
}

fn open_files() -> (u64, u64) {
    getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default()
}

impl Features {
    /// A host that has all of `names`, and nothing else.
    pub fn of(names: &[&'static str]) -> Self {
        let list = names.iter().map(|&name| Feature { name, purpose: "", found: Ok(()) }).collect();
        Self { list, ..Self::default() }
    }
}
