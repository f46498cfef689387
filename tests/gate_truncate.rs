//! truncate(2) by path is refused, and what else raises the same event passes.
#![cfg(target_arch = "x86_64")]

mod support;

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use io_uring::squeue::Flags;
use nix::mount::MsFlags;
use support::{Gate, Lab, actor, raw, refused};

const CONTENT: &str = "as it was";
/// Much longer than it takes to count an event that was answered.
const COUNTED_WITHIN: Duration = Duration::from_millis(100);

/// A lab where the kernel can ask about truncations.
fn in_lab<F: FnOnce(&Lab)>(limit_s: u64, body: F) {
    support::in_lab(limit_s, |lab| {
        let probe = raw::cstr(&lab.file("free/probe", CONTENT));
        match writegate::sys::features::pre_access(&probe) {
            Ok(()) => body(lab),
            Err(error) => support::skip(std::any::type_name::<F>(), &format!("no FAN_PRE_ACCESS: {error}")),
        }
    });
}

fn truncated(path: &Path, length: i64) -> io::Result<()> {
    raw::truncate(path, length)
}

/// How many events `act` raises. An opener goes on a moment before its event is counted.
fn events_of(gate: &Gate<'_>, act: impl FnOnce()) -> u64 {
    let events = || {
        std::thread::sleep(COUNTED_WITHIN);
        gate.status()["events"].as_u64().unwrap()
    };
    let before = events();
    act();
    events() - before
}

fn read_to_end(path: &Path) {
    assert_eq!(fs::read_to_string(path).unwrap(), CONTENT);
}

#[test]
fn a_truncation_by_path_is_refused() {
    type Truncate = fn(&Path, i64) -> io::Result<()>;
    in_lab(60, |lab| {
        let calls: [(&str, Truncate); 3] = [
            ("truncate", raw::truncate),
            ("truncate", raw::truncate_i386),
            ("truncate64", raw::truncate64_i386),
        ];
        for (index, (_, truncate)) in calls.into_iter().enumerate() {
            let free = lab.file(&format!("free/{index}"), CONTENT);
            truncate(&free, 2).unwrap();
            assert_eq!(fs::metadata(free).unwrap().len(), 2, "it works without a gate");
            lab.file(&format!("tree/below/{index}"), CONTENT);
        }
        let before = lab.contents();
        let gate = lab.protect_tree();
        for (index, (name, truncate)) in calls.into_iter().enumerate() {
            let path = lab.path(&format!("tree/below/{index}"));
            for length in [0, 2, 4096, 10_000] {
                refused(truncate(&path, length));
            }
            let record = gate.denial(&path, "truncate");
            assert_eq!(record["syscall"], name, "{record:#}");
            assert_eq!(record["policy"], "protect");
            assert_eq!(record["subject"]["pid"], std::process::id());
            assert!(record.get("flags").is_none(), "{record:#}");
            assert!(record.get("rolled_back").is_none(), "{record:#}");
        }
        assert_eq!(lab.contents(), before);
        gate.has_denied(calls.len() * 4);
    });
}

#[test]
fn a_truncation_under_another_name_is_refused() {
    in_lab(60, |lab| {
        let path = lab.file("tree/data", CONTENT);
        let linked = lab.file("tree/linked", CONTENT);
        fs::hard_link(&linked, lab.path("free/linked")).unwrap();
        symlink(&path, lab.path("free/symlink")).unwrap();
        fs::create_dir(lab.path("mount")).unwrap();
        lab.bind(&lab.tree(), &lab.path("mount"));
        let before = lab.contents();
        let gate = lab.protect_tree();
        for (alias, path) in [("free/symlink", &path), ("free/linked", &linked), ("mount/data", &path)] {
            refused(truncated(&lab.path(alias), 0));
            gate.denial(path, "truncate");
        }
        assert_eq!(lab.contents(), before);
    });
}

/// Everything else that raises the event: none of it is refused, and none is on record.
#[test]
fn whatever_reads_passes_and_leaves_no_record() {
    in_lab(60, |lab| {
        let path = lab.file("tree/data", CONTENT);
        let program = lab.path("tree/true");
        fs::copy("/bin/true", &program).unwrap();
        let gate = lab.protect_tree();
        let mut file = File::open(&path).unwrap();
        let events = events_of(&gate, || {
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            let mut some = [0; 2];
            file.read_exact_at(&mut some, 3).unwrap();
            assert_eq!((text.as_str(), &some), (CONTENT, b"it"));
            for submission in [Flags::empty(), Flags::ASYNC] {
                file.seek(SeekFrom::Start(0)).unwrap();
                assert_eq!(raw::read_uring(&file, &mut some, submission).unwrap(), 2);
            }
            let mut copy = File::create(lab.path("free/copy")).unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            // copy_file_range, sendfile or splice, as the library likes.
            assert_eq!(io::copy(&mut file, &mut copy).unwrap(), CONTENT.len() as u64);
        });
        assert!(events >= 5, "the gate saw {events} events");
        // SAFETY: a new private mapping of a file that is open for reading; it stays.
        let mapped = unsafe {
            let (read, private) = (libc::PROT_READ, libc::MAP_PRIVATE);
            libc::mmap(std::ptr::null_mut(), CONTENT.len(), read, private, file.as_raw_fd(), 0)
        };
        assert!(mapped != libc::MAP_FAILED);
        assert!(Command::new(&program).status().unwrap().success());
        assert_eq!(gate.status()["denied"], 0);
        let kinds: Vec<_> = gate.stop().iter().map(|record| record["verdict"].to_string()).collect();
        assert_eq!(kinds, ["\"started\"", "\"stopped\""]);
    });
}

