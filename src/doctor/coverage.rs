//! What becomes of each way to change a protected file: the one table to change when the gate learns more. The test
//! `coverage` tries each row on a live gate, and fails where the table says otherwise.

use serde::Serialize;

use super::features::Features;
use crate::policy::explain::Enforcement;

/// A row of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What is done.
    pub mutation: &'static str,
    /// What becomes of it here.
    pub class: Enforcement,
    /// Why, in one sentence.
    pub why: &'static str,
}

/// A row of the table.
#[derive(Debug)]
struct Entry {
    mutation: &'static str,
    class: Enforcement,
    why: &'static str,
    /// Features without which it is not covered.
    needs: &'static [&'static str],
    /// The feature without which nobody can do it here at all.
    only_with: Option<&'static str>,
    /// The feature without which it is not covered although the gate runs, and why not.
    lacking: Option<(&'static str, &'static str)>,
}

impl Entry {
    const fn only_with(self, feature: &'static str) -> Self {
        Self { only_with: Some(feature), ..self }
    }

    const fn lacking(self, feature: &'static str, why: &'static str) -> Self {
        Self { lacking: Some((feature, why)), ..self }
    }
}

const fn prevented(mutation: &'static str, why: &'static str) -> Entry {
    let needs = &["permission_events", "thread_ids"];
    Entry { mutation, class: Enforcement::Prevented, why, needs, only_with: None, lacking: None }
}

const fn healed(mutation: &'static str, why: &'static str) -> Entry {
    let needs = &["permission_events", "thread_ids", "notification_targets"];
    Entry { mutation, class: Enforcement::Healed, why, needs, only_with: None, lacking: None }
}

const fn detected(mutation: &'static str, why: &'static str) -> Entry {
    let needs = &["permission_events", "thread_ids"];
    Entry { mutation, class: Enforcement::Detected, why, needs, only_with: None, lacking: None }
}

const fn none(mutation: &'static str, why: &'static str) -> Entry {
    Entry { mutation, class: Enforcement::None, why, needs: &[], only_with: None, lacking: None }
}

const EXACT: &str = "the opener's registers show its flags, and they cannot change while it is blocked";
const DESCRIPTOR: &str = "it needs a descriptor that is open for writing";
const OBJECT: &str = "marks belong to the object";
const LINK: &str = "the vault's hard link brings back the very inode";
const FOREIGN: &str = "what does not belong there is moved to the quarantine";
const BACK: &str = "it is renamed back from where it is now, or linked again from the vault";
const SET_BACK: &str = "the inventory knows what it was";
const COPY: &str = "the content comes back from the vault's copy, where the file is small enough to have one";

