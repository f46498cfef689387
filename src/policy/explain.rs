//! Which policy, which verdict, why: the answer of `explain`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::model::{Mounting, Policy, Response};
use super::resolver::{PathResolver, Resolutions};
use super::snapshot::{Snapshot, WriterMask};
use crate::access::{Access, Mutation};
use crate::verdict::{Change, Outcome, Reason, decide, writers_that_matter};

/// What becomes of the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Enforcement {
    /// It is refused before it happens.
    Prevented,
    /// It is seen and put back.
    Healed,
    /// It is seen and recorded.
    Detected,
    /// Nothing: it is permitted, or the gate does not notice it.
    None,
}

/// The answer; its keys are a public contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The path that was judged, resolved.
    pub path: String,
    /// The access or mutation.
    pub access: &'static str,
    /// `allow`, `deny` or `audit`.
    pub verdict: &'static str,
    /// The policy that decided.
    pub policy: Option<String>,
    /// Why.
    pub reason: String,
    /// What becomes of it.
    pub enforcement: Enforcement,
}

/// The change that a word of the command line means.
pub fn change_from_word(word: &str) -> Option<Change> {
    let access = Access::ALL.into_iter().find(|access| access.as_str() == word).map(Change::Access);
    access.or_else(|| Mutation::ALL.into_iter().find(|m| m.as_str() == word).map(Change::Mutation))
}

/// Every word that [`change_from_word`] takes.
pub fn change_words() -> impl Iterator<Item = &'static str> {
    Access::ALL.into_iter().map(Access::as_str).chain(Mutation::ALL.into_iter().map(Mutation::as_str))
}

/// How a `change` is kept from lasting that this policy blocks.
const fn enforcement_of(change: Change, policy: Option<&Policy>) -> Enforcement {
    match (change, policy) {
        // A permission event covers it.
        (Change::Access(_) | Change::Resize, _) => Enforcement::Prevented,
        // What lies below is only hidden, and whoever mounted it may have been somebody who may.
        (Change::Mutation(Mutation::Mount), Some(Policy { mount: Mounting::Detach, .. })) => {
            Enforcement::Healed
        }
        (Change::Mutation(Mutation::Mount), _) | (_, None) => Enforcement::Detected,
        (Change::Mutation(_), Some(policy)) => afterwards(policy.response),
    }
}

/// What becomes of that which only the watch sees.
const fn afterwards(response: Response) -> Enforcement {
    match response {
        Response::Restore => Enforcement::Healed,
        Response::Alert => Enforcement::Detected,
    }
}

/// Judges `change` of `path` by a process that runs `exe`, or by nobody in particular.
///
/// `exe` is believed: of a real process, far more than its executable's path is verified.
pub fn explain(
    snapshot: &Snapshot,
    resolver: &dyn PathResolver,
    path: &Path,
    change: Change,
    exe: Option<&Path>,
) -> Explanation {
    let path = object_of(path, change, resolver);
    let access = match change {
        Change::Access(access) => access.as_str(),
        Change::Resize => Access::Truncate.as_str(),
        Change::Mutation(mutation) => mutation.as_str(),
    };
    let mut explanation = Explanation {
        path: path.to_string_lossy().into_owned(),
        access,
        verdict: "allow",
        policy: None,
        reason: Reason::NotProtected.as_str().to_owned(),
        enforcement: Enforcement::None,
    };
    let Some(rule) = snapshot.rule_for(path.as_os_str().as_bytes()) else { return explanation };
    let trusted = exe.map_or(WriterMask::NONE, |exe| {
        let named = writers_named(snapshot, &Resolutions::new(resolver).resolve(exe).path);
        WriterMask(named.0 & writers_that_matter(snapshot, rule, change).0)
    });
    let verdict = decide(snapshot, rule, change, trusted);
    let policy = verdict.policy.and_then(|index| snapshot.policies.get(index as usize));
    let response = policy.map_or(Response::Alert, |compiled| compiled.policy.response);
    // Opens with O_TRUNC are prevented all the same; the answer is for the least that is done.
    let unseen = change == Change::Access(Access::Truncate)
        && !rule.policies.iter().any(|&index| snapshot.policies[index as usize].policy.sees_truncations());
    (explanation.verdict, explanation.enforcement) = match verdict.outcome {
        Outcome::Allow => ("allow", Enforcement::None),
        Outcome::Audit if unseen => ("audit", Enforcement::None),
        Outcome::Audit => ("audit", Enforcement::Detected),
        Outcome::Deny if unseen => ("deny", afterwards(response)),
        Outcome::Deny => ("deny", enforcement_of(change, policy.map(|compiled| &compiled.policy))),
    };
    explanation.policy = policy.map(|compiled| compiled.policy.name.clone());
    Explanation { reason: verdict.reason.as_str().to_owned(), ..explanation }
}

