//! Every entry becomes every other, while hardware reads its words at whatever moments it likes. What it makes of them is worked
//! out here from bit positions of section 5.2 alone.

use super::*;
use crate::spec::cd::ContextDescriptor;
use crate::spec::ste::{
    ContextTable, DefaultSubstream, NestedEntry, Stage1Entry, Stage2Entry, StreamEntry, WalkAttributes,
};
use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;
use iommu_core::addr::PhysAddr;

/// What accesses meet: nothing at all, or everything that they go through.
type Seen = Option<Vec<u64>>;

/// What an entry means. Every value that decides about an access is in it, nothing else is.
fn seen(words: &Words) -> Seen {
    let [w0, w1, w2, w3, ..] = *words;
    assert_eq!(w0 & 1, 1, "an entry that is not valid has an event of its own");
    let config = w0 >> 1 & 7;
    if config < 4 {
        return None;
    }
    let mut all = vec![config];
    let mut bypass = config & 1 == 0;
    if config & 1 != 0 {
        let substreams = w0 >> 59;
        all.extend([w0 & 0x00ff_ffff_ffff_ffc0, substreams, w1 >> 2 & 0x3f, w1 >> 27 & 1, w1 >> 30 & 3, w2 & 0xffff]);
        if substreams != 0 {
            all.extend([w0 >> 4 & 3, w1 & 3]);
            bypass = w1 & 3 == 1;
        }
    }
    if config & 2 != 0 {
        all.extend([w2, w3, w1 >> 25 & 1]);
    }
    if config != 4 {
        all.push(w1 >> 28 & 3);
    }
    if bypass {
        all.extend([w1 >> 44 & 3, w1 >> 32 & 0x1f]);
    }
    Some(all)
}

fn descriptor(asid: u16) -> ContextDescriptor {
    ContextDescriptor {
        asid,
        root: PhysAddr::new(0x7_0000_0000 + u64::from(asid) * 0x1000),
        granule: 0,
        input_bits: 48,
        output_size: 5,
        walk: WalkAttributes::COHERENT,
        track_dirty: false,
        stall: false,
    }
}

/// Entries of every kind, with everything that may differ within a kind.
fn entries() -> Vec<(&'static str, Words)> {
    let fetch = WalkAttributes::COHERENT;
    let one = |number: u64, stall_disable| {
        let context = PhysAddr::new(0x1_0000_0000 + number * 0x1000);
        StreamEntry::Stage1(Stage1Entry { context, descriptor: descriptor(number as u16), fetch, stall_disable })
    };
    let table = |number: u64, two_level, count_log2, default| {
        let table = PhysAddr::new(0x2_0000_0000 + number * 0x10_0000);
        StreamEntry::Contexts(ContextTable { table, two_level, count_log2, default, fetch, stall_disable: false })
    };
    let stage2 = |number: u16| Stage2Entry {
        vmid: number,
        root: PhysAddr::new(0x3_0000_0000 + u64::from(number) * 0x1000),
        granule: 0,
        start_level: 2,
        input_bits: 48,
        output_size: 5,
        walk: fetch,
        track_dirty: false,
        stall: false,
    };
    let nested = |guest0, guest1, number| {
        StreamEntry::Nested(NestedEntry { guest0, guest1, guest_ats: true, stage2: stage2(number) })
    };
    use DefaultSubstream::{Bypass, Terminate, Zero};
    let kinds = [
        ("abort", StreamEntry::Abort),
        ("bypass", StreamEntry::Bypass),
        ("stage 1", one(1, false)),
        ("another stage 1", one(2, false)),
        ("stage 1 that never stalls", one(2, true)),
        ("table, terminate", table(1, false, 6, Terminate)),
        ("table, bypass", table(1, false, 6, Bypass)),
        ("table, zero", table(1, false, 6, Zero)),
        ("two levels, terminate", table(2, true, 15, Terminate)),
        ("two levels, bypass", table(2, true, 15, Bypass)),
        ("two levels, zero", table(2, true, 15, Zero)),
        ("larger, zero", table(3, true, 20, Zero)),
        ("stage 2", StreamEntry::Stage2(stage2(1))),
        ("another stage 2", StreamEntry::Stage2(stage2(2))),
        ("nested", nested(0x5000, 1 << 2 | 3 << 6, 1)),
        ("nested, other guest", nested(0x9000, 3 << 6, 1)),
        ("nested, substreams", nested(0x1_0000 | 1 << 4 | 15 << 59, 1 | 1 << 2 | 3 << 6, 1)),
        ("nested, other parent", nested(0x5000, 1 << 2 | 3 << 6, 2)),
    ];
    let mut all = Vec::new();
    for (name, entry) in kinds {
        let mut last = None;
        for (keep, ats) in [(false, false), (true, false), (false, true), (true, true)] {
            let words = entry.words(keep, ats);
            if last.replace(words) != Some(words) {
                all.push((name, words));
            }
        }
    }
    all
}

/// Everything that hardware may see of an entry each of whose words it may have read at any moment since it was `from`, as the
/// words in `stores` are stored one after the other; `to` afterwards.
fn mixtures(from: &Words, to: &Words) -> BTreeSet<Words> {
    let changed: Vec<usize> = (0..WORDS).filter(|at| from[*at] != to[*at]).collect();
    (0..1u32 << changed.len())
        .map(|mix| {
            let mut words = *from;
            let taken = changed.iter().enumerate().filter(|(bit, _)| mix >> bit & 1 != 0);
            taken.for_each(|(_, at)| words[*at] = to[*at]);
            words
        })
        .collect()
}

