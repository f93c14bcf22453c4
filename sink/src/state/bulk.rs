//! Loading a table's rows when it has just been copied.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use super::State;
use super::error::{Result, StateError, StateErrorKind};
use super::sort_buffer::SortBuffer;
use super::stored_value::Stored;
use super::tree::{Run, Tree, check_sizes};
use super::write_back::WriteBack;
use crate::shelf::Hold;

/// A writer hands its rows over when it has gathered this many bytes.
const CHUNK_BYTES: usize = 8 << 20;
/// A table of at most so many bytes goes where small commits go: a file of its own for each of thousands of small tables
/// would cost more than the rows.
const SMALL_BYTES: usize = 256 << 10;
/// Each sorted run holds a file open until the load ends, and part of an index in memory. Rows that come in no order make one of each
/// chunk: beyond so many they are set aside, to be merged into one.
const MAX_RUNS: usize = 128;

/// [`CHUNK_BYTES`] and [`MAX_RUNS`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) chunk: usize,
    pub(super) runs: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { chunk: CHUNK_BYTES, runs: MAX_RUNS }
    }
}

/// Loads rows of one table: the quick way for a first copy.
///
/// Rows come through [`BulkWriter`]s, one for each thread. They are sorted in chunks of a few MiB and written as sorted
/// files beside the store; chunks that follow each other in key order, of one writer or of one after another, end in one file, and cost no
/// merging later. Of a table whose keys come in no order, what is beyond the first gigabyte or so is merged before it is visible.
/// Nothing is visible before [`BulkLoader::finish`]. A load that is dropped instead leaves nothing but files that the
/// next open removes.
///
/// Each key comes once, and the table has no newer rows yet: a loaded row replaces an earlier one. Its files lie apart, and are merged
/// as later writes come, or when there is time: a merge right behind a copy would cost as much as writing them did.
#[derive(Debug)]
pub struct BulkLoader {
    /// Not closed under the load.
    _state: Arc<State>,
    /// Rows that are not visible yet may name large values.
    _hold: Hold,
    table: u32,
    sizes: Sizes,
    /// Numbers the writers.
    writers: AtomicU64,
    sender: SyncSender<Message>,
    thread: JoinHandle<Result<()>>,
}

/// Takes rows on behalf of one thread. End it with [`BulkWriter::finish`].
#[derive(Debug)]
pub struct BulkWriter {
    table: u32,
    number: u64,
    chunk_bytes: usize,
    sender: SyncSender<Message>,
    buffer: SortBuffer,
    finished: bool,
}

#[derive(Debug)]
enum Message {
    Chunk(Chunk),
    /// A writer was dropped before its end: rows are missing.
    Abandon,
    /// All writers are done.
    Install {
        commit: Option<u64>,
    },
}

#[derive(Debug)]
struct Chunk {
    /// The writer's number.
    writer: u64,
    /// In key order.
    rows: SortBuffer,
    /// The writer has no more.
    last: bool,
}

impl BulkLoader {
    pub(super) fn start(state: Arc<State>, table: u32, sizes: Sizes) -> Result<Self> {
        // One chunk may wait while one is written: writers are held up beyond that.
        let (sender, receiver) = sync_channel(1);
        let theirs = Loading {
            tree: state.rows.clone(),
            writer: state.writer.clone(),
            state: Arc::downgrade(&state),
            runs: sizes.runs,
        };
        let thread = std::thread::Builder::new()
            .name("state-load".into())
            .spawn(move || theirs.run(&receiver))
            .map_err(|err| StateError::io("no thread for loading the state", err))?;
        let hold = state.shelf().hold();
        Ok(Self { _state: state, _hold: hold, table, sizes, writers: AtomicU64::new(0), sender, thread })
    }

    /// A writer for one thread.
    #[must_use]
    pub fn writer(&self) -> BulkWriter {
        BulkWriter {
            table: self.table,
            number: self.writers.fetch_add(1, Ordering::Relaxed),
            chunk_bytes: self.sizes.chunk,
            sender: self.sender.clone(),
            buffer: SortBuffer::default(),
            finished: false,
        }
    }

    /// Makes the rows visible, and records `seq`, the commit that holds their facts and is durable in the log.
    ///
    /// # Errors
    /// As [`State::apply`]; also when a writer was dropped before its end.
    pub fn finish(self, seq: u64) -> Result<()> {
        self.end(Some(seq))
    }

    /// Makes the rows visible without recording a commit: for a commit of several tables, whose last step is
    /// [`State::apply`], if only of no changes.
    ///
    /// # Errors
    /// As [`BulkLoader::finish`].
    pub fn install(self) -> Result<()> {
        self.end(None)
    }

    fn end(self, commit: Option<u64>) -> Result<()> {
        let Self { sender, thread, _hold, .. } = self;
        // When the thread has failed, it has gone, and its result says why.
        let _ = sender.send(Message::Install { commit });
        drop(sender);
        thread.join().unwrap_or_else(|_| {
            Err(StateError::new(StateErrorKind::Stopped, "loading the state failed")
                .with("its thread panicked"))
        })
    }
}

impl BulkWriter {
    /// Adds a row.
    ///
    /// # Errors
    /// [`StateErrorKind::TooLarge`]; [`StateErrorKind::Stopped`] when the load has failed: [`BulkLoader::finish`] says
    /// why.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        check_sizes(key, Some(value))?;
        if self.buffer.is_empty() {
            self.buffer.reserve(self.chunk_bytes);
        }
        self.buffer.push(self.table, key, Some(&Stored::new(value)));
        if self.buffer.size() >= self.chunk_bytes {
            self.hand_over(false)?;
        }
        Ok(())
    }

    /// Hands over the last rows.
    ///
    /// # Errors
    /// As [`BulkWriter::push`].
    pub fn finish(mut self) -> Result<()> {
        self.finished = true;
        self.hand_over(true)
    }

    fn hand_over(&mut self, last: bool) -> Result<()> {
        let mut rows = std::mem::take(&mut self.buffer);
        rows.sort();
        let chunk = Chunk { writer: self.number, rows, last };
        self.sender.send(Message::Chunk(chunk)).map_err(|_| stopped())
    }
}

