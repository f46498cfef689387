//! What becomes of each way to change a protected file: the one table to change when the gate learns more.
//!
//! Names and metadata take their class from [`enforcement_of`], as `explain` does.

use serde::Serialize;

use super::features::Features;
use crate::access::Mutation;
use crate::policy::explain::{Enforcement, enforcement_of};
use crate::policy::model::Response;
use crate::verdict::Change;

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

const fn detected(mutation: &'static str, why: &'static str) -> Entry {
    let needs = &["permission_events", "thread_ids"];
    Entry { mutation, class: Enforcement::Detected, why, needs, only_with: None, lacking: None }
}

const fn none(mutation: &'static str, why: &'static str) -> Entry {
    Entry { mutation, class: Enforcement::None, why, needs: &[], only_with: None, lacking: None }
}

const fn of(change: Mutation, mutation: &'static str, why: &'static str) -> Entry {
    let needs = &["permission_events", "thread_ids", "notification_targets"];
    Entry { class: enforcement_of(Change::Mutation(change), Response::Restore), needs, ..none(mutation, why) }
}

const NO_EVENT: &str = "no permission event exists for it; the watch sees it and puts it back";
const NO_WATCH: &str = "no permission event exists for it; the watch sees it and puts it back";
const EXACT: &str = "the opener's registers show its flags, and they cannot change while it is blocked";

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
    prevented("empty a file: O_TRUNC", EXACT),
    prevented("empty a file: O_RDONLY|O_TRUNC with open or openat", EXACT),
    prevented("empty a file: O_RDONLY|O_TRUNC with openat2", "the flags are read from the opener's memory"),
    none(
        "empty a file: O_RDONLY|O_TRUNC with openat2 while another thread rewrites the flags",
        "neither registers nor the lease probe show it, and the memory that does can be changed",
    ),
    none(
        "empty a file: O_RDONLY|O_TRUNC with io_uring",
        "the flags are hidden and it does not count as a writer: switch io_uring off with \
         kernel.io_uring_disabled=2",
    )
    .only_with("io_uring"),
    prevented(
        "empty or extend a file: truncate by path",
        "an event of its own since Linux 6.14, on ext4, xfs and btrfs; not where a policy says `truncate = \"restore\"`, as \
         the built-in set does for programs and libraries",
    )
    .lacking("pre_access", "it raises no open event, and this kernel or filesystem has no other"),
    none(
        "empty or extend a file: truncate through an overlay that was mounted on its directory",
        "overlayfs resizes the file below it without asking; opens through it are refused",
    ),
    prevented(
        "shorten a log opened for appending: ftruncate",
        "the same event; applies where a policy permits append and no more",
    )
    .lacking("pre_access", "it raises no open event, and this kernel or filesystem has no other"),
    prevented("create a file: O_CREAT", "the new name is removed again before its maker gets an answer"),
    prevented("create a file: O_TMPFILE", EXACT),
    prevented("write through a shared mapping", "it needs a descriptor that is open for writing"),
    prevented(
        "write through a symbolic link",
        "the event is about the file, not about the name it was reached by",
    ),
    prevented("write through a bind mount, made before or after the start", "marks belong to the object"),
    prevented("write from another mount namespace or container", "marks belong to the object"),
    prevented(
        "write through a hard link that exists when the gate starts or reloads",
        "files with several names are marked themselves",
    ),
    none(
        "write through a hard link made later, outside every protected tree",
        "only the directories of a protected tree are marked, and this release does not see links being made",
    ),
    prevented(
        "write in a directory made later in a protected tree",
        "new directories are marked as soon as they are reported",
    ),
    detected(
        "write through a descriptor or shared mapping from before the start",
        "holders are recorded when the gate comes up; what they do later raises no event",
    ),
    none(
        "overwrite a log opened for appending, after clearing O_APPEND with fcntl",
        "fcntl raises no event; applies where a policy permits append",
    ),
    none(
        "run a program that replaced a protected one",
        "the replacement comes by rename, which is not seen; running it is a read",
    ),
    of(Mutation::Unlink, "delete a file: unlink", NO_EVENT),
    of(Mutation::Unlink, "delete a directory: rmdir", NO_EVENT),
    of(Mutation::Rename, "rename a protected name away", NO_EVENT),
    of(Mutation::Rename, "rename something over a protected name", NO_EVENT),
    of(Mutation::Link, "make a hard link: link", NO_EVENT),
    of(Mutation::Link, "make a symbolic link: symlink", NO_EVENT),
    of(Mutation::Mkdir, "make a directory: mkdir", NO_EVENT),
    of(Mutation::Mkdir, "make a FIFO, socket or device node: mknod", NO_EVENT),
    of(Mutation::Chmod, "change permissions: chmod", NO_WATCH),
    of(Mutation::Chown, "change owner or group: chown", NO_WATCH),
    of(Mutation::Setxattr, "change extended attributes, ACLs, file capabilities: setxattr", NO_WATCH),
    none("change times: utimes", NO_WATCH),
    none("change inode flags: chattr", "it raises no event; the open that it needs is a read"),
    none("mount something over a protected path", "this release does not watch mounts"),
    none(
        "write through the event descriptors of a fanotify group of the intruder's own",
        "the kernel opens them for him without an event; /proc/<pid>/fdinfo shows such a group",
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
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn every_row_is_one_of_its_kind_and_says_why() {
        let mut names: Vec<_> = TABLE.iter().map(|entry| entry.mutation).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
        assert!(TABLE.iter().all(|entry| !entry.why.is_empty() && !entry.why.ends_with('.')));
    }

    /// docs/coverage.md is this table, for a host that has everything. `WRITEGATE_BLESS=1` writes it anew.
    #[test]
    fn the_document_is_the_table() {
        let everything = ["permission_events", "thread_ids", "pre_access", "io_uring", "i386"];
        let mut text = include_str!("coverage.md.head").to_owned();
        text.push_str("| technique | what becomes of it | why |\n| --- | --- | --- |\n");
        for row in coverage(&Features::of(&everything)) {
            let class = match row.class {
                Enforcement::Prevented => "prevented",
                Enforcement::Healed => "healed",
                Enforcement::Detected => "detected",
                Enforcement::None => "**not covered**",
            };
            let mutation = row.mutation.replace('|', "\\|");
            let why = row.why.replace('|', "\\|");
            writeln!(text, "| {mutation} | {class} | {why} |").unwrap();
        }
        let document = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/coverage.md");
        if std::env::var_os("WRITEGATE_BLESS").is_some() {
            std::fs::write(document, &text).unwrap();
        }
        let written = std::fs::read_to_string(document).unwrap_or_default();
        assert!(written == text, "docs/coverage.md is out of date: WRITEGATE_BLESS=1 cargo test coverage");
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
