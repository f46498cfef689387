//! What an intruder plants in the directories of vault and quarantine, who has all rights but to write to files.

mod heal_support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use heal_support::*;
use writegate::heal::{Bounds, Change, Did, Failure, Healer, Inventory, Limits, Quarantine, Vault};

/// Has a foreign file taken away; its id, and where the notes are.
fn with_item(ground: &Ground) -> (String, PathBuf) {
    let (top, mut healer) = protected(ground);
    let foreign = top.join("foreign");
    fs::write(&foreign, "evidence").unwrap();
    let id = heal(&mut healer, &foreign, Change::Unknown).remove(0).quarantine.unwrap();
    (id, ground.state.join("quarantine"))
}

fn opened(ground: &Ground) -> Quarantine {
    Quarantine::open(&ground.state, Bounds::default()).unwrap()
}

#[test]
fn writing_a_note_follows_no_planted_link() {
    let Some(ground) = ground(Kind::Tmpfs) else { return };
    let (id, notes) = with_item(&ground);
    let victim = ground.dir.path().join("victim");
    fs::write(&victim, "right").unwrap();
    let note = notes.join(format!("{id}.json"));
    symlink(&victim, notes.join(format!("{id}.half"))).unwrap();
    let mut quarantine = opened(&ground);
    fs::remove_file(&note).unwrap();
    symlink(&victim, &note).unwrap();
    quarantine.file(&id, 7);
    assert_eq!(fs::read(&victim).unwrap(), b"right");
    assert!(note.symlink_metadata().unwrap().is_file());
    assert_eq!(opened(&ground).show(&id).unwrap().seq, 7);
}

/// Nothing but the mount of the state directory can hold what is in `ground.fs`.
fn without_own_store(ground: &Ground) {
    let store = store_in(&ground.fs, &ground.state, "quarantine");
    fs::remove_dir_all(&store).unwrap();
    fs::write(&store, "in the way").unwrap();
}

#[test]
fn what_is_too_large_to_copy_stays_and_drives_nothing_out() {
    let Some(ground) = ground(Kind::Tmpfs) else { return };
    let (top, _) = protected(&ground);
    let bounds = Bounds { bytes: 8 << 20, ..Bounds::default() };
    let quarantine = Quarantine::open(&ground.state, bounds).unwrap();
    let vault = Vault::open(&ground.state, Limits::default());
    let mut healer = Healer::new(Inventory::new(false), vault, quarantine, all_below(&top));
    healer.learn_tree(&top);
    let mut taken = |name: &str, make: &dyn Fn(&Path)| {
        let path = top.join(name);
        make(&path);
        healer.reconcile(&path, &Change::Unknown.into()).remove(0)
    };
    taken("first", &|path| fs::write(path, "first").unwrap());
    without_own_store(&ground);
    let small = taken("small", &|path| {
        fs::create_dir(path).unwrap();
        fs::write(path.join("f"), vec![1; 1 << 20]).unwrap();
        // Names of the same object take nothing more.
        (0..9).for_each(|n| fs::hard_link(path.join("f"), path.join(format!("n{n}"))).unwrap());
    });
    assert_eq!(small.did, Did::Removed);
    let huge = taken("huge", &|path| {
        fs::create_dir(path).unwrap();
        (0..9).for_each(|n| fs::write(path.join(format!("f{n}")), vec![1; 1 << 20]).unwrap());
    });
    assert_eq!((huge.did, huge.dropped), (Did::Failed(Failure::TooLarge), vec![]));
    assert_eq!(fs::read_dir(top.join("huge")).unwrap().count(), 9);
    let kept = ground.state.join("quarantine").join(small.quarantine.unwrap());
    assert_eq!(fs::metadata(kept.join("f")).unwrap().nlink(), 10);
    // The one item with its note, and nothing of the half copy.
    let left: Vec<_> = fs::read_dir(ground.state.join("quarantine")).unwrap().flatten().collect();
    assert_eq!(left.iter().filter(|entry| entry.path().is_dir()).count(), 1);
}

