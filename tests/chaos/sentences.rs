//! Which refusals are to be expected of a daemon whose S3 server is out of order and that is killed all the time.

/// What a refusal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Faults that were injected, or rules that clients meet here, explain it.
    Expected,
    /// It says that something is not there that must be.
    Loss,
    /// Nothing explains it.
    Unknown,
}

/// Parts of the sentences that are to be expected, whatever is being done.
const EXPECTED: &[&str] = &[
    // The daemon begins or ends, or has ended and was started again.
    "the daemon is stopping",
    "the daemon was not stopped cleanly",
    "is being opened; try again in a moment",
    "until then requests of its former owner may still take effect",
    // What the proxy does lasts longer than all attempts of a request.
    "no answer from S3 about",
    ": the server asks to slow down",
    ": the server is not available",
    ": no answer in time",
    ": the answer is damaged",
    "got no answer from S3 and may still arrive; run the backup again",
    // Clients meet, and the forgetter meets clients.
    "is in use: another backup or sync writes to it",
    "is in use: it is being written, read or removed, or a backup builds on it",
    "is being written or removed",
    "the backup must be younger than the last one of its group",
];

/// Parts of sentences that are to be expected of one thing only.
const EXPECTED_OF: &[(&str, &str)] = &[
    // Nothing vouches for the chunks of the last snapshot after the cache was lost, so all is sent again. The auditor knows
    // whether they are there.
    ("previous", "is missing"),
    ("collection", "stopped on request"),
    // The proxy says so of batches of deletes.
    ("forget", "AccessDenied"),
];

/// Parts of refusals of a removal that say that nothing was removed.
const NOTHING_REMOVED: &[&str] = &[
    "is in use: it is being written, read or removed, or a backup builds on it",
    "the daemon was not stopped cleanly",
    "the daemon is stopping",
];

/// Messages of the log's level ERROR that are to be expected: a human must look, and did it on purpose.
const ERRORS: &[&str] = &[
    // The cache and the id of the installation are gone: only a take-over helps.
    "cannot be opened",
];

/// Those that say that something is lost: a chunk that was believed to be there is not, or is damaged.
const LOSS_ERRORS: &[&str] = &["is missing", "a stored chunk cannot be read"];

/// What a message of the level ERROR means.
pub(crate) fn judge_error(message: &str) -> Judgement {
    if ERRORS.contains(&message) {
        return Judgement::Expected;
    }
    if LOSS_ERRORS.iter().any(|part| message.contains(part)) {
        return Judgement::Loss;
    }
    Judgement::Unknown
}

/// Whether the refusal of a removal says that nothing was removed.
pub(crate) fn nothing_removed(sentence: &str) -> bool {
    NOTHING_REMOVED.iter().any(|part| sentence.contains(part))
}

/// Parts of sentences that say that something is lost.
const LOSS: &[&str] = &["is missing"];

/// What the refusal of `doing` with `sentence` means.
pub(crate) fn judge(doing: &str, sentence: &str) -> Judgement {
    let expected = EXPECTED.iter().any(|part| sentence.contains(part))
        || EXPECTED_OF
            .iter()
            .any(|(of, part)| *of == doing && sentence.contains(part));
    if expected {
        return Judgement::Expected;
    }
    if LOSS.iter().any(|part| sentence.contains(part)) {
        return Judgement::Loss;
    }
    Judgement::Unknown
}

/// The sentence without what differs from case to case: names, numbers, times.
pub(crate) fn shape(sentence: &str) -> String {
    let word = |word: &str| {
        if word.chars().any(|c| c.is_ascii_digit()) {
            "#".to_owned()
        } else {
            word.to_owned()
        }
    };
    let words: Vec<String> = sentence.split(' ').map(word).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_told_apart() {
        assert_eq!(
            judge("backup", "the daemon is stopping"),
            Judgement::Expected
        );
        assert_eq!(judge("restore", "chunk ab12 is missing"), Judgement::Loss);
        assert_eq!(judge("restore", "no idea"), Judgement::Unknown);
        assert_eq!(
            judge_error("a stored chunk cannot be read"),
            Judgement::Loss
        );
        assert_eq!(judge_error("fire"), Judgement::Unknown);
        assert_eq!(shape("chunk ab12 waits 3 s"), "chunk # waits # s");
    }
}
