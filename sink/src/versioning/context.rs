//! What applications say about their transactions, through `pg_logical_emit_message`.

use serde_json::{Map, Value};

use crate::fact::Context;
use crate::value::push_hex;

/// Message prefixes that carry context: bygone's own, and those of other tools' client libraries [53].
const PREFIXES: [&str; 3] = ["bygone", "_bemi", "sequin:transaction_annotations"];

/// Keys that name the actor, the first that is there.
const ACTOR_KEYS: [&str; 6] = ["actor", "user_id", "userId", "username", "user", "email"];

/// The messages of a prefix say who made a transaction, and why.
#[must_use]
pub fn is_context(prefix: &str) -> bool {
    PREFIXES.contains(&prefix)
}

/// Reads a message. Content that is no JSON object is kept under the key `message`; what is no text at all, in hex under
/// `message_bytes`.
pub(super) fn parse(prefix: &str, content: &[u8]) -> Context {
    let object = match std::str::from_utf8(content).map(|text| (text, serde_json::from_str::<Value>(text))) {
        Ok((_, Ok(Value::Object(object)))) => object,
        Ok((_, Ok(other))) => Map::from_iter([("message".to_owned(), other)]),
        Ok((text, Err(_))) => Map::from_iter([("message".to_owned(), Value::from(text))]),
        Err(_) => Map::from_iter([("message_bytes".to_owned(), Value::from(hex(content)))]),
    };
    // Bemi's libraries wrap what the application said.
    let said = match object.get("context") {
        Some(Value::Object(inner)) if prefix == "_bemi" => inner,
        _ => &object,
    };
    let actor = ACTOR_KEYS.iter().find_map(|key| said.get(*key)).and_then(|value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    });
    Context { actor, json: Some(Value::Object(object).to_string()) }
}

/// Bytes as `bytea` prints them.
fn hex(bytes: &[u8]) -> String {
    let mut text = "\\x".to_owned();
    push_hex(bytes, &mut text);
    text
}

/// The context with what bygone itself has to say, under the key `bygone`.
pub(super) fn with_note(context: Option<&Context>, note: Value) -> Context {
    let mut object = match context.and_then(|context| context.json.as_deref()).map(serde_json::from_str) {
        Some(Ok(Value::Object(object))) => object,
        _ => Map::new(),
    };
    object.insert("bygone".to_owned(), note);
    Context {
        actor: context.and_then(|context| context.actor.clone()),
        json: Some(Value::Object(object).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_actor_is_found_where_each_library_puts_it() {
        for (prefix, content, actor) in [
            ("bygone", r#"{"actor":"ann","reason":"refund"}"#, Some("ann")),
            ("bygone", r#"{"reason":"refund"}"#, None),
            ("bygone", r#"{"actor":7}"#, Some("7")),
            ("bygone", r#"{"actor":null}"#, None),
            ("_bemi", r#"{"context":{"user_id":12},"SQL":"…"}"#, Some("12")),
            ("sequin:transaction_annotations", r#"{"username":"paul"}"#, Some("paul")),
            ("bygone", "not json", None),
            ("bygone", "[1]", None),
        ] {
            let context = parse(prefix, content.as_bytes());
            assert_eq!(context.actor.as_deref(), actor, "{content}");
            let json: Value = serde_json::from_str(context.json.as_deref().unwrap()).unwrap();
            assert!(json.is_object());
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_kept_as_they_are() {
        let context = parse("bygone", b"{\"actor\": \"Andr\xe9\"}");
        assert_eq!(context.actor, None);
        let json = context.json.unwrap();
        assert_eq!(json, r#"{"message_bytes":"\\x7b226163746f72223a2022416e6472e9227d"}"#);
    }

    #[test]
    fn a_note_stands_beside_what_the_application_said() {
        let said = parse("bygone", br#"{"actor":"ann","x":1}"#);
        let noted = with_note(Some(&said), serde_json::json!({"rekeyed_from": "7"}));
        assert_eq!(noted.actor.as_deref(), Some("ann"));
        assert_eq!(noted.json.as_deref(), Some(r#"{"actor":"ann","x":1,"bygone":{"rekeyed_from":"7"}}"#));
        assert_eq!(with_note(None, Value::Bool(true)).json.as_deref(), Some(r#"{"bygone":true}"#));
    }
}
