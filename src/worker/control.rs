//! The worker's main loop: signals and the control socket.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Worker;
use super::signals::Signals;
use crate::audit::text::Rfc3339;
use crate::control::protocol::{
    Command, Finding, Healing, Inactive, Latency, Loss, REQUEST_BYTES_MAX, ReloadReply, Request, StatusReply,
    Unmarked,
};
use crate::sys::shared::Stage;
use crate::sys::{clock, histogram};

/// How long a caller may take to send its line and to take its answer. It is root, but it may be stopped.
const CALLER_PATIENCE: Duration = Duration::from_secs(2);
/// The longest wait, milliseconds: a signal between two looks is seen then at the latest.
const WAIT_MS: u16 = 500;

/// Serves until the worker is asked to stop.
pub fn serve(worker: &Worker, listener: &UnixListener, signals: &Signals) {
    loop {
        let mut fds = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        // EINTR and the like: everything is looked at anyway.
        let _ = poll(&mut fds, PollTimeout::from(WAIT_MS));
        worker.look_at_watcher();
        let came = signals.take();
        if came.stop {
            return;
        }
        if came.reload {
            let _ = worker.reload();
        }
        if came.orphaned {
            worker.logger.worker_replaced(
                "the supervisor died: this worker goes on alone and is not replaced if it dies too",
            );
            tracing::error!("the supervisor died; restart writegate");
        }
        while let Ok((caller, _)) = listener.accept() {
            // A caller that goes away in the middle has no other effect.
            let _ = answer(worker, &caller);
        }
    }
}

fn not_covered(paths: &[(PathBuf, impl ToString)]) -> Vec<Unmarked> {
    let shown = |(path, error): &(PathBuf, _)| Unmarked {
        path: path.to_string_lossy().into_owned(),
        error: ToString::to_string(error),
    };
    paths.iter().map(shown).collect()
}

fn answer(worker: &Worker, caller: &UnixStream) -> io::Result<()> {
    caller.set_nonblocking(false)?;
    caller.set_read_timeout(Some(CALLER_PATIENCE))?;
    caller.set_write_timeout(Some(CALLER_PATIENCE))?;
    let mut line = Vec::new();
    BufReader::new(caller.take(REQUEST_BYTES_MAX as u64)).read_until(b'\n', &mut line)?;
    let request: Request = serde_json::from_slice(&line)?;
    let reply = match request.command {
        Command::Status => serde_json::to_vec(&worker.status()),
        Command::Reload => serde_json::to_vec(&worker.reload_reply()),
    }?;
    let mut out = caller;
    out.write_all(&reply)
}

impl Worker {
    fn status(&self) -> StatusReply {
        let page = self.page;
        let snapshot = self.shared.in_force.load().1.snapshot.clone();
        let gauge = self.shared.audit.gauge();
        let (directories, files) = self.shared.table.len();
        let own = &page.supervisor_slot;
        let allowed = page.total(|slot| &slot.allowed)
            + page.supervisor_allowed.load(Relaxed)
            + own.allowed.load(Relaxed);
        let denied = page.total(|slot| &slot.denied)
            + page.total(|slot| &slot.refused)
            + page.supervisor_denied.load(Relaxed)
            + own.denied.load(Relaxed);
        let slots = page.slots.iter().chain([own]);
        let buckets = histogram::sum(slots.map(|slot| &slot.latency));
        let last_loss_ns = gauge.last_loss_ns.unwrap_or(0).max(page.last_loss_ns.load(Relaxed));
        StatusReply {
            ready: page.stage() == Stage::Ready,
            mode: self.options.mode.as_str().to_owned(),
            supervisor_pid: page.supervisor_pid.load(Relaxed),
            worker_pid: page.worker_pid.load(Relaxed),
            restarts: page.restarts.load(Relaxed),
            generation: snapshot.generation,
            policies: snapshot.policies.len() as u64,
            paths: snapshot.trie.len() as u64,
            marks: (directories + files) as u64,
            events: allowed + denied,
            allowed,
            denied,
            latency: Latency {
                p50_ns: histogram::percentile(&buckets, 50),
                p99_ns: histogram::percentile(&buckets, 99),
                buckets,
            },
            healed: page.healed.load(Relaxed),
            healing: self.healing(),
            lost: gauge.lost + page.lost.load(Relaxed),
            queue_depth: gauge.queue_depth as u64,
            uptime_s: clock::realtime_ns().saturating_sub(page.started_ns.load(Relaxed)) / 1_000_000_000,
            inactive: snapshot
                .inactive
                .iter()
                .map(|policy| Inactive { name: policy.name.clone(), reason: policy.reason.clone() })
                .collect(),
            last_loss: (last_loss_ns > 0).then(|| Loss {
                count: gauge.last_loss_count,
                time: Rfc3339 { ns: last_loss_ns, digits: 9 }.to_string(),
            }),
            unmarked: not_covered(&self.unmarked.lock()),
            unheld: not_covered(&self.account.unheld_first.lock()),
            audit_log: self.options.audit_log.to_string_lossy().into_owned(),
        }
    }

    fn healing(&self) -> Healing {
        let account = &self.account;
        Healing {
            names: account.names.load(Relaxed),
            learning: account.learning.load(Relaxed) != 0,
            links: account.links.load(Relaxed),
            copies: account.copies.load(Relaxed),
            unheld: account.unheld.load(Relaxed),
            quarantined: account.quarantined.load(Relaxed),
        }
    }

    fn reload_reply(&self) -> ReloadReply {
        match self.reload() {
            Ok(generation) => ReloadReply { ok: true, generation, diagnostics: Vec::new() },
            Err(error) => ReloadReply {
                ok: false,
                generation: self.shared.in_force.load().1.snapshot.generation,
                diagnostics: error.diagnostics.iter().map(Finding::from).collect(),
            },
        }
    }
}