const TABLE: &[Entry] = &[
    prevented("open for writing: open, openat, creat", EXACT),
    prevented(
        "open for writing: openat2",
        "the lease probe sees the opener as a writer, whatever its memory says",
    ),
    prevented("open for writing: io_uring", "the lease probe sees the opener as a writer")
        .only_with("io_uring"),
    prevented("open for writing: i386 system calls", EXACT).only_with("i386"),
    prevented("open for writing: open_by_handle_at", EXACT),
    prevented("open for writing: reopening /proc/self/fd/N", "it is an open of the file like any other"),
    prevented(
        "open for writing: through /proc/<pid>/root, cwd or map_files",
        "it is an open of the file like any other",
    ),
    prevented("empty a file: O_TRUNC", EXACT),
    prevented("empty a file: O_RDONLY|O_TRUNC with open or openat", EXACT),
    prevented("empty a file: O_RDONLY|O_TRUNC with openat2", "the flags are read from the opener's memory"),
    healed("empty a file: O_RDONLY|O_TRUNC with openat2 while another thread rewrites the flags", COPY),
    healed("empty a file: O_RDONLY|O_TRUNC with io_uring", COPY).only_with("io_uring"),
    prevented(
        "empty or extend a file: truncate by path",
        "an event of its own since Linux 6.14, on ext4, xfs and btrfs; healed where a policy says \
         `truncate = \"restore\"`, as the built-in set does for programs and libraries",
    )
    .lacking("pre_access", "it raises no open event, and this kernel or filesystem has no other"),
    healed("empty or extend a file: truncate through an overlay that was mounted on its directory", COPY),
    prevented(
        "shorten a log opened for appending: ftruncate",
        "the same event; applies where a policy permits append and no more",
    )
    .lacking("pre_access", "it raises no open event, and this kernel or filesystem has no other"),
    none(
        "overwrite a log opened for appending, after clearing O_APPEND with fcntl",
        "fcntl raises no event, and a log may be written to: what stood there is not kept",
    ),
    prevented("create a file: O_CREAT", "the new name is removed again before its maker gets an answer"),
    prevented("create a file: O_TMPFILE", EXACT),
    prevented("write with copy_file_range, sendfile, splice or fallocate", DESCRIPTOR),
    prevented("take over or exchange blocks: FICLONE, EXT4_IOC_MOVE_EXT, EXT4_IOC_SWAP_BOOT", DESCRIPTOR),
    prevented("use a file as a disk: swapon, losetup", "both open it for writing"),
    prevented("write through a shared mapping", DESCRIPTOR),
    prevented(
        "write through a symbolic link",
        "the event is about the file, not about the name it was reached by",
    ),
    prevented("write through a bind mount, made before or after the start", OBJECT),
    prevented("write from another mount namespace or container", OBJECT),
    prevented("write through a hard link that exists when the gate starts or reloads", OBJECT),
    healed(
        "write through a hard link made later, outside every protected tree",
        "the name is taken away; until then its opens are refused, because the file itself is marked",
    ),
    healed(
        "write in a directory made later in a protected tree",
        "new directories are marked as soon as they are reported, so opens in one are refused until it is taken away",
    ),
    healed("write through a descriptor from before the start", COPY),
    healed(
        "write through a shared mapping from before the start",
        "the patrol sees the file's time, which the kernel sets at the first write to a page",
    ),
    healed(
        "run a program that replaced a protected one",
        "the program is put back; what already runs goes on",
    ),
    healed("delete a file: unlink", LINK),
    healed("delete a directory: rmdir", "it is made again, what was in it comes from the vault"),
    healed("rename a protected name away", BACK),
    healed("rename a protected name out of the tree", BACK),
    healed(
        "rename something over a protected name",
        "the vault's link takes its place, at no moment without a file",
    ),
    healed("rename something into the tree", FOREIGN),
    healed("exchange a protected name with another: renameat2", BACK),
    healed("leave a whiteout: renameat2", BACK),
    healed("rename or delete the tree itself, or a directory above it", BACK),
    healed(
        "fill a name again and again while it is healed",
        "each time; more often than 20 times in 10 s it is a fight, which is recorded and slowed down",
    ),
    healed("make a hard link: link", FOREIGN),
    healed(
        "make a hard link to a protected file outside the tree",
        "the file tells of its new name, which is taken away",
    ),
    healed("give a file without a name one in the tree: linkat of /proc/self/fd/N", FOREIGN),
    healed("make a symbolic link: symlink", FOREIGN),
    healed("make a directory: mkdir", FOREIGN),
    healed("make a FIFO, socket or device node: mknod", FOREIGN),
    healed("make a file without opening it: mknod", FOREIGN),
    healed("bind a socket to a name: bind", FOREIGN),
    healed("delete or rename through a symbolic link, a bind mount or another mount namespace", OBJECT),
    healed("delete, rename or change by another user who may write there", OBJECT),
    healed("delete or rename what has a name with newlines, invalid UTF-8 or the longest length", LINK),
    healed("change permissions: chmod", SET_BACK),
    healed("change owner or group: chown", SET_BACK),
    healed("change extended attributes, ACLs, file capabilities: setxattr", SET_BACK),
    healed("change times: utimes", SET_BACK),
    healed(
        "change inode flags: chattr",
        "+i and +a; the kernel tells who uses the capability for it (Linux 6.14, tracefs), else the patrol finds it",
    ),
    healed(
        "change inode flags: chattr +d",
        "the patrol finds it, because no event tells; nothing but a backup looks at that flag",
    ),
    none(
        "change other inode flags: chattr +S, +A, +D, +c and the like",
        "neither names nor content change with them, and statx does not tell of all",
    ),
    detected("mount something over a protected path", "the list of mounts tells; what is below is untouched"),
    detected(
        "mount something over a directory above the tree",
        "the list of mounts tells; what is below is untouched",
    ),
    detected(
        "attach a detached mount over a protected path: move_mount",
        "the list of mounts tells; what is below is untouched",
    ),
    healed(
        "mount something over a protected path whose policy says `mount = \"detach\"`",
        "the list of mounts tells; what was not there at the start is unmounted, lazily and by its number",
    ),
    detected(
        "take away a mount inside the tree: umount, mount --move",
        "the list of mounts tells; what lies below is not what was protected",
    ),
    detected(
        "change the options of a mount with protected paths: remount",
        "the list of mounts tells; where it is read-only nothing can be put back",
    ),
    none(
        "mount something over a protected path in a mount namespace of one's own",
        "only those in that namespace see it, and what is protected stays as it is",
    ),
    healed(
        "write through the event descriptors of a fanotify group of the intruder's own",
        "the kernel opens them for him, and what he writes, without an event; the patrol sees the file's time",
    ),
    none("write to the raw block device", "it is a device like any other: protect it by other means"),
    prevented(
        "kill the worker",
        "the supervisor holds the groups, answers what was pending and starts another worker",
    ),
    prevented(
        "kill the supervisor",
        "the worker goes on alone and says so in the trail; nobody replaces it any more",
    ),
    none(
        "kill the supervisor and the worker",
        "the kernel drops the marks with the last descriptor of the group; a service manager starts it again",
    ),
];

