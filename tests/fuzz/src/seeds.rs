//! The inputs to begin with, made by our own encoders and by hand. `cargo hostile seeds` writes them, always the same.

mod calls;
mod files;
mod formats;
mod texts;

use std::fs;

use anyhow::Result;

use crate::corpus;
use crate::targets::find;

/// Target, name, content.
type Seed = (&'static str, String, Vec<u8>);

/// Seeds of one target while they are made.
struct Seeds {
    target: &'static str,
    made: Vec<Seed>,
}

impl Seeds {
    fn of(target: &'static str) -> Self {
        Self {
            target,
            made: Vec::new(),
        }
    }

    fn add(&mut self, name: &str, content: impl AsRef<[u8]>) -> &mut Self {
        self.made
            .push((self.target, name.to_owned(), content.as_ref().to_vec()));
        self
    }

    /// Each text by its number.
    fn all<T: AsRef<[u8]>>(mut self, contents: impl IntoIterator<Item = T>) -> Self {
        for (number, content) in contents.into_iter().enumerate() {
            self.add(&format!("{number:02}"), content);
        }
        self
    }
}

/// Writes all seeds; target, number and bytes of each.
pub fn write_all() -> Result<Vec<(&'static str, usize, usize)>> {
    let all = [
        formats::seeds(),
        texts::seeds(),
        files::seeds(),
        calls::seeds(),
    ];
    let mut sums: Vec<(&'static str, usize, usize)> = Vec::new();
    for (target, name, content) in all.into_iter().flatten().flat_map(|seeds| seeds.made) {
        let folder = corpus::folder(find(target)?.name);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("seed-{name}")), &content)?;
        match sums.iter_mut().find(|(known, _, _)| *known == target) {
            Some((_, count, bytes)) => {
                *count += 1;
                *bytes += content.len();
            }
            None => sums.push((target, 1, content.len())),
        }
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::ALL;

    #[test]
    fn every_target_has_inputs_and_the_corpus_stays_small() {
        let mut bytes = 0;
        for target in ALL {
            let inputs = corpus::inputs(&corpus::folder(target.name)).expect("a corpus");
            let seeds = inputs.iter().filter(|(name, _)| name.starts_with("seed-"));
            assert!(
                seeds.count() >= 3,
                "{} has nothing to begin with",
                target.name
            );
            bytes += inputs.iter().map(|(_, data)| data.len()).sum::<usize>();
        }
        assert!(bytes < 2 << 20, "the corpus has {bytes} bytes");
    }

    #[test]
    fn every_call_is_made() {
        let inputs = |target: &str| -> Vec<Vec<u8>> {
            let inputs = corpus::inputs(&corpus::folder(target)).expect("a corpus");
            inputs.into_iter().map(|(_, data)| data).collect()
        };
        let missed =
            holdfast::fuzz::calls_missed(&inputs("rest"), &inputs("backup"), &inputs("reader"));
        assert!(missed.is_empty(), "no input makes these calls: {missed:?}");
    }

    #[test]
    fn an_honest_backup_is_finished_and_one_with_a_gap_is_not() {
        for (name, data) in corpus::inputs(&corpus::folder("backup")).expect("a corpus") {
            let honest = ["seed-whole", "seed-finish-twice"].contains(&&*name);
            if honest || name.starts_with("seed-without") {
                let finished = holdfast::fuzz::backup_finished(&data);
                assert_eq!(finished, honest, "{name}");
            }
        }
    }
}
