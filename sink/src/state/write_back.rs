//! The disk writes what was written to files, while more of them is made.
//!
//! A copy ends when all of the state is durable. The system keeps what is written in memory for half a minute, if there is room; without this
//! the disk would idle until the end, and everything would then wait for it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Written between two rounds: the rest, which the end waits for, is written in the blink of an eye.
const ROUND_BYTES: usize = 16 << 20;

/// Sees to the files in a directory that grow.
#[derive(Debug)]
pub(super) struct WriteBack {
    directory: PathBuf,
    /// Written since the last round.
    bytes: usize,
    thread: Option<(SyncSender<()>, JoinHandle<()>)>,
}

impl WriteBack {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, bytes: 0, thread: None }
    }

    /// To be told what goes into files. It never waits for the disk.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes < ROUND_BYTES {
            return;
        }
        self.bytes = 0;
        if self.thread.is_none() {
            let directory = self.directory.clone();
            let mut known = sizes(&directory).unwrap_or_default();
            // One round may wait while another is under way.
            let (rounds, inbox) = sync_channel(1);
            let thread = std::thread::Builder::new().name("state-sync".into()).spawn(move || {
                while inbox.recv().is_ok() {
                    sync_grown(&directory, &mut known);
                }
            });
            // Without it the end takes longer, and that is all.
            self.thread = thread.ok().map(|thread| (rounds, thread));
        }
        if let Some((rounds, _)) = &self.thread {
            let _ = rounds.try_send(());
        }
    }
}

impl Drop for WriteBack {
    fn drop(&mut self) {
        if let Some((rounds, thread)) = self.thread.take() {
            drop(rounds);
            let _ = thread.join();
        }
    }
}

fn sizes(directory: &Path) -> io::Result<HashMap<OsString, u64>> {
    fs::read_dir(directory)?
        .map(|entry| {
            let entry = entry?;
            Ok((entry.file_name(), entry.metadata()?.len()))
        })
        .collect()
}

/// Has the files written that have grown since. Whoever makes them durable at the end is told of errors, not this.
fn sync_grown(directory: &Path, known: &mut HashMap<OsString, u64>) {
    let Ok(found) = sizes(directory) else { return };
    for (name, size) in &found {
        if known.get(name) != Some(size) {
            let _ = File::open(directory.join(name)).and_then(|file| file.sync_data());
        }
    }
    *known = found;
}
