//! Names of functions: what a user may write, and what a symbol is called.
#![forbid(unsafe_code)]

use std::fmt::Write;

/// `[module!]symbol`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TargetName<'a> {
    /// Soname, file name or path.
    pub(crate) module: Option<&'a str>,
    /// Raw or demangled.
    pub(crate) symbol: &'a str,
}

impl<'a> TargetName<'a> {
    pub(crate) fn parse(text: &'a str) -> Self {
        match text.split_once('!') {
            // `operator!` and `operator!=` are names of C++.
            Some((module, symbol)) if !module.is_empty() && !module.ends_with("operator") => {
                Self { module: Some(module), symbol }
            }
            _ => Self { module: None, symbol: text },
        }
    }
}

/// Compares many symbols with one name; demangles only those that can match.
#[derive(Debug)]
pub(crate) struct Matcher<'a> {
    wanted: &'a str,
    /// An identifier that every mangling of `wanted` spells out.
    needle: &'a [u8],
}

impl<'a> Matcher<'a> {
    pub(crate) fn new(wanted: &'a str) -> Self {
        Self { wanted, needle: needle(wanted).as_bytes() }
    }

    /// Is the symbol `raw` called so, raw or demangled?
    pub(crate) fn matches(&self, raw: &[u8]) -> bool {
        if raw == self.wanted.as_bytes() {
            return true;
        }
        let Ok(text) = std::str::from_utf8(raw) else { return false };
        if !is_mangled(text) || !contains(raw, self.needle) {
            return false;
        }
        demangle(text).is_some_and(|names| names.iter().any(|name| name == self.wanted))
    }
}

/// The name of a function of Rust, hash left out. None if it is not mangled by Rust.
pub(crate) fn rust_name(raw: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(raw).ok().filter(|text| is_mangled(text))?;
    demangle_rust(text)
}

/// Every readable form of a mangled name, the fullest last.
pub(crate) fn every_name(raw: &[u8]) -> Option<Vec<String>> {
    demangle(std::str::from_utf8(raw).ok()?)
}

/// What people call the symbol `raw`: Rust names without their hash, C++ names without parameters.
pub(crate) fn readable(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    demangle(&text).and_then(|names| names.into_iter().next()).unwrap_or_else(|| text.into_owned())
}

/// The names that come nearest to `wanted`, best first. A compiler's clone of a function, such as
/// `f.constprop.0`, counts as near to it.
pub(crate) fn nearest(wanted: &str, names: impl Iterator<Item = String>) -> Vec<String> {
    let last = |name: &str| {
        let last = name.rsplit("::").next().unwrap_or("");
        last.split(" [clone").next().and_then(|last| last.split('.').next()).unwrap_or("").to_lowercase()
    };
    let (whole, end) = (wanted.to_lowercase(), last(wanted));
    let mut ranked: Vec<(usize, String)> = names
        .filter_map(|name| {
            let by_end = strsim::damerau_levenshtein(&last(&name), &end);
            let limit = end.chars().count().div_ceil(3);
            let far = strsim::levenshtein(&name.to_lowercase(), &whole);
            (by_end <= limit).then_some((by_end * 100 + far, name))
        })
        .collect();
    ranked.sort();
    ranked.dedup_by(|a, b| a.1 == b.1);
    ranked.into_iter().take(5).map(|(_, name)| name).collect()
}

/// The longest identifier of the path alone: types in parameters and arguments are abbreviated, so are
/// operators and closures.
fn needle(wanted: &str) -> &str {
    let head = wanted.split('(').next().unwrap_or("");
    let path = match head.strip_prefix('<') {
        Some(of_an_impl) => of_an_impl.rsplit(">::").next().unwrap_or(""),
        None => head.split('<').next().unwrap_or(""),
    };
    let path = path.split(['{', '<']).next().unwrap_or("").split("operator").next().unwrap_or("");
    let identifiers = path.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    identifiers.max_by_key(|identifier| identifier.len()).unwrap_or("")
}

fn is_mangled(text: &str) -> bool {
    text.starts_with("_R") || text.starts_with("_Z") || text.starts_with("__Z")
}

