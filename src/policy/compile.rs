//! [`PolicySet`] to [`Snapshot`]: symbolic links resolved, policies of the same path merged into one rule.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use thiserror::Error;

use super::model::{Action, Policy, PolicySet};
use super::paths;
use super::resolver::{Kind, PathResolver, Resolutions};
use super::snapshot::{CompiledPolicy, POLICIES_MAX, Rule, Snapshot, WRITERS_MAX, WriterMask};
use crate::trie::{PathTrieBuilder, Reach, RuleId};

/// What no snapshot can be made of.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CompileError {
    /// Rules index policies with 16 bits.
    #[error("the set has {0} policies; {POLICIES_MAX} is the limit")]
    Policies(usize),
    /// Writers are bits of a mask.
    #[error("the set has {0} writers; {WRITERS_MAX} is the limit")]
    Writers(usize),
    /// A link of an innocent name leads to an interpreter.
    #[error(
        "writer `{writer}`: {exe} is the interpreter {resolved}, which is never a writer by its executable alone"
    )]
    Interpreter {
        /// The writer.
        writer: String,
        /// As written.
        exe: PathBuf,
        /// What it leads to.
        resolved: PathBuf,
    },
}

/// One path of one policy, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Index of the policy in its set.
    pub policy: u16,
    /// Index into [`Policy::paths`].
    pub index: u32,
    /// Canonical as far as it exists.
    pub path: PathBuf,
    /// What of it is covered.
    pub reach: Reach,
    /// What lies there; `None` when not all of it exists.
    pub kind: Option<Kind>,
}

/// Resolves every path of `set`, sorted by path, reach and policy.
pub fn resolve(set: &PolicySet, resolver: &dyn PathResolver) -> Result<Vec<Target>, CompileError> {
    if set.policies.len() > POLICIES_MAX {
        return Err(CompileError::Policies(set.policies.len()));
    }
    let mut resolutions = Resolutions::new(resolver);
    let mut targets = Vec::with_capacity(set.policies.iter().map(|policy| policy.paths.len()).sum());
    for (policy_index, policy) in set.policies.iter().enumerate() {
        for (index, protected) in policy.paths.iter().enumerate() {
            let resolved = resolutions.resolve(&protected.path);
            targets.push(Target {
                policy: policy_index as u16,
                index: index as u32,
                path: resolved.path,
                reach: reach_of(policy, protected.tree),
                kind: resolved.kind,
            });
        }
    }
    targets.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
    Ok(targets)
}

fn key(target: &Target) -> (&[u8], u8, u16, u32) {
    (target.path.as_os_str().as_bytes(), target.reach as u8, target.policy, target.index)
}

const fn reach_of(policy: &Policy, tree: bool) -> Reach {
    match (tree, policy.recursive) {
        (false, _) => Reach::File,
        (true, false) => Reach::Entries,
        (true, true) => Reach::Tree,
    }
}

/// The snapshot of `set`. `generation` counts successful loads.
pub fn compile(
    set: PolicySet,
    generation: u64,
    resolver: &dyn PathResolver,
) -> Result<Snapshot, CompileError> {
    let targets = resolve(&set, resolver)?;
    assemble(set, &targets, generation, resolver)
}

/// [`compile`] for targets that are resolved already.
pub fn assemble(
    mut set: PolicySet,
    targets: &[Target],
    generation: u64,
    resolver: &dyn PathResolver,
) -> Result<Snapshot, CompileError> {
    if set.writers.len() > WRITERS_MAX {
        return Err(CompileError::Writers(set.writers.len()));
    }
    for writer in &mut set.writers {
        for exe in &mut writer.exe {
            let resolved = Resolutions::new(resolver).resolve(exe).path;
            if paths::is_interpreter(&resolved) {
                let (writer, exe) = (writer.name.clone(), exe.clone());
                return Err(CompileError::Interpreter { writer, exe, resolved });
            }
            *exe = resolved;
        }
    }
    let mut rules = Rules::default();
    let mut trie = PathTrieBuilder::new();
    for same_path in targets.chunk_by(|a, b| a.path == b.path) {
        for same_reach in same_path.chunk_by(|a, b| a.reach == b.reach) {
            let Some(first) = same_reach.first() else { continue };
            // What reaches further applies here too: the narrower entry would hide it.
            let applies = same_path.iter().filter(|target| target.reach as u8 >= first.reach as u8);
            let rule = rules.intern(applies.map(|target| target.policy).collect());
            trie.insert(first.path.as_os_str().as_bytes(), first.reach, rule);
        }
    }
    let everybody_reads = set.policies.iter().all(|policy| policy.read || policy.action == Action::Allow);
    // POLICIES_MAX keeps every index within 16 bits.
    let everything = Rule { policies: (0..set.policies.len()).map(|index| index as u16).collect() };
    let policies = set.policies.into_iter().map(|mut policy| {
        // From here on they are the roots.
        policy.paths = Vec::new();
        CompiledPolicy { writers: mask_of(&policy), policy }
    });
    Ok(Snapshot {
        generation,
        trie: trie.build(),
        rules: rules.list,
        policies: policies.collect(),
        writers: set.writers,
        everybody_reads,
        everything,
        inactive: set.inactive,
    })
}

