//! The rules of `docs/design.md` that a machine can keep: who may use whom, what is pure, where machine code is
//! chosen, how long a file may be.

#![allow(clippy::unwrap_used, reason = "a test that meets an error fails")]

use std::path::{Path, PathBuf};

/// A source file: its path from the root of the repository, and its text.
struct Source(String, String);

/// The Rust files below `folder`.
fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut folders, mut files) = (vec![root.join(folder)], Vec::<PathBuf>::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        Source(name, std::fs::read_to_string(path).unwrap())
    };
    let found: Vec<Source> = files.into_iter().map(read).collect();
    assert!(!found.is_empty(), "nothing below {folder}");
    found
}

/// The text before its tests, without comments.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
    let lines = text[..end].lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The module of `src` that a file belongs to.
fn module(path: &str) -> &str {
    path.strip_prefix("src/").unwrap().split(['/', '.']).next().unwrap()
}

/// The modules of this crate that `text` names.
fn used(text: &str) -> Vec<&str> {
    let parts = text.split("crate::").skip(1);
    parts.map(|part| part.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap()).collect()
}

/// What each module may use beside itself. Those in one line do not know each other.
const LAYERS: &[(&str, &[&str])] = &[
    ("sys", &["fault"]),
    ("fault", &[]),
    ("proof", &[]),
    ("held", &[]),
    ("serialize", &[]),
    ("options", &[]),
    ("error", &["arch", "serialize"]),
    ("elf", &[]),
    ("manifest", &["elf", "error"]),
    ("plan", &["arch", "elf", "error", "serialize"]),
    ("process", &["arch", "elf", "error", "sys"]),
    ("loader", &["sys", "error", "process"]),
    ("memory", &["held", "sys", "proof", "fault"]),
    ("threads", &["held", "sys", "proof", "fault", "error"]),
    (
        "transaction",
        &[
            "plan",
            "process",
            "memory",
            "threads",
            "elf",
            "arch",
            "sys",
            "held",
            "error",
            "options",
            "fault",
            "serialize",
        ],
    ),
    ("applied", &["transaction", "options", "error"]),
    ("change", &["applied", "transaction", "process", "plan", "options", "error"]),
    (
        "patch",
        &["change", "applied", "transaction", "manifest", "loader", "process", "plan", "options", "error"],
    ),
    (
        "capabilities",
        &[
            "transaction",
            "threads",
            "memory",
            "loader",
            "options",
            "process",
            "plan",
            "sys",
            "error",
            "serialize",
        ],
    ),
    ("watch", &["patch", "applied", "transaction", "threads", "sys", "options", "error", "serialize"]),
];

#[test]
fn modules_use_only_what_lies_below_them() {
    for Source(path, text) in sources("src").iter().filter(|source| source.0 != "src/lib.rs") {
        let module = module(path);
        let (_, allowed) = LAYERS
            .iter()
            .find(|(name, _)| *name == module)
            .unwrap_or_else(|| panic!("{path}: {module} has no place in the layers"));
        for name in used(&code(text)) {
            let is_fine = name == module || allowed.contains(&name);
            assert!(is_fine, "{path} uses crate::{name}, which {module} may not know");
        }
    }
}

#[test]
fn files_are_short() {
    for folder in
        ["src", "arch/src", "arch/tests", "arch/coverage", "benches", "patch/src", "tests", "examples"]
    {
        for Source(path, text) in sources(folder) {
            let lines = text.lines().count();
            assert!(lines <= 500, "{path} has {lines} lines; split it");
        }
    }
}

#[test]
fn pure_files_forbid_unsafe_code() {
    let pure = |path: &str| {
        path.starts_with("src/plan/")
            || path.starts_with("src/elf/")
            || path.starts_with("src/manifest")
            || ["src/proof.rs", "src/serialize.rs", "src/process/names.rs"].contains(&path)
            || ["src/threads/rendezvous.rs", "src/threads/safe_point.rs"].contains(&path)
    };
    let sources: Vec<Source> = sources("src").into_iter().filter(|source| pure(&source.0)).collect();
    assert!(sources.len() >= 15, "{}", sources.len());
    for Source(path, text) in sources.iter().filter(|source| !source.0.ends_with("/tests.rs")) {
        assert!(text.contains("#![forbid(unsafe_code)]"), "{path} is pure and does not say so");
        let forbidden = ["std::fs", "std::env", "/proc/self/"];
        let found = forbidden.iter().find(|word| code(text).contains(**word));
        assert!(found.is_none(), "{path} is pure and uses {}", found.unwrap());
    }
    let arch = sources_text("arch/src/lib.rs");
    assert!(arch.contains("#![forbid(unsafe_code)]"));
}

#[test]
fn tests_that_the_page_about_targets_names_exist() {
    let (page, mut found) = (sources_text("docs/targets.md"), 0);
    let tests: Vec<Source> = ["tests", "src"].into_iter().flat_map(sources).collect();
    for word in page.split('`').skip(1).step_by(2) {
        let name = word.strip_prefix("c::").unwrap_or(word);
        if name.matches('_').count() >= 2 && name.chars().all(|c| c == '_' || c.is_ascii_lowercase()) {
            let place = if word == name { "" } else { "tests/live/optimiser_in_c.rs" };
            let definition = format!("#[test]\n    fn {name}()");
            let is_there = tests.iter().any(|Source(path, text)| {
                path.starts_with(place) && text.replace("\nfn", "\n    fn").contains(&definition)
            });
            assert!(is_there, "docs/targets.md names {word}, which is no test");
            found += 1;
        }
    }
    assert!(found >= 25, "{found}");
}

