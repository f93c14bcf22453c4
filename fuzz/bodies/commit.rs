//! A commit document of the log.

use bygone_sink::log::{Commit, ContentHash, LogState};

pub(crate) fn run(data: &[u8]) {
    let Ok(commit) = Commit::from_bytes(data, 0) else { return };
    let bytes = commit.to_bytes().expect("a commit that was just read");
    let again = Commit::from_bytes(&bytes, 0).expect("a commit that was just written");
    assert_eq!(again, commit);
    // Whether it can be the first of a log or not, that is found out without harm.
    let mut state = LogState::default();
    let accepted = state.apply(&commit, ContentHash::of(data)).is_ok();
    assert_eq!(state.last_seq(), accepted.then_some(commit.seq));
    for schema in &commit.body.schemas {
        for column in &schema.columns {
            let _ = column.data_type();
        }
    }
}
