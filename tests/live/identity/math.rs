//! Work for libm: every function of numbers, of all types, over arguments at which they take different ways. The answers are
//! bits, and the exceptions that were raised.

use super::functions::Loaded;
use super::math_names::{COMPLEX, ONE, PARTS, TWO, WHOLE};
use std::ffi::c_int;
use std::fmt::Write;
use std::path::Path;

const ARGUMENTS: &[f64] = &[
    0.0,
    -0.0,
    1e-310,
    -3e-9,
    0.125,
    -0.75,
    1.0,
    1.5,
    -2.5,
    3.0,
    10.25,
    -100.7,
    710.5,
    -1e5,
    1e22,
    1.7e308,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
];

/// Of two numbers: every so many pairs.
const STEP: usize = 3;

/// C's `double _Complex` and `float _Complex`: passed as such a structure is (System V ABI for x86-64, 3.2.3; AAPCS64).
#[derive(Clone, Copy)]
#[repr(C)]
struct Complex<T>(T, T);

/// A number of the libraries' widest types.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Wide([u8; 16]);

type OneOf<T> = unsafe extern "C" fn(T) -> T;
type TwoOf<T> = unsafe extern "C" fn(T, T) -> T;
type Call<'a> = &'a dyn Fn() -> Vec<u64>;

pub fn work(m: &Loaded, _: &Path) -> String {
    let mut answers = Answers { m, text: String::new(), count: 0 };
    answers.doubles();
    answers.floats();
    answers.with_others();
    answers.complex();
    answers.wide("l", long as WideCall, as_long);
    if cfg!(target_arch = "x86_64") {
        answers.wide("f128", quad as WideCall, as_quad);
    }
    assert!(answers.count > 3000, "only {} answers", answers.count);
    answers.text
}

struct Answers<'l> {
    m: &'l Loaded,
    text: String,
    count: usize,
}

fn pairs() -> impl Iterator<Item = (f64, f64)> {
    let all = ARGUMENTS.iter().flat_map(|one| ARGUMENTS.iter().map(|other| (*one, *other)));
    all.step_by(STEP)
}

