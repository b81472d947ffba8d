//! The contract on handles, sentence by sentence; `docs/design.md` says which other tests belong to it.

use crate::adds;
use crate::support::fixtures::{self, Folder};
use crate::support::{child, patient, watchdog};
use midflight::{Applied, Error, Hook, Original, Patch, Transaction, replace_with};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, SystemTime};

adds! {
    live_contract + 1;
    live_contract_dropped + 1;
    live_contract_order + 1;
    live_contract_race + 1;
    live_contract_patch + 1;
    live_contract_original + 1;
    live_contract_constructor + 1;
}

type Function = extern "C" fn(u64) -> u64;

extern "C" fn a_thousand(value: u64) -> u64 {
    value + 1000
}

fn commit(target: &str) -> Applied {
    let mut change = Transaction::new();
    change.replace(target, a_thousand as *const ());
    // SAFETY: same type.
    unsafe { change.commit(&patient()) }.unwrap()
}

#[test]
fn handles_go_to_any_thread_and_are_one_entry() {
    fn shared<T: Send + Sync + Clone + 'static>(_: &T) {}
    // SAFETY: same type.
    let hook =
        unsafe { replace_with(live_contract as Function, a_thousand as Function, &patient()) }.unwrap();
    shared::<Hook<Function>>(&hook);
    shared::<Applied>(hook.applied());
    fn patch_too(patch: &Patch) {
        shared(patch);
    }
    let _ = patch_too;
    let (one, two) = (hook.clone(), hook.applied().clone());
    assert_eq!(live_contract(1), 1001);
    std::thread::spawn(move || one.applied().rollback_with(&patient()).unwrap()).join().unwrap();
    assert_eq!(live_contract(1), 2);
    assert!(!two.is_applied() && !hook.applied().is_applied());
    assert!(matches!(two.rollback_with(&patient()), Err(Error::NotApplied { .. })));
    assert_eq!(hook.original()(5), 6, "the original stays callable");
}

#[test]
fn a_dropped_handle_leaves_the_patch_on_and_the_list_has_it() {
    drop(commit("live_contract_dropped"));
    assert_eq!(live_contract_dropped(1), 1001);
    let all = midflight::applied();
    let found = all.iter().find(|applied| applied.name() == "live_contract_dropped").unwrap();
    found.rollback_with(&patient()).unwrap();
    assert_eq!(live_contract_dropped(1), 2);
    assert!(midflight::applied().iter().all(|applied| applied.name() != "live_contract_dropped"));
}

#[test]
fn the_list_has_the_newest_last() {
    let before = SystemTime::now();
    let layers =
        [commit("live_contract_order"), commit("live_contract_order"), commit("live_contract_order")];
    let listed: Vec<_> = midflight::applied();
    let of_ours: Vec<_> = listed.iter().filter(|one| one.name() == "live_contract_order").collect();
    assert_eq!(of_ours.len(), 3);
    assert!(of_ours.windows(2).all(|pair| pair[0].since() <= pair[1].since()));
    assert!(layers.iter().all(|layer| layer.since() >= before && layer.path().is_none()));
    // The one in the middle off: the others stay, in their order.
    layers[1].rollback_with(&patient()).unwrap();
    let is_on: Vec<_> = layers.iter().map(Applied::is_applied).collect();
    assert_eq!(is_on, [true, false, true]);
    assert_eq!(live_contract_order(1), 1001);
    layers[0].rollback_with(&patient()).unwrap();
    layers[2].rollback_with(&patient()).unwrap();
    assert_eq!(live_contract_order(1), 2);
}

/// Runs `body` in eight threads at once; how often it said yes.
fn in_eight_threads(body: impl Fn() -> bool + Sync) -> usize {
    let yes = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| yes.fetch_add(body().into(), SeqCst));
        }
    });
    yes.into_inner()
}

