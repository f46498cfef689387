//! `audit tail`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use super::args::TailArgs;
use super::report::{Exit, Failure, Report};
use crate::audit::tail::{self, TailError, TailOptions};

pub(super) fn tail(args: TailArgs) -> Result<Report, Failure> {
    let ended = Arc::new(AtomicBool::new(false));
    if args.follow {
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&ended)).map_err(|error| {
                let what = format!("failed to wait for signal {signal}: {error}");
                Failure::new(Exit::Unavailable, what, "run it without --follow")
            })?;
        }
    }
    let options = TailOptions {
        path: args.audit_log.audit_log,
        lines: args.lines,
        follow: args.follow,
        json: args.json,
    };
    let keep_going = || !ended.load(Ordering::Relaxed);
    tail::tail(&options, &mut io::BufWriter::new(io::stdout().lock()), keep_going).map_err(failure)?;
    Ok(Report::text(String::new(), Exit::Done))
}

fn failure(error: TailError) -> Failure {
    match error {
        TailError::Write(error) => Failure::output(&error),
        TailError::Read { path, source } => {
            let what = format!("failed to read the audit log {}: {source}", path.display());
            let (exit, help) = match source.kind() {
                io::ErrorKind::NotFound => {
                    (Exit::Finding, "no gate has written there yet: start one, or name its --audit-log")
                }
                io::ErrorKind::PermissionDenied => {
                    (Exit::Unavailable, "the trail is for root only: run this as root")
                }
                _ => (Exit::Finding, "look at the disk, or name another --audit-log"),
            };
            Failure::new(exit, what, help)
        }
    }
}
