use super::*;

const DMA: &str = r#"{"kind":"dma","check":"a","stream":"0x20","iova":"0x1000","length":64,"access":"write","expected":"x","seen":"x","fault":{"stream":"0x20","iova":"0x1000","code":"0x5","access":"write"},"frames":[{"phys":"0x7000","length":64}],"begin":1,"end":2,"passed":true}"#;

#[test]
fn a_transfer() {
    let Ok(Record::Check(check)) = Record::parse(DMA) else { panic!("does not parse") };
    assert_eq!((check.name.as_str(), check.markers, check.passed), ("a", Some((1, 2)), true));
    let Claim::Dma(transfer) = check.claim else { panic!("no transfer") };
    assert_eq!(
        (transfer.area.stream, transfer.area.span.first, transfer.area.span.last),
        (Stream::whole(0x20), 0x1000, 0x103f)
    );
    assert_eq!(transfer.direction, Direction::Write);
    assert_eq!(transfer.fault.map(|fault| fault.code), Some(5));
    assert_eq!(transfer.area.frames, [Span { first: 0x7000, last: 0x703f }]);
}

#[test]
fn what_could_not_be_tried() {
    let trouble = r#"{"kind":"state","check":"a","expected":"done","seen":"out of memory","passed":false}"#;
    assert!(matches!(Record::parse(trouble), Ok(Record::Check(Check { passed: false, markers: None, .. }))));
}

#[test]
fn whatever_makes_no_sense() {
    for (old, new) in [
        (r#""kind":"dma""#, r#""kind":"dmb""#),
        (r#""check":"a","#, ""),
        (r#""check":"a""#, r#""check":"a","check":"b""#),
        (r#""check":"a""#, r#""check":"a","more":1"#),
        (r#""stream":"0x20","iova""#, r#""stream":null,"iova""#),
        (r#""stream":"0x20""#, r#""stream":"0x100000000""#),
        (r#""stream":"0x20""#, r#""stream":"32""#),
        (r#""stream":"0x20""#, r#""stream":"0x""#),
        (r#""stream":"0x20""#, r#""stream":"0x+2""#),
        (r#""iova":"0x1000""#, r#""iova":"0xfffffffffffffff0""#),
        (r#""length":64,"access""#, r#""length":0,"access""#),
        (r#""length":64,"access""#, r#""length":65,"access""#),
        (r#""length":64,"access""#, r#""length":-1,"access""#),
        (r#""length":64}]"#, r#""length":0}]"#),
        (r#""access":"write","expected""#, r#""access":"both","expected""#),
        (r#""seen":"x""#, r#""seen":"y""#),
        (r#""passed":true"#, r#""passed":false"#),
        (r#""passed":true"#, r#""passed":1"#),
        (r#","passed":true"#, ""),
        (r#""begin":1"#, r#""begin":null"#),
        (r#""begin":1"#, r#""begin":4294967296"#),
        (r#""code":"0x5""#, r#""code":5"#),
        (r#""passed":true}"#, r#""passed":true"#),
    ] {
        assert!(DMA.contains(old), "{old}");
        assert!(Record::parse(&DMA.replacen(old, new, 1)).is_err(), "{old} -> {new}");
    }
    for wrong in
        ["", "null", "[]", r#"{"kind":"end","passed":1}"#, r#"{"kind":"end","failed":1}"#, r#"{"kind":"start"}"#]
    {
        assert!(Record::parse(wrong).is_err(), "{wrong}");
    }
}
