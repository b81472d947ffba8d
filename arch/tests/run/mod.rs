//! Functions are run: in place, from their trampolines, and through their entry jumps. Registers, flags, memory and the
//! place where they end up must be the same.
//!
//! The functions are generated: each has an instruction of interest among others that are usual at an entry, at a
//! random address, with random registers. Every place that it can go to holds an exit with its own number. What the
//! host's processor understands is run; the other instruction set is on its own hosts (and emulators of them).
//!
//! Everything follows from a seed. `MIDFLIGHT_RUN_SEED` takes another one and `MIDFLIGHT_RUN_TIMES` multiplies the
//! number of functions. A trampoline that is wrong enough to crash takes the test with it; then `MIDFLIGHT_RUN_TRACE`
//! prints every function before it is run.

mod case;
mod compare;
mod memory;
mod random;
mod tally;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as native;
#[cfg(target_arch = "x86_64")]
use x86_64 as native;

use compare::Wrong;
use native::Machine;
use random::{Random, SEED, TIMES, number};
use tally::Tally;

/// The usual seed; any other is as good.
const USUAL: u64 = 0x6d69_6466_6c69_6768;

#[test]
fn relocated_functions_do_the_same() {
    let (seed, wanted) = (number(SEED, USUAL), native::WANTED * number(TIMES, 1) as usize);
    let (mut machine, mut tally, mut part) = (Machine::new(), Tally::default(), 0);
    while tally.total() < wanted {
        let mut random = Random::new(seed, part);
        let mut world = native::world(&mut random);
        let cases = native::cases(&mut world, &machine, &mut random, part);
        let failures = compare::batch(&mut world, &mut machine, &mut random, cases, None, &mut tally);
        if let Some(first) = failures.first() {
            panic!("{} differ; {SEED}={seed:#x}, world {part}; the first:\n{first}", failures.len());
        }
        native::refusals(&mut random).iter().for_each(|refused| compare::refuse(refused, &mut tally));
        part += 1;
    }
    println!("{SEED}={seed:#x}, {part} worlds\n{tally}");
    native::check(&tally, part);
}

/// Without this, a harness that compares nothing would pass.
#[test]
fn wrong_trampolines_are_noticed() {
    let seed = number(SEED, USUAL);
    let mut machine = Machine::new();
    for part in 0..20 {
        let mut random = Random::new(!seed, part);
        let mut world = native::world(&mut random);
        for Wrong { case, tamper, noticed } in native::wrong(&mut world, &machine, &mut random) {
            let (class, mut tally) = (case.class.clone(), Tally::default());
            let (cases, tamper) = (vec![case], Some(tamper));
            let failures = compare::batch(&mut world, &mut machine, &mut random, cases, tamper, &mut tally);
            let all = failures.concat();
            assert!(all.contains(noticed), "{class}, {noticed}: {SEED}={seed:#x}, world {part}: {all}");
        }
    }
}
