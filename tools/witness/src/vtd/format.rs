//! Numbers out of a line of known format.

/// The numbers in `text`, which must be all of `pattern`; `None` where it is not.
///
/// In a pattern `{}` is a decimal number or a hexadecimal one after `0x`, `{h}` hexadecimal digits alone, and `{w}` a
/// word that does not matter.
pub fn scan<const N: usize>(text: &str, pattern: &str) -> Option<[u64; N]> {
    let (mut values, mut found) = ([0; N], 0);
    let (mut text, mut pattern) = (text.trim_end(), pattern);
    while let Some((literal, rest)) = pattern.split_once('{') {
        text = text.strip_prefix(literal)?;
        let (kind, rest) = rest.split_once('}')?;
        pattern = rest;
        let (digits, radix) = match (kind, text.strip_prefix("0x")) {
            ("w", _) => {
                let end = text.find(' ').filter(|end| *end > 0)?;
                text = &text[end..];
                continue;
            }
            ("h", _) => (text, 16),
            (_, Some(digits)) => (digits, 16),
            (_, None) => (text, 10),
        };
        let end = digits.find(|digit: char| !digit.is_digit(radix)).unwrap_or(digits.len());
        *values.get_mut(found)? = u64::from_str_radix(&digits[..end], radix).ok()?;
        found += 1;
        text = &digits[end..];
    }
    (text == pattern && found == N).then_some(values)
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
        assert_eq!(scan::<1>("type  high 0x1", "type {w} high {}"), None);
    }
}
