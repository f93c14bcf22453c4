//! A `COPY` in binary format: a byte with the number of columns, then one payload.

use bygone_replication::snapshot::CopyError;
use bygone_replication::snapshot::copy_binary::BinaryCopy;

type Rows = Vec<Vec<Option<Vec<u8>>>>;

pub(crate) fn run(data: &[u8]) {
    let Some((columns, payload)) = data.split_first() else { return };
    let columns = usize::from(*columns);
    let Ok(rows) = read(payload, columns) else { return };
    assert!(rows.iter().all(|row| row.len() == columns));
    // Written as the server writes it, the copy reads the same.
    let mut made = b"PGCOPY\n\xFF\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for row in &rows {
        made.extend(i16::try_from(columns).expect("at most 255").to_be_bytes());
        for field in row {
            match field {
                None => made.extend((-1_i32).to_be_bytes()),
                Some(bytes) => {
                    made.extend(u32::try_from(bytes.len()).expect("less than the input").to_be_bytes());
                    made.extend(bytes);
                }
            }
        }
    }
    made.extend((-1_i16).to_be_bytes());
    assert_eq!(read(&made, columns).expect("a copy that was just written"), rows);
}

fn read(payload: &[u8], columns: usize) -> Result<Rows, CopyError> {
    let mut copy = BinaryCopy::new(columns);
    let mut rest = payload;
    let mut rows = Rows::new();
    while let Some(row) = copy.next_row(&mut rest)? {
        rows.push(row.fields().map(|field| field.map(<[u8]>::to_vec)).collect());
    }
    copy.finish()?;
    Ok(rows)
}
