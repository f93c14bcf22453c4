//! What the log recorded of the publications.

use bygone_replication::publication::PublicationState;

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(state) = text.parse::<PublicationState>() else { return };
    let again: PublicationState = state.fingerprint().parse().expect("a fingerprint that was just made");
    assert_eq!(again.fingerprint(), state.fingerprint());
}