impl Drop for BulkWriter {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.sender.send(Message::Abandon);
        }
    }
}

fn stopped() -> StateError {
    StateError::new(StateErrorKind::Stopped, "loading the state was given up")
}

/// The thread that writes the files.
struct Loading {
    tree: Tree,
    writer: Arc<std::sync::Mutex<super::Writer>>,
    /// Not kept open by a load that was dropped.
    state: Weak<State>,
    /// How many may be open.
    runs: usize,
}

/// A run under way, with the keys that it spans.
struct OpenRun<'a> {
    run: Run<'a>,
    first: Vec<u8>,
    last: Vec<u8>,
    /// Whose next rows belong here.
    writer: Option<u64>,
}

impl Loading {
    fn run(&self, receiver: &Receiver<Message>) -> Result<()> {
        let mut runs: Vec<OpenRun<'_>> = Vec::new();
        let mut aside: Option<Tree> = None;
        let mut write_back = WriteBack::new(self.tree.files_directory());
        // The only chunk so far, while it is small.
        let mut small: Option<Chunk> = None;
        for message in receiver {
            match message {
                Message::Chunk(chunk)
                    if runs.is_empty() && small.is_none() && chunk.rows.size() <= SMALL_BYTES =>
                {
                    small = Some(chunk).filter(|chunk| !chunk.rows.is_empty());
                }
                Message::Chunk(chunk) if chunk.rows.is_empty() => free(&mut runs, chunk.writer),
                Message::Chunk(chunk) => {
                    if let Some(small) = small.take() {
                        self.add(&mut runs, &mut aside, &small)?;
                    }
                    self.add(&mut runs, &mut aside, &chunk)?;
                    write_back.wrote(chunk.rows.size());
                }
                Message::Abandon => return Err(stopped()),
                Message::Install { commit } => {
                    let mut writer = self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    let mut durable = true;
                    if let Some(mut small) = small {
                        durable = self.tree.write_buffer(&mut small.rows)?;
                    }
                    for open in runs {
                        open.run.finish()?;
                    }
                    if let Some(aside) = aside {
                        self.tree.take_in(&mut aside.scan(..)?)?;
                    }
                    if let Some(commit) = commit {
                        writer.applied(commit, durable)?;
                    }
                    return Ok(());
                }
            }
        }
        // The loader was dropped.
        Ok(())
    }

    /// Writes a chunk: behind what its writer wrote before, or else behind the run that ends before it, or as a new run. So runs stay apart
    /// from each other as far as what the writers copy does, and need no merging. What would be one run too many is set aside.
    fn add<'a>(&'a self, runs: &mut Vec<OpenRun<'a>>, aside: &mut Option<Tree>, chunk: &Chunk) -> Result<()> {
        let (Some(first), Some(last)) = (chunk.rows.first_key(), chunk.rows.last_key()) else {
            return Ok(());
        };
        let own = runs
            .iter()
            .position(|open| open.writer == Some(chunk.writer) && open.last.as_slice() < first)
            .or_else(|| behind(runs, first, last));
        free(runs, chunk.writer);
        let open = match own.and_then(|index| runs.get_mut(index)) {
            Some(open) => open,
            None => {
                if runs.len() >= self.runs {
                    return self.set_aside(aside, chunk);
                }
                let run = self.tree.start_run()?;
                runs.push(OpenRun { run, first: first.to_vec(), last: Vec::new(), writer: None });
                match runs.last_mut() {
                    Some(open) => open,
                    None => return Ok(()),
                }
            }
        };
        open.writer = (!chunk.last).then_some(chunk.writer);
        open.last.clear();
        open.last.extend_from_slice(last);
        for (key, value) in chunk.rows.iter() {
            open.run.push(key, value)?;
        }
        Ok(())
    }

    /// Writes a chunk into a tree of its own, which is merged in the background.
    fn set_aside(&self, aside: &mut Option<Tree>, chunk: &Chunk) -> Result<()> {
        // Whoever has dropped the load is not waiting for its rows.
        let Some(state) = self.state.upgrade() else { return Err(stopped()) };
        let tree = match aside {
            Some(tree) => tree,
            None => aside.insert(state.spill.temporary()?),
        };
        let mut run = tree.start_run()?;
        for (key, value) in chunk.rows.iter() {
            run.push(key, value)?;
        }
        run.finish()?;
        state.compactor.look_at(tree);
        Ok(())
    }
}

/// The run that ends right before these keys, where nobody else's rows are to follow there and no other run lies between.
fn behind(runs: &[OpenRun<'_>], first: &[u8], last: &[u8]) -> Option<usize> {
    let before = runs.iter().enumerate().filter(|(_, open)| open.last.as_slice() < first);
    let (index, before) = before.max_by(|(_, a), (_, b)| a.last.cmp(&b.last))?;
    let apart = runs
        .iter()
        .enumerate()
        .all(|(other, open)| other == index || open.first.as_slice() > last || open.last < before.first);
    (apart && before.writer.is_none()).then_some(index)
}

/// A writer goes on elsewhere, or has ended: others may follow where it wrote.
fn free(runs: &mut [OpenRun<'_>], writer: u64) {
    for open in runs.iter_mut().filter(|open| open.writer == Some(writer)) {
        open.writer = None;
    }
}
