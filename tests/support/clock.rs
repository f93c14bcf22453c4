//! Clocks that are set back and forth under a running program, by libfaketime.

use std::fs;
use std::path::PathBuf;

use super::scratch::Scratch;

/// A clock of one's own for a program and all that it starts.
#[derive(Debug)]
pub(crate) struct Clock {
    scratch: Scratch,
    library: PathBuf,
}

impl Clock {
    /// A clock that is right; none where libfaketime is not installed.
    pub(crate) fn new() -> Option<Self> {
        let found = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
        let found = found.map(|directory| PathBuf::from(directory).join("faketime/libfaketimeMT.so.1"));
        let library = found.into_iter().find(|path| path.exists())?;
        let clock = Self { scratch: Scratch::new("clock"), library };
        clock.set("+0");
        Some(clock)
    }

    /// Sets it: `-2h`, `+3d`, as against the right time.
    pub(crate) fn set(&self, offset: &str) {
        // Whole at each moment, for it is read all the time.
        let new = self.scratch.join("new");
        fs::write(&new, format!("{offset}\n")).unwrap();
        fs::rename(new, self.scratch.join("offset")).unwrap();
    }

    /// What a program is started with.
    pub(crate) fn environment(&self) -> [(String, String); 4] {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        [
            ("LD_PRELOAD".to_owned(), text(self.library.clone())),
            ("FAKETIME_TIMESTAMP_FILE".to_owned(), text(self.scratch.join("offset"))),
            ("FAKETIME_NO_CACHE".to_owned(), "1".to_owned()),
            // Time that only passes is not set.
            ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
        ]
    }
}
