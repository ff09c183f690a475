//! Parameters that become settings of the configuration file, and the names of its sections.

use serde_json::{Value as Json, json};
use toml_edit::{Array, Table, Value};

use super::error::ApiError;
use super::parameter::{Kind, Parameter};
use super::params::Params;
use crate::auth::is_safe_id;
use crate::config::{self, ByteCount};

/// What is written into one section.
#[derive(Debug, Default)]
pub(crate) struct Settings(Vec<(&'static str, Value)>);

impl Settings {
    /// Takes the parameters of these lists, each as it is declared.
    pub(crate) fn take(
        params: &mut Params,
        declared: &[&'static [Parameter]],
    ) -> Result<Self, ApiError> {
        let mut settings = Self::default();
        for parameter in declared.iter().copied().flatten() {
            if let Some(value) = take_value(params, parameter)? {
                settings.0.push((parameter.name, value));
            }
        }
        Ok(settings)
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

/// What was given for a setting, as it is written into the file.
fn take_value(params: &mut Params, parameter: &Parameter) -> Result<Option<Value>, ApiError> {
    let name = parameter.name;
    Ok(match parameter.kind {
        Kind::Text | Kind::Word(_) => params.optional::<String>(name)?.map(Value::from),
        Kind::Size => params
            .optional::<ByteCount>(name)?
            .map(|size| size.to_string().into()),
        Kind::Integer(least, most) => params.integer(name, least..=most)?.map(Value::from),
        Kind::Flag => params.flag(name)?.map(Value::from),
        Kind::List(most) => {
            let list = params.list::<String>(name, most)?;
            (!list.is_empty()).then(|| list.into_iter().collect::<Array>().into())
        }
        Kind::Ignored => {
            params.ignore(&[name]);
            None
        }
    })
}

/// The names of the settings in these lists.
pub(crate) fn names(declared: &[&'static [Parameter]]) -> Vec<&'static str> {
    let settings = declared.iter().copied().flatten();
    let settings = settings.filter(|parameter| !matches!(parameter.kind, Kind::Ignored));
    settings.map(|parameter| parameter.name).collect()
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
