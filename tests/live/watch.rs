//! The patches that are on follow the files of a directory.

use crate::adds;
use crate::support::fixtures::{self, Folder};
use crate::support::watched::{Watched, number};
use crate::support::{child, emulator, patient, watchdog};
use midflight::{Error, Transaction, WatchEvent, fault};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

adds! {
    live_watch_come_and_go + 1;
    live_watch_present + 1;
    live_watch_version + 1;
    live_watch_broken + 1;
    live_watch_same + 1;
    live_watch_twice + 1;
    live_watch_renamed + 1;
    live_watch_by_program + 1;
    live_watch_retry + 1;
    live_watch_retry_too + 1;
    live_watch_flood + 1;
    live_watch_flood_second + 1;
    live_watch_held + 1;
}

#[test]
fn what_comes_is_applied_and_what_goes_is_rolled_back() {
    let (folder, watched) = (Folder::new(), Watched::new());
    let library = number(&folder, "live_watch_come_and_go", 100);
    let watch = watched.begin();
    assert_eq!(watch.path(), watched.path("").canonicalize().unwrap());
    // Renamed into it.
    watched.put(&library, "a.so");
    let event = watched.next(&watch, |event| matches!(event, WatchEvent::Applied { .. }));
    assert_eq!(live_watch_come_and_go(1), 100);
    let WatchEvent::Applied { path, applied } = &event else { panic!("{event}") };
    assert_eq!((path.as_path(), applied.name()), (watch.path().join("a.so").as_path(), "number-100"));
    assert!(event.to_string().contains("a.so: applied number-100: 1 function"), "{event}");
    fs::remove_file(watched.path("a.so")).unwrap();
    let event = watched.next(&watch, |event| matches!(event, WatchEvent::RolledBack { .. }));
    assert!(event.to_string().contains("a.so: rolled back number-100"), "{event}");
    assert_eq!(live_watch_come_and_go(1), 2);
    // Written there.
    fs::write(watched.path("b.so"), fs::read(&library).unwrap()).unwrap();
    watched.own(watched.path("b.so"));
    watched.next(&watch, |event| matches!(event, WatchEvent::Applied { .. }));
    assert_eq!(live_watch_come_and_go(1), 100);
    // Renamed to where it is no patch library.
    fs::rename(watched.path("b.so"), watched.path("b.so.off")).unwrap();
    watched.next(&watch, |event| matches!(event, WatchEvent::RolledBack { .. }));
    assert_eq!(live_watch_come_and_go(1), 2);
    // Neither a hidden file nor one with another ending is a patch library.
    watched.put(&library, ".c.so");
    watched.put(&library, "c.dll");
    watched.put(&library, "d.so");
    let event = watched.change(&watch);
    assert!(matches!(&event, WatchEvent::Applied { path, .. } if path.ends_with("d.so")), "{event}");
    watch.stop().unwrap();
    assert_eq!(live_watch_come_and_go(1), 100, "on after the watch has ended");
    watched.roll_back("number-100");
}

#[test]
fn what_is_there_is_applied_in_the_order_of_names() {
    let (folder, watched) = (Folder::new(), Watched::new());
    for (name, value) in [("20-b.so", 120), ("3-c.so", 103), ("10-a.so", 110)] {
        watched.put(&number(&folder, "live_watch_present", value), name);
    }
    let watch = watched.begin();
    let mut names = Vec::new();
    let on = loop {
        match watch.next_event(Duration::from_secs(200)).unwrap() {
            WatchEvent::Applied { applied, .. } => names.push(applied.name().to_owned()),
            WatchEvent::Ready { on, .. } => break on,
            event => panic!("{event}"),
        }
    };
    assert_eq!((names.join(" ").as_str(), on), ("number-110 number-120 number-103", 3));
    assert_eq!(live_watch_present(1), 103, "the last of the names lies on top");
    fs::remove_file(watched.path("3-c.so")).unwrap();
    watched.next(&watch, |event| matches!(event, WatchEvent::RolledBack { .. }));
    assert_eq!(live_watch_present(1), 120);
    watch.stop().unwrap();
    watched.roll_back("number-110");
    watched.roll_back("number-120");
    assert_eq!(live_watch_present(1), 2);
}