#[test]
fn a_trusted_writer_truncates() {
    in_lab(60, |lab| {
        let path = lab.file("tree/data", CONTENT);
        let (writer, other) = (lab.path("tree/writer"), lab.path("free/other"));
        actor::build(&writer, &[]);
        fs::copy(&writer, &other).unwrap();
        let gate = lab.gate(
            "[[policy]]\nname = 'p'\npaths = ['@/tree/']\nwriters = ['w']\n\
             [[writer]]\nname = 'w'\nexe = ['@/tree/writer']\n",
        );
        let truncate = [Path::new("truncate"), &path];
        assert_eq!(actor::errno(&other, &truncate), libc::EPERM);
        read_to_end(&path);
        assert_eq!(actor::errno(&writer, &truncate), 0);
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
        gate.has_denied(1);
    });
}

/// What a policy permits, it permits to truncate(2) too; audit records it.
#[test]
fn a_truncation_is_judged_by_its_policy() {
    in_lab(60, |lab| {
        for name in ["content", "audit", "append"] {
            lab.file(&format!("tree/{name}/data"), CONTENT);
        }
        let gate = lab.gate(
            "[[policy]]\nname = 'content'\npaths = ['@/tree/content/']\nmodification = 'content'\n\
             [[policy]]\nname = 'audit'\npaths = ['@/tree/audit/']\naction = 'audit'\n\
             [[policy]]\nname = 'append'\npaths = ['@/tree/append/']\nmodification = 'append'\n",
        );
        truncated(&lab.path("tree/content/data"), 0).unwrap();
        let audited = lab.path("tree/audit/data");
        truncated(&audited, 0).unwrap();
        let record = gate.record(|record| record["verdict"] == "audit");
        assert_eq!((&record["access"], &record["path"]), (&"truncate".into(), &audited.to_str().into()));
        refused(truncated(&lab.path("tree/append/data"), 100));
    });
}

/// What a descriptor may do was judged when it was opened; only that a log does not shrink was not.
#[test]
fn a_resize_through_a_descriptor_is_refused_where_only_appending_is_permitted() {
    in_lab(60, |lab| {
        let log = lab.file("tree/log", CONTENT);
        fs::create_dir(lab.path("tree/new")).unwrap();
        let gate = lab.gate(
            "[[policy]]\nname = 'log'\npaths = ['@/tree/log']\nmodification = 'append'\n\
             [[policy]]\nname = 'new'\npaths = ['@/tree/new/']\ncreate = true\n",
        );
        let mut file = File::options().read(true).append(true).open(&log).unwrap();
        file.write_all(b", and more").unwrap();
        for length in [0, 3, 5000] {
            refused(file.set_len(length));
        }
        assert_eq!(gate.denial(&log, "truncate")["syscall"], "ftruncate");
        refused(raw::ftruncate_uring(&file, 0));
        assert_eq!(fs::read_to_string(&log).unwrap(), "as it was, and more");
        let new = File::create_new(lab.path("tree/new/data")).unwrap();
        new.set_len(5000).unwrap();
        raw::ftruncate_uring(&new, 3).unwrap();
        gate.has_denied(4);
    });
}

#[test]
fn a_protected_file_costs_its_neighbours_nothing() {
    in_lab(60, |lab| {
        let path = lab.file("tree/data", CONTENT);
        let neighbour = lab.file("tree/neighbour", CONTENT);
        let gate = lab.gate("[[policy]]\nname = 'p'\npaths = ['@/tree/data', '@/tree/later']\n");
        assert_eq!(events_of(&gate, || read_to_end(&neighbour)), 1, "its open");
        assert!(events_of(&gate, || read_to_end(&path)) > 1, "its open and its reads");
        refused(truncated(&path, 0));
        // One that is made, or renamed there, later is covered too.
        for source in ["free/a", "free/b"] {
            let later = lab.path("tree/later");
            fs::rename(lab.file(source, CONTENT), &later).unwrap();
            gate.until(|| truncated(&later, CONTENT.len() as i64).is_err().then_some(()));
            refused(truncated(&later, 0));
            read_to_end(&later);
        }
    });
}

#[test]
fn where_it_is_restored_reads_cost_nothing() {
    // Healing opens the file too, which would be counted here.
    let policy = |truncate: &str| {
        format!("[[policy]]\nname = 'p'\npaths = ['@/tree/']\nresponse = 'alert'\ntruncate = '{truncate}'\n")
    };
    in_lab(60, |lab| {
        let path = lab.file("tree/data", CONTENT);
        let same = CONTENT.len() as i64;
        let gate = lab.gate(&policy("restore"));
        let is_free = || {
            assert_eq!(events_of(&gate, || read_to_end(&path)), 1, "its open");
            truncated(&path, same).unwrap();
        };
        is_free();
        let reload = |truncate: &str| {
            lab.write_policy(&policy(truncate));
            assert!(gate.command(&["reload"]).status.success());
        };
        reload("refuse");
        assert!(events_of(&gate, || read_to_end(&path)) > 1);
        refused(truncated(&path, same));
        reload("restore");
        is_free();
        // What is left of the mark still does its work.
        refused(raw::openat(&path, libc::O_WRONLY));
    });
}

/// tmpfs cannot ask about truncations; all the rest holds there.
#[test]
fn where_the_filesystem_cannot_ask_opens_are_still_refused() {
    support::in_lab(60, |lab| {
        lab.mount(Path::new("none"), &lab.tree(), Some("tmpfs"), MsFlags::empty());
        let path = lab.file("tree/data", CONTENT);
        let gate = lab.protect_tree();
        truncated(&path, CONTENT.len() as i64).unwrap();
        assert_eq!(events_of(&gate, || read_to_end(&path)), 1, "its open");
        refused(raw::openat(&path, libc::O_WRONLY));
        gate.denial(&path, "write");
    });
}
