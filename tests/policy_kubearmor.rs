//! `KubeArmor` policies as they stand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use writegate::policy::check::{build, check};
use writegate::policy::diagnostic::Diagnostic;
use writegate::policy::explain::{Enforcement, change_from_word, explain};
use writegate::policy::kubearmor::Labels;
use writegate::policy::load::load;
use writegate::policy::model::{Action, Modification};
use writegate::policy::resolver::{Kind, PathResolver};
use writegate::policy::source::SourceFile;

const SEED: &str = include_str!("data/kubearmor-fim.yaml");

/// A merged-/usr system.
struct MergedUsr;

impl MergedUsr {
    const LINKS: [(&str, &str); 3] = [("/bin", "/usr/bin"), ("/sbin", "/usr/sbin"), ("/lib", "/usr/lib")];

    fn target(path: &Path) -> Option<&'static Path> {
        let link = Self::LINKS.iter().find(|(link, _)| path == Path::new(link));
        link.map(|(_, target)| Path::new(*target))
    }
}

impl PathResolver for MergedUsr {
    fn canonical(&self, path: &Path) -> Option<PathBuf> {
        let path = Self::target(path).unwrap_or(path);
        self.kind(path).map(|_| path.to_owned())
    }

    fn kind(&self, path: &Path) -> Option<Kind> {
        if Self::target(path).is_some() {
            return Some(Kind::Link);
        }
        let directories = ["/", "/usr", "/usr/bin", "/usr/sbin", "/usr/lib", "/boot"];
        directories.contains(&path.to_str()?).then_some(Kind::Directory)
    }

    fn is_script(&self, _: &Path) -> bool {
        false
    }
}

fn yaml(text: &str) -> Vec<SourceFile> {
    vec![SourceFile { name: "p.yaml".to_owned(), text: text.to_owned() }]
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn messages(found: &[Diagnostic]) -> Vec<(u32, &str, &str)> {
    found.iter().map(|d| (d.line, d.level.as_str(), d.message.as_str())).collect()
}

fn document(spec: &str) -> String {
    format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: p}}\nspec:\n{spec}"
    )
}

#[test]
fn the_seed_protects_sbin_where_its_label_is() {
    let built = build(&yaml(SEED), &labels(&[("app", "mysql"), ("tier", "db")]), None, 1, &MergedUsr);
    assert_eq!(built.diagnostics, []);
    let snapshot = built.snapshot.expect("a snapshot");
    assert_eq!(snapshot.policies.len(), 1);
    let policy = &snapshot.policies[0].policy;
    assert_eq!(policy.name, "harden-mysql-file-integrity-monitoring");
    assert_eq!((policy.severity, policy.tags.len(), policy.read), (1, 6, true));
    assert_eq!(policy.message, "Detected and prevented compromise to File integrity");
    assert_eq!(policy.modification, Modification::Never);
    assert!(snapshot.everybody_reads);
    let ask = |path: &str, word: &str| {
        explain(&snapshot, &MergedUsr, Path::new(path), change_from_word(word).expect(word), None)
    };
    let touch = ask("/sbin/file", "create");
    assert_eq!((touch.path.as_str(), touch.verdict), ("/usr/sbin/file", "deny"));
    assert_eq!(touch.enforcement, Enforcement::Prevented);
    assert_eq!(touch.policy.as_deref(), Some("harden-mysql-file-integrity-monitoring"));
    assert_eq!(ask("/sbin/deep/er/file", "write").verdict, "deny");
    assert_eq!(ask("/sbin/file", "read").verdict, "allow");
    assert_eq!(ask("/sbin/file", "unlink").enforcement, Enforcement::Healed);
    assert_eq!(ask("/home/file", "write").policy, None);
    assert!(snapshot.roots().any(|root| root.path == Path::new("/usr/sbin")));
}

#[test]
fn elsewhere_it_is_listed_with_the_reason() {
    let other = load(&yaml(SEED), &labels(&[("app", "nginx")]));
    assert_eq!(other.set.policies, []);
    assert_eq!(other.set.inactive[0].reason, "label app is `nginx` here, not `mysql`");
    let none = load(&yaml(SEED), &BTreeMap::new());
    assert_eq!(none.set.inactive[0].reason, "label app=mysql is missing here");
    assert!(!none.has_errors());
}

