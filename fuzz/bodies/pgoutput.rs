//! A message of the stream.

use bygone_replication::pgoutput::{Message, Tuple};

pub(crate) fn run(data: &[u8]) {
    let Ok(message) = Message::decode(data) else { return };
    let cells = |tuple: Tuple<'_>| assert_eq!(tuple.cells().count(), tuple.len());
    match message {
        Message::Insert { new, .. } => cells(new),
        Message::Update { old, new, .. } => {
            if let Some(old) = old {
                cells(old.tuple());
            }
            cells(new);
        }
        Message::Delete { old, .. } => cells(old.tuple()),
        Message::Relation(relation) => assert!(relation.columns().count() <= data.len()),
        Message::Truncate { relations, .. } => assert!(relations.oids().count() <= data.len()),
        _ => {}
    }
    // A message tells its own length: no other bytes of the same beginning are one.
    let (_, shorter) = data.split_last().expect("no message is empty");
    assert!(Message::decode(&data[..shorter.len()]).is_err());
    assert!(Message::decode(&[data, &[0]].concat()).is_err());
    // What it shows of itself in a log is no row value, but must not fail either.
    let _ = format!("{message:?}");
}
