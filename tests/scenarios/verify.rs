//! `bygone verify` names what was done to a history.

use std::fs;
use std::path::{Path, PathBuf};

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take};
use bygone_sink::log::ContentHash;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use super::SHOP;
use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::postgres::Postgres;
use crate::support::scratch::{Scratch, copy_directory};
use crate::support::store::Store;

/// What was done, and the words by which it must be named.
type Deed = fn(&Path) -> Vec<String>;

const DEEDS: &[(&str, Deed)] = &[
    ("a bit of a fact file flips", |root| {
        let path = fact_file(root);
        let mut body = fs::read(root.join(&path)).unwrap();
        let middle = body.len() / 2;
        body[middle] ^= 0x10;
        fs::write(root.join(&path), body).unwrap();
        vec![path]
    }),
    ("a fact file is gone", |root| {
        let path = fact_file(root);
        fs::remove_file(root.join(&path)).unwrap();
        vec![path]
    }),
    ("a fact file is cut off", |root| {
        let path = fact_file(root);
        let body = fs::read(root.join(&path)).unwrap();
        fs::write(root.join(&path), &body[..body.len() / 2]).unwrap();
        vec![path]
    }),
    ("a commit is gone", |root| {
        fs::remove_file(log(root, 1)).unwrap();
        vec!["1".to_owned()]
    }),
    ("two commits have changed places", |root| {
        let (one, two) = (fs::read(log(root, 1)).unwrap(), fs::read(log(root, 2)).unwrap());
        fs::write(log(root, 1), two).unwrap();
        fs::write(log(root, 2), one).unwrap();
        vec!["00000000000000000001".to_owned()]
    }),
    ("a commit is altered and still reads well", |root| {
        let text = fs::read_to_string(log(root, 1)).unwrap();
        fs::write(log(root, 1), text.replace("\"rows\":1", "\"rows\":2").replace("\"seq\":1", "\"seq\": 1"))
            .unwrap();
        vec!["00000000000000000001".to_owned()]
    }),
    ("a commit is no JSON any more", |root| {
        fs::write(log(root, 1), "{\"format\"").unwrap();
        vec!["00000000000000000001".to_owned()]
    }),
];

fn log(root: &Path, seq: usize) -> PathBuf {
    root.join(format!("log/{seq:020}.json"))
}

fn fact_file(root: &Path) -> String {
    let history = History::read(Store::directory(root));
    history.live.values().find(|entry| entry.table == "public.orders").unwrap().path.clone()
}

#[test]
fn whatever_is_done_to_a_history_is_named() {
    let server = Postgres::start();
    server.run(SHOP);
    let scratch = Scratch::new("verify");
    let sound = scratch.join("history");
    let mut bygone = Bygone::new(server.url(), &sound);
    for total in 0..4 {
        bygone.until_current();
        server.run(&format!("update orders set total = {total} where id = 1"));
    }
    assert!(log(&sound, 3).exists(), "too few commits to damage");
    bygone.ask(&["verify"]).well();
    let mut unnoticed = Vec::new();
    for (number, (title, deed)) in DEEDS.iter().enumerate() {
        let root = scratch.join(format!("deed-{number}"));
        copy_directory(&sound, &root);
        let words = deed(&root);
        let outcome = Bygone::new(server.url(), &root).ask(&["verify"]);
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        if outcome.code() != Some(1)
            || !words.iter().all(|word| said.contains(word))
            || said.contains("panicked")
        {
            unnoticed.push(format!("{title}: {} without {words:?}:\n{said}", outcome.status));
        }
    }
    assert!(unnoticed.is_empty(), "{}", unnoticed.join("\n"));
}

/// Who may write to a history merges files, and alters facts while doing so. What was there before is gone.
#[test]
fn facts_that_are_altered_while_files_are_merged_are_named() {
    let server = Postgres::start();
    server.run(SHOP);
    let scratch = Scratch::new("verify");
    let sound = scratch.join("history");
    let mut bygone = Bygone::new(server.url(), &sound);
    // A merged file is merged again.
    for round in 0..2 {
        for total in 0..3 {
            server.run(&format!("update orders set total = {round}{total} where id = 1"));
            bygone.until_current();
        }
        bygone.ask(&["compact", "--all", "--grace", "1ms"]).well();
    }
    bygone.ask(&["verify"]).well();
    let merged = fact_file(&sound);
    let newest = (0..).take_while(|seq| log(&sound, *seq).exists()).last().unwrap();

    let forge = |name: &str, alter: &dyn Fn(&mut Value)| {
        let root = scratch.join(name);
        copy_directory(&sound, &root);
        let text = fs::read_to_string(log(&root, newest)).unwrap();
        let mut commit: Value = serde_json::from_str(&text).unwrap();
        let adds = commit["add"].as_array_mut().unwrap();
        let add = adds.iter_mut().find(|add| add["path"] == *merged).expect("merged by the last commit");
        assert!(add["digest"].is_string(), "{add}");
        swap_totals(&root.join(&merged));
        let bytes = fs::read(root.join(&merged)).unwrap();
        add["bytes"] = bytes.len().into();
        add["sha256"] = ContentHash::of(&bytes).to_string().into();
        alter(add);
        fs::write(log(&root, newest), format!("{commit}\n")).unwrap();
        let told = Bygone::new(server.url(), &root).ask(&["verify"]);
        assert_eq!(told.code(), Some(1), "{}{}", told.stdout, told.stderr);
        assert!(told.stdout.contains(&merged), "{}", told.stdout);
        told.stdout
    };
    let told = forge("as_it_was", &|_| ());
    let words = format!("facts of commit {} were altered when files were merged", newest - 2);
    assert!(told.contains(&words), "{told}");
    let told = forge("without", &|add| drop(add.as_object_mut().unwrap().remove("digest")));
    assert!(told.contains("said to hold other facts than the files that it replaces"), "{told}");
}

