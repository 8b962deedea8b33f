//! Numbers out of a line of known format, and what may stand before it.

/// The numbers in `text`, which must be all of `pattern`; `None` where it is not.
///
/// In a pattern `{}` is a decimal number or a hexadecimal one after `0x`, `{h}` hexadecimal digits alone, `{i}` a decimal
/// number that may be negative, in two's complement, and `{w}` a word that does not matter.
pub fn scan<const N: usize>(text: &str, pattern: &str) -> Option<[u64; N]> {
    let (mut values, mut found) = ([0; N], 0);
    let (mut text, mut pattern) = (text.trim_end(), pattern);
    while let Some((literal, rest)) = pattern.split_once('{') {
        text = text.strip_prefix(literal)?;
        let (kind, rest) = rest.split_once('}')?;
        pattern = rest;
        let minus = text.strip_prefix('-').filter(|_| kind == "i");
        text = minus.unwrap_or(text);
        let (digits, radix) = match (kind, text.strip_prefix("0x")) {
            ("w", _) => {
                let end = text.find(' ').filter(|end| *end > 0)?;
                text = &text[end..];
                continue;
            }
            ("h", _) => (text, 16),
            ("i", _) => (text, 10),
            (_, Some(digits)) => (digits, 16),
            (_, None) => (text, 10),
        };
        let end = digits.find(|digit: char| !digit.is_digit(radix)).unwrap_or(digits.len());
        let value = u64::from_str_radix(&digits[..end], radix).ok()?;
        *values.get_mut(found)? = if minus.is_some() { value.wrapping_neg() } else { value };
        found += 1;
        text = &digits[end..];
    }
    (text == pattern && found == N).then_some(values)
}

/// `line` without what QEMU puts before an event when it is told to stamp messages: `1234@1700000000.123456:` (10.0)
/// or `2026-01-31T12:00:00.123456Z ` (11.1).
pub fn without_stamp(line: &str) -> &str {
    let end = line.find([':', ' ']).filter(|_| line.starts_with(|first: char| first.is_ascii_digit()));
    match end.map(|end| line.split_at(end)) {
        Some((stamp, rest)) if stamp.contains('@') => &rest[1..],
        Some(_) => line.split_once("Z ").map_or(line, |(_, rest)| rest),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::scan;

    #[test]
    fn takes_what_the_pattern_says() {
        assert_eq!(
            scan("sid 0x20 fault 133 addr 0x1000 write 1", "sid {} fault {} addr {} write {}"),
            Some([0x20, 133, 0x1000, 1])
        );
        assert_eq!(scan("dev 01:1f.03 end ", "dev {h}:{h}.{h} end"), Some([1, 0x1f, 3]));
        assert_eq!(scan("type p-iotlb high 0x1", "type {w} high {}"), Some([1]));
        assert_eq!(scan("asid=-1 vmid=7", "asid={i} vmid={i}"), Some([u64::MAX, 7]));
    }

    #[test]
    fn refuses_everything_else() {
        for cut in
            ["", "sid", "sid 0x20", "sid 0x20 fault ", "sid 0x fault 1", "sid 0x20 fault 1 more", "sid x fault 1"]
        {
            assert_eq!(scan::<2>(cut, "sid {} fault {}"), None, "{cut}");
        }
        assert_eq!(scan::<1>("a 0x11111111111111111", "a {}"), None);
        assert_eq!(scan::<2>("a 1", "a {}"), None);
        assert_eq!(scan::<1>("a -1", "a {}"), None);
        assert_eq!(scan::<1>("a -", "a {i}"), None);
        assert_eq!(scan::<1>("type  high 0x1", "type {w} high {}"), None);
    }
}
