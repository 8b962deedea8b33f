//! Every start and every end.

use super::*;

/// Every start and end in steps of the smallest page; near the edges, where there are large ones.
fn spans(kind: Kind, len: u64) -> Vec<(u64, u64)> {
    let all: Vec<u64> = if kind == Kind::Huge {
        let near = [0, MOCK_PAGE, PAGE, MOCK_HUGE - MOCK_PAGE, MOCK_HUGE, MOCK_HUGE + MOCK_PAGE, MOCK_HUGE + 9 * PAGE];
        near.into_iter().chain([2 * MOCK_HUGE - MOCK_PAGE, 2 * MOCK_HUGE]).collect()
    } else {
        (0..=len).step_by(MOCK_PAGE as usize).collect()
    };
    let pairs = all.iter().flat_map(|&start| all.iter().map(move |&end| (start, end)));
    pairs.filter(|(start, end)| start < end).collect()
}

pub fn all_aligns((domains, kind): Case) {
    let mut rig = rig(domains);
    let len = length(kind);
    let buffer = Buffer::new(&rig, kind, len);
    let base = rig.base + 3 * MOCK_PAGE;
    let spans = spans(kind, len);
    for &(start, end) in &spans {
        // As aligned as the memory, and not.
        for place in [rig.base + start, base + 2 * MOCK_HUGE] {
            let source = buffer.source();
            map(&rig.ioas, &source, start, end, place, Prot::READ_WRITE);
            let here = [expected(place, end - start, &source, start, Prot::READ_WRITE)];
            rig.expect(&here);
            buffer.expect_pins(&rig, 1);
            if place == rig.base + start {
                add(&mut rig, 20).unwrap();
                rig.expect(&here);
                rig.leads.pop();
            }
            assert_eq!(rig.unmap(place, end - start).unwrap(), end - start);
            rig.expect(&[]);
            buffer.expect_pins(&rig, 0);
        }
    }
    assert!(spans.len() >= 36, "{}", spans.len());
    rig.close();
}

pub fn all_aligns_copy((domains, kind): Case) {
    let mut rig = rig(domains);
    let len = length(kind);
    let buffer = Buffer::new(&rig, kind, len);
    let (base, far) = (rig.base, rig.base + 4 * MOCK_HUGE + 3 * MOCK_PAGE);
    let access = rig.access(Some(MockUser::new()), MOCK_PAGE);
    for (start, end) in spans(kind, len) {
        let size = end - start;
        let source = buffer.source();
        map(&rig.ioas, &source, 0, len, base, Prot::READ_WRITE);
        rig.ioas.copy(&rig.ioas, range(base + start, size), at(far), Prot::READ).unwrap();
        let part = expected(far, size, &source, start, Prot::READ);
        rig.expect(&[expected(base, len, &source, 0, Prot::READ_WRITE), part]);
        // One pin for both, even where a third uses it.
        buffer.expect_pins(&rig, 1);
        let pin = access.pin(range(far, size), Prot::READ).unwrap();
        buffer.expect_pins(&rig, 1);
        assert_eq!(rig.unmap(base, len).unwrap(), len);
        rig.expect(&[part]);
        add(&mut rig, 20).unwrap();
        rig.expect(&[part]);
        rig.leads.pop();
        drop(pin);
        buffer.expect_pins(&rig, 1);
        assert_eq!(rig.unmap(far, size).unwrap(), size);
        buffer.expect_pins(&rig, 0);
    }
    drop(access);
    rig.close();
}
