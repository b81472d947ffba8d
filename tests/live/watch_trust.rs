//! Nobody but root and the user of the process can put code into it through a watched directory.

use crate::adds;
use crate::support::fixtures::Folder;
use crate::support::patient;
use crate::support::watched::{Watched, number};
use midflight::{Error, Watch, WatchEvent};
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

adds! {
    live_watch_file_rights + 1;
    live_watch_not_regular + 1;
    live_watch_rights_later + 1;
    live_watch_owner + 1;
}

fn set(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Which path is not trusted, and why; None if the directory is watched.
fn refusal(path: &Path) -> Option<(std::path::PathBuf, String)> {
    // SAFETY: nothing is put there.
    match unsafe { Watch::directory(path, &patient()) } {
        Ok(watch) => {
            watch.stop().unwrap();
            None
        }
        Err(Error::Untrusted { path, reason }) => Some((path, reason)),
        Err(error) => panic!("{error}"),
    }
}

fn is_root() -> bool {
    // SAFETY: only asks.
    unsafe { libc::geteuid() == 0 }
}

fn give_away(path: &Path) {
    std::os::unix::fs::lchown(path, Some(54321), None).unwrap();
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let watched = Watched::new();
    let (above, directory) = (watched.path("above"), watched.path("above/directory"));
    fs::create_dir_all(&directory).unwrap();
    set(&above, 0o755);
    for (mode, trusted) in
        [(0o755, true), (0o700, true), (0o777, false), (0o775, false), (0o702, false), (0o1777, false)]
    {
        set(&directory, mode);
        let refusal = refusal(&directory);
        assert_eq!(refusal.is_none(), trusted, "{mode:o}: {refusal:?}");
        if let Some((path, reason)) = refusal {
            assert_eq!(path, directory.canonicalize().unwrap());
            assert!(reason.contains("others") && reason.contains("chmod go-w"), "{reason}");
        }
    }
    set(&directory, 0o755);
    for (mode, trusted) in [(0o777, false), (0o770, false), (0o1777, true), (0o755, true)] {
        set(&above, mode);
        let refusal = refusal(&directory);
        assert_eq!(refusal.is_none(), trusted, "above {mode:o}: {refusal:?}");
        assert!(refusal.is_none_or(|(path, _)| path == above.canonicalize().unwrap()));
    }
    if is_root() {
        give_away(&directory);
        let (_, reason) = refusal(&directory).unwrap();
        assert!(reason.contains("belongs to user 54321"), "{reason}");
        std::os::unix::fs::chown(&directory, Some(0), None).unwrap();
        // Its owner may do in a sticky directory what others may not.
        set(&above, 0o1755);
        give_away(&above);
        assert_eq!(refusal(&directory).unwrap().0, above.canonicalize().unwrap());
    }
}

#[test]
fn every_part_of_the_way_is_judged() {
    let watched = Watched::new();
    for name in ["real", "real/inner", "open"] {
        fs::create_dir(watched.path(name)).unwrap();
        set(&watched.path(name), 0o755);
    }
    symlink("real/inner", watched.path("relative")).unwrap();
    symlink(watched.path("real"), watched.path("absolute")).unwrap();
    symlink("../real/inner", watched.path("open/in_open")).unwrap();
    symlink("loop", watched.path("loop")).unwrap();
    let inner = watched.path("real/inner").canonicalize().unwrap();
    for name in
        ["relative", "absolute/inner", "absolute/../real/./inner/", "open/in_open", "open/../relative"]
    {
        // SAFETY: nothing is put there.
        let watch = unsafe { Watch::directory(watched.path(name), &patient()) }.unwrap();
        assert_eq!(watch.path(), inner, "{name}");
        watch.stop().unwrap();
    }
    // A directory that one only passes through counts: whoever can write there chooses where the way leads.
    set(&watched.path("open"), 0o777);
    let open = watched.path("open").canonicalize().unwrap();
    assert_eq!(refusal(&watched.path("open/in_open")).unwrap().0, open);
    assert_eq!(refusal(&watched.path("open/../relative")).unwrap().0, open);
    set(&watched.path("open"), 0o1777);
    assert_eq!(refusal(&watched.path("open/in_open")), None, "a link of our own in a sticky directory");
    if is_root() {
        give_away(&watched.path("open/in_open"));
        assert_eq!(refusal(&watched.path("open/in_open")).unwrap().0, open.join("in_open"));
    }
    fs::write(watched.path("file"), b"").unwrap();
    for name in ["loop", "nowhere", "file", "file/below"] {
        // SAFETY: nothing is put there.
        let error = unsafe { Watch::directory(watched.path(name), &patient()) }.unwrap_err();
        assert!(matches!(&error, Error::Watch { .. }) && error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_file_that_others_can_write_to_is_refused_until_another_takes_its_place() {
    let (folder, watched) = (Folder::new(), Watched::new());
    let library = number(&folder, "live_watch_file_rights", 10);
    let copy = watched.path("copy");
    fs::copy(&library, &copy).unwrap();
    set(&copy, 0o666);
    fs::rename(&copy, watched.path("a.so")).unwrap();
    let watch = watched.begin();
    let event = watched.next(&watch, |event| matches!(event, WatchEvent::Refused { .. }));
    let WatchEvent::Refused { path, error: Error::Untrusted { reason, .. } } = &event else {
        panic!("{event}")
    };
    assert!(path.ends_with("a.so") && reason.contains("mode 666"), "{event}");
    assert_eq!(live_watch_file_rights(1), 2);
    set(&watched.path("a.so"), 0o664);
    let event = watched.change(&watch);
    assert!(matches!(&event, WatchEvent::Refused { error: Error::Untrusted { .. }, .. }), "{event}");
    // Whoever opened it meanwhile can still write to it.
    let mut opened = fs::OpenOptions::new().append(true).open(watched.path("a.so")).unwrap();
    set(&watched.path("a.so"), 0o644);
    let event = watched.change(&watch);
    assert!(event.to_string().contains("others could write to it before"), "{event}");
    fs::rename(watched.path("a.so"), watched.path("b.so")).unwrap();
    let event = watched.change(&watch);
    assert!(matches!(&event, WatchEvent::Refused { path, .. } if path.ends_with("b.so")), "{event}");
    opened.write_all(b"more").unwrap();
    drop(opened);
    let event = watched.change(&watch);
    assert!(event.to_string().contains("copy it to a new file"), "{event}");
    fs::copy(&library, &copy).unwrap();
    watched.own(&copy);
    fs::rename(&copy, watched.path("b.so")).unwrap();
    let event = watched.change(&watch);
    assert!(matches!(&event, WatchEvent::Applied { .. }), "{event}");
    assert_eq!(live_watch_file_rights(1), 10);
    // What is on was read long ago.
    set(&watched.path("b.so"), 0o666);
    fs::remove_file(watched.path("b.so")).unwrap();
    let event = watched.change(&watch);
    assert!(matches!(&event, WatchEvent::RolledBack { .. }), "{event}");
    watch.stop().unwrap();
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let (folder, watched) = (Folder::new(), Watched::new());
    let library = number(&folder, "live_watch_not_regular", 20);
    fs::copy(&library, watched.path("library")).unwrap();
    watched.own(watched.path("library"));
    symlink("library", watched.path("1.so")).unwrap();
    fs::create_dir(watched.path("2.so")).unwrap();
    let pipe = std::ffi::CString::new(watched.path("3.so").to_str().unwrap()).unwrap();
    // SAFETY: a path of ours.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
    let watch = watched.begin();
    for (name, word) in [("1.so", "symbolic link"), ("2.so", "regular"), ("3.so", "regular")] {
        let event = watched.change(&watch);
        assert!(
            matches!(&event, WatchEvent::Refused { path, error: Error::Untrusted { reason, .. } }
                if path.ends_with(name) && reason.contains(word)),
            "{name}: {event}"
        );
    }
    watched.next(&watch, |event| matches!(event, WatchEvent::Ready { on: 0, .. }));
    assert_eq!(live_watch_not_regular(1), 2);
    watch.stop().unwrap();
}

#[test]
fn while_others_can_write_to_the_directory_nothing_is_done() {
    let (folder, watched) = (Folder::new(), Watched::new());
    let (first, second) =
        (number(&folder, "live_watch_rights_later", 30), number(&folder, "live_watch_rights_later", 31));
    watched.put(&first, "a.so");
    let watch = watched.begin();
    watched.next(&watch, |event| matches!(event, WatchEvent::Ready { on: 1, .. }));
    set(&watched.path(""), 0o777);
    watched.put(&second, "b.so");
    let event = watched.change(&watch);
    assert!(
        matches!(&event, WatchEvent::Refused { path, error: Error::Untrusted { .. } } if path == watch.path()),
        "{event}"
    );
    fs::remove_file(watched.path("a.so")).unwrap();
    assert_eq!(live_watch_rights_later(1), 30);
    set(&watched.path(""), 0o700);
    // In the order of the names: the one that went, the one that came.
    let event = watched.change(&watch);
    assert!(matches!(&event, WatchEvent::RolledBack { path, .. } if path.ends_with("a.so")), "{event}");
    let event = watched.change(&watch);
    assert!(matches!(&event, WatchEvent::Applied { path, .. } if path.ends_with("b.so")), "{event}");
    assert_eq!(live_watch_rights_later(1), 31);
    watch.stop().unwrap();
    watched.roll_back("number-31");
}

#[test]
fn a_file_of_another_user_is_refused() {
    // Only root can make one.
    if !is_root() {
        return;
    }
    let (folder, watched) = (Folder::new(), Watched::new());
    let copy = watched.path("copy");
    fs::copy(number(&folder, "live_watch_owner", 40), &copy).unwrap();
    watched.own(&copy);
    give_away(&copy);
    let watch = watched.begin();
    fs::rename(&copy, watched.path("a.so")).unwrap();
    let event = watched.change(&watch);
    assert!(event.to_string().contains("belongs to user 54321"), "{event}");
    assert_eq!(live_watch_owner(1), 2);
    watch.stop().unwrap();
}
