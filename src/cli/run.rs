//! `run`: from arguments to the options of the gate.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

use super::args::{ChosenArgs, RunArgs};
use super::report::{Exit, Failure};
use crate::options::RunOptions;
use crate::supervisor;

pub(super) fn run(args: RunArgs) -> ExitCode {
    match options(args) {
        Ok(options) => {
            let filter = EnvFilter::try_from_env("WRITEGATE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
            tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_writer(std::io::stderr)
                .with_target(false)
                .init();
            supervisor::run(options)
        }
        Err(failure) => failure.print(),
    }
}

fn options(args: RunArgs) -> Result<RunOptions, Failure> {
    let (policy, protect) = chosen(&args.chosen)?;
    Ok(RunOptions {
        policy,
        protect,
        mode: args.mode.into(),
        state_dir: absolute(&args.state_dir)?,
        control: absolute(&args.control.control)?,
        audit_log: absolute(&args.audit_log.audit_log)?,
        audit_format: args.audit_format.into(),
        labels: args.labels.labels.into_iter().collect(),
        threads: args.threads.map(usize::from),
    })
}

/// `--policy` and `--protect`; absolute, because the gate may change its directory.
pub(super) fn chosen(args: &ChosenArgs) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Failure> {
    let all = |paths: &[PathBuf]| paths.iter().map(|path| absolute(path)).collect::<Result<_, _>>();
    Ok((all(&args.policy)?, all(&args.protect)?))
}

/// From the working directory; a trailing slash stays.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("cannot make {:?} absolute: {error}", path.display()),
            "give a path that starts with a slash",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_keeps_its_trailing_slash() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(absolute(Path::new("x/")).unwrap().as_os_str(), here.join("x/").as_os_str());
        assert_eq!(absolute(Path::new("./x")).unwrap().as_os_str(), here.join("x").as_os_str());
        assert_eq!(absolute(Path::new("/a/b/")).unwrap().as_os_str(), "/a/b/");
    }
}
