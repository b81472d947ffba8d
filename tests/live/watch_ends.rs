//! How a watch ends, and that the patches stay on then.

use crate::adds;
use crate::support::fixtures::Folder;
use crate::support::watched::{Watched, number};
use crate::support::{child, emulator, watchdog};
use midflight::{Error, WatchEvent, fault};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

adds! {
    live_watch_stopped + 1;
    live_watch_removed + 1;
    live_watch_dropped + 1;
    live_watch_descriptors + 1;
    live_watch_rests + 1;
    live_watch_forked + 1;
}

/// `/proc/self/task/TID/stat` of the threads of this process that watch.
fn stats() -> Vec<String> {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let stats = threads.filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("stat")).ok());
    stats.filter(|stat| stat.contains("(midflight-watch)")).collect()
}

/// How many threads of this process watch.
fn watching() -> usize {
    stats().len()
}

/// Clock ticks, of which there are 100 in a second, that the watching thread has run (utime and stime of proc(5)).
fn ticks() -> u64 {
    let stat = stats().pop().unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
    fields.map(|field| field.parse::<u64>().unwrap()).sum()
}

#[test]
fn stopped() {
    child::run("watch_ends::stopped", || {
        let _watchdog = watchdog::start(Duration::from_secs(500));
        let (folder, watched) = (Folder::new(), Watched::new());
        let watch = watched.begin();
        watched.put(&number(&folder, "live_watch_stopped", 10), "a.so");
        watched.next(&watch, |event| matches!(event, WatchEvent::Applied { .. }));
        assert_eq!(watching(), 1);
        // While another thread waits for events.
        std::thread::scope(|scope| {
            let events = scope.spawn(|| watch.events().map(|event| event.to_string()).collect::<Vec<_>>());
            watch.stop().unwrap();
            let events = events.join().unwrap();
            assert!(events.last().is_some_and(|last| last.ends_with("no longer watched")), "{events:?}");
        });
        // Who joins a thread goes on a little before it is gone from the list.
        while watching() > 0 {
            std::thread::yield_now();
        }
        watched.put(&number(&folder, "live_watch_stopped", 11), "b.so");
        assert!(watch.next_event(Duration::MAX).is_none(), "there will be none");
        watch.stop().unwrap();
        assert_eq!(live_watch_stopped(1), 10);
        watched.roll_back("number-10");
        assert_eq!(live_watch_stopped(1), 2);
    });
}

#[test]
fn dropped() {
    child::run("watch_ends::dropped", || {
        let _watchdog = watchdog::start(Duration::from_secs(500));
        let (folder, watched) = (Folder::new(), Watched::new());
        watched.put(&number(&folder, "live_watch_dropped", 20), "a.so");
        let watch = watched.begin();
        watched.next(&watch, |event| matches!(event, WatchEvent::Ready { .. }));
        drop(watch);
        while watching() > 0 {
            std::thread::yield_now();
        }
        assert_eq!(live_watch_dropped(1), 20);
    });
}

#[test]
fn the_directory_is_gone() {
    let (folder, watched) = (Folder::new(), Watched::new());
    let library = number(&folder, "live_watch_removed", 30);
    let end = |name: &str, end: &dyn Fn()| {
        let inner = watched.path(name);
        // SAFETY: the libraries fit their targets.
        let watch = unsafe { midflight::Watch::directory(&inner, &crate::support::patient()) }.unwrap();
        watched.next(&watch, |event| matches!(event, WatchEvent::Ready { .. }));
        end();
        let event = watched.next(&watch, |event| matches!(event, WatchEvent::Ended { .. }));
        let WatchEvent::Ended { path, error: Some(Error::Watch { .. }) } = &event else { panic!("{event}") };
        assert_eq!(path, watch.path());
        assert!(event.to_string().contains("stay on"), "{event}");
        watch.stop().unwrap();
    };
    for name in ["removed", "renamed", "above", "above/below"] {
        fs::create_dir(watched.path(name)).unwrap();
    }
    end("removed", &|| fs::remove_dir(watched.path("removed")).unwrap());
    watched.put(&library, "renamed/a.so");
    end("renamed", &|| fs::rename(watched.path("renamed"), watched.path("elsewhere")).unwrap());
    assert_eq!(live_watch_removed(1), 30, "patches stay on");
    // Another directory of the same name is another directory: noticed at the next change.
    end("above/below", &|| {
        fs::rename(watched.path("above"), watched.path("above-before")).unwrap();
        fs::create_dir_all(watched.path("above/below")).unwrap();
        watched.put(&library, "above-before/below/b.so");
    });
    watched.roll_back("number-30");
    assert_eq!(live_watch_removed(1), 2);
}

