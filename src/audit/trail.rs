//! The trail's file: appended to in batches, synced, followed through rotation, patient with a bad disk.
#![forbid(unsafe_code)]

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// The most that a power cut can take: `fdatasync` at most this often, because on a rotating disk it costs 10 ms.
const SYNC_EVERY: Duration = Duration::from_millis(200);

/// How soon a rename or removal of the file is noticed.
const MOVED_CHECK_EVERY: Duration = Duration::from_secs(1);

/// After a failed write: doubled from the first to the second, so that a full disk costs two calls a second and
/// a hiccup 20 ms.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// How much of the end is read to find the last whole record: several of the longest lines there can be.
const SCAN_BYTES: u64 = 4 * 1024 * 1024;

/// What an existing trail ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct End {
    /// `seq` of the last record.
    pub last_seq: Option<u64>,
    /// A last line without its newline.
    pub torn: Option<Torn>,
}

/// A line that a crash cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Torn {
    /// Its length.
    pub bytes: u64,
    /// Only the newline is missing.
    pub whole: bool,
}

/// What came of [`Trail::write`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Progress {
    /// The batch is in the file.
    Written,
    /// Some of it is not, and it is too early to try again.
    Waiting,
    /// A try failed; counted once each time.
    Failed,
}

pub(super) struct Trail {
    path: PathBuf,
    file: File,
    identity: (u64, u64),
    /// Whole lines, of which the first `written` bytes are in the file.
    batch: Vec<u8>,
    written: usize,
    unsynced: bool,
    synced_at: Instant,
    checked_at: Instant,
    retry: Option<(Instant, Duration)>,
    last_error: Option<io::Error>,
}

impl Trail {
    /// Opens or makes the trail, with its directory; completes a torn last line.
    pub fn open(path: &Path, now: Instant) -> io::Result<(Self, End)> {
        make_parent(path)?;
        let mut file = open_append(path)?;
        let mut end = End::default();
        let metadata = file.metadata()?;
        if metadata.is_file() {
            end = scan_end(path)?;
            if end.torn.is_some() {
                file.write_all(b"\n")?;
            }
            if end.last_seq.is_none() {
                // Rotated a moment ago: the sequence goes on from the file before.
                end.last_seq = scan_end(&rotated(path)).ok().and_then(|before| before.last_seq);
            }
        }
        let trail = Self {
            path: path.to_owned(),
            file,
            identity: (metadata.dev(), metadata.ino()),
            batch: Vec::new(),
            written: 0,
            unsynced: end.torn.is_some(),
            synced_at: now,
            checked_at: now,
            retry: None,
            last_error: None,
        };
        Ok((trail, end))
    }

    /// The batch, to append whole lines to. Only while [`Trail::is_written`].
    pub fn batch(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.written == 0);
        &mut self.batch
    }

    /// Nothing waits to be written.
    pub fn is_written(&self) -> bool {
        self.batch.is_empty()
    }

    /// Lines that wait to be written, a half-written one included.
    pub fn waiting_lines(&self) -> u64 {
        self.batch[self.written..].split(|&byte| byte == b'\n').count().saturating_sub(1) as u64
    }

    /// Why the last try failed, while it has not succeeded since.
    pub fn last_error(&self) -> Option<&io::Error> {
        self.last_error.as_ref()
    }

    /// Writes the batch: one `write(2)` unless the disk takes only a part.
    pub fn write(&mut self, now: Instant) -> Progress {
        if self.batch.is_empty() {
            return Progress::Written;
        }
        if self.retry.is_some_and(|(at, _)| now < at) {
            return Progress::Waiting;
        }
        while self.written < self.batch.len() {
            match self.file.write(&self.batch[self.written..]) {
                Ok(0) => return self.failed(now, io::ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    self.written += bytes;
                    self.unsynced = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.failed(now, error),
            }
        }
        self.batch.clear();
        self.written = 0;
        self.retry = None;
        self.last_error = None;
        Progress::Written
    }

    fn failed(&mut self, now: Instant, error: io::Error) -> Progress {
        let wait = self.retry.map_or(RETRY_FIRST, |(_, wait)| (wait * 2).min(RETRY_MAX));
        self.retry = Some((now + wait, wait));
        self.last_error = Some(error);
        Progress::Failed
    }

    /// Syncs when it is time, or at once when `force`d. After an error the kernel has dropped the pages: the
    /// error is given back once and the sync counts as done.
    pub fn sync(&mut self, now: Instant, force: bool) -> io::Result<()> {
        if !self.unsynced || !(force || now >= self.synced_at + SYNC_EVERY) {
            return Ok(());
        }
        self.unsynced = false;
        self.synced_at = now;
        match self.file.sync_data() {
            // Not a regular file.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOTSUP)) => Ok(()),
            result => result,
        }
    }

    /// Once a second: opens the path anew when it names another file or none, as after logrotate. The old file
    /// stays in use until that works.
    pub fn follow_rotation(&mut self, now: Instant) -> io::Result<bool> {
        if now < self.checked_at + MOVED_CHECK_EVERY {
            return Ok(false);
        }
        self.checked_at = now;
        let in_place = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if in_place {
            return Ok(false);
        }
        make_parent(&self.path)?;
        let file = open_append(&self.path)?;
        let metadata = file.metadata()?;
        // What the old file has must survive a crash too, and a half-written line belongs whole into the new.
        self.sync(now, true).ok();
        let line_start =
            self.batch[..self.written].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        if line_start < self.written {
            self.file.write_all(b"\n").ok();
        }
        self.batch.drain(..line_start);
        self.written = 0;
        self.file = file;
        self.identity = (metadata.dev(), metadata.ino());
        self.retry = None;
        Ok(true)
    }

    /// When there is something to do next without anybody asking.
    pub fn next_due(&self) -> Instant {
        let moved = self.checked_at + MOVED_CHECK_EVERY;
        let sync = if self.unsynced { self.synced_at + SYNC_EVERY } else { moved };
        let retry = self.retry.map_or(moved, |(at, _)| at);
        moved.min(sync).min(retry)
    }
}

