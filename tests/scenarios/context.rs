//! What an application says about a transaction stands beside the changes that follow.

use crate::support::bygone::Bygone;
use crate::support::history::History;
use crate::support::postgres::Postgres;
use crate::support::scratch::Scratch;
use crate::support::store::Store;

use super::SHOP;

/// A transaction's facts: entity, actor and context, in order.
fn told(transactions: &[&str]) -> Vec<(String, Option<String>, serde_json::Value)> {
    let server = Postgres::start();
    server.run(SHOP);
    let scratch = Scratch::new("history");
    let mut bygone = Bygone::new(server.url(), scratch.join("history"));
    bygone.until_current();
    for transaction in transactions {
        server.run(&format!("begin; {transaction}; commit"));
    }
    bygone.until_current();
    let history = History::read(Store::directory(scratch.join("history")));
    let facts = history.texts("public.orders", &["_op", "_entity_id", "_actor", "_context"]);
    let facts = facts.into_iter().filter(|fact| fact[0].as_deref() != Some("snapshot"));
    let read = |text: Option<String>| {
        text.map_or(serde_json::Value::Null, |text| serde_json::from_str(&text).unwrap())
    };
    facts.map(|mut fact| (fact[1].take().unwrap(), fact[2].take(), read(fact[3].take()))).collect()
}

fn say(prefix: &str, json: &str) -> String {
    format!("select pg_logical_emit_message(true, '{prefix}', '{json}')")
}

#[test]
fn a_message_applies_to_the_changes_after_it_in_its_transaction() {
    let first = say("bygone", r#"{"actor": "ann", "reason": "x"}"#);
    let second = say("bygone", r#"{"actor": "bob"}"#);
    let facts = told(&[
        &format!(
            "update orders set total = 1 where id = 1; {first}; update orders set total = 2 where id = 2; {second};
             update orders set total = 3 where id = 3"
        ),
        "update orders set total = 4 where id = 1",
    ]);
    let actors: Vec<_> = facts.iter().map(|(entity, actor, _)| (entity.as_str(), actor.as_deref())).collect();
    assert_eq!(actors, [("1", None), ("2", Some("ann")), ("3", Some("bob")), ("1", None)]);
    assert_eq!(facts[1].2["reason"], "x");
    assert!(facts[0].2.is_null() && facts[3].2.is_null(), "{facts:?}");
}

#[test]
fn the_messages_of_other_tools_are_understood() {
    let bemi = say("_bemi", r#"{"context": {"user_id": 12, "endpoint": "/pay"}, "SQL": "update"}"#);
    let sequin = say("sequin:transaction_annotations", r#"{"username": "paul", "extra": {"k": [1, null]}}"#);
    let other = say("someone_else", r#"{"actor": "eve"}"#);
    let facts = told(&[
        &format!("{bemi}; update orders set total = 1 where id = 1"),
        &format!("{sequin}; update orders set total = 2 where id = 2"),
        &format!("{other}; update orders set total = 3 where id = 3"),
    ]);
    assert_eq!(facts[0].1.as_deref(), Some("12"));
    assert_eq!(facts[0].2["context"]["endpoint"], "/pay");
    assert_eq!(facts[1].1.as_deref(), Some("paul"));
    assert_eq!(facts[1].2["extra"]["k"][0], 1);
    assert!(facts[2].1.is_none() && facts[2].2.is_null(), "{facts:?}");
}

#[test]
fn a_message_outside_the_transaction_or_rolled_back_says_nothing() {
    let free = "select pg_logical_emit_message(false, 'bygone', '{\"actor\": \"eve\"}')";
    let undone = say("bygone", r#"{"actor": "mallory"}"#);
    let facts = told(&[
        &format!("{free}; update orders set total = 1 where id = 1"),
        &format!("savepoint s; {undone}; rollback to s; update orders set total = 2 where id = 2"),
        &format!("{}; update orders set total = 3 where id = 3", say("bygone", "no JSON")),
    ]);
    assert_eq!(facts[0].1, None);
    assert_eq!(facts[1].1, None);
    assert!(facts[1].2.is_null(), "{facts:?}");
    // What is no JSON is kept all the same.
    assert!(facts[2].2.to_string().contains("no JSON"), "{facts:?}");
}

#[test]
fn a_changed_key_names_the_old_one_beside_what_the_application_said() {
    let said = say("bygone", r#"{"actor": "ann", "ticket": 7}"#);
    let facts = told(&[&format!("{said}; update orders set id = 10 where id = 1")]);
    assert_eq!(facts.len(), 2);
    assert_eq!(facts[0].0, "1");
    assert_eq!(facts[1].0, "10");
    assert_eq!(facts[1].1.as_deref(), Some("ann"));
    assert_eq!(facts[1].2["ticket"], 7);
    assert_eq!(facts[1].2["bygone"]["rekeyed_from"], "1");
}