impl Answers<'_> {
    /// Notes what `call` answers, and the exceptions that it raises (fenv(3)).
    fn note(&mut self, call: Call<'_>) {
        type Exceptions = unsafe extern "C" fn(c_int) -> c_int;
        // SAFETY: their types.
        let (clear, test): (Exceptions, Exceptions) =
            unsafe { (self.m.symbol("feclearexcept"), self.m.symbol("fetestexcept")) };
        // SAFETY: numbers of exceptions.
        unsafe { clear(libc_all()) };
        let answer = call();
        // SAFETY: as before.
        let raised = unsafe { test(libc_all()) };
        for bits in answer {
            write!(self.text, "{bits:x} ").unwrap();
        }
        write!(self.text, "{raised:x}, ").unwrap();
        self.count += 1;
    }

    /// The function `name` as an `F`, with its name noted; None if there is none.
    ///
    /// # Safety
    /// `F` is its type.
    unsafe fn function<F: Copy>(&mut self, name: &str) -> Option<F> {
        if !self.m.has(name) {
            return None;
        }
        write!(self.text, "\n{name}: ").unwrap();
        // SAFETY: the caller's promise.
        Some(unsafe { self.m.symbol(name) })
    }

    fn doubles(&mut self) {
        for name in ONE {
            // SAFETY: the list says that this is its type; and so below.
            let Some(function) = (unsafe { self.function::<OneOf<f64>>(name) }) else { continue };
            // SAFETY: numbers; and so below.
            ARGUMENTS.iter().for_each(|x| self.note(&|| vec![unsafe { function(*x) }.to_bits()]));
        }
        for name in TWO {
            // SAFETY: as above.
            let Some(function) = (unsafe { self.function::<TwoOf<f64>>(name) }) else { continue };
            // SAFETY: as above.
            pairs().for_each(|(x, y)| self.note(&|| vec![unsafe { function(x, y) }.to_bits()]));
        }
        for name in WHOLE {
            // SAFETY: as above.
            let Some(function) = (unsafe { self.function::<unsafe extern "C" fn(f64) -> i64>(name) }) else {
                continue;
            };
            // SAFETY: as above.
            ARGUMENTS.iter().for_each(|x| self.note(&|| vec![unsafe { function(*x) } as u64]));
        }
    }

    fn floats(&mut self) {
        let bits = |number: f32| vec![u64::from(number.to_bits())];
        for name in ONE {
            // SAFETY: as for doubles.
            let Some(function) = (unsafe { self.function::<OneOf<f32>>(&format!("{name}f")) }) else {
                continue;
            };
            // SAFETY: as for doubles.
            ARGUMENTS.iter().for_each(|x| self.note(&|| bits(unsafe { function(*x as f32) })));
        }
        for name in TWO {
            // SAFETY: as for doubles.
            let Some(function) = (unsafe { self.function::<TwoOf<f32>>(&format!("{name}f")) }) else {
                continue;
            };
            // SAFETY: as for doubles.
            pairs().for_each(|(x, y)| self.note(&|| bits(unsafe { function(x as f32, y as f32) })));
        }
        for name in WHOLE {
            // SAFETY: as for doubles.
            let function = unsafe { self.function::<unsafe extern "C" fn(f32) -> i64>(&format!("{name}f")) };
            let Some(function) = function else { continue };
            // SAFETY: as for doubles.
            ARGUMENTS.iter().for_each(|x| self.note(&|| vec![unsafe { function(*x as f32) } as u64]));
        }
    }

    /// Functions with results by pointer, and with whole numbers among their arguments.
    fn with_others(&mut self) {
        type Exponent = unsafe extern "C" fn(f64, *mut c_int) -> f64;
        type Parts = unsafe extern "C" fn(f64, *mut f64) -> f64;
        type SinCos = unsafe extern "C" fn(f64, *mut f64, *mut f64);
        type Quotient = unsafe extern "C" fn(f64, f64, *mut c_int) -> f64;
        type Scale = unsafe extern "C" fn(f64, c_int) -> f64;
        type Order = unsafe extern "C" fn(c_int, f64) -> f64;
        type Three = unsafe extern "C" fn(f64, f64, f64) -> f64;
        // SAFETY: their types, and places for the answers; and so below.
        unsafe {
            for name in ["frexp", "lgamma_r"] {
                let Some(function) = self.function::<Exponent>(name) else { continue };
                for x in ARGUMENTS {
                    self.note(&|| {
                        let mut exponent = 0;
                        let rest = function(*x, &raw mut exponent);
                        // What lgamma_r says of a NaN's sign is what stood there; frexp's of one is anything.
                        vec![rest.to_bits(), if x.is_finite() { exponent as u64 } else { 0 }]
                    });
                }
            }
            let Some(modf) = self.function::<Parts>("modf") else { panic!("no modf") };
            for x in ARGUMENTS {
                self.note(&|| {
                    let mut whole = 0.0;
                    vec![modf(*x, &raw mut whole).to_bits(), whole.to_bits()]
                });
            }
            let Some(sincos) = self.function::<SinCos>("sincos") else { panic!("no sincos") };
            for x in ARGUMENTS {
                self.note(&|| {
                    let (mut sine, mut cosine) = (0.0, 0.0);
                    sincos(*x, &raw mut sine, &raw mut cosine);
                    vec![sine.to_bits(), cosine.to_bits()]
                });
            }
            let Some(remquo) = self.function::<Quotient>("remquo") else { panic!("no remquo") };
            for (x, y) in pairs() {
                self.note(&|| {
                    let mut quotient = 0;
                    vec![remquo(x, y, &raw mut quotient).to_bits(), (quotient & 7) as u64]
                });
            }
            for name in ["ldexp", "scalbn"] {
                let Some(function) = self.function::<Scale>(name) else { continue };
                pairs().for_each(|(x, n)| self.note(&|| vec![function(x, n as c_int).to_bits()]));
            }
            for name in ["jn", "yn"] {
                let Some(function) = self.function::<Order>(name) else { continue };
                let some = ARGUMENTS.iter().filter(|x| !(x.abs() > 1e6 && x.is_finite()));
                some.for_each(|x| self.note(&|| vec![function(4, *x).to_bits(), function(-3, *x).to_bits()]));
            }
            let Some(fma) = self.function::<Three>("fma") else { panic!("no fma") };
            pairs().for_each(|(x, y)| self.note(&|| vec![fma(x, y, 1.0 / 3.0).to_bits()]));
            let Some(ilogb) = self.function::<unsafe extern "C" fn(f64) -> c_int>("ilogb") else {
                panic!("no ilogb")
            };
            ARGUMENTS.iter().for_each(|x| self.note(&|| vec![ilogb(*x) as u64]));
        }
    }

    fn complex(&mut self) {
        for name in COMPLEX {
            // SAFETY: as for doubles.
            if let Some(function) = unsafe { self.function::<OneOf<Complex<f64>>>(name) } {
                for (x, y) in pairs() {
                    // SAFETY: as for doubles.
                    let call = || unsafe { function(Complex(x, y)) };
                    self.note(&|| {
                        let z = call();
                        vec![z.0.to_bits(), z.1.to_bits()]
                    });
                }
            }
            // SAFETY: as for doubles.
            if let Some(function) = unsafe { self.function::<OneOf<Complex<f32>>>(&format!("{name}f")) } {
                for (x, y) in pairs() {
                    // SAFETY: as for doubles.
                    let call = || unsafe { function(Complex(x as f32, y as f32)) };
                    self.note(&|| {
                        let z = call();
                        vec![u64::from(z.0.to_bits()), u64::from(z.1.to_bits())]
                    });
                }
            }
        }
        for name in PARTS {
            type Part = unsafe extern "C" fn(Complex<f64>) -> f64;
            // SAFETY: as for doubles.
            let Some(function) = (unsafe { self.function::<Part>(name) }) else { continue };
            // SAFETY: as for doubles.
            pairs().for_each(|(x, y)| self.note(&|| vec![unsafe { function(Complex(x, y)) }.to_bits()]));
        }
        // SAFETY: as for doubles.
        let Some(power) = (unsafe { self.function::<TwoOf<Complex<f64>>>("cpow") }) else {
            panic!("no cpow")
        };
        for (x, y) in pairs() {
            self.note(&|| {
                // SAFETY: as for doubles.
                let z = unsafe { power(Complex(x, y), Complex(0.5, -2.0)) };
                vec![z.0.to_bits(), z.1.to_bits()]
            });
        }
    }

    /// The functions of a type that Rust does not have.
    fn wide(&mut self, suffix: &str, call: WideCall, convert: fn(f64) -> Wide) {
        let number = |wide: Wide| {
            let (low, high) = wide.0.split_at(8);
            vec![u64::from_le_bytes(low.try_into().unwrap()), u64::from_le_bytes(high.try_into().unwrap())]
        };
        for (name, is_of_two) in
            ONE.iter().map(|name| (name, false)).chain(TWO.iter().map(|name| (name, true)))
        {
            // SAFETY: only `call` calls it, as what it is.
            let Some(function) = (unsafe { self.function::<*const ()>(&format!("{name}{suffix}")) }) else {
                continue;
            };
            let all = pairs().filter(|(x, y)| is_of_two || x.to_bits() == y.to_bits());
            for (x, y) in all {
                self.note(&|| {
                    let (arguments, mut answer) = ([convert(x), convert(y)], Wide([0; 16]));
                    // SAFETY: a function of one or two such numbers.
                    unsafe { call(function, &raw const arguments, &raw mut answer) };
                    number(answer)
                });
            }
        }
    }
}

