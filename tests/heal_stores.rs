//! Inventory, vault and quarantine by themselves.

mod heal_support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use heal_support::*;
use proptest::prelude::*;
use writegate::heal::{
    Bounds, Change, Did, Duty, Expected, Extra, Failure, Healer, Inventory, Known, Limits, Quarantine, Vault,
    Xattr,
};
use writegate::sys::file::Identity;
use writegate::sys::inode::Time;

fn any_expected() -> impl Strategy<Value = Expected> {
    let bytes = || proptest::collection::vec(1u8.., 1..20);
    let xattrs = proptest::collection::vec((bytes(), bytes()), 0..3);
    let numbers = any::<(u64, u64, u64, u64, i64, i64)>();
    let sum = proptest::option::of(any::<[u8; 32]>().prop_map(Box::new));
    (numbers, any::<(u32, u32, u32, u32, u32, u32)>(), proptest::option::of(bytes()), xattrs, sum).prop_map(
        |(n, m, target, xattrs, sum)| {
            let xattrs = xattrs.into_iter().map(|(name, value)| Xattr {
                name: std::ffi::CString::new(name).unwrap().into(),
                value: value.into(),
            });
            let extra = Extra { rdev: n.3, target: target.map(Into::into), xattrs: xattrs.collect() };
            Expected {
                id: Identity { dev: n.0, ino: n.1 },
                size: n.2,
                mtime: Time { sec: n.4, nsec: m.0 },
                ctime: Time { sec: n.5, nsec: m.1 },
                mode: m.2,
                uid: m.3,
                gid: m.4,
                flags: m.5,
                sum,
                extra: (extra != Extra::default()).then(|| Box::new(extra)),
            }
        },
    )
}

#[derive(Debug, Clone)]
enum Step {
    Put(String, Expected),
    Remove(String),
    RemoveOne(String),
    Base,
}

fn any_step() -> impl Strategy<Value = Step> {
    let path = "(/[ab0-]){1,4}";
    prop_oneof![
        6 => (path, any_expected()).prop_map(|(path, expected)| Step::Put(path, expected)),
        1 => path.prop_map(Step::Remove),
        1 => path.prop_map(Step::RemoveOne),
        1 => Just(Step::Base),
    ]
}

fn based(inventory: &Inventory) -> Vec<u8> {
    let mut base = Vec::new();
    inventory.write_base(&mut base).unwrap();
    base
}

