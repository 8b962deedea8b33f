//! Transfers that the trace shows otherwise than the demo does.

use super::{FIRST, READ_ONLY, READ_WRITE, SECOND, abort, config, good, kinds, read_up_to};

#[test]
fn moved_otherwise() {
    for kind in kinds() {
        let right = kind.walked(0x20, 2, 0x1000, 0x37_0000, READ_WRITE);
        let caught = |new: &str, words: &str| good(kind).changed("fill", &right, new).is_caught(words);
        let other = |source, domain, iova, phys| kind.walked(source, domain, iova, phys, READ_WRITE);
        caught(
            &other(0x20, 2, 0x1000, 0x37_e000),
            "fill: expected it to lead to 0x370000 from 0x1000; the trace shows 0x20 translated from 0x1000 to 0x37e000",
        );
        caught(
            &other(0x28, 2, 0x1000, 0x37_0000),
            "fill: expected a translation of 0x20 at 0x1000; the trace shows 0x28",
        );
        caught(&other(0x20, 2, 0x2000, 0x37_0000), "fill: expected a translation of 0x20 at 0x1000");
        caught("", "fill: expected a translation of 0x20 at 0x1000; the trace shows none before");
        caught(&(right.clone() + &right), "fill: expected nothing beyond 0x1fff");
        caught(
            &(right.clone() + &abort(0x28, 0x1000)),
            "fill: expected nothing beyond 0x1fff; the trace shows 0x28 refused",
        );
        caught(
            &(right.clone() + &config(0x20)),
            "fill: expected nothing beyond 0x1fff; the trace shows an access that came to nothing",
        );
        caught(
            &kind.unmapped(0x20, 2, 0x1000),
            "fill: expected a translation of 0x20 at 0x1000; the trace shows 0x20 refused",
        );
        let second = kind.walked(0x20, 2, 0x10_1000, 0x50_1000, READ_WRITE);
        good(kind).changed("scatter", &second, "").is_caught("scatter: expected a translation of 0x20 at 0x101000");
        let foreign = kind.walked(0x20, 3, 0x10_1000, 0x50_1000, READ_WRITE);
        good(kind)
            .changed("scatter", &second, &foreign)
            .is_caught("scatter: expected the domain that it was attached to");
        let read_only = kind.walked(0x20, 2, 0x10_1000, 0x50_1000, READ_ONLY);
        good(kind).changed("scatter", &second, &read_only).is_caught("scatter: expected an entry that permits a write");
        good(kind)
            .inside("fill", &read_up_to(3))
            .all_caught(&["fill: expected no event for the guest", "gone: expected the guest to take 2 events"]);
    }
}

#[test]
fn around_translation() {
    for name in [
        "smmuv3_translate_bypass region sid=0x20 STE bypass",
        "smmuv3_translate_disable region sid=0x20 bypass (smmu disabled)",
    ] {
        let line = format!(
            "{}{name} iova:0x1000 is_write=0\n",
            if name.contains("disable") { String::new() } else { config(0x20) }
        );
        // The configuration before a bypass is an access that came to nothing, too.
        let verdict = good(FIRST).inside("fill", &line).verdict();
        assert_eq!(verdict.failed, 1, "{:?}", verdict.lines);
        assert!(
            verdict.lines[0].starts_with("fill: expected a translation of 0x20 at 0x1000; the trace shows an access")
        );
    }
}

#[test]
fn refused_otherwise() {
    for kind in kinds() {
        let right = kind.unmapped(0x20, 2, 0x10_0004);
        let due = "gone: expected an event, write of 0x20 at 0x100004, reason 0x10";
        let caught = |new: &str, words: &str| good(kind).changed("gone", &right, new).is_caught(words);
        caught("", "gone: expected an event, write of 0x20 at 0x100004, reason 0x10; the trace shows nothing more");
        caught(&(right.clone() + &right), "gone: expected no further access of 0x20");
        caught(&kind.unmapped(0x28, 2, 0x10_0004), due);
        caught(&kind.unmapped(0x20, 3, 0x10_0004), due);
        caught(&kind.unmapped(0x20, 2, 0x10_0008), due);
        caught(&right.replace("F_TRANSLATION", "F_ACCESS"), due);
        caught(&(config(0x20) + &kind.event("F_TRANSLATION", 0x20)), due);
        caught(&abort(0x20, 0x10_0004), due);
        caught(&config(0x20), due);
        // Nothing comes of the walk: an event that was not to be recorded.
        caught(&right.replace(&kind.event("F_TRANSLATION", 0x20), ""), due);
    }
}

