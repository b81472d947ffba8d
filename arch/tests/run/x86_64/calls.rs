//! Calls. What they leave on the stack is compared as well: the return address is the original one.

use midflight_arch::Form;

use super::window::Window;
use crate::run::case::Case;

pub(crate) const CALLS: [&str; 6] = [
    "call",
    "call through a pointer",
    "call through a register",
    "call through the stack",
    "call through what it overwrites",
    "call through the frame",
];

/// Of an exit.
pub(crate) fn call(mut window: Window<'_>, which: usize) -> Option<Case> {
    window.stack = false;
    let start = window.here();
    match which {
        0 => {
            window.lead_to_last(5);
            let end = window.here() + 5;
            let to = window.far_exit(end)?;
            window.put(&[&[0xe8], &to.wrapping_sub(end).to_le_bytes()[..4]].concat());
        }
        1 => {
            window.lead_to_last(6);
            let end = window.here() + 6;
            let to = window.far_exit(start)?;
            let slot = window.data(end, &to.to_le_bytes());
            window.put(&[&[0xff, 0x15], &slot.wrapping_sub(end).to_le_bytes()[..4]].concat());
            if window.form == Form::Absolute {
                window.state.scratch = 8;
            }
        }
        2 => {
            let register = window.random.pick(&[0, 1, 2, 3, 5, 6, 7, 8, 9, 12, 15]);
            window.keep = 1 << register;
            window.state.general[register as usize] = window.far_exit(start)?;
            window.lead_to_last(3);
            window.put(&[0x40 | register >> 3, 0xff, 0xd0 | register & 7]);
        }
        3 => {
            let offset = window.random.below(15) as u8 * 8;
            let to = window.far_exit(start)?;
            window.set_stack(i64::from(offset), to);
            window.lead_to_last(4);
            window.put(&[0xff, 0x54, 0x24, offset]);
        }
        4 => {
            let offset = window.random.pick(&[-4i8, -8, -12, -16, -24]);
            let to = window.far_exit(start)?;
            window.set_stack(i64::from(offset), to);
            window.lead_to_last(4);
            window.put(&[0xff, 0x54, 0x24, offset.cast_unsigned()]);
            window.state.scratch = 8;
        }
        _ => {
            // What the frame pointer points to is 0x100 above the stack pointer, or 8 below it.
            let to = window.far_exit(start)?;
            if window.random.one_in(2) {
                window.state.general[5] = window.state.general[4] + 0x10;
            }
            let frame = window.state.general[5] - window.state.general[4];
            window.set_stack(frame.cast_signed() - 0x18, to);
            window.lead_to_last(3);
            window.put(&[0xff, 0x55, 0xe8]);
            window.state.scratch = 8;
        }
    }
    Some(window.finish(CALLS[which]))
}
