//! What the healer is to keep at a path: a pure function of the policies.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::access::{Access, Mutation};
use crate::heal::{Content, Duties, Duty};
use crate::policy::model::Response;
use crate::policy::snapshot::{Rule, Snapshot, WriterMask};
use crate::verdict::{Change, Outcome, decide};

/// The duties under one snapshot.
pub fn duties(snapshot: &Arc<Snapshot>) -> Duties {
    let snapshot = Arc::clone(snapshot);
    Arc::new(move |path| duty_at(&snapshot, path))
}

/// What is to be kept at `path`, a canonical one.
pub fn duty_at(snapshot: &Snapshot, path: &Path) -> Duty {
    let path = path.as_os_str().as_bytes();
    let mut duty = snapshot.rule_for(path).map_or(Duty::NONE, |rule| duty_under(snapshot, rule));
    // The directories above a protected name: without them it does not exist.
    duty.names |= snapshot.trie.below(path);
    duty
}

fn duty_under(snapshot: &Snapshot, rule: &Rule) -> Duty {
    let keeps = |change| {
        let verdict = decide(snapshot, rule, change, WriterMask::NONE);
        verdict.outcome == Outcome::Deny
            && verdict
                .policy
                .and_then(|index| snapshot.policies.get(index as usize))
                .is_some_and(|compiled| compiled.policy.response == Response::Restore)
    };
    Duty {
        names: keeps(Change::Mutation(Mutation::Unlink)),
        foreign: keeps(Change::Access(Access::Create)),
        metadata: keeps(Change::Mutation(Mutation::Chmod)),
        content: if keeps(Change::Access(Access::Append)) {
            Content::Fixed
        } else if keeps(Change::Access(Access::Truncate)) {
            Content::Grows
        } else {
            Content::Free
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::check::build;
    use crate::policy::kubearmor::Labels;
    use crate::policy::resolver::TestResolver;
    use crate::policy::source::SourceFile;

    fn duty(policy: &str, path: &str) -> Duty {
        let source = SourceFile { name: "p".to_owned(), text: format!("[[policy]]\nname = 'p'\n{policy}") };
        let built = build(&[source], &Labels::new(), None, 1, &TestResolver::merged_usr());
        duty_at(&built.snapshot.expect("a good policy"), Path::new(path))
    }

    #[test]
    fn each_policy_says_what_is_kept() {
        let never = "paths = ['/srv/a/']\n";
        assert_eq!(duty(never, "/srv/a/x"), Duty::ALL);
        let above = Duty { names: true, ..Duty::NONE };
        assert_eq!(duty(never, "/srv"), above);
        assert_eq!(duty(never, "/home"), Duty::NONE);
        let grows = Duty { content: Content::Grows, ..Duty::ALL };
        assert_eq!(duty("paths = ['/srv/a/']\nmodification = 'append'\n", "/srv/a/log"), grows);
        let open = Duty { foreign: false, ..Duty::ALL };
        assert_eq!(duty("paths = ['/srv/a/']\ncreate = true\n", "/srv/a/x"), open);
        for nothing in
            ["modification = 'any'", "modification = 'content'", "response = 'alert'", "action = 'audit'"]
        {
            assert_eq!(
                duty(&format!("paths = ['/srv/a/']\n{nothing}\n"), "/srv/a/x"),
                Duty::NONE,
                "{nothing}"
            );
        }
        let content = Duty { content: Content::Free, ..Duty::ALL };
        let asked = "paths = ['/srv/a/']\nmodification = 'content'\nresponse = 'restore'\n";
        assert_eq!(duty(asked, "/srv/a/x"), content);
    }
}
