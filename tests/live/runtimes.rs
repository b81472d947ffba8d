//! Rust code of a patch library has to get on with that of its targets: same rustc, no allocators of their own.

use crate::support::fixtures::{self, Folder, rust_compiler};
use crate::support::patient;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use midflight::{Error, Note, Options, Patch, RuntimeDifference};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// An allocator of a library's own; it is the system's all the same, so nothing breaks where it is allowed.
const OWN_ALLOCATOR: &str = "
    struct Mine;
    unsafe impl std::alloc::GlobalAlloc for Mine {
        unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 { unsafe { std::alloc::System.alloc(layout) } }
        unsafe fn dealloc(&self, place: *mut u8, layout: std::alloc::Layout) {
            unsafe { std::alloc::System.dealloc(place, layout) }
        }
    }
    #[global_allocator]
    static MINE: Mine = Mine;
";

fn rustc(arguments: &[&str]) {
    let output = rust_compiler().args(["-C", "debuginfo=0"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Compiles Rust `source`, which may use midflight-patch, to the shared library `name`.
fn rust_library(folder: &Folder, name: &str, source: &str, arguments: &[&str]) -> PathBuf {
    static PATCH: OnceLock<(Folder, PathBuf)> = OnceLock::new();
    let (_, patch) = PATCH.get_or_init(|| {
        let folder = Folder::new();
        let library = folder.path("libmidflight_patch.rlib");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/patch/src/lib.rs");
        let name = ["--crate-name", "midflight_patch", "--crate-type", "rlib"];
        rustc(&[&name[..], &["-o", library.to_str().unwrap(), source]].concat());
        (folder, library)
    });
    crate::support::alloc::watch();
    let (file, library) = (folder.path(&format!("{name}.rs")), folder.path(name));
    std::fs::write(&file, source).unwrap();
    let crate_name = name.strip_prefix("lib").unwrap().strip_suffix(".so").unwrap();
    let patch = format!("midflight_patch={}", patch.display());
    let options = ["--crate-type", "cdylib", "--crate-name", crate_name, "--extern", &patch, "-o"];
    rustc(&[&options[..], &[library.to_str().unwrap(), file.to_str().unwrap()], arguments].concat());
    library
}

/// A library of the program, with a function of Rust, one of C and the default allocator.
struct Shop {
    library: Library,
    folder: Folder,
    name: String,
}

impl Shop {
    fn open(name: &str) -> Self {
        let folder = Folder::new();
        let source = r#"
            #[inline(never)]
            fn label(article: u64) -> String { format!("article {article}") }

            /// Leaves the text of the label, and tells its length.
            #[unsafe(no_mangle)]
            #[inline(never)]
            pub extern "C" fn shop_label(article: u64, text: *mut u8) -> usize {
                let label = std::hint::black_box(label as fn(u64) -> String)(article);
                unsafe { text.copy_from(label.as_ptr(), label.len()) };
                label.len()
            }

            #[unsafe(no_mangle)]
            #[inline(never)]
            pub extern "C" fn shop_price(article: u64) -> u64 { article ^ 0x1234_5678_9abc_def0 }
        "#;
        let path = rust_library(&folder, &format!("lib{name}.so"), source, &[]);
        // SAFETY: a library of plain functions.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.unwrap();
        Self { library, folder, name: name.to_owned() }
    }

    fn label(&self) -> String {
        let mut text = [0; 64];
        // SAFETY: the type of the function; no label is as long as the text.
        let len = unsafe {
            let label = self.library.get::<extern "C" fn(u64, *mut u8) -> usize>(b"shop_label").unwrap();
            label(7, text.as_mut_ptr())
        };
        String::from_utf8(text[..len].to_vec()).unwrap()
    }

    fn price(&self) -> u64 {
        // SAFETY: the type of the function.
        unsafe { self.library.get::<extern "C" fn(u64) -> u64>(b"shop_price").unwrap()(7) }
    }

    /// The source of a patch library for the function of Rust.
    fn label_patch(&self) -> String {
        let name = &self.name;
        format!(
            r#"midflight_patch::patch! {{
                name: "{name}-patch",
                #[replaces("lib{name}.so!{name}::label")]
                fn label(article: u64) -> String {{ format!("patched {{article}}") }}
            }}"#
        )
    }

    /// One for the function of C.
    fn price_patch(&self) -> String {
        let name = &self.name;
        format!(
            r#"midflight_patch::patch! {{
                name: "{name}-patch",
                #[replaces("lib{name}.so!shop_price")]
                extern "C" fn price(article: u64) -> u64 {{ vec![article; 2].iter().sum() }}
            }}"#
        )
    }

    fn patch(&self, name: &str, source: &str, arguments: &[&str]) -> PathBuf {
        rust_library(&self.folder, name, source, arguments)
    }

    fn path(&self) -> PathBuf {
        self.folder.path(&format!("lib{}.so", self.name))
    }

    /// The patch goes on as it is, and nothing was to be said of it but `notes`.
    fn accepts(&self, path: &Path, notes: &[Note]) {
        self.accepts_with(path, notes, &patient());
    }

    fn accepts_with(&self, path: &Path, notes: &[Note], options: &Options) {
        let patch = Patch::open(path).unwrap();
        let check = patch.check_with(options).unwrap();
        assert_eq!(check.notes, notes);
        let text = check.to_string();
        assert_eq!(text.matches("\n  note: ").count(), notes.len(), "{text}");
        let before = (self.label(), self.price());
        // SAFETY: same types; the same rustc and the system's allocator, whatever the files say.
        let applied = unsafe { patch.apply(options) }.unwrap();
        assert_ne!((self.label(), self.price()), before);
        applied.rollback_with(&patient()).unwrap();
        assert_eq!((self.label(), self.price()), before);
    }

    /// The patch is refused, also by `apply`, which does not load it, unless that is allowed.
    fn refuses(&self, path: &Path) -> (RuntimeDifference, String) {
        let patch = Patch::open(path).unwrap();
        let error = patch.check().unwrap_err();
        // SAFETY: refused.
        let again = unsafe { patch.apply(&patient()) }.unwrap_err();
        assert_eq!(error.to_string(), again.to_string());
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(!maps.contains(path.file_name().unwrap().to_str().unwrap()));
        assert_eq!(self.label(), "article 7");
        let text = error.to_string();
        let Error::OtherRuntime { target, others: 0, module, difference } = error else { panic!("{text}") };
        assert_eq!(target, format!("lib{0}.so!{0}::label", self.name));
        assert_eq!(module, self.path());
        let note = Note::Allowed { module, difference: (*difference).clone() };
        self.accepts_with(path, &[note], &patient().allow_other_runtime());
        (*difference, text)
    }
}

