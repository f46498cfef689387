//! The libraries that an executable's own header asks for.
//!
//! A writer's libraries need not lie in protected trees: those it needs by its header are taken with it, as they
//! are when the policies are loaded, and trusted as long as they have not changed since. A preloaded or plugged-in
//! library is not among them.
//!
//! They are looked for as ld.so(8) does without its environment. Its cache is not read: it lists what lies in the
//! directories of ld.so.conf, and those are searched themselves.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use object::elf;
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, FileKind, ReadCache, ReadRef};

use super::writers::Fingerprint;
use crate::sys::file;

/// The largest program of a desktop needs some 150; what comes after is not trusted.
const LIBRARIES_MAX: usize = 256;
/// Longer names are no file names.
const NAME_BYTES_MAX: u64 = 4096;
/// Real ones have some forty entries of sixteen bytes.
const DYNAMIC_BYTES_MAX: u64 = 1 << 20;
/// `PN_XNUM` stands for more program headers than the field can hold; real files have some fifteen.
const HEADERS_MAX: u16 = 1024;
/// Includes within includes of ld.so.conf.
const INCLUDES_DEEP_MAX: u32 = 4;
/// Directories of one object or of ld.so.conf.
const DIRECTORIES_MAX: usize = 256;

/// Their fingerprints, the interpreter's included; empty for a static executable and for what cannot be
/// understood.
pub fn needed_by(exe: &Path) -> Vec<Fingerprint> {
    closure(exe).into_iter().map(|(_, fingerprint)| fingerprint).collect()
}

/// One object file, as far as loading it needs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Header {
    /// Class and machine: others are passed over by the loader.
    kind: (bool, elf::Machine),
    interpreter: Option<PathBuf>,
    needed: Vec<Vec<u8>>,
    /// `DT_RPATH`; without effect where there is a `DT_RUNPATH`.
    rpath: Vec<PathBuf>,
    runpath: Vec<PathBuf>,
}

/// An object whose needs are still to be met.
struct Loaded {
    header: Header,
    /// `DT_RPATH` of those that it was loaded for.
    inherited: Vec<PathBuf>,
}

fn closure(exe: &Path) -> Vec<(PathBuf, Fingerprint)> {
    let Ok(exe) = fs::canonicalize(exe) else { return Vec::new() };
    let Some((_, header)) = open(&exe) else { return Vec::new() };
    let Some(interpreter) = header.interpreter.clone() else { return Vec::new() };
    let kind = header.kind;
    let system = system_directories(&interpreter, kind.1);
    let mut found = Vec::new();
    let mut names = HashSet::new();
    if let Some((fingerprint, _)) = open(&interpreter) {
        names.extend(interpreter.file_name().map(|name| name.as_bytes().to_vec()));
        found.push((interpreter, fingerprint));
    }
    let mut waiting = VecDeque::from([Loaded { header, inherited: Vec::new() }]);
    while let Some(Loaded { header, inherited }) = waiting.pop_front() {
        let mut rpath = if header.runpath.is_empty() { header.rpath.clone() } else { Vec::new() };
        let searched: Vec<&PathBuf> =
            rpath.iter().chain(if header.runpath.is_empty() { &inherited[..] } else { &[] }).collect();
        let searched: Vec<_> = searched.into_iter().chain(&header.runpath).chain(&system).collect();
        let mut next = Vec::new();
        for name in &header.needed {
            // The loader takes the first that goes by a name, whoever asks for it.
            if found.len() >= LIBRARIES_MAX || !names.insert(name.clone()) {
                continue;
            }
            next.extend(candidates(name, &searched, kind, &mut found));
        }
        rpath.extend(inherited);
        rpath.truncate(DIRECTORIES_MAX);
        waiting.extend(next.into_iter().map(|header| Loaded { header, inherited: rpath.clone() }));
    }
    found
}