fn listed(inventory: &Inventory) -> Vec<(PathBuf, Expected)> {
    inventory.iter().map(|(path, expected)| (path.to_owned(), expected)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_journal_gives_the_same_inventory(steps in proptest::collection::vec(any_step(), 0..40)) {
        let mut inventory = Inventory::new(true);
        let mut journal = Vec::new();
        for step in steps {
            match step {
                Step::Put(path, expected) => { inventory.put(Path::new(&path), &expected); }
                Step::Remove(path) => { inventory.remove(Path::new(&path)); }
                Step::RemoveOne(path) => { inventory.remove_one(Path::new(&path)); }
                Step::Base => { inventory.take_changes(); journal = based(&inventory); }
            }
            journal.extend(inventory.take_changes());
        }
        let (read, decoded) = Inventory::decode(&journal, true);
        prop_assert_eq!(listed(&read), listed(&inventory));
        prop_assert_eq!((decoded.bytes, decoded.torn), (journal.len(), 0));
        // `children` against the plain definition.
        for (path, _) in inventory.iter() {
            let children: Vec<_> = inventory.children(path).map(|(child, _)| child).collect();
            let plain: Vec<_> =
                inventory.iter().map(|(child, _)| child).filter(|child| child.parent() == Some(path)).collect();
            prop_assert_eq!(children.len(), plain.len());
            prop_assert!(plain.iter().all(|child| children.contains(child)));
        }
    }

    #[test]
    fn a_torn_or_damaged_journal_gives_its_whole_part(
        entries in proptest::collection::vec(any_expected(), 1..10),
        cut in any::<prop::sample::Index>(),
        flip in any::<bool>(),
    ) {
        let mut inventory = Inventory::new(true);
        for (at, expected) in entries.into_iter().enumerate() {
            inventory.put(Path::new(&format!("/{at}")), &expected);
        }
        let mut journal = inventory.take_changes();
        let at = cut.index(journal.len());
        if flip { journal[at] ^= 1 } else { journal.truncate(at) }
        let (read, decoded) = Inventory::decode(&journal, false);
        prop_assert!(decoded.bytes <= at && decoded.bytes + decoded.torn == journal.len());
        let whole = listed(&inventory);
        prop_assert_eq!(listed(&read), &whole[..decoded.records]);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Inventory::decode(&bytes, true);
    }
}

#[test]
fn children_of_the_root_and_of_names_that_sort_around_the_slash() {
    let mut inventory = Inventory::new(false);
    inventory.take(Path::new("/")).unwrap();
    let expected = inventory.get(Path::new("/")).unwrap();
    for path in ["/", "/a", "/a-b", "/a/x", "/a/x/y", "/a0", "/a!"] {
        inventory.put(Path::new(path), &expected);
    }
    let children = |path: &str| {
        let mut found: Vec<_> =
            inventory.children(Path::new(path)).map(|(path, _)| path.to_str().unwrap()).collect();
        found.sort_unstable();
        found
    };
    assert_eq!(children("/"), ["/a", "/a!", "/a-b", "/a0"]);
    assert_eq!(children("/a"), ["/a/x"]);
    assert_eq!(children("/a0"), [""; 0]);
}

fn restarted(ground: &Ground, healer: Healer, top: &Path) -> Healer {
    let journal = based(healer.inventory());
    drop(healer);
    let (inventory, decoded) = Inventory::decode(&journal, true);
    assert_eq!(decoded.torn, 0);
    let quarantine = Quarantine::open(&ground.state, Bounds::default()).unwrap();
    let mut healer =
        Healer::new(inventory, Vault::open(&ground.state, Limits::default()), quarantine, all_below(top));
    healer.rehold();
    healer
}

#[test]
fn the_next_worker_takes_it_up_and_heals_what_happened_meanwhile() {
    for kind in KINDS {
        let Some(ground) = ground(kind) else { return };
        let (top, healer) = protected(&ground);
        let (before, usage) = (digest(&top), healer.vault().usage());
        let mut healer = restarted(&ground, healer, &top);
        assert_eq!(healer.vault().usage(), usage);
        assert_eq!(healer.scan(), []);
        let journal = based(healer.inventory());
        drop(healer);
        fs::remove_file(top.join("a")).unwrap();
        fs::write(top.join("foreign"), "foreign").unwrap();
        fs::write(top.join("b"), "changed").unwrap();
        fs::remove_dir_all(top.join("sub")).unwrap();
        let (inventory, _) = Inventory::decode(&journal, true);
        let vault = Vault::open(&ground.state, Limits::default());
        let quarantine = Quarantine::open(&ground.state, Bounds::default()).unwrap();
        let mut healer = Healer::new(inventory, vault, quarantine, all_below(&top));
        healer.rehold();
        assert!(healer.scan().iter().all(writegate::heal::Action::healed));
        assert_same(&before, &digest(&top));
        assert_eq!(healer.scan(), []);
    }
}

#[test]
fn a_vault_that_was_emptied_is_filled_again() {
    for kind in KINDS {
        let Some(ground) = ground(kind) else { return };
        let (top, mut healer) = protected(&ground);
        let (before, usage) = (digest(&top), healer.vault().usage());
        let place = if kind == Kind::Same {
            ground.state.join("vault")
        } else {
            store_in(&ground.fs, &ground.state, "vault")
        };
        assert_eq!(fs::metadata(&place).unwrap().mode() & 0o7777, 0o700);
        fs::remove_dir_all(&place).unwrap();
        healer.rehold();
        while healer.copy_some() {}
        assert_eq!(healer.vault().usage(), usage);
        assert_eq!(healer.scan(), []);
        fs::remove_file(top.join("a")).unwrap();
        assert_eq!(dids(&heal(&mut healer, &top.join("a"), Change::Unknown)), [Did::Linked]);
        assert_same(&before, &digest(&top));
    }
}

fn names_in(directory: &Path) -> Vec<std::ffi::OsString> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn a_store_without_its_state_directory_is_abandoned() {
    let Some(ground) = ground(Kind::Tmpfs) else { return };
    let (_, healer) = protected(&ground);
    let vault = store_in(&ground.fs, &ground.state, "vault");
    let found = |kind| writegate::heal::abandoned([(ground.fs.as_path(), kind)].into_iter());
    assert_eq!(found("tmpfs"), [""; 0].map(std::path::PathBuf::from));
    drop(healer);
    fs::rename(&ground.state, ground.state.with_extension("gone")).unwrap();
    assert_eq!((found("tmpfs"), found("nfs4").len()), (vec![vault.clone()], 0));
    // Another instance in its place does not know of it.
    fs::create_dir(&ground.state).unwrap();
    fs::write(ground.state.join("instance"), format!("{:016x}", 7)).unwrap();
    assert_eq!(found("tmpfs"), [vault]);
}

/// The filesystem gives numbers out again.
#[test]
fn a_file_with_the_number_of_a_directory_is_held() {
    let Some(ground) = ground(Kind::Same) else { return };
    let (top, mut healer) = protected(&ground);
    let path = top.join("again");
    for _ in 0..8 {
        fs::create_dir(&path).unwrap();
        healer.learn(&path, writegate::heal::Known::No).unwrap();
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "again").unwrap();
        healer.learn(&path, writegate::heal::Known::No).unwrap();
        healer.prune();
        fs::remove_file(&path).unwrap();
        assert_eq!(dids(&heal(&mut healer, &path, Change::Unknown)), [Did::Linked]);
        fs::remove_file(&path).unwrap();
        healer.forget(&path);
    }
}

