//! How much a JSON text of somebody else may become in memory: a value of two bytes takes some hundred.

/// At least as many values as a JSON text holds, without making any: each but the first follows a comma or begins what
/// holds it.
pub fn json_values_at_most(text: &[u8]) -> usize {
    let (mut values, mut quoted, mut escaped) = (1, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' | b'[' | b'{' if !quoted => values += 1,
            _ => {}
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_holds_more_values_than_are_counted() {
        for (text, values) in [
            ("0", 1),
            ("[]", 2),
            ("[1,2,3]", 4),
            (r#"{"a":{"b":[0]}}"#, 4),
            (r#"["a,[{", "\"", "\\", 1]"#, 5),
            ("", 1),
        ] {
            assert_eq!(json_values_at_most(text.as_bytes()), values, "{text}");
        }
    }
}
