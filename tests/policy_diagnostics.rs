//! Findings as a person sees them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use writegate::policy::check::{build, check};
use writegate::policy::resolver::{Kind, PathResolver};
use writegate::policy::source::SourceFile;

/// Nothing exists but the root.
struct Empty;

impl PathResolver for Empty {
    fn canonical(&self, path: &Path) -> Option<PathBuf> {
        (path == Path::new("/")).then(|| path.to_owned())
    }

    fn kind(&self, path: &Path) -> Option<Kind> {
        self.canonical(path).map(|_| Kind::Directory)
    }

    fn is_script(&self, _: &Path) -> bool {
        false
    }
}

fn rendered(files: &[(&str, &str)]) -> String {
    let sources: Vec<_> =
        files.iter().map(|(name, text)| SourceFile { name: (*name).into(), text: (*text).into() }).collect();
    let found = check(&sources, &BTreeMap::new(), &Empty);
    let lines: Vec<_> = found.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[track_caller]
fn assert_rendered(files: &[(&str, &str)], expected: &str) {
    let rendered = rendered(files);
    let expected = expected.trim_end_matches('\n');
    assert!(rendered == expected, "rendered:\n{rendered}\nexpected:\n{expected}");
}

#[test]
fn every_error_of_a_file_is_shown() {
    let text = r#"[[policy]]
name = "a"
modificaton = "never"
paths = ["etc/", "/a/../b", ""]
severity = 0
action = "deny"
writers = ["package"]

[[policy]]
name = "a"
paths = []
create = "yes"

[[writer]]
name = "packages"
exe = ["/usr/bin/python3.12", "/usr/bin/"]
blake3 = ["abc"]

[other]
"#;
    assert_rendered(
        &[("p.toml", text)],
        r#"p.toml:3:1: error: unknown key `modificaton` in `[[policy]]`
 3 | modificaton = "never"
   | ^^^^^^^^^^^
   = help: did you mean `modification`?
p.toml:4:10: error: the path is relative
 4 | paths = ["etc/", "/a/../b", ""]
   |          ^^^^^^
   = help: write the path from the root: it starts with `/`
p.toml:4:18: error: the path has a `.` or `..` component
 4 | paths = ["etc/", "/a/../b", ""]
   |                  ^^^^^^^^^
   = help: write the path that is meant, without `.` and `..`
p.toml:4:29: error: the path is empty
 4 | paths = ["etc/", "/a/../b", ""]
   |                             ^^
   = help: give an absolute path, or remove the entry
p.toml:5:12: error: `severity` must lie between 1 and 10
 5 | severity = 0
   |            ^
   = help: 1 is the least severe, 10 the most
p.toml:6:10: error: unknown action `deny`
 6 | action = "deny"
   |          ^^^^^^
   = help: known here: block, audit, allow
p.toml:7:12: error: unknown writer `package`
 7 | writers = ["package"]
   |            ^^^^^^^^^
   = help: did you mean `packages`?
p.toml:10:8: error: a policy named `a` exists already
 10 | name = "a"
    |        ^^^
    = help: the other is in p.toml:2
p.toml:11:1: error: a policy without paths protects nothing
 11 | paths = []
    | ^^^^^
    = help: add `paths = ["/..."]`
p.toml:12:10: error: `create` must be true or false, not a string
 12 | create = "yes"
    |          ^^^^^
p.toml:16:8: error: an interpreter is never a writer by its executable alone
 16 | exe = ["/usr/bin/python3.12", "/usr/bin/"]
    |        ^^^^^^^^^^^^^^^^^^^^^
    = help: it runs whatever it is given: name the program that starts it, with `descendants = true`
p.toml:16:31: error: an executable is a file, not a directory
 16 | exe = ["/usr/bin/python3.12", "/usr/bin/"]
    |                               ^^^^^^^^^^^
    = help: remove the trailing slash
p.toml:17:11: error: a BLAKE3 sum is 64 hexadecimal digits
 17 | blake3 = ["abc"]
    |           ^^^^^
    = help: `b3sum FILE` prints it; a SHA-256 sum does not do
p.toml:19:2: error: unknown key `other` in a policy file
 19 | [other]
    |  ^^^^^
    = help: known here: policy, writer
"#,
    );
}

#[test]
fn a_syntax_error_points_at_itself() {
    assert_rendered(
        &[("p.toml", "[[policy]]\nname = \"a\npaths = [\"/\"]\n")],
        "p.toml:2:10: error: not valid TOML: invalid basic string, expected `\"`
 2 | name = \"a
   |          ^
",
    );
    assert_rendered(
        &[("p.yaml", "kind: KubeArmorPolicy\nmetadata: {name: a\n")],
        "p.yaml:2:11: error: not valid YAML: unclosed bracket '{'
 2 | metadata: {name: a
   |           ^
",
    );
}

#[test]
fn policies_without_names_and_paths_point_at_their_header() {
    assert_rendered(
        &[("p.toml", "\n[[policy]]\n[[writer]]\n")],
        "p.toml:2:1: error: policy without a `name`
 2 | [[policy]]
   | ^^^^^^^^^^
   = help: add `name = \"...\"`
p.toml:2:1: error: a policy without paths protects nothing
 2 | [[policy]]
   | ^^^^^^^^^^
   = help: add `paths = [\"/...\"]`
p.toml:3:1: error: writer without a `name`
 3 | [[writer]]
   | ^^^^^^^^^^
   = help: add `name = \"...\"`
p.toml:3:1: error: a writer without `exe` is nobody
 3 | [[writer]]
   | ^^^^^^^^^^
   = help: add `exe = [\"/...\"]`
",
    );
}

#[test]
fn warnings_of_a_set_that_loads() {
    let first = r#"[[policy]]
name = "a"
paths = ["/srv/www/"]
writers = ["w"]

[[policy]]
name = "b"
action = "allow"
modification = "any"
paths = ["/srv/www/", "/srv/*.log"]
"#;
    let second = "[[writer]]\nname = \"w\"\nexe = [\"/opt/w\"]\n[[policy]]\nname = \"c\"\npaths = [\"/f\"]\ncreate = true\n";
    assert_rendered(
        &[("1.toml", first), ("2.toml", second)],
        r#"1.toml:3:10: warning: the path does not exist yet
 3 | paths = ["/srv/www/"]
   |          ^^^^^^^^^^^
   = help: it is watched for
1.toml:9:1: warning: `modification` has no effect with `action = "allow"`
 9 | modification = "any"
   | ^^^^^^^^^^^^
   = help: an allow policy permits everything: remove the key
1.toml:10:10: warning: policy `a` (1.toml:2) covers /srv/www too
 10 | paths = ["/srv/www/", "/srv/*.log"]
    |          ^^^^^^^^^^^
    = help: all of them apply: the strictest verdict counts
1.toml:10:10: warning: the path does not exist yet
 10 | paths = ["/srv/www/", "/srv/*.log"]
    |          ^^^^^^^^^^^
    = help: it is watched for
1.toml:10:23: warning: wildcards in a path are taken as ordinary characters
 10 | paths = ["/srv/www/", "/srv/*.log"]
    |                       ^^^^^^^^^^^^
    = help: name a directory with a trailing slash to cover what is in it
1.toml:10:23: warning: the path does not exist yet
 10 | paths = ["/srv/www/", "/srv/*.log"]
    |                       ^^^^^^^^^^^^
    = help: it is watched for
2.toml:3:8: warning: the executable does not exist
 3 | exe = ["/opt/w"]
   |        ^^^^^^^^
   = help: nobody is this writer until it does
2.toml:3:8: warning: /opt/w is not protected: whoever replaces it becomes a writer
 3 | exe = ["/opt/w"]
   |        ^^^^^^^^
   = help: cover it with a block policy, or pin it with `blake3`
2.toml:6:10: warning: the path does not exist yet
 6 | paths = ["/f"]
   |          ^^^^
   = help: it is watched for
2.toml:7:1: warning: `create` means nothing for files, and all paths of this policy are files
 7 | create = true
   | ^^^^^^
   = help: a directory is written with a trailing slash
"#,
    );
}

#[test]
fn what_becomes_of_truncations_is_one_of_two_words() {
    let text = "[[policy]]\nname = \"a\"\npaths = [\"/a\"]\ntruncate = \"restored\"\n";
    assert_rendered(
        &[("p.toml", text)],
        r#"p.toml:4:12: error: unknown truncate `restored`
 4 | truncate = "restored"
   |            ^^^^^^^^^^
   = help: did you mean `restore`?
"#,
    );
}

#[test]
fn what_becomes_of_mounts_is_one_of_two_words_of_a_policy_that_blocks() {
    let policy = |action: &str, word: &str| {
        format!("[[policy]]\nname = \"a\"\npaths = [\"/a\"]\naction = \"{action}\"\nmount = \"{word}\"\n")
    };
    assert_rendered(
        &[("p.toml", &policy("block", "detached"))],
        r#"p.toml:5:9: error: unknown mount `detached`
 5 | mount = "detached"
   |         ^^^^^^^^^^
   = help: did you mean `detach`?
"#,
    );
    assert_rendered(
        &[("p.toml", &policy("audit", "detach"))],
        r#"p.toml:3:10: warning: the path does not exist yet
 3 | paths = ["/a"]
   |          ^^^^
   = help: it is watched for
p.toml:5:1: warning: `mount = "detach"` has no effect with `action = "audit"`
 5 | mount = "detach"
   | ^^^^^
   = help: an audit policy records and puts nothing back: block, or remove the key
"#,
    );
    assert_rendered(
        &[("p.toml", &policy("allow", "report"))],
        r#"p.toml:3:10: warning: the path does not exist yet
 3 | paths = ["/a"]
   |          ^^^^
   = help: it is watched for
p.toml:5:1: warning: `mount` has no effect with `action = "allow"`
 5 | mount = "report"
   | ^^^^^
   = help: an allow policy permits everything: remove the key
"#,
    );
}

/// Asking about truncations costs every reader: nothing that all processes read all day, and nothing that is only
/// recorded.
#[test]
fn the_built_in_set_asks_about_truncations_where_few_read() {
    let built = build(&writegate::policy::builtin::sources(), &BTreeMap::new(), None, 1, &Empty);
    let snapshot = built.snapshot.unwrap();
    let asks = |path: &str| {
        let rule = snapshot.rule_for(path.as_bytes()).unwrap();
        rule.policies.iter().any(|&index| snapshot.policies[index as usize].policy.sees_truncations())
    };
    for path in [
        "/usr/bin/ls",
        "/usr/lib/libc.so.6",
        "/usr/lib/systemd/systemd",
        "/etc/ld.so.cache",
        "/etc/hosts",
        "/var/log/audit/audit.log",
    ] {
        assert!(!asks(path), "{path}");
    }
    for path in ["/etc/shadow", "/etc/pam.d/sshd", "/root/.ssh/authorized_keys", "/var/log/auth.log"] {
        assert!(asks(path), "{path}");
    }
}

#[test]
fn the_built_in_set_has_no_errors() {
    let found = check(&writegate::policy::builtin::sources(), &BTreeMap::new(), &Empty);
    assert!(!found.iter().any(writegate::policy::diagnostic::Diagnostic::is_error), "{found:#?}");
}
