//! The list of mounts as it was read, and who stands on whom in it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::gate::mounts::{parse, unescape};
use crate::sys::path::FixedPath;

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// The number of the mount that it stands on.
    pub parent: u64,
    /// The number that is never given twice; 0: not known.
    pub unique: u64,
    /// Which filesystem it shows, and which directory or file of that.
    pub device: Box<[u8]>,
    pub root: PathBuf,
    pub point: PathBuf,
    pub options: Box<[u8]>,
    /// Type and source.
    pub what: Box<[u8]>,
}

/// By the numbers that are given again.
pub(super) type List = BTreeMap<u64, Mount>;

impl Mount {
    /// Whether it shows what `below`, on which it stands, shows at the same place.
    pub(super) fn shows_the_same_as(&self, below: &Self) -> bool {
        let inside = self.point.strip_prefix(&below.point);
        self.device == below.device
            && inside.is_ok_and(|inside| self.root.components().eq(below.root.join(inside).components()))
    }
}

/// Takes `/proc/self/mountinfo` apart.
pub(super) fn read(text: &[u8], unique: &HashMap<u64, u64>) -> List {
    let mut path = FixedPath::default();
    let lines = text.split(|&byte| byte == b'\n').filter_map(|line| Some((parse(line)?, rest(line))));
    lines
        .filter_map(|(line, (options, what))| {
            let (options, what) = (options.into(), what.into());
            let unique = unique.get(&line.id).copied().unwrap_or_default();
            let mut unescaped = |text| {
                let path = unescape(text, &mut path).then(|| path.as_bytes());
                path.map(|path| PathBuf::from(OsStr::from_bytes(path)))
            };
            let (point, root) = (unescaped(line.point)?, unescaped(line.root)?);
            let (device, parent) = (line.device.into(), line.parent);
            Some((line.id, Mount { parent, unique, device, root, point, options, what }))
        })
        .collect()
}

/// Where something is mounted now, and of which type.
pub fn mounted() -> Vec<(PathBuf, String)> {
    let list = read(&std::fs::read("/proc/self/mountinfo").unwrap_or_default(), &HashMap::new());
    let mounts = list.into_values().map(|mount| {
        let kind = mount.what.split(|&byte| byte == b' ').next().unwrap_or_default();
        (mount.point, String::from_utf8_lossy(kind).into_owned())
    });
    mounts.collect()
}

/// The options of a line, the filesystem's own "ro" or "rw" with them, and its type and source.
fn rest(line: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let fields: Vec<_> = line.split(|&byte| byte == b' ').collect();
    let options = fields.get(5).copied().unwrap_or_default();
    let after = fields.iter().position(|&field| field == b"-").unwrap_or(fields.len());
    let of = |index: usize| fields.get(after + index).copied().unwrap_or_default();
    let own = of(3).split(|&byte| byte == b',').next().unwrap_or_default();
    ([options, own].join(&b' '), [of(1), of(2)].join(&b' '))
}

/// Who stands on whom. Thousands may stand on each other, so each is looked at once.
pub(super) struct Pile {
    depths: HashMap<u64, usize>,
    children: HashMap<u64, Vec<u64>>,
    /// Those that something stands on, near or far, that is not to be taken away.
    bearing: HashSet<u64>,
}

impl Pile {
    pub(super) fn new(list: &List, stays: impl Fn(u64, &Mount) -> bool) -> Self {
        let mut pile = Self { depths: HashMap::new(), children: HashMap::new(), bearing: HashSet::new() };
        for (&id, mount) in list {
            pile.children.entry(mount.parent).or_default().push(id);
            pile.measure(list, id);
            if stays(id, mount) {
                let mut below = mount.parent;
                while pile.bearing.insert(below)
                    && let Some(next) = list.get(&below)
                {
                    below = next.parent;
                }
            }
        }
        pile
    }

    fn measure(&mut self, list: &List, id: u64) {
        let mut way = Vec::new();
        let mut at = id;
        while !self.depths.contains_key(&at)
            && let Some(mount) = list.get(&at)
        {
            // Against a list that was read while it changed, and goes round in circles.
            self.depths.insert(at, 0);
            way.push(at);
            at = mount.parent;
        }
        let mut depth = self.depths.get(&at).copied().unwrap_or_default();
        for id in way.into_iter().rev() {
            depth += 1;
            self.depths.insert(id, depth);
        }
    }

    /// How many it stands on.
    pub(super) fn depth(&self, id: u64) -> usize {
        self.depths.get(&id).copied().unwrap_or_default()
    }

    pub(super) fn bears(&self, id: u64) -> bool {
        self.bearing.contains(&id)
    }

    /// It, and all that stands on it.
    pub(super) fn take(&mut self, id: u64) -> Vec<u64> {
        let mut taken = vec![id];
        let mut at = 0;
        while let Some(id) = taken.get(at) {
            taken.extend(self.children.remove(id).unwrap_or_default());
            at += 1;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_type_and_source_of_a_line() {
        let line = b"36 35 98:0 /a /mnt rw,noatime master:1 - ext4 /dev/x ro,errors=continue";
        assert_eq!(rest(line), (b"rw,noatime ro".to_vec(), b"ext4 /dev/x".to_vec()));
        assert_eq!(rest(b"36 35 98:0 / /mnt rw"), (b"rw ".to_vec(), b" ".to_vec()));
    }

    #[test]
    fn what_is_mounted_over_itself() {
        let lines = b"1 0 8:1 /sub / rw - x x rw\n2 1 8:1 /sub/a\\040b /a\\040b rw - x x rw\n\
                      3 2 8:1 /sub/a\\040b /a\\040b rw - x x rw\n4 1 8:1 /a\\040b /a\\040b rw - x x rw\n\
                      5 1 8:2 /sub/a\\040b /a\\040b rw - x x rw\n";
        let list = read(lines, &HashMap::new());
        let same = |id: u64| list[&id].shows_the_same_as(&list[&list[&id].parent]);
        assert_eq!([2, 3, 4, 5].map(same), [true, true, false, false]);
    }

    #[test]
    fn who_stands_on_whom() {
        let lines = "1 0 0:1 / / rw - x x rw\n5 1 0:1 / /a rw - x x rw\n3 5 0:1 / /a rw - x x rw\n\
                     4 3 0:1 / /a/b rw - x x rw\n6 1 0:1 / /c rw - x x rw\n8 7 0:1 / /l rw - x x rw\n\
                     7 8 0:1 / /l rw - x x rw\n";
        let list = read(lines.as_bytes(), &HashMap::from([(4, 40)]));
        assert_eq!((list[&4].unique, list[&6].unique), (40, 0));
        let mut pile = Pile::new(&list, |_, mount| mount.unique == 40);
        assert_eq!([1, 5, 3, 4, 6].map(|id| pile.depth(id)), [1, 2, 3, 4, 2]);
        assert_eq!([1, 5, 3, 4, 6].map(|id| pile.bears(id)), [true, true, true, false, false]);
        assert_eq!(pile.take(5), [5, 3, 4]);
    }
}
