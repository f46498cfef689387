//! Where policies come from, and what is kept of them for the next worker.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::gate::InForce;
use crate::options::RunOptions;
use crate::policy::builtin::BUILTIN_NAME;
use crate::policy::check;
use crate::policy::choice;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::filesystem::Filesystem;
use crate::policy::snapshot::Snapshot;
use crate::policy::source::{SourceFile, decode_bundle, encode_bundle};
use crate::subject::{Remembered, TrustedWriters};
use crate::supervisor::Inheritance;
use crate::sys::shared::SharedPage;

/// Why there is no new snapshot.
#[derive(Debug, thiserror::Error)]
#[error("{} in the policies", count(.diagnostics))]
pub struct PolicyError {
    /// Every finding.
    pub diagnostics: Vec<Diagnostic>,
}

fn count(diagnostics: &[Diagnostic]) -> String {
    match diagnostics.iter().filter(|found| found.is_error()).count() {
        1 => "1 error".to_owned(),
        errors => format!("{errors} errors"),
    }
}

/// Loads policies and keeps their sources where the next worker finds them.
pub struct Loader {
    options: RunOptions,
    page: &'static SharedPage,
    bundles: [File; 2],
    remembered: Arc<Remembered>,
}

impl Loader {
    /// On the supervisor's memory files.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn new(inheritance: &Inheritance) -> io::Result<Self> {
        let [first, second] = &inheritance.bundles;
        Ok(Self {
            options: inheritance.options.clone(),
            page: inheritance.page,
            bundles: [first.try_clone()?.into(), second.try_clone()?.into()],
            remembered: Arc::default(),
        })
    }

    /// The first snapshot of a worker: a restarted one takes the sources that were in force, whatever has become
    /// of the files since.
    pub fn first(&mut self, restarted: bool) -> Result<InForce, PolicyError> {
        if restarted && let Some(sources) = self.kept() {
            return self.build(&sources, Vec::new(), self.page.generation.load(Relaxed).max(1));
        }
        let (sources, diagnostics) = choice::sources(&self.options.policy, &self.options.protect);
        let first = self.build(&sources, diagnostics, 1)?;
        self.keep(&sources, 1);
        Ok(first)
    }

    /// What the files say now.
    pub fn reload(&mut self, generation: u64) -> Result<(InForce, Vec<SourceFile>), PolicyError> {
        let (sources, diagnostics) = choice::sources(&self.options.policy, &self.options.protect);
        Ok((self.build(&sources, diagnostics, generation)?, sources))
    }

    fn build(
        &self,
        sources: &[SourceFile],
        mut diagnostics: Vec<Diagnostic>,
        generation: u64,
    ) -> Result<InForce, PolicyError> {
        let protect = match check::protect(&self.options.protect, &Filesystem) {
            Ok(protect) => protect,
            Err(found) => {
                diagnostics.push(found);
                None
            }
        };
        let built = check::build(sources, &self.options.labels, protect, generation, &Filesystem);
        diagnostics.extend(built.diagnostics);
        // The built-in set names the tools of every distribution: those that are missing here are no news.
        for found in diagnostics.iter().filter(|found| found.is_error() || found.file != BUILTIN_NAME) {
            eprintln!("{found}");
        }
        let snapshot = match built.snapshot {
            Some(snapshot) if !diagnostics.iter().any(Diagnostic::is_error) => snapshot,
            _ => return Err(PolicyError { diagnostics }),
        };
        warn_of_emptiness(&snapshot);
        let (writers, problems) = TrustedWriters::of(&snapshot, Arc::clone(&self.remembered));
        for problem in problems {
            tracing::warn!("{problem}; it is not trusted");
        }
        Ok(InForce { snapshot: Arc::new(snapshot), writers })
    }

    /// Puts sources where the next worker finds them: into the file that is not valid now, then makes it so.
    pub fn keep(&mut self, sources: &[SourceFile], generation: u64) {
        let next = usize::from(self.page.bundle.load(Acquire) == 1);
        let file = &mut self.bundles[next];
        let written = file
            .set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(&encode_bundle(sources)));
        match written {
            Ok(()) => {
                self.page.generation.store(generation, Relaxed);
                self.page.bundle.store(next as u32 + 1, Release);
            }
            Err(error) => tracing::warn!(%error, "a restarted worker will read the policy files anew"),
        }
    }

    fn kept(&mut self) -> Option<Vec<SourceFile>> {
        let file = match self.page.bundle.load(Acquire) {
            1 => &mut self.bundles[0],
            2 => &mut self.bundles[1],
            _ => return None,
        };
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).ok()?;
        decode_bundle(&bytes).ok()
    }
}

/// A gate that protects nothing must say so.
fn warn_of_emptiness(snapshot: &Snapshot) {
    for inactive in &snapshot.inactive {
        tracing::warn!(policy = %inactive.name, reason = %inactive.reason, "loaded, not applied here");
    }
    if snapshot.policies.is_empty() {
        tracing::warn!("no policy is in force here: nothing is protected");
    }
}
