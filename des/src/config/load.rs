//! From a file's text to [`RawConfig`]: YAML, environment variables, unknown keys.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::raw::RawConfig;

/// The reference: every key there is, with its default, unit and meaning.
pub(crate) const REFERENCE: &str = include_str!("../../des.reference.yaml");

/// Why a configuration cannot be used. Exit code 2.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the configuration {}: {cause}", path.display())]
    Unreadable { path: PathBuf, cause: std::io::Error },
    #[error("{} is not valid YAML: {why}", path.display())]
    Syntax { path: PathBuf, why: String },
    #[error(
        "{}: ${{{name}}} in `{key}` is not set: set the environment variable {name}, or write \
         ${{{name}:default}}",
        path.display()
    )]
    Unset { path: PathBuf, key: String, name: String },
    #[error("{}: there is no key `{key}`{hint}", path.display())]
    UnknownKey { path: PathBuf, key: String, hint: String },
    #[error("{}: `{key}`: {why}", path.display())]
    Value { path: PathBuf, key: String, why: String },
    #[error("{} holds no *.yaml: put one configuration for each job there", path.display())]
    NoFiles { path: PathBuf },
    #[error("{} and {} cannot be served by one process: {why}", one.display(), other.display())]
    Together { one: PathBuf, other: PathBuf, why: String },
}