/// Finds `name` and adds it to `found`: the first that the loader would take, and beside it the variants for
/// better processors, of which the loader takes one.
fn candidates(
    name: &[u8],
    directories: &[&PathBuf],
    kind: (bool, elf::Machine),
    found: &mut Vec<(PathBuf, Fingerprint)>,
) -> Vec<Header> {
    let mut headers = Vec::new();
    let mut take = |path: PathBuf| match open(&path) {
        Some((fingerprint, header)) if header.kind == kind && found.len() < LIBRARIES_MAX => {
            found.push((path, fingerprint));
            headers.push(header);
            true
        }
        _ => false,
    };
    if name.contains(&b'/') {
        let path = PathBuf::from(OsStr::from_bytes(name));
        if path.is_absolute() {
            take(path);
        }
        return headers;
    }
    let name = OsStr::from_bytes(name);
    for directory in directories {
        for variant in fs::read_dir(directory.join("glibc-hwcaps")).into_iter().flatten().flatten() {
            take(variant.path().join(name));
        }
        if take(directory.join(name)) {
            break;
        }
    }
    headers
}

/// Fingerprint and header of a regular ELF file.
fn open(path: &Path) -> Option<(Fingerprint, Header)> {
    // A FIFO must not hang, and nothing here becomes a controlling terminal.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = fs::OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let stat = file::stat_fd(opened.as_fd()).ok()?;
    if stat.file_type() != libc::S_IFREG {
        return None;
    }
    Some((Fingerprint::from(&stat), header(opened, path)?))
}

fn header(opened: File, path: &Path) -> Option<Header> {
    let data = ReadCache::new(opened);
    let origin = path.parent().unwrap_or(Path::new("/"));
    match FileKind::parse(&data).ok()? {
        FileKind::Elf32 => parse::<elf::FileHeader32<Endianness>, _>(&data, origin, false),
        FileKind::Elf64 => parse::<elf::FileHeader64<Endianness>, _>(&data, origin, true),
        _ => None,
    }
}

fn parse<'a, H, R>(data: R, origin: &Path, is_64: bool) -> Option<Header>
where
    H: FileHeader<Endian = Endianness>,
    R: ReadRef<'a>,
{
    let header = H::parse(data).ok()?;
    let endian = header.endian().ok()?;
    if header.e_phnum(endian) > HEADERS_MAX {
        return None;
    }
    let segments = header.program_headers(endian, data).ok()?;
    let mut read = Header { kind: (is_64, header.e_machine(endian)), ..Header::default() };
    let mut dynamic: &[H::Dyn] = &[];
    for segment in segments {
        let bytes: u64 = segment.p_filesz(endian).into();
        match segment.p_type(endian) {
            elf::PT_INTERP if bytes <= NAME_BYTES_MAX => {
                let name = segment.data(endian, data).ok()?;
                read.interpreter = Some(OsStr::from_bytes(name.split(|&byte| byte == 0).next()?).into());
            }
            elf::PT_DYNAMIC if bytes <= DYNAMIC_BYTES_MAX => {
                dynamic = segment.dynamic(endian, data).ok().flatten().unwrap_or_default();
            }
            _ => {}
        }
    }
    let entries = || {
        dynamic
            .iter()
            .map(|entry| (entry.tag(endian), entry.val(endian)))
            .take_while(|&(tag, _)| tag != elf::DT_NULL)
    };
    let strings = entries().find(|&(tag, _)| tag == elf::DT_STRTAB).map_or(0, |(_, address)| address);
    let text = |offset: u64| {
        let start = file_offset::<H>(segments, endian, strings.checked_add(offset)?)?;
        let text = data.read_bytes_at_until(start..start.checked_add(NAME_BYTES_MAX)?, 0).ok()?;
        (!text.is_empty()).then_some(text)
    };
    for (tag, value) in entries() {
        match tag {
            elf::DT_NEEDED if read.needed.len() < LIBRARIES_MAX => {
                read.needed.extend(text(value).map(|name| with_origin(name, origin)));
            }
            elf::DT_RPATH => read.rpath = directories(text(value).unwrap_or_default(), origin),
            elf::DT_RUNPATH => read.runpath = directories(text(value).unwrap_or_default(), origin),
            _ => {}
        }
    }
    Some(read)
}

