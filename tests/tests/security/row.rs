//! What is known of a call: its parameters, and what becomes of it.

/// What a caller is told who is known and has no rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The same as everybody, known or not: this status.
    Anyone(u16),
    /// No, with this status; the same whether the thing exists or not.
    Refused(u16),
    /// A list without what the caller may not see.
    Filtered,
    /// What every known user may know.
    Known,
    /// Within a session only: without one there is no such call.
    Session,
}

/// A call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// `rest`, `upgrade`, `health`, or the protocol whose call it is.
    pub(crate) kind: &'static str,
    /// Method.
    pub(crate) method: &'static str,
    /// Path, with its variables.
    pub(crate) path: &'static str,
    /// Parameters of what exists; `$TIME` is the time of a snapshot, `$UPID` a task.
    pub(crate) existing: &'static str,
    /// Parameters of what does not exist.
    pub(crate) missing: &'static str,
    /// What a caller without rights is told.
    pub(crate) powerless: Outcome,
    /// The status for the administrator about what exists; 0 for calls that are tried elsewhere.
    pub(crate) admin: u16,
}

pub(crate) const fn row(
    kind: &'static str,
    method: &'static str,
    path: &'static str,
    [existing, missing]: [&'static str; 2],
    powerless: Outcome,
    admin: u16,
) -> Row {
    Row {
        kind,
        method,
        path,
        existing,
        missing,
        powerless,
        admin,
    }
}

pub(crate) const fn rest(
    method: &'static str,
    path: &'static str,
    parameters: [&'static str; 2],
    powerless: Outcome,
    admin: u16,
) -> Row {
    row("rest", method, path, parameters, powerless, admin)
}

/// A call of a protocol.
pub(crate) const fn call(kind: &'static str, method: &'static str, path: &'static str) -> Row {
    row(kind, method, path, ["", ""], Outcome::Session, 0)
}