/// `FE_ALL_EXCEPT` (fenv.h).
const fn libc_all() -> c_int {
    if cfg!(target_arch = "x86_64") { 0x3d } else { 0x1f }
}

/// Calls a function of one or two wide numbers.
type WideCall = unsafe extern "C" fn(*const (), *const [Wide; 2], *mut Wide);

/// `long double` of x86-64: on the stack, and back in st(0) (System V ABI, 3.2.3).
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
unsafe extern "C" fn long(_: *const (), _: *const [Wide; 2], _: *mut Wide) {
    std::arch::naked_asm!(
        "push rbx",
        "sub rsp, 32",
        "mov rbx, rdx",
        "fld tbyte ptr [rsi]",
        "fstp tbyte ptr [rsp]",
        "fld tbyte ptr [rsi + 16]",
        "fstp tbyte ptr [rsp + 16]",
        "call rdi",
        "fstp tbyte ptr [rbx]",
        "add rsp, 32",
        "pop rbx",
        "ret",
    )
}

/// `_Float128`: in registers.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
unsafe extern "C" fn quad(_: *const (), _: *const [Wide; 2], _: *mut Wide) {
    std::arch::naked_asm!(
        "push rbx",
        "mov rbx, rdx",
        "movaps xmm0, [rsi]",
        "movaps xmm1, [rsi + 16]",
        "call rdi",
        "movaps [rbx], xmm0",
        "pop rbx",
        "ret",
    )
}

