//! Against oracles that are too simple to be wrong.

use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::block::PrefixHash;
use super::*;

/// Every entry, asked one after the other.
#[derive(Default)]
struct Oracle(Vec<(Vec<Vec<u8>>, Reach, RuleId)>);

impl Oracle {
    fn split(path: &[u8]) -> Option<Vec<Vec<u8>>> {
        path.starts_with(b"/").then(|| {
            let mut parts: Vec<_> = path.split(|&byte| byte == b'/').map(<[u8]>::to_vec).collect();
            parts.retain(|part| !part.is_empty());
            parts
        })
    }

    fn insert(&mut self, path: &[u8], reach: Reach, rule: RuleId) {
        let Some(parts) = Self::split(path) else { return };
        self.0.retain(|entry| (&entry.0, entry.1) != (&parts, reach));
        self.0.push((parts, reach, rule));
    }

    fn lookup(&self, path: &[u8]) -> Option<RuleId> {
        let asked = Self::split(path)?;
        let covers = |(parts, reach, _): &&(Vec<Vec<u8>>, Reach, RuleId)| {
            asked.starts_with(parts)
                && match reach {
                    Reach::File => asked.len() == parts.len(),
                    Reach::Entries => asked.len() <= parts.len() + 1,
                    Reach::Tree => true,
                }
        };
        let found = self.0.iter().filter(covers);
        found.max_by_key(|entry| (entry.0.len(), std::cmp::Reverse(entry.1))).map(|entry| entry.2)
    }

    fn below(&self, dir: &[u8]) -> bool {
        let asked = Self::split(dir);
        asked.is_some_and(|asked| self.0.iter().any(|(p, ..)| p.len() > asked.len() && p.starts_with(&asked)))
    }
}

fn both(entries: &[(Vec<u8>, Reach)]) -> (PathTrie, Oracle) {
    let (mut builder, mut oracle) = (PathTrieBuilder::new(), Oracle::default());
    for (number, (path, reach)) in (0..).zip(entries) {
        builder.insert(path, *reach, RuleId(number));
        oracle.insert(path, *reach, RuleId(number));
    }
    (builder.build(), oracle)
}

fn trie(entries: &[(&str, Reach)]) -> PathTrie {
    both(&entries.iter().map(|(path, reach)| (path.as_bytes().to_vec(), *reach)).collect::<Vec<_>>()).0
}

/// The number of the entry that governs each path.
#[track_caller]
fn governs(trie: &PathTrie, expected: &[(&str, Option<u32>)]) {
    for (path, rule) in expected {
        assert_eq!(trie.lookup(path.as_bytes()), rule.map(RuleId), "{path}");
    }
}

#[test]
fn an_empty_trie_governs_nothing() {
    for trie in [PathTrie::default(), PathTrieBuilder::new().build()] {
        assert!(trie.is_empty() && trie.heap_bytes() == 0 && !trie.below(b"/"));
        governs(&trie, &[("/", None), ("", None), ("/etc", None), ("//etc//x", None)]);
    }
}

#[test]
fn each_reach_covers_what_it_says() {
    let trie =
        trie(&[("/usr/bin/", Reach::Tree), ("/var/log", Reach::Entries), ("/etc/passwd", Reach::File)]);
    governs(
        &trie,
        &[
            ("/usr", None),
            ("/usr/bin", Some(0)),
            ("/usr/bin/", Some(0)),
            ("/usr/bin/a/b/c", Some(0)),
            ("/usr/binx", None),
            ("/usr/bi", None),
            ("/var/log", Some(1)),
            ("/var/log/syslog", Some(1)),
            ("/var/log/apt/term.log", None),
            ("/etc/passwd", Some(2)),
            ("/etc/passwd/x", None),
            ("/etc/passwd-", None),
            ("usr/bin", None),
            ("pipe:[7]", None),
        ],
    );
}

