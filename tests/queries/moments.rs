//! Moments: the ways to write them, and what is said of those that are not known.

use super::Shop;
use crate::support::bygone::Bygone;
use crate::support::clock::Clock;
use crate::support::postgres::Postgres;
use crate::support::scratch::Scratch;

#[test]
fn a_moment_that_is_not_known_is_refused_with_the_reason() {
    let shop = Shop::orders();
    for moment in ["2020-01-01", "0/1", "10 years ago"] {
        shop.refused(
            &["as-of", "orders", "--at", moment],
            &["nothing is known of public.orders", "begins at"],
        );
    }
    for moment in ["2100-01-01T00:00:00Z", "FFFF/0"] {
        shop.refused(&["as-of", "orders", "--at", moment], &["nothing is known", "known until"]);
    }
    shop.refused(
        &["as-of", "orders", "--at", "tx:1"],
        &[
            "no transaction 1: either it changed nothing that is captured, or it came after",
            "where the history ends",
        ],
    );
    shop.misused(&["as-of", "orders", "--at", "soon"], &["not a moment", "2 hours ago"]);
    shop.misused(&["sql", "select * from orders_as_of('soon')"], &["not a moment", "2 hours ago"]);
    for moment in ["2020-01-01", "0/1"] {
        shop.refused(&["transactions", "--until", moment], &["nothing is known at", "the history begins at"]);
    }
    assert_eq!(shop.json(&["transactions", "--since", "2020-01-01"]).len(), 2);
    shop.misused(&["transactions", "--since", "nonsense"], &["not a moment"]);
    let now = shop.bygone.ask(&["as-of", "orders", "--at", "now", "--format", "csv"]).well();
    assert!(now.stderr.contains("known until"), "{}", now.stderr);
    assert_eq!(now.stdout, "id,customer,total\n1,ann,13.50\n2,\"\",\n");
}

#[test]
fn names_that_are_not_known_are_answered_with_the_nearest() {
    let mut shop = Shop::orders();
    shop.refused(&["as-of", "oders", "--at", "now"], &["no table \"oders\"", "did you mean orders"]);
    shop.misused(
        &["as-of", "orders", "--at", "now", "--columns", "totl"],
        &["no column \"totl\"", "did you mean total"],
    );
    shop.refused(&["history", "orders", "11"], &["never had a row", "11", "the nearest keys are 1"]);
    shop.misused(&["history", "notes", "--key", "c=1"], &["--key", "the key of public.notes is (b, a)"]);
    shop.misused(&["history", "notes", "eu"], &["key of public.notes is (b, a)", "--key b=…,a=…"]);
    shop.server.run("create schema other; create table other.orders (id int primary key)");
    shop.bygone =
        Bygone::new(shop.server.url(), shop.scratch.join("history")).tables(&["public.*", "other.*"]);
    shop.capture();
    shop.refused(&["as-of", "orders", "--at", "now"], &["other.orders or public.orders"]);
    assert_eq!(shop.json(&["history", "public.orders", "1"]).len(), 2);
    assert_eq!(shop.bygone.ask(&["as-of", "orders"]).code(), Some(2));
    assert_eq!(shop.bygone.ask(&["history", "orders"]).code(), Some(2));
}

