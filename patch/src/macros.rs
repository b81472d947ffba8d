//! `patch!`. It is made of three hidden macros: one goes from item to item, one takes a function apart, one
//! writes records.

/// Defines replacements and says what they replace.
///
/// ```
/// # mod host { pub struct Place { pub name: String } }
/// # mod util { pub fn shorten(text: &str) -> &str { text } }
/// use host::Place;
///
/// midflight_patch::patch! {
///     name: "friendly-time",
///
///     /// An ordinary function of this module, too.
///     #[replaces("time_service::zone", original = ZONE)]
///     pub fn zone(at: &Place) -> String {
///         ZONE.get()(at) + "!"
///     }
///
///     #[replaces("checksum")]
///     unsafe extern "C" fn checksum(bytes: *const u8, mut len: usize) -> u32 {
///         let mut sum = 0;
///         while len > 0 {
///             len -= 1;
///             sum += u32::from(unsafe { *bytes.add(len) });
///         }
///         sum
///     }
///
///     // A function that is defined elsewhere, with its pointer type.
///     "time_service::shorten" => util::shorten as fn(&str) -> &str, original = SHORTEN,
/// }
/// # fn main() { assert!(ZONE.try_get().is_none() && SHORTEN.try_get().is_none()) }
/// ```
///
/// * `name: "..."`, once in a patch library: what reports call the patch. Any constant `&str`.
/// * Functions with `#[replaces("target")]`, also `unsafe`, `extern`, with a visibility, other attributes and
///   named lifetimes (`fn f<'a>(text: &'a str, other: &str) -> &'a str`). A function that is generic, `async`
///   or `const`, or has a receiver, replaces nothing by itself: name an instance or a method in the next
///   form.
/// * `"target" => path as fn(A) -> R`: the type cannot be left out, because a macro cannot know it, and has to
///   be spelled out, since a function of that type is made that calls the other one.
///
/// A panic that leaves a replacement is resumed in the program, where it runs the drops of the callers and can
/// be caught; its message is printed by the panic hook of the library, not by the program's. `catch_unwind` in the library
/// catches the library's own panics, and ends the program if one of the program's comes (from an original or a
/// callback), since it is of another runtime; so does the start of a thread that the library spawned. A body is a
/// closure: `return` and `?` leave the function as usual.
///
/// `original = NAME` declares `static NAME: Original<fn(A) -> R>`, in which the function that was replaced
/// can be called ([`Original`](crate::Original)); `original = pub(crate) NAME` makes it visible elsewhere.
///
/// The items may stand in any order. The compiler's `recursion_limit` allows about a hundred of them; raise
/// it in the crate for more. Since statics in a named section count as unsafe code, a crate with patches
/// cannot `forbid(unsafe_code)`.
///
/// What is wrong is said when the patch library is compiled:
///
/// ```compile_fail
/// midflight_patch::patch! { // patch! needs a name
///     #[replaces("target")]
///     fn replacement() {}
/// }
/// ```
///
/// ```compile_fail
/// midflight_patch::patch! {
///     name: "mine",
///     fn replacement() {} // it does not say what it replaces
/// }
/// ```
#[macro_export]
macro_rules! patch {
    ($($input:tt)*) => { $crate::__patch_items! { [] $($input)* } };
}