#[test]
fn a_new_version_takes_the_place_of_the_old_one() {
    let _watchdog = watchdog::start(Duration::from_secs(500));
    let (folder, watched) = (Folder::new(), Watched::new());
    let versions: Vec<_> = (200..206).map(|value| number(&folder, "live_watch_version", value)).collect();
    watched.put(&versions[0], "v.so");
    let watch = watched.begin();
    watched.next(&watch, |event| matches!(event, WatchEvent::Ready { .. }));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut last = 200;
            while !done.load(SeqCst) {
                let now = live_watch_version(1);
                assert!((last..206).contains(&now), "{now} after {last}: neither the old nor the new one");
                last = now;
            }
        });
        for (version, old) in versions.iter().skip(1).zip(200..) {
            watched.put(version, "v.so");
            let event = watched.change(&watch);
            assert!(matches!(&event, WatchEvent::Applied { .. }), "{event}");
            let event = watched.change(&watch);
            let rolled_back = |event: &WatchEvent| matches!(event, WatchEvent::RolledBack { applied, .. } if applied.name() == format!("number-{old}"));
            assert!(rolled_back(&event), "{event}");
            assert_eq!(live_watch_version(1), old + 1);
        }
        done.store(true, SeqCst);
    });
    // The same bytes once more are nothing new.
    watched.put(&versions[5], "v.so");
    watched.put(&versions[0], "w.so");
    let event = watched.change(&watch);
    assert!(matches!(&event, WatchEvent::Applied { path, .. } if path.ends_with("w.so")), "{event}");
    watch.stop().unwrap();
    watched.roll_back("number-205");
    watched.roll_back("number-200");
    assert_eq!(live_watch_version(1), 2);
}

#[test]
fn what_is_broken_is_told_and_the_watch_goes_on() {
    let (folder, watched) = (Folder::new(), Watched::new());
    let good = number(&folder, "live_watch_broken", 300);
    watched.put(&good, "good.so");
    let watch = watched.begin();
    watched.next(&watch, |event| matches!(event, WatchEvent::Ready { on: 1, .. }));
    fs::write(folder.path("rubbish"), b"\x7fELF rubbish").unwrap();
    watched.put(&folder.path("rubbish"), "rubbish.so");
    let event = watched.next(&watch, |event| matches!(event, WatchEvent::Refused { .. }));
    assert!(
        matches!(&event, WatchEvent::Refused { error: Error::BadPatch { .. }, path } if path.ends_with("rubbish.so"))
    );
    // A library whose target does not exist, in the place of the good one.
    watched.put(&number(&folder, "live_watch_nowhere", 301), "good.so");
    let event = watched.next(&watch, |event| matches!(event, WatchEvent::Refused { .. }));
    assert!(matches!(&event, WatchEvent::Refused { error: Error::NotFound { .. }, .. }), "{event}");
    assert_eq!(live_watch_broken(1), 300, "the old version stays on");
    watched.put(&number(&folder, "live_watch_broken", 302), "good.so");
    watched.next(&watch, |event| matches!(event, WatchEvent::RolledBack { .. }));
    assert_eq!(live_watch_broken(1), 302);
    fs::remove_file(watched.path("rubbish.so")).unwrap();
    fs::remove_file(watched.path("good.so")).unwrap();
    watched.next(&watch, |event| matches!(event, WatchEvent::RolledBack { .. }));
    assert_eq!(live_watch_broken(1), 2);
    watch.stop().unwrap();
}

#[test]
fn the_same_library_twice_is_on_as_long_as_one_is_there() {
    let (folder, watched) = (Folder::new(), Watched::new());
    let library = number(&folder, "live_watch_same", 400);
    let watch = watched.begin();
    watched.put(&library, "a.so");
    watched.next(&watch, |event| matches!(event, WatchEvent::Applied { .. }));
    watched.put(&library, "b.so");
    let event = watched.change(&watch);
    assert!(matches!(&event, WatchEvent::Refused { error: Error::AlreadyApplied { .. }, .. }), "{event}");
    fs::remove_file(watched.path("a.so")).unwrap();
    let event = watched.change(&watch);
    let is_renamed = |event: &WatchEvent| matches!(event, WatchEvent::Renamed { from, path, .. } if from.ends_with("a.so") && path.ends_with("b.so"));
    assert!(is_renamed(&event), "{event}");
    assert_eq!(live_watch_same(1), 400);
    fs::remove_file(watched.path("b.so")).unwrap();
    let event = watched.change(&watch);
    assert!(matches!(&event, WatchEvent::RolledBack { .. }), "{event}");
    assert_eq!(live_watch_same(1), 2);
    watch.stop().unwrap();
}