#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
unsafe extern "C" fn quad(_: *const (), _: *const [Wide; 2], _: *mut Wide) {
    std::arch::naked_asm!(
        "stp x29, x30, [sp, -32]!",
        "mov x29, sp",
        "str x2, [sp, 16]",
        "ldp q0, q1, [x1]",
        "blr x0",
        "ldr x2, [sp, 16]",
        "str q0, [x2]",
        "ldp x29, x30, [sp], 32",
        "ret",
    )
}

/// There it is the same as `_Float128`.
#[cfg(target_arch = "aarch64")]
use quad as long;

/// Sign, exponent and fraction; the fraction of a subnormal is made a normal one.
fn taken_apart(number: f64) -> (u64, i64, u64) {
    let (mut exponent, mut fraction) = ((number.to_bits() >> 52 & 0x7ff) as i64, number.to_bits() << 12);
    if exponent == 0 && fraction != 0 {
        let zeros = fraction.leading_zeros();
        (exponent, fraction) = (-i64::from(zeros), fraction << zeros << 1);
    }
    (number.to_bits() >> 63, exponent, fraction)
}

/// In both wide types the exponent has 15 bits.
fn wide_exponent(number: f64, exponent: i64) -> u64 {
    match exponent {
        0 if number == 0.0 => 0,
        0x7ff => 0x7fff,
        exponent => (exponent - 1023 + 16383) as u64,
    }
}

fn as_quad(number: f64) -> Wide {
    let (sign, exponent, fraction) = taken_apart(number);
    let high = sign << 63 | wide_exponent(number, exponent) << 48 | fraction >> 16;
    Wide([(fraction << 48).to_le_bytes(), high.to_le_bytes()].concat().try_into().unwrap())
}

/// With the first bit of the fraction, which the others leave out.
#[cfg(target_arch = "x86_64")]
fn as_long(number: f64) -> Wide {
    let (sign, exponent, fraction) = taken_apart(number);
    let first = u64::from(number != 0.0) << 63;
    let high = sign << 15 | wide_exponent(number, exponent);
    Wide([(first | fraction >> 1).to_le_bytes(), high.to_le_bytes()].concat().try_into().unwrap())
}

#[cfg(target_arch = "aarch64")]
use as_quad as as_long;
