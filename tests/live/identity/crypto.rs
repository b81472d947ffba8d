//! Work for OpenSSL's libcrypto, by its EVP interface: what has a published answer must have that one.

use super::functions::Loaded;
use super::known::{self, Gcm, bytes};
use std::ffi::{CString, c_char, c_int, c_long, c_void};
use std::fmt::Write;
use std::path::Path;
use std::ptr::{null, null_mut};

type New = unsafe extern "C" fn() -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);
type ByName = unsafe extern "C" fn(*const c_char) -> *const c_void;
type Digest = unsafe extern "C" fn(*const u8, usize, *mut u8, *mut u32, *const c_void, *mut c_void) -> c_int;
type CipherInit =
    unsafe extern "C" fn(*mut c_void, *const c_void, *mut c_void, *const u8, *const u8) -> c_int;
type CipherUpdate = unsafe extern "C" fn(*mut c_void, *mut u8, *mut c_int, *const u8, c_int) -> c_int;
type CipherFinal = unsafe extern "C" fn(*mut c_void, *mut u8, *mut c_int) -> c_int;
type CipherControl = unsafe extern "C" fn(*mut c_void, c_int, c_int, *mut c_void) -> c_int;
type RawKey = unsafe extern "C" fn(c_int, *mut c_void, *const u8, usize) -> *mut c_void;
type AutoKey = unsafe extern "C" fn(*mut *mut c_void, *mut *const u8, c_long) -> *mut c_void;
type SignInit =
    unsafe extern "C" fn(*mut c_void, *mut *mut c_void, *const c_void, *mut c_void, *mut c_void) -> c_int;
type Sign = unsafe extern "C" fn(*mut c_void, *mut u8, *mut usize, *const u8, usize) -> c_int;
type Verify = unsafe extern "C" fn(*mut c_void, *const u8, usize, *const u8, usize) -> c_int;

/// `EVP_CTRL_AEAD_GET_TAG` and `EVP_CTRL_AEAD_SET_TAG` (evp.h).
const GET_TAG: c_int = 0x10;
const SET_TAG: c_int = 0x11;
/// `EVP_PKEY_ED25519`: its number of object (obj_mac.h).
const ED25519: c_int = 1087;

pub fn work(crypto: &Loaded, _: &Path) -> String {
    let crypto = Crypto(crypto);
    let mut text = String::new();
    for (name, message, digest) in known::DIGESTS {
        assert_eq!(crypto.digest(name, message.as_bytes()), bytes(digest), "{name}");
    }
    assert_eq!(crypto.digest("SHA256", &vec![b'a'; 1_000_000]), bytes(known::MILLION));
    // Of these there is only the comparison.
    for name in
        ["MD5", "SHA1", "SHA512-256", "SHA3-256", "SHAKE128", "BLAKE2b512", "BLAKE2s256", "SM3", "RIPEMD160"]
    {
        writeln!(text, "{name} {:02x?}", crypto.digest(name, &[7; 1000])).unwrap();
    }
    for case in known::GCM {
        crypto.gcm(case);
    }
    for name in [
        "aes-192-cbc",
        "aes-128-ctr",
        "aes-256-xts",
        "camellia-128-cbc",
        "chacha20",
        "des-ede3-cbc",
        "aria-128-ctr",
    ] {
        writeln!(text, "{name} {:02x?}", crypto.encrypt(name)).unwrap();
    }
    crypto.ed25519();
    crypto.p256();
    crypto.rsa();
    text
}

struct Crypto<'l>(&'l Loaded);

/// What is to be freed by a function of the library.
struct Owned<'l>(*mut c_void, &'l Loaded, &'static str);

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        // SAFETY: its type, for what it made.
        unsafe { self.1.symbol::<Free>(self.2)(self.0) };
    }
}

