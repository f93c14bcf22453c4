//! Slabs are proved against the facts, and whatever befalls them costs no more than making them anew.

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

/// The files of all slabs, in the order of their stretches.
fn slab_files(shop: &Shop) -> Vec<PathBuf> {
    fn below(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { below(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    below(&shop.scratch.join("history/slabs"), &mut found);
    found.sort();
    found
}

fn whole(told: &str) -> u64 {
    let count = told.lines().last().and_then(|line| {
        line.strip_prefix("whole: ")?
            .split(", ")
            .find_map(|part| part.split(';').next()?.strip_suffix(" slabs"))
    });
    count.map_or(0, |count| count.parse().unwrap())
}

#[test]
fn verify_proves_slabs_and_names_the_false_one() {
    let (shop, moments) = changed_shop();
    make_slabs(&shop, "60", 3);
    let slabs = whole(&shop.ask(&["verify"]));
    assert!(slabs >= 3, "{slabs} slabs");
    let files = slab_files(&shop);
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
    assert_eq!(whole(&shop.ask(&["verify"])), slabs);
    // Without the first one, the rows that the others carried over stand alone.
    std::fs::remove_file(&files[0]).unwrap();
    let told = shop.ask(&["verify"]);
    assert!(whole(&told) == 0 && told.contains("the slab before it is missing"), "{told}");
    assert_moments(&shop, &moments);
    std::fs::remove_dir_all(shop.scratch.join("history/slabs")).unwrap();
    assert_moments(&shop, &moments);
    make_slabs(&shop, "60", 3);
    assert_eq!(whole(&shop.ask(&["verify"])), slabs);
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
    let slabs = whole(&shop.ask(&["verify"]));
    assert!(slabs >= 3, "{slabs} slabs");
    assert_moments(&shop, &moments);
    // A file that no whole slab has is taken away, when nobody can be at work on it any more.
    let files = slab_files(&shop);
    let whole = files.iter().find(|path| path.to_str().unwrap().contains("-1of1-")).unwrap();
    let stray = whole.to_str().unwrap().replace("-1of1-", "-1of2-");
    std::fs::copy(whole, &stray).unwrap();
    shop.bygone.ask(&["compact", "--slab-rows", "60"]).well();
    assert!(Path::new(&stray).exists());
    let old = SystemTime::now() - Duration::from_secs(4_000);
    std::fs::File::options().write(true).open(&stray).unwrap().set_modified(old).unwrap();
    shop.bygone.ask(&["compact", "--slab-rows", "60"]).well();
    assert!(!Path::new(&stray).exists());
    assert_eq!(slab_files(&shop), files);
}
