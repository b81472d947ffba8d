//! The phases of the story, and which replies each of them allows.

use crate::reply::Form;

/// A phase; they follow each other in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Plain,
    CompileFirst,
    ApplyFirst,
    First,
    CompileSecond,
    ApplySecond,
    Both,
    RollBackFirst,
    Second,
    RollBackSecond,
    PlainAgain,
}

impl Phase {
    /// All of them, each at the index that it is as a number.
    pub(crate) const ALL: &'static [Self] = &[
        Self::Plain,
        Self::CompileFirst,
        Self::ApplyFirst,
        Self::First,
        Self::CompileSecond,
        Self::ApplySecond,
        Self::Both,
        Self::RollBackFirst,
        Self::Second,
        Self::RollBackSecond,
        Self::PlainAgain,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "not patched",
            Self::CompileFirst => "compiling version 1",
            Self::ApplyFirst => "> applying version 1",
            Self::First => "version 1",
            Self::CompileSecond => "compiling version 2",
            Self::ApplySecond => "> applying version 2",
            Self::Both => "version 2 on version 1",
            Self::RollBackFirst => "> rolling back version 1",
            Self::Second => "version 2 alone",
            Self::RollBackSecond => "> rolling back version 2",
            Self::PlainAgain => "not patched any more",
        }
    }

    /// The forms that a reply may have whose request began and ended in this phase.
    pub(crate) fn allowed(self) -> &'static [Form] {
        use Form::{Friendly, GreetingFriendly, GreetingPlain, Plain};
        match self {
            Self::Plain | Self::CompileFirst | Self::PlainAgain => &[Plain],
            Self::ApplyFirst => &[Plain, Friendly],
            Self::First | Self::CompileSecond => &[Friendly],
            Self::ApplySecond => &[Friendly, GreetingFriendly],
            Self::Both => &[GreetingFriendly],
            Self::RollBackFirst => &[GreetingFriendly, GreetingPlain],
            Self::Second => &[GreetingPlain],
            Self::RollBackSecond => &[GreetingPlain, Plain],
        }
    }

    /// Is this a commit under way?
    pub(crate) fn is_switch(self) -> bool {
        self.allowed().len() > 1
    }

    /// The phases that a request lay in which began in `self` and ended in `end`.
    pub(crate) fn until(self, end: Self) -> &'static [Self] {
        &Self::ALL[self as usize..=end as usize]
    }
}