impl<'l> Crypto<'l> {
    /// The function `name`.
    ///
    /// # Safety
    /// `F` is its type (evp.h, pem.h, x509.h).
    unsafe fn of<F: Copy>(&self, name: &str) -> F {
        // SAFETY: the caller's promise.
        unsafe { self.0.symbol(name) }
    }

    fn owned(&self, pointer: *mut c_void, free: &'static str) -> Owned<'l> {
        assert!(!pointer.is_null(), "there is none, to be freed by {free}");
        Owned(pointer, self.0, free)
    }

    fn digest(&self, name: &str, message: &[u8]) -> Vec<u8> {
        let (name, mut digest, mut len) = (CString::new(name).unwrap(), [0; 64], 0);
        // SAFETY: their types.
        let (by_name, digest_of): (ByName, Digest) =
            unsafe { (self.of("EVP_get_digestbyname"), self.of("EVP_Digest")) };
        // SAFETY: a string.
        let kind = unsafe { by_name(name.as_ptr()) };
        // SAFETY: a slice, and room for the longest digest.
        let answer = unsafe {
            digest_of(message.as_ptr(), message.len(), digest.as_mut_ptr(), &raw mut len, kind, null_mut())
        };
        // What this machine's library does not have, it has neither before nor after.
        if answer == 1 { digest[..len as usize].to_vec() } else { Vec::new() }
    }

    fn gcm(&self, case: &Gcm) {
        // SAFETY: its type.
        let cipher = unsafe { self.of::<unsafe extern "C" fn() -> *const c_void>(case.cipher)() };
        let (message, encrypted) = (bytes(known::GCM_MESSAGE), bytes(case.encrypted));
        let (mut tag, key) = ([0; 16], bytes(case.key));
        assert_eq!(self.gcm_pass("Encrypt", cipher, &key, &message, &mut tag), Some(encrypted.clone()));
        assert_eq!(tag[..], bytes(case.tag)[..]);
        assert_eq!(self.gcm_pass("Decrypt", cipher, &key, &encrypted, &mut tag), Some(message));
        tag[15] ^= 1;
        assert_eq!(self.gcm_pass("Decrypt", cipher, &key, &encrypted, &mut tag), None, "a tag that is wrong");
    }

    /// Encrypts or decrypts; None if the tag does not fit.
    fn gcm_pass(
        &self,
        way: &str,
        cipher: *const c_void,
        key: &[u8],
        input: &[u8],
        tag: &mut [u8; 16],
    ) -> Option<Vec<u8>> {
        let (vector, aside) = (bytes(known::GCM_VECTOR), bytes(known::GCM_ASIDE));
        // SAFETY: their types.
        let (init, update, end, control): (CipherInit, CipherUpdate, CipherFinal, CipherControl) = unsafe {
            (
                self.of(&format!("EVP_{way}Init_ex")),
                self.of(&format!("EVP_{way}Update")),
                self.of(&format!("EVP_{way}Final_ex")),
                self.of("EVP_CIPHER_CTX_ctrl"),
            )
        };
        // SAFETY: its type.
        let context = unsafe { self.of::<New>("EVP_CIPHER_CTX_new")() };
        let context = self.owned(context, "EVP_CIPHER_CTX_free");
        let (mut output, mut len, half) = (vec![0; input.len() + 16], 0, input.len() / 2);
        // SAFETY: a context, keys and vectors of the cipher's lengths, slices, and room for what comes.
        unsafe {
            assert_eq!(init(context.0, cipher, null_mut(), key.as_ptr(), vector.as_ptr()), 1);
            assert_eq!(update(context.0, null_mut(), &raw mut len, aside.as_ptr(), aside.len() as c_int), 1);
            assert_eq!(
                update(context.0, output.as_mut_ptr(), &raw mut len, input.as_ptr(), half as c_int),
                1
            );
            let (rest, place) = (input.len() - half, output.as_mut_ptr().add(half));
            assert_eq!(update(context.0, place, &raw mut len, input.as_ptr().add(half), rest as c_int), 1);
            if way == "Decrypt" {
                assert_eq!(control(context.0, SET_TAG, 16, tag.as_mut_ptr().cast()), 1);
            }
            if end(context.0, place.add(rest), &raw mut len) != 1 {
                return None;
            }
            if way == "Encrypt" {
                assert_eq!(control(context.0, GET_TAG, 16, tag.as_mut_ptr().cast()), 1);
            }
        }
        output.truncate(input.len());
        Some(output)
    }

    /// Some bytes, by the cipher `name`; nothing if the library does not have it.
    fn encrypt(&self, name: &str) -> Vec<u8> {
        let name = CString::new(name).unwrap();
        // SAFETY: their types.
        let (by_name, new): (ByName, New) =
            unsafe { (self.of("EVP_get_cipherbyname"), self.of("EVP_CIPHER_CTX_new")) };
        // SAFETY: their types.
        let (init, update, end): (CipherInit, CipherUpdate, CipherFinal) = unsafe {
            (self.of("EVP_EncryptInit_ex"), self.of("EVP_EncryptUpdate"), self.of("EVP_EncryptFinal_ex"))
        };
        // SAFETY: nothing is needed.
        let context = self.owned(unsafe { new() }, "EVP_CIPHER_CTX_free");
        let key: Vec<u8> = (0..64).collect();
        let (mut output, mut len, mut last) = (vec![0; 300], 0, 0);
        // SAFETY: a string, a context, a key and a vector longer than any, and room for a block more.
        unsafe {
            let cipher = by_name(name.as_ptr());
            if cipher.is_null() || init(context.0, cipher, null_mut(), key.as_ptr(), key.as_ptr()) != 1 {
                return Vec::new();
            }
            assert_eq!(update(context.0, output.as_mut_ptr(), &raw mut len, [9; 250].as_ptr(), 250), 1);
            assert_eq!(end(context.0, output.as_mut_ptr().add(len as usize), &raw mut last), 1);
        }
        output.truncate((len + last) as usize);
        output
    }

    fn ed25519(&self) {
        for (private, public, message, signature) in known::ED25519 {
            let (private, public) = (bytes(private), bytes(public));
            // SAFETY: their types.
            let (of_private, of_public): (RawKey, RawKey) =
                unsafe { (self.of("EVP_PKEY_new_raw_private_key"), self.of("EVP_PKEY_new_raw_public_key")) };
            // SAFETY: slices.
            let private = unsafe { of_private(ED25519, null_mut(), private.as_ptr(), private.len()) };
            // SAFETY: slices.
            let public = unsafe { of_public(ED25519, null_mut(), public.as_ptr(), public.len()) };
            let (private, public) = (self.owned(private, FREE_KEY), self.owned(public, FREE_KEY));
            let (message, signature) = (bytes(message), bytes(signature));
            assert_eq!(self.sign(&private, None, &message), signature);
            assert!(self.is_by(&public, None, &message, &signature));
            assert!(!self.is_by(&public, None, b"another message", &signature));
        }
    }

    /// Signatures hold a random number, so one is verified that is published, and one that was made.
    fn p256(&self) {
        // RFC 5915: version, private key, named curve, public key.
        let key = format!(
            "30770201010420{}a00a06082a8648ce3d030107a14403420004{}",
            known::P256_PRIVATE,
            known::P256_PUBLIC
        );
        let key = bytes(&key);
        let mut at = key.as_ptr();
        // SAFETY: its type, and a slice.
        let key =
            unsafe { self.of::<AutoKey>("d2i_AutoPrivateKey")(null_mut(), &raw mut at, key.len() as c_long) };
        let key = self.owned(key, FREE_KEY);
        for (message, r, s) in known::P256 {
            let published = [integer(&bytes(r)), integer(&bytes(s))].concat();
            let published = [&[0x30, published.len() as u8][..], &published].concat();
            assert!(self.is_by(&key, Some("SHA256"), message.as_bytes(), &published));
            assert!(!self.is_by(&key, Some("SHA256"), b"another message", &published));
            let made = self.sign(&key, Some("SHA256"), message.as_bytes());
            assert!(self.is_by(&key, Some("SHA256"), message.as_bytes(), &made));
        }
    }

    fn rsa(&self) {
        type Memory = unsafe extern "C" fn(*const c_void, c_int) -> *mut c_void;
        type Read =
            unsafe extern "C" fn(*mut c_void, *mut *mut c_void, *mut c_void, *mut c_void) -> *mut c_void;
        let pem = known::RSA_KEY;
        // SAFETY: its type, and a slice.
        let file = unsafe { self.of::<Memory>("BIO_new_mem_buf")(pem.as_ptr().cast(), pem.len() as c_int) };
        let file = self.owned(file, "BIO_free_all");
        // SAFETY: its type, and an open BIO.
        let key =
            unsafe { self.of::<Read>("PEM_read_bio_PrivateKey")(file.0, null_mut(), null_mut(), null_mut()) };
        let key = self.owned(key, FREE_KEY);
        let signature = bytes(known::RSA_SIGNATURE);
        assert_eq!(self.sign(&key, Some("SHA384"), b""), signature);
        assert!(self.is_by(&key, Some("SHA384"), b"", &signature));
        assert!(!self.is_by(&key, Some("SHA384"), b"another message", &signature));
    }

    fn digest_kind(&self, digest: Option<&str>) -> *const c_void {
        let Some(name) = digest else { return null() };
        let name = CString::new(name).unwrap();
        // SAFETY: its type, and a string.
        unsafe { self.of::<ByName>("EVP_get_digestbyname")(name.as_ptr()) }
    }

    fn sign(&self, key: &Owned<'_>, digest: Option<&str>, message: &[u8]) -> Vec<u8> {
        // SAFETY: their types.
        let (new, init, sign): (New, SignInit, Sign) =
            unsafe { (self.of("EVP_MD_CTX_new"), self.of("EVP_DigestSignInit"), self.of("EVP_DigestSign")) };
        // SAFETY: nothing is needed.
        let context = self.owned(unsafe { new() }, "EVP_MD_CTX_free");
        let (mut signature, mut len) = (vec![0; 512], 512);
        // SAFETY: a context, a key, a slice, and room for a signature.
        unsafe {
            assert_eq!(init(context.0, null_mut(), self.digest_kind(digest), null_mut(), key.0), 1);
            assert_eq!(
                sign(context.0, signature.as_mut_ptr(), &raw mut len, message.as_ptr(), message.len()),
                1
            );
        }
        signature.truncate(len);
        signature
    }

    fn is_by(&self, key: &Owned<'_>, digest: Option<&str>, message: &[u8], signature: &[u8]) -> bool {
        // SAFETY: their types.
        let (new, init, verify): (New, SignInit, Verify) = unsafe {
            (self.of("EVP_MD_CTX_new"), self.of("EVP_DigestVerifyInit"), self.of("EVP_DigestVerify"))
        };
        // SAFETY: nothing is needed.
        let context = self.owned(unsafe { new() }, "EVP_MD_CTX_free");
        // SAFETY: a context, a key, and slices.
        unsafe {
            assert_eq!(init(context.0, null_mut(), self.digest_kind(digest), null_mut(), key.0), 1);
            verify(context.0, signature.as_ptr(), signature.len(), message.as_ptr(), message.len()) == 1
        }
    }
}

const FREE_KEY: &str = "EVP_PKEY_free";

/// A positive number in DER.
fn integer(number: &[u8]) -> Vec<u8> {
    let first = number.iter().position(|byte| *byte != 0).unwrap();
    let sign: &[u8] = if number[first] >= 0x80 { &[0] } else { &[] };
    let number = [sign, &number[first..]].concat();
    [&[2, number.len() as u8][..], &number].concat()
}