#[test]
fn without_its_link_a_file_comes_from_the_copy() {
    for kind in KINDS {
        let Some(ground) = ground(kind) else { return };
        let (top, mut healer) = protected(&ground);
        let before = digest(&top);
        let place = if kind == Kind::Same {
            ground.state.join("vault")
        } else {
            store_in(&ground.fs, &ground.state, "vault")
        };
        let path = top.join("b");
        fs::remove_file(place.join(format!("l-{:x}", ino(&path)))).unwrap();
        fs::remove_file(&path).unwrap();
        let actions = heal(&mut healer, &path, Change::Unknown);
        assert_eq!(dids(&actions), [Did::Copied]);
        assert!(actions[0].new_inode);
        assert_same(&before, &digest(&top));
        assert_eq!(healer.scan(), []);
        fs::remove_file(&path).unwrap();
        assert_eq!(dids(&heal(&mut healer, &path, Change::Unknown)), [Did::Linked]);
        // And with neither.
        for name in ["l", "c"] {
            fs::remove_file(place.join(format!("{name}-{:x}", ino(&path)))).unwrap();
        }
        fs::remove_file(&path).unwrap();
        let actions = healer.reconcile(&path, &Change::Unknown.into());
        assert_eq!(dids(&actions), [Did::Failed(Failure::NothingHeld)]);
    }
}

#[test]
fn a_copy_that_was_changed_is_never_restored() {
    for kind in KINDS {
        let Some(ground) = ground(kind) else { return };
        let (top, mut healer) = protected(&ground);
        let path = top.join("sub/c");
        let place = healer.vault().places().next_back().unwrap().to_owned();
        let copy = place.join(format!("c-{:x}", ino(&path)));
        // Of the same length and time.
        let time = fs::metadata(&copy).unwrap().modified().unwrap();
        fs::write(&copy, vec![6u8; 300_000]).unwrap();
        fs::File::open(&copy).unwrap().set_modified(time).unwrap();
        fs::write(&path, vec![5u8; 300_000]).unwrap();
        let bad = Did::Failed(Failure::BadCopy);
        assert_eq!(dids(&healer.reconcile(&path, &Change::Modified.into())), std::slice::from_ref(&bad));
        let mut healer = restarted(&ground, healer, &top);
        assert_eq!(dids(&healer.scan()), std::slice::from_ref(&bad));
        fs::remove_file(place.join(format!("l-{:x}", ino(&path)))).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(dids(&healer.scan()), [bad]);
        assert!(fs::metadata(&path).is_err());
    }
}

#[test]
fn links_are_counted_and_go_with_the_last_name() {
    let Some(ground) = ground(Kind::Ext4) else { return };
    let (top, mut healer) = protected(&ground);
    let path = top.join("a");
    let m = fs::metadata(&path).unwrap();
    let id = Identity { dev: m.dev(), ino: m.ino() };
    assert_eq!((m.nlink(), healer.vault().vault_links(id)), (2, 1));
    let twin = top.join("sub/twin");
    fs::hard_link(&path, &twin).unwrap();
    healer.learn(&twin, Known::No).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().nlink(), 3);
    // Rightly changed by one name, it is right by the other.
    fs::write(&twin, "both").unwrap();
    healer.learn(&twin, Known::No).unwrap();
    assert_eq!(healer.scan(), []);
    fs::remove_file(&path).unwrap();
    healer.learn(&path, Known::No).unwrap();
    assert_eq!((fs::metadata(&twin).unwrap().nlink(), healer.vault().vault_links(id)), (2, 1));
    // A trusted writer replaces it, as package managers do.
    fs::write(top.join("twin.new"), "new").unwrap();
    fs::rename(top.join("twin.new"), &twin).unwrap();
    healer.learn(&twin, Known::No).unwrap();
    assert_eq!(healer.vault().vault_links(id), 0);
    assert_eq!(healer.scan(), []);
    // In place, with length and time as before.
    let time = fs::metadata(&twin).unwrap().modified().unwrap();
    fs::write(&twin, "NEW").unwrap();
    fs::File::open(&twin).unwrap().set_modified(time).unwrap();
    healer.learn(&twin, Known::No).unwrap();
    fs::write(&twin, "bad").unwrap();
    assert_eq!(dids(&heal(&mut healer, &twin, Change::Modified)), [Did::Content]);
    assert_eq!(fs::read(&twin).unwrap(), b"NEW");
    // A directory is renamed.
    let (links, inode) = (healer.vault().usage().links, ino(&top.join("sub/c")));
    fs::rename(top.join("sub"), top.join("bus")).unwrap();
    healer.renamed(&top.join("sub"), &top.join("bus"));
    assert_eq!((healer.vault().usage().links, ino(&top.join("bus/c"))), (links, inode));
    assert_eq!(healer.scan(), []);
    // Policies let go of everything.
    healer.set_duties(std::sync::Arc::new(|_| Duty::NONE));
    assert_eq!(healer.inventory().len(), 0);
    assert_eq!(names_in(&store_in(&ground.fs, &ground.state, "vault")), ["owner"]);
}