/// Follows a plan step by step: at no moment is anything seen but what `from` and `to` are.
#[track_caller]
fn follow(name: &str, from: &Words, to: &Words, plan: &Plan, seen: &dyn Fn(&Words) -> Seen) -> Words {
    let (old, new) = (seen(from), seen(to));
    let mut now = *from;
    let mut step = |next: Words, allowed: &[&Seen]| {
        for words in mixtures(&now, &next) {
            assert!(allowed.contains(&&seen(&words)), "{name}: {words:x?} between {now:x?} and {next:x?}");
        }
        now = next;
    };
    if let Some(prepared) = plan.prepared {
        step(prepared, &[&old]);
    }
    if let Some((at, value)) = plan.switch {
        let mut switched = plan.prepared.unwrap_or(*from);
        switched[at] = value;
        step(switched, &[&old, &new]);
    }
    if let Some(tidy) = plan.tidy {
        step(tidy, &[&new]);
        assert_eq!(tidy, *to, "{name}");
    }
    assert_eq!(seen(&now), new, "{name}");
    now
}

#[test]
fn every_entry_becomes_every_other_and_is_nothing_else_in_between() {
    let mut through_abort = BTreeSet::new();
    for (first, from) in entries() {
        for (then, to) in entries() {
            let name = alloc::format!("{first} to {then}");
            if let Some(plan) = Plan::of(&from, &to, used_of_entry) {
                follow(&name, &from, &to, &plan, &seen);
                assert_eq!(plan.switch.is_none(), seen(&from) == seen(&to), "{name}");
                continue;
            }
            through_abort.insert((first, then));
            // One store of the word that says so, and what the entry was goes on standing in the others.
            let mut aborted = from;
            aborted[0] = StreamEntry::ABORT_WORD0;
            assert_eq!(seen(&aborted), None);
            let plan = Plan::of(&aborted, &to, used_of_entry).unwrap_or_else(|| panic!("{name}: from what aborts"));
            follow(&name, &aborted, &to, &plan, &seen);
        }
    }
    // To and from nothing there is always a way.
    for (first, then) in &through_abort {
        assert!(*first != "abort" && *then != "abort", "{first} to {then}");
    }
}

#[test]
fn what_differs_in_one_word_goes_in_one_step() {
    let all = entries();
    let of = |wanted| all.iter().find(|(name, _)| *name == wanted).map(|(_, words)| *words).expect("a kind");
    let direct = |first, then| Plan::of(&of(first), &of(then), used_of_entry).is_some();
    for (first, then) in [
        ("stage 1", "another stage 1"),
        ("bypass", "stage 1"),
        ("stage 1", "bypass"),
        ("bypass", "stage 2"),
        ("stage 2", "bypass"),
        ("stage 2", "nested"),
        ("nested", "stage 2"),
        ("stage 1", "table, zero"),
        ("bypass", "table, bypass"),
        ("table, zero", "two levels, zero"),
        ("two levels, zero", "larger, zero"),
        ("table, terminate", "table, bypass"),
        ("table, terminate", "table, zero"),
        ("table, zero", "stage 1"),
    ] {
        assert!(direct(first, then), "{first} to {then}");
    }
    // VMID and root are words of their own, and the VMID tags stage 1, too; how a guest's descriptors are fetched stands beside
    // where they are.
    for (first, then) in [
        ("stage 2", "another stage 2"),
        ("stage 1", "stage 2"),
        ("nested", "nested, other parent"),
        ("nested", "nested, other guest"),
        ("table, bypass", "larger, zero"),
    ] {
        assert!(!direct(first, then), "{first} to {then}");
    }
}

#[test]
fn what_is_said_not_to_be_used_is_not() {
    for (name, words) in entries() {
        let used = used_of_entry(&words);
        for (at, bit) in (0..WORDS).flat_map(|at| (0..64).map(move |bit| (at, bit))) {
            let mut other = words;
            other[at] ^= 1 << bit;
            if used[at] >> bit & 1 == 0 {
                assert_eq!(seen(&other), seen(&words), "{name}: word {at} bit {bit}");
                assert_eq!(used_of_entry(&other), used, "{name}: word {at} bit {bit}");
            }
        }
        // Whatever all of them are at once.
        for fill in [u64::MAX, 0x5555_5555_5555_5555, 0xaaaa_aaaa_aaaa_aaaa] {
            let other: Words = core::array::from_fn(|at| words[at] & used[at] | fill & !used[at]);
            assert_eq!((seen(&other), used_of_entry(&other)), (seen(&words), used), "{name}");
            for (then, to) in entries() {
                if let Some(plan) = Plan::of(&other, &to, used_of_entry) {
                    follow(&alloc::format!("{name}, full of {fill:#x}, to {then}"), &other, &to, &plan, &seen);
                }
            }
        }
    }
}

#[test]
fn a_context_descriptor_is_valid_with_all_its_words_or_not_at_all() {
    let seen = |words: &Words| (words[0] >> 31 & 1 != 0).then(|| words.to_vec());
    let all: Vec<Words> = (1..4).map(|asid| descriptor(asid).words()).collect();
    for from in all.iter().chain([&[0; WORDS]]) {
        for to in &all {
            // As a descriptor that was made not valid by one store, or was never valid.
            let mut now = *from;
            now[0] = 0;
            let plan = Plan::of(&now, to, used_of_context).expect("nothing is in use");
            assert_eq!(follow("descriptor", &now, to, &plan, &seen), *to);
            if from != to && from[0] != 0 {
                assert_eq!(Plan::of(from, to, used_of_context), None);
            }
        }
    }
}