#[test]
fn a_deeper_entry_that_does_not_reach_falls_back() {
    let trie = trie(&[
        ("/", Reach::Tree),
        ("/a", Reach::Tree),
        ("/a/b", Reach::Entries),
        ("/a/b/c", Reach::File),
        ("/a/b", Reach::File),
    ]);
    governs(
        &trie,
        &[
            ("/", Some(0)),
            ("/x/y", Some(0)),
            ("/a/x", Some(1)),
            ("/a/b", Some(4)),
            ("/a/b/x", Some(2)),
            ("/a/b/c", Some(3)),
            ("/a/b/c/d", Some(1)),
            ("//a///b//c//d/", Some(1)),
        ],
    );
}

#[test]
fn the_root_has_every_reach_too() {
    governs(&trie(&[("/", Reach::File)]), &[("/", Some(0)), ("//", Some(0)), ("/a", None)]);
    governs(
        &trie(&[("//", Reach::Entries)]),
        &[("/", Some(0)), ("/a", Some(0)), ("/a//", Some(0)), ("/a/b", None)],
    );
}

#[test]
fn a_later_entry_replaces_and_is_counted_once() {
    let trie = trie(&[("/a", Reach::Tree), ("/a", Reach::File), ("/a/", Reach::Tree)]);
    assert_eq!(trie.len(), 2);
    governs(&trie, &[("/a", Some(1)), ("/a/b", Some(2))]);
}

#[test]
fn below_is_strict() {
    let trie = trie(&[("/usr/lib/modules", Reach::Tree), ("/usr/lib-x", Reach::File)]);
    for (dir, expected) in [
        ("/", true),
        ("/usr", true),
        ("/usr/lib", true),
        ("//usr/lib//", true),
        ("/usr/lib/modules", false),
        ("/usr/lib/module", false),
        ("/usr/lib-x", false),
        ("/var", false),
        ("usr", false),
    ] {
        assert_eq!(trie.below(dir.as_bytes()), expected, "{dir}");
    }
}

#[test]
fn an_entry_as_long_as_paths_get_is_found_and_a_longer_one_left_out() {
    let longest = format!("/{}", "x".repeat(PATH_BYTES_MAX - 1));
    let trie =
        trie(&[(&longest, Reach::Tree), (&format!("{longest}y"), Reach::Tree), ("relative", Reach::Tree)]);
    assert_eq!(trie.len(), 1);
    governs(
        &trie,
        &[(&longest, Some(0)), (&format!("{longest}/y/z"), Some(0)), (&format!("{longest}y"), None)],
    );
}

#[test]
fn a_forged_flag_leads_to_a_comparison_that_refuses() {
    let protected = "/forged/0";
    let trie = trie(&[(protected, Reach::Tree)]);
    let flag = |path: &str| trie.layout.flag(PrefixHash::of(path.as_bytes()));
    // There is one group, and there are fewer flags than bits in a word.
    let mut others = (1..1_000).map(|number| format!("/forged/{number}"));
    let forged = others.find(|path| flag(path) == flag(protected)).expect("one in thirty");
    governs(&trie, &[(protected, Some(0)), (&forged, None)]);
}

#[test]
fn debug_is_short_and_the_trie_goes_where_threads_go() {
    fn assert_shared<T: Send + Sync>(_: &T) {}
    let trie = trie(&[("/a", Reach::Tree)]);
    assert_shared(&trie);
    assert!(format!("{trie:?}").len() < 60, "{trie:?}");
}

