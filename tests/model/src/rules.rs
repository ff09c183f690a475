//! Rules as switches: a model follows every rule of its protocol except those that a trial has turned off.

use std::fmt;

/// The rules of one model. Every rule is a switch.
pub trait Rule: Copy + Eq + fmt::Debug + Send + Sync + 'static {
    /// All of them; at most 64.
    const ALL: &'static [Self];
}

/// Which rules a model does without.
#[derive(Clone, Debug)]
pub struct Without<R: Rule>(Vec<R>);

impl<R: Rule> Without<R> {
    /// Every rule is followed.
    pub fn nothing() -> Self {
        Self(Vec::new())
    }

    /// These rules are off.
    pub fn these(rules: &[R]) -> Self {
        Self(rules.to_vec())
    }

    /// Whether a rule is on.
    pub fn follows(&self, rule: R) -> bool {
        !self.0.contains(&rule)
    }

    /// Which rules are off.
    pub fn rules(&self) -> &[R] {
        &self.0
    }
}

impl<R: Rule> fmt::Display for Without<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return write!(f, "all rules on");
        }
        for (index, rule) in self.0.iter().enumerate() {
            let before = if index == 0 { "without " } else { " and " };
            write!(f, "{before}{rule:?}")?;
        }
        Ok(())
    }
}
