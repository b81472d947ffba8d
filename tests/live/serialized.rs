//! Reports and the status as JSON: what machines that watch a service read.

use crate::adds;
use crate::support::fixtures::Folder;
use crate::support::watched::{Watched, number};
use crate::support::{emulator, patient};
use midflight::{Error, Patch, Transaction, WatchEvent, fault};
use serde_json::{Value, json, to_value};
use std::time::SystemTime;

adds! {
    live_json + 1;
    live_json_by_hand + 1;
    live_json_late + 1;
    live_json_watched + 1;
}

fn executable() -> String {
    std::fs::read_link("/proc/self/exe").unwrap().to_str().unwrap().to_owned()
}

/// The number at `pointer`, which is put back as zero, since it is another one each time.
fn take(value: &mut Value, pointer: &str) -> u64 {
    let place = value.pointer_mut(pointer).unwrap();
    let number = place.as_u64().unwrap();
    *place = json!(0);
    number
}

#[test]
fn a_check_and_the_status() {
    let folder = Folder::new();
    let path = number(&folder, "live_json", 5);
    let patch = Patch::open(&path).unwrap();
    let address = live_json as *const () as u64;
    let check = to_value(patch.check().unwrap()).unwrap();
    let (size, form, displaced) = if cfg!(target_arch = "x86_64") {
        (8, "slot", json!(["lea rax, [rdi+1]", "nop", "nop"]))
    } else {
        (8, "island", json!([".inst 0x91000400"]))
    };
    let expected = json!({
        "name": "number-5",
        "functions": [{
            "target": "live_json", "symbol": "live_json", "module": executable(), "address": address, "size": size,
            "form": form, "passed_over": [], "without_hold": false, "displaced": displaced, "layers": 0, "has_indirect_jump": false,
            "other_names": [],
        }],
        "notes": [],
    });
    assert_eq!(check, expected);

    let before = SystemTime::now();
    // SAFETY: same type.
    let applied = unsafe { patch.apply(&patient()) }.unwrap();
    let mut status = to_value(&applied).unwrap();
    let held = applied.held();
    assert_eq!(take(&mut status, "/held/threads"), held.threads as u64);
    assert_eq!(u128::from(take(&mut status, "/held/time_ns")), held.time.as_nanos());
    let since = take(&mut status, "/since_unix_ms");
    let millis = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    assert!((millis(before)..=millis(SystemTime::now())).contains(&u128::from(since)));
    let expected = json!({
        "name": "number-5", "path": path.to_str().unwrap(), "since_unix_ms": 0, "is_applied": true,
        "functions": [{"target": "live_json", "address": address}], "held": {"threads": 0, "time_ns": 0},
    });
    assert_eq!(status, expected);
    let checked_again = to_value(patch.check().unwrap()).unwrap();
    assert_eq!(checked_again["functions"][0]["layers"], json!(1));
    let held = applied.rollback_with(&patient()).unwrap();
    assert_eq!(to_value(&applied).unwrap()["is_applied"], json!(false));
    let expected = json!({"threads": held.threads, "time_ns": u64::try_from(held.time.as_nanos()).unwrap()});
    assert_eq!(to_value(held).unwrap(), expected);
}

extern "C" fn nine(_: u64) -> u64 {
    9
}

#[test]
fn the_status_of_what_was_changed_by_hand_has_no_path() {
    let mut change = Transaction::new();
    change.replace("live_json_by_hand", nine as *const ());
    // SAFETY: same type.
    let applied = unsafe { change.commit(&patient()) }.unwrap();
    let status = to_value(&applied).unwrap();
    assert_eq!((&status["path"], &status["name"]), (&Value::Null, &json!("live_json_by_hand")));
    applied.rollback_with(&patient()).unwrap();
}

#[test]
fn what_errors_carry() {
    let folder = Folder::new();
    let source = "__attribute__((noinline, used)) static int live_json_twice(int a) { return a + NUMBER; }";
    let (one, two) = (folder.path("one.c"), folder.path("two.c"));
    std::fs::write(&one, source.replace("NUMBER", "1")).unwrap();
    std::fs::write(&two, source.replace("NUMBER", "2")).unwrap();
    let second = two.to_str().unwrap();
    let library = folder.library_with("libtwice.so", &source.replace("NUMBER", "1"), &[second]);
    // SAFETY: a library of functions.
    let loaded = unsafe { libloading::Library::new(&library) }.unwrap();
    let mut change = Transaction::new();
    change.replace("libtwice.so!live_json_twice", nine as *const ());
    let Err(Error::Ambiguous { candidates, .. }) = change.check() else { panic!("not ambiguous") };
    let expected: Vec<Value> = candidates
        .iter()
        .map(|one| json!({"name": "live_json_twice", "module": library.to_str().unwrap(), "address": one.address}))
        .collect();
    assert_eq!((to_value(&candidates).unwrap(), expected.len()), (json!(expected), 2));
    drop(loaded);
}

#[test]
fn a_thread() {
    crate::support::child::run("serialized::a_thread", || {
        fault::fail(libc::SYS_rt_tgsigqueueinfo, 0, u32::MAX, libc::EAGAIN);
        let mut change = Transaction::new();
        change.replace("live_json_late", nine as *const ());
        let options = emulator::options().deadline(std::time::Duration::from_millis(50));
        // SAFETY: same type.
        let error = unsafe { change.commit(&options) }.unwrap_err();
        let Error::Deadline { thread, .. } = error else { panic!("{error}") };
        let expected = json!({"tid": thread.tid, "name": thread.name});
        assert_eq!(to_value(&thread).unwrap(), expected);
        assert!(thread.tid > 0 && !thread.name.is_empty());
    });
}

#[test]
fn events_of_a_watch() {
    let (folder, watched) = (Folder::new(), Watched::new());
    let watch = watched.begin();
    let here = watch.path().to_str().unwrap().to_owned();
    let ready = watched.next(&watch, |event| matches!(event, WatchEvent::Ready { .. }));
    assert_eq!(to_value(&ready).unwrap(), json!({"event": "ready", "path": here, "on": 0}));
    watched.put(&number(&folder, "live_json_watched", 7), "a.so");
    let event = to_value(watched.change(&watch)).unwrap();
    let path = format!("{here}/a.so");
    assert_eq!((&event["event"], &event["path"]), (&json!("applied"), &json!(path)));
    assert_eq!((&event["applied"]["name"], &event["applied"]["path"]), (&json!("number-7"), &json!(path)));
    std::fs::remove_file(watched.path("a.so")).unwrap();
    let event = to_value(watched.change(&watch)).unwrap();
    assert_eq!((&event["event"], &event["applied"]["is_applied"]), (&json!("rolled_back"), &json!(false)));
    assert!(event["held"]["threads"].is_u64());
    std::fs::write(folder.path("rubbish"), b"rubbish").unwrap();
    watched.put(&folder.path("rubbish"), "b.so");
    let refused = watched.change(&watch);
    let WatchEvent::Refused { error, .. } = &refused else { panic!("{refused}") };
    let expected = json!({"event": "refused", "path": format!("{here}/b.so"), "error": error.to_string()});
    assert_eq!(to_value(&refused).unwrap(), expected);
    watch.stop().unwrap();
    let ended = watched.change(&watch);
    assert_eq!(to_value(&ended).unwrap(), json!({"event": "ended", "path": here, "error": null}));
    assert_eq!(to_value(WatchEvent::Missed { count: 3 }).unwrap(), json!({"event": "missed", "count": 3}));
}
