//! What the table says of a call, and how debug builds hold the code against it.
//!
//! The OpenAPI document is made of declarations, so they must be true. Every parameter that an endpoint takes must be declared,
//! with that kind; when it has taken all, every declared one must have been taken; and every answer must be of the declared shape. Each is
//! asserted in debug builds, which is what tests run. Release builds assert nothing of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::call::Answer;
use super::parameter::{Kind, Parameter};
use super::shape::{Member, Shape, always, object_fault};

/// What the table says of a call.
#[derive(Debug)]
pub(crate) struct Declared {
    /// What it does, in one sentence.
    pub(crate) summary: String,
    /// All its parameters, those of the path too.
    pub(crate) parameters: Vec<Parameter>,
    /// What it answers when all is well.
    pub(crate) returns: Returns,
}

/// What a call answers when all is well.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Returns {
    /// The shape of `data`; `None` if there is no JSON.
    data: Option<Shape>,
    /// Members beside `data`.
    beside: &'static [Member],
    /// The content types of an answer that is no JSON with `data`: a text, or a file.
    pub(crate) plain: &'static [&'static str],
}

/// `data` of this shape.
pub(crate) const fn data(shape: Shape) -> Returns {
    Returns {
        data: Some(shape),
        beside: &[],
        plain: &[],
    }
}

/// Nothing.
pub(crate) const NOTHING: Returns = data(Shape::Null);
/// The id of the task that was started.
pub(crate) const TASK: Returns = data(Shape::Upid);

/// `data` of this shape, and the digest of the configuration.
pub(crate) const fn configured(shape: Shape) -> Returns {
    data(shape).beside(DIGEST)
}

const DIGEST: &[Member] = &[always("digest", Shape::Text)];

/// A text of one of these types, or a file.
pub(crate) const fn plain(content_types: &'static [&'static str]) -> Returns {
    Returns {
        data: None,
        beside: &[],
        plain: content_types,
    }
}

impl Returns {
    /// The same, with members beside `data`.
    pub(crate) const fn beside(mut self, members: &'static [Member]) -> Self {
        self.beside = members;
        self
    }

    /// The same, or a text of one of these types.
    pub(crate) const fn or_plain(mut self, content_types: &'static [&'static str]) -> Self {
        self.plain = content_types;
        self
    }

    /// The members of the JSON answer; `None` if there is none.
    pub(crate) fn members(&self) -> Option<Vec<Member>> {
        let mut members = vec![always("data", self.data?)];
        members.extend_from_slice(self.beside);
        Some(members)
    }
}

impl Declared {
    /// A declaration; `parameters` come in lists, which calls share.
    pub(crate) fn new(
        summary: impl Into<String>,
        parameters: &[&[Parameter]],
        returns: Returns,
    ) -> Self {
        Self {
            summary: summary.into(),
            parameters: parameters.concat(),
            returns,
        }
    }

    /// The same, refused without these parameters.
    pub(crate) fn requiring(mut self, names: &[&str]) -> Self {
        for parameter in &mut self.parameters {
            parameter.required |= names.contains(&parameter.name);
        }
        self
    }

    fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters
            .iter()
            .find(|parameter| parameter.name == name)
    }

    /// Asserts that an answer is as declared.
    pub(crate) fn check(&self, answer: &Answer) {
        let content_type = match answer {
            Answer::Data(reply) => {
                let members = self.returns.members();
                let members = members.unwrap_or_else(|| panic!("undeclared JSON: {self:?}"));
                let value: Value = reply.to_json().expect("an answer is JSON");
                let fault = object_fault(&members, &value);
                assert!(fault.is_none(), "the answer {fault:?}: {value} {self:?}");
                return;
            }
            Answer::Plain { content_type, .. } => content_type,
            Answer::Text { .. } => Answer::TEXT,
            Answer::File { .. } => Answer::OCTETS,
        };
        let declared = self.returns.plain.contains(&content_type);
        assert!(declared, "undeclared {content_type}: {self:?}");
    }
}

/// Which of the declared parameters were taken.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    declared: Arc<Declared>,
    names: BTreeSet<String>,
}