#[test]
fn the_same_library_twice_stays_on_when_one_has_a_new_version() {
    let (folder, watched) = (Folder::new(), Watched::new());
    let (first, second) =
        (number(&folder, "live_watch_twice", 410), number(&folder, "live_watch_twice", 411));
    let watch = watched.begin();
    watched.put(&first, "a.so");
    watched.next(&watch, |event| matches!(event, WatchEvent::Applied { .. }));
    watched.put(&first, "b.so");
    let event = watched.change(&watch);
    assert!(matches!(&event, WatchEvent::Refused { error: Error::AlreadyApplied { .. }, .. }), "{event}");
    watched.put(&second, "a.so");
    let event = watched.change(&watch);
    assert!(matches!(&event, WatchEvent::Applied { .. }), "{event}");
    let event = watched.change(&watch);
    assert!(matches!(&event, WatchEvent::Renamed { path, .. } if path.ends_with("b.so")), "{event}");
    assert_eq!(live_watch_twice(1), 411);
    fs::remove_file(watched.path("a.so")).unwrap();
    let event = watched.change(&watch);
    assert!(matches!(&event, WatchEvent::RolledBack { path, .. } if path.ends_with("a.so")), "{event}");
    assert_eq!(live_watch_twice(1), 410, "still there as b.so");
    fs::remove_file(watched.path("b.so")).unwrap();
    watched.next(&watch, |event| matches!(event, WatchEvent::RolledBack { .. }));
    assert_eq!(live_watch_twice(1), 2);
    watch.stop().unwrap();
}

#[test]
fn a_library_with_a_new_name_is_on_under_that() {
    let (folder, watched) = (Folder::new(), Watched::new());
    let watch = watched.begin();
    watched.put(&number(&folder, "live_watch_renamed", 500), "a.so");
    watched.next(&watch, |event| matches!(event, WatchEvent::Applied { .. }));
    fs::rename(watched.path("a.so"), watched.path("b.so")).unwrap();
    // Seen in one piece, or as one that goes and another that comes.
    let event = watched.next(&watch, |event| !matches!(event, WatchEvent::RolledBack { .. }));
    let (WatchEvent::Renamed { path, .. } | WatchEvent::Applied { path, .. }) = &event else {
        panic!("{event}")
    };
    assert!(path.ends_with("b.so"), "{event}");
    assert_eq!(live_watch_renamed(1), 500);
    fs::remove_file(watched.path("b.so")).unwrap();
    watched.next(&watch, |event| matches!(event, WatchEvent::RolledBack { .. }));
    assert_eq!(live_watch_renamed(1), 2);
    watch.stop().unwrap();
}

#[test]
fn what_the_program_rolls_back_itself_stays_off() {
    let (folder, watched) = (Folder::new(), Watched::new());
    let (first, second) =
        (number(&folder, "live_watch_by_program", 600), number(&folder, "live_watch_by_program", 601));
    let watch = watched.begin();
    watched.put(&first, "a.so");
    watched.next(&watch, |event| matches!(event, WatchEvent::Applied { .. }));
    watched.roll_back("number-600");
    watched.put(&first, "a.so");
    watched.put(&second, "b.so");
    let event = watched.change(&watch);
    assert!(matches!(&event, WatchEvent::Applied { path, .. } if path.ends_with("b.so")), "{event}");
    assert_eq!(live_watch_by_program(1), 601, "the same file again is nothing new");
    watched.roll_back("number-601");
    assert_eq!(live_watch_by_program(1), 2);
    fs::remove_file(watched.path("a.so")).unwrap();
    watched.put(&first, "c.so");
    let event = watched.change(&watch);
    assert!(matches!(&event, WatchEvent::Applied { .. }), "nothing was rolled back twice: {event}");
    watch.stop().unwrap();
    watched.roll_back("number-600");
}

