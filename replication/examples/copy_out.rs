//! Copies a query out to nothing and tells how long it took: the cost of the wire alone.
//!
//! `cargo run --release -p bygone-replication --example copy_out -- URL 'copy t to stdout (format binary)'`
//!
//! Compare with `psql -c '\copy t to /dev/null (format binary)'`.

use std::time::Instant;

use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::wire::{Connection, Mode};
use bygone_replication::{Error, ErrorKind};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, sql] = arguments.as_slice() else {
        return Err(Error::new(ErrorKind::Config, "usage: copy_out URL SQL", ""));
    };
    let mut connection = Connection::connect(&ConnectOptions::parse(url)?, Mode::Sql).await?;
    let begun = Instant::now();
    let mut copy = connection.copy_out(sql).await?;
    let (mut chunks, mut rows, mut bytes) = (0_u64, 0_u64, 0_usize);
    while let Some(chunk) = copy.next().await? {
        chunks += 1;
        bytes += chunk.size();
        rows += chunk.payloads().map(|row| u64::from(row.len() > 2)).sum::<u64>();
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{seconds:.2} s, {rows} rows of {:?}, {bytes} bytes, {chunks} chunks", copy.rows());
    connection.close().await;
    Ok(())
}