#[test]
fn a_want_of_descriptors_does_not_end_it() {
    child::run("watch_ends::a_want_of_descriptors_does_not_end_it", || {
        let _watchdog = watchdog::start(Duration::from_secs(500));
        let (folder, watched) = (Folder::new(), Watched::new());
        watched.put(&number(&folder, "live_watch_descriptors", 50), "a.off");
        let watch = watched.begin();
        watched.next(&watch, |event| matches!(event, WatchEvent::Ready { .. }));
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a place of ours.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
        let allow = |rlim_cur| {
            let limit = libc::rlimit { rlim_cur, ..limit };
            // SAFETY: a place of ours.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
        };
        allow(3);
        fs::rename(watched.path("a.off"), watched.path("a.so")).unwrap();
        let event = watched.next(&watch, |event| !matches!(event, WatchEvent::Ready { .. }));
        allow(limit.rlim_cur);
        assert!(
            matches!(&event, WatchEvent::Refused { path, error: Error::Watch { .. } } if path == watch.path()),
            "{event}"
        );
        let event = watched.change(&watch);
        assert!(matches!(&event, WatchEvent::Applied { .. }), "{event}");
        assert_eq!(live_watch_descriptors(1), 50);
        watch.stop().unwrap();
    });
}

#[test]
fn it_rests_while_others_can_write_to_the_directory() {
    child::run("watch_ends::it_rests_while_others_can_write_to_the_directory", || {
        let _watchdog = watchdog::start(Duration::from_secs(500));
        let (folder, watched) = (Folder::new(), Watched::new());
        let library = number(&folder, "live_watch_rests", 60);
        let set = |mode| fs::set_permissions(watched.path(""), Permissions::from_mode(mode)).unwrap();
        let watch = watched.begin_with(&emulator::options().deadline(Duration::from_millis(50)));
        watched.next(&watch, |event| matches!(event, WatchEvent::Ready { .. }));
        // A file waits for another try.
        fault::fail(libc::SYS_rt_tgsigqueueinfo, 0, u32::MAX, libc::EAGAIN);
        watched.put(&library, "a.so");
        watched.next(
            &watch,
            |event| matches!(event, WatchEvent::Refused { path, .. } if path.ends_with("a.so")),
        );
        set(0o777);
        watched
            .next(&watch, |event| matches!(event, WatchEvent::Refused { path, .. } if path == watch.path()));
        fault::heal();
        let before = ticks();
        std::thread::sleep(Duration::from_secs(4));
        let used = ticks() - before;
        assert!(used <= 50, "the watching thread does not rest: {used} hundredths of a second");
        set(0o700);
        watched.next(&watch, |event| matches!(event, WatchEvent::Applied { .. }));
        assert_eq!(live_watch_rests(1), 60);
        watch.stop().unwrap();
    });
}

#[test]
fn a_forked_child_does_not_watch_and_does_not_stop_the_parent() {
    child::run("watch_ends::a_forked_child_does_not_watch_and_does_not_stop_the_parent", || {
        let _watchdog = watchdog::start(Duration::from_secs(500));
        let (folder, watched) = (Folder::new(), Watched::new());
        let (first, second) =
            (number(&folder, "live_watch_forked", 40), number(&folder, "live_watch_forked", 41));
        watched.put(&first, "a.so");
        let watch = watched.begin();
        watched.next(&watch, |event| matches!(event, WatchEvent::Ready { .. }));
        // SAFETY: the child calls midflight and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let nothing = watch.next_event(Duration::MAX).is_none() && watch.stop().is_ok();
            let is_on = live_watch_forked(1) == 40;
            drop(watch);
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(if nothing && is_on && watching() == 0 { 7 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: waits for our child.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "{status:#x}");
        // A wake-up that the child gave would be one for ever.
        let before = ticks();
        std::thread::sleep(Duration::from_secs(1));
        let used = ticks() - before;
        assert!(used <= 20, "the watching thread does not rest: {used} hundredths of a second");
        watched.put(&second, "a.so");
        watched.next(&watch, |event| matches!(event, WatchEvent::RolledBack { .. }));
        assert_eq!(live_watch_forked(1), 41);
        watch.stop().unwrap();
    });
}