/// What becomes of each mutation on a host with these features.
pub fn coverage(features: &Features) -> Vec<Row> {
    TABLE.iter().map(|entry| row(entry, features)).collect()
}

/// The row of one mutation, by its exact name.
pub fn row_of(mutation: &str, features: &Features) -> Option<Row> {
    TABLE.iter().find(|entry| entry.mutation == mutation).map(|entry| row(entry, features))
}

fn row(entry: &Entry, features: &Features) -> Row {
    let Entry { mutation, class, why, needs, only_with, lacking } = *entry;
    if class != Enforcement::None && needs.iter().any(|need| !features.has(need)) {
        let why = "the gate cannot run here: see permission_events and thread_ids above";
        return Row { mutation, class: Enforcement::None, why };
    }
    match only_with {
        Some(feature) if !features.has(feature) => {
            Row { mutation, class: Enforcement::Prevented, why: "nobody can do it here" }
        }
        _ => match lacking {
            Some((feature, why)) if !features.has(feature) => Row { mutation, class: Enforcement::None, why },
            _ => Row { mutation, class, why },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_one_of_its_kind_and_says_why() {
        let mut names: Vec<_> = TABLE.iter().map(|entry| entry.mutation).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
        assert!(TABLE.iter().all(|entry| !entry.why.is_empty() && !entry.why.ends_with('.')));
    }

    #[test]
    fn nothing_is_covered_where_the_gate_cannot_run() {
        let rows = coverage(&Features::of(&["io_uring", "i386"]));
        assert!(rows.iter().all(|row| row.class == Enforcement::None));
        let rows = coverage(&Features::of(&["permission_events", "thread_ids"]));
        let io_uring = rows.iter().find(|row| row.mutation.contains("io_uring")).unwrap();
        assert_eq!((io_uring.class, io_uring.why), (Enforcement::Prevented, "nobody can do it here"));
        let truncation = rows.iter().find(|row| row.mutation.contains("truncate by path")).unwrap();
        assert_eq!(truncation.class, Enforcement::None);
    }
}
