//! Writing changes to a tree, whatever their number.

use super::error::Result;
use super::sort_buffer::SortBuffer;
use super::stored_value::Stored;
use super::tree::{RUN_BYTES, RUN_FROM_BYTES, Run, Tree, check_sizes};

/// Takes changes and writes them by the cheapest way: few from memory, many as sorted files, and those that come in
/// order straight into one.
pub(super) struct ChangeWriter<'a> {
    tree: &'a Tree,
    /// A removed entity gets a value that says so, to hide what another tree has.
    hides: bool,
    /// Keys have ascended so far, or so the caller says.
    sorted: bool,
    buffer: SortBuffer,
    /// What sorted changes go into when there are many, with its last key.
    run: Option<(Run<'a>, Vec<u8>)>,
    durable: bool,
    full_key: Vec<u8>,
    tagged: Vec<u8>,
}

impl<'a> ChangeWriter<'a> {
    pub(super) fn new(tree: &'a Tree, sorted: bool, hides: bool) -> Self {
        Self {
            tree,
            hides,
            sorted,
            buffer: SortBuffer::default(),
            run: None,
            durable: false,
            full_key: Vec::new(),
            tagged: Vec::new(),
        }
    }

    /// Adds a change. Of several changes of one key the last one counts.
    pub(super) fn push(&mut self, table: u32, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        check_sizes(key, value)?;
        let value = match value {
            Some(value) => Some(Stored::new(value)),
            None => self.hides.then(Stored::removed),
        };
        if let Some((run, last)) = &mut self.run {
            self.full_key.clear();
            self.full_key.extend_from_slice(&table.to_be_bytes());
            self.full_key.extend_from_slice(key);
            if self.full_key > *last {
                self.tagged.clear();
                let value = value.map(|value| {
                    self.tagged.extend_from_slice(&value.bytes);
                    self.tagged.push(value.tag);
                    self.tagged.as_slice()
                });
                run.push(&self.full_key, value)?;
                std::mem::swap(last, &mut self.full_key);
                return Ok(());
            }
            // Not sorted after all.
            self.sorted = false;
            if let Some((run, _)) = self.run.take() {
                run.finish()?;
            }
        }
        self.buffer.push(table, key, value.as_ref());
        if self.sorted && self.buffer.size() >= RUN_FROM_BYTES {
            let run = self.tree.start_run_with(&mut self.buffer)?;
            let last = self.buffer.last_key().unwrap_or_default().to_vec();
            self.run = Some((run, last));
            self.buffer = SortBuffer::default();
        } else if self.buffer.size() >= RUN_BYTES {
            self.durable = self.tree.write_buffer(&mut self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Ends the writing. Returns whether everything in the tree is durable now.
    pub(super) fn finish(mut self) -> Result<bool> {
        if let Some((run, _)) = self.run {
            run.finish()?;
            self.durable = true;
        }
        if !self.buffer.is_empty() {
            self.durable = self.tree.write_buffer(&mut self.buffer)?;
        }
        Ok(self.durable)
    }
}
