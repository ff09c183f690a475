//! `GET /openapi`: all calls as an OpenAPI 3.1 document, made from the table that they are answered by.
//!
//! Parameters may come in more ways than it says: in a query, a form or a JSON body, numbers and booleans as texts too. It names one way for
//! each call: path and query, and a JSON body for POST and PUT.

use std::sync::{Arc, LazyLock};

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::call::{Access, Answer, BodyKind, Call, CallResult, Endpoint, RouteEntry};
use super::declared::Returns;
use super::parameter::{Kind, Parameter};
use super::shape::object_schema;
use super::table::rows;
use crate::daemon::Daemon;

/// What the answer is.
pub(super) const CONTENT_TYPE: &str = "application/json";

/// What the table gives, as it is sent.
static TEXT: LazyLock<String> = LazyLock::new(|| document().to_string());

/// `GET /openapi`
pub(crate) async fn show(_: Arc<Daemon>, call: Call) -> CallResult {
    call.params.finish()?;
    Ok(Answer::Plain {
        content_type: CONTENT_TYPE,
        text: TEXT.clone(),
    })
}

/// The document.
pub(crate) fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for row in rows() {
        let path = paths.entry(format!("/{}", row.1)).or_insert(json!({}));
        path[row.0.as_str().to_lowercase()] = operation(&row);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Holdfast",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The REST API of a backup chunk store that speaks the Proxmox Backup protocol. Parameters of a POST or PUT may also come in the query or in a form (application/x-www-form-urlencoded), numbers and booleans as texts, lists as repeated names; a JSON body replaces the query. A parameter that is not named here is refused.",
            "license": {
                "name": env!("CARGO_PKG_LICENSE"),
                "identifier": env!("CARGO_PKG_LICENSE"),
            },
        },
        "servers": [{ "url": "/api2/json" }],
        "paths": paths,
        "components": {
            "securitySchemes": security_schemes(),
            "responses": refusals(),
            "schemas": {
                "upid": {
                    "type": "string",
                    "pattern": "^UPID:",
                    "description": "The id of a task.",
                },
            },
        },
    })
}

fn operation((method, pattern, endpoint): &RouteEntry) -> Value {
    let declared = &endpoint.declared;
    let (in_body, beside): (Vec<&Parameter>, Vec<&Parameter>) =
        declared.parameters.iter().partition(|parameter| {
            let sends_json = [Method::POST, Method::PUT].contains(method);
            let params = endpoint.body == BodyKind::Params;
            sends_json && params && !is_variable(pattern, parameter.name)
        });
    let beside: Vec<Value> = beside
        .iter()
        .map(|parameter| beside_body(pattern, parameter))
        .collect();
    let mut operation = json!({
        "operationId": operation_id(method, pattern),
        "summary": declared.summary,
        "tags": [pattern.split('/').next()],
        "security": security(method, endpoint.access),
        "responses": responses(method, pattern, endpoint),
    });
    if !beside.is_empty() {
        operation["parameters"] = json!(beside);
    }
    match endpoint.body {
        BodyKind::Upload(bytes_max) => {
            let content = json!({ "application/octet-stream": {
                "schema": { "maxLength": bytes_max },
            } });
            operation["requestBody"] = json!({ "required": true, "content": content });
        }
        BodyKind::Params if !in_body.is_empty() => {
            let content = json!({ "application/json": { "schema": body_schema(&in_body) } });
            let required = in_body.iter().any(|parameter| parameter.required);
            operation["requestBody"] = json!({ "required": required, "content": content });
        }
        BodyKind::Params => {}
    }
    operation
}

fn is_variable(pattern: &str, name: &str) -> bool {
    pattern
        .split('/')
        .any(|segment| segment == format!("{{{name}}}"))
}

/// A parameter of the path or the query.
fn beside_body(pattern: &str, parameter: &Parameter) -> Value {
    let variable = is_variable(pattern, parameter.name);
    let schema = match parameter.kind {
        Kind::Ignored if variable => Kind::Text.schema(),
        kind => kind.schema(),
    };
    json!({
        "name": parameter.name,
        "in": if variable { "path" } else { "query" },
        "required": parameter.required,
        "description": format!("{}.", parameter.about),
        "schema": schema,
    })
}

