//! What the S3 server's own log says was open at some moment.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::Timestamp;

/// Begin and, if there was one, end of each PUT.
#[derive(Debug)]
pub(super) struct Puts(BTreeMap<u64, (Timestamp, Option<Timestamp>)>);

impl Puts {
    /// Reads the log that `holdfast s3-server --access-log` writes. Its last line may be incomplete.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read '{}'", path.display()))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut puts = BTreeMap::new();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in complete.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [time, event, number, what, ..] = words[..] else {
                anyhow::bail!("the access log says '{line}'");
            };
            let (time, number): (Timestamp, u64) = (time.parse()?, number.parse()?);
            match event {
                "begin" if what == "PUT" => {
                    puts.insert(number, (time, None));
                }
                "end" => {
                    if let Some((_, end)) = puts.get_mut(&number) {
                        *end = Some(time);
                    }
                }
                _ => {}
            }
        }
        Ok(Self(puts))
    }

    /// How many had begun by `before` and had not ended by `after`.
    pub(super) fn open(&self, before: Timestamp, after: Timestamp) -> usize {
        let open = |(begin, end): &&(Timestamp, Option<Timestamp>)| {
            *begin <= before && end.is_none_or(|end| end > after)
        };
        self.0.values().filter(open).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_spans_a_moment_was_open() {
        let time = |second| Timestamp::from_second(second).unwrap();
        let line = |second, rest: &str| format!("{} {rest}\n", time(second));
        let log = [
            line(10, "begin 1 PUT \"a\""),
            line(11, "begin 2 GET \"b\""),
            line(12, "end 1 PutObject 200 5 0"),
            line(13, "begin 3 PUT \"c\""),
            line(20, "begin 4 PUT \"d e\""),
            line(30, "end 3 Other 0 0 0"),
            "2026-01-01T00:00:00Z beg".to_owned(),
        ]
        .concat();
        let puts = Puts::parse(&log).unwrap();
        assert_eq!(puts.open(time(15), time(16)), 1, "3");
        assert_eq!(puts.open(time(11), time(11)), 1, "1");
        assert_eq!(puts.open(time(11), time(12)), 0, "it ended meanwhile");
        assert_eq!(puts.open(time(21), time(29)), 2, "3 and 4");
        assert_eq!(puts.open(time(31), time(32)), 1, "4 never ended");
        assert!(Puts::parse("rubbish\n").is_err());
    }
}
