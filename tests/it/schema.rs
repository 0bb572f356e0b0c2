//! Holds JSON lines against docs/schema/events-1.json, and that against docs/json.md.
//!
//! Checks the part of JSON Schema that the document uses, and refuses what it does not know, so that no rule is passed over.

use serde_json::{Map, Value};
use std::path::Path;
use std::sync::LazyLock;

static SCHEMA: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(&document("docs/schema/events-1.json")).unwrap());

fn document(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The lines of a run's output as objects, each as the schema says; the first and the last are those that have to be.
pub fn lines(output: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(output).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for line in &lines {
        let of_event = SCHEMA["oneOf"].as_array().unwrap().iter().find(|one| *event(one) == line["event"]);
        let of_event = of_event.unwrap_or_else(|| panic!("an event that has no schema: {line}"));
        check(of_event, line).unwrap_or_else(|why| panic!("{why}: {line}"));
        check(&SCHEMA, line).unwrap_or_else(|why| panic!("{why}: {line}"));
    }
    assert_eq!(lines.first().expect("no output")["event"], "run");
    assert_eq!(lines.last().expect("no output")["event"], "recap");
    lines
}

fn event(schema: &Value) -> &Value {
    &schema["properties"]["event"]["const"]
}

fn check(schema: &Value, value: &Value) -> Result<(), String> {
    for (keyword, rule) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$schema" | "title" | "$defs" => {}
            "$ref" => {
                let pointer = rule.as_str().unwrap().strip_prefix('#').unwrap();
                check(SCHEMA.pointer(pointer).unwrap(), value)?;
            }
            "const" if rule == value => {}
            "enum" if rule.as_array().unwrap().contains(value) => {}
            "const" | "enum" => return Err(format!("{value} is not {rule}")),
            "type" => {
                let types = rule.as_array().cloned().unwrap_or_else(|| vec![rule.clone()]);
                if !types.iter().any(|name| is(value, name.as_str().unwrap())) {
                    return Err(format!("{value} is no {rule}"));
                }
            }
            "required" => {
                let missing = rule.as_array().unwrap().iter().find(|name| value.get(name.as_str().unwrap()).is_none());
                if let Some(name) = missing {
                    return Err(format!("{name} is missing"));
                }
            }
            "properties" => {
                for (name, rule) in rule.as_object().unwrap() {
                    value
                        .get(name)
                        .map_or(Ok(()), |value| check(rule, value).map_err(|why| format!("{name}: {why}")))?;
                }
            }
            "additionalProperties" => {
                for (name, value) in value.as_object().unwrap_or(&Map::new()) {
                    check(rule, value).map_err(|why| format!("{name}: {why}"))?;
                }
            }
            "items" => value.as_array().into_iter().flatten().try_for_each(|item| check(rule, item))?,
            "oneOf" => {
                let fits = rule.as_array().unwrap().iter().filter(|one| check(one, value).is_ok()).count();
                if fits != 1 {
                    return Err(format!("fits {fits} of the alternatives"));
                }
            }
            other => panic!("the schema has a keyword that this test does not know: {other}"),
        }
    }
    Ok(())
}

fn is(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        other => panic!("the schema has a type that this test does not know: {other}"),
    }
}

#[test]
fn the_document_names_every_event_and_field() {
    let text = document("docs/json.md");
    for schema in SCHEMA["oneOf"].as_array().unwrap() {
        let name = event(schema).as_str().unwrap();
        let row = text.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/json.md does not say what `{name}` is"));
        for field in schema["properties"].as_object().unwrap().keys().filter(|field| *field != "event") {
            assert!(row.contains(&format!("`{field}`")), "docs/json.md: the row of `{name}` does not name `{field}`");
        }
    }
}

#[test]
fn a_line_that_does_not_fit_is_found() {
    let good = serde_json::json!({"event": "warning", "message": "x", "more": 1});
    assert!(check(&SCHEMA, &good).is_ok(), "more fields may come");
    for bad in [
        serde_json::json!({"event": "warning"}),
        serde_json::json!({"event": "warning", "message": 1}),
        serde_json::json!({"event": "nothing"}),
        serde_json::json!({"event": "run", "schema": 2, "verb": "plan", "plan": true, "kprov": "1"}),
    ] {
        assert!(check(&SCHEMA, &bad).is_err(), "{bad}");
    }
}
