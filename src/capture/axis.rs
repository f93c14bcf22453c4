//! Positions of the source, and those of the history.

use bygone_replication::Lsn;

/// Of so much positions are moved on, or of a multiple: the lower half of a position stays as the source has it.
const STEP: u64 = 1 << 32;

/// By how much the history's positions lie beyond the source's.
///
/// The order of a history is one; a source that was restored goes on from a position that it had before. See
/// [`LSN_OFFSET`](bygone_sink::log::LSN_OFFSET).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Axis {
    pub(crate) offset: u64,
}

impl Axis {
    /// The history's position for one of the source.
    pub(crate) fn of_history(self, source: Lsn) -> Lsn {
        Lsn(source.0.saturating_add(self.offset))
    }

    /// The source's position for one of the history.
    pub(crate) fn of_source(self, history: Lsn) -> Lsn {
        Lsn(history.0.saturating_sub(self.offset))
    }

    /// The axis on which a position of the source lies after `last` of the history.
    pub(crate) fn beyond(self, last: Lsn, source: Lsn) -> Self {
        let missing = (last.0 + 1).saturating_sub(self.of_history(source).0);
        Self { offset: self.offset + missing.div_ceil(STEP) * STEP }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_went_back_is_moved_on_and_keeps_the_lower_half_of_its_positions() {
        let axis = Axis::default();
        assert_eq!(axis.beyond(Lsn(0x500), Lsn(0x501)), axis);

        let restored = axis.beyond(Lsn(0x2_0000_0500), Lsn(0x300));
        assert_eq!(restored.of_history(Lsn(0x300)), Lsn(0x3_0000_0300));
        assert_eq!(restored.of_source(Lsn(0x3_0000_0300)), Lsn(0x300));

        let again = restored.beyond(Lsn(0x3_0000_0500), Lsn(0x500));
        assert_eq!(again.of_history(Lsn(0x500)), Lsn(0x4_0000_0500));
    }
}
