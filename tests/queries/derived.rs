//! Slabs and indexes are proved against the facts, and whatever befalls them costs no more than making them anew.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Shop;
use super::engines::make_slabs;
use crate::support::bygone::Bygone;

/// A shop of which every row changes a few times, and the moments between.
fn changed_shop() -> (Shop, Vec<String>) {
    let mut shop = Shop::with(
        "create table orders (id int primary key, customer text, total numeric(12,2));
         insert into orders select n, 'c' || n % 7, n from generate_series(1, 60) n",
    );
    let mut moments = Vec::new();
    for round in 0..12 {
        if round == 2 || round == 7 {
            shop.server.run(&format!("alter table orders add note{round} text"));
        }
        shop.server.run(&format!(
            "update orders set total = total + 1 where id % 3 <> {round} % 3; delete from orders where id = {round} + 20"
        ));
        moments.push(shop.save("orders", &format!("m{round}")).0);
    }
    shop.server.run("insert into orders values (1000, 'last', 1)");
    shop.capture();
    (shop, moments)
}

fn assert_moments(shop: &Shop, moments: &[String]) {
    for (at, lsn) in moments.iter().enumerate() {
        shop.assert_saved(&shop.ask(&["as-of", "orders", "--at", lsn, "--format", "csv"]), &format!("m{at}"));
    }
}