/// Every readable form, the shortest first. None if `text` is not a mangled name.
fn demangle(text: &str) -> Option<Vec<String>> {
    if !is_mangled(text) {
        return None;
    }
    if let Some(name) = demangle_rust(text) {
        return Some(vec![name]);
    }
    // A clone or a part of a function, such as `f.constprop.0` or `f.cold`, is another function.
    let (text, clone) = match text.split_once('.') {
        Some((text, suffix)) => (text, format!(" [clone .{suffix}]")),
        None => (text, String::new()),
    };
    let symbol = cpp_demangle::Symbol::new(text).ok()?;
    let mut names = Vec::new();
    for options in [cpp_demangle::DemangleOptions::new().no_params().no_return_type(), Default::default()] {
        // Bounded: a hostile name can expand without end.
        let mut name = Bounded(String::new());
        if let Ok(text) = symbol.demangle_with_options(&options) {
            let _ = name.write_str(&text);
            names.push(name.0 + &clone);
        }
    }
    Some(names)
}

/// The legacy mangling of Rust is also one of C++, so Rust is asked first; it wants its hash.
fn demangle_rust(text: &str) -> Option<String> {
    let name = rustc_demangle::try_demangle(text).ok()?;
    let without_hash = format!("{name:#}");
    (text.starts_with("_R") || without_hash != name.to_string()).then_some(without_hash)
}

struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        if self.0.len() + text.len() > 64 * 1024 {
            return Err(std::fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || haystack.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_and_symbol() {
        let parse = |text| {
            let name = TargetName::parse(text);
            (name.module, name.symbol)
        };
        assert_eq!(parse("libz.so.1!adler32"), (Some("libz.so.1"), "adler32"));
        assert_eq!(parse("adler32"), (None, "adler32"));
        assert_eq!(parse("!adler32"), (None, "!adler32"));
        assert_eq!(parse("ns::operator!=(int)"), (None, "ns::operator!=(int)"));
        assert_eq!(parse("liba.so!ns::operator!=(int)"), (Some("liba.so"), "ns::operator!=(int)"));
    }

    #[test]
    fn raw_and_demangled_names_match() {
        let all = [
            ("count", "count"),
            ("app::count", "_ZN3app5count17h0123456789abcdefE"),
            ("app::count", "_RNvCs1234_3app5count"),
            ("<app::Clock as app::Tell>::tell", "_RNvXCs1234_3appNtB2_5ClockNtB2_4Tell4tell"),
            ("ns::count", "_ZN2ns5countEi"),
            ("ns::count(int)", "_ZN2ns5countEi"),
            ("shop::price(int, char const*)", "_ZN4shop5priceEiPKc"),
            ("_ZN2ns5countEi", "_ZN2ns5countEi"),
            ("ns::operator==(ns::thing const&, ns::thing const&)", "_ZN2nseqERKNS_5thingES2_"),
            ("app::count::{closure#0}", "_RNCNvCs1234_3app5count0B3_"),
            ("app::count::{{closure}}", "_ZN3app5count28_$u7b$$u7b$closure$u7d$$u7d$17h0123456789abcdefE"),
        ];
        for (wanted, raw) in all {
            assert!(Matcher::new(wanted).matches(raw.as_bytes()), "{wanted} {raw}");
        }
        assert!(!Matcher::new("count").matches(b"_ZN2ns5countEi"));
        assert!(!Matcher::new("ns::count(long)").matches(b"_ZN2ns5countEi"));
        assert!(!Matcher::new("count").matches(b"\xff\xfe"));
    }

    #[test]
    fn nearest_names_come_first() {
        let names = ["app::format_time", "app::format_date", "app::zone", "lib::format_tim"];
        let near = nearest("app::fromat_time", names.iter().map(|name| (*name).to_owned()));
        assert_eq!(near.first().map(String::as_str), Some("app::format_time"));
        assert!(!near.contains(&"app::zone".to_owned()));
    }

    #[test]
    fn clones_have_names_of_their_own_and_are_near() {
        let raw = ["f.isra.0", "f_of_another_name", "_ZN3app1fEi.constprop.0", "_ZN3app1fEi.cold"];
        let names = raw.map(|raw| readable(raw.as_bytes()));
        assert_eq!(names[2..], ["app::f [clone .constprop.0]", "app::f [clone .cold]"]);
        assert!(raw.iter().all(|raw| !Matcher::new("app::f").matches(raw.as_bytes())));
        assert!(Matcher::new("app::f(int) [clone .cold]").matches(raw[3].as_bytes()));
        let near = nearest("f", names.iter().cloned());
        assert_eq!(near, [&*names[0], &*names[3], &*names[2]]);
    }
}
