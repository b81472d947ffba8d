//! retour, as far as it is measured. It stops no thread and has no transactions, and knows no aarch64.

use crate::targets::Function;

/// As Cargo.toml says.
pub(crate) const NAME: &str = "retour 0.4.0-alpha.4";

#[cfg(target_arch = "x86_64")]
pub(crate) use here::Detour;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) use nowhere::Detour;

#[cfg(target_arch = "x86_64")]
mod here {
    use super::Function;
    use retour::RawDetour;

    /// A function that is replaced.
    #[derive(Debug)]
    pub(crate) struct Detour(RawDetour);

    impl Detour {
        /// Can this machine be measured at all?
        pub(crate) const IS_AVAILABLE: bool = true;

        /// Calls of `target` go to `replacement`.
        ///
        /// # Safety
        /// Meanwhile no thread runs in the first bytes of `target`.
        pub(crate) unsafe fn apply(target: Function, replacement: Function) -> crate::Result<Self> {
            // SAFETY: two functions of one type.
            let detour = unsafe { RawDetour::new(target as *const (), replacement as *const ())? };
            // SAFETY: the caller's promise.
            unsafe { detour.enable()? };
            Ok(Self(detour))
        }

        /// The callable original.
        pub(crate) fn original(&self) -> Function {
            let trampoline: *const () = std::ptr::from_ref(self.0.trampoline());
            // SAFETY: the trampoline is called as its target is.
            unsafe { std::mem::transmute::<*const (), Function>(trampoline) }
        }

        /// As it was before.
        ///
        /// # Safety
        /// As of [`Self::apply`]; and nobody calls the original any more.
        pub(crate) unsafe fn roll_back(self) -> crate::Result<()> {
            // SAFETY: the caller's promise.
            unsafe { self.0.disable()? };
            Ok(())
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod nowhere {
    use super::Function;

    /// There is none.
    #[derive(Debug)]
    pub(crate) enum Detour {}

    impl Detour {
        pub(crate) const IS_AVAILABLE: bool = false;

        /// # Safety
        /// Does nothing.
        pub(crate) unsafe fn apply(_: Function, _: Function) -> crate::Result<Self> {
            Err("retour knows no aarch64".into())
        }

        pub(crate) fn original(&self) -> Function {
            match *self {}
        }

        /// # Safety
        /// There is nothing to roll back.
        pub(crate) unsafe fn roll_back(self) -> crate::Result<()> {
            match self {}
        }
    }
}
