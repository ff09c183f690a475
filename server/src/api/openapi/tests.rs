//! Tests of the document.

use std::collections::BTreeSet;

use super::*;

/// Every operation with its path.
fn operations(document: &Value) -> Vec<(&str, &Value)> {
    let paths = document["paths"].as_object().expect("paths");
    paths
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().expect("methods");
            methods
                .values()
                .map(move |operation| (path.as_str(), operation))
        })
        .collect()
}

fn names<'a>(operation: &'a Value, place: &str) -> Vec<&'a str> {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    parameters
        .filter(|parameter| parameter["in"] == place)
        .map(|parameter| parameter["name"].as_str().expect("a name"))
        .collect()
}

#[test]
fn every_call_is_an_operation_of_its_own() {
    let document = document();
    let operations = operations(&document);
    assert_eq!(operations.len(), rows().count());
    let ids: BTreeSet<&str> = operations
        .iter()
        .map(|(_, operation)| operation["operationId"].as_str().expect("an id"))
        .collect();
    assert_eq!(ids.len(), operations.len(), "ids are unique");
}

#[test]
fn every_summary_is_one_sentence() {
    for (method, pattern, endpoint) in rows() {
        let summary = &endpoint.declared.summary;
        assert!(
            summary.starts_with(char::is_uppercase)
                && !summary.ends_with('.')
                && summary.len() < 100,
            "{method} {pattern}: {summary:?}"
        );
    }
}

#[test]
fn the_variables_of_a_path_are_its_parameters() {
    let document = document();
    for (path, operation) in operations(&document) {
        let variables = path.split('/').filter_map(|segment| {
            let segment = segment.strip_prefix('{')?;
            segment.strip_suffix('}')
        });
        let variables: BTreeSet<&str> = variables.collect();
        let declared = names(operation, "path");
        assert_eq!(BTreeSet::from_iter(declared), variables, "{path}");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let required = parameter["required"].as_bool().expect("a boolean");
            assert!(required || parameter["in"] != "path", "{path}: {parameter}");
        }
    }
}

#[test]
fn no_parameter_is_there_twice_and_each_is_explained() {
    for (method, pattern, endpoint) in rows() {
        let parameters = &endpoint.declared.parameters;
        let names: BTreeSet<&str> = parameters.iter().map(|parameter| parameter.name).collect();
        assert_eq!(
            names.len(),
            parameters.len(),
            "{method} {pattern}: {names:?}"
        );
        for parameter in parameters {
            let about = parameter.about;
            assert!(!about.is_empty() && !about.ends_with('.'), "{parameter:?}");
        }
    }
}

#[test]
fn only_what_is_open_needs_no_credentials() {
    let document = document();
    let open: BTreeSet<&str> = operations(&document)
        .into_iter()
        .filter(|(_, operation)| operation["security"] == json!([]))
        .map(|(_, operation)| operation["operationId"].as_str().expect("an id"))
        .collect();
    let expected = [
        "delete-access-ticket",
        "get-access-domains",
        "get-ping",
        "post-access-ticket",
    ];
    assert_eq!(open, BTreeSet::from(expected));
}

#[test]
fn parameters_are_where_their_method_has_them() {
    let document = document();
    let paths = &document["paths"];
    let groups = &paths["/admin/datastore/{store}/groups"]["delete"];
    assert_eq!(
        names(groups, "query"),
        ["ns", "backup-type", "backup-id", "error-on-protected"]
    );
    assert!(groups["requestBody"].is_null());
    let notes = &paths["/admin/datastore/{store}/notes"]["put"];
    assert!(names(notes, "query").is_empty());
    let schema = &notes["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(
        schema["required"],
        json!(["backup-type", "backup-id", "backup-time", "notes"])
    );
    assert_eq!(schema["additionalProperties"], json!(false));
    assert_eq!(
        schema["properties"]["backup-type"]["enum"],
        json!(["ct", "host", "vm"])
    );
    let log = &paths["/admin/datastore/{store}/upload-backup-log"]["post"];
    assert_eq!(
        names(log, "query"),
        ["ns", "backup-type", "backup-id", "backup-time"]
    );
    assert!(log["requestBody"]["content"]["application/octet-stream"].is_object());
}

#[test]
fn every_reference_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(to)) = members.get("$ref") {
                    found.push(to);
                }
                members
                    .values()
                    .for_each(|member| references(member, found));
            }
            Value::Array(elements) => elements.iter().for_each(|one| references(one, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for to in found {
        let pointer = to.strip_prefix('#').expect("within the document");
        assert!(document.pointer(pointer).is_some(), "{to}");
    }
}