#[test]
fn of_many_rollbacks_and_of_many_applies_one_wins() {
    let applied = commit("live_contract_race");
    let won = in_eight_threads(|| match applied.rollback_with(&patient()) {
        Ok(_) => true,
        Err(Error::NotApplied { .. }) => false,
        Err(error) => panic!("{error}"),
    });
    assert_eq!((won, live_contract_race(1)), (1, 2));

    let folder = Folder::new();
    let source = "
        static unsigned long add(unsigned long value) { return value + 1000; }
        MIDFLIGHT_PATCH(\"contract\");
        MIDFLIGHT_REPLACE(\"live_contract_patch\", add);
    ";
    let path = fixtures::patch(&folder, "libcontract.so", source);
    let patch = Patch::open(&path).unwrap();
    // SAFETY: same type.
    let won = in_eight_threads(|| match unsafe { patch.clone().apply(&patient()) } {
        Ok(_) => true,
        Err(Error::AlreadyApplied { name }) => {
            assert_eq!(name, "contract");
            false
        }
        Err(error) => panic!("{error}"),
    });
    assert_eq!((won, live_contract_patch(1)), (1, 1001));
    // The handles of the winner are gone, the patch is not; and its `Patch` may go too.
    drop(patch);
    let all = midflight::applied();
    let applied = all.iter().find(|applied| applied.name() == "contract").unwrap();
    assert_eq!(applied.path(), Some(path.as_path()));
    applied.rollback_with(&patient()).unwrap();
    assert_eq!(live_contract_patch(1), 2);
}

#[test]
fn an_original_serves_again_after_a_rollback_but_one_layer_at_a_time() {
    static OLD: Original<Function> = Original::new();
    extern "C" fn more(value: u64) -> u64 {
        OLD.get()(value) + 1000
    }
    let put_on = || {
        let mut change = Transaction::new();
        change.replace_fn("live_contract_original", &OLD, more as Function);
        // SAFETY: same type.
        unsafe { change.commit(&patient()) }
    };
    for _ in 0..10 {
        let applied = put_on().unwrap();
        assert_eq!(live_contract_original(1), 1002);
        assert!(matches!(put_on(), Err(Error::OriginalInUse { .. })));
        applied.rollback_with(&patient()).unwrap();
        assert_eq!((live_contract_original(1), OLD.get()(1)), (2, 2));
    }
}

#[test]
fn the_list_may_be_asked_for_in_the_middle_of_a_commit() {
    child::run("contract::the_list_may_be_asked_for_in_the_middle_of_a_commit", || {
        static SEEN: AtomicUsize = AtomicUsize::new(0);
        extern "C" fn ask() {
            SEEN.store(midflight::applied().len() + 100, SeqCst);
        }
        let _watchdog = watchdog::start(Duration::from_secs(200));
        let _first = commit("live_contract");
        // SAFETY: this child has one thread that reads or writes the environment.
        unsafe { std::env::set_var("MIDFLIGHT_TEST_ASK", format!("{:x}", ask as *const () as usize)) };
        let folder = Folder::new();
        let source = r#"
            #include <stdlib.h>
            __attribute__((constructor)) static void ran(void)
            {
                ((void (*)(void))strtoul(getenv("MIDFLIGHT_TEST_ASK"), NULL, 16))();
            }
            static unsigned long add(unsigned long value) { return value + 1000; }
            MIDFLIGHT_PATCH("asks");
            MIDFLIGHT_REPLACE("live_contract_constructor", add);
        "#;
        let patch = Patch::open(fixtures::patch(&folder, "libasks.so", source)).unwrap();
        // SAFETY: same type; the constructor asks for the list.
        let applied = unsafe { patch.apply(&patient()) }.unwrap();
        assert_eq!(SEEN.load(SeqCst), 101, "what was on before");
        assert_eq!(live_contract_constructor(1), 1001);
        applied.rollback_with(&patient()).unwrap();
    });
}
