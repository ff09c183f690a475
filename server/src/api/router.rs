//! Which endpoint a path and method belong to.
//!
//! A pattern is segments joined by `/`; `{name}` stands for any one segment, and a fixed segment counts before it. A node
//! of the tree without a GET of its own answers GET with the names below it.

use std::collections::BTreeMap;

use http::Method;

/// The tree of all endpoints, each with a `T`.
#[derive(Debug)]
pub(crate) struct Router<T> {
    root: Node<T>,
}

#[derive(Debug)]
struct Node<T> {
    fixed: BTreeMap<String, Node<T>>,
    variable: Option<(String, Box<Node<T>>)>,
    /// Methods are few; a list keeps their order.
    endpoints: Vec<(Method, T)>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self {
            fixed: BTreeMap::new(),
            variable: None,
            endpoints: Vec::new(),
        }
    }
}

impl<T> Default for Router<T> {
    fn default() -> Self {
        Self {
            root: Node::default(),
        }
    }
}

/// Where a request leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route<'a, T> {
    /// To an endpoint, with the values of the `{name}` segments.
    Endpoint {
        /// What was registered.
        endpoint: &'a T,
        /// Name and value of each variable segment.
        variables: Vec<(&'a str, String)>,
    },
    /// To the names below the path, sorted.
    Directory(Vec<&'a str>),
    /// The path exists, the method on it does not.
    MethodNotAllowed,
    /// Nowhere.
    NotFound,
}

impl<T> Router<T> {
    /// Adds an endpoint.
    ///
    /// # Panics
    /// If the method is taken on the pattern, or a variable of another name is in the same place: both are mistakes of
    /// the program.
    #[must_use]
    pub(crate) fn route(mut self, method: Method, pattern: &str, endpoint: T) -> Self {
        let mut node = &mut self.root;
        for segment in pattern.split('/').filter(|segment| !segment.is_empty()) {
            node = match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
                None => node.fixed.entry(segment.to_owned()).or_default(),
                Some(name) => {
                    let (known, below) = node
                        .variable
                        .get_or_insert_with(|| (name.to_owned(), Box::default()));
                    assert_eq!(known, name, "one variable per place, in '{pattern}'");
                    below
                }
            };
        }
        let taken = node.endpoints.iter().any(|(known, _)| *known == method);
        assert!(!taken, "{method} on '{pattern}' is there already");
        node.endpoints.push((method, endpoint));
        self
    }

    /// Finds the endpoint of a path, given as decoded segments.
    pub(crate) fn find(&self, method: &Method, segments: &[String]) -> Route<'_, T> {
        let mut node = &self.root;
        let mut variables = Vec::new();
        for segment in segments {
            node = match (node.fixed.get(segment), &node.variable) {
                (Some(below), _) => below,
                (None, Some((name, below))) => {
                    variables.push((name.as_str(), segment.clone()));
                    below
                }
                (None, None) => return Route::NotFound,
            };
        }
        match node.endpoints.iter().find(|(known, _)| known == method) {
            Some((_, endpoint)) => Route::Endpoint {
                endpoint,
                variables,
            },
            None if method == Method::GET && !node.fixed.is_empty() => {
                Route::Directory(node.fixed.keys().map(String::as_str).collect())
            }
            None if node.endpoints.is_empty() && node.fixed.is_empty() => Route::NotFound,
            None => Route::MethodNotAllowed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router() -> Router<u32> {
        Router::default()
            .route(Method::GET, "version", 1)
            .route(Method::GET, "admin/datastore", 2)
            .route(Method::GET, "admin/datastore/{store}/groups", 3)
            .route(Method::DELETE, "admin/datastore/{store}/groups", 4)
            .route(Method::POST, "admin/datastore/{store}/gc", 5)
            .route(Method::GET, "nodes/{node}/tasks/{upid}/log", 6)
    }

    fn find<'a>(router: &'a Router<u32>, method: &Method, path: &str) -> Route<'a, u32> {
        let segments: Vec<String> = path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(str::to_owned)
            .collect();
        router.find(method, &segments)
    }

    fn endpoint<'a>(endpoint: &'a u32, variables: &[(&'a str, &str)]) -> Route<'a, u32> {
        Route::Endpoint {
            endpoint,
            variables: variables
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn paths_lead_to_endpoints_directories_or_nowhere() {
        let router = router();
        let get = |path: &str| find(&router, &Method::GET, path);
        assert_eq!(get("version"), endpoint(&1, &[]));
        assert_eq!(get("admin/datastore"), endpoint(&2, &[]));
        let groups = "admin/datastore/one/groups";
        assert_eq!(get(groups), endpoint(&3, &[("store", "one")]));
        let deleted = find(&router, &Method::DELETE, groups);
        assert_eq!(deleted, endpoint(&4, &[("store", "one")]));
        assert_eq!(
            get("nodes/localhost/tasks/UPID:x:/log"),
            endpoint(&6, &[("node", "localhost"), ("upid", "UPID:x:")])
        );
        assert_eq!(get(""), Route::Directory(vec!["admin", "nodes", "version"]));
        assert_eq!(
            get("admin/datastore/one"),
            Route::Directory(vec!["gc", "groups"])
        );
        assert_eq!(get("admin/datastore/one/gc"), Route::MethodNotAllowed);
        assert_eq!(get("nosuchpath"), Route::NotFound);
        assert_eq!(get("version/more"), Route::NotFound);
        assert_eq!(
            find(&router, &Method::POST, "version"),
            Route::MethodNotAllowed
        );
    }

    #[test]
    #[should_panic(expected = "is there already")]
    fn an_endpoint_is_added_once() {
        let _ = router().route(Method::GET, "version", 9);
    }
}