/// Parses the text of a file; `path` is for messages, `variable` looks up the environment.
pub(crate) fn parse(
    path: &Path,
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<RawConfig, ConfigError> {
    let mut value = yaml(text).map_err(|why| ConfigError::Syntax { path: path.to_owned(), why })?;
    if value.is_null() {
        value = Value::Object(serde_json::Map::new());
    }
    substitute(&mut value, "", variable).map_err(|(key, name)| ConfigError::Unset {
        path: path.to_owned(),
        key,
        name,
    })?;
    say_off(&mut value);
    drop_empty(&mut value);
    if let Some(key) = yaml(REFERENCE).ok().and_then(|it| not_a_section(&value, &it, "")) {
        let why = "it must be a section, with keys below it".to_owned();
        let key = if key.is_empty() { "the file".to_owned() } else { key };
        return Err(ConfigError::Value { path: path.to_owned(), key, why });
    }

    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    let parsed = serde_ignored::deserialize(tracked, |key| unknown.push(key.to_string()));
    if let Some(key) = unknown.into_iter().next() {
        let hint = nearest(&key);
        return Err(ConfigError::UnknownKey { path: path.to_owned(), key, hint });
    }
    parsed.map_err(|error| ConfigError::Value {
        path: path.to_owned(),
        key: track.path().to_string(),
        why: error.to_string(),
    })
}

fn yaml(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

/// Replaces `${VAR}` and `${VAR:default}` in every text; `$${` stands for `${` itself. On failure
/// gives the key and the variable that is not set.
fn substitute(
    value: &mut Value,
    key: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<(), (String, String)> {
    match value {
        Value::String(text) => {
            *text = expand(text, variable).map_err(|name| (key.to_owned(), name))?;
            Ok(())
        }
        Value::Array(items) => {
            items.iter_mut().try_for_each(|item| substitute(item, key, variable))
        }
        Value::Object(entries) => entries.iter_mut().try_for_each(|(name, item)| {
            let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            substitute(item, &key, variable)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn expand(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = &from[2..];
            continue;
        }
        expanded.push_str(before);
        let Some(end) = from.find('}') else {
            expanded.push_str(from);
            return Ok(expanded);
        };
        let (name, default) = match from[2..end].split_once(':') {
            // The shell's `:-` is what many write.
            Some((name, default)) => (name, Some(default.strip_prefix('-').unwrap_or(default))),
            None => (&from[2..end], None),
        };
        let found = variable(name).or_else(|| default.map(str::to_owned));
        expanded.push_str(&found.ok_or_else(|| name.to_owned())?);
        rest = &from[end + 1..];
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// `http.listen: null` turns it off, and is not the same as saying nothing.
fn say_off(value: &mut Value) {
    if let Some(listen) = value.pointer_mut("/http/listen")
        && listen.is_null()
    {
        *listen = Value::String("off".to_owned());
    }
}

/// A section or key that is written with nothing after it counts as absent.
fn drop_empty(value: &mut Value) {
    if let Value::Object(entries) = value {
        entries.retain(|_, item| !item.is_null());
        entries.values_mut().for_each(drop_empty);
    }
}

/// The first key that should hold keys, as the reference's does, and holds something else. Lists
/// would otherwise be taken for sections, their items for keys in order.
fn not_a_section(value: &Value, reference: &Value, key: &str) -> Option<String> {
    let Value::Object(expected) = reference else { return None };
    let Value::Object(entries) = value else { return Some(key.to_owned()) };
    entries.iter().find_map(|(name, item)| {
        let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
        not_a_section(item, expected.get(name)?, &key)
    })
}

/// A hint at the known key that comes nearest.
fn nearest(key: &str) -> String {
    let Ok(reference) = yaml(REFERENCE) else { return String::new() };
    let mut known = Vec::new();
    collect_keys(&reference, "", &mut known);
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let best = known
        .iter()
        .map(|candidate| {
            let whole = strsim::normalized_damerau_levenshtein(key, candidate);
            let name = strsim::normalized_damerau_levenshtein(&last(key), &last(candidate));
            (whole.max(name * 0.95), candidate)
        })
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((likeness, candidate)) if likeness > 0.5 => format!(": did you mean `{candidate}`?"),
        _ => ". `des config` prints every key".to_owned(),
    }
}

fn collect_keys(value: &Value, prefix: &str, keys: &mut Vec<String>) {
    if let Value::Object(entries) = value {
        for (name, item) in entries {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            collect_keys(item, &key, keys);
            keys.push(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<RawConfig, String> {
        let variable = |name: &str| (name == "HOST").then(|| "db \"1\": x".to_owned());
        parse(Path::new("c.yaml"), text, &variable).map_err(|error| error.to_string())
    }

    #[test]
    fn variables_are_replaced_and_cannot_break_the_syntax() {
        let config = parse_text(
            "database: {url: \"postgresql://${HOST}/x\", lag_days: \"${LAG:9}\", table_name: '$${a}'}",
        )
        .expect("valid");
        assert_eq!(config.database.url.expect("set").0, "postgresql://db \"1\": x/x");
        assert_eq!(config.database.lag_days.expect("set").0, 9);
        assert_eq!(config.database.table_name.expect("set"), "${a}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("database: {url: \"${NOPE}\"}", "${NOPE} in `database.url` is not set"),
            ("databse: {url: x}", "there is no key `databse`: did you mean `database`?"),
            ("database: {tablename: x}", "did you mean `database.table_name`?"),
            ("packer: {zzqq: 1}", "there is no key `packer.zzqq`"),
            (
                "database: {lag_days: seven}",
                "`database.lag_days`: `seven` is not a value of type i64",
            ),
            ("database: [1]", "`database`: it must be a section"),
            ("database: here", "`database`: it must be a section"),
            ("packer: {compression: [true]}", "`packer.compression`: it must be a section"),
            ("[database]", "`the file`: it must be a section"),
            ("worker: {memory: lots}", "`worker.memory`: `lots` is not a size"),
            (
                "worker: {drain_timeout: soon}",
                "`worker.drain_timeout`: `soon` is not a length of time",
            ),
            ("database: {url: [}", "is not valid YAML"),
        ];
        for (text, expected) in cases {
            let error = parse_text(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn an_empty_file_and_empty_sections_are_absent_keys() {
        assert!(parse_text("").expect("valid").database.url.is_none());
        assert!(parse_text("database:\nbroker:\n").expect("valid").broker.is_none());
    }

    #[test]
    fn secrets_do_not_print() {
        let config = parse_text("database: {url: \"postgresql://u:hunter2@h/d\"}").expect("valid");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