/// Where in the file the byte lies that is loaded to `address`.
fn file_offset<H: FileHeader<Endian = Endianness>>(
    segments: &[H::ProgramHeader],
    endian: Endianness,
    address: u64,
) -> Option<u64> {
    segments.iter().filter(|segment| segment.p_type(endian) == elf::PT_LOAD).find_map(|segment| {
        let below = address.checked_sub(segment.p_vaddr(endian).into())?;
        let (offset, bytes): (u64, u64) = (segment.p_offset(endian).into(), segment.p_filesz(endian).into());
        if below < bytes { offset.checked_add(below) } else { None }
    })
}

/// The directories of a `DT_RPATH` or `DT_RUNPATH`. Relative ones depend on where a program is started, and what
/// is found by them is not trusted.
fn directories(list: &[u8], origin: &Path) -> Vec<PathBuf> {
    list.split(|&byte| byte == b':')
        .map(|entry| PathBuf::from(OsStr::from_bytes(&with_origin(entry, origin))))
        .filter(|directory| directory.is_absolute())
        .take(DIRECTORIES_MAX)
        .collect()
}

/// `$ORIGIN` and `${ORIGIN}` at the start, the only place where linkers put them.
fn with_origin(text: &[u8], origin: &Path) -> Vec<u8> {
    let rest = text.strip_prefix(b"$ORIGIN").or_else(|| text.strip_prefix(b"${ORIGIN}"));
    rest.map_or_else(|| text.to_vec(), |rest| [origin.as_os_str().as_bytes(), rest].concat())
}

/// Where every program's libraries are looked for, in order.
fn system_directories(interpreter: &Path, machine: elf::Machine) -> Vec<PathBuf> {
    let name = interpreter.file_name().and_then(OsStr::to_str).unwrap_or_default();
    if let Some(musl) = name.strip_prefix("ld-musl-").and_then(|name| name.strip_suffix(".so.1")) {
        let listed = fs::read_to_string(format!("/etc/ld-musl-{musl}.path")).unwrap_or_default();
        let listed: Vec<_> = listed.split([':', '\n']).filter(|entry| entry.starts_with('/')).collect();
        let usual = vec!["/lib", "/usr/local/lib", "/usr/lib"];
        return if listed.is_empty() { usual } else { listed }.into_iter().map(PathBuf::from).collect();
    }
    let mut directories = Vec::new();
    read_conf(Path::new("/etc/ld.so.conf"), 0, &mut directories);
    let multiarch = match machine {
        elf::EM_X86_64 => Some("x86_64-linux-gnu"),
        elf::EM_AARCH64 => Some("aarch64-linux-gnu"),
        elf::EM_386 => Some("i386-linux-gnu"),
        _ => None,
    };
    if let Some(multiarch) = multiarch {
        directories.extend(["/lib", "/usr/lib"].map(|top| Path::new(top).join(multiarch)));
    }
    directories.extend(["/lib64", "/usr/lib64", "/lib", "/usr/lib"].map(PathBuf::from));
    directories
}

fn read_conf(path: &Path, depth: u32, directories: &mut Vec<PathBuf>) {
    if depth > INCLUDES_DEEP_MAX {
        return;
    }
    let text = fs::read_to_string(path).unwrap_or_default();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(pattern) = line.strip_prefix("include ") {
            for included in included(Path::new(pattern.trim()), path) {
                read_conf(&included, depth + 1, directories);
            }
        } else if line.starts_with('/') && directories.len() < DIRECTORIES_MAX {
            directories.push(PathBuf::from(line));
        }
    }
}

