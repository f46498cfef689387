use super::*;

fn without_events() -> Lineage {
    Lineage {
        connector: None,
        processes: HashMap::new(),
        threads: HashMap::new(),
        taken: Vec::new(),
        lost_ns: 0,
        last_purge: Instant::now(),
    }
}

#[test]
fn descendants_inherit_only_where_the_writer_lets_them() {
    let mut lineage = without_events();
    let (packages, accounts) = (WriterMask(1), WriterMask(2));
    lineage.runs_as(100, WriterMask(3), 1);
    let child = Known { ended: Some(Instant::now()), ..Known::child_of(100, 5) };
    let now = Moment::now();
    lineage.processes.insert(101, child);
    lineage.processes.insert(102, Known { parent: 101, ..child });
    lineage.threads.insert(1020, Thread { tgid: 102, ended: None });
    assert_eq!(lineage.recall(100, packages, now), (WriterMask(packages.0 | accounts.0), None));
    assert_eq!(lineage.recall(102, packages, now), (packages, None));
    assert_eq!(lineage.recall(1020, packages, now), (packages, None));
    assert_eq!(lineage.recall(999, packages, now), (WriterMask::NONE, None));
    lineage.processes.insert(103, Known { parent: 7, ..child });
    assert_eq!(lineage.recall(103, packages, now), (WriterMask::NONE, Some(7)));
    lineage.processes.insert(104, Known { parent: 1, ..child });
    assert_eq!(lineage.recall(104, packages, now), (WriterMask::NONE, None));
    assert_eq!(lineage.forebears(1020), [102, 101, 100]);
    assert_eq!((lineage.forebears(103), lineage.forebears(104)), (vec![103, 7], vec![104, 1]));
    assert_eq!(lineage.forebears(999), [999]);
}

fn ran_it(lineage: &Lineage, when: Moment) -> bool {
    lineage.is_work_of(100, Verified { writers: WriterMask(1), by: 100 }, when)
}

fn fork(parent: i32, tid: i32, tgid: i32, at_ns: u64) -> ProcessEvent {
    ProcessEvent::Fork { parent, tid, tgid, at_ns }
}

#[test]
fn a_number_that_was_a_writers_thread_is_nobodys() {
    let mut lineage = without_events();
    let (writer, now) = (WriterMask(1), Moment::now());
    lineage.take(fork(1, 100, 100, 1));
    lineage.take(fork(1, 101, 100, 2));
    lineage.verified(101, Verified { writers: writer, by: 101 }, 3);
    assert_eq!(lineage.recall(101, writer, now), (writer, Some(1).filter(|&pid| pid > 1)));
    lineage.take(ProcessEvent::Exit { tid: 101, tgid: 100 });
    lineage.take(fork(7, 101, 101, 4));
    assert_eq!(lineage.recall(101, writer, now), (WriterMask::NONE, Some(7)));
}

#[test]
fn what_was_done_before_the_writer_was_executed_is_not_its_work() {
    let mut lineage = without_events();
    let (writer, notes) = (WriterMask(1), Notes::default());
    lineage.take(fork(7, 100, 100, 1));
    let before = Moment { position: 10, after_ns: 5 };
    let after = Moment { position: 11, after_ns: 5 };
    notes.starts(100, Some(11), 20);
    lineage.catch_up(&notes);
    // It may run the program already, and the kernel has not told of that.
    assert!(!ran_it(&lineage, before) && ran_it(&lineage, after));
    lineage.take(ProcessEvent::Exec { tgid: 100, at_ns: 30 });
    lineage.runs_as(100, writer, 40);
    assert!(!ran_it(&lineage, before) && ran_it(&lineage, after));
    assert_eq!(lineage.recall(100, writer, before).0, WriterMask::NONE);
    assert_eq!(lineage.recall(100, writer, after).0, writer);
    // Nothing waited after it was executed.
    assert!(ran_it(&lineage, Moment { position: 10, after_ns: 30 }));
    // Where it cannot be told, it is not.
    notes.starts(100, None, 50);
    lineage.catch_up(&notes);
    lineage.take(ProcessEvent::Exec { tgid: 100, at_ns: 60 });
    assert!(!ran_it(&lineage, after));
}

