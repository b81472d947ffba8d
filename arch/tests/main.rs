//! One test binary; one module an instruction class. Tests named `case_...` are the numbered prologues that
//! break function-patching libraries.

mod aarch64;
mod coverage;
mod properties;
mod run;
mod support;
mod windows;
mod x86_64;
