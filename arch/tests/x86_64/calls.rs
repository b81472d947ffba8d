//! Calls: their return address would lie in the trampoline.

use midflight_arch::{Form, Refusal};

use crate::support::{AT, measured, refused};

#[test]
fn case_005_call_first() {
    assert!(matches!(refused("e800010000 c3"), Refusal::Call { address: AT, .. }));
    assert!(matches!(refused("ffd0 90*4 c3"), Refusal::Call { .. }));
    assert!(matches!(refused("ff1500010000 c3"), Refusal::Call { .. }));
}

#[test]
fn case_052_a_call_behind_the_site_is_no_obstacle() {
    assert!(measured("90*5 e800010000").usable(Form::Island).is_ok());
    assert!(matches!(measured("90*5 e800010000").usable(Form::Slot), Err(Refusal::Call { .. })));
}

#[test]
fn case_053_get_pc() {
    assert!(matches!(refused("e800000000 58 c3"), Refusal::Call { .. }));
    // A call of what is inside the site.
    assert!(matches!(refused("90*6 e8f7ffffff c3"), Refusal::BranchIntoSite { to: 0x401002, .. }));
}

#[test]
fn case_054_get_pc_thunk() {
    assert!(matches!(refused("53 e800010000 5b c3"), Refusal::Call { .. }));
}

#[test]
fn a_recursive_call_goes_to_the_replacement() {
    assert!(measured("90*6 e8f5ffffff c3").usable(Form::Slot).is_ok());
    assert!(measured("f30f1efa 90*6 e8f1ffffff c3").usable(Form::Slot).is_ok());
}

#[test]
fn far_calls_and_jumps() {
    assert!(matches!(refused("ff1d00010000 c3"), Refusal::FarTransfer { .. }));
    assert!(matches!(refused("ff2d00010000 c3"), Refusal::FarTransfer { .. }));
    assert!(matches!(refused("90*4 cb c3"), Refusal::FarTransfer { .. }));
    assert!(matches!(refused("90*4 48cf c3"), Refusal::FarTransfer { .. }));
}