/// A copy of a library in which the comments say something else.
fn with_comments(path: &Path, change: impl Fn(&mut [u8])) -> PathBuf {
    const MARK: &[u8] = b"rustc version ";
    let mut bytes = std::fs::read(path).unwrap();
    let places = 0..bytes.len() - MARK.len() - 1;
    let places: Vec<_> = places.filter(|at| bytes[*at..].starts_with(MARK)).collect();
    assert!(!places.is_empty(), "no compiler is named");
    places.into_iter().for_each(|place| change(&mut bytes[place..=place + MARK.len()]));
    let changed = path.with_extension("changed.so");
    std::fs::write(&changed, bytes).unwrap();
    changed
}

#[test]
fn one_compiler_and_the_default_allocator_on_both_sides() {
    let shop = Shop::open("runtimes_same");
    shop.accepts(&shop.patch("libsame.so", &shop.label_patch(), &[]), &[]);
}

#[test]
fn a_patch_library_with_an_allocator_of_its_own() {
    let shop = Shop::open("runtimes_own");
    let own = shop.patch("libown.so", &(OWN_ALLOCATOR.to_owned() + &shop.label_patch()), &[]);
    let (difference, text) = shop.refuses(&own);
    assert_eq!(difference, RuntimeDifference::Allocator { patch_has_own: true, module_has_own: false });
    for word in ["the patch library has a #[global_allocator]", "the module", "libruntimes_own.so"] {
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn a_program_with_an_allocator_of_its_own() {
    // This one (`support::alloc`).
    let patch = Patch::open(fixtures::rust_patch()).unwrap();
    let error = patch.check().unwrap_err();
    let Error::OtherRuntime { target, difference, .. } = &error else { panic!("{error}") };
    assert_eq!(target, "live::targets::greet", "the other target is no function of Rust's");
    let expected = RuntimeDifference::Allocator { patch_has_own: false, module_has_own: true };
    assert_eq!(**difference, expected);
    assert!(error.to_string().contains("the module has a #[global_allocator]"), "{error}");
    assert!(error.to_string().contains("allow_other_runtime"), "{error}");
}

#[test]
fn functions_of_c_are_for_everybody() {
    let shop = Shop::open("runtimes_c");
    let own = shop.patch("libcown.so", &(OWN_ALLOCATOR.to_owned() + &shop.price_patch()), &[]);
    shop.accepts(&own, &[]);
    shop.accepts(&with_comments(&own, |text| *text.last_mut().unwrap() = b'0'), &[]);
}

#[test]
fn a_patch_library_of_another_compiler() {
    let shop = Shop::open("runtimes_rustc");
    let same = shop.patch("librustc.so", &shop.label_patch(), &[]);
    // As of rustc 0.…
    let other = with_comments(&same, |text| *text.last_mut().unwrap() = b'0');
    let (difference, text) = shop.refuses(&other);
    let RuntimeDifference::Rustc { patch_versions, module_versions } = difference else { panic!("{text}") };
    let (patch, module) = (&patch_versions[0], &module_versions[0]);
    assert_eq!((patch.get(..2), patch.get(1..)), (Some("0."), module.get(1..)));
    assert!(text.contains(patch) && text.contains(module), "{text}");
}

#[test]
fn what_a_file_does_not_say_is_noted() {
    let shop = Shop::open("runtimes_unknown");
    let same = shop.patch("libunknown.so", &shop.label_patch(), &[]);
    let silent = with_comments(&same, |text| text.fill(b'-'));
    shop.accepts(&silent, &[Note::UnknownCompiler { file: silent.clone() }]);
    let stripped = shop.patch("libstripped.so", &shop.label_patch(), &["-C", "strip=symbols"]);
    shop.accepts(&stripped, &[Note::UnknownAllocator { file: stripped.clone() }]);
}

#[test]
fn c_in_the_place_of_rust_is_noted() {
    let shop = Shop::open("runtimes_not_rust");
    let source = format!(
        "static unsigned long zero(unsigned long value) {{ return value * 0; }}
         MIDFLIGHT_PATCH(\"not-rust\"); MIDFLIGHT_REPLACE(\"lib{0}.so!{0}::label\", zero);",
        shop.name
    );
    let check =
        Patch::open(fixtures::patch(&shop.folder, "libnot_rust.so", &source)).unwrap().check().unwrap();
    assert_eq!(check.notes, [Note::NotRust { module: shop.path() }]);
}
