//! The numbers that one part of a calendar event allows.

/// `first`, and every `step`th after it up to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first: i16,
    pub(super) last: i16,
    /// At least 1.
    pub(super) step: i16,
}

impl Span {
    fn at_or_after(self, from: i16) -> Option<i16> {
        let behind = i32::from(from) - i32::from(self.first);
        let (first, step) = (i32::from(self.first), i32::from(self.step));
        let steps = (behind.max(0) + step - 1) / step;
        let value = i16::try_from(first + steps * step).ok()?;
        (value <= self.last).then_some(value)
    }
}

/// A list of numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field(pub(super) Vec<Span>);

impl Field {
    /// `first` to `last`.
    pub(super) fn all(first: i16, last: i16) -> Self {
        let step = 1;
        Self(vec![Span { first, last, step }])
    }

    pub(super) fn one(value: i16) -> Self {
        Self::all(value, value)
    }

    pub(super) fn has(&self, value: i16) -> bool {
        self.at_or_after(value) == Some(value)
    }

    /// The first number that is allowed, not below `from`.
    pub(super) fn at_or_after(&self, from: i16) -> Option<i16> {
        let values = self.0.iter().filter_map(|span| span.at_or_after(from));
        values.min()
    }

    pub(super) fn first(&self) -> Option<i16> {
        self.at_or_after(i16::MIN)
    }
}

/// The days of a month, counted from its begin or, with 1 for the last day, from its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DaysOfMonth {
    FromBegin(Field),
    FromEnd(Field),
}

impl DaysOfMonth {
    pub(super) fn has(&self, day: i8, days_in_month: i8) -> bool {
        let (day, days) = (i16::from(day), i16::from(days_in_month));
        match self {
            Self::FromBegin(field) => field.has(day),
            Self::FromEnd(field) => field.has(days - day + 1),
        }
    }
}