/// The files of an `include`: a `*` in the last component, as every distribution writes it.
fn included(pattern: &Path, from: &Path) -> Vec<PathBuf> {
    let pattern = from.parent().unwrap_or(Path::new("/")).join(pattern);
    let (Some(directory), Some(name)) = (pattern.parent(), pattern.file_name().and_then(OsStr::to_str))
    else {
        return Vec::new();
    };
    let Some((before, after)) = name.split_once('*') else { return vec![pattern.clone()] };
    let matches = |entry: &OsStr| {
        entry.to_str().and_then(|entry| entry.strip_prefix(before)).is_some_and(|rest| rest.ends_with(after))
    };
    let mut files: Vec<_> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| matches(&entry.file_name()))
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::process::Command;

    fn canonical(paths: impl IntoIterator<Item = PathBuf>) -> BTreeSet<PathBuf> {
        paths.into_iter().map(|path| fs::canonicalize(&path).unwrap_or(path)).collect()
    }

    /// What the loader itself says; `None` where it is not glibc's.
    fn told_by_loader(exe: &Path) -> Option<BTreeSet<PathBuf>> {
        let output = Command::new(exe).env_clear().env("LD_TRACE_LOADED_OBJECTS", "1").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let path = |line: &str| {
            let path = line.split_once("=> ").map_or(line, |(_, path)| path).trim();
            path.split(" (0x").next().filter(|path| path.starts_with('/')).map(PathBuf::from)
        };
        let paths: BTreeSet<_> = canonical(text.lines().filter_map(path));
        (output.status.success() && text.contains("libc.so") && !paths.is_empty()).then_some(paths)
    }

    #[test]
    fn the_closure_is_what_the_loader_loads() {
        let mut compared = 0;
        for exe in ["ls", "cat", "dpkg", "apt-get", "rpm", "ssh", "curl", "git", "systemctl"] {
            let exe = Path::new("/usr/bin").join(exe);
            let Some(told) = told_by_loader(&exe) else { continue };
            let found = canonical(closure(&exe).into_iter().map(|(path, _)| path));
            assert_eq!(found, told, "{}", exe.display());
            compared += 1;
        }
        if compared == 0 {
            eprintln!("SKIPPED the_closure_is_what_the_loader_loads: no loader of glibc here");
        }
    }

    #[test]
    fn what_is_no_dynamic_executable_needs_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("script");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [&script, &fifo, &directory.path().join("none"), &directory.path().to_owned()] {
            assert!(closure(path).is_empty());
        }
    }

    #[test]
    fn origin_is_the_directory_of_the_object() {
        let origin = Path::new("/opt/app/lib");
        assert_eq!(
            directories(b"$ORIGIN/../lib:${ORIGIN}:relative::/usr/lib", origin),
            ["/opt/app/lib/../lib", "/opt/app/lib", "/usr/lib"].map(PathBuf::from)
        );
    }

    #[test]
    fn includes_of_the_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("conf"), "include d/*.conf # those\n/last\n").unwrap();
        fs::write(at("d/b.conf"), "/b\n").unwrap();
        fs::write(at("d/a.conf"), "# no\n/a\nrelative\n").unwrap();
        fs::write(at("d/c.other"), "/c\n").unwrap();
        fs::write(at("d/z.conf"), format!("include {}\n", at("conf").display())).unwrap();
        let mut found = Vec::new();
        read_conf(&at("conf"), 0, &mut found);
        assert_eq!(found[..2], ["/a", "/b"].map(PathBuf::from));
        assert!(found.contains(&PathBuf::from("/last")) && !found.contains(&PathBuf::from("/c")));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_damaged_file_panics(places in proptest::collection::vec((0usize..2048, any::<u8>()), 1..12)) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("damaged");
            let mut bytes = fs::read("/proc/self/exe").unwrap();
            bytes.truncate(1 << 20);
            for (at, byte) in places {
                bytes[at] = byte;
            }
            fs::write(&path, bytes).unwrap();
            let _ = closure(&path);
        }
    }
}