#[test]
fn copies_are_bounded_and_links_are_not() {
    let Some(ground) = ground(Kind::Tmpfs) else { return };
    let top = ground.fs.join("prot");
    fs::create_dir(&top).unwrap();
    for n in 0..10 {
        fs::write(top.join(format!("f{n}")), vec![1u8; 100 << 10]).unwrap();
    }
    fs::write(top.join("large"), vec![1u8; 300 << 10]).unwrap();
    let limits = Limits { copy_file: 200 << 10, copy_total: 500 << 10 };
    let mut healer = healer_with(&ground, all_below(&top), limits);
    healer.learn_tree(&top);
    let usage = healer.vault().usage();
    assert_eq!((usage.links, usage.copies, usage.unheld), (11, 5, 6));
    assert!(usage.copied_bytes <= limits.copy_total);
    let large = healer.vault().unheld().find(|(path, _)| path.ends_with("large"));
    assert_eq!(large.unwrap().1, Failure::TooLarge);
    // The name can be restored, changed content cannot, and that is said.
    fs::remove_file(top.join("large")).unwrap();
    assert_eq!(dids(&heal(&mut healer, &top.join("large"), Change::Unknown)), [Did::Linked]);
    fs::write(top.join("large"), "evil").unwrap();
    let actions = healer.reconcile(&top.join("large"), &Change::Modified.into());
    assert_eq!(dids(&actions), [Did::Failed(Failure::NoCopy)]);
}

#[test]
fn a_large_filesystem_that_is_all_but_full_has_room_for_copies() {
    let Some(ground) = ground_of(Kind::Ext4, 64 << 30) else { return };
    let top = ground.fs.join("prot");
    fs::create_dir(&top).unwrap();
    fs::write(top.join("a"), "kept").unwrap();
    let fill = fs::File::create(ground.fs.join("fill")).unwrap();
    nix::fcntl::fallocate(&fill, nix::fcntl::FallocateFlags::empty(), 0, 57 << 30).unwrap();
    let space = nix::sys::statvfs::statvfs(&ground.fs).unwrap();
    assert!(space.blocks_available() * 15 < space.blocks(), "{space:?}");
    let mut healer = healer(&ground, all_below(&top));
    healer.learn_tree(&top);
    assert_eq!((healer.vault().usage().copies, healer.vault().usage().unheld), (1, 0));
}

