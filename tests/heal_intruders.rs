//! What an intruder plants in the directories of vault and quarantine, who has all rights but to write to files.

mod heal_support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use heal_support::*;
use writegate::heal::{Bounds, Change, Quarantine};

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