#[test]
fn what_failed_for_a_while_is_tried_again() {
    child::run("watch::what_failed_for_a_while_is_tried_again", || {
        let (folder, watched) = (Folder::new(), Watched::new());
        let library = fixtures::patch(
            &folder,
            "libretry.so",
            &format!(
                "#include <stdio.h>
                 __attribute__((constructor)) static void loaded(void)
                 {{ FILE *file = fopen(\"{}\", \"a\"); fputc('.', file); fclose(file); }}
                 static unsigned long number(unsigned long value) {{ return value * 0 + 700; }}
                 MIDFLIGHT_PATCH(\"number-700\");
                 MIDFLIGHT_REPLACE(\"live_watch_retry\", number);
                 MIDFLIGHT_REPLACE(\"live_watch_retry_too\", number);",
                watched.path("loaded").display()
            ),
        );
        let watch = watched.begin_with(&emulator::options().deadline(Duration::from_millis(50)));
        watched.next(&watch, |event| matches!(event, WatchEvent::Ready { .. }));
        let no_signal = || fault::fail(libc::SYS_rt_tgsigqueueinfo, 0, u32::MAX, libc::EAGAIN);
        no_signal();
        watched.put(&library, "a.so");
        let event = watched.next(&watch, |event| matches!(event, WatchEvent::Refused { .. }));
        assert!(matches!(&event, WatchEvent::Refused { error: Error::Deadline { .. }, .. }), "{event}");
        let event = watched.next(&watch, |event| matches!(event, WatchEvent::Refused { .. }));
        assert!(matches!(&event, WatchEvent::Refused { error: Error::Deadline { .. }, .. }), "{event}");
        fault::heal();
        watched.next(&watch, |event| matches!(event, WatchEvent::Applied { .. }));
        assert_eq!(live_watch_retry(1), 700);
        assert_eq!(fs::read(watched.path("loaded")).unwrap(), b".", "each try loaded it again");
        no_signal();
        fs::remove_file(watched.path("a.so")).unwrap();
        let event = watched.next(&watch, |event| matches!(event, WatchEvent::StaysOn { .. }));
        assert!(event.to_string().contains("number-700 is not rolled back"), "{event}");
        assert_eq!(live_watch_retry(1), 700);
        fault::heal();
        watched.next(&watch, |event| matches!(event, WatchEvent::RolledBack { .. }));
        assert_eq!(live_watch_retry(1), 2);
        watch.stop().unwrap();
    });
}

#[test]
fn when_changes_are_lost_the_directory_is_read_again() {
    static BUSY: AtomicBool = AtomicBool::new(false);
    child::run("watch::when_changes_are_lost_the_directory_is_read_again", || {
        let _watchdog = watchdog::start(Duration::from_secs(500));
        let (folder, watched) = (Folder::new(), Watched::new());
        let first = number(&folder, "live_watch_flood", 800);
        let second = number(&folder, "live_watch_flood_second", 801);
        let watch = watched.begin();
        watched.next(&watch, |event| matches!(event, WatchEvent::Ready { .. }));
        // The watching thread cannot finish its commit while no thread gets its signal.
        crate::support::alloc::then(|stage| BUSY.store(stage == fault::Stage::Prepared, SeqCst));
        fault::fail(libc::SYS_rt_tgsigqueueinfo, 0, u32::MAX, libc::EAGAIN);
        watched.put(&first, "a.so");
        while !BUSY.load(SeqCst) {
            std::thread::yield_now();
        }
        let room = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let room: usize = room.trim().parse().unwrap();
        let names = [watched.path("one"), watched.path("two")];
        fs::write(&names[0], b"").unwrap();
        for change in 0..room {
            fs::rename(&names[change % 2], &names[(change + 1) % 2]).unwrap();
        }
        watched.put(&second, "b.so");
        fault::heal();
        watched.next(&watch, |event| matches!(event, WatchEvent::ReadAgain { .. }));
        watched.next(
            &watch,
            |event| matches!(event, WatchEvent::Applied { path, .. } if path.ends_with("b.so")),
        );
        assert_eq!((live_watch_flood(1), live_watch_flood_second(1)), (800, 801));
        watch.stop().unwrap();
    });
}

#[test]
fn the_watching_thread_leaves_signals_to_others_and_can_be_held() {
    let watched = Watched::new();
    let watch = watched.begin();
    watched.next(&watch, |event| matches!(event, WatchEvent::Ready { .. }));
    let mut seen = 0;
    for thread in fs::read_dir("/proc/self/task").unwrap() {
        let read = |file| fs::read_to_string(thread.as_ref().unwrap().path().join(file)).unwrap_or_default();
        let status = read("status");
        let Some(blocked) = status.lines().find_map(|line| line.strip_prefix("SigBlk:")) else { continue };
        if !status.starts_with("Name:\tmidflight-watch\n") {
            continue;
        }
        let blocked = u64::from_str_radix(blocked.trim(), 16).unwrap();
        // While it commits itself it blocks everything.
        if blocked.count_ones() < 60 {
            seen += 1;
            let blocks = |signal: i32| blocked >> (signal - 1) & 1 == 1;
            assert!(blocks(libc::SIGTERM) && blocks(libc::SIGCHLD) && blocks(libc::SIGUSR1));
            assert!(
                ![libc::SIGURG, 36, 60, 32, 33, 34, libc::SIGSEGV].into_iter().any(blocks),
                "{blocked:x}"
            );
        }
    }
    assert!(seen > 0);
    let mut change = Transaction::new();
    extern "C" fn nine(_: u64) -> u64 {
        9
    }
    change.replace("live_watch_held", nine as *const ());
    // SAFETY: same type.
    let applied = unsafe { change.commit(&patient()) }.unwrap();
    assert_eq!(live_watch_held(1), 9);
    assert!(applied.held().threads >= 1, "the watching thread among them");
    applied.rollback_with(&patient()).unwrap();
    watch.stop().unwrap();
}