impl Taken {
    /// None yet.
    pub(crate) fn none_of(declared: Arc<Declared>) -> Self {
        let names = BTreeSet::new();
        Self { declared, names }
    }

    /// Notes that `name` is taken, and asserts that its declaration is `fitting`.
    pub(crate) fn note(&mut self, name: &str, fitting: impl FnOnce(Kind) -> bool) {
        let found = self.declared.parameter(name);
        assert!(
            found.is_some_and(|parameter| fitting(parameter.kind)),
            "'{name}' is not declared as it is taken: {:?}",
            self.declared
        );
        self.names.insert(name.to_owned());
    }

    /// Asserts that the call is declared to be refused without `name`.
    pub(crate) fn demand(&self, name: &str) {
        let found = self.declared.parameter(name);
        assert!(
            found.is_some_and(|parameter| parameter.required),
            "'{name}' is not declared as required: {:?}",
            self.declared
        );
    }

    /// Asserts that nothing was declared that was not taken.
    pub(crate) fn finish(&self) {
        let mut declared = self.declared.parameters.iter();
        let left = declared.find(|parameter| !self.names.contains(parameter.name));
        assert!(left.is_none(), "nobody takes {left:?}: {:?}", self.declared);
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::api::parameter::{count, flag, text};
    use crate::api::{ApiError, Params, Reply};

    fn declared() -> Arc<Declared> {
        let parameters = [text("name", "A name").required(), count("most", "How many")];
        let returns = data(Shape::List(&Shape::Integer));
        Arc::new(Declared::new("Tries out", &[&parameters], returns))
    }

    fn params(query: &str) -> Params {
        let params = Params::gather([], Some(query), None, b"").expect("parameters");
        params.of_call(&declared())
    }

    #[test]
    fn what_is_declared_is_taken() {
        let mut params = params("name=a&most=3");
        assert_eq!(params.required::<String>("name"), Ok("a".to_owned()));
        assert_eq!(params.integer("most", 0..=i64::MAX), Ok(Some(3)));
        assert_eq!(params.finish(), Ok(()));
    }

    #[test]
    #[should_panic(expected = "'more' is not declared as it is taken")]
    fn nothing_else_is_taken() {
        drop(params("").optional::<String>("more"));
    }

    #[test]
    #[should_panic(expected = "'most' is not declared as it is taken")]
    fn nothing_is_taken_as_something_else() {
        drop(params("").flag("most"));
    }

    #[test]
    #[should_panic(expected = "'most' is not declared as it is taken")]
    fn bounds_are_those_that_are_declared() {
        drop(params("").integer("most", 0..=9));
    }

    #[test]
    #[should_panic(expected = "'most' is not declared as required")]
    fn what_is_demanded_is_declared_as_required() {
        drop(params("").required_integer("most", 0..=i64::MAX));
    }

    #[test]
    #[should_panic(expected = "nobody takes")]
    fn nothing_is_left() {
        let mut params = params("name=a");
        drop(params.required::<String>("name"));
        drop(params.finish());
    }

    #[test]
    fn lists_of_several_calls_are_one() {
        let parameters: [&[Parameter]; 2] = [&[text("a", "A")], &[flag("b", "B")]];
        let both = Declared::new("Tries out", &parameters, NOTHING).requiring(&["b"]);
        let required: Vec<bool> = both.parameters.iter().map(|one| one.required).collect();
        assert_eq!(required, [false, true]);
    }

    #[rstest]
    #[case(Reply::new(&[1, 2]))]
    #[should_panic(expected = "is no integer")]
    #[case(Reply::new(&["1"]))]
    #[should_panic(expected = "has an undeclared 'total'")]
    #[case(Reply::new(&[1]).and_then(|reply| reply.with("total", &1)))]
    fn answers_have_their_shape(#[case] reply: Result<Reply, ApiError>) {
        declared().check(&Answer::Data(reply.expect("a reply")));
    }

    #[test]
    #[should_panic(expected = "Tries out")]
    fn a_text_is_declared_as_one() {
        let text = String::new();
        let content_type = "text/csv";
        declared().check(&Answer::Plain { content_type, text });
    }
}