#[test]
fn entries_inherit_and_override_and_share_the_name() {
    let text = document(
        "  severity: '7'
  tags: [A]
  message: all
  file:
    action: audit
    matchPaths:
    - path: /etc/shadow
      action: Block
      tags: [B]
    matchDirectories:
    - dir: /etc/
      readOnly: true
    - dir: /opt/
      readOnly: true
      recursive: true
      severity: 2
",
    );
    let loaded = load(&yaml(&text), &BTreeMap::new());
    assert_eq!(loaded.diagnostics, []);
    let policies = &loaded.set.policies;
    assert!(policies.iter().all(|policy| policy.name == "p" && policy.message == "all"));
    let shadow = &policies[0];
    assert_eq!((shadow.action, shadow.read, shadow.severity), (Action::Block, false, 7));
    assert_eq!(shadow.tags, ["B"]);
    let etc = &policies[1];
    assert_eq!((etc.action, etc.read, etc.recursive, etc.severity), (Action::Audit, true, false, 7));
    assert_eq!((policies[2].recursive, policies[2].severity), (true, 2));
}

#[test]
fn what_is_not_enforced_warns_at_its_place() {
    let text = document(
        "  process:
    matchPaths: [{path: /bin/sh}]
  network: {}
  file:
    matchPatterns:
    - pattern: /etc/*.conf
    matchDirectories:
    - dir: /a/
      fromSource: [{path: /bin/cat}]
    - dir: /b/
      ownerOnly: true
    - dir: /c/
      action: Allow
",
    );
    let loaded = load(&yaml(&text), &BTreeMap::new());
    assert_eq!(
        messages(&loaded.diagnostics),
        [
            (5, "warning", "`process` is not enforced yet: this section is not applied"),
            (7, "warning", "`network` is not enforced yet: this section is not applied"),
            (10, "warning", "matchPatterns are not enforced yet: this entry is not applied"),
            (13, "warning", "fromSource is not enforced yet: this entry is not applied"),
            (15, "warning", "ownerOnly is not enforced yet: the entry holds for the owner too"),
            (
                17,
                "warning",
                "Allow makes a default-deny list, which is not enforced yet: this entry is not applied"
            ),
        ]
    );
    let paths: Vec<_> = loaded.set.policies.iter().flat_map(|p| &p.paths).map(|p| &p.path).collect();
    assert_eq!(paths, [Path::new("/b")]);
}

#[test]
fn mistakes_are_errors_with_places() {
    let text = document(
        "  severty: 3
  severity: 11
  action: Deny
  file:
    matchPaths:
    - path: /etc/
    - path: relative
    matchDirectories:
    - dir: /etc
    - recursive: maybe
      dir: /x/
",
    );
    let found = check(&yaml(&text), &BTreeMap::new(), &MergedUsr);
    assert_eq!(
        messages(&found),
        [
            (5, "error", "unknown key `severty` in `spec`"),
            (6, "error", "`severity` must lie between 1 and 10"),
            (7, "error", "unknown action `Deny`"),
            (10, "error", "a `path` does not end with a slash"),
            (11, "error", "the path is relative"),
            (13, "error", "a `dir` ends with a slash"),
            (14, "error", "`recursive` must be true or false, not a string"),
        ]
    );
    assert_eq!(found[0].help.as_deref(), Some("did you mean `severity`?"));
}

#[test]
fn several_documents_and_host_policies() {
    let host = "apiVersion: security.kubearmor.com/v1
kind: KubeArmorHostPolicy
metadata: {name: host}
spec:
  nodeSelector: {matchLabels: {node: 1}}
  file: {matchPaths: [{path: /etc/passwd, readOnly: true}]}
";
    let text = format!("{host}---\n{SEED}---\n---\n{}", host.replace("name: host", "name: other"));
    let loaded = load(&yaml(&text), &labels(&[("node", "1")]));
    assert_eq!(loaded.diagnostics, []);
    assert_eq!((loaded.set.policies.len(), loaded.set.inactive.len()), (2, 1));
    let twice = load(&yaml(&format!("{host}---\n{host}")), &BTreeMap::new());
    assert_eq!(messages(&twice.diagnostics), [(10, "error", "a policy named `host` exists already")]);
    let list = format!("kind: List\napiVersion: v1\nitems:\n- {}", host.trim_end().replace('\n', "\n  "));
    assert_eq!(load(&yaml(&list), &labels(&[("node", "1")])).set.policies.len(), 1);
}

#[test]
fn other_kinds_and_empty_files() {
    assert_eq!(load(&yaml(""), &BTreeMap::new()).diagnostics, []);
    let found = load(&yaml("kind: Deployment\n"), &BTreeMap::new()).diagnostics;
    assert_eq!(messages(&found), [(1, "error", "a document of kind `Deployment` is no policy")]);
    let found = load(&yaml("- 1\n"), &BTreeMap::new()).diagnostics;
    assert_eq!(messages(&found), [(1, "error", "a KubeArmor document must be a table, not an array")]);
}
