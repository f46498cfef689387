//! What each kind of policy lets happen, and to whom nothing happens.
#![cfg(target_arch = "x86_64")]

mod support;

use std::fs::{self, File};
use std::io;
use std::path::Path;

use libc::{O_APPEND, O_CREAT, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};
use support::{in_lab, raw, refused};

const CONTENT: &str = "as it was";

/// Whether each of these opens passes: read, append, write, truncate, empty without writing, create.
fn passes(directory: &Path) -> [bool; 6] {
    let data = directory.join("data");
    fs::metadata(&data).expect("a file to open");
    let passes = |result: io::Result<_>| match result {
        Ok::<std::os::fd::OwnedFd, _>(_) => true,
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
            false
        }
    };
    let opens = [O_RDONLY, O_WRONLY | O_APPEND, O_RDWR, O_WRONLY | O_TRUNC, O_RDONLY | O_TRUNC];
    let [read, append, write, truncate, empty] = opens.map(|flags| passes(raw::openat(&data, flags)));
    let new = directory.join("new");
    let create = passes(raw::openat(&new, O_CREAT | O_WRONLY));
    assert_eq!(new.exists(), create, "a refused file is taken back");
    [read, append, write, truncate, empty, create]
}

const ALL: [bool; 6] = [true; 6];
const ONLY_READ: [bool; 6] = [true, false, false, false, false, false];

#[test]
fn each_modification() {
    in_lab(60, |lab| {
        let kinds = [
            ("never", "modification = 'never'", ONLY_READ),
            ("append", "modification = 'append'", [true, true, false, false, false, false]),
            ("content", "modification = 'content'", [true, true, true, true, true, false]),
            ("any", "modification = 'any'", ALL),
            (
                "never-create",
                "modification = 'never'\ncreate = true",
                [true, false, false, false, false, true],
            ),
            (
                "append-create",
                "modification = 'append'\ncreate = true",
                [true, true, false, false, false, true],
            ),
            ("allow", "action = 'allow'", ALL),
        ];
        let mut text = String::new();
        for (name, rules, _) in &kinds {
            lab.file(&format!("tree/{name}/data"), CONTENT);
            text += &format!("[[policy]]\nname = '{name}'\npaths = ['@/tree/{name}/']\n{rules}\n");
        }
        lab.file("free/data", CONTENT);
        assert_eq!(passes(&lab.path("free")), ALL, "without a gate");
        let gate = lab.gate(&text);
        for (name, _, expected) in kinds {
            assert_eq!(passes(&lab.path("tree").join(name)), expected, "{name}");
        }
        let record = gate.denial(&lab.path("tree/append/data"), "truncate");
        assert_eq!(record["policy"], "append");
    });
}

/// A file that a `create` policy lets appear is under that policy from its birth on.
#[test]
fn what_was_created_cannot_be_opened_for_writing_again() {
    in_lab(30, |lab| {
        let _gate = lab.gate("[[policy]]\nname = 'drop'\npaths = ['@/tree/']\ncreate = true\n");
        let path = lab.path("tree/new");
        let file = raw::openat(&path, O_CREAT | O_WRONLY).unwrap();
        io::Write::write_all(&mut File::from(file), b"once").unwrap();
        refused(raw::openat(&path, O_WRONLY));
        refused(raw::openat(&path, O_CREAT | O_WRONLY));
        assert_eq!(fs::read_to_string(&path).unwrap(), "once");
    });
}

#[test]
fn the_deeper_policy_wins_and_trees_end_where_they_should() {
    in_lab(30, |lab| {
        for name in ["", "open/", "open/shut/", "flat/", "flat/below/"] {
            lab.file(&format!("tree/{name}data"), CONTENT);
        }
        lab.file("single/data", CONTENT);
        lab.file("single/other/data", CONTENT);
        lab.file("treetop/data", CONTENT);
        let _gate = lab.gate(
            "[[policy]]\nname = 'tree'\npaths = ['@/tree/']\n\
             [[policy]]\nname = 'exception'\naction = 'allow'\npaths = ['@/tree/open/']\n\
             [[policy]]\nname = 'again'\npaths = ['@/tree/open/shut/']\n\
             [[policy]]\nname = 'flat'\npaths = ['@/flat/']\nrecursive = false\n\
             [[policy]]\nname = 'single'\npaths = ['@/single/data']\n",
        );
        assert_eq!(passes(&lab.path("tree")), ONLY_READ);
        assert_eq!(passes(&lab.path("tree/open")), ALL);
        assert_eq!(passes(&lab.path("tree/open/shut")), ONLY_READ);
        assert_eq!(passes(&lab.path("single/other")), ALL);
        assert_eq!(passes(&lab.path("treetop")), ALL, "a tree's name is no prefix of another's");
        let [.., create] = passes(&lab.path("single"));
        assert!(create, "only the one file is protected");
        refused(raw::openat(&lab.path("single/data"), O_WRONLY));
    });
}

