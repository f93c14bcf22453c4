//! File systems that are soon full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::geteuid;

/// A file system of a few megabytes.
#[derive(Debug)]
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// Mounts it on a new directory. `None`, with a word, where the tests do not run as root.
    pub(crate) fn mount(at: PathBuf) -> Option<Self> {
        if !geteuid().is_root() {
            eprintln!("skipped: a small file system needs root");
            return None;
        }
        fs::create_dir(&at).unwrap();
        let made =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "none"]).arg(&at).status().unwrap();
        assert!(made.success(), "cannot mount a small file system");
        Some(Self(at))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn grow(&self) {
        let made = Command::new("mount").args(["-o", "remount,size=200m"]).arg(&self.0).status().unwrap();
        assert!(made.success(), "cannot grow the small file system");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
