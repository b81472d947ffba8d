//! Guarded pages: where indirect calls may land on landing pads only (BTI of aarch64; mprotect(2), PROT_BTI, Linux 5.8).

use super::image::{ModuleFile, ModuleImage};
use super::modules::Module;
use std::fs::File;
use std::io::{BufRead, BufReader};

/// HWCAP2_BTI of asm/hwcap.h.
const KNOWS_LANDING_PADS: u64 = 1 << 17;

/// Is the code of `module` guarded? The dynamic linker does that where the file says that it may and the processor can;
/// not every one does, so the kernel is asked what came of it.
pub(super) fn is_guarded(module: &Module, image: &ModuleImage, file: &ModuleFile) -> bool {
    // SAFETY: only asks.
    let abilities = unsafe { libc::getauxval(libc::AT_HWCAP2) };
    if !image.has_landing_pads(file) || abilities & KNOWS_LANDING_PADS == 0 {
        return false;
    }
    let code = module.segments.iter().find(|(_, executable)| *executable).map(|(range, _)| range.start);
    // The process's is empty once the main thread has ended, and an emulator may know only that.
    let told = |path| flag(BufReader::new(File::open(path).ok()?), code?);
    told("/proc/self/smaps").or_else(|| told("/proc/thread-self/smaps")).unwrap_or(true)
}

/// Does the mapping that holds `address` have the flag `bt`? (proc_pid_smaps(5), VmFlags.) None where that is not told, or
/// it is not told of this process: an emulator's is mapped otherwise.
fn flag(smaps: impl BufRead, address: u64) -> Option<bool> {
    let mut is_it = false;
    // Names of files are any bytes.
    for line in smaps.split(b'\n') {
        let line = line.ok()?;
        let line = String::from_utf8_lossy(&line);
        if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| is_it) {
            let has = |wanted| flags.split_ascii_whitespace().any(|flag| flag == wanted);
            return has("ex").then(|| has("bt"));
        }
        if let Some((start, end)) = line.split_once(' ').and_then(|(range, _)| range.split_once('-')) {
            let number = |digits| u64::from_str_radix(digits, 16).ok();
            is_it = (number(start)?..number(end)?).contains(&address);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
aaaad0c80000-aaaad0c90000 r-xp 00000000 fd:00 1234                       /usr/bin/a b
Size:                 64 kB
VmFlags: rd ex mr mw me bt 
ffff80000000-ffff80010000 r-xp 00000000 fd:00 99                         /usr/lib/libb.so
VmFlags: rd ex mr mw me 
ffff90000000-ffff90010000 r--p 00000000 fd:00 98                         /usr/lib/libc.so
VmFlags: rd mr mw me 
";

    #[test]
    fn the_kernel_says_which_code_is_guarded() {
        assert_eq!(flag(SMAPS.as_bytes(), 0xaaaa_d0c8_0000), Some(true));
        assert_eq!(flag(SMAPS.as_bytes(), 0xaaaa_d0c8_ffff), Some(true));
        assert_eq!(flag(SMAPS.as_bytes(), 0xffff_8000_1000), Some(false));
        // Not executable, so this is not how the process sees it.
        assert_eq!(flag(SMAPS.as_bytes(), 0xffff_9000_1000), None);
        assert_eq!(flag(SMAPS.as_bytes(), 0x1000), None);
        assert_eq!(flag(&b"\xff\n"[..], 0x1000), None);
        let named = b"aaaad0000000-aaaad0010000 r-xp 00000000 fd:00 12 /usr/lib/lib\xff.so\nVmFlags: rd ex mr mw me\n";
        assert_eq!(flag([named, SMAPS.as_bytes()].concat().as_slice(), 0xaaaa_d0c8_0000), Some(true));
        assert_eq!(flag([named, SMAPS.as_bytes()].concat().as_slice(), 0xaaaa_d000_0000), Some(false));
    }
}
