//! How many requests a question costs where each takes a round trip: a history in a bucket.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::moto::Moto;
use crate::support::postgres::Postgres;
use crate::support::s3_proxy::{Fate, Proxy};

/// Requests as they came, from a proxy before the bucket.
#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    /// What came since it was asked last.
    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// How many of these requests are for objects whose names begin so, or list them.
fn of(requests: &[String], prefix: &str) -> usize {
    let listing = format!("prefix=shop%2F{}", prefix.trim_end_matches('/'));
    requests
        .iter()
        .filter(|line| line.contains(&format!("/shop/{prefix}")) || line.contains(&listing))
        .count()
}

#[test]
fn a_question_to_a_bucket_takes_few_requests_however_many_commits_there_are() {
    let server = Postgres::start();
    server.run(
        "create table orders (id bigint primary key, customer text, total numeric(12,2));
         insert into orders select n, 'customer ' || n % 100, n from generate_series(1, 60000) n",
    );
    let moto = Moto::start();
    let seen = Seen::default();
    let see = seen.clone();
    let proxy = Proxy::start(moto.port(), move |line| {
        see.0.lock().unwrap().push(line.to_owned());
        Fate::Pass
    });
    // Given a history of some 60 commits, whose files were merged, with a checkpoint, slabs and indexes, and some commits behind these
    let mut writer =
        moto.bygone(server.url(), "shop").options(&["--commit-interval", "100ms", "--no-compact"]);
    writer.until_current();
    writer.start("");
    for n in 0..60 {
        server.run(&format!("update orders set total = {n} where id <= 1000"));
        std::thread::sleep(Duration::from_millis(120));
    }
    writer.terminate(rustix::process::Signal::TERM, Duration::from_secs(30));
    let moment = server.value("select pg_current_wal_insert_lsn()").unwrap();
    writer
        .ask(&["compact", "--all", "--grace", "1ms", "--slab-rows", "1000", "--checkpoint-every", "1"])
        .well();
    for n in 0..10 {
        server.run(&format!("update orders set total = {n} where id = 7"));
        writer.until_current();
    }
    let reader = moto
        .bygone(server.url(), "shop")
        .env("AWS_ENDPOINT_URL", &format!("http://127.0.0.1:{}", proxy.port()));
    let commits = reader.ask(&["log", "--format", "csv"]).well().stdout.lines().count() - 1;
    assert!(commits >= 50, "{commits} commits prove nothing");
    seen.taken();
    // When each question is asked
    for (arguments, fixed, files) in [
        (&["history", "orders", "7", "--format", "csv"][..], 10, 1),
        (&["as-of", "orders", "--at", "now", "--format", "csv"], 18, 1),
        (&["as-of", "orders", "--at", &moment, "--format", "csv"], 17, 0),
        (&["sql", "select count(*) from orders"], 19, 1),
        (&["tables", "--format", "csv"], 13, 1),
    ] {
        let told = reader.ask(arguments).well().stdout;
        assert!(told.lines().count() > 1, "{told}");
        let requests = seen.taken();
        // Then it reads the checkpoint, the commits behind it and the file of each, and few pieces of the rest.
        let behind = of(&requests, "log/") - 2;
        assert!((10..20).contains(&behind), "{behind} commits behind the checkpoint: {requests:#?}");
        let most = fixed + (1 + files) * behind;
        assert!(requests.len() <= most, "{} of {most} for {arguments:?}: {requests:#?}", requests.len());
    }
}
