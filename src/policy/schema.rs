//! The JSON Schema of a policy, made from the typed layer: for editors (`farshore policy schema`), and for `structure`, which
//! holds documents against the very same thing.

use std::sync::LazyLock;

use serde_json::Value;

use super::typed::TypedPolicy;

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let mut schema = schemars::schema_for!(TypedPolicy).to_value();
    plain(&mut schema);
    schema
});

/// The JSON Schema (2020-12) of a policy file.
pub fn schema() -> &'static Value {
    &SCHEMA
}

/// Takes out what TOML cannot express (null) and what says nothing to an editor (Rust's integer formats).
fn plain(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.get("format").is_some_and(|format| format == "int64") {
                object.remove("format");
            }
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|word| word != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
                choices.retain(|choice| choice.get("type").is_none_or(|word| word != "null"));
                if let [Value::Object(only)] = choices.as_slice() {
                    let only = only.clone();
                    object.remove("anyOf");
                    object.extend(only);
                }
            }
            object.values_mut().for_each(plain);
        }
        Value::Array(array) => array.iter_mut().for_each(plain),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
