//! A history in Azure's blob storage is as exact as any other.

use std::time::Duration;

use super::Source;
use super::exactly_once::STREAMING;
use crate::support::azurite::Azurite;
use crate::support::workload::{Habits, Workload};

#[test]
fn in_a_container_a_kill_at_each_durable_step_neither_loses_nor_doubles_a_fact() {
    let Some(azurite) = Azurite::start() else { return };
    let source = Source::start();
    let habits = Habits { pause: Duration::from_millis(15), ..Habits::default() };
    let workload = Workload::start(&source.server, &habits);
    workload.wait_for(100);
    let options = ["--commit-interval", "400ms", "--retention", "orders=seven-years"];
    let mut bygone = azurite.bygone(source.server.url(), "deep/prefix").options(&options);
    for point in STREAMING.into_iter().filter(|point| *point != "spool.after_write") {
        bygone.start(&format!("{point}=abort@2"));
        bygone.abort(Duration::from_secs(60));
    }
    workload.finish();
    // A file too large for one request of S3.
    source.server.run(
        "insert into settings select 'large', string_agg(md5(g::text), ''), 1, now() from generate_series(1, 700000) g",
    );
    bygone.until_current();
    source.assert_exact(azurite.store("deep/prefix"), 1000);
    bygone.ask(&["verify"]).well();
    let doctor = bygone.ask(&["doctor", "--source", &source.server.url(), "--table", "public.*"]);
    let lines: Vec<&str> = doctor.stdout.lines().filter(|line| line.contains("history")).collect();
    assert!(
        lines.iter().any(|line| line.starts_with("ok")),
        "{lines:?}
{}{}",
        doctor.stdout,
        doctor.stderr
    );
    let views = bygone.ask(&["views", "duckdb"]).well();
    assert!(views.stdout.contains("'az://kept/deep/prefix/tables/"), "{}", views.stdout);
    let views = bygone.ask(&["views", "spark"]).well();
    assert!(
        views.stdout.contains("abfss://kept@devstoreaccount1.dfs.core.windows.net/deep/prefix/tables/"),
        "{}",
        views.stdout
    );
}

#[test]
fn an_account_that_is_not_named_is_asked_for() {
    let Some(azurite) = Azurite::start() else { return };
    let bygone = azurite.bygone("host=nowhere".to_owned(), "x").env("AZURE_STORAGE_ACCOUNT_NAME", "");
    bygone.ask(&["log"]).refused(&["AZURE_STORAGE_ACCOUNT_NAME"]);
    let bygone = azurite.bygone("host=nowhere".to_owned(), "x").env("AZURE_STORAGE_ACCOUNT_KEY", "aGVsbG8=");
    bygone.ask(&["log"]).refused(&["az://kept/x"]);
}