fn body_schema(parameters: &[&Parameter]) -> Value {
    let property = |parameter: &&Parameter| {
        let mut schema = parameter.kind.schema();
        schema["description"] = json!(format!("{}.", parameter.about));
        (parameter.name.to_owned(), schema)
    };
    let properties: Map<String, Value> = parameters.iter().map(property).collect();
    let required = parameters.iter().filter(|parameter| parameter.required);
    let required: Vec<&str> = required.map(|parameter| parameter.name).collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// Such as `get-config-datastore-name`.
fn operation_id(method: &Method, pattern: &str) -> String {
    let path = pattern.replace(['{', '}'], "").replace('/', "-");
    format!("{}-{path}", method.as_str().to_lowercase())
}

fn security(method: &Method, access: Access) -> Value {
    match access {
        Access::Anyone => json!([]),
        Access::Known if method == Method::GET => json!([{ "ticket": [] }, { "token": [] }]),
        Access::Known => json!([{ "ticket": [], "csrf": [] }, { "token": [] }]),
    }
}

fn security_schemes() -> Value {
    let key = |place: &str, name: &str, about: &str| json!({ "type": "apiKey", "in": place, "name": name, "description": about });
    json!({
        "ticket": key("cookie", "PBSAuthCookie", "The ticket of a login."),
        "csrf": key(
            "header",
            "CSRFPreventionToken",
            "The token of the same login; only what changes nothing goes without.",
        ),
        "token": key("header", "Authorization", "An API token: `PBSAPIToken=USER@REALM!NAME:SECRET`."),
    })
}

/// Why a call can be refused, but for that there is no such call.
const REFUSALS: [(StatusCode, &str); 10] = [
    (
        StatusCode::BAD_REQUEST,
        "What was sent, or what was asked for, cannot be done.",
    ),
    (StatusCode::UNAUTHORIZED, "Nobody knows who is asking."),
    (StatusCode::FORBIDDEN, "A privilege is missing."),
    (
        StatusCode::NOT_FOUND,
        "There is no such path, because a variable of it is empty; or no such file.",
    ),
    (
        StatusCode::REQUEST_TIMEOUT,
        "The body did not come in time.",
    ),
    (StatusCode::URI_TOO_LONG, "Path and query are too long."),
    (
        StatusCode::TOO_MANY_REQUESTS,
        "There were too many attempts.",
    ),
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        "A fault of the daemon, whose log says more.",
    ),
    (StatusCode::SERVICE_UNAVAILABLE, "Not now."),
    (StatusCode::INSUFFICIENT_STORAGE, "There is no room."),
];

/// The statuses of [`REFUSALS`] that a call can meet.
fn can_refuse(status: StatusCode, method: &Method, pattern: &str, access: Access) -> bool {
    let login = pattern == "access/ticket" && method == Method::POST;
    match status {
        StatusCode::UNAUTHORIZED => login || access == Access::Known,
        StatusCode::FORBIDDEN => access == Access::Known,
        StatusCode::NOT_FOUND => pattern.contains('{'),
        StatusCode::TOO_MANY_REQUESTS => login,
        StatusCode::INSUFFICIENT_STORAGE => method != Method::GET && access == Access::Known,
        _ => true,
    }
}

/// Their bodies are no JSON although they are sent as such, which is how clients know it. So they have no schema.
fn refusals() -> Value {
    let refusal = |(status, about): &(StatusCode, &str)| {
        let about = format!("{about} The body is one line of text, though it is sent as JSON.");
        let response = json!({ "description": about, "content": { "application/json": {} } });
        (status.as_str().to_owned(), response)
    };
    REFUSALS.iter().map(refusal).collect::<Map<_, _>>().into()
}

fn responses(method: &Method, pattern: &str, endpoint: &Endpoint) -> Value {
    let mut responses = Map::new();
    responses.insert("200".to_owned(), success(&endpoint.declared.returns));
    for (status, _) in REFUSALS {
        if can_refuse(status, method, pattern, endpoint.access) {
            let status = status.as_str();
            let refusal = json!({ "$ref": format!("#/components/responses/{status}") });
            responses.insert(status.to_owned(), refusal);
        }
    }
    responses.into()
}

fn success(returns: &Returns) -> Value {
    let mut content = Map::new();
    if let Some(members) = returns.members() {
        let schema = json!({ "schema": object_schema(&members) });
        content.insert("application/json".to_owned(), schema);
    }
    for content_type in returns.plain {
        content.insert((*content_type).to_owned(), json!({}));
    }
    json!({ "description": "Done.", "content": content })
}

#[cfg(test)]
mod tests;
