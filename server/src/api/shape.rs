//! What an answer looks like: for the OpenAPI document, and for the check of every answer in debug builds.

use serde_json::{Map, Value, json};

use super::parameter::{Kind, Parameter};

/// What a JSON value looks like.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// Nothing.
    Null,
    /// A text.
    Text,
    /// The id of a task.
    Upid,
    /// An integer.
    Integer,
    /// Yes or no.
    Flag,
    /// Whatever another server, or a program of ours, has written.
    Any,
    /// Any number of these.
    List(&'static Shape),
    /// An object with these members, in parts.
    Object(&'static [&'static [Member]]),
    /// The settings of a section as they are configured, those that are defaults left out, and members beside them.
    Section(
        &'static [&'static [Parameter]],
        &'static [&'static [Member]],
    ),
    /// An object with members of this shape, by names that are data.
    Map(&'static Shape),
    /// One of these.
    Either(&'static [Shape]),
}

/// A member of an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    name: &'static str,
    shape: Shape,
    always: bool,
}

/// A member that is always there.
pub(crate) const fn always(name: &'static str, shape: Shape) -> Member {
    Member {
        name,
        shape,
        always: true,
    }
}

/// A member that may be left out.
pub(crate) const fn maybe(name: &'static str, shape: Shape) -> Member {
    Member {
        name,
        shape,
        always: false,
    }
}

/// A setting as answers show it; a secret is in none.
fn setting(parameter: &Parameter) -> Option<Member> {
    let shape = match parameter.kind {
        Kind::Text | Kind::Word(_) => Shape::Text,
        Kind::Size | Kind::Integer(..) => Shape::Integer,
        Kind::Flag => Shape::Flag,
        Kind::List(_) => Shape::List(&Shape::Text),
        Kind::Ignored => return None,
    };
    Some(maybe(parameter.name, shape))
}

fn members(parts: &[&[Member]]) -> Vec<Member> {
    parts.concat()
}

fn section(settings: &[&[Parameter]], parts: &[&[Member]]) -> Vec<Member> {
    let mut all = members(parts);
    for member in settings.iter().copied().flatten().filter_map(setting) {
        if !all.iter().any(|known| known.name == member.name) {
            all.push(member);
        }
    }
    all
}

/// The JSON schema of an object with these members.
pub(crate) fn object_schema(members: &[Member]) -> Value {
    let properties: Map<String, Value> = members
        .iter()
        .map(|member| (member.name.to_owned(), member.shape.schema()))
        .collect();
    let required: Vec<&str> = members
        .iter()
        .filter(|member| member.always)
        .map(|member| member.name)
        .collect();
    let mut schema = json!({ "type": "object", "properties": properties });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// What is wrong with an object, if anything.
pub(crate) fn object_fault(members: &[Member], value: &Value) -> Option<String> {
    let Some(object) = value.as_object() else {
        return Some("is no object".to_owned());
    };
    let left_out = members
        .iter()
        .find(|member| member.always && !object.contains_key(member.name));
    if let Some(member) = left_out {
        return Some(format!("has no '{}'", member.name));
    }
    object.iter().find_map(|(name, value)| {
        let member = members.iter().find(|member| member.name == name);
        match member {
            None => Some(format!("has an undeclared '{name}'")),
            Some(member) => {
                let fault = member.shape.fault(value)?;
                Some(format!("'{name}' {fault}"))
            }
        }
    })
}

impl Shape {
    /// The JSON schema of it. Objects may get more members in later releases.
    pub(crate) fn schema(self) -> Value {
        match self {
            Self::Null => json!({ "type": "null" }),
            Self::Text => json!({ "type": "string" }),
            Self::Upid => json!({ "$ref": "#/components/schemas/upid" }),
            Self::Integer => json!({ "type": "integer" }),
            Self::Flag => json!({ "type": "boolean" }),
            Self::Any => json!({}),
            Self::List(of) => json!({ "type": "array", "items": of.schema() }),
            Self::Object(parts) => object_schema(&members(parts)),
            Self::Section(settings, parts) => object_schema(&section(settings, parts)),
            Self::Map(of) => json!({ "type": "object", "additionalProperties": of.schema() }),
            Self::Either(shapes) => {
                let schemas: Vec<Value> = shapes.iter().map(|shape| shape.schema()).collect();
                json!({ "anyOf": schemas })
            }
        }
    }

    /// In which way a value is not of this shape; members that are not declared count.
    pub(crate) fn fault(self, value: &Value) -> Option<String> {
        let unless = |is: bool, what: &str| (!is).then(|| format!("is no {what}"));
        match self {
            Self::Null => unless(value.is_null(), "null"),
            Self::Text => unless(value.is_string(), "text"),
            Self::Upid => {
                let begins = |text: &str| text.starts_with("UPID:");
                unless(value.as_str().is_some_and(begins), "task id")
            }
            Self::Integer => unless(value.is_i64() || value.is_u64(), "integer"),
            Self::Flag => unless(value.is_boolean(), "boolean"),
            Self::Any => None,
            Self::List(of) => match value.as_array() {
                None => Some("is no list".to_owned()),
                Some(list) => list.iter().find_map(|element| of.fault(element)),
            },
            Self::Object(parts) => object_fault(&members(parts), value),
            Self::Section(settings, parts) => object_fault(&section(settings, parts), value),
            Self::Map(of) => match value.as_object() {
                None => Some("is no object".to_owned()),
                Some(object) => object.values().find_map(|member| of.fault(member)),
            },
            Self::Either(shapes) => {
                let faults: Option<Vec<String>> =
                    shapes.iter().map(|shape| shape.fault(value)).collect();
                faults.map(|faults| faults.join(", and "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const SHAPE: Shape = Shape::Object(&[
        &[
            always("id", Shape::Text),
            maybe("sizes", Shape::List(&Shape::Integer)),
        ],
        &[maybe(
            "of",
            Shape::Either(&[Shape::Null, Shape::Map(&Shape::Flag)]),
        )],
    ]);

    #[rstest]
    #[case(json!({ "id": "a" }), None)]
    #[case(json!({ "id": "a", "sizes": [1, 2], "of": { "x": true } }), None)]
    #[case(json!({ "id": "a", "of": null }), None)]
    #[case(json!([]), Some("is no object"))]
    #[case(json!({}), Some("has no 'id'"))]
    #[case(json!({ "id": 1 }), Some("'id' is no text"))]
    #[case(json!({ "id": "a", "sizes": [1, 2.5] }), Some("'sizes' is no integer"))]
    #[case(json!({ "id": "a", "more": 1 }), Some("has an undeclared 'more'"))]
    #[case(json!({ "id": "a", "of": { "x": 1 } }), Some("'of' is no null, and is no boolean"))]
    fn what_is_not_of_the_shape_is_told(#[case] value: Value, #[case] fault: Option<&str>) {
        assert_eq!(SHAPE.fault(&value).as_deref(), fault);
    }
}
