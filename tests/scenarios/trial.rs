//! `bygone reconcile`: the trial balance between source and history.

use std::time::Duration;

use rustix::process::Signal;

use super::exactly_once::wait_for_commits;
use super::{SHOP, Source};
use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::postgres::Postgres;
use crate::support::process::eventually;
use crate::support::scratch::Scratch;
use crate::support::store::Store;
use crate::support::workload::{Habits, Workload};

struct Case {
    server: Postgres,
    scratch: Scratch,
    bygone: Bygone,
}

impl Case {
    /// A capture that runs, and looks at the catalog only once.
    fn running() -> Self {
        let server = Postgres::start();
        server.run(SHOP);
        server.run(
            "create table lines (line text); alter table lines replica identity full;
             insert into lines select 'line ' || i % 3 from generate_series(1, 9) i",
        );
        let scratch = Scratch::new("history");
        let mut bygone =
            Bygone::new(server.url(), scratch.join("history")).options(&["--catalog-interval", "1h"]);
        bygone.until_current();
        bygone.start("");
        let streams = "select 1 from pg_replication_slots where slot_name = 'bygone' and active";
        assert!(eventually(Duration::from_secs(30), || server.value(streams).is_some()), "{}", bygone.said());
        Self { server, scratch, bygone }
    }

    fn reconcile(&self, more: &[&str]) -> crate::support::bygone::Outcome {
        let url = self.server.url();
        self.bygone.ask(&[&["reconcile", "--source", &url], more].concat())
    }

    fn history(&self) -> History {
        History::read(Store::directory(self.scratch.join("history")))
    }
}

#[test]
fn a_history_that_holds_what_the_source_holds_is_verified_while_the_capture_runs() {
    let mut case = Case::running();
    case.server.run("update orders set total = total + 1; delete from orders where id = 3");
    let outcome = case.reconcile(&["--format", "json"]).well();
    assert!(outcome.stderr.contains("verified through"), "{}", outcome.stderr);
    let rows: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 2, "{rows}");
    assert_eq!(rows[0]["verdict"], "verified", "{rows}");
    let history = case.history();
    let kept = history.events("reconcile");
    assert_eq!(kept.len(), 2);
    assert_eq!((&kept[1]["verified"], &kept[1]["rows"]), (&true.into(), &2.into()), "{kept:?}");
    // No slot is left, and the capture goes on.
    assert_eq!(case.server.column("select slot_name from pg_replication_slots"), ["bygone"]);
    case.server.run("insert into orders values (4, 'dee', 4)");
    case.reconcile(&["orders"]).well();
    assert!(case.bygone.alive(), "{}", case.bygone.said());
    case.bygone.terminate(Signal::TERM, Duration::from_secs(20));
    case.bygone.ask(&["verify"]).well();
    assert_eq!(case.history().events("reconcile").len(), 3);
    assert_eq!(case.history().texts("public.orders", &["id"]).len(), 3 + 3 + 1 + 1);

    // Nothing can be told without a capture, and nothing is written then.
    case.server.run("insert into orders values (5, 'eve', 5)");
    let commits = case.history().commits.len();
    case.reconcile(&["--wait", "1s"]).refused(&["bygone run", "--wait"]);
    assert_eq!(case.history().commits.len(), commits);
    case.reconcile(&["ordres"]).refused(&["did you mean orders"]);
}

#[test]
fn what_went_by_unpublished_is_found_row_by_row_and_repaired_by_the_capture() {
    let mut case = Case::running();
    // Between two looks at the catalog, publications are as they were both times.
    // In one transaction, so that no look at the catalog can come between.
    case.server.run(
        "begin; alter publication bygone drop table orders, lines;
         insert into orders values (7, 'unheard', 7); update orders set total = 0.5 where id = 2; delete from orders where id = 1;
         insert into lines values ('line 0'), ('other'); delete from lines where line = 'line 2';
         alter publication bygone add table orders, lines; commit",
    );
    case.server.run("update orders set customer = 'heard' where id = 3");

    let found = case.reconcile(&[]).refused(&[
        "public.orders 7 not in the history",
        "public.orders 2 differs: total",
        "public.orders 1 not in the source",
        "--repair",
    ]);
    assert!(
        !found.stderr.contains("unheard") && !found.stdout.contains("0.5"),
        "a value was told: {}",
        found.stderr
    );
    assert!(
        case.history()
            .texts("public.orders", &["_op"])
            .iter()
            .all(|fact| fact[0].as_deref() != Some("reconcile"))
    );

    case.reconcile(&["--repair"]).refused(&["bygone run makes facts"]);
    let repaired = eventually(Duration::from_secs(60), || {
        let history = case.history();
        history.events("reconcile").iter().filter(|event| event["verified"].is_null()).count() == 2
    });
    assert!(repaired && case.bygone.alive(), "{}", case.bygone.said());
    case.reconcile(&[]).well();
    let ops = case.history().texts("public.orders", &["_entity_id", "_op"]);
    let count = ops.iter().filter(|fact| fact[1].as_deref() == Some("reconcile")).count();
    assert_eq!(count, 3, "{ops:?}");
    case.bygone.terminate(Signal::TERM, Duration::from_secs(20));
    case.bygone.ask(&["verify"]).well();
}

#[test]
fn a_busy_capture_is_compared_again_and_again_and_loses_nothing() {
    let source = Source::start();
    let workload = Workload::start(&source.server, &Habits { large: 500, ..Habits::default() });
    workload.wait_for(100);
    let mut bygone = source.bygone().options(&["--commit-interval", "50ms"]);
    bygone.start("");
    wait_for_commits(&mut bygone, &source.history(), 3);
    let url = source.server.url();
    for _ in 0..3 {
        let outcome = bygone.ask(&["reconcile", "--source", &url]).well();
        assert!(outcome.stderr.contains("verified through"), "{}", outcome.stderr);
    }
    workload.finish();
    bygone.terminate(Signal::TERM, Duration::from_secs(20));
    bygone.until_current();
    source.assert_exact(Store::directory(source.history()), 500);
}
