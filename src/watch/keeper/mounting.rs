//! Mounts over protected paths: recorded, and taken away where the policy says so.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::Keeper;
use super::conclude::{governing, standing_verdict};
use crate::access::Mutation;
use crate::audit::record::Kind;
use crate::heal::fight::{Fights, WINDOW};
use crate::policy::model::Mounting;
use crate::policy::snapshot::Snapshot;
use crate::verdict::{Change, Outcome, Reason, Verdict};
use crate::watch::mounts::{MountWatch, Remount, Stays, Turn};
use crate::watch::report::About;

/// How long mounts are taken away between two looks at the notifications: some hundred.
const AT_ONCE: Duration = Duration::from_millis(50);

/// What is to be taken away.
struct Wanted {
    mount: Remount,
    /// The protected path that it hides.
    path: PathBuf,
    /// That it stays is on record.
    told: bool,
}

/// Mounts that are still to be taken away.
#[derive(Default)]
pub(super) struct Mountings {
    fights: Fights,
    /// Those that could not be, or are fought over: until nothing stands there any more. Each change of the list may
    /// have uncovered them.
    waiting: Vec<Wanted>,
    /// Those for which there was no time.
    rest: Vec<Wanted>,
}

impl Mountings {
    /// When one that waits is to be tried again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.rest.is_empty() { self.fights.next_due() } else { Some(Instant::now()) }
    }
}

impl Keeper {
    /// Whether a mount that was left for a while is due.
    pub fn has_mounts_due(&self) -> bool {
        self.mountings.next_due().is_some_and(|at| at <= Instant::now())
    }

    /// Deals with what has become of mounts.
    pub fn take_mounts(&mut self, watch: &mut MountWatch, found: Vec<Remount>) {
        let snapshot = self.snapshot();
        let now = Instant::now();
        self.mountings.fights.take_due(now);
        let mut wanted = std::mem::take(&mut self.mountings.waiting);
        for mount in found {
            let paths = mount.paths(&snapshot);
            let hidden = paths.iter().find(|path| mount.turn == Turn::Came && is_to_go(&snapshot, path));
            if let Some(path) = hidden {
                wanted.push(Wanted { path: path.clone(), mount, told: false });
            } else {
                let path = paths.first().unwrap_or(&mount.point);
                self.record_mount(path, &mount, &detail(&mount), None);
            }
        }
        let Mountings { fights, waiting, rest } = &mut self.mountings;
        let (later, mut wanted): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|one| fights.hold_off(&one.mount.point, now).is_some());
        waiting.extend(later);
        wanted.append(rest);
        if !wanted.is_empty() {
            self.detach(watch, wanted, now);
        }
    }

    fn detach(&mut self, watch: &mut MountWatch, mut wanted: Vec<Wanted>, since: Instant) {
        let mut plan = watch.plan();
        wanted.sort_by_cached_key(|one| plan.rank(&one.mount));
        let mut gone = HashSet::new();
        // Not from before the plan, which may take as long: some go at each look.
        let started = Instant::now();
        for one in wanted {
            if gone.contains(&one.mount.id) {
                self.detached(&one, since);
            } else if started.elapsed() > AT_ONCE {
                self.mountings.rest.push(one);
            } else {
                match watch.detach(&mut plan, &one.mount) {
                    Ok(ids) => {
                        gone.extend(ids);
                        self.detached(&one, since);
                    }
                    Err(stays) => self.stays(one, stays),
                }
            }
        }
    }

    fn stays(&mut self, mut one: Wanted, why: Stays) {
        if !one.told {
            let detail = format!("{}; not unmounted: {why}", detail(&one.mount));
            self.record_mount(&one.path, &one.mount, &detail, None);
            one.told = true;
        }
        if !matches!(why, Stays::Older | Stays::Gone) {
            self.mountings.waiting.push(one);
        }
    }

    fn detached(&mut self, one: &Wanted, since: Instant) {
        self.shared.page.healed.fetch_add(1, Relaxed);
        let mut detail = format!("what was mounted over it was unmounted: {}", one.mount.what);
        if let Some(heals) = self.mountings.fights.note(&one.mount.point, Instant::now()) {
            let seconds = WINDOW.as_secs();
            detail = format!("{detail}; a fight: {heals} times in {seconds} s, and it goes on");
        }
        self.record_mount(&one.path, &one.mount, &detail, Some(since));
    }

    /// `healed`: since when.
    fn record_mount(&mut self, path: &Path, mount: &Remount, detail: &str, healed: Option<Instant>) {
        let snapshot = self.snapshot();
        let verdict = match governing(&snapshot, path) {
            Some(_) => standing_verdict(&snapshot, path),
            None => Verdict { outcome: Outcome::Deny, policy: None, reason: Reason::OwnState },
        };
        let change = Change::Mutation(Mutation::Mount);
        let about = About { snapshot: &snapshot, verdict, change, path, tid: 0 };
        let Some(mut record) = self.reporter.open(&self.proc, self.trust.lineage(), about) else { return };
        record.alias = record.push_text(mount.point.as_os_str().as_bytes());
        record.detail = record.push_text(detail.as_bytes());
        if let Some(since) = healed {
            record.kind = Kind::Healed;
            record.response.healed_ns = since.elapsed().as_nanos() as u64;
        }
        self.reporter.send(record);
    }
}

/// Whether what hides `path` is to be taken away.
fn is_to_go(snapshot: &Snapshot, path: &Path) -> bool {
    let verdict = standing_verdict(snapshot, path);
    let policy = verdict.policy.and_then(|index| snapshot.policies.get(index as usize));
    verdict.outcome == Outcome::Deny && policy.is_some_and(|found| found.policy.mount == Mounting::Detach)
}

fn detail(mount: &Remount) -> String {
    let what = &mount.what;
    match mount.turn {
        Turn::Came => {
            format!("something was mounted over it: what is below is not what is protected ({what})")
        }
        Turn::Went => format!("what was mounted here is gone: what lies below was not protected ({what})"),
        Turn::Altered => format!("it is mounted with other options now: {what}"),
    }
}
