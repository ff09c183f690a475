//! What is wrong with a configuration, all of it at once, each with its place.
//!
//! Deserialisation stops at the first fault of a table. [`Section::read`] therefore takes the setting it stopped at out
//! of a copy of the table, notes the fault, and reads again, until the rest is right.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::{Range, RangeInclusive};

use serde::de::DeserializeOwned;
use toml_edit::{DocumentMut, Item, Key, Table};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The table and setting, such as `datastore.main.cache-dir`; empty for the file as a whole.
    pub(crate) place: String,
    /// Line in the file, from 1, where it is known.
    pub(crate) line: Option<usize>,
    /// What is wrong, in one sentence.
    pub(crate) message: String,
}

impl Fault {
    /// The sentence and what it is about, without a line: for settings that came from no file.
    pub(super) fn without_line(&self) -> String {
        let line = None;
        Self {
            line,
            ..self.clone()
        }
        .to_string()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(&self.message)
    }
}

/// The faults found so far in one text.
#[derive(Debug)]
pub(super) struct Faults<'a> {
    text: &'a str,
    list: Vec<Fault>,
}

impl<'a> Faults<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        Self {
            text,
            list: Vec::new(),
        }
    }

    pub(super) fn add(
        &mut self,
        place: impl Into<String>,
        span: Option<Range<usize>>,
        message: impl fmt::Display,
    ) {
        let line = span.map(|span| {
            let before = self.text.get(..span.start).unwrap_or(self.text);
            before.bytes().filter(|byte| *byte == b'\n').count() + 1
        });
        let message = message.to_string();
        let lines: Vec<&str> = message.lines().map(str::trim).collect();
        self.list.push(Fault {
            place: place.into(),
            line,
            message: lines.join("; "),
        });
    }

    /// `value`, unless there is a fault; the faults in the order of their lines.
    pub(super) fn or<T>(mut self, value: T) -> Result<T, Vec<Fault>> {
        if self.list.is_empty() {
            return Ok(value);
        }
        self.list
            .sort_by(|a, b| (a.line, &a.place).cmp(&(b.line, &b.place)));
        Err(self.list)
    }
}

/// `parent.name`, the name quoted where TOML needs it.
pub(super) fn place(parent: &str, name: &str) -> String {
    if parent.is_empty() {
        Key::new(name).to_string()
    } else {
        format!("{parent}.{}", Key::new(name))
    }
}

/// One table while it is checked.
#[derive(Debug)]
pub(super) struct Section {
    place: String,
    table: Table,
    span: Option<Range<usize>>,
    /// Settings that are faulty already; nothing else is said about them.
    faulty: BTreeSet<String>,
}

impl Section {
    /// The table `item`, noting a fault if it is none.
    pub(super) fn of(faults: &mut Faults<'_>, place: String, item: &Item) -> Option<Self> {
        let table = match item {
            Item::Table(table) => table.clone(),
            Item::Value(toml_edit::Value::InlineTable(table)) => table.clone().into_table(),
            _ => {
                faults.add(&place, item.span(), format!("must be a table, [{place}]"));
                return None;
            }
        };
        Some(Self {
            span: item.span(),
            place,
            table,
            faulty: BTreeSet::new(),
        })
    }

    /// The tables below this one, such as `[datastore.NAME]` below `[datastore]`.
    pub(super) fn children(&self, faults: &mut Faults<'_>) -> Vec<(String, Self)> {
        let mut children = Vec::new();
        for (name, item) in &self.table {
            let below = place(&self.place, name);
            if let Some(child) = Self::of(faults, below, item) {
                children.push((name.to_owned(), child));
            }
        }
        children
    }

    /// Moves the settings with these names into a section of their own, which has the same place.
    pub(super) fn split(&mut self, names: &[&str]) -> Self {
        let mut table = Table::new();
        for name in names {
            if let Some((key, item)) = self.table.remove_entry(name) {
                table.insert_formatted(&key, item);
            }
        }
        Self {
            place: self.place.clone(),
            table,
            span: self.span.clone(),
            faulty: BTreeSet::new(),
        }
    }

    /// Reads the table as `T`, whose fields all have defaults. `None` only if nothing can be read at all.
    pub(super) fn read<T: DeserializeOwned>(&mut self, faults: &mut Faults<'_>) -> Option<T> {
        loop {
            let error = match toml_edit::de::from_document(DocumentMut::from(self.table.clone())) {
                Ok(value) => return Some(value),
                Err(error) => error,
            };
            let span = error.span();
            let Some(key) = self.key_at(span.as_ref(), error.message()) else {
                let span = span.or_else(|| self.span.clone());
                faults.add(&self.place, span, error.message());
                return None;
            };
            faults.add(place(&self.place, &key), span, error.message());
            self.table.remove(&key);
            self.faulty.insert(key);
        }
    }

    /// The setting an error of the deserialiser is about.
    fn key_at(&self, span: Option<&Range<usize>>, message: &str) -> Option<String> {
        let names = || self.table.iter().map(|(name, _)| name.to_owned());
        let by_span = span.and_then(|span| {
            names().find(|name| {
                let holds = |range: Option<Range<usize>>| {
                    range.is_some_and(|range| range.start <= span.start && span.end <= range.end)
                };
                self.table
                    .get_key_value(name)
                    .is_some_and(|(key, item)| holds(key.span()) || holds(item.span()))
            })
        });
        by_span
            .or_else(|| names().find(|name| message.contains(&format!("unknown field `{name}`"))))
    }

    /// Notes a fault of the setting `key`, unless one was noted before.
    pub(super) fn fault(&mut self, faults: &mut Faults<'_>, key: &str, message: impl fmt::Display) {
        if !self.faulty.insert(key.to_owned()) {
            return;
        }
        let span = match self.table.get_key_value(key) {
            Some((key, item)) => item.span().or_else(|| key.span()),
            None => self.span.clone(),
        };
        faults.add(place(&self.place, key), span, message);
    }

    /// Notes a fault of the table as a whole.
    pub(super) fn fault_here(&self, faults: &mut Faults<'_>, message: impl fmt::Display) {
        faults.add(&self.place, self.span.clone(), message);
    }

    /// `value`, noting a fault if the setting is absent.
    pub(super) fn required<V>(
        &mut self,
        faults: &mut Faults<'_>,
        key: &str,
        value: Option<V>,
    ) -> Option<V> {
        if value.is_none() {
            self.fault(faults, key, "is required here");
        }
        value
    }

    /// Notes a fault unless `value` lies in `bounds`.
    pub(super) fn bounded<V: PartialOrd + fmt::Display>(
        &mut self,
        faults: &mut Faults<'_>,
        key: &str,
        value: &V,
        bounds: &RangeInclusive<V>,
    ) {
        if !bounds.contains(value) {
            let (low, high) = (bounds.start(), bounds.end());
            self.fault(
                faults,
                key,
                format!("must be between {low} and {high}, not {value}"),
            );
        }
    }

    /// The settings as texts, noting a fault for each that is none.
    pub(super) fn texts(&mut self, faults: &mut Faults<'_>) -> Vec<(String, String)> {
        let mut texts = Vec::new();
        let mut others = Vec::new();
        for (name, item) in &self.table {
            match item.as_str() {
                Some(text) => texts.push((name.to_owned(), text.to_owned())),
                None => others.push(name.to_owned()),
            }
        }
        for name in others {
            self.fault(faults, &name, "must be a text in quotes");
        }
        texts
    }
}
