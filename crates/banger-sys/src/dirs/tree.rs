//! Removing a tree that somebody else wrote, and may be writing.
//!
//! Names are unlinked from held directories only. A directory is entered by openat2, so neither
//! through a link nor into a mount; one on another device is left alone. At most [`DEPTH`]
//! descriptors are held: what lies deeper is first moved up to the top of the tree.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, RawDir, RenameFlags, Uid, fchown, fstat, openat2, renameat_with,
    unlinkat,
};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::{BENEATH, DIRECTORY, Dir, PathError, check_name, failed, refused};

/// Directories open at a time, the caller's included.
const DEPTH: usize = 32;
/// How often an entry is looked at again that turned from file to directory or back.
const TRIES: usize = 16;

/// A directory being emptied.
struct Level {
    dir: OwnedFd,
    /// Its name in the level above.
    name: CString,
    /// Names read and not yet dealt with.
    pending: Vec<CString>,
    /// Whether there are more to read.
    unread: bool,
}

struct Removal {
    device: u64,
    owner: u32,
    entries_left: usize,
    levels: Vec<Level>,
    first_error: Option<PathError>,
}

impl Dir {
    /// Removes `name` and all beneath it, whatever it is; that there is nothing is no error.
    ///
    /// Never follows a link, never crosses a mount, and goes on past what cannot be removed:
    /// the first error is returned at the end. After `most` entries it stops with an error; what
    /// was removed until then stays removed. Takes ownership of sticky directories in the
    /// tree, in which only an owner may remove.
    pub fn remove_tree(&self, name: &str, most: usize) -> Result<(), PathError> {
        check_name(name)?;
        let top = CString::new(name).map_err(|_| refused(name, "a NUL in it"))?;
        let mut removal = Removal {
            device: fstat(self).map_err(failed("stat", "."))?.st_dev,
            owner: rustix::process::geteuid().as_raw(),
            entries_left: most,
            levels: vec![Level {
                dir: fcntl_dupfd_cloexec(self, 3).map_err(failed("hold", "."))?,
                name: CString::default(),
                pending: vec![top],
                unread: false,
            }],
            first_error: None,
        };
        while removal.step()? {}
        removal.first_error.map_or(Ok(()), Err)
    }
}

impl Removal {
    /// Deals with one entry; `false` when nothing is left. Fails only when it must not go on.
    fn step(&mut self) -> Result<bool, PathError> {
        let depth = self.levels.len();
        let Some(level) = self.levels.last_mut() else {
            return Ok(false);
        };
        if let Some(name) = level.pending.pop() {
            self.entries_left = self.entries_left.checked_sub(1).ok_or_else(|| {
                refused(
                    &name.to_string_lossy(),
                    "more entries than one removal may take",
                )
            })?;
            match remove_or_enter(&level.dir, &name, self.device, self.owner) {
                Ok(None) => {}
                Ok(Some(dir)) if depth < DEPTH => self.levels.push(Level {
                    dir,
                    name,
                    pending: Vec::new(),
                    unread: true,
                }),
                Ok(Some(_)) => self.move_up(&name),
                Err(error) => self.note(error),
            }
        } else if level.unread {
            if let Err(error) = level.read_more() {
                self.note(error);
            }
        } else if let Some(done) = self.levels.pop()
            && let Some(parent) = self.levels.last()
        {
            match unlinkat(&parent.dir, &done.name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => {
                    self.note(failed("remove directory", &done.name.to_string_lossy())(
                        errno,
                    ));
                }
            }
        }
        Ok(true)
    }

    fn note(&mut self, error: PathError) {
        self.first_error.get_or_insert(error);
    }

    /// Moves the directory `name` of the deepest level to the top of the tree, to be met there.
    fn move_up(&mut self, name: &CStr) {
        let [_, top, .., deepest] = self.levels.as_mut_slice() else {
            return;
        };
        for number in 0..self.entries_left {
            let Ok(free) = CString::new(format!(".deep-{number}")) else {
                return;
            };
            match renameat_with(&deepest.dir, name, &top.dir, &free, RenameFlags::NOREPLACE) {
                Ok(()) => return top.pending.push(free),
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => return,
                Err(errno) => return self.note(failed("move", &name.to_string_lossy())(errno)),
            }
        }
    }
}

impl Level {
    fn read_more(&mut self) -> Result<(), PathError> {
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut entries = RawDir::new(&self.dir, &mut buffer);
        self.unread = false;
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(failed("list", &self.name.to_string_lossy()))?;
            if ![c".", c".."].contains(&entry.file_name()) {
                self.pending.push(entry.file_name().to_owned());
            }
            // Another call would read on; one buffer at a time bounds the memory.
            if entries.is_buffer_empty() {
                self.unread = true;
                break;
            }
        }
        Ok(())
    }
}

/// Unlinks `name`, or opens it if it is a directory.
fn remove_or_enter(
    parent: &OwnedFd,
    name: &CStr,
    device: u64,
    owner: u32,
) -> Result<Option<OwnedFd>, PathError> {
    let text = name.to_string_lossy();
    let mut last = Errno::BUSY;
    for _ in 0..TRIES {
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(None),
            Err(Errno::ISDIR) => {}
            Err(errno) => return Err(failed("unlink", &text)(errno)),
        }
        match openat2(
            parent,
            name,
            OFlags::RDONLY | DIRECTORY,
            Mode::empty(),
            BENEATH,
        ) {
            Ok(dir) => {
                let stat = fstat(&dir).map_err(failed("stat", &text))?;
                if stat.st_dev != device {
                    return Err(refused(&text, "it is on another device"));
                }
                let sticky = stat.st_mode & Mode::SVTX.as_raw_mode() != 0;
                if sticky && stat.st_uid != owner {
                    let (uid, gid) = (Uid::from_raw(owner), None::<Gid>);
                    fchown(&dir, Some(uid), gid).map_err(failed("chown", &text))?;
                }
                return Ok(Some(dir));
            }
            Err(Errno::NOENT) => return Ok(None),
            // Swapped for something else between the two calls.
            Err(errno @ (Errno::NOTDIR | Errno::LOOP)) => last = errno,
            Err(errno) => return Err(failed("open directory", &text)(errno)),
        }
    }
    Err(failed("remove", &text)(last))
}
