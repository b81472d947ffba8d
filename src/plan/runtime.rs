//! Whether Rust code of a patch library gets on with that of the modules of its targets.
#![forbid(unsafe_code)]

use crate::elf::{Allocator, Build, Compiler};
use crate::error::{Error, RuntimeDifference};
use std::fmt;
use std::path::{Path, PathBuf};

/// A file, and how it was built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Built<'a> {
    pub(crate) path: &'a Path,
    pub(crate) build: &'a Build,
}

/// What a check could not find out, or was told to allow. None of it keeps a patch from being applied.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// A file does not say which rustc compiled it, so it was not compared.
    UnknownCompiler {
        /// The patch library, or the module of a target.
        file: PathBuf,
    },
    /// Code of several versions of rustc was linked together, so the one that compiled a certain function is unknown.
    SeveralCompilers {
        /// The module of a target.
        module: PathBuf,
        /// The versions that the patch library names.
        patch_versions: Vec<String>,
        /// Those that the module names; one at least is the same.
        module_versions: Vec<String>,
    },
    /// A file does not show whether it has a `#[global_allocator]`: it was stripped, or optimised when it was linked.
    UnknownAllocator {
        /// The patch library, or the module of a target.
        file: PathBuf,
    },
    /// A function of Rust is replaced by code that is not Rust's, which is right for `extern "C"` ones only.
    NotRust {
        /// The module of the function.
        module: PathBuf,
    },
    /// They differ, and [`Options::allow_other_runtime`](crate::Options::allow_other_runtime) allows it.
    Allowed {
        /// The module of a target.
        module: PathBuf,
        /// In what.
        difference: RuntimeDifference,
    },
    /// Names that the program defines as well as the patch library, which gets the program's: inline functions of C++
    /// and other weak ones, of which one is as good as another, and what
    /// [`Options::allow_interposed`](crate::Options::allow_interposed) allows.
    Interposed {
        /// All of them.
        names: Vec<String>,
    },
    /// The program was built with `panic = "abort"`: a panic in a replacement ends it.
    PanicAborts,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCompiler { file } => {
                write!(f, "{} does not say which rustc compiled it", file.display())
            }
            Self::SeveralCompilers { module, patch_versions, module_versions } => write!(
                f,
                "{} has code of rustc {}, the patch library of rustc {}: which compiled what is not known",
                module.display(),
                module_versions.join(" and "),
                patch_versions.join(" and ")
            ),
            Self::UnknownAllocator { file } => write!(
                f,
                "{} does not show which allocator its Rust code uses (stripped, or link-time optimised)",
                file.display()
            ),
            Self::NotRust { module } => write!(
                f,
                "the patch library is not Rust's, but replaces a Rust function of {}; that has to be extern \"C\"",
                module.display()
            ),
            Self::Allowed { module, difference } => {
                write!(f, "allowed for {}: {difference}", module.display())
            }
            Self::Interposed { names } => {
                write!(
                    f,
                    "the program's definitions take the place of the library's own {}",
                    names.join(", ")
                )
            }
            Self::PanicAborts => {
                f.write_str("the program was built with panic=abort: a panic in a replacement ends it")
            }
        }
    }
}

/// As it reads.
#[cfg(feature = "serde")]
impl serde::Serialize for Note {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        crate::serialize::text(self, serializer)
    }
}

/// What may differ, and what the program is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Is a difference no more than a note?
    pub(crate) other_runtime: bool,
    /// Was the program built with `panic = "abort"`?
    pub(crate) panic_aborts: bool,
}

/// Have these two the same compiler and the same allocator, for certain?
pub(crate) fn is_same_runtime(one: &Build, other: &Build) -> bool {
    let is_known =
        |build: &Build| matches!(&build.compiler, Compiler::Rustc(versions) if versions.len() == 1);
    is_known(one) && one == other && one.allocator == Allocator::Default
}

