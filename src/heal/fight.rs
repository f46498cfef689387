//! When somebody changes a path again as fast as it is put right.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// So many heals of one path within [`WINDOW`] are a fight.
pub const HEALS_MAX: u32 = 20;
/// See [`HEALS_MAX`]. After this much quiet, all is forgotten.
pub const WINDOW: Duration = Duration::from_secs(10);
/// The first pause; each next one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
/// The longest pause: how long a change may then stand.
const PAUSE_LONGEST: Duration = Duration::from_secs(2);
/// How many paths are counted; then those that are quiet are forgotten.
const PATHS_MAX: usize = 4096;

#[derive(Debug)]
struct Fight {
    first: Instant,
    last: Instant,
    heals: u32,
    pause: Duration,
    until: Option<Instant>,
    waiting: bool,
}

/// Counts heals by path.
#[derive(Debug, Default)]
pub struct Fights(HashMap<PathBuf, Fight>);

impl Fights {
    /// How long the path must wait; it is then due later.
    pub fn hold_off(&mut self, path: &Path, now: Instant) -> Option<Duration> {
        let fight = self.0.get_mut(path)?;
        let left = fight.until?.checked_duration_since(now).filter(|left| !left.is_zero());
        fight.waiting = left.is_some();
        left
    }

    /// The path was put right. How many times, when this makes it a fight.
    pub fn note(&mut self, path: &Path, now: Instant) -> Option<u32> {
        if self.0.len() >= PATHS_MAX {
            self.0.retain(|_, fight| fight.waiting || now.duration_since(fight.last) < WINDOW);
        }
        if self.0.len() >= PATHS_MAX && !self.0.contains_key(path) {
            return None;
        }
        let new =
            || Fight { first: now, last: now, heals: 0, pause: PAUSE_FIRST, until: None, waiting: false };
        let fight = self.0.entry(path.to_owned()).or_insert_with(new);
        let quiet = now.duration_since(fight.last) >= WINDOW;
        let slow = fight.until.is_none() && now.duration_since(fight.first) >= WINDOW;
        if quiet || slow {
            *fight = new();
        }
        fight.last = now;
        fight.heals += 1;
        if fight.heals < HEALS_MAX {
            return None;
        }
        fight.until = Some(now + fight.pause);
        fight.pause = (fight.pause * 2).min(PAUSE_LONGEST);
        (fight.heals == HEALS_MAX).then_some(fight.heals)
    }

    /// When the next path that waits is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.0.values().filter(|fight| fight.waiting).filter_map(|fight| fight.until).min()
    }

    /// Paths that have waited long enough.
    pub fn take_due(&mut self, now: Instant) -> Vec<PathBuf> {
        let due = self.0.iter_mut().filter(|(_, fight)| fight.waiting && fight.until <= Some(now));
        due.map(|(path, fight)| {
            fight.waiting = false;
            path.clone()
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fight_is_reported_once_and_slows_down() {
        let mut fights = Fights::default();
        let start = Instant::now();
        let path = Path::new("/x");
        let reports: Vec<_> = (0..40).filter_map(|_| fights.note(path, start)).collect();
        assert_eq!(reports, [HEALS_MAX]);
        assert!(fights.hold_off(path, start).is_some());
        let due = fights.next_due().unwrap();
        assert!(due > start && due <= start + PAUSE_LONGEST);
        assert!(fights.take_due(start).is_empty());
        assert_eq!(fights.take_due(due), [path]);
        assert_eq!(fights.hold_off(path, due), None);
        // After some quiet, all is forgotten.
        assert_eq!(fights.note(path, start + WINDOW), None);
        assert_eq!(fights.hold_off(path, start + WINDOW), None);
    }

    #[test]
    fn slow_changes_are_no_fight() {
        let mut fights = Fights::default();
        let start = Instant::now();
        for second in 0..200 {
            assert_eq!(fights.note(Path::new("/x"), start + Duration::from_secs(second)), None);
        }
    }
}