fn sources_text(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn machine_code_is_chosen_in_few_places() {
    for Source(path, text) in sources("arch/src") {
        assert!(!code(&text).contains("target_arch"), "{path}: both instruction sets compile on every host");
    }
    let may = [
        "src/lib.rs",
        "src/held/mod.rs",
        "src/held/park.rs",
        "src/held/run.rs",
        "src/memory/script.rs",
        "src/sys/raw.rs",
        "src/threads/context.rs",
        "src/transaction/mod.rs",
    ];
    for Source(path, text) in sources("src") {
        assert!(
            !code(&text).contains("target_arch") || may.contains(&path.as_str()),
            "{path} has a target_arch"
        );
    }
}

#[test]
fn nothing_that_usually_wants_a_second_thought() {
    let words = [" static mut ", "todo!(", "unimplemented!(", "#[ignore", "FIXME", "XXX"];
    for folder in ["src", "arch/src", "benches", "patch/src", "tests/live", "examples"] {
        for Source(path, text) in sources(folder) {
            let found = words.iter().find(|word| text.contains(**word));
            assert!(found.is_none(), "{path} has {}", found.unwrap());
        }
    }
}

#[test]
fn held_code_neither_allocates_nor_locks_nor_prints() {
    // The part of the quiesce between the first signal and the release, and what it calls.
    let quiesce = sources_text("src/threads/quiesce.rs");
    let (_, held) = quiesce.split_once("fn while_held<").unwrap();
    let (held, _) = held.split_once("fn why_not_parked").unwrap();
    let writer = sources_text("src/memory/writer.rs");
    let (_, write) = writer.split_once("pub(crate) fn write(").unwrap();
    let (write, _) = write.split_once("fn lay_out_forward").unwrap();
    let words = [
        "format!",
        "vec!",
        "Vec::new",
        "collect(",
        "to_owned",
        "String",
        "Box::",
        "println",
        ".lock(",
        "tracing",
        ".unwrap()",
        "expect(",
        "panic",
        "assert!",
        "assert_eq!",
    ];
    for (place, text) in [("the hold", code(held)), ("the writer", code(write))] {
        let found = words.iter().find(|word| text.contains(**word));
        assert!(found.is_none(), "{place} has {}", found.unwrap());
    }
}

/// The variants of the public enums of a file, each as `Enum::Variant`.
fn variants(path: &str) -> Vec<String> {
    let (text, mut open, mut found) = (sources_text(path), None, Vec::new());
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("pub enum ") {
            open = Some(name.trim_end_matches(" {"));
        }
        match (open, line.strip_prefix("    ")) {
            (Some(name), Some(rest)) if rest.starts_with(|c: char| c.is_ascii_uppercase()) => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
                found.push(format!("{name}::{}", &rest[..end]));
            }
            _ if line == "}" => open = None,
            _ => {}
        }
    }
    found
}

#[test]
fn the_table_of_errors_has_each_variant() {
    let files = [
        "src/error/mod.rs",
        "src/error/file.rs",
        "src/error/runtime.rs",
        "src/error/thread.rs",
        "arch/src/refusal.rs",
    ];
    let mut variants: Vec<String> = files.into_iter().flat_map(variants).collect();
    assert!(variants.len() >= 80, "{}", variants.len());

    let (page, mut section, mut rows) = (sources_text("docs/errors.md"), "", Vec::new());
    for line in page.lines() {
        if let Some(name) = line.strip_prefix("## `") {
            section = name.trim_end_matches('`');
        } else if line.starts_with("| `") {
            let cells: Vec<&str> = line.split(" | ").collect();
            assert!(cells.len() == 3 && cells.iter().all(|cell| cell.trim().len() > 2), "{line}");
            let name = cells[0].strip_prefix("| `").unwrap().trim_end_matches('`');
            rows.push(format!("{section}::{name}"));
        }
    }
    variants.sort();
    rows.sort();
    let missing: Vec<_> = variants.iter().filter(|name| !rows.contains(name)).collect();
    let unknown: Vec<_> = rows.iter().filter(|name| !variants.contains(name)).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "without a row: {missing:?}; of nothing: {unknown:?}");
    assert_eq!(rows.len(), variants.len(), "a row stands there twice");
}

#[test]
fn tests_that_the_guide_and_the_readme_name_exist() {
    for page in ["docs/patch-authors.md", "README.md"] {
        let (text, mut found) = (sources_text(page), 0);
        for word in text.split(['`', '(', ',', ' ', '\n']) {
            let Some((module, name)) = word.split_once("::") else { continue };
            let file = format!("tests/live/{module}.rs");
            let is_file = !module.is_empty() && Path::new(env!("CARGO_MANIFEST_DIR")).join(&file).is_file();
            if is_file && name.chars().all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit()) {
                let there = sources_text(&file).contains(&format!("fn {name}("));
                assert!(there, "{page} names {word}, which is no test");
                found += 1;
            }
        }
        assert!(found >= 15, "{page}: {found}");
    }
}
