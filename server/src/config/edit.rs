//! Changes to a settings document that leave everything else in it, comments included, as it is.

use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, Value};

use crate::auth::AclEntry;

/// The table `[kind.name]`, made if it is missing.
pub(crate) fn section<'a>(
    document: &'a mut DocumentMut,
    kind: &str,
    name: &str,
) -> Result<&'a mut Table, String> {
    let parent = document.entry(kind).or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    let parent = parent
        .as_table_mut()
        .ok_or_else(|| format!("[{kind}] must be a table"))?;
    parent
        .entry(name)
        .or_insert_with(|| Item::Table(Table::new()))
        .as_table_mut()
        .ok_or_else(|| format!("[{kind}.{name}] must be a table"))
}

/// Whether there is a table `[kind.name]`.
pub(crate) fn has_section(document: &DocumentMut, kind: &str, name: &str) -> bool {
    document
        .get(kind)
        .and_then(|parent| parent.get(name))
        .is_some()
}

/// Removes the setting or table `kind.name`; answers whether there was one.
pub(crate) fn remove(document: &mut DocumentMut, kind: &str, name: &str) -> bool {
    document
        .get_mut(kind)
        .and_then(Item::as_table_like_mut)
        .is_some_and(|parent| parent.remove(name).is_some())
}

/// Sets `key` of `table`, keeping the comment behind an old value; `None` removes the setting.
pub(crate) fn set<V: Into<Value>>(table: &mut Table, key: &str, value: Option<V>) {
    let Some(value) = value else {
        table.remove(key);
        return;
    };
    let mut value: Value = value.into();
    match table.get_mut(key) {
        Some(Item::Value(old)) => {
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        _ => {
            table.insert(key, Item::Value(value));
        }
    }
}

/// Sets `key` of the table `[kind]`, made if it is missing.
pub(crate) fn set_in<V: Into<Value>>(
    document: &mut DocumentMut,
    kind: &str,
    key: &str,
    value: Option<V>,
) -> Result<(), String> {
    let table = document
        .entry(kind)
        .or_insert_with(|| Item::Table(Table::new()));
    let table = table
        .as_table_mut()
        .ok_or_else(|| format!("[{kind}] must be a table"))?;
    set(table, key, value);
    Ok(())
}

fn acl_tables(document: &mut DocumentMut) -> Result<&mut ArrayOfTables, String> {
    document
        .entry("acl")
        .or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()))
        .as_array_of_tables_mut()
        .ok_or_else(|| "acl must be a list of tables, [[acl]]".into())
}

fn says(table: &Table, key: &str, text: &str) -> bool {
    table.get(key).and_then(Item::as_str) == Some(text)
}

/// Gives a right. An entry of the same path, id and role is replaced.
pub(crate) fn add_acl(document: &mut DocumentMut, entry: &AclEntry) -> Result<(), String> {
    remove_acl(document, entry)?;
    let mut table = Table::new();
    set(&mut table, "path", Some(entry.path.to_string()));
    set(&mut table, "id", Some(entry.id.to_string()));
    set(&mut table, "role", Some(entry.role.name()));
    if !entry.propagate {
        set(&mut table, "propagate", Some(false));
    }
    acl_tables(document)?.push(table);
    Ok(())
}

/// Takes a right away; answers whether there was one. Whether it propagates does not matter.
pub(crate) fn remove_acl(document: &mut DocumentMut, entry: &AclEntry) -> Result<bool, String> {
    let (path, id, role) = (
        entry.path.to_string(),
        entry.id.to_string(),
        entry.role.name(),
    );
    retain_acl(document, |table| {
        !(says(table, "path", &path) && says(table, "id", &id) && says(table, "role", role))
    })
}

/// Takes away all rights of `id`; answers whether there were any.
pub(crate) fn remove_acl_of(document: &mut DocumentMut, id: &str) -> Result<bool, String> {
    retain_acl(document, |table| !says(table, "id", id))
}

fn retain_acl(
    document: &mut DocumentMut,
    keep: impl FnMut(&Table) -> bool,
) -> Result<bool, String> {
    if !document.contains_key("acl") {
        return Ok(false);
    }
    let tables = acl_tables(document)?;
    let before = tables.len();
    tables.retain(keep);
    Ok(tables.len() < before)
}