/// Compares a patch library with the modules of its targets that are functions of Rust, given by their names.
pub(crate) fn compare_runtimes<'a>(
    library: Built<'a>,
    targets: impl IntoIterator<Item = (&'a str, Built<'a>)>,
    rules: Rules,
) -> Result<Vec<Note>, Error> {
    let mut modules: Vec<(Built<'a>, &str, usize)> = Vec::new();
    for (target, module) in targets {
        match modules.iter_mut().find(|(known, ..)| known.path == module.path) {
            Some((.., others)) => *others += 1,
            None => modules.push((module, target, 0)),
        }
    }
    let (mut notes, mut errors) = (Vec::new(), Vec::new());
    for (module, target, others) in modules {
        for finding in compilers(library, module).into_iter().chain(allocators(library, module)) {
            let module = module.path.to_owned();
            match finding {
                Finding::Note(note) => notes.push(note),
                Finding::Difference(difference) if rules.other_runtime => {
                    notes.push(Note::Allowed { module, difference });
                }
                Finding::Difference(difference) => {
                    let (target, difference) = (target.to_owned(), Box::new(difference));
                    errors.push(Error::OtherRuntime { target, others, module, difference });
                }
            }
        }
    }
    if rules.panic_aborts && matches!(library.build.compiler, Compiler::Rustc(_)) {
        notes.push(Note::PanicAborts);
    }
    // What is unknown of the patch library is found once for each module.
    let mut seen = Vec::new();
    notes.retain(|note| {
        !seen.contains(note) && {
            seen.push(note.clone());
            true
        }
    });
    Error::all(errors).map(|()| notes)
}

enum Finding {
    Note(Note),
    Difference(RuntimeDifference),
}

fn compilers(library: Built<'_>, module: Built<'_>) -> Vec<Finding> {
    let unknown = |file: Built<'_>| Finding::Note(Note::UnknownCompiler { file: file.path.to_owned() });
    match (&library.build.compiler, &module.build.compiler) {
        (Compiler::NotRust, _) => vec![Finding::Note(Note::NotRust { module: module.path.to_owned() })],
        (Compiler::Rustc(patch), Compiler::Rustc(of_module)) => {
            if patch == of_module {
                return Vec::new();
            }
            let patch_versions = patch.iter().cloned().collect();
            let module_versions = of_module.iter().cloned().collect();
            vec![if patch.is_disjoint(of_module) {
                Finding::Difference(RuntimeDifference::Rustc { patch_versions, module_versions })
            } else {
                let module = module.path.to_owned();
                Finding::Note(Note::SeveralCompilers { module, patch_versions, module_versions })
            }]
        }
        (Compiler::Rustc(_), _) => vec![unknown(module)],
        (Compiler::Unknown, Compiler::Rustc(_)) => vec![unknown(library)],
        (Compiler::Unknown, _) => vec![unknown(library), unknown(module)],
    }
}

/// Two defaults are one: both lead to the malloc(3) of the process. Of two own ones each has its own state.
fn allocators(library: Built<'_>, module: Built<'_>) -> Vec<Finding> {
    let is_unknown = |file: &Built<'_>| file.build.allocator == Allocator::Unknown;
    match (library.build.allocator, module.build.allocator) {
        (Allocator::None, _) | (_, Allocator::None) => Vec::new(),
        (patch, of_module) if [patch, of_module].contains(&Allocator::Own) => {
            let (patch_has_own, module_has_own) = (patch == Allocator::Own, of_module == Allocator::Own);
            vec![Finding::Difference(RuntimeDifference::Allocator { patch_has_own, module_has_own })]
        }
        _ => {
            let unknown = [library, module].into_iter().filter(is_unknown);
            unknown.map(|file| Finding::Note(Note::UnknownAllocator { file: file.path.to_owned() })).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: Rules = Rules { other_runtime: false, panic_aborts: false };

    fn rustc(versions: &[&str]) -> Compiler {
        Compiler::Rustc(versions.iter().map(|version| (*version).to_owned()).collect())
    }

    fn build(versions: &[&str], allocator: Allocator) -> Build {
        Build { compiler: rustc(versions), allocator }
    }

    fn compare(library: &Build, module: &Build, rules: Rules) -> Result<Vec<Note>, Error> {
        let library = Built { path: Path::new("libpatch.so"), build: library };
        let module = Built { path: Path::new("/bin/app"), build: module };
        compare_runtimes(library, [("app::one", module), ("app::two", module)], rules)
    }

    fn difference(library: &Build, module: &Build) -> RuntimeDifference {
        let allowed = compare(library, module, Rules { other_runtime: true, ..STRICT }).unwrap();
        match compare(library, module, STRICT).unwrap_err() {
            Error::OtherRuntime { target, others, module, difference } => {
                assert_eq!((target.as_str(), others, module.to_str()), ("app::one", 1, Some("/bin/app")));
                assert_eq!(allowed, [Note::Allowed { module, difference: (*difference).clone() }]);
                *difference
            }
            error => panic!("{error}"),
        }
    }

    #[test]
    fn nothing_is_said_of_what_is_equal() {
        let one = build(&["1.95.0 (a)"], Allocator::Default);
        assert_eq!(compare(&one, &one, STRICT).unwrap(), []);
        let heapless = build(&["1.95.0 (a)"], Allocator::None);
        for other in [Allocator::Default, Allocator::Own, Allocator::Unknown, Allocator::None] {
            let other = build(&["1.95.0 (a)"], other);
            assert_eq!(compare(&heapless, &other, STRICT).unwrap(), []);
            assert_eq!(compare(&other, &heapless, STRICT).unwrap(), []);
        }
    }

    #[test]
    fn other_compilers_are_told_apart_by_their_whole_version() {
        let (one, other) =
            (build(&["1.95.0 (a)"], Allocator::Default), build(&["1.95.0 (b)"], Allocator::Default));
        let versions = |version: &str| vec![version.to_owned()];
        assert_eq!(
            difference(&one, &other),
            RuntimeDifference::Rustc {
                patch_versions: versions("1.95.0 (a)"),
                module_versions: versions("1.95.0 (b)")
            }
        );
        let both = build(&["1.95.0 (a)", "1.95.0 (b)"], Allocator::Default);
        let notes = compare(&one, &both, STRICT).unwrap();
        assert!(
            matches!(&notes[..], [Note::SeveralCompilers { module_versions, .. }] if module_versions.len() == 2)
        );
    }

    #[test]
    fn only_two_default_allocators_are_the_same() {
        let of = |allocator| build(&["1.95.0 (a)"], allocator);
        for (patch, module) in [
            (Allocator::Own, Allocator::Default),
            (Allocator::Default, Allocator::Own),
            (Allocator::Own, Allocator::Own),
            (Allocator::Own, Allocator::Unknown),
            (Allocator::Unknown, Allocator::Own),
        ] {
            let (patch_has_own, module_has_own) = (patch == Allocator::Own, module == Allocator::Own);
            let expected = RuntimeDifference::Allocator { patch_has_own, module_has_own };
            assert_eq!(difference(&of(patch), &of(module)), expected);
        }
    }

    #[test]
    fn both_differences_are_told_at_once() {
        let (one, other) =
            (build(&["1.95.0 (a)"], Allocator::Own), build(&["1.94.0 (b)"], Allocator::Default));
        let error = compare(&one, &other, STRICT).unwrap_err();
        let Error::Several { errors } = &error else { panic!("{error}") };
        assert_eq!(errors.len(), 2);
        let text = error.to_string();
        for word in
            ["app::one", "/bin/app", "1.95.0 (a)", "1.94.0 (b)", "cargo +1.94.0", "allow_other_runtime"]
        {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn what_is_unknown_is_noted_once_for_each_file() {
        let unknown = Build { compiler: Compiler::Unknown, allocator: Allocator::Unknown };
        let known = build(&["1.95.0 (a)"], Allocator::Default);
        let (patch, module) = (PathBuf::from("libpatch.so"), PathBuf::from("/bin/app"));
        let of = |file: &PathBuf| {
            let (file, again) = (file.clone(), file.clone());
            [Note::UnknownCompiler { file }, Note::UnknownAllocator { file: again }]
        };
        assert_eq!(compare(&unknown, &known, STRICT).unwrap(), of(&patch));
        assert_eq!(compare(&known, &unknown, STRICT).unwrap(), of(&module));
        let both = compare(&unknown, &unknown, STRICT).unwrap();
        assert_eq!(both.len(), 4);
        let library = Built { path: &patch, build: &unknown };
        let modules = ["one", "two"].map(|path| ("f", Built { path: Path::new(path), build: &known }));
        assert_eq!(compare_runtimes(library, modules, STRICT).unwrap(), of(&patch));
    }

    #[test]
    fn code_that_is_not_rust_has_no_runtime() {
        let c = Build { compiler: Compiler::NotRust, allocator: Allocator::None };
        let own = build(&["1.95.0 (a)"], Allocator::Own);
        let aborts = Rules { panic_aborts: true, ..STRICT };
        assert_eq!(compare(&c, &own, aborts).unwrap(), [Note::NotRust { module: "/bin/app".into() }]);
    }

    #[test]
    fn a_program_that_panics_by_abort_is_noted_for_every_rust_library() {
        let one = build(&["1.95.0 (a)"], Allocator::Own);
        let library = Built { path: Path::new("libpatch.so"), build: &one };
        let notes = compare_runtimes(library, [], Rules { panic_aborts: true, ..STRICT }).unwrap();
        assert_eq!(notes, [Note::PanicAborts]);
        assert!(notes[0].to_string().contains("panic=abort"));
    }
}
