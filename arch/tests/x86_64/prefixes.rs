//! Copies are exact: every prefix and encoding choice stays.

use midflight_arch::Form;

use crate::support::{hex, planned};

#[test]
fn copies_are_exact() {
    for text in [
        "f0480fb10f 90",            // lock cmpxchg [rdi], rcx
        "f2f00fb10f 90",            // xacquire lock cmpxchg
        "f3a4 f3ab 90*2",           // rep movsb; rep stosd
        "2e2e48b80000000000000000", // meaningless prefixes
        "c5f877 c5f857c0",          // vzeroupper; vxorps
        "62f17c4858c1",             // vaddps zmm0
        "62f17c5858c1",             // with rounding {rn-sae}
        "62f17cc958c1",             // with a zeroing mask
        "d9eb dec9 9bdbe3",         // fldpi; fmulp; finit
        "89c0 8bc0 8bc0",           // two encodings of the same mov
        "48c7c001000000",           // could be shorter
        "c8100000 c9 90",           // enter, leave
        "f3480f1ec8 90",            // rdsspq
        "660fefc0 660f1f0400",      // pxor; nop word
    ] {
        let bytes = hex(text);
        let plan = planned(&format!("{text} 90*4 c3"), Form::Island);
        let kept = plan.trampoline.len().min(bytes.len()).min(5);
        assert_eq!(plan.trampoline[..kept], bytes[..kept], "{text}");
    }
}
