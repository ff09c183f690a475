//! Records of a PAX extended header: `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record, itself included.

/// Appends one record. Values may hold any bytes.
pub(super) fn push(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + digits(rest);
    // The digits of the sum may be one more than those of the part.
    if digits(length) != digits(rest) {
        length = rest + digits(length);
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

/// Key and value.
pub(super) type Record<'a> = (&'a [u8], &'a [u8]);

/// Splits an extended header into key and value.
///
/// # Errors
/// A sentence when a record does not have the form above.
pub(super) fn parse(mut records: &[u8]) -> Result<Vec<Record<'_>>, &'static str> {
    const BROKEN: &str = "an extended header of the archive is damaged";
    let mut found = Vec::new();
    while !records.is_empty() {
        let space = records
            .iter()
            .take(20)
            .position(|&b| b == b' ')
            .ok_or(BROKEN)?;
        let length: usize = std::str::from_utf8(&records[..space])
            .ok()
            .and_then(|t| t.parse().ok())
            .ok_or(BROKEN)?;
        let record = records.get(space + 1..length).ok_or(BROKEN)?;
        let (b'\n', record) = record.split_last().ok_or(BROKEN)? else {
            return Err(BROKEN);
        };
        let equals = record.iter().position(|&b| b == b'=').ok_or(BROKEN)?;
        found.push((&record[..equals], &record[equals + 1..]));
        records = &records[length..];
    }
    Ok(found)
}

/// The name of an extended attribute as it stands in a record key, where `=` would end the key.
pub(super) fn escape_attribute(name: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'%' => escaped.extend_from_slice(b"%25"),
            b'=' => escaped.extend_from_slice(b"%3D"),
            _ => escaped.push(byte),
        }
    }
    escaped
}

/// The reverse of [`escape_attribute`]; other percent signs stay.
pub(super) fn unescape_attribute(mut name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    while let Some((&byte, rest)) = name.split_first() {
        if let Some(rest) = name.strip_prefix(b"%25") {
            plain.push(b'%');
            name = rest;
        } else if let Some(rest) = name.strip_prefix(b"%3D") {
            plain.push(b'=');
            name = rest;
        } else {
            plain.push(byte);
            name = rest;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_count_themselves_also_where_they_gain_a_digit() {
        for value_bytes in (0..120).chain(985..1010).chain(9985..10010) {
            let value = vec![b'v'; value_bytes];
            let mut records = Vec::new();
            push(&mut records, b"key", &value);
            let announced: usize = String::from_utf8_lossy(&records)
                .split(' ')
                .next()
                .unwrap()
                .parse()
                .unwrap();
            assert_eq!(announced, records.len(), "value of {value_bytes} bytes");
            push(&mut records, b"second", b"a=b\nc");
            assert_eq!(
                parse(&records).unwrap(),
                [(&b"key"[..], &value[..]), (b"second", b"a=b\nc")]
            );
        }
    }

    #[test]
    fn damaged_records_are_refused() {
        for broken in [
            &b"9 a=b\n"[..],
            b"x a=b\n",
            b"6 a=b.",
            b"5 ab\n",
            b"2 ",
            b"99999999999999999999 a=b\n",
            b"1 a=b\n",
        ] {
            assert!(
                parse(broken).is_err(),
                "{}",
                String::from_utf8_lossy(broken)
            );
        }
    }

    #[test]
    fn attribute_names_survive() {
        for name in [
            &b"user.a=b"[..],
            b"user.100%",
            b"user.%3D%25",
            b"user.plain",
        ] {
            assert_eq!(unescape_attribute(&escape_attribute(name)), name);
        }
    }
}
