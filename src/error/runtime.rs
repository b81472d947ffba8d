//! In what a patch library and the module of its target may differ.

use std::fmt;

/// In what the Rust code of a patch library differs from that of a target's module.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RuntimeDifference {
    /// They were compiled by different versions of rustc, which promise each other neither the layout of types nor
    /// a calling convention.
    Rustc {
        /// What compiled the patch library, such as `1.95.0 (59807616e 2026-04-14)`.
        patch_versions: Vec<String>,
        /// What compiled the module.
        module_versions: Vec<String>,
    },
    /// At least one of them has a `#[global_allocator]`, so memory that the one allocates cannot be freed by the other.
    /// Also if both name the same one: each has its own state.
    Allocator {
        /// Has the patch library one?
        patch_has_own: bool,
        /// Is the module known to have one?
        module_has_own: bool,
    },
}

impl RuntimeDifference {
    /// What to do about it.
    pub(super) fn remedy(&self) -> String {
        match self {
            Self::Rustc { module_versions, .. } => match released(module_versions) {
                Some(version) => {
                    format!("build it with the module's compiler (rustup: cargo +{version} build)")
                }
                None => "build it with the module's compiler".to_owned(),
            },
            Self::Allocator { .. } => "have both use the default allocator".to_owned(),
        }
    }
}

impl fmt::Display for RuntimeDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rustc { patch_versions, module_versions } => write!(
                f,
                "the patch library was compiled by rustc {}, the module by rustc {}",
                patch_versions.join(" and "),
                module_versions.join(" and ")
            ),
            Self::Allocator { patch_has_own: true, module_has_own: true } => f.write_str(
                "the patch library has a #[global_allocator] of its own, and the module has another of its own",
            ),
            Self::Allocator { patch_has_own: true, .. } => f.write_str(
                "the patch library has a #[global_allocator] of its own, which the module does not use",
            ),
            Self::Allocator { .. } => f.write_str(
                "the module has a #[global_allocator] of its own, which the patch library does not use",
            ),
        }
    }
}

/// The number of a release, by which rustup calls its toolchain; those of other channels go by their date.
fn released(versions: &[String]) -> Option<&str> {
    let [version] = versions else { return None };
    let number = version.split(' ').next()?;
    number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.').then_some(number)
}

/// ` and 3 others`
pub(super) fn and_others(others: usize) -> String {
    match others {
        0 => String::new(),
        _ => format!(" and {}", super::count(others, "other")),
    }
}