#[test]
fn without_recursion_only_the_own_entries_are_protected() {
    in_lab(30, |lab| {
        lab.file("tree/data", CONTENT);
        lab.file("tree/below/data", CONTENT);
        let _gate = lab.gate("[[policy]]\nname = 'flat'\npaths = ['@/tree/']\nrecursive = false\n");
        assert_eq!(passes(&lab.tree()), ONLY_READ);
        assert_eq!(passes(&lab.path("tree/below")), ALL);
    });
}

#[test]
fn only_writers_may_read_what_is_not_readable() {
    in_lab(30, |lab| {
        let path = lab.file("tree/secret", CONTENT);
        lab.file("free/data", CONTENT);
        let gate = lab.gate("[[policy]]\nname = 'secret'\npaths = ['@/tree/']\nread = false\n");
        refused(raw::openat(&path, O_RDONLY));
        refused(raw::openat2(&path, O_RDONLY));
        assert_eq!(gate.denial(&path, "read")["policy"], "secret");
        raw::openat(&lab.path("free/data"), O_RDONLY).unwrap();
    });
}

#[test]
fn audit_records_and_refuses_nothing() {
    in_lab(30, |lab| {
        lab.file("tree/data", CONTENT);
        let gate = lab.gate("[[policy]]\nname = 'look'\naction = 'audit'\npaths = ['@/tree/']\n");
        assert_eq!(passes(&lab.tree()), ALL);
        for (name, access) in [("data", "write"), ("data", "append"), ("data", "truncate"), ("new", "create")]
        {
            let path = lab.path("tree").join(name);
            let record =
                gate.record(|record| record["path"] == path.to_str().unwrap() && record["access"] == access);
            assert_eq!(record["verdict"], "audit", "{record:#}");
            assert!(record.get("rolled_back").is_none(), "{record:#}");
        }
        assert_eq!(gate.status()["denied"], 0);
    });
}

#[test]
fn of_several_policies_the_strictest_counts() {
    in_lab(30, |lab| {
        let path = lab.file("tree/data", CONTENT);
        let gate = lab.gate(
            "[[policy]]\nname = 'loose'\npaths = ['@/tree/']\nmodification = 'content'\n\
             [[policy]]\nname = 'look'\npaths = ['@/tree/']\naction = 'audit'\nseverity = 9\n\
             [[policy]]\nname = 'grow'\npaths = ['@/tree/']\nmodification = 'append'\n",
        );
        assert_eq!(passes(&lab.tree()), [true, true, false, false, false, false]);
        assert_eq!(gate.denial(&path, "write")["policy"], "grow");
        let appended = gate.record(|record| record["access"] == "append");
        assert_eq!((&appended["verdict"], &appended["policy"]), (&"audit".into(), &"look".into()));
    });
}

#[test]
fn a_reload_changes_what_is_protected() {
    in_lab(30, |lab| {
        lab.file("tree/data", CONTENT);
        lab.file("free/data", CONTENT);
        let gate = lab.gate("[[policy]]\nname = 'one'\npaths = ['@/tree/']\n");
        assert_eq!(passes(&lab.tree()), ONLY_READ);
        lab.write_policy("[[policy]]\nname = 'two'\npaths = ['@/free/']\n");
        assert!(gate.command(&["reload"]).status.success());
        assert_eq!(passes(&lab.tree()), ALL);
        assert_eq!(passes(&lab.path("free")), ONLY_READ);
        gate.record(|record| record["verdict"] == "reloaded");
        assert_eq!(gate.status()["generation"], 2);
    });
}