fn make_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)
        }
        _ => Ok(()),
    }
}

/// Never through a symbolic link; `O_NONBLOCK` so that a FIFO without a reader is an error and not a hang.
fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

/// Where logrotate puts the file before.
fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

#[derive(Deserialize)]
struct Sequence {
    #[serde(alias = "Seq")]
    seq: u64,
}

/// Reads the end of a trail in either format.
fn scan_end(path: &Path) -> io::Result<End> {
    let mut file =
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(SCAN_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(SCAN_BYTES).read_to_end(&mut bytes)?;
    let seq = |line: &[u8]| serde_json::from_slice::<Sequence>(line).ok().map(|record| record.seq);
    let last_line = bytes.rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
    let torn = (!last_line.is_empty())
        .then(|| Torn { bytes: last_line.len() as u64, whole: seq(last_line).is_some() });
    let last_seq = bytes.rsplit(|&byte| byte == b'\n').filter(|line| !line.is_empty()).find_map(seq);
    Ok(End { last_seq, torn })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn at(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_new_trail_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log/writegate/audit.jsonl");
        let (_trail, end) = Trail::open(&path, Instant::now()).unwrap();
        assert_eq!(end, End::default());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(Trail::open(&path, Instant::now()).is_err());
    }

    #[test]
    fn the_end_of_a_trail_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        for (text, last_seq, torn) in [
            ("", None, None),
            ("{\"seq\":1}\n{\"seq\":2,\"x\":[]}\n", Some(2), None),
            ("{\"Seq\":7}\n{\"se", Some(7), Some(Torn { bytes: 4, whole: false })),
            ("{\"seq\":7}\n{\"seq\":8}", Some(8), Some(Torn { bytes: 9, whole: true })),
            ("{\"seq\":7}\nrubbish\n", Some(7), None),
            ("rubbish", None, Some(Torn { bytes: 7, whole: false })),
        ] {
            fs::write(&path, text).unwrap();
            let (_trail, end) = Trail::open(&path, Instant::now()).unwrap();
            assert_eq!(end, End { last_seq, torn }, "{text}");
            let now = fs::read_to_string(&path).unwrap();
            assert!(now.starts_with(text) && (now.is_empty() || now.ends_with('\n')));
        }
        fs::write(&path, "").unwrap();
        fs::write(rotated(&path), "{\"seq\":41}\n").unwrap();
        assert_eq!(Trail::open(&path, Instant::now()).unwrap().1.last_seq, Some(41));
    }

    #[test]
    fn a_full_disk_keeps_the_batch_and_rotation_frees_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let start = Instant::now();
        let (mut trail, _) = Trail::open(Path::new("/dev/full"), start).unwrap();
        trail.batch().extend_from_slice(b"one\ntwo\n");
        assert_eq!(trail.write(start), Progress::Failed);
        assert_eq!(trail.write(start), Progress::Waiting);
        assert_eq!(trail.write(at(start, 0.03)), Progress::Failed);
        assert_eq!((trail.waiting_lines(), trail.is_written()), (2, false));
        assert_eq!(trail.last_error().and_then(io::Error::raw_os_error), Some(libc::ENOSPC));
        trail.path.clone_from(&path);
        assert!(!trail.follow_rotation(at(start, 0.5)).unwrap());
        // As if the full file had taken five bytes: the line they belong to is written again, whole.
        trail.written = 5;
        assert!(trail.follow_rotation(at(start, 1.1)).unwrap());
        assert_eq!(trail.write(at(start, 1.1)), Progress::Written);
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert!(trail.last_error().is_none());
    }

    #[test]
    fn syncs_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let (mut trail, _) = Trail::open(&dir.path().join("a"), start).unwrap();
        trail.batch().extend_from_slice(b"x\n");
        assert_eq!(trail.write(start), Progress::Written);
        assert_eq!(trail.next_due(), start + SYNC_EVERY);
        trail.sync(at(start, 0.1), false).unwrap();
        assert!(trail.unsynced);
        trail.sync(at(start, 0.2), false).unwrap();
        assert!(!trail.unsynced);
    }
}
