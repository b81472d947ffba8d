//! What a patch library defines stays its own, also where the program exports the same name; or the check says so.

use crate::adds;
use crate::support::fixtures::{self, Folder};
use crate::support::{child, patient};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use midflight::{Error, Note, Patch};
use std::path::PathBuf;

adds! {
    live_interposed + 1;
}

/// What the program makes visible to all libraries.
fn export(folder: &Folder) -> Library {
    let source = r#"
        unsigned long exported_helper(unsigned long value) { return value + 1; }
        unsigned long exported_replacement(unsigned long value) { return value + 2; }
        unsigned long exported_weak(unsigned long value) { return value + 3; }
        unsigned long exported_variable = 4;
    "#;
    let path = folder.library("libexports.so", source);
    // SAFETY: it has no constructors.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.unwrap()
}

fn patch(folder: &Folder, name: &str, definitions: &str, body: &str) -> PathBuf {
    let source = format!(
        "{definitions}
         static unsigned long replacement(unsigned long value) {{ {body} }}
         MIDFLIGHT_PATCH(\"{name}\");
         MIDFLIGHT_REPLACE(\"live_interposed\", replacement);"
    );
    fixtures::patch(folder, &format!("lib{name}.so"), &source)
}

/// What the target of `value` 0 is under the patch.
fn under(patch: &Patch, options: &midflight::Options) -> u64 {
    // SAFETY: same type.
    let applied = unsafe { patch.apply(options) }.unwrap();
    let result = live_interposed(0);
    applied.rollback_with(&patient()).unwrap();
    result
}

#[test]
fn helpers_that_the_program_would_take_over_are_refused() {
    child::run("interposed::helpers_that_the_program_would_take_over_are_refused", || {
        let folder = Folder::new();
        let _exports = export(&folder);
        let helper = "unsigned long exported_helper(unsigned long value) { return value + 1000; }";
        let variable = "unsigned long exported_variable = 1000;";
        let body = "return exported_helper(value) + exported_variable;";
        let path = patch(&folder, "taken", &format!("{helper} {variable}"), body);
        let taken = Patch::open(path).unwrap();
        let is_it = |error: &Error| {
            let text = error.to_string();
            assert!(text.contains("-fvisibility=hidden") && text.contains("libtaken.so"), "{text}");
            matches!(error, Error::Interposed { names, .. }
                if names.contains(&"exported_helper".into()) && names.contains(&"exported_variable".into()))
        };
        assert!(is_it(&taken.check().unwrap_err()));
        // SAFETY: same type.
        assert!(is_it(&unsafe { taken.apply(&patient()) }.unwrap_err()));
        assert_eq!(live_interposed(0), 1);
        // Allowed, it is what the dynamic linker does: the program's helper, and its variable.
        let allowed = patient().allow_interposed();
        let notes = taken.check_with(&allowed).unwrap().notes;
        assert!(matches!(notes.as_slice(), [Note::Interposed { names }] if names.len() == 2), "{notes:?}");
        assert_eq!(under(&taken, &allowed), 1 + 4);

        // Hidden they are the library's own, and nothing is said.
        let hide = "__attribute__((visibility(\"hidden\")))";
        let path = patch(&folder, "own", &format!("{hide} {helper} {hide} {variable}"), body);
        let own = Patch::open(path).unwrap();
        assert_eq!(own.check().unwrap().notes, []);
        assert_eq!(under(&own, &patient()), 1000 + 1000);
    });
}

#[test]
fn weak_definitions_are_noted() {
    child::run("interposed::weak_definitions_are_noted", || {
        let folder = Folder::new();
        let _exports = export(&folder);
        let weak =
            "__attribute__((weak)) unsigned long exported_weak(unsigned long value) { return value + 1000; }";
        let patch = Patch::open(patch(&folder, "weak", weak, "return exported_weak(value);")).unwrap();
        let check = patch.check().unwrap();
        assert!(
            matches!(check.notes.as_slice(), [Note::Interposed { names }] if *names == ["exported_weak"])
        );
        assert!(check.to_string().contains("exported_weak"), "{check}");
        assert_eq!(under(&patch, &patient()), 3);
    });
}

#[test]
fn a_replacement_is_the_librarys_own() {
    child::run("interposed::a_replacement_is_the_librarys_own", || {
        let folder = Folder::new();
        let _exports = export(&folder);
        let source = |hide: &str| {
            format!(
                "unsigned long exported_replacement(unsigned long value) {{ return value + 1000; }}
                 MIDFLIGHT_PATCH(\"replacement{hide}\");
                 MIDFLIGHT_REPLACE(\"live_interposed\", exported_replacement);"
            )
        };
        // The header hides it.
        let patch = Patch::open(fixtures::patch(&folder, "libhidden.so", &source("-hidden"))).unwrap();
        assert_eq!(patch.check().unwrap().notes, []);
        assert_eq!(under(&patch, &patient()), 1000);
        // Without the header's care, the record's pointer bears the name; what it means is the same.
        let visible = source("-visible").replace("#include", "");
        let visible = format!("#undef MIDFLIGHT_HIDE_\n#define MIDFLIGHT_HIDE_(symbol)\n{visible}");
        let patch = Patch::open(fixtures::patch(&folder, "libvisible.so", &visible)).unwrap();
        assert!(matches!(patch.check().unwrap_err(), Error::Interposed { .. }));
        assert_eq!(under(&patch, &patient().allow_interposed()), 1000);
    });
}