#[test]
fn names_with_quotes_and_blanks_go_through_a_shell() {
    let mut shop = Shop::with(
        r#"create schema "My Schema";
           create table "My Schema"."Orders.2" (a int, b text, primary key (a, b)); insert into "My Schema"."Orders.2" values (1, 'it''s');
           create table "a""b; drop table t" (id int primary key); insert into "a""b; drop table t" values (7)"#,
    );
    shop.bygone =
        Bygone::new(shop.server.url(), shop.scratch.join("history")).tables(&["public.*", "My Schema.*"]);
    shop.server.run(r#"update "My Schema"."Orders.2" set a = 2"#);
    shop.capture();
    shop.server.run(r#"update "My Schema"."Orders.2" set a = 3"#);
    shop.capture();
    for name in [r#"a"b; drop table t"#, r#""a""b; drop table t""#, r#""public"."a""b; drop table t""#] {
        assert_eq!(shop.json(&["as-of", name, "--at", "now"]).len(), 1, "{name}");
    }
    let told = shop.bygone.ask(&["history", r#""Orders.2""#, "3", "it's"]).well().stderr;
    let hint = told.split("bygone history ").nth(1).unwrap_or_default().trim();
    assert_eq!(hint, r#"'My Schema."Orders.2"' '["2","it'\''s"]'"#, "{told}");
}

#[test]
fn one_moment_can_be_written_in_many_ways() {
    let mut shop = Shop::orders();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let utc = shop
        .server
        .value("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')")
        .unwrap();
    let india = shop
        .server
        .value(&format!("select (timestamptz '{utc}+00' at time zone 'Asia/Kolkata')::text"))
        .unwrap();
    let india = {
        // The server's DateStyle is not ISO.
        let iso = format!(
            "select to_char(timestamptz '{utc}+00' at time zone 'Asia/Kolkata', 'YYYY-MM-DD HH24:MI:SS.US')"
        );
        shop.server.value(&iso).unwrap_or(india)
    };
    let lsn = shop.server.value("select pg_current_wal_insert_lsn()").unwrap();
    shop.server.run("truncate orders");
    shop.capture();
    let (day, clock) = utc.split_once(' ').unwrap();
    let expected = "id,customer,total\n1,ann,13.50\n2,\"\",\n";
    for moment in [
        format!("{day}T{clock}Z"),
        format!("{utc}+00"),
        format!("{utc} UTC"),
        format!("{india}+05:30"),
        format!("{india}+0530"),
        lsn,
    ] {
        let told = shop.ask(&["as-of", "orders", "--at", &moment, "--format", "csv"]);
        assert_eq!(told, expected, "{moment}");
    }
    // Without a zone it is the time of this machine.
    for (zone, text) in [("Asia/Kolkata", &india), ("UTC", &utc)] {
        shop.bygone = Bygone::new(shop.server.url(), shop.scratch.join("history")).env("TZ", zone);
        let told = shop.ask(&["as-of", "orders", "--at", text, "--format", "csv"]);
        assert_eq!(told, expected, "{zone}");
    }
    // What is empty is told from what is not known.
    assert_eq!(shop.ask(&["as-of", "orders", "--at", "now", "--format", "csv"]), "id,customer,total\n");
    for moment in ["yesterday", "yesterday 10:00", "2 hours ago", "3 weeks ago", "1 month ago"] {
        shop.refused(
            &["as-of", "orders", "--at", moment],
            &["nothing is known of public.orders", "begins at"],
        );
    }
    shop.refused(
        &["as-of", "orders", "--at", "0 seconds ago"],
        &["nothing is known", "the history is known until"],
    );
}

/// Moments that count back from now, answered by a history that is days old.
#[test]
fn moments_before_now_give_the_rows_of_then() {
    let (Some(theirs), Some(ours)) = (Clock::new(), Clock::new()) else {
        eprintln!("libfaketime is not installed: clocks are not set");
        return;
    };
    let mut server = Postgres::start();
    theirs.set("-75h");
    server.start_in(&theirs.environment());
    server.run(
        "create table orders (id int primary key, status text); insert into orders values (1, '75 hours')",
    );
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history")).env("TZ", "Asia/Kolkata");
    for (name, value) in ours.environment() {
        bygone = bygone.env(&name, &value);
    }
    ours.set("-75h");
    bygone.until_current();
    for (offset, status) in [("-26h", "26 hours"), ("-3h", "3 hours"), ("-10m", "10 minutes"), ("+0", "now")]
    {
        theirs.set(offset);
        ours.set(offset);
        server.run(&format!("update orders set status = '{status}'"));
        bygone.until_current();
    }
    let local = server.value("select to_char(now() at time zone 'Asia/Kolkata', 'HH24:MI')").unwrap();
    let yesterday = format!("yesterday {local}");
    for (moment, status) in [
        ("2 days ago", "75 hours"),
        ("27 hours ago", "75 hours"),
        ("25 hours ago", "26 hours"),
        ("yesterday", "26 hours"),
        (yesterday.as_str(), "26 hours"),
        ("a day ago", "26 hours"),
        ("4 hours ago", "26 hours"),
        ("2 hours ago", "3 hours"),
        ("11 minutes ago", "3 hours"),
        ("9 min ago", "10 minutes"),
        ("now", "now"),
    ] {
        let told = bygone.ask(&["as-of", "orders", "--at", moment, "--format", "csv"]).well().stdout;
        assert_eq!(told, format!("id,status\n1,{status}\n"), "{moment}");
        let sql = format!("select status from orders_as_of('{moment}')");
        let told = bygone.ask(&["sql", &sql, "--format", "csv"]).well().stdout;
        assert_eq!(told, format!("status\n{status}\n"), "{moment}");
    }
}

/// What a look at the catalog tells has no transaction that would tell when it was: its facts tell it, in whichever file they are.
#[test]
fn a_time_lies_where_it_did_once_files_are_merged() {
    let mut shop = Shop::with(
        "create table part (id int, r text, primary key (id, r)) partition by list (r);
         create table part_eu partition of part for values in ('eu');
         create table part_us partition of part for values in ('us');
         insert into part values (1, 'eu'), (2, 'us')",
    );
    // What is detached is a table of its own, and its first copy ends the commit later than the look. Then its rows come back, so that
    // one file has facts of before and after.
    for sql in ["detach partition part_us", "attach partition part_us for values in ('us')"] {
        shop.server.run(&format!("alter table part {sql}"));
        shop.capture();
    }
    let found = shop.json(&["sql", "select _valid_from from part_history where _deleted_at is not null"]);
    let went = found[0]["_valid_from"].as_str().unwrap();
    let told = || {
        let then = shop.answered("part", went);
        (then, shop.bygone.ask(&["views", "duckdb"]).well().stderr)
    };
    let apart = told();
    assert_eq!(apart.0.0, "id,r\n1,eu\n");
    assert!(apart.1.contains("the rows of public.part are not known exactly from"), "{}", apart.1);
    shop.bygone.ask(&["compact", "--all"]).well();
    assert_eq!(told(), apart);
}
