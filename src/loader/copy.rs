//! A copy of a patch library that nobody else can change.
//!
//! dlopen of a path whose old file is still mapped gives the old library, also when the file was
//! replaced; truncating a mapped file kills the process. A sealed memfd has neither problem. Its name for
//! the linker is the descriptor's, which stays open as long as the library is mapped and is taken by no other.

use crate::error::Error;
use crate::sys::{self, Errno};
use libloading::os::unix::Library;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::path::{Path, PathBuf};

/// MFD_EXEC of Linux 6.3: executable whatever vm.memfd_noexec says, unless it forbids that.
const MFD_EXEC: u32 = 0x10;

#[derive(Debug)]
pub(super) struct PrivateCopy {
    file: File,
    path: PathBuf,
}

impl PrivateCopy {
    pub(super) fn keep(bytes: &[u8], original: &Path) -> Result<Self, Error> {
        let file = sealed(bytes, original).or_else(|_| unnamed(bytes));
        let file = file.map_err(|source| Error::KeepCopy { path: original.to_owned(), source })?;
        let kept =
            with_unused_name(file).map_err(|source| Error::KeepCopy { path: original.to_owned(), source })?;
        let path = name_of(&kept);
        Ok(Self { file: kept, path })
    }

    /// What the dynamic linker opens.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Never closes the descriptor.
    pub(super) fn keep_open(self) {
        let _ = self.file.into_raw_fd();
    }
}

fn name_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/thread-self/fd/{}", file.as_raw_fd()))
}

/// The same file under a number that no loaded library was opened by. There may be one if the program closed
/// our descriptors, as daemons do.
fn with_unused_name(mut file: File) -> io::Result<File> {
    // SAFETY: the library is loaded already or the call fails, so no constructor runs.
    while unsafe { Library::open(Some(name_of(&file)), libc::RTLD_NOLOAD | libc::RTLD_LAZY) }.is_ok() {
        let (fd, least) = (file.as_raw_fd() as usize, file.as_raw_fd() as usize + 1);
        // SAFETY: no memory is involved.
        let next =
            unsafe { sys::call(libc::SYS_fcntl, [fd, libc::F_DUPFD_CLOEXEC as usize, least, 0, 0, 0])? };
        // SAFETY: a new descriptor that nobody else has.
        file = unsafe { File::from_raw_fd(next as i32) };
    }
    Ok(file)
}

/// In a memfd (memfd_create(2), Linux 3.17) that can no longer change.
fn sealed(bytes: &[u8], original: &Path) -> io::Result<File> {
    let name = original.file_name().unwrap_or_default().to_string_lossy();
    // The kernel takes 249 bytes; debuggers and maps show it.
    let mut name: Vec<u8> = name.bytes().filter(|byte| *byte != 0).take(200).collect();
    name.push(0);
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let create = |flags: u32| {
        // SAFETY: the name ends in NUL and lives through the call.
        unsafe { sys::call(libc::SYS_memfd_create, [name.as_ptr() as usize, flags as usize, 0, 0, 0, 0]) }
    };
    let fd = match create(flags | MFD_EXEC) {
        Err(Errno(libc::EINVAL)) => create(flags)?, // Before Linux 6.3.
        other => other?,
    };
    // SAFETY: a new descriptor that nobody else has.
    let mut file = unsafe { File::from_raw_fd(fd as i32) };
    file.write_all(bytes)?;
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: no memory is involved.
    let sealed =
        unsafe { sys::call(libc::SYS_fcntl, [fd, libc::F_ADD_SEALS as usize, seals as usize, 0, 0, 0]) };
    sealed.map(|_| file).map_err(io::Error::from)
}

/// Where memfds may not be executed: in a file that has no name, and so no other reader or writer.
fn unnamed(bytes: &[u8]) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let folder = std::env::temp_dir();
    let mut file =
        File::options().read(true).write(true).mode(0o700).custom_flags(libc::O_TMPFILE).open(folder)?;
    file.write_all(bytes)?;
    // Executing what is open for writing is refused; opened anew for reading, the writer goes.
    File::open(format!("/proc/thread-self/fd/{}", file.as_raw_fd()))
}

/// Keeps a page of zeroes as a library would be kept, maps it as code, and forgets it: nothing is loaded. Where
/// that is not in a memfd, the answer is why not.
pub(crate) fn probe() -> io::Result<Option<io::Error>> {
    const PAGE: usize = 4096;
    let (file, why_no_memfd) = match sealed(&[0; PAGE], Path::new("midflight-probe")) {
        Ok(file) => (file, None),
        Err(error) => (unnamed(&[0; PAGE])?, Some(error)),
    };
    // As the dynamic linker will.
    let file = File::open(name_of(&file))?;
    let (protection, fd) = ((libc::PROT_READ | libc::PROT_EXEC) as usize, file.as_raw_fd() as usize);
    // SAFETY: a new mapping, which replaces nothing.
    let page =
        unsafe { sys::call(libc::SYS_mmap, [0, PAGE, protection, libc::MAP_PRIVATE as usize, fd, 0])? };
    // SAFETY: our own page, of which nobody has the address.
    let _ = unsafe { sys::call(libc::SYS_munmap, [page, PAGE, 0, 0, 0, 0]) };
    Ok(why_no_memfd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_keep_the_bytes() {
        let bytes: Vec<u8> = (0..100_000u32).map(|number| number as u8).collect();
        for file in [sealed(&bytes, Path::new("/x/lib\u{e9}.so")).unwrap(), unnamed(&bytes).unwrap()] {
            let path = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
            assert_eq!(std::fs::read(path).unwrap(), bytes);
        }
    }

    #[test]
    fn a_sealed_copy_cannot_be_changed() {
        let file = sealed(b"abc", Path::new("x")).unwrap();
        let path = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
        let changed = File::options().write(true).open(path).and_then(|mut file| file.write_all(b"x"));
        assert!(changed.is_err() && file.set_len(1).is_err());
    }
}
