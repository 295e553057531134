//! The templates of `--format`: text with fields of an object's JSON, as `{{.name}}`.
//!
//! `{{.exit.reason}}` reaches into objects, `{{.}}` is the whole as JSON, `\t` and `\n` are
//! what they mean in C. A field that is null gives nothing; one that does not exist is an error.

use super::sanitize;
use serde_json::Value;

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Vec<String>),
}

impl std::str::FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (field, tail) = after
                .split_once("}}")
                .ok_or("a `{{` is not closed by `}}`")?;
            let path = field
                .trim()
                .strip_prefix('.')
                .ok_or_else(|| format!("the field {field:?} does not begin with a dot"))?;
            parts.push(Part::Text(unescape(before)));
            let path = path.split('.').filter(|name| !name.is_empty());
            parts.push(Part::Field(path.map(str::to_owned).collect()));
            rest = tail;
        }
        parts.push(Part::Text(unescape(rest)));
        Ok(Self { parts })
    }
}

impl Template {
    /// The template's text for one object; the field that does not exist as an error.
    pub(crate) fn render(&self, object: &Value) -> Result<String, String> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Field(path) => out.push_str(&show(find(object, path)?)),
            }
        }
        Ok(out)
    }
}

fn find<'a>(object: &'a Value, path: &[String]) -> Result<&'a Value, String> {
    path.iter().try_fold(object, |value, name| match value {
        Value::Null => Ok(value),
        Value::Object(fields) => fields.get(name).ok_or_else(|| {
            let known: Vec<_> = fields.keys().map(String::as_str).collect();
            format!("there is no field {name:?}; there are {}", known.join(", "))
        }),
        _ => Err(format!("{name:?} is asked of something without fields")),
    })
}

/// A value as text: strings bare, everything else as JSON.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => sanitize::line(text),
        other => sanitize::line(&other.to_string()),
    }
}

fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(template: &str, object: &Value) -> Result<String, String> {
        template.parse::<Template>()?.render(object)
    }

    #[test]
    fn renders_fields() {
        let object = json!({"name": "dev", "cpus": 2, "exit": {"reason": "a\u{1b}"}, "pid": null});
        assert_eq!(
            render("{{.name}}\\t{{ .cpus }}", &object).unwrap(),
            "dev\t2"
        );
        assert_eq!(render("{{.exit.reason}}", &object).unwrap(), "a\\x1b");
        assert_eq!(render("[{{.pid}}]", &object).unwrap(), "[]");
        assert_eq!(render("{{.pid.x}}", &object).unwrap(), "");
        assert_eq!(render("{{.}}", &json!({"a": 1})).unwrap(), "{\"a\":1}");
    }

    #[test]
    fn refuses_unknown_fields_and_bad_syntax() {
        let object = json!({"name": "dev"});
        assert!(render("{{.nmae}}", &object).unwrap_err().contains("name"));
        for bad in ["{{.name", "{{name}}", "{{.name.x}}"] {
            assert!(render(bad, &object).is_err(), "{bad}");
        }
    }
}
