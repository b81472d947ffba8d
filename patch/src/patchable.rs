//! `patchable!`, and what its functions are told apart by. It is made of two hidden macros: one goes from
//! function to function, one takes a function apart and defines it.

/// Defines functions that are meant to be replaced while the program runs.
///
/// ```
/// use std::time::{SystemTime, UNIX_EPOCH};
///
/// midflight_patch::patchable! {
///     /// The time as seconds since 1970.
///     pub fn format_time(now: SystemTime) -> String {
///         now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_string()
///     }
///
///     unsafe extern "C" fn first<'a>(bytes: *const u8, _len: &'a usize) -> &'a u8 {
///         // SAFETY: the caller's promise.
///         unsafe { &*bytes }
///     }
/// }
/// # fn main() { assert_eq!(format_time(UNIX_EPOCH), "0") }
/// ```
///
/// They are ordinary functions otherwise. It belongs into the program, where `midflight::patchable` is the same
/// macro.
///
/// # Why
///
/// The compiler looks into a function when it compiles its callers, also across `#[inline(never)]`: it folds a
/// constant result in, leaves out arguments, moves or deletes calls that have no effects, drops the callers'
/// cleanup if the function cannot panic, and more. All of that is wrong once the function is another one.
/// `docs/targets.md` of midflight lists these effects with a test of each.
///
/// # How
///
/// `fn f(a: A) -> R { body }` becomes
///
/// ```
/// # struct A; struct R;
/// #[inline(never)] // 1
/// fn f(a: A) -> R {
///     fn body(a: A) -> R {
///         /* body */
/// #       R
///     }
///     let mut body: fn(A) -> R = body;
///     // SAFETY: it changes no register; a no-op is the only instruction.
///     unsafe { core::arch::asm!("nop /* {0} */", inout(reg) body) }; // 2, 3
///     body(a) // 4
/// }
/// const _: () = {
///     #[used]
///     static TARGET: fn(A) -> R = f; // 5
/// };
/// ```
///
/// 1. Every call is a call.
/// 2. The assembly may have changed the pointer, for all that the compiler is allowed to know. So `f` calls an
///    unknown function of its type: nothing of the body's result, effects, unwinding or use of arguments gets
///    to the callers of `f`. `core::hint::black_box` promises no such thing.
/// 3. The no-op bears a number made of the function's path, so that no two of these functions are equal, even if
///    their bodies are. Equal functions are merged, by the compiler and by linkers (`--icf=all`), and then a
///    replacement of one replaces both.
/// 4. Arguments are passed on as they came: a jump, without a frame, whatever types they have. Large
///    arguments are passed by reference, and a function that only reads its own lets callers pass their
///    original instead of a copy, which a replacement may write to.
/// 5. A function whose address is known elsewhere keeps its arguments, where they are passed, and its name in
///    the symbol table.
///
/// A call costs two or three instructions more: the address, the no-op, an indirect jump. On x86-64 they take 16
/// bytes, more than any entry jump.
///
/// A call of `f` from its own body goes through `f`, so it reaches a replacement too.
///
/// # What it takes
///
/// `fn`, `unsafe fn`, `extern "C" fn` and `unsafe extern "C" fn` (any ABI) with a visibility, attributes and
/// named lifetimes; arguments may be `mut` or patterns in parentheses. It refuses
///
/// * generics, `impl Trait` and `where`: each instance would be a target of its own, and none has a name that
///   can be told in advance. Let the generic function call a patchable one.
/// * receivers: a method can call a patchable function that takes `&Self`.
/// * `async` and `const`: the first returns at once and its body is another function; the second may run in
///   the compiler. Both can call a patchable function.
/// * `#[inline]`, `#[track_caller]` (a hidden argument that a replacement does not have) and
///   `#[target_feature]` (the body would be without it).
///
/// ```compile_fail
/// midflight_patch::patchable! {
///     fn largest<T: Ord>(list: &[T]) -> Option<&T> { list.iter().max() } // generic
/// }
/// ```
///
/// ```compile_fail
/// midflight_patch::patchable! {
///     async fn answer() -> u32 { 42 } // its body runs elsewhere
/// }
/// ```
///
/// ```compile_fail
/// midflight_patch::patchable! {
///     #[track_caller]
///     fn fail() -> ! { panic!("called from elsewhere") } // where from is a hidden argument
/// }
/// ```
///
/// ```compile_fail
/// struct Shop;
/// midflight_patch::patchable! {
///     fn price(&self, article: u32) -> u32 { article } // a method
/// }
/// ```
///
/// What the compiler knows from the type alone it goes on using, and a replacement has to keep to it: a `&T` is
/// not null, a `bool` is 0 or 1, `-> !` does not return, `extern "C"` does not unwind, and in a program
/// compiled with `panic = "abort"` nothing unwinds.
///
/// Under Miri, which runs no assembly, only the assembly is left out.
#[macro_export]
macro_rules! patchable {
    ($($input:tt)*) => { $crate::__patchable_items! { $($input)* } };
}