// `[the name, if it has been read] items`. One level of recursion an item: whatever takes more is done in a
// call of its own beside the one for the rest.
#[doc(hidden)]
#[macro_export]
macro_rules! __patch_items {
    ([]) => {
        compile_error!("patch! needs a name: `name: \"friendly-time\",`");
    };
    ([$name:expr]) => {
        $crate::__patch_record! { name($name) }
        $crate::__patch_record! { attach }
    };

    ($name:tt , $($rest:tt)*) => { $crate::__patch_items! { $name $($rest)* } };
    ($name:tt ; $($rest:tt)*) => { $crate::__patch_items! { $name $($rest)* } };

    ([] name : $name:expr $(, $($rest:tt)*)?) => { $crate::__patch_items! { [$name] $($($rest)*)? } };
    ([] name : $name:expr ; $($rest:tt)*) => { $crate::__patch_items! { [$name] $($rest)* } };
    ([$name:expr] name : $($rest:tt)*) => {
        compile_error!("patch! takes one name, and this is the second");
    };

    ($name:tt $target:literal => $f:path as $(for<$($lt:lifetime),* $(,)?>)? fn($($args:tt)*)
        $($rest:tt)*) => {
        $crate::__patch_path! { $name [$target] [$f] [$($($lt)*)?] [] ($($args)*) $($rest)* }
    };
    ($name:tt $target:literal => $f:path as $(for<$($lt:lifetime),* $(,)?>)? unsafe fn($($args:tt)*)
        $($rest:tt)*) => {
        $crate::__patch_path! { $name [$target] [$f] [$($($lt)*)?] [unsafe] ($($args)*) $($rest)* }
    };
    ($name:tt $target:literal => $f:path as $(for<$($lt:lifetime),* $(,)?>)? extern $($abi:literal)?
        fn($($args:tt)*) $($rest:tt)*) => {
        $crate::__patch_path! { $name [$target] [$f] [$($($lt)*)?] [extern $($abi)?] ($($args)*) $($rest)* }
    };
    ($name:tt $target:literal => $f:path as $(for<$($lt:lifetime),* $(,)?>)? unsafe extern $($abi:literal)?
        fn($($args:tt)*) $($rest:tt)*) => {
        $crate::__patch_path! {
            $name [$target] [$f] [$($($lt)*)?] [unsafe extern $($abi)?] ($($args)*) $($rest)*
        }
    };
    ($name:tt $target:literal $($rest:tt)*) => {
        compile_error!(concat!(
            "patch! expects after ", stringify!($target),
            ": `=> path as fn(A) -> R,` or `=> path as fn(A) -> R, original = NAME,`",
        ));
    };

    ($name:tt $(#[$($attr:tt)*])+ $v:vis fn $f:ident $(<$($lt:lifetime),* $(,)?>)? ($($args:tt)*)
        $(-> $ret:ty)? $body:block $($rest:tt)*) => {
        $crate::__patch_function! {
            @find [] [$([$($attr)*])+] {($v) [] $f [$($($lt)*)?] ($($args)*) [$($ret)?] $body}
        }
        $crate::__patch_items! { $name $($rest)* }
    };
    ($name:tt $(#[$($attr:tt)*])+ $v:vis unsafe fn $f:ident $(<$($lt:lifetime),* $(,)?>)? ($($args:tt)*)
        $(-> $ret:ty)? $body:block $($rest:tt)*) => {
        $crate::__patch_function! {
            @find [] [$([$($attr)*])+] {($v) [unsafe] $f [$($($lt)*)?] ($($args)*) [$($ret)?] $body}
        }
        $crate::__patch_items! { $name $($rest)* }
    };
    ($name:tt $(#[$($attr:tt)*])+ $v:vis extern $($abi:literal)? fn $f:ident $(<$($lt:lifetime),* $(,)?>)?
        ($($args:tt)*) $(-> $ret:ty)? $body:block $($rest:tt)*) => {
        $crate::__patch_function! {
            @find [] [$([$($attr)*])+] {($v) [extern $($abi)?] $f [$($($lt)*)?] ($($args)*) [$($ret)?] $body}
        }
        $crate::__patch_items! { $name $($rest)* }
    };
    ($name:tt $(#[$($attr:tt)*])+ $v:vis unsafe extern $($abi:literal)? fn $f:ident
        $(<$($lt:lifetime),* $(,)?>)? ($($args:tt)*) $(-> $ret:ty)? $body:block $($rest:tt)*) => {
        $crate::__patch_function! {
            @find [] [$([$($attr)*])+]
                {($v) [unsafe extern $($abi)?] $f [$($($lt)*)?] ($($args)*) [$($ret)?] $body}
        }
        $crate::__patch_items! { $name $($rest)* }
    };

    ($name:tt #[$($attr:tt)*] $($rest:tt)*) => {
        compile_error!(concat!(
            "patch! cannot read the function that follows `#[", stringify!($($attr)*), "]`. It takes `fn`, ",
            "`unsafe fn`, `extern \"C\" fn` and `unsafe extern \"C\" fn`, with no other generics than ",
            "lifetimes, no `where`, no `async`, no `const`, and with a body",
        ));
    };
    ($name:tt $v:vis fn $f:ident $($rest:tt)*) => { $crate::__patch_items! { @bare $f } };
    ($name:tt $v:vis unsafe fn $f:ident $($rest:tt)*) => { $crate::__patch_items! { @bare $f } };
    ($name:tt $v:vis extern $($abi:literal)? fn $f:ident $($rest:tt)*) => {
        $crate::__patch_items! { @bare $f }
    };
    ($name:tt $v:vis unsafe extern $($abi:literal)? fn $f:ident $($rest:tt)*) => {
        $crate::__patch_items! { @bare $f }
    };
    (@bare $f:ident) => {
        compile_error!(concat!(
            "`", stringify!($f), "` does not say what it replaces: put `#[replaces(\"target\")]` before it, ",
            "or move it out of patch!",
        ));
    };
    ($name:tt $other:tt $($rest:tt)*) => {
        compile_error!(concat!(
            "patch! does not understand `", stringify!($other), "`. It takes `name: \"...\",`, functions ",
            "with `#[replaces(\"target\")]`, and `\"target\" => path as fn(A) -> R,`",
        ));
    };
}

// Takes one function apart: finds `replaces` among its attributes, then its arguments' types, then defines
// it.
#[doc(hidden)]
#[macro_export]
macro_rules! __patch_function {
    (@find [$($seen:tt)*] [[replaces($target:literal $(,)?)] $($more:tt)*] $function:tt) => {
        $crate::__patch_function! { @take $function [$($seen)* $($more)*] [$target] }
    };
    (@find [$($seen:tt)*] [[replaces($target:literal, original = $ov:vis $o:ident $(,)?)] $($more:tt)*]
        $function:tt) => {
        $crate::__patch_function! { @take $function [$($seen)* $($more)*] [$target original($ov $o)] }
    };
    (@find $seen:tt [[replaces $($spec:tt)*] $($more:tt)*] $function:tt) => {
        compile_error!(concat!(
            "`#[replaces", stringify!($($spec)*), "]` should be `#[replaces(\"target\")]` or ",
            "`#[replaces(\"target\", original = NAME)]`",
        ));
    };
    (@find [$($seen:tt)*] [$attr:tt $($more:tt)*] $function:tt) => {
        $crate::__patch_function! { @find [$($seen)* $attr] [$($more)*] $function }
    };
    (@find $seen:tt [] {$v:tt $quals:tt $f:ident $($function:tt)*}) => {
        $crate::__patch_items! { @bare $f }
    };

    (@take {$v:tt $quals:tt $f:ident $lts:tt $args:tt $ret:tt $body:block} $attrs:tt $spec:tt) => {
        $crate::__patch_function! { @types $args [] {$v $quals $f $lts $args $ret $body} $attrs $spec }
    };

    // Pointer types take names of arguments but not `mut` or patterns, so only the types are kept.
    (@types () $types:tt $function:tt $attrs:tt $spec:tt) => {
        $crate::__patch_function! { @define $types $function $attrs $spec }
    };
    (@types (mut $a:ident : $t:ty $(, $($rest:tt)*)?) [$($types:tt)*] $($carried:tt)*) => {
        $crate::__patch_function! { @types ($($($rest)*)?) [$($types)* $t,] $($carried)* }
    };
    (@types ($a:tt : $t:ty $(, $($rest:tt)*)?) [$($types:tt)*] $($carried:tt)*) => {
        $crate::__patch_function! { @types ($($($rest)*)?) [$($types)* $t,] $($carried)* }
    };
    (@types ($($args:tt)*) $($carried:tt)*) => {
        compile_error!(concat!(
            "patch! cannot read the arguments from `", stringify!($($args)*), "` on: each should be ",
            "`name: Type` or `mut name: Type`; a method is named as ",
            "`\"target\" => Type::method as fn(&Type)`",
        ));
    };

    // The one place where a replacement is defined.
    (@define [$($types:tt)*]
        {($v:vis) [$($quals:tt)*] $f:ident [$($lt:lifetime)*] ($($args:tt)*) [$($ret:ty)?] $body:block}
        [$([$($attr:tt)*])*] [$target:literal $($original:tt)*]) => {
        $(#[$($attr)*])*
        $v $($quals)* fn $f<$($lt),*>($($args)*) $(-> $ret)? {
            $crate::border::cross(move || $(-> $ret)? { $body })
        }

        $crate::__patch_record! {
            replace($target, $f, for<$($lt),*> $($quals)* fn($($types)*) $(-> $ret)?) $($original)*
        }
        $crate::__patch_record! {
            declare($target, for<$($lt),*> $($quals)* fn($($types)*) $(-> $ret)?) $($original)*
        }
    };
}

// A function that is defined elsewhere: what its pointer type ends with, then its arguments, then a function of
// its type that calls it from behind the border.
#[doc(hidden)]
#[macro_export]
macro_rules! __patch_path {
    ($name:tt [$target:literal] $f:tt $lts:tt $quals:tt $args:tt $(-> $ret:ty)?,
        original = $ov:vis $original:ident $(, $($rest:tt)*)?) => {
        $crate::__patch_path! {
            @arguments $args [a b c d e f g h i j k l m n o p] [] []
                {$f $lts $quals [$($ret)?] [$target original($ov $original)]}
        }
        $crate::__patch_items! { $name $($($rest)*)? }
    };
    ($name:tt [$target:literal] $f:tt $lts:tt $quals:tt $args:tt $(-> $ret:ty)? $(, $($rest:tt)*)?) => {
        $crate::__patch_path! {
            @arguments $args [a b c d e f g h i j k l m n o p] [] [] {$f $lts $quals [$($ret)?] [$target]}
        }
        $crate::__patch_items! { $name $($($rest)*)? }
    };

    (@arguments () $names:tt [$(($a:ident $t:ty))*] $types:tt
        {[$f:path] [$($lt:lifetime)*] [$($quals:tt)*] [$($ret:ty)?] [$target:literal $($original:tt)*]}) => {
        const _: () = {
            #[allow(clippy::too_many_arguments)]
            $($quals)* fn __midflight_border<$($lt),*>($($a: $t),*) $(-> $ret)? {
                const __MIDFLIGHT_FUNCTION: for<$($lt),*> $($quals)* fn($($t),*) $(-> $ret)? = $f;
                // SAFETY: the caller promises what the function wants.
                #[allow(unused_unsafe)]
                $crate::border::cross(move || unsafe { __MIDFLIGHT_FUNCTION($($a),*) })
            }
            $crate::__patch_record! {
                replace($target, __midflight_border, for<$($lt),*> $($quals)* fn($($t),*) $(-> $ret)?)
                $($original)*
            }
        };
        $crate::__patch_record! {
            declare($target, for<$($lt),*> $($quals)* fn($($t),*) $(-> $ret)?) $($original)*
        }
    };
    (@arguments ($_name:ident : $t:ty $(, $($rest:tt)*)?) [$a:ident $($names:ident)*] [$($args:tt)*] $($more:tt)*) => {
        $crate::__patch_path! { @arguments ($($($rest)*)?) [$($names)*] [$($args)* ($a $t)] $($more)* }
    };
    (@arguments ($t:ty $(, $($rest:tt)*)?) [$a:ident $($names:ident)*] [$($args:tt)*] $($more:tt)*) => {
        $crate::__patch_path! { @arguments ($($($rest)*)?) [$($names)*] [$($args)* ($a $t)] $($more)* }
    };
    (@arguments ($($args:tt)*) $($more:tt)*) => {
        compile_error!(concat!(
            "patch! cannot read the arguments from `", stringify!($($args)*), "` on: it takes up to 16 types, ",
            "none of them variadic",
        ));
    };
}

// Writes one record, or declares the original that it points to. The names inside must not be ones that the
// function or the original can have.
#[doc(hidden)]
#[macro_export]
macro_rules! __patch_record {
    (name($name:expr)) => {
        $crate::__patch_record! { @static $name, name(__MIDFLIGHT_TEXT) }
    };
    (attach) => {
        $crate::__patch_record! {
            @static $crate::border::WRITTEN_WITH, attach(__MIDFLIGHT_TEXT, $crate::border::ATTACH)
        }
    };
    (replace($target:literal, $f:path, $pointer:ty)) => {
        $crate::__patch_record! {
            @static $target, replace(__MIDFLIGHT_TEXT, $f as $pointer as *const (), ::core::ptr::null())
        }
    };
    (declare($target:literal, $pointer:ty)) => {};
    (declare($target:literal, $pointer:ty) original($ov:vis $original:ident)) => {
        #[doc = concat!("The original of `", $target, "`.")]
        $ov static $original: $crate::Original<$pointer> = $crate::Original::new();
    };
    (replace($target:literal, $f:path, $pointer:ty) original($ov:vis $original:ident)) => {
        $crate::__patch_record! {
            @static $target, replace(__MIDFLIGHT_TEXT, $f as $pointer as *const (), $original.as_slot())
        }
    };
    (@static $text:expr, $record:ident($($value:expr),*)) => {
        const _: () = {
            const __MIDFLIGHT_TEXT: &str = $text;
            #[used]
            #[unsafe(link_section = "midflight_patch")]
            static __MIDFLIGHT_RECORD: $crate::format::Record<
                { $crate::format::text_space(__MIDFLIGHT_TEXT.len()) },
            > = $crate::format::Record::$record($($value),*);
        };
    };
}
