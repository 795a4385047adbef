//! Holds a document against the typed layer's schema: unknown and missing keys, wrong types, numbers out of range.
//!
//! What is not usable becomes null, and what is left deserialises into the typed layer: so the meaning of the sound parts is
//! checked too, and one reading of a file finds all its mistakes.

use serde_json::{Map, Number, Value};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    document::{Document, Findings, Path},
    schema::schema,
};

/// The usable part of the document as JSON that the typed layer accepts; what is not usable is reported.
pub fn usable(document: &Document<'_>, findings: &mut Findings<'_>) -> Value {
    let root = document.root();
    let mut walk = Walk { findings };
    match root.get_ref() {
        DeValue::Table(table) => walk.table(schema(), table, &Path::root()),
        _ => Value::Null,
    }
}

struct Walk<'a, 'document> {
    findings: &'a mut Findings<'document>,
}

impl Walk<'_, '_> {
    fn value(&mut self, schema: &Value, node: &Spanned<DeValue<'_>>, path: &Path, key: &str) -> Value {
        let wanted = schema;
        let schema = resolve(schema);
        if let Some(words) = words_of(schema) {
            return self.word(&words, wanted, node, path, key);
        }
        let choices = choices_of(schema);
        if let Some(tag) = choices.iter().find_map(|choice| tag_of(choice)) {
            return self.tagged(tag, &choices, wanted, node, path);
        }
        if !choices.is_empty() {
            return match choices.iter().find(|choice| accepts(choice, node.get_ref())) {
                Some(choice) => self.value(choice, node, path, key),
                None => self.wrong_type(wanted, node, path, key),
            };
        }
        if !accepts(schema, node.get_ref()) {
            return self.wrong_type(wanted, node, path, key);
        }
        match node.get_ref() {
            DeValue::String(text) => self.text(schema, text, path),
            DeValue::Integer(integer) => {
                self.integer(schema, i64::from_str_radix(integer.as_str(), integer.radix()).ok(), wanted, path)
            }
            DeValue::Boolean(boolean) => Value::Bool(*boolean),
            DeValue::Array(elements) => {
                let Some(items) = schema.get("items") else { return Value::Null };
                if (elements.len() as u64) < schema.get("minItems").and_then(Value::as_u64).unwrap_or(0) {
                    self.findings.add(path, format!("is empty; should be {}", describe(wanted)));
                }
                let values =
                    elements.iter().enumerate().map(|(index, element)| self.value(items, element, &path.index(index), key));
                Value::Array(values.collect())
            }
            DeValue::Table(table) => self.table(schema, table, path),
            DeValue::Float(_) | DeValue::Datetime(_) => Value::Null,
        }
    }

    fn text(&mut self, schema: &Value, text: &str, path: &Path) -> Value {
        if text.contains('\0') {
            self.findings.add(path, "holds a NUL character, which no name, path, query or argument can");
            return Value::Null;
        }
        if text.trim().is_empty() && schema.get("minLength").is_some() {
            self.findings.add(path, format!("is empty; should be {}", describe(schema)));
            return Value::Null;
        }
        Value::String(text.to_owned())
    }

    fn integer(&mut self, schema: &Value, value: Option<i64>, wanted: &Value, path: &Path) -> Value {
        let bound = |name: &str, otherwise| schema.get(name).and_then(Value::as_i64).unwrap_or(otherwise);
        let (least, most) = (bound("minimum", i64::MIN), bound("maximum", i64::MAX));
        match value.filter(|value| (least..=most).contains(value)) {
            Some(value) => Value::Number(Number::from(value)),
            None => {
                self.findings.add(path, format!("is out of range; should be {}", describe(wanted)));
                Value::Null
            }
        }
    }

    fn word(&mut self, words: &[&str], wanted: &Value, node: &Spanned<DeValue<'_>>, path: &Path, key: &str) -> Value {
        let Some(word) = node.get_ref().as_str() else { return self.wrong_type(wanted, node, path, key) };
        if words.contains(&word) {
            return Value::String(word.to_owned());
        }
        self.findings.add(path, unknown_word(word, words));
        Value::Null
    }

