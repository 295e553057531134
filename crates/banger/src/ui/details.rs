//! One thing in full, for people: a field a line, sizes and times in words.

use super::{sanitize, template};
use crate::time::utc;
use banger_names::ByteSize;
use serde_json::Value;

/// The fields of `object`, those of objects inside it as `exit.reason`; null fields are left out.
pub(super) fn render(object: &Value) -> String {
    let mut fields = Vec::new();
    collect("", object, &mut fields);
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    fields
        .into_iter()
        .map(|(name, value)| format!("{:<width$}  {value}\n", name + ":", width = width + 1))
        .collect()
}

fn collect(prefix: &str, value: &Value, fields: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Object(inner) => {
            for (name, value) in inner {
                let name = sanitize::line(name);
                let path = if prefix.is_empty() {
                    name
                } else {
                    format!("{prefix}.{name}")
                };
                collect(&path, value, fields);
            }
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(template::show).collect();
            fields.push((prefix.to_owned(), items.join(", ")));
        }
        other => fields.push((prefix.to_owned(), in_words(prefix, other))),
    }
}

/// A value in the unit that its field's name says.
fn in_words(name: &str, value: &Value) -> String {
    let Some(number) = value.as_u64() else {
        return template::show(value);
    };
    let name = name.rsplit('.').next().unwrap_or(name);
    match name {
        "memory" | "memory_given" | "disk" | "disk_used" | "disk_free" | "disk_reserve"
        | "root_size" | "log_cap" | "size" => ByteSize(number).to_string(),
        _ if name.ends_with("_unix_ms") => utc(number / 1000),
        _ if name.ends_with("_unix") => utc(number),
        _ if name.ends_with("_ms") => format!("{number} ms"),
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_lines_in_words() {
        let object = json!({
            "name": "dev", "memory": 1_u64 << 30, "pid": null,
            "created_unix_ms": 0, "exit": {"reason": "x\u{1b}"}, "tags": ["a", "b"],
        });
        assert_eq!(
            render(&object),
            "created_unix_ms:  1970-01-01T00:00:00Z\n\
             exit.reason:      x\\x1b\n\
             memory:           1 GiB\n\
             name:             dev\n\
             tags:             a, b\n"
        );
    }
}