/// The writers that list `exe`, a canonical path.
fn writers_named(snapshot: &Snapshot, exe: &Path) -> WriterMask {
    let named =
        snapshot.writers.iter().enumerate().filter(|(_, writer)| writer.exe.iter().any(|own| own == exe));
    WriterMask(named.fold(0, |mask, (index, _)| mask | 1 << index))
}

/// The path that a change is judged by: changes of a name do not follow a link at its end.
fn object_of(path: &Path, change: Change, resolver: &dyn PathResolver) -> PathBuf {
    let mut resolutions = Resolutions::new(resolver);
    let path: PathBuf = path.components().collect();
    let of_a_name = matches!(
        change,
        Change::Mutation(Mutation::Unlink | Mutation::Rename | Mutation::Symlink | Mutation::Mknod)
    );
    match (of_a_name, path.parent(), path.file_name()) {
        (true, Some(parent), Some(name)) => resolutions.resolve(parent).path.join(OsStr::new(name)),
        _ => resolutions.resolve(&path).path,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::policy::check::build;
    use crate::policy::resolver::TestResolver;
    use crate::policy::source::SourceFile;

    fn asked(path: &str, word: &str, exe: Option<&str>) -> Explanation {
        let text = "[[policy]]\nname = 'bin'\npaths = ['/bin/']\nwriters = ['w']\n\
                    [[policy]]\nname = 'log'\naction = 'audit'\nmodification = 'append'\npaths = ['/var/log/']\n\
                    [[policy]]\nname = 'srv'\nresponse = 'alert'\nmount = 'detach'\npaths = ['/srv/']\n\
                    [[policy]]\nname = 'opt'\ntruncate = 'restore'\npaths = ['/opt/']\n\
                    [[writer]]\nname = 'w'\nexe = ['/bin/dpkg']\n";
        let sources = [SourceFile { name: "p.toml".to_owned(), text: text.to_owned() }];
        let resolver = TestResolver::merged_usr();
        let snapshot = build(&sources, &BTreeMap::new(), None, 1, &resolver).snapshot.unwrap();
        let change = change_from_word(word).unwrap();
        explain(&snapshot, &resolver, Path::new(path), change, exe.map(Path::new))
    }

    #[test]
    fn every_word_is_known() {
        assert!(change_words().all(|word| change_from_word(word).is_some()));
        assert_eq!(change_from_word("delete"), None);
    }

    #[test]
    fn a_denied_access_is_prevented_and_a_denied_mutation_is_healed_or_detected() {
        let write = asked("/bin/ls", "write", None);
        assert_eq!(
            serde_json::to_value(&write).unwrap(),
            serde_json::json!({
                "path": "/usr/bin/ls", "access": "write", "verdict": "deny", "policy": "bin",
                "reason": "the policy does not permit this modification", "enforcement": "prevented",
            })
        );
        let unlink = asked("/usr/bin/ls", "unlink", None);
        assert_eq!((unlink.verdict, unlink.enforcement), ("deny", Enforcement::Healed));
        assert_eq!(asked("/bin/ls", "mount", None).enforcement, Enforcement::Detected);
        assert_eq!(asked("/srv/x", "mount", None).enforcement, Enforcement::Healed);
        let alert = asked("/srv/x", "chmod", None);
        assert_eq!((alert.verdict, alert.enforcement), ("deny", Enforcement::Detected));
        assert_eq!(asked("/srv/x", "truncate", None).enforcement, Enforcement::Prevented);
        let audit = asked("/var/log/syslog", "unlink", None);
        assert_eq!((audit.verdict, audit.enforcement), ("audit", Enforcement::Detected));
        assert_eq!(asked("/bin/ls", "exec", None).enforcement, Enforcement::None);
    }

    #[test]
    fn a_writer_and_an_audit_pass() {
        let dpkg = asked("/bin/ls", "write", Some("/bin/dpkg"));
        assert_eq!((dpkg.verdict, dpkg.enforcement), ("allow", Enforcement::None));
        assert_eq!(dpkg.reason, Reason::TrustedWriter.as_str());
        assert_eq!(asked("/bin/ls", "write", Some("/bin/cat")).verdict, "deny");
        let truncate = asked("/var/log/syslog", "truncate", None);
        assert_eq!((truncate.verdict, truncate.enforcement), ("audit", Enforcement::Detected));
        assert_eq!(asked("/var/log/syslog", "append", None).verdict, "allow");
    }

    #[test]
    fn a_truncation_that_nobody_asks_about_is_not_prevented() {
        let refused = asked("/bin/ls", "truncate", None);
        assert_eq!((refused.verdict, refused.enforcement), ("deny", Enforcement::Prevented));
        let restored = asked("/opt/x", "truncate", None);
        assert_eq!((restored.verdict, restored.enforcement), ("deny", Enforcement::Healed));
    }

    #[test]
    fn the_name_of_a_link_is_not_what_it_points_to() {
        assert_eq!(asked("/bin", "unlink", None).policy, None);
        assert_eq!(asked("/bin", "chmod", None).policy.as_deref(), Some("bin"));
        assert_eq!(asked("/home/x", "write", None).reason, "no policy covers this path");
    }
}