    fn tagged(&mut self, tag: &str, choices: &[&Value], wanted: &Value, node: &Spanned<DeValue<'_>>, path: &Path) -> Value {
        let Some(table) = node.get_ref().as_table() else { return self.wrong_type(wanted, node, path, tag) };
        let kinds: Vec<&str> = choices.iter().filter_map(|choice| kind_of(choice, tag)).collect();
        let Some(kind) = table.get(tag) else {
            self.findings.add(&path.key(tag), format!("missing; should be {}", one_of(&kinds)));
            return Value::Null;
        };
        let Some(word) = kind.get_ref().as_str() else {
            self.findings.add(&path.key(tag), format!("is {}; should be {}", found(kind.get_ref()), one_of(&kinds)));
            return Value::Null;
        };
        match choices.iter().find(|choice| kind_of(choice, tag) == Some(word)) {
            Some(choice) => self.table(choice, table, path),
            None => {
                self.findings.add(&path.key(tag), unknown_word(word, &kinds));
                Value::Null
            }
        }
    }

    fn table(&mut self, schema: &Value, table: &DeTable<'_>, path: &Path) -> Value {
        let none = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
        let any = schema.get("additionalProperties").filter(|other| other.is_object());
        let mut usable = Map::new();
        let mut meant: Vec<&str> = Vec::new();
        for (key, node) in table {
            let key = key.get_ref().as_ref();
            match properties.get(key).or(any) {
                Some(property) => {
                    usable.insert(key.to_owned(), self.constant_or_value(property, node, &path.key(key), key));
                }
                None => {
                    let known: Vec<&str> =
                        properties.keys().map(String::as_str).filter(|known| !table.contains_key(*known)).collect();
                    let guess = similar(key, &known);
                    meant.extend(guess);
                    self.findings.add_at_key(path, key, unknown_key(key, guess, &known));
                }
            }
        }
        for key in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            // What was misspelt is there; saying that it is missing too would only confuse.
            if !table.contains_key(key)
                && !meant.contains(&key)
                && let Some(property) = properties.get(key)
            {
                self.findings.add(&path.key(key), missing(key, property));
            }
        }
        Value::Object(usable)
    }

    /// The tag itself was checked when the table was chosen by it.
    fn constant_or_value(&mut self, schema: &Value, node: &Spanned<DeValue<'_>>, path: &Path, key: &str) -> Value {
        match schema.get("const") {
            Some(constant) => constant.clone(),
            None => self.value(schema, node, path, key),
        }
    }

    fn wrong_type(&mut self, wanted: &Value, node: &Spanned<DeValue<'_>>, path: &Path, key: &str) -> Value {
        let found = found(node.get_ref());
        let table_wanted_many = resolve(wanted).get("items").is_some_and(|items| !accepts(items, &DeValue::String("".into())));
        let message = if is_secret(wanted) {
            format!("is {found}, and secrets are never written in a policy; should be {}", describe(wanted))
        } else if table_wanted_many && node.get_ref().is_table() {
            format!("is one table; write [[{key}]] with two brackets, since there may be several")
        } else {
            format!("is {found}; should be {}", describe(wanted))
        };
        self.findings.add(path, message);
        Value::Null
    }
}

/// Follows a reference into the schema's definitions.
fn resolve(schema: &Value) -> &Value {
    let name = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix("#/$defs/"));
    name.and_then(|name| self::schema().get("$defs")?.get(name)).unwrap_or(schema)
}

fn choices_of(schema: &Value) -> Vec<&Value> {
    let choices = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array);
    choices.map_or_else(Vec::new, |choices| choices.iter().map(resolve).collect())
}

/// The words a schema allows, if it allows nothing but words.
fn words_of(schema: &Value) -> Option<Vec<&str>> {
    let choices = choices_of(schema);
    if choices.is_empty() { None } else { choices.into_iter().map(|choice| choice.get("const")?.as_str()).collect() }
}

/// The key whose value tells the alternatives apart.
fn tag_of(choice: &Value) -> Option<&str> {
    let properties = choice.get("properties")?.as_object()?;
    properties.iter().find(|(_, property)| property.get("const").is_some()).map(|(key, _)| key.as_str())
}

fn kind_of<'a>(choice: &'a Value, tag: &str) -> Option<&'a str> {
    choice.get("properties")?.get(tag)?.get("const")?.as_str()
}

fn accepts(schema: &Value, node: &DeValue<'_>) -> bool {
    let schema = resolve(schema);
    let choices = choices_of(schema);
    if !choices.is_empty() {
        return choices.iter().any(|choice| accepts(choice, node));
    }
    let word = match node {
        DeValue::String(_) => "string",
        DeValue::Integer(_) => "integer",
        DeValue::Boolean(_) => "boolean",
        DeValue::Array(_) => "array",
        DeValue::Table(_) => "object",
        DeValue::Float(_) | DeValue::Datetime(_) => return false,
    };
    schema.get("type").is_some_and(|wanted| wanted == word)
}