#[test]
fn what_is_mounted_in_an_item_is_not_removed_with_it() {
    let Some(ground) = ground(Kind::Tmpfs) else { return };
    let (top, _) = protected(&ground);
    let quarantine = Quarantine::open(&ground.state, Bounds { items: 1, ..Bounds::default() }).unwrap();
    let vault = Vault::open(&ground.state, Limits::default());
    let mut healer = Healer::new(Inventory::new(false), vault, quarantine, all_below(&top));
    healer.learn_tree(&top);
    let victim = ground.dir.path().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("right"), "right").unwrap();
    fs::create_dir_all(top.join("foreign/on")).unwrap();
    let none: Option<&str> = None;
    let bind = nix::mount::MsFlags::MS_BIND;
    nix::mount::mount(Some(&victim), &top.join("foreign/on"), none, bind, none).unwrap();
    heal(&mut healer, &top.join("foreign"), Change::Unknown);
    fs::write(top.join("next"), "next").unwrap();
    heal(&mut healer, &top.join("next"), Change::Unknown);
    assert_eq!(fs::read(victim.join("right")).unwrap(), b"right");
}

#[test]
fn two_gates_on_one_mount_leave_each_other_alone() {
    let Some(ground) = ground(Kind::Tmpfs) else { return };
    let (top, mut first) = protected(&ground);
    let usage = first.vault().usage();
    let other = ground.fs.join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("file"), "file").unwrap();
    let state = ground.dir.path().join("other-state");
    let opened = || {
        let quarantine = Quarantine::open(&state, Bounds::default()).unwrap();
        let vault = Vault::open(&state, Limits::default());
        Healer::new(Inventory::new(false), vault, quarantine, all_below(&other))
    };
    let mut second = opened();
    second.learn_tree(&other);
    second.rehold();
    first.rehold();
    assert_eq!((first.vault().usage(), second.vault().usage().links), (usage, 1));
    fs::remove_file(top.join("a")).unwrap();
    assert_eq!(dids(&heal(&mut first, &top.join("a"), Change::Unknown)), [Did::Linked]);
    // The next worker of the same gate finds its own again.
    drop(second);
    let mut second = opened();
    second.learn_tree(&other);
    let stores = fs::read_dir(&ground.fs).unwrap().flatten();
    let vaults = stores.filter(|entry| entry.file_name().to_string_lossy().starts_with(".writegate-vault-"));
    assert_eq!((vaults.count(), second.vault().usage().links), (2, 1));
}

/// What is planted, and how.
type Plant<'a> = (&'a str, &'a dyn Fn(&Path));

#[test]
fn a_planted_instance_is_neither_opened_nor_believed() {
    let Some(ground) = ground(Kind::Tmpfs) else { return };
    let plants: [Plant; 5] = [
        ("fifo", &|path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap()),
        ("link", &|path| symlink("/dev/zero", path).unwrap()),
        ("directory", &|path| fs::create_dir(path).unwrap()),
        ("path", &|path| fs::write(path, "../../../../../x").unwrap()),
        ("huge", &|path| fs::File::create(path).unwrap().set_len(1 << 40).unwrap()),
    ];
    for (name, plant) in plants {
        let state = ground.fs.join(name);
        fs::create_dir(&state).unwrap();
        plant(&state.join("instance"));
        Quarantine::open(&state, Bounds::default()).unwrap();
        let instance = fs::read_to_string(state.join("instance")).unwrap();
        assert!(instance.len() == 16 && u64::from_str_radix(&instance, 16).is_ok(), "{name}: {instance}");
    }
}

/// A note like the one of `id`, with other values.
fn forged(notes: &Path, id: &str, changes: &[(&str, serde_json::Value)]) -> Vec<u8> {
    let note = fs::read(notes.join(format!("{id}.json"))).unwrap();
    let mut note: serde_json::Value = serde_json::from_slice(&note).unwrap();
    for (key, value) in changes {
        note[key] = value.clone();
    }
    serde_json::to_vec(&note).unwrap()
}