#[test]
fn refused_in_the_other_direction() {
    for kind in kinds() {
        // Of a page that lets writes through a write cannot have been refused, and from a read-only one no read.
        let (cold, page) = (kind.lookup(false, 0x20, 2, 0x18_0004), kind.page(0x18_0004, 0x37_2000, READ_ONLY));
        assert!(good(kind).trace.contains(&(cold + &page)));
        let mut run = good(kind);
        let check = run.records.find(r#""check":"cold""#).unwrap_or_else(|| panic!("no check"));
        let rest = run.records.split_off(check);
        let (this, others) = rest.split_once('\n').unwrap_or_else(|| panic!("no line"));
        run.records += &format!("{}\n{others}", this.replace("write", "read"));
        run.is_caught("cold: expected an event, read of 0x20 at 0x180000, reason 0x13");
    }
}

#[test]
fn events_that_the_guest_did_not_take() {
    for kind in kinds() {
        let events = if kind.stage2 { 6 } else { 8 };
        good(kind).changed("gone", &read_up_to(4), "").all_caught(&[
            "gone: expected the guest to take 2 events; the trace shows 1",
            "cold: expected the guest to take 2 events; the trace shows 3",
        ]);
        good(kind).inside("detached", &read_up_to(events + 1)).is_caught("detached: expected no event for the guest");
    }
}

#[test]
fn events_about_no_address() {
    for kind in kinds() {
        let event = config(0x20) + &kind.event("C_BAD_STREAMID", 0x20);
        let due = "early: expected an event, write of 0x20 at 0x370ffc, reason 0x2";
        good(kind).changed("early", &event, &event.replace("C_BAD_STREAMID", "C_BAD_STE")).is_caught(due);
        good(kind).changed("early", &event, &event.replace("0x20", "0x28")).is_caught(due);
        good(kind).changed("early", &event, "").is_caught("early: expected an event, write of 0x20 at 0x371000");
        let told = "blocked: write of 0x20 at 0x0, reason 0x2";
        let other = "blocked: write of 0x20 at 0x370ffc, reason 0x2";
        good(kind).recorded(told, other).recorded(told, other).is_caught("early: expected blocked");
    }
}

#[test]
fn read_otherwise_by_the_guest() {
    for kind in kinds() {
        let fault = r#"{"stream":"0x20","iova":"0x100000","code":"0x10","access":"write"}"#;
        for other in [
            fault.replace("0x20", "0x28"),
            fault.replace("0x100000", "0x100004"),
            fault.replace("0x10\"", "0x13\""),
            fault.replace("write", "read"),
        ] {
            good(kind)
                .recorded(fault, &other)
                .is_caught("as the guest read it; the trace shows a fault of 0x20: write at 0x100000");
        }
        good(kind).recorded(fault, "null").is_caught("gone: expected no fault, as the guest read none");
    }
}

#[test]
fn not_aborted() {
    for kind in kinds() {
        let right = abort(0x20, 0x1004);
        let due = "detached: expected an abort in silence, write of 0x20 at 0x1004";
        let caught = |new: &str, words: &str| good(kind).changed("detached", &right, new).is_caught(words);
        caught("", due);
        caught(&(right.clone() + &right), "detached: expected no further access");
        caught(&abort(0x28, 0x1004), due);
        caught(&abort(0x20, 0x1008), due);
        caught(&kind.unmapped(0x20, 3, 0x1004), due);
        caught(&kind.cached(0x20, 3, 0x1004, 0x37_e004, READ_WRITE), due);
        caught(&config(0x20), due);
        // In place of an abort of a stream that never had anything.
        let other = kind.cached(0x28, 2, 0x1000, 0x37_0000, READ_WRITE);
        good(kind)
            .changed("unassigned", &abort(0x28, 0x37_0000), &other)
            .is_caught("unassigned: expected an abort in silence");
    }
}

#[test]
fn aborted_while_attached() {
    for kind in kinds() {
        let right = kind.walked(0x20, 2, 0x1000, 0x37_0000, READ_WRITE);
        good(kind).changed("fill", &right, &abort(0x20, 0x1000)).is_caught(
            "fill: expected a translation of 0x20 at 0x1000; the trace shows 0x20 refused at 0x1000 in silence",
        );
    }
    let hit = SECOND.lookup(true, 0x20, 2, 0x18_0000);
    good(SECOND)
        .changed("hot", &hit, &abort(0x20, 0x18_0000))
        .is_caught("hot: expected a cached entry without permission");
}

#[test]
fn dropped_otherwise() {
    let hit = SECOND.lookup(true, 0x20, 2, 0x18_0004);
    let due = "hot: expected a cached entry without permission, write of 0x20 at 0x180004";
    let caught = |new: &str, words: &str| good(SECOND).changed("hot", &hit, new).is_caught(words);
    caught("", due);
    caught(&SECOND.lookup(false, 0x20, 2, 0x18_0004), due);
    caught(&SECOND.lookup(true, 0x28, 2, 0x18_0004), due);
    caught(&SECOND.lookup(true, 0x20, 3, 0x18_0004), due);
    caught(&SECOND.lookup(true, 0x20, 2, 0x18_0008), due);
    // An entry that does let writes through.
    caught(&SECOND.lookup(true, 0x20, 2, 0x10_0000), due);
    good(SECOND).inside("hot", &read_up_to(7)).is_caught("hot: expected no event for the guest");
    // Stage 1 says so.
    let event = FIRST.event("F_PERMISSION", 0x20);
    good(FIRST)
        .changed("hot", &event, "")
        .is_caught("hot: expected an event, write of 0x20 at 0x180000, reason 0x13; the trace shows 0x20 refused at 0x180000 in domain 0x2 a write in silence");
}