fn is_secret(schema: &Value) -> bool {
    resolve(schema).get("maxProperties").is_some()
}

fn found(node: &DeValue<'_>) -> &'static str {
    match node {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// What would be right, in words, with an example where there is one.
fn describe(wanted: &Value) -> String {
    let schema = resolve(wanted);
    if is_secret(schema) {
        return "{ file = \"/…\" }, { env = \"NAME\" } or { credential = \"name\" }".to_owned();
    }
    if let Some(words) = words_of(schema) {
        return one_of(&words);
    }
    let choices = choices_of(schema);
    if let Some(tag) = choices.iter().find_map(|choice| tag_of(choice)) {
        let kinds: Vec<&str> = choices.iter().filter_map(|choice| kind_of(choice, tag)).collect();
        return format!("a table with {tag} = {}", one_of(&kinds));
    }
    if !choices.is_empty() {
        return choices.iter().map(|choice| describe(choice)).collect::<Vec<_>>().join(", or ");
    }
    let example = example_of(wanted).map_or_else(String::new, |example| format!(" such as {example}"));
    let bounds = match (schema.get("minimum"), schema.get("maximum")) {
        (Some(least), Some(most)) => format!(" from {least} to {most}"),
        _ => String::new(),
    };
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => format!("a text{example}"),
        Some("integer") => format!("a whole number{bounds}"),
        Some("boolean") => "true or false".to_owned(),
        Some("array") => format!("a list{example}"),
        _ => {
            let keys = schema.get("properties").and_then(Value::as_object).map(|properties| listed(properties.keys()));
            keys.map_or_else(|| "a table".to_owned(), |keys| format!("a table with {keys}"))
        }
    }
}

fn example_of(schema: &Value) -> Option<String> {
    // JSON's texts, numbers and lists of texts are TOML's.
    schema.get("examples")?.get(0).map(|example| example.to_string().replace("\",\"", "\", \""))
}

fn missing(key: &str, property: &Value) -> String {
    match key {
        "encryption" => {
            "missing, and there is no default; choose [encryption] with recipients = [\"age1…\"] (`farshore key generate` makes \
                         a pair of keys), or encryption = \"none\" if everybody who can read the site may read the data"
                .to_owned()
        }
        "source" => "missing; add at least one [[source]] with name and kind: what is protected".to_owned(),
        "site" => "missing; add at least one [[site]] with name and store: where it goes".to_owned(),
        _ => format!("missing; should be {}", describe(property)),
    }
}

fn unknown_key(key: &str, guess: Option<&str>, known: &[&str]) -> String {
    // TOML's trap: a line below a [header] belongs to it, however far down the file it stands.
    let at_the_top = schema().get("properties").and_then(|properties| properties.get(key)).is_some();
    match guess {
        Some(guess) => format!("unknown key; did you mean {guess}?"),
        None if at_the_top => {
            format!(
                "unknown key here, since it stands below a [header] and so belongs to that; move {key} above the first [header]"
            )
        }
        None if known.is_empty() => "unknown key; every key that may stand here is there already".to_owned(),
        None => format!("unknown key; may stand here: {}", listed(known)),
    }
}

fn unknown_word(word: &str, words: &[&str]) -> String {
    match similar(word, words) {
        Some(similar) => format!("unknown \"{}\"; did you mean \"{similar}\"?", word.escape_debug()),
        None => format!("unknown \"{}\"; should be {}", word.escape_debug(), one_of(words)),
    }
}

/// The candidate that differs from `word` by so few letters that it is probably what was meant.
pub fn similar<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let distance = |candidate: &&str| strsim::osa_distance(&word.to_lowercase().replace('-', "_"), candidate);
    let best = candidates.iter().min_by_key(|candidate| distance(candidate))?;
    let allowed = (word.chars().count().max(best.chars().count()) / 3).max(1);
    (distance(best) <= allowed).then_some(*best)
}

fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.as_slice() {
        [] => "nothing".to_owned(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

fn listed<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> String {
    words.into_iter().map(|word| word.as_ref().to_owned()).collect::<Vec<_>>().join(", ")
}
