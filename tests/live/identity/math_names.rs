//! The functions of libm by their types, without the letters for the type of number. What a machine's libm does not have is
//! passed over, so newer ones stand here too.

/// Of one number.
pub const ONE: &[&str] = &[
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "cbrt",
    "ceil",
    "cos",
    "cosh",
    "erf",
    "erfc",
    "exp",
    "exp10",
    "exp2",
    "expm1",
    "fabs",
    "floor",
    "gamma",
    "j0",
    "j1",
    "lgamma",
    "log",
    "log10",
    "log1p",
    "log2",
    "logb",
    "nearbyint",
    "rint",
    "round",
    "roundeven",
    "significand",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
    "tgamma",
    "trunc",
    "y0",
    "y1",
    "acospi",
    "asinpi",
    "atanpi",
    "cospi",
    "sinpi",
    "tanpi",
    "exp2m1",
    "exp10m1",
    "log2p1",
    "log10p1",
    "logp1",
    "rsqrt",
];

/// Of two numbers.
pub const TWO: &[&str] = &[
    "atan2",
    "copysign",
    "drem",
    "fdim",
    "fmax",
    "fmaxmag",
    "fmin",
    "fminmag",
    "fmod",
    "hypot",
    "nextafter",
    "pow",
    "remainder",
    "scalb",
    "fmaximum",
    "fminimum",
    "fmaximum_num",
    "fminimum_num",
    "fmaximum_mag",
    "fminimum_mag",
    "atan2pi",
];

/// Of one complex number, to one.
pub const COMPLEX: &[&str] = &[
    "cacos", "cacosh", "casin", "casinh", "catan", "catanh", "ccos", "ccosh", "cexp", "clog", "clog10",
    "conj", "cproj", "csin", "csinh", "csqrt", "ctan", "ctanh",
];

/// Of a complex number, to a number.
pub const PARTS: &[&str] = &["cabs", "carg", "cimag", "creal"];

/// Of a number, to a whole one.
pub const WHOLE: &[&str] = &["llrint", "llround", "lrint", "lround", "llogb"];