#[test]
fn a_full_filesystem_still_heals_names() {
    for kind in [Kind::Tmpfs, Kind::Ext4] {
        let Some(ground) = ground(kind) else { return };
        let top = ground.fs.join("prot");
        fs::create_dir(&top).unwrap();
        for n in 0..5 {
            fs::write(top.join(format!("f{n}")), vec![1u8; 100 << 10]).unwrap();
        }
        let mut healer = healer(&ground, all_below(&top));
        // One is held wholly, then the disk is full.
        healer.learn(&top, Known::No).unwrap();
        healer.learn(&top.join("f0"), Known::No).unwrap();
        let _ = Command::new("dd")
            .args(["if=/dev/zero", "bs=64k", "status=none"])
            .arg(format!("of={}", ground.fs.join("fill").display()))
            .output()
            .unwrap();
        let _ = Command::new("dd")
            .args(["if=/dev/zero", "bs=1k", "status=none"])
            .arg(format!("of={}", ground.fs.join("fill2").display()))
            .output()
            .unwrap();
        healer.learn_tree(&top);
        let unheld: Vec<_> = healer.vault().unheld().map(|(_, failure)| failure).collect();
        assert_eq!(unheld, [Failure::NoSpace; 4], "{kind:?}");
        let before = digest(&top);
        fs::rename(top.join("f0"), top.join("f1")).unwrap();
        let actions = heal(&mut healer, &top.join("f0"), Change::MovedTo(top.join("f1")));
        assert_eq!(dids(&actions), [Did::Linked, Did::Linked]);
        fs::remove_file(top.join("f2")).unwrap();
        assert_eq!(dids(&heal(&mut healer, &top.join("f2"), Change::Unknown)), [Did::Linked]);
        let file = fs::OpenOptions::new().write(true).open(top.join("f0")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"evil", 0).unwrap();
        let actions = heal(&mut healer, &top.join("f0"), Change::Modified);
        assert_eq!(dids(&actions), [Did::Content]);
        assert_same(&before, &digest(&top));
    }
}

#[test]
fn the_quarantine_is_bounded_and_gives_back() {
    for kind in KINDS {
        let Some(ground) = ground(kind) else { return };
        let (top, _) = protected(&ground);
        let bounds = Bounds { items: 3, ..Bounds::default() };
        let quarantine = Quarantine::open(&ground.state, bounds).unwrap();
        let vault = Vault::open(&ground.state, Limits::default());
        let mut healer = Healer::new(Inventory::new(false), vault, quarantine, all_below(&top));
        healer.learn_tree(&top);
        let mut dropped = Vec::new();
        let mut ids = Vec::new();
        for n in 0..5 {
            let tree = top.join("foreign");
            fs::create_dir_all(tree.join("x")).unwrap();
            fs::write(tree.join("x/f"), format!("{n}")).unwrap();
            if kind != Kind::Tmpfs {
                chattr("+i", &tree.join("x/f"));
            }
            let action = heal(&mut healer, &tree, Change::Unknown).remove(0);
            dropped.extend(action.dropped);
            ids.extend(action.quarantine);
        }
        assert_eq!(dropped, ids[..2]);
        // Another process, such as the command line, sees the same.
        let mut other = Quarantine::open(&ground.state, bounds).unwrap();
        assert_eq!(other.list().map(|item| item.id.clone()).collect::<Vec<_>>(), ids[2..]);
        let out = ground.dir.path().join("out");
        fs::write(&out, "in the way").unwrap();
        let refused = other.release(&ids[4], &out);
        assert_eq!(refused, Err(Failure::Call { call: "release", errno: libc::EEXIST }));
        fs::remove_file(&out).unwrap();
        if kind != Kind::Tmpfs {
            let kept = other.show(&ids[4]).unwrap().kept.path();
            chattr("-i", &kept.join("x/f"));
        }
        other.release(&ids[4], &out).unwrap();
        assert_eq!(fs::read(out.join("x/f")).unwrap(), b"4");
        assert_eq!(other.release(&ids[4], &out), Err(Failure::NoSuchItem));
        assert_eq!(Quarantine::open(&ground.state, bounds).unwrap().list().count(), 2);
    }
}

#[test]
fn a_tree_deeper_than_any_path_can_be_taken_and_dropped() {
    let Some(ground) = ground(Kind::Tmpfs) else { return };
    let (top, _) = protected(&ground);
    let bounds = Bounds { items: 1, ..Bounds::default() };
    let quarantine = Quarantine::open(&ground.state, bounds).unwrap();
    let mut healer = Healer::new(
        Inventory::new(false),
        Vault::open(&ground.state, Limits::default()),
        quarantine,
        all_below(&top),
    );
    healer.learn_tree(&top);
    let mut at = fs::File::open(&top).unwrap();
    for name in std::iter::once(c"deep").chain(std::iter::repeat_n(c"dddd", 3000)) {
        let directory = std::os::fd::AsFd::as_fd(&at);
        writegate::sys::names::make_dir(directory, name, 0o755).unwrap();
        at = writegate::sys::names::open_at(directory, name, 0, 0).unwrap().into();
    }
    drop(at);
    assert_eq!(dids(&heal(&mut healer, &top.join("deep"), Change::Unknown)), [Did::Removed]);
    fs::write(top.join("next"), "next").unwrap();
    let actions = heal(&mut healer, &top.join("next"), Change::Unknown);
    assert_eq!(actions[0].dropped.len(), 1);
    assert_eq!(names_in(&store_in(&ground.fs, &ground.state, "quarantine")).len(), 2);
}
