//! How a commit is to be made.

use std::time::Duration;

/// How a commit is to be made. The defaults are right for a service under load.
///
/// ```
/// use midflight::Options;
/// use std::time::Duration;
///
/// let patient = Options::new().deadline(Duration::from_secs(5));
/// # let _ = patient;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// How long another commit is waited for, and then how long the commit tries to bring all threads to a
    /// safe place. When it passes, nothing has changed. One second unless set.
    pub deadline: Duration,
    /// Threads that are neither held nor looked at.
    pub(crate) ignored_threads: Vec<i32>,
    /// A function of which there are copies means all of them.
    pub(crate) every_copy: bool,
    /// A function may be another one as well.
    pub(crate) folded_code: bool,
    /// May definitions of the program take the place of a patch library's own?
    pub(crate) interposed: bool,
    /// May the Rust code of a patch library be built otherwise than its targets?
    pub(crate) other_runtime: bool,
    /// May threads be held, or must they?
    pub(crate) hold: Hold,
}

/// Whether a commit holds threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    IfNeeded,
    Never,
    Always,
}

impl Options {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            deadline: Duration::from_secs(1),
            ignored_threads: Vec::new(),
            every_copy: false,
            folded_code: false,
            interposed: false,
            other_runtime: false,
            hold: Hold::IfNeeded,
        }
    }

    /// How long to wait.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Replaces every copy of a function of Rust, together. The compiler makes copies of inline and generic functions,
    /// one for each codegen unit that calls them; without this a function that has some is refused
    /// ([`Error::Copies`](crate::Error::Copies)). They are told by their names with the hash left out, which in the legacy
    /// mangling leaves out the types too: instances of a generic function for other types are taken for copies, and
    /// are named one by one by their raw names.
    #[must_use]
    pub fn every_copy(mut self) -> Self {
        self.every_copy = true;
        self
    }

    /// Replaces code that is the code of several functions. Compilers and linkers fold functions that are
    /// alike into one (identical code folding); without this they are refused
    /// ([`Error::FoldedCode`](crate::Error::FoldedCode)), since calls of each would go to the replacement.
    #[must_use]
    pub fn folded_code(mut self) -> Self {
        self.folded_code = true;
        self
    }

    /// Allows a patch library of which some functions or variables bear names that the program exports. Wherever the
    /// library refers to them it gets the program's, as the dynamic linker does with any library; otherwise that is
    /// refused ([`Error::Interposed`](crate::Error::Interposed)). Replacements are the library's own in any case.
    #[must_use]
    pub fn allow_interposed(mut self) -> Self {
        self.interposed = true;
        self
    }

    /// Allows a patch library whose rustc or `#[global_allocator]` is another one than that of the module of a Rust
    /// function that it replaces; otherwise that is refused ([`Error::OtherRuntime`](crate::Error::OtherRuntime)). A check
    /// notes it all the same.
    ///
    /// Who applies such a library promises with [`Patch::apply`](crate::Patch::apply) what nothing else provides
    /// then. With another rustc: the replacement and its target have an ABI of C, and types of a layout that is
    /// fixed (`repr(C)`, numbers, thin pointers). With another allocator: nothing that one of them allocated is freed
    /// or grown by the other.
    #[must_use]
    pub fn allow_other_runtime(mut self) -> Self {
        self.other_runtime = true;
        self
    }

    /// Holds no thread, or changes nothing ([`Error::NeedsHold`](crate::Error::NeedsHold)). A change of one function can
    /// often be made by one store, while all threads run: if its first instruction and the jump that is written over it
    /// lie in one aligned word of 8 bytes. Sites of the punned form are made for that: they overwrite one instruction,
    /// however short; a call of the function may cost a little more then. So it goes where memory may
    /// be writable and executable for that moment; on aarch64 only for functions that begin with an instruction that may
    /// be changed while it runs, such as the `nop` of `-fpatchable-function-entry`.
    ///
    /// A commit that needs no hold makes none by itself; with this, forms of sites are chosen that need none.
    #[must_use]
    pub fn without_hold(mut self) -> Self {
        self.hold = Hold::Never;
        self
    }

    /// Holds all threads whenever code is changed, also where one store would do. No page is writable and executable at
    /// once then.
    #[must_use]
    pub fn always_hold(mut self) -> Self {
        self.hold = Hold::Always;
        self
    }

    /// Leaves thread `tid` (its number in `/proc/self/task`) alone, such as an emulator's own.
    ///
    /// # Safety
    /// While a commit with these options goes on, that thread executes nothing on the pages that hold the
    /// targets' first bytes: it runs other modules only, or sleeps in the kernel. Those pages are not
    /// executable for a moment, and the bytes there are not written at once.
    #[must_use]
    pub unsafe fn ignore_thread(mut self, tid: i32) -> Self {
        self.ignored_threads.push(tid);
        self
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}
