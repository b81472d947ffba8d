/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * midflight/patch.h: what a midflight patch library in C or C++ needs. Nothing is linked.
 *
 *     #include <midflight/patch.h>
 *
 *     static int (*old_zone)(int);                  // will hold the callable original
 *
 *     int friendly_time(char *out, int size) { ... }
 *     int zone(int at) { return old_zone(at) + 1; }
 *
 *     MIDFLIGHT_PATCH("friendly-time");
 *     MIDFLIGHT_REPLACE("format_time", friendly_time);
 *     MIDFLIGHT_REPLACE_ORIGINAL("zone", zone, old_zone);
 *
 *     cc -O2 -shared -fPIC patch.c -o libpatch.so
 *
 * MIDFLIGHT_PATCH(name)
 *     Names the patch: once in a patch library, in any of its files.
 * MIDFLIGHT_REPLACE(target, replacement)
 *     Every call of the program's function `target` (a string: [module!]symbol) goes to
 *     `replacement`, a function declared before, by its plain name; in C++ in the namespace in which it is
 *     declared. It must have the target's signature and calling convention, which nothing can check.
 * MIDFLIGHT_REPLACE_ORIGINAL(target, replacement, original)
 *     The same; `original`, a variable of the replacement's pointer type with static storage and not const,
 *     is set before the first byte of the program changes, to a function that does what the target did.
 *
 * Each stands at file or namespace scope, any number of times in a file, with a semicolon. They need gcc or
 * clang, C99 or C++11, on 64-bit Linux. Linking with --gc-sections needs a compiler that knows the
 * attribute `retain` (gcc 11, clang 13): an older one's records are dropped by it.
 *
 * Replacements and originals get hidden visibility: what bears the name of an exported symbol of the
 * program would otherwise be bound to that symbol wherever the patch library itself refers to it. clang
 * takes no new visibility after the body of a function: with it, put the macro between the declaration and
 * the definition, or compile with -fvisibility=hidden, which is good for helpers too.
 *
 * Each macro writes one record into the section `midflight_patch`; its format is documented in the crate
 * midflight-patch, module `format`.
 */
#ifndef MIDFLIGHT_PATCH_H
#define MIDFLIGHT_PATCH_H

#include <stdint.h>

#if !defined(__ELF__) || !defined(__LP64__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "midflight/patch.h is for 64-bit little-endian ELF targets"
#endif

#define MIDFLIGHT_PATCH(name) MIDFLIGHT_RECORD_(1, name, 0, 0)

#define MIDFLIGHT_REPLACE(target, replacement) \
    MIDFLIGHT_HIDE_(replacement);              \
    MIDFLIGHT_RECORD_(2, target, MIDFLIGHT_CODE_(replacement), 0)

#define MIDFLIGHT_REPLACE_ORIGINAL(target, replacement, original) \
    MIDFLIGHT_HIDE_(replacement);                                 \
    MIDFLIGHT_HIDE_(original);                                    \
    MIDFLIGHT_SAME_TYPE_(replacement, original);                  \
    MIDFLIGHT_RECORD_(2, target, MIDFLIGHT_CODE_(replacement), MIDFLIGHT_DATA_(original))

/* What follows is not for use. */

#define MIDFLIGHT_JOIN2_(a, b) a##b
#define MIDFLIGHT_JOIN_(a, b) MIDFLIGHT_JOIN2_(a, b)

#ifdef __has_attribute
#if __has_attribute(retain)
#define MIDFLIGHT_RETAIN_ retain,
#endif
#endif
#ifndef MIDFLIGHT_RETAIN_
#define MIDFLIGHT_RETAIN_
#endif

#ifdef __cplusplus

#define MIDFLIGHT_HIDE_(symbol) extern decltype(symbol) symbol __attribute__((visibility("hidden")))
#define MIDFLIGHT_CODE_(function) reinterpret_cast<void (*)(void)>(&function)
#define MIDFLIGHT_DATA_(variable) static_cast<void *>(&variable)
#define MIDFLIGHT_SAME_TYPE_(function, variable)                            \
    static_assert(sizeof(decltype(variable = &function)) == sizeof(void *), \
                  "the original must be a pointer to functions of the replacement's type")

#else

#define MIDFLIGHT_HIDE_(symbol) extern __typeof__(symbol) symbol __attribute__((visibility("hidden")))
#define MIDFLIGHT_CODE_(function) ((void (*)(void))(&function))
#define MIDFLIGHT_DATA_(variable) ((void *)(&variable))
/* An array of a negative size is C99's static assertion. */
#define MIDFLIGHT_SAME_TYPE_(function, variable)                                                     \
    extern char MIDFLIGHT_JOIN_(midflight_original_must_be_pointer_to_type_of_replacement_,          \
                                __COUNTER__)[__builtin_types_compatible_p(__typeof__(&function),     \
                                                                          __typeof__(variable)) ? 1 : -1]

#endif

/* Never const: all records of a section must agree on its flags, and those with a pointer are writable. The
 * text has room for the literal's NUL, which C++ insists on. */
#define MIDFLIGHT_RECORD_(kind_, text_, code_, data_)                                                       \
    static struct {                                                                                         \
        unsigned char magic[4];                                                                             \
        uint16_t version, kind;                                                                             \
        uint32_t size, text_length;                                                                         \
        void (*code)(void);                                                                                 \
        void *data;                                                                                         \
        char text[(sizeof(text_) + 7) / 8 * 8];                                                             \
    } MIDFLIGHT_JOIN_(midflight_record_, __COUNTER__)                                                       \
        __attribute__((used, MIDFLIGHT_RETAIN_ section("midflight_patch"), aligned(8))) = {                 \
            {'M', 'F', 'L', 'T'}, 1, kind_, 32 + (sizeof(text_) + 7) / 8 * 8, sizeof(text_) - 1,           \
            code_, data_, text_}

#endif