#[test]
fn planted_notes_are_no_items_and_hold_nobody() {
    let Some(ground) = ground(Kind::Tmpfs) else { return };
    let (id, notes) = with_item(&ground);
    let planted = |n: u64| notes.join(format!("{n:016x}.json"));
    nix::unistd::mkfifo(&planted(1), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("/dev/zero", planted(2)).unwrap();
    fs::File::create(planted(3)).unwrap().set_len(3 << 29).unwrap();
    fs::create_dir(planted(4)).unwrap();
    // About something that is there, but not a note of ours.
    for n in 1..10 {
        fs::write(notes.join(format!("{n:016x}")), "planted").unwrap();
    }
    let text = |n: u64, id: &str| forged(&notes, id, &[("id", format!("{n:016x}").into())]);
    fs::write(planted(5), text(5, &id)).unwrap();
    std::os::unix::fs::chown(planted(5), Some(1), None).unwrap();
    fs::write(ground.state.join("elsewhere"), text(6, &id)).unwrap();
    fs::hard_link(ground.state.join("elsewhere"), planted(6)).unwrap();
    // Another item's name, none, one that leads out, and nothing that it is about.
    fs::write(planted(7), text(8, &id)).unwrap();
    fs::write(planted(8), forged(&notes, &id, &[("id", "../../victim".into())])).unwrap();
    fs::write(notes.join("x.json"), forged(&notes, &id, &[("id", "x".into())])).unwrap();
    fs::write(planted(100), text(100, &id)).unwrap();
    for quarantine in [opened(&ground), Quarantine::existing(&ground.state).unwrap()] {
        // The last thing has no note at all, as if its taker had died: it is kept, and nobody knows where it was.
        let items: Vec<_> =
            quarantine.list().map(|item| (item.id.as_str(), item.original.text.as_str())).collect();
        assert_eq!(items.len(), 2);
        assert_eq!(items[0], ("0000000000000009", ""));
        assert_eq!(items[1].0, id);
    }
    assert_eq!(fs::read_dir(&notes).unwrap().count(), 21);
}

#[test]
fn a_note_removes_nothing_but_its_own_item() {
    let Some(ground) = ground(Kind::Tmpfs) else { return };
    let (id, notes) = with_item(&ground);
    let top = ground.fs.join("prot");
    let victim = ground.dir.path().join("victim");
    fs::create_dir(&victim).unwrap();
    let own = notes.join(format!("{:016x}", 7));
    let forge = |n: u64, kept: &Path| {
        let id_of = format!("{n:016x}");
        fs::create_dir_all(kept).unwrap();
        fs::write(kept.join("f"), "f").unwrap();
        let kept = serde_json::json!({ "text": kept });
        let changes = [("id", id_of.clone().into()), ("kept", kept), ("bytes", u64::MAX.into())];
        fs::write(notes.join(format!("{id_of}.json")), forged(&notes, &id, &changes)).unwrap();
    };
    // By another name, by its own name in no store of ours, and in a directory that is only called like one.
    let called = store_in(&victim, &ground.state, "quarantine");
    forge(1, &victim.join("tree"));
    forge(2, &victim.join(format!("{:016x}", 2)));
    forge(3, &called.join(format!("{:016x}", 3)));
    std::fs::set_permissions(&called, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    // The thing is in a store, and its note names another.
    forge(7, &ground.state.join("vault"));
    fs::write(&own, "own").unwrap();
    let quarantine = Quarantine::open(&ground.state, Bounds { items: 2, ..Bounds::default() }).unwrap();
    assert_eq!(quarantine.list().map(|item| item.kept.path()).next(), Some(own.clone()));
    assert!(quarantine.list().all(|item| item.bytes < 1 << 20));
    let vault = Vault::open(&ground.state, Limits::default());
    let mut healer = Healer::new(Inventory::new(false), vault, quarantine, all_below(&top));
    healer.learn_tree(&top);
    fs::write(top.join("next"), "next").unwrap();
    let dropped = heal(&mut healer, &top.join("next"), Change::Unknown).remove(0).dropped;
    assert_eq!(dropped, ["0000000000000007"]);
    assert!(!own.exists() && ground.state.join("vault/f").exists());
    for kept in [victim.join("tree/f"), victim.join("0000000000000002/f"), called.join("0000000000000003/f")]
    {
        assert!(kept.exists(), "{}", kept.display());
    }
}

#[test]
fn items_in_the_stores_of_other_mounts_are_found_again() {
    let Some(ground) = ground(Kind::Tmpfs) else { return };
    let (id, _) = with_item(&ground);
    let store = store_in(&ground.fs, &ground.state, "quarantine");
    let mut quarantine = Quarantine::existing(&ground.state).unwrap();
    assert_eq!(quarantine.show(&id).unwrap().kept.path(), store.join(&id));
    // Without its filesystem there is nothing to give back, and with it there is again.
    let away = ground.fs.join("away");
    fs::rename(&store, &away).unwrap();
    quarantine.load().unwrap();
    assert_eq!(quarantine.list().count(), 0);
    fs::rename(&away, &store).unwrap();
    quarantine.load().unwrap();
    let to = ground.dir.path().join("to");
    quarantine.release(&id, &to).unwrap();
    assert_eq!(fs::read(&to).unwrap(), b"evidence");
    assert_eq!(fs::read_dir(ground.state.join("quarantine")).unwrap().count(), 0);
}