/// 100,000 paths of 60 bytes, against a map that is asked for one prefix after the other.
#[test]
fn a_hundred_thousand_paths_are_told_apart_in_little_memory() {
    const COUNT: u32 = 100_000;
    let path = |number: u32| {
        let (top, middle) = (number % 17, number % 1_009);
        let mut path = format!("/srv/top{top:02}/middle{middle:04}/{number:06}/").into_bytes();
        path.resize(60, b'a' + (number % 26) as u8);
        path
    };
    let mut builder = PathTrieBuilder::new();
    let mut oracle = HashMap::new();
    for number in 0..COUNT {
        builder.insert(&path(number), Reach::Tree, RuleId(number));
        oracle.insert(path(number), RuleId(number));
    }
    let trie = builder.build();
    assert_eq!(trie.len(), COUNT as usize);
    assert!(trie.heap_bytes() <= 12 << 20, "{trie:?}");
    let group_bytes = trie.groups.windows(2).map(|two| trie.layout.start(two[1]) - trie.layout.start(two[0]));
    assert!(group_bytes.max() <= Some(16 * 72), "a group of more than 16 records of 72 bytes");

    let expected = |asked: &[u8]| {
        let ends = (0..=asked.len()).rev().filter(|&end| end == asked.len() || asked[end] == b'/');
        ends.into_iter().find_map(|end| oracle.get(&asked[..end]).copied())
    };
    for number in 0..COUNT {
        let mut asked = path(number);
        match number % 4 {
            0 => {}
            1 => asked.extend(b"/below/it"),
            2 => asked.truncate(59),
            _ => asked[20] ^= 1,
        }
        assert_eq!(trie.lookup(&asked), expected(&asked), "{}", asked.escape_ascii());
    }
}

/// Few components, so that entries meet; some begin alike, some end where a word or a block does.
fn component() -> impl Strategy<Value = Vec<u8>> {
    let long = (1_usize..140).prop_map(|len| vec![b'l'; len]);
    let word = select(vec!["a", "b", "ab", "abc", "bin", "binx", "sevenby", "eightbyt", "0", ".", "-"]);
    prop_oneof![
        12 => word.prop_map(|word| word.as_bytes().to_vec()),
        2 => select(vec![&b"\xff"[..], b"\xff\xfe", b"a\x80", b"\x2e\xaf"]).prop_map(<[u8]>::to_vec),
        1 => long,
    ]
}

fn some_path() -> impl Strategy<Value = Vec<u8>> {
    let slashes = || prop_oneof![9 => Just(1_usize), 1 => 2_usize..4];
    (vec((slashes(), component()), 0..7), prop_oneof![4 => Just(0_usize), 1 => 1_usize..4]).prop_map(
        |(parts, trailing)| {
            let mut path = Vec::new();
            for (slashes, component) in &parts {
                path.resize(path.len() + slashes, b'/');
                path.extend(component);
            }
            path.resize(path.len() + trailing.max(usize::from(parts.is_empty())), b'/');
            path
        },
    )
}

fn reach() -> impl Strategy<Value = Reach> {
    select(vec![Reach::File, Reach::Entries, Reach::Tree])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn it_answers_like_a_linear_scan(
        entries in vec((some_path(), reach()), 0..40),
        asked in vec(some_path(), 1..40),
    ) {
        let (trie, oracle) = both(&entries);
        prop_assert_eq!(trie.len(), oracle.0.len());
        prop_assert_eq!(trie.is_empty(), oracle.0.is_empty());
        // What was asked for by chance, each entry itself, and what chance puts below an entry.
        let own = entries.iter().map(|(path, _)| path.clone());
        let deeper = entries.iter().zip(&asked).map(|((path, _), asked)| [&path[..], asked].concat());
        for path in asked.iter().cloned().chain(own).chain(deeper) {
            prop_assert_eq!(trie.lookup(&path), oracle.lookup(&path), "{}", path.escape_ascii());
            prop_assert_eq!(trie.below(&path), oracle.below(&path), "below {}", path.escape_ascii());
        }
    }

    /// Not even of what no kernel would hand out: relative, NUL, slashes only.
    #[test]
    fn no_bytes_make_it_panic_or_differ(
        entries in vec((vec(select(&b"//ab\0\xff"[..]), 0..150), reach()), 0..20),
        asked in vec(vec(select(&b"//ab\0\xff"[..]), 0..150), 1..20),
        soup in vec(any::<u8>(), 0..400),
    ) {
        let (trie, oracle) = both(&entries);
        for path in asked.iter().chain([&soup]).chain(entries.iter().map(|(path, _)| path)) {
            prop_assert_eq!(trie.lookup(path), oracle.lookup(path), "{}", path.escape_ascii());
            prop_assert_eq!(trie.below(path), oracle.below(path), "below {}", path.escape_ascii());
        }
    }
}