/// The last two facts of a file change their totals.
fn swap_totals(path: &Path) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap()).unwrap();
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    let batch = concat_batches(&batches[0].schema(), &batches).unwrap();
    let place = batch.schema().index_of("total").unwrap();
    let last = u32::try_from(batch.num_rows() - 1).unwrap();
    let order: Vec<u32> = (0..last - 1).chain([last, last - 1]).collect();
    let mut columns = batch.columns().to_vec();
    let altered = take(&columns[place], &UInt32Array::from(order), None).unwrap();
    assert_ne!(&*altered, &*columns[place]);
    columns[place] = altered;
    let altered = RecordBatch::try_new(batch.schema(), columns).unwrap();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&altered).unwrap();
    writer.close().unwrap();
}

/// What the chain cannot tell, the head does that somebody has kept.
#[test]
fn a_log_whose_end_is_cut_off_is_told_by_its_head() {
    let server = Postgres::start();
    server.run(SHOP);
    let scratch = Scratch::new("verify");
    let root = scratch.join("history");
    let mut bygone = Bygone::new(server.url(), &root);
    let heads: Vec<String> = (0..3)
        .map(|total| {
            server.run(&format!("update orders set total = {total} where id = 1"));
            bygone.until_current();
            let told = bygone.ask(&["verify"]).well().stdout;
            told.split_once("head ").expect("a head").1.split_whitespace().collect()
        })
        .collect();
    for head in &heads {
        bygone.ask(&["verify", "--head", head]).well();
    }
    let last = (0..).take_while(|seq| log(&root, *seq).exists()).last().unwrap();
    fs::remove_file(log(&root, last)).unwrap();
    bygone.ask(&["verify", "--head", &heads[0]]).well();
    let told = bygone.ask(&["verify", "--head", &heads[2]]);
    assert!(
        told.code() == Some(1) && told.stdout.contains("the end of the log was cut off"),
        "{}",
        told.stdout
    );
    let other = heads[0].replace(':', ":0").split_at(heads[0].len()).0.to_owned();
    let told = bygone.ask(&["verify", "--head", &other]);
    assert!(told.code() == Some(1) && told.stdout.contains("the history was rewritten"), "{}", told.stdout);
    assert_eq!(bygone.ask(&["verify", "--head", "1:abc"]).code(), Some(2));
}

#[test]
fn the_chain_can_be_checked_with_common_tools() {
    let server = Postgres::start();
    server.run(SHOP);
    let scratch = Scratch::new("verify");
    let mut bygone = Bygone::new(server.url(), scratch.join("history"));
    bygone.until_current();
    server.run("update orders set total = 0");
    bygone.until_current();
    let hash =
        std::process::Command::new("sha256sum").arg(log(&scratch.join("history"), 0)).output().unwrap();
    let hash = String::from_utf8(hash.stdout).unwrap();
    let next = fs::read_to_string(log(&scratch.join("history"), 1)).unwrap();
    let named = format!("\"prev\":\"{}\"", hash.split_whitespace().next().unwrap());
    assert!(next.replace(": ", ":").contains(&named), "{next} does not follow {hash}");
}

#[test]
fn a_history_that_was_damaged_is_not_written_on() {
    let server = Postgres::start();
    server.run(SHOP);
    let scratch = Scratch::new("verify");
    let root = scratch.join("history");
    let mut bygone = Bygone::new(server.url(), &root);
    for total in 0..3 {
        bygone.until_current();
        server.run(&format!("update orders set total = {total} where id = 1"));
    }
    fs::remove_file(log(&root, 1)).unwrap();
    let before = super::contents(&root);
    bygone.forget();
    bygone.attempt(&[]).refused(&["00000000000000000001"]);
    assert_eq!(super::contents(&root), before);
}