#[test]
fn a_child_from_before_is_not_the_writers() {
    let mut lineage = without_events();
    let (writer, now) = (WriterMask(1), Moment::now());
    lineage.take(fork(7, 100, 100, 1));
    lineage.take(fork(100, 101, 101, 2));
    lineage.take(ProcessEvent::Exec { tgid: 100, at_ns: 3 });
    lineage.runs_as(100, writer, 4);
    lineage.take(fork(100, 102, 102, 5));
    lineage.take(ProcessEvent::Exit { tid: 101, tgid: 101 });
    lineage.take(ProcessEvent::Exit { tid: 102, tgid: 102 });
    assert_eq!(lineage.recall(101, writer, now), (WriterMask::NONE, Some(7)));
    assert_eq!(lineage.recall(102, writer, now), (WriterMask::NONE, Some(100)));
    // A maintainer script that becomes another program is dpkg's child as before, and so is what it had forked.
    lineage.take(fork(100, 103, 103, 6));
    lineage.take(fork(103, 104, 104, 7));
    lineage.take(ProcessEvent::Exit { tid: 104, tgid: 104 });
    lineage.take(ProcessEvent::Exec { tgid: 103, at_ns: 8 });
    assert_eq!(lineage.recall(104, writer, now), (WriterMask::NONE, Some(100)));
    lineage.take(ProcessEvent::Exit { tid: 100, tgid: 100 });
    assert_eq!(lineage.recall(102, writer, now).0, writer);
}

#[test]
fn a_child_from_before_its_parent_is_about_to_execute_a_writer_is_not_its() {
    let (mut lineage, notes) = (without_events(), Notes::default());
    lineage.take(fork(7, 100, 100, 1));
    lineage.take(fork(100, 101, 101, 2));
    lineage.take(ProcessEvent::Exit { tid: 101, tgid: 101 });
    assert_eq!(lineage.recall(101, WriterMask(1), Moment::now()), (WriterMask::NONE, Some(100)));
    notes.starts(100, Some(1), 3);
    lineage.catch_up(&notes);
    assert_eq!(lineage.recall(101, WriterMask(1), Moment::now()), (WriterMask::NONE, Some(7)));
}

#[test]
fn who_is_verified_through_a_parent_is_what_the_parent_is() {
    let mut lineage = without_events();
    let (writer, now) = (WriterMask(1), Moment::now());
    lineage.take(fork(7, 100, 100, 1));
    lineage.take(fork(100, 101, 101, 2));
    lineage.take(ProcessEvent::Exec { tgid: 100, at_ns: 3 });
    lineage.take(fork(100, 102, 102, 4));
    let verified = Verified { writers: writer, by: 100 };
    assert!(lineage.is_work_of(102, verified, now) && !lineage.is_work_of(101, verified, now));
    lineage.verified(101, verified, 5);
    lineage.verified(102, verified, 5);
    for tgid in [100, 101, 102] {
        lineage.take(ProcessEvent::Exit { tid: tgid, tgid });
    }
    // It executed something since the queue was last empty: only its parent tells.
    lineage.take(ProcessEvent::Exec { tgid: 102, at_ns: 6 });
    assert_eq!(lineage.recall(102, writer, Moment::default()).0, writer);
    assert_eq!(lineage.recall(101, writer, now).0, WriterMask::NONE);
}

#[test]
fn the_kernel_tells_of_a_child_that_is_gone() {
    let mut lineage = Lineage::new(Connector::listen().ok());
    if lineage.connector.is_none() {
        eprintln!("SKIPPED: process events need CAP_NET_ADMIN and the initial namespaces");
        return;
    }
    let me = std::process::id() as i32;
    let mut child = std::process::Command::new("true").spawn().expect("true");
    let pid = child.id() as i32;
    child.wait().expect("its end");
    lineage.catch_up(&Notes::default());
    assert_eq!(lineage.recall(pid, WriterMask(1), Moment::now()), (WriterMask::NONE, Some(me)));
}