/// The files of all slabs, in the order of their stretches; or of all indexes.
fn files_in(shop: &Shop, directory: &str) -> Vec<PathBuf> {
    fn below(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { below(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    below(&shop.scratch.join("history").join(directory), &mut found);
    found.sort();
    found
}

/// Nobody can be at work on a file any more, or reading it.
fn age(path: &Path) {
    let long_ago = SystemTime::now() - Duration::from_secs(4_000);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
}

/// How many slabs, or indexes, a verification proved.
fn proved(told: &str, what: &str) -> u64 {
    let count = told.lines().last().and_then(|line| {
        line.strip_prefix("whole: ")?.split(", ").find_map(|part| part.split(';').next()?.strip_suffix(what))
    });
    count.map_or(0, |count| count.parse().unwrap())
}

#[test]
fn verify_proves_slabs_and_names_the_false_one() {
    let (shop, moments) = changed_shop();
    make_slabs(&shop, "60", 3);
    let slabs = proved(&shop.ask(&["verify"]), " slabs");
    assert!(slabs >= 3, "{slabs} slabs");
    let files = files_in(&shop, "slabs");
    let (first, second) = (std::fs::read(&files[0]).unwrap(), std::fs::read(&files[1]).unwrap());
    for (bytes, what) in
        [(&first, "other rows than the facts"), (&second[..second.len() / 2].to_vec(), "Parquet")]
    {
        std::fs::write(&files[1], bytes).unwrap();
        let told = shop.bygone.ask(&["verify"]);
        assert_eq!(told.code(), Some(1), "{told:?}");
        assert!(told.stdout.contains("PROBLEM") && told.stdout.contains(what), "{}", told.stdout);
        assert!(told.stdout.contains("remove slabs/public.orders/"), "{}", told.stdout);
    }
    std::fs::write(&files[1], &second).unwrap();
    assert_eq!(proved(&shop.ask(&["verify"]), " slabs"), slabs);
    // Under another name it would answer for moments that are not its own.
    let directory = files[1].parent().unwrap();
    let name = directory.file_name().unwrap().to_str().unwrap();
    let ends: i64 = name.strip_prefix("_slab_to=").unwrap().parse().unwrap();
    let other = directory.with_file_name(format!("_slab_to={}", ends - 1));
    std::fs::rename(directory, &other).unwrap();
    let told = shop.bygone.ask(&["verify"]);
    assert_eq!(told.code(), Some(1), "{told:?}");
    assert!(told.stdout.contains("other times than those of its facts"), "{}", told.stdout);
    std::fs::rename(other, directory).unwrap();
    // Without the first one, the rows that the others carried over stand alone.
    std::fs::remove_file(&files[0]).unwrap();
    let told = shop.ask(&["verify"]);
    assert!(proved(&told, " slabs") == 0 && told.contains("the slab before it is missing"), "{told}");
    assert_moments(&shop, &moments);
    std::fs::remove_dir_all(shop.scratch.join("history/slabs")).unwrap();
    assert_moments(&shop, &moments);
    make_slabs(&shop, "60", 3);
    assert_eq!(proved(&shop.ask(&["verify"]), " slabs"), slabs);
    assert_moments(&shop, &moments);
}

#[test]
fn a_kill_while_a_slab_is_made_costs_nothing() {
    let (shop, moments) = changed_shop();
    let history = shop.scratch.join("history");
    // Some slabs hold rows of two schema versions, in a file each.
    for point in ["slab.before_file", "slab.after_file", "slab.before_file@2"] {
        let (name, only) = point.split_once('@').unwrap_or((point, "1"));
        let killed = Bygone::new(shop.server.url(), &history)
            .env("BYGONE_FAILPOINTS", &format!("{name}=abort@{only}"))
            .ask(&["compact", "--slab-rows", "60"]);
        assert_eq!(killed.code(), None, "{point} was not reached: {}", killed.stderr);
        assert_moments(&shop, &moments);
        shop.ask(&["verify"]);
    }
    make_slabs(&shop, "60", 1);
    let slabs = proved(&shop.ask(&["verify"]), " slabs");
    assert!(slabs >= 3, "{slabs} slabs");
    assert_moments(&shop, &moments);
    // A file that no whole slab has is taken away, when nobody can be at work on it any more.
    let files = files_in(&shop, "slabs");
    let whole = files.iter().find(|path| path.to_str().unwrap().contains("-1of1-")).unwrap();
    let stray = whole.to_str().unwrap().replace("-1of1-", "-1of2-");
    std::fs::copy(whole, &stray).unwrap();
    shop.bygone.ask(&["compact", "--slab-rows", "60"]).well();
    assert!(Path::new(&stray).exists());
    age(Path::new(&stray));
    shop.bygone.ask(&["compact", "--slab-rows", "60"]).well();
    assert!(
        Path::new(&stray).exists(),
        "what took its place is new: somebody may have opened the table before"
    );
    files.iter().for_each(|path| age(path));
    shop.bygone.ask(&["compact", "--slab-rows", "60"]).well();
    assert!(!Path::new(&stray).exists());
    assert_eq!(files_in(&shop, "slabs"), files);
}

#[test]
fn a_slab_is_begun_halfway_and_gives_way_to_the_whole_one() {
    let (mut shop, mut moments) = changed_shop();
    make_slabs(&shop, "60", 3);
    let begun = |shop: &Shop| -> Vec<PathBuf> {
        let all = files_in(shop, "slabs").into_iter();
        all.filter(|path| path.to_str().unwrap().ends_with("-begun.parquet")).collect()
    };
    let mut seen = Vec::new();
    for round in 12..26 {
        shop.server.run("update orders set total = total + 1 where id % 4 = 0");
        moments.push(shop.save("orders", &format!("m{round}")).0);
        shop.server.run("update orders set customer = 'x' where id = 1000");
        shop.capture();
        shop.bygone.ask(&["compact", "--slab-rows", "60"]).well();
        for path in begun(&shop) {
            if !seen.contains(&path) {
                seen.push(path);
            }
        }
        assert_moments(&shop, &moments);
        shop.ask(&["verify"]);
    }
    assert!(seen.len() >= 2, "{} slabs were begun", seen.len());
    // Those that were replaced go, when nobody can be reading them any more.
    files_in(&shop, "slabs").iter().for_each(|path| age(path));
    shop.bygone.ask(&["compact", "--slab-rows", "60"]).well();
    assert!(begun(&shop).len() <= 1, "{:?}", begun(&shop));
    assert_moments(&shop, &moments);
    shop.ask(&["verify"]);
}

/// A slab that was begun does not keep a shorter one from taking its place, which would be made again and again.
#[test]
fn a_begun_slab_gives_way_to_a_shorter_one() {
    let (mut shop, moments) = changed_shop();
    shop.ask(&["compact", "--slab-rows", "500"]);
    let names: Vec<PathBuf> = files_in(&shop, "slabs");
    assert!(names.iter().any(|path| path.to_str().unwrap().ends_with("-begun.parquet")), "{names:?}");
    shop.server.run("update orders set customer = 'y' where id = 1000");
    shop.capture();
    shop.ask(&["compact", "--slab-rows", "20"]);
    assert_moments(&shop, &moments);
    shop.ask(&["verify"]);
}

#[test]
fn an_index_finds_what_reading_every_file_finds() {
    let mut shop = Shop::with(
        "create table orders (id int primary key, word text, total int);
         insert into orders select n, 'w' || n % 7, n from generate_series(1, 60000) n",
    );
    for round in 0..3 {
        shop.server.run(&format!("update orders set total = {round} where id % 5 = 0 or id = 59999"));
        shop.capture();
    }
    shop.server.run("delete from orders where id = 10; update orders set id = 70000 where id = 20");
    shop.capture();
    let keys = ["1", "10", "20", "25", "59999", "60000", "70000"];
    let ask = |shop: &Shop| -> Vec<String> {
        keys.iter().map(|key| shop.ask(&["history", "orders", key, "--format", "json"])).collect()
    };
    let without = ask(&shop);
    assert_eq!(without[3].matches("\"version\"").count(), 4, "{}", without[3]);
    // One over the snapshot's file, then one over what it was merged into.
    let told = shop.bygone.ask(&["compact", "--no-slabs"]).well().stderr;
    assert!(told.contains("1 indexes were made (of 60000 facts"), "{told}");
    assert_eq!(ask(&shop), without);
    let old = files_in(&shop, "index");
    shop.bygone.ask(&["compact", "--no-slabs", "--all", "--grace", "1ms"]).well();
    assert_eq!(ask(&shop), without);
    assert_eq!(proved(&shop.ask(&["verify"]), " indexes"), 1);
    // Its file is gone; it follows after an hour.
    assert_eq!(files_in(&shop, "index").len(), 2);
    let long_ago = SystemTime::now() - Duration::from_secs(4_000);
    std::fs::File::options().write(true).open(&old[0]).unwrap().set_modified(long_ago).unwrap();
    shop.bygone.ask(&["compact"]).well();
    let [index] = files_in(&shop, "index").try_into().unwrap();
    assert_ne!(index, old[0]);

    // What happens to it is told, and costs time alone, but for a forgery.
    let good = std::fs::read(&index).unwrap();
    std::fs::write(&index, &good[..good.len() / 2]).unwrap();
    let told = shop.bygone.ask(&["verify"]);
    assert_eq!(told.code(), Some(1));
    assert!(
        told.stdout.contains("PROBLEM") && told.stdout.contains("index/public.orders/"),
        "{}",
        told.stdout
    );
    assert_eq!(ask(&shop), without);
    std::fs::remove_file(&index).unwrap();
    assert_eq!(ask(&shop), without);
    assert_eq!(proved(&shop.ask(&["verify"]), " indexes"), 0);
    let killed = Bygone::new(shop.server.url(), shop.scratch.join("history"))
        .env("BYGONE_FAILPOINTS", "index.before_file=abort")
        .ask(&["compact"]);
    assert_eq!(killed.code(), None, "{}", killed.stderr);
    shop.bygone.ask(&["compact"]).well();
    assert_eq!(std::fs::read(&index).unwrap(), good);
    std::fs::write(&index, b"").unwrap();
    shop.bygone.ask(&["compact", "--no-index"]).well();
    assert_eq!(ask(&shop), without);
}

#[test]
fn a_reader_starts_at_a_checkpoint_and_answers_the_same() {
    let mut shop = Shop::with(
        "create table orders (id int primary key, total int);
         insert into orders select n, n from generate_series(1, 40) n",
    );
    let mut moments = Vec::new();
    let mut go_on = |shop: &mut Shop, rounds: std::ops::Range<i32>| {
        for round in rounds {
            shop.server.run(&format!("update orders set total = {round} where id % 4 = {round} % 4"));
            if round == 3 {
                shop.server.run("alter table orders add note text; truncate orders; insert into orders values (1, 1, 'x'), (4, 4, 'y')");
            }
            moments.push(shop.save("orders", &format!("m{round}")));
            shop.server.run("update orders set total = -1 where id = 1");
            shop.capture();
        }
        moments.clone()
    };
    let ask = |shop: &Shop, moments: &[(String, String)]| -> Vec<String> {
        let mut told: Vec<String> = [
            &["history", "orders", "1", "--format", "json"][..],
            &["transactions", "--format", "json"],
            &["who", "nobody", "--format", "json"],
        ]
        .map(|question| shop.ask(question))
        .to_vec();
        for (at, (lsn, time)) in moments.iter().enumerate() {
            for moment in [lsn, time] {
                let rows = shop.ask(&["as-of", "orders", "--at", moment, "--format", "csv"]);
                shop.assert_saved(&rows, &format!("m{at}"));
                told.push(rows);
            }
        }
        told
    };
    let compact = |shop: &Shop, every: &str| {
        let told = shop.bygone.ask(&["compact", "--checkpoint-every", every]).well().stderr;
        told.contains("a checkpoint of the log was made")
    };
    let saved = go_on(&mut shop, 0..8);
    let without = ask(&shop, &saved);
    assert!(!compact(&shop, "1000"));
    assert!(compact(&shop, "5") && !compact(&shop, "5"));
    assert!(ask(&shop, &saved) == without, "another answer");
    assert_eq!(proved(&shop.ask(&["verify"]), " checkpoints"), 1);

    // Commits after it, another one upon it, and both are what the log says.
    let saved = go_on(&mut shop, 8..16);
    let beside = ask(&shop, &saved);
    assert!(compact(&shop, "5"));
    assert!(ask(&shop, &saved) == beside, "another answer");
    assert_eq!(proved(&shop.ask(&["verify"]), " checkpoints"), 2);
    let checkpoints = files_in(&shop, "checkpoints");
    let newest = &checkpoints[1];

    // Nothing before it is read.
    let early = shop.scratch.join("history/log/00000000000000000002.json");
    let commit = std::fs::read(&early).unwrap();
    std::fs::remove_file(&early).unwrap();
    assert!(shop.ask(&["tables"]).contains("orders"));
    assert_eq!(shop.bygone.ask(&["verify"]).code(), Some(1));
    std::fs::write(&early, commit).unwrap();

    // One of another log is left aside; one that lies is found by whoever looks.
    let good = std::fs::read_to_string(newest).unwrap();
    let hash = good.split("\"hash\":\"").nth(1).unwrap()[..64].to_owned();
    std::fs::write(newest, good.replace(&hash, &"0".repeat(64))).unwrap();
    assert!(ask(&shop, &saved) == beside, "another answer");
    std::fs::write(newest, good.replace("\"epoch\":0", "\"epoch\":7")).unwrap();
    let told = shop.bygone.ask(&["verify"]);
    assert!(told.code() == Some(1) && told.stdout.contains("it is not what the log says"), "{}", told.stdout);
    std::fs::write(newest, &good[..good.len() / 2]).unwrap();
    assert!(ask(&shop, &saved) == beside, "another answer");
    std::fs::remove_dir_all(shop.scratch.join("history/checkpoints")).unwrap();
    assert!(ask(&shop, &saved) == beside, "another answer");
    // The next takes the place of the oldest.
    for round in 16..20 {
        go_on(&mut shop, round..round + 1);
        assert!(compact(&shop, "1"));
    }
    assert_eq!(files_in(&shop, "checkpoints").len(), 2);
    shop.ask(&["verify"]);
}
