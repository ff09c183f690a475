//! Parameters that become settings of the configuration file, and the names of its sections.

use serde_json::{Value as Json, json};
use toml_edit::{Array, Table, Value};

use super::error::ApiError;
use super::params::Params;
use crate::auth::is_safe_id;
use crate::config::{self, ByteCount};

/// What is written into one section.
#[derive(Debug, Default)]
pub(crate) struct Settings(Vec<(&'static str, Value)>);

impl Settings {
    /// Takes the parameters with these names as texts.
    pub(crate) fn take_texts(
        &mut self,
        params: &mut Params,
        names: &[&'static str],
    ) -> Result<(), ApiError> {
        for name in names {
            if let Some(text) = params.optional::<String>(name)? {
                self.0.push((name, text.into()));
            }
        }
        Ok(())
    }

    /// Takes the parameters with these names as lists of at most `max` texts.
    pub(crate) fn take_lists(
        &mut self,
        params: &mut Params,
        names: &[&'static str],
        max: usize,
    ) -> Result<(), ApiError> {
        for name in names {
            let list = params.list::<String>(name, max)?;
            if !list.is_empty() {
                self.0
                    .push((name, list.into_iter().collect::<Array>().into()));
            }
        }
        Ok(())
    }

    /// Takes the parameters with these names as sizes, such as `10 GiB`.
    pub(crate) fn take_sizes(
        &mut self,
        params: &mut Params,
        names: &[&'static str],
    ) -> Result<(), ApiError> {
        for name in names {
            if let Some(size) = params.optional::<ByteCount>(name)? {
                self.0.push((name, size.to_string().into()));
            }
        }
        Ok(())
    }

    /// Takes the parameters with these names as numbers.
    pub(crate) fn take_numbers(
        &mut self,
        params: &mut Params,
        names: &[&'static str],
    ) -> Result<(), ApiError> {
        for name in names {
            if let Some(number) = params.integer(name, 0..=i64::MAX)? {
                self.0.push((name, number.into()));
            }
        }
        Ok(())
    }

    /// Takes the parameter with this name as a boolean.
    pub(crate) fn take_flag(
        &mut self,
        params: &mut Params,
        name: &'static str,
    ) -> Result<(), ApiError> {
        if let Some(flag) = params.flag(name)? {
            self.0.push((name, flag.into()));
        }
        Ok(())
    }

    /// What `before` becomes when the settings named in `unset` go and these come.
    pub(crate) fn over(&self, mut before: Json, unset: &[String]) -> Json {
        for name in unset {
            if let Some(members) = before.as_object_mut() {
                members.remove(name);
            }
        }
        for (name, value) in &self.0 {
            before[*name] = match value {
                Value::String(text) => json!(text.value()),
                Value::Integer(number) => json!(number.value()),
                Value::Boolean(flag) => json!(flag.value()),
                other => json!(other.to_string()),
            };
        }
        before
    }

    /// A table of them alone.
    pub(crate) fn table(self) -> Table {
        let mut table = Table::new();
        self.write(&mut table);
        table
    }

    /// Adds a setting.
    pub(crate) fn add(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.push((name, value.into()));
    }

    /// The names of what was taken.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|(name, _)| *name)
    }

    /// Writes them into a section, without what is named in `unset`.
    pub(crate) fn change(self, table: &mut Table, unset: &[String]) {
        for name in unset {
            config::set(table, name, None::<Value>);
        }
        self.write(table);
    }

    /// Writes them into a section.
    pub(crate) fn write(self, table: &mut Table) {
        for (name, value) in self.0 {
            config::set(table, name, Some(value));
        }
    }
}

/// Refuses to take away a setting that is not `optional`, or that is given in the same call.
pub(crate) fn check_unset(
    settings: &Settings,
    unset: &[String],
    optional: &[&str],
) -> Result<(), ApiError> {
    let mut names = unset.iter();
    if let Some(name) = names.find(|name| !optional.contains(&name.as_str())) {
        return Err(ApiError::bad_request(format!(
            "parameter verification failed: 'delete': '{name}' is no setting that can be taken away"
        )));
    }
    let mut given = settings.names();
    match given.find(|name| unset.iter().any(|gone| gone == name)) {
        Some(name) => Err(ApiError::bad_request(format!(
            "parameter verification failed: '{name}' is given, and named in 'delete'"
        ))),
        None => Ok(()),
    }
}

/// Takes the name of a new section.
pub(crate) fn take_name(params: &mut Params, key: &str) -> Result<String, ApiError> {
    let name: String = params.required(key)?;
    if is_safe_id(&name) && (3..=32).contains(&name.len()) {
        return Ok(name);
    }
    Err(ApiError::bad_request(format!(
        "parameter verification failed: '{key}' must be 3 to 32 letters, digits, '_', '.' and '-'"
    )))
}
