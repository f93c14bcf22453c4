//! Drains a slot to nothing and tells how long it took: the cost of the wire alone.
//!
//! `cargo run --release -p bygone-replication --example drain -- URL SLOT PUBLICATION [gather in µs] [binary]`
//!
//! Compare with `pg_recvlogical --start -f /dev/null --endpos LSN` on a copy of the slot. Nothing is acknowledged.

use std::time::{Duration, Instant};

use bygone_replication::conninfo::ConnectOptions;
use bygone_replication::stream::{StreamOptions, WalMessage};
use bygone_replication::table::quote_literal;
use bygone_replication::wire::{Connection, Mode};
use bygone_replication::{Error, ErrorKind, Lsn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, slot, publication, rest @ ..] = arguments.as_slice() else {
        return Err(Error::new(
            ErrorKind::Config,
            "usage: drain URL SLOT PUBLICATION [gather in µs] [binary]",
            "",
        ));
    };
    let mut options = StreamOptions::default();
    if let Some(micros) = rest.first().and_then(|text| text.parse().ok()) {
        options.gather = Some(Duration::from_micros(micros));
    }
    let binary = if rest.get(1).is_some_and(|word| word == "binary") { ", binary 'true'" } else { "" };

    let mut connection = Connection::connect(&ConnectOptions::parse(url)?, Mode::Replication).await?;
    let rows = connection.simple_query("select pg_current_wal_lsn()").await?;
    let text = rows.first().and_then(|row| row.first()?.as_deref()).unwrap_or_default();
    let end: Lsn = text.parse().map_err(|err| Error::new(ErrorKind::Protocol, "no position", err))?;
    let publication = quote_literal(publication).replace('\'', "''");
    let start = format!(
        "START_REPLICATION SLOT {slot} LOGICAL 0/0 (proto_version '1', publication_names '{}'{binary})",
        publication.trim_matches('\'')
    );

    let begun = Instant::now();
    let (mut stream, feedback) = connection.start_replication_with(&start, &options).await?;
    let (mut chunks, mut messages, mut rows, mut bytes) = (0_u64, 0_u64, 0_u64, 0_u64);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        chunks += 1;
        bytes += u64::try_from(chunk.size()).unwrap_or(u64::MAX);
        for message in chunk.messages() {
            messages += 1;
            if let WalMessage::Data { body, .. } = message {
                rows += u64::from(body.first().is_some_and(|tag| b"IUD".contains(tag)));
            }
        }
        if chunk.wal_end() >= end {
            break;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    feedback.shutdown().await?;
    println!(
        "{seconds:.2} s, {rows} rows, {messages} messages, {bytes} bytes, {chunks} chunks, cpu {}",
        processor_time()
    );
    Ok(())
}

/// User and system time of this process, where the system tells.
fn processor_time() -> String {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11);
    // In hundredths of a second, everywhere.
    let mut next = || fields.next().and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or_default() / 100.0;
    format!("{:.2} s user, {:.2} s system", next(), next())
}
