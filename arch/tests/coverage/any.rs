//! Plans of any functions at any places: nothing panics, and the second decoder agrees with each plan.
//!
//! `MIDFLIGHT_PLAN_TIMES` multiplies the number of cases. The fuzz target `plan_site` does the same without an end.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use midflight_arch::{InstructionSet, Places};
use midflight_coverage::{Case, Module};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::support::hex;

/// Prologues that break libraries of this kind; what follows is any code.
const PROLOGUES: &[&str] = &[
    "85ff7414",
    "85ff0f8400100000",
    "eb0c9090",
    "e900100000",
    "e800100000",
    "ff1500100000",
    "ff2500100000",
    "488d0500100000",
    "833d0010000005",
    "c7050010000088776655",
    "668105001000003412",
    "690500100000e8030000",
    "f6050010000001",
    "0fa4050010000003",
    "660f3a22050010000001",
    "c5fb100500100000",
    "c4e37d18050010000001",
    "62f3754825050010000096",
    "f20f38f00500100000",
    "ff3500100000",
    "f00fc10500100000",
    "480fc70d00100000",
    "48870500100000",
    "678d0500100000",
    "64488b0500100000",
    "db2d00100000",
    "48a18877665544332211",
    "64488b042528000000",
    "e209",
    "e309",
    "67e307",
    "e302ffc790",
    "85ff740190",
    "74027200",
    "85ff3e7405",
    "f20f8400100000",
    "f2e900100000",
    "40e900100000",
    "66e900100000",
    "3effe0",
    "488d3502000000ffe6",
    "31c0ffc083f80372f9",
    "48ffceffc783ff0a72f6",
    "31c0c39090",
    "31c0c3662e0f1f840000000000",
    "31c0c3cccc",
    "c3",
    "f3c3",
    "c20800",
    "0f0b",
    "f4",
    "cc",
    "e80000000058",
    "39f7488d0500100000",
    "6a27580f05",
    "b8270000000f05",
    "f30f1efac3",
    "0f1f440000",
    "66662e0f1f840000000000",
    "f3480f1ec8",
    "c8100000",
    "c7f800100000",
    "8b042490c3",
    "ff5424088b0424",
    "ffd0",
    "41ff55084889c3",
    "53e88affffff",
    "50ff942400010000",
];

fn times() -> u32 {
    let text = std::env::var("MIDFLIGHT_PLAN_TIMES").unwrap_or_else(|_| "1".into());
    text.parse().unwrap_or_else(|error| panic!("MIDFLIGHT_PLAN_TIMES={text}: {error}"))
}

/// Functions of this program, from all over it.
fn functions() -> &'static (InstructionSet, Vec<Vec<u8>>) {
    static FUNCTIONS: OnceLock<(InstructionSet, Vec<Vec<u8>>)> = OnceLock::new();
    FUNCTIONS.get_or_init(|| {
        let module = Module::read("/proc/self/exe".as_ref()).expect("this program");
        let some = module.functions.iter().step_by(module.functions.len() / 2000 + 1);
        let bytes = some.filter_map(|symbol| module.function(symbol)).map(|function| function.bytes.to_vec());
        (module.set, bytes.filter(|bytes| bytes.len() <= 400).collect())
    })
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![0x5000_0000_0000..0x7fff_ffff_0000u64, Just(0x40_1000), any::<u64>(), 0..0x1_0000u64]
}

fn places(around: u64) -> impl Strategy<Value = (u64, Places, u64)> {
    let place = move || {
        prop_oneof![
            (-0x10_0000i64..0x10_0000).prop_map(move |d| around.wrapping_add_signed(d)),
            (-0x8000_0100i64..0x8000_0100).prop_map(move |d| around.wrapping_add_signed(d)),
            any::<u64>(),
        ]
    };
    (place(), place(), place(), place()).prop_map(move |(trampoline, island, slot, replacement)| {
        (
            around,
            Places { trampoline: trampoline & !3, island: island & !3, slot: slot & !7 },
            replacement & !3,
        )
    })
}

/// A function whose first bytes are changed here and there.
fn changed(bytes: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let change = (0..24usize, any::<u8>());
    prop::collection::vec(change, 0..4).prop_map(move |changes| {
        let mut bytes = bytes.clone();
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes
    })
}

fn real() -> impl Strategy<Value = (InstructionSet, Vec<u8>)> {
    let (set, functions) = functions();
    prop::sample::select(functions.as_slice()).prop_flat_map(changed).prop_map(|bytes| (*set, bytes))
}

fn hard() -> impl Strategy<Value = (InstructionSet, Vec<u8>)> {
    let rest = prop::collection::vec(prop::sample::select(PROLOGUES), 0..3);
    let all = (prop::sample::select(PROLOGUES), rest)
        .prop_flat_map(|(first, rest)| changed(std::iter::once(first).chain(rest).flat_map(hex).collect()));
    all.prop_map(|bytes| (InstructionSet::X86_64, bytes))
}

fn case() -> impl Strategy<Value = Case> {
    let code = prop_oneof![real(), hard()];
    let behind =
        prop_oneof![Just(vec![0x90; 16]), Just(vec![0xcc; 6]), prop::collection::vec(any::<u8>(), 0..20)];
    let flags = (any::<bool>(), prop::bool::weighted(0.2), prop::option::of(-140i64..140));
    (code, behind, address().prop_flat_map(places), flags).prop_map(
        |((set, code), behind, (address, places, replacement), (guarded, shadow_stack, padding))| {
            let padding = padding.map(|distance| address.wrapping_add_signed(distance));
            Case { set, address, code, guarded, shadow_stack, behind, padding, places, replacement }
        },
    )
}

/// Runs cases, and gives how many plans there were.
fn run<S: Strategy<Value = Option<Case>>>(cases: u32, strategy: S) -> usize {
    let plans = AtomicUsize::new(0);
    let config =
        ProptestConfig { cases: cases * times(), failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new(config).run(&strategy, |case| {
        let found = case.map_or(Ok(0), |case| case.check());
        plans.fetch_add(found.map_err(|doubt| TestCaseError::fail(doubt.to_string()))?, Relaxed);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    plans.into_inner()
}

#[test]
fn plans_of_changed_functions() {
    let plans = run(8192, case().prop_map(Some));
    assert!(plans > 8192, "only {plans} plans");
}

#[test]
fn plans_of_any_bytes() {
    let bytes = prop::collection::vec(any::<u8>(), 40..80);
    let plans = run(8192, bytes.prop_map(|bytes| Case::from_bytes(&bytes)));
    assert!(plans > 100, "only {plans} plans");
}
