//! The word of `threads` to `memory` that code may be written now.
#![forbid(unsafe_code)]

use std::marker::PhantomData;

/// While a value of this type lives, every other thread of the process is parked, none with its pc or a
/// return address inside the bytes that it was asked about. Made by a hold only, and borrowed from it.
#[derive(Debug)]
pub(crate) struct Quiescent<'hold>(PhantomData<&'hold ()>);

impl<'hold> Quiescent<'hold> {
    /// For the hold: `_hold` is the guard whose drop lets the threads go.
    pub(crate) fn while_held<T>(_hold: &'hold T) -> Self {
        Self(PhantomData)
    }
}