fn mask_of(policy: &Policy) -> WriterMask {
    WriterMask(policy.writers.iter().fold(0, |mask, writer| mask | 1 << writer))
}

/// Rules by what they hold: thousands of paths of one policy share one.
#[derive(Default)]
struct Rules {
    list: Vec<Rule>,
    ids: HashMap<Box<[u16]>, RuleId>,
}

impl Rules {
    fn intern(&mut self, mut policies: Vec<u16>) -> RuleId {
        policies.sort_unstable();
        policies.dedup();
        let policies = policies.into_boxed_slice();
        if let Some(id) = self.ids.get(&policies) {
            return *id;
        }
        let id = RuleId(self.list.len() as u32);
        self.list.push(Rule { policies: policies.clone() });
        self.ids.insert(policies, id);
        id
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Write as _;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::policy::load::load;
    use crate::policy::resolver::TestResolver;
    use crate::policy::source::SourceFile;

    fn compiled(text: &str) -> Snapshot {
        let source = SourceFile { name: "p.toml".to_owned(), text: text.to_owned() };
        let loaded = load(&[source], &BTreeMap::new());
        assert!(!loaded.has_errors(), "{:#?}", loaded.diagnostics);
        compile(loaded.set, 1, &TestResolver::merged_usr()).unwrap()
    }

    fn names<'s>(snapshot: &'s Snapshot, path: &str) -> Vec<&'s str> {
        let rule = snapshot.rule_for(path.as_bytes());
        let policies = rule.map(|rule| rule.policies.iter()).into_iter().flatten();
        policies.map(|index| snapshot.policies[*index as usize].policy.name.as_str()).collect()
    }

    #[test]
    fn the_policies_of_one_path_apply_together() {
        let snapshot = compiled(
            "[[policy]]\nname = 'tree'\npaths = ['/etc/']\n\
             [[policy]]\nname = 'own'\nrecursive = false\npaths = ['/etc/', '/var/']\n\
             [[policy]]\nname = 'file'\npaths = ['/etc', '/etc/passwd']\n",
        );
        assert_eq!(names(&snapshot, "/etc"), ["tree", "own", "file"]);
        assert_eq!(names(&snapshot, "/etc/hosts"), ["tree", "own"]);
        assert_eq!(names(&snapshot, "/etc/passwd"), ["file"]);
        assert_eq!(names(&snapshot, "/etc/ssl/certs"), ["tree"]);
        assert_eq!(names(&snapshot, "/var/log"), ["own"]);
        assert_eq!(names(&snapshot, "/var/log/x"), [""; 0]);
        assert_eq!(snapshot.roots().count(), 5);
    }

    #[test]
    fn links_are_resolved_and_missing_tails_kept() {
        let snapshot =
            compiled("[[policy]]\nname = 'p'\npaths = ['/bin/', '/usr/bin/', '/lib/new/dir/', '/no/x']\n");
        let roots: Vec<_> = snapshot.roots().map(|root| root.path.to_str().unwrap()).collect();
        assert_eq!(roots, ["/no/x", "/usr/bin", "/usr/lib/new/dir"]);
        assert_eq!(snapshot.rules.len(), 1);
        assert_eq!(names(&snapshot, "/usr/lib/new/dir/file"), ["p"]);
    }

    #[test]
    fn writers_become_masks_and_canonical() {
        let snapshot = compiled(
            "[[policy]]\nname = 'p'\npaths = ['/']\nwriters = ['b', 'b']\n\
             [[writer]]\nname = 'a'\nexe = ['/x']\n[[writer]]\nname = 'b'\nexe = ['/bin/dpkg']\n",
        );
        assert_eq!(snapshot.policies[0].writers, WriterMask(0b10));
        assert_eq!(snapshot.writers[1].exe, [Path::new("/usr/bin/dpkg")]);
        assert_eq!(names(&snapshot, "/anything"), ["p"]);
    }

    #[test]
    fn everybody_reads_unless_a_policy_objects() {
        let with = |action: &str| {
            compiled(&format!("[[policy]]\nname = 'p'\npaths = ['/a']\nread = false\n{action}"))
        };
        assert!(!with("").everybody_reads);
        assert!(!with("action = 'audit'").everybody_reads);
        assert!(with("action = 'allow'").everybody_reads);
        assert!(compiled("").everybody_reads);
    }

    #[test]
    fn a_hundred_thousand_paths_compile_in_time() {
        let mut text = "[[policy]]\nname = 'p'\npaths = [\n".to_owned();
        for number in 0..100_000 {
            writeln!(text, "'/srv/data/{}/file-{number}',", number % 317).unwrap();
        }
        text.push_str("]\n");
        let started = Instant::now();
        let snapshot = compiled(&text);
        assert!(started.elapsed() < Duration::from_secs(10), "{:?} without optimisation", started.elapsed());
        assert_eq!((snapshot.roots().count(), snapshot.rules.len()), (100_000, 1));
    }
}