// One level of recursion a function.
#[doc(hidden)]
#[macro_export]
macro_rules! __patchable_items {
    () => {};

    ($(#[$($attr:tt)*])* $v:vis fn $f:ident $(<$($lt:lifetime),* $(,)?>)? ($($args:tt)*)
        $(-> $ret:ty)? $body:block $($rest:tt)*) => {
        $crate::__patchable_function! {
            @attributes [] [] [$([$($attr)*])*] {($v) [] $f [$($($lt)*)?] ($($args)*) [$($ret)?] $body}
        }
        $crate::__patchable_items! { $($rest)* }
    };
    ($(#[$($attr:tt)*])* $v:vis unsafe fn $f:ident $(<$($lt:lifetime),* $(,)?>)? ($($args:tt)*)
        $(-> $ret:ty)? $body:block $($rest:tt)*) => {
        $crate::__patchable_function! {
            @attributes [] [] [$([$($attr)*])*] {($v) [unsafe] $f [$($($lt)*)?] ($($args)*) [$($ret)?] $body}
        }
        $crate::__patchable_items! { $($rest)* }
    };
    ($(#[$($attr:tt)*])* $v:vis extern $($abi:literal)? fn $f:ident $(<$($lt:lifetime),* $(,)?>)?
        ($($args:tt)*) $(-> $ret:ty)? $body:block $($rest:tt)*) => {
        $crate::__patchable_function! {
            @attributes [] [] [$([$($attr)*])*]
                {($v) [extern $($abi)?] $f [$($($lt)*)?] ($($args)*) [$($ret)?] $body}
        }
        $crate::__patchable_items! { $($rest)* }
    };
    ($(#[$($attr:tt)*])* $v:vis unsafe extern $($abi:literal)? fn $f:ident
        $(<$($lt:lifetime),* $(,)?>)? ($($args:tt)*) $(-> $ret:ty)? $body:block $($rest:tt)*) => {
        $crate::__patchable_function! {
            @attributes [] [] [$([$($attr)*])*]
                {($v) [unsafe extern $($abi)?] $f [$($($lt)*)?] ($($args)*) [$($ret)?] $body}
        }
        $crate::__patchable_items! { $($rest)* }
    };

    ($(#[$($attr:tt)*])* $v:vis async $($rest:tt)*) => {
        compile_error!(
            "patchable! takes no `async fn`: it returns at once, and its body is another function. Let it \
             call a patchable function"
        );
    };
    ($(#[$($attr:tt)*])* $v:vis const $($rest:tt)*) => {
        compile_error!(
            "patchable! takes no `const fn`: it may run in the compiler. Let it call a patchable function"
        );
    };
    ($(#[$($attr:tt)*])* $v:vis fn $f:ident < $($rest:tt)*) => {
        compile_error!(concat!(
            "patchable! takes no generic function: every instance of `", stringify!($f), "` would be a ",
            "target of its own. Let it call a patchable function. Lifetimes without bounds are taken",
        ));
    };
    ($(#[$($attr:tt)*])* $v:vis fn $f:ident $($rest:tt)*) => {
        compile_error!(concat!(
            "patchable! cannot read `", stringify!($f), "`: it takes `fn name(argument: Type) -> Type` with ",
            "a body and without `where`",
        ));
    };
    ($($other:tt)*) => {
        compile_error!(concat!(
            "patchable! takes `fn`, `unsafe fn`, `extern \"C\" fn` and `unsafe extern \"C\" fn`, with no ",
            "other generics than lifetimes, and with a body; it cannot read `", stringify!($($other)*), "`",
        ));
    };
}

// Takes one function apart: its attributes, then its arguments, then defines it.
#[doc(hidden)]
#[macro_export]
macro_rules! __patchable_function {
    (@attributes $cfgs:tt $seen:tt [[inline $($how:tt)*] $($more:tt)*] $function:tt) => {
        compile_error!("patchable! writes `#[inline(never)]` itself: leave `#[inline]` out");
    };
    (@attributes $cfgs:tt $seen:tt [[track_caller] $($more:tt)*] $function:tt) => {
        compile_error!(
            "patchable! takes no `#[track_caller]` function: the caller's place is a hidden argument, which a \
             replacement does not have"
        );
    };
    (@attributes $cfgs:tt $seen:tt [[target_feature $($which:tt)*] $($more:tt)*] $function:tt) => {
        compile_error!(
            "patchable! takes no `#[target_feature]` function: let the patchable function call one"
        );
    };
    // What decides whether the function exists decides about its static too.
    (@attributes [$($cfgs:tt)*] $seen:tt [[cfg $($which:tt)*] $($more:tt)*] $function:tt) => {
        $crate::__patchable_function! { @attributes [$($cfgs)* [cfg $($which)*]] $seen [$($more)*] $function }
    };
    (@attributes $cfgs:tt [$($seen:tt)*] [$attr:tt $($more:tt)*] $function:tt) => {
        $crate::__patchable_function! { @attributes $cfgs [$($seen)* $attr] [$($more)*] $function }
    };
    (@attributes $cfgs:tt $attrs:tt [] {$v:tt $quals:tt $f:ident $lts:tt $args:tt $($function:tt)*}) => {
        $crate::__patchable_function! {
            @arguments $args [] {$v $quals $f $lts $args $($function)*} $cfgs $attrs
        }
    };

    // The outer function gives every argument a name, so that it can pass it on. Where the inner one has a
    // pattern, the name is one of this expansion, and so another one in each.
    (@arguments () $list:tt $($function:tt)*) => {
        $crate::__patchable_function! { @define $list $($function)* }
    };
    (@arguments (self $($rest:tt)*) $($carried:tt)*) => { $crate::__patchable_function! { @receiver } };
    (@arguments (mut self $($rest:tt)*) $($carried:tt)*) => { $crate::__patchable_function! { @receiver } };
    (@arguments (& $($rest:tt)*) $($carried:tt)*) => { $crate::__patchable_function! { @receiver } };
    (@arguments (mut $a:ident : $t:ty $(, $($rest:tt)*)?) [$($list:tt)*] $($carried:tt)*) => {
        $crate::__patchable_function! { @arguments ($($($rest)*)?) [$($list)* ($a $t)] $($carried)* }
    };
    (@arguments ($a:ident : $t:ty $(, $($rest:tt)*)?) [$($list:tt)*] $($carried:tt)*) => {
        $crate::__patchable_function! { @arguments ($($($rest)*)?) [$($list)* ($a $t)] $($carried)* }
    };
    (@arguments ($pattern:tt : $t:ty $(, $($rest:tt)*)?) [$($list:tt)*] $($carried:tt)*) => {
        $crate::__patchable_function! { @arguments ($($($rest)*)?) [$($list)* (argument $t)] $($carried)* }
    };
    (@arguments ($($args:tt)*) $($carried:tt)*) => {
        compile_error!(concat!(
            "patchable! cannot read the arguments from `", stringify!($($args)*), "` on: each should be ",
            "`name: Type`, `mut name: Type` or `(pattern): Type`",
        ));
    };
    (@receiver) => {
        compile_error!(
            "patchable! takes no methods: let the method call a patchable function that takes `&Self`"
        );
    };

    // The one place where a function is defined. The inner one is defined inside, so that attributes that say
    // which lints are allowed hold there as well. The static stands outside, where an argument of the function's
    // own name cannot hide it.
    (@define [$(($a:ident $t:ty))*]
        {($v:vis) [$($quals:tt)*] $f:ident [$($lt:lifetime)*] ($($args:tt)*) [$($ret:ty)?] $body:block}
        [$([$($cfg:tt)*])*] [$([$($attr:tt)*])*]) => {
        $(#[$($cfg)*])*
        $(#[$($attr)*])*
        #[inline(never)]
        $v $($quals)* fn $f<$($lt),*>($($a: $t),*) $(-> $ret)? {
            $($quals)* fn __midflight_body<$($lt),*>($($args)*) $(-> $ret)? $body

            #[allow(unused_mut, reason = "under Miri nothing writes to it")]
            let mut body: $($quals)* fn($($t),*) $(-> $ret)? = __midflight_body;
            // SAFETY: a no-op that has no effects, and a call that the caller of this function answers for.
            unsafe {
                #[cfg(not(miri))]
                ::core::arch::asm!(
                    $crate::__patchable_no_op!(),
                    body = inout(reg) body,
                    number = const $crate::__patchable_number(
                        concat!(module_path!(), "::", stringify!($f), " ", line!(), ":", column!())
                    ),
                    options(nostack, preserves_flags),
                );
                body($($a),*)
            }
        }

        $(#[$($cfg)*])*
        #[allow(deprecated, reason = "the function may be so")]
        const _: () = {
            #[used]
            static __MIDFLIGHT_TARGET: for<$($lt),*> $($quals)* fn($($t),*) $(-> $ret)? = $f;
        };
    };
}

/// The template of an instruction that does nothing and contains `{number}`; `{body}` is only mentioned.
#[cfg(target_arch = "x86_64")]
#[doc(hidden)]
#[macro_export]
macro_rules! __patchable_no_op {
    () => {
        "nop dword ptr [rax + {number}] /* {body} */"
    };
}

// A move to the zero register. It takes 16 bits.
#[cfg(target_arch = "aarch64")]
#[doc(hidden)]
#[macro_export]
macro_rules! __patchable_no_op {
    () => {
        "movz xzr, #({number} & 0xffff) /* {body} */\nmovz xzr, #({number} >> 16)"
    };
}

// Elsewhere the text of the comment has to do: it differs for the compiler, not for a linker.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[doc(hidden)]
#[macro_export]
macro_rules! __patchable_no_op {
    () => {
        "/* {number} {body} */"
    };
}

/// A number of 31 bits made of `text` (FNV-1a), as it fits a displacement of x86-64.
#[doc(hidden)]
pub const fn __patchable_number(text: &str) -> u32 {
    let (mut hash, mut at) = (0xcbf2_9ce4_8422_2325_u64, 0);
    while at < text.len() {
        hash = (hash ^ text.as_bytes()[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    // The low bits of the product change with every byte, the high ones with all.
    ((hash >> 32) ^ hash) as u32 & 0x7fff_ffff
}

#[cfg(test)]
mod tests {
    use super::__patchable_number as number;

    #[test]
    fn numbers_differ_and_fit_a_displacement() {
        let numbers: std::collections::HashSet<u32> =
            (0..10_000).map(|line| number(&format!("app::price {line}:1"))).collect();
        assert!(numbers.len() >= 9_999, "{}", numbers.len());
        assert!(numbers.iter().all(|number| i32::try_from(*number).is_ok()));
    }
}
