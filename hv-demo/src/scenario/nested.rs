//! Partitions whose guests have a stage 1 of their own, on top of the hypervisor's stage 2: a function reaches what the guest
//! maps, where the guest maps it, and of that nothing but what the partition has.

mod guest;

use crate::checks::lab::{Transfer, holds, pattern};
use crate::checks::{Device, Lab, outside};
use crate::iommu::{DemoUnit, Refusal};
use crate::memory;
use crate::partition::{Buffer, address};
use crate::report::{Entry, Report};
use alloc::format;
use alloc::sync::Arc;
use guest::{ASID, Guest, virt};
use iommu_core::Error;
use iommu_core::addr::Iova;
use iommu_core::group::OwnerId;
use iommu_core::hw::{AccessKind, HwError, Prot, Stage};

/// How much a refused transfer tries to move.
const LEN: usize = 64;

/// An address that no partition has.
const NOBODYS: u64 = 0x30_0000_0000;

/// What faults say of where a request was refused.
const IN_STAGE_1: &str = "in stage 1";
const IN_STAGE_2: &str = "in stage 2 (";
/// By the specification stage 2, of a table; QEMU calls all of a walk of stage 1 that.
const OF_TABLE: &str = IN_STAGE_1;
const IN_STAGE_2_OF_CONTEXT: &str = "in stage 2, of a context descriptor";

/// A guest's commands (section 4): opcodes, and what it says of streams and VMIDs, which is wrong.
const TLBI_NH_VA: u64 = 0x12;
const TLBI_NH_ASID: u64 = 0x11;
const TLBI_NH_ALL: u64 = 0x10;
const CFGI_CD: u64 = 0x05;
const TLBI_S2_IPA: u64 = 0x2a;
const STRANGE: u64 = 0x7777 << 32;

/// Runs every check on `unit`, with four functions that it serves, the last of which stands behind a bridge.
pub fn run(unit: &Arc<dyn DemoUnit>, devices: [Device; 4], report: &mut Report) {
    let [mut first, mut second, ..] = devices;
    let guest = |name, owner, private| Guest::new(name, OwnerId(owner), unit, private);
    let (mut red, mut blue) = match (guest("red", 1, address::RED), guest("blue", 2, address::BLUE)) {
        (Ok(red), Ok(blue)) => (red, blue),
        (Err(error), _) | (_, Err(error)) => return report.trouble("two guests", &error),
    };
    let lab = &mut Lab { unit: &**unit, stage: Stage::First, report };

    outside::blocked(lab, "before any attach", &mut first, &red.partition, Refusal::NothingAttached, 1);
    wrong_entries(lab, &red);
    let (words_of_red, words_of_blue) = (red.entry(), blue.entry());
    red.attach(lab, "red: attach edu0 through the guest's stage 1", &first, words_of_red);
    blue.attach(lab, "blue: attach edu1 through the guest's stage 1", &second, words_of_blue);

    inside(lab, &mut first, &red, 10);
    inside(lab, &mut second, &blue, 30);
    apart(lab, (&mut first, &red), (&mut second, &blue), 50);
    untranslated(lab, &mut first, &red, 60);
    foreign(lab, &mut first, &red, &blue, 70);

    guest_unmaps(lab, (&mut first, &red), (&mut second, &blue), 90);
    hypervisor_unmaps(lab, &mut first, &red, 100);
    wrong_commands(lab, &red);
    foreign_tables(lab, &mut first, &mut red, 110);
    other_entries(lab, &mut first, &mut red, 120);

    still_there(lab, &mut second, &blue, "after all that red did", 130);
    lab.detach("red: detach edu0", &first);
    detached(lab, &mut first, &red, "after the detach", 135);
    let words = red.entry();
    red.attach(lab, "red: attach edu0 again", &first, words);
    still_there(lab, &mut first, &red, "attached again", 140);

    let (iova, name) = (Iova::new(virt::PAGE), red.partition.name);
    red.end(lab, "red: ends", &first);
    for access in [AccessKind::Write, AccessKind::Read] {
        let check = format!("{name}: {access} after its end");
        lab.refused(&check, &mut first, Transfer { access, iova, len: LEN }, Refusal::NotAttached, || true);
    }
    still_there(lab, &mut second, &blue, "after the end of red", 150);
    blue.end(lab, "blue: ends", &second);
}

/// What a guest may not say of its stage 1 is refused by name, and nothing comes of it.
fn wrong_entries(lab: &mut Lab<'_>, guest: &Guest) {
    let [word0, word1] = guest.entry();
    let begin = lab.unit.marker();
    for (what, words, name) in [
        ("stage 2 alone", &[guest::STAGE_1 ^ 3 << 1, word1][..], "with a stage 2"),
        ("both stages", &[word0 | 7 << 1, word1], "with a stage 2"),
        ("a word of stage 2", &[word0, word1, 1], "not two words"),
        ("one word", &[word0], "not two words"),
        ("STRW", &[word0, word1 | 1 << 30], "not the guest's"),
        ("reserved bits", &[word0 | 1 << 52, word1], "not the guest's"),
        ("context descriptors beyond all addresses", &[word0 | 1 << 50, word1], "beyond its parent's aperture"),
        ("substreams, of which the unit has none", &[word0 | 1 << 59, word1], "S1CDMax"),
        ("device TLBs, of which the unit knows none", &[word0, word1 | 1 << 28], "EATS"),
    ] {
        let check = format!("{}: an entry with {what} is refused", guest.partition.name);
        match guest.nest(words) {
            Err(Error::Hardware(HwError::Hardware(text))) => lab.report.state(&check, true, text.contains(name)),
            Err(error) => lab.report.trouble(&check, &error),
            Ok(_) => lab.report.trouble(&check, &"it was taken"),
        }
    }
    lab.report.state("hardware was told nothing of all that", begin, lab.unit.marker());
}

/// Both ways through both stages: leaves of each size, pages that are scattered in both, and what either stage lets be read
/// only.
fn inside(lab: &mut Lab<'_>, device: &mut Device, guest: &Guest, seed: u8) {
    let partition = &guest.partition;
    let name = partition.name;
    let (page, scattered) = (partition.page.seen_at(virt::PAGE), partition.scattered.seen_at(virt::SCATTERED));
    let (large, huge) = (partition.large.seen_at(virt::LARGE), partition.huge.seen_at(virt::HUGE));
    let odd = pattern(seed + 3);
    for (what, bytes, from, to) in [
        ("page to start of 2 MiB", &pattern(seed)[..], (&page, 0), (&large, 0)),
        ("end of 2 MiB to end of 1 GiB", &pattern(seed + 1), (&large, large.len() - 4096), (&huge, huge.len() - 4096)),
        ("middle of 1 GiB to scattered pages", &pattern(seed + 2), (&huge, 0x2345_6780), (&scattered, 0x7c0)),
        ("odd length and address", &odd[..0x123], (&scattered, 0xfed), (&page, 0x771)),
    ] {
        lab.round_trip(&format!("{name}: {what}"), device, bytes, from, to);
    }

    let old = pattern(seed + 4);
    for (buffer, at, stage, says) in [
        (&partition.read_only, virt::READ_ONLY, Stage::Second, IN_STAGE_2),
        (&partition.page, virt::READ_ONLY_BY_GUEST, Stage::First, IN_STAGE_1),
    ] {
        buffer.write(0, &old);
        let (write, view) = (Transfer::write(Iova::new(at), LEN), buffer.seen_at(at));
        let refusal = (Refusal::ReadOnly(stage), says);
        let check = format!("{name}: write where the {stage:?} stage is read-only");
        lab.refused_in(&check, device, write, refusal, || holds(buffer, 0, &old));
        let bytes = pattern(seed + 5);
        lab.round_trip(
            &format!("{name}: {stage:?} stage, read-only, to page"),
            device,
            &bytes,
            (&view, 0),
            (&scattered, 0),
        );
        buffer.write(0, &old);
        let check = format!("{name}: write where the {stage:?} stage is read-only, once read");
        lab.refused_in(&check, device, write, refusal, || holds(buffer, 0, &old));
    }
}

/// The same virtual address, guest-physical address and ASID in two guests lead to the frame of each.
fn apart(lab: &mut Lab<'_>, one: (&mut Device, &Guest), other: (&mut Device, &Guest), seed: u8) {
    let [first, second] = [&one.1.partition, &other.1.partition];
    for (at, (device, own, foreign)) in [(one.0, first, second), (other.0, second, first)].into_iter().enumerate() {
        let at = seed + 2 * at as u8;
        let (mine, theirs) = (pattern(at), pattern(at + 1));
        foreign.page.write(0, &theirs);
        let (large, page) = (own.large.seen_at(virt::LARGE), own.page.seen_at(virt::PAGE));
        let check = format!("{}: its own frame where every guest has one", own.name);
        lab.round_trip(&check, device, &mine, (&large, 0), (&page, 0));
        let kept = holds(&foreign.page, 0, &theirs) && holds(&own.page, 0, &mine);
        lab.report.state(&format!("{}: keeps what it had there", foreign.name), true, kept);
    }
}

/// Guest-physical addresses are not the function's, and neither are physical ones.
fn untranslated(lab: &mut Lab<'_>, device: &mut Device, guest: &Guest, seed: u8) {
    let partition = &guest.partition;
    let kept = pattern(seed);
    let frame = partition.private.extents().first().map_or(0, |extent| extent.start.get());
    for (what, at) in [("guest-physical", partition.private.iova().get()), ("physical", frame)] {
        partition.private.write(0, &kept);
        for transfer in [Transfer::write(Iova::new(at), LEN), Transfer::read(Iova::new(at), LEN)] {
            let check = format!("{}: {} at a {what} address of its own", partition.name, transfer.access);
            let refusal = (Refusal::NotMapped(Stage::First, transfer.access), IN_STAGE_1);
            lab.refused_in(&check, device, transfer, refusal, || holds(&partition.private, 0, &kept));
        }
    }
}

/// The guest maps what it does not have: another partition's page by the address that it has there, and by its frame; the
/// hypervisor's image; what the IOMMU reads.
fn foreign(lab: &mut Lab<'_>, device: &mut Device, guest: &Guest, other: &Guest, seed: u8) {
    let (name, victim) = (guest.partition.name, &other.partition);
    let secret = pattern(seed);
    victim.private.write(0, &secret);
    let frame = victim.private.extents().first().map_or(0, |extent| extent.start.get());
    let mut targets = alloc::vec![
        (victim.private.iova().get(), format!("the private page of {}", victim.name)),
        (frame, format!("the frame of {}", victim.name)),
        (memory::image_range().start, "the hypervisor's image".into()),
    ];
    lab.unit.for_each_structure(&mut |structure, frame| {
        let what = format!("the IOMMU's {structure}");
        if targets.iter().all(|(_, known)| *known != what) {
            targets.push((frame.get(), what));
        }
    });
    for (gpa, what) in targets {
        let gpa = gpa & !0xfff;
        guest.map(virt::FOREIGN, guest::page(gpa));
        invalidate(lab, guest, &format!("{name}: maps {what}"), page_command(virt::FOREIGN));
        let iova = Iova::new(virt::FOREIGN);
        for transfer in [Transfer::write(iova, LEN), Transfer::read(iova, LEN)] {
            let check = format!("{name}: {} of {what} that the guest maps", transfer.access);
            let refusal = (Refusal::NotMapped(Stage::Second, transfer.access), IN_STAGE_2);
            lab.refused_in(&check, device, transfer, refusal, || holds(&victim.private, 0, &secret));
        }
    }
    guest.unmap(virt::FOREIGN);
}

/// CMD_TLBI_NH_VA of one page, of another guest's VMID for all that the guest says.
const fn page_command(va: u64) -> [u64; 2] {
    [TLBI_NH_VA | STRANGE | ASID << 48, va | 1]
}

/// A command of the guest that nothing in the trace is looked at for.
fn invalidate(lab: &mut Lab<'_>, guest: &Guest, check: &str, words: [u64; 2]) {
    match guest.command(words) {
        Ok(()) => lab.report.state(check, "done", "done"),
        Err(error) => lab.report.trouble(check, &error),
    }
}

/// The guest takes a page away and says so, with streams and VMIDs that are not its own: its own translations are dropped,
/// nobody else's. Then it maps another page there.
fn guest_unmaps(lab: &mut Lab<'_>, (device, guest): (&mut Device, &Guest), other: (&mut Device, &Guest), seed: u8) {
    let partition = &guest.partition;
    let name = partition.name;
    let page = partition.page.seen_at(virt::PAGE);
    let one = partition.private.seen_at(virt::CHANGING);
    for (at, (what, words)) in [
        ("one address", page_command(virt::CHANGING)),
        ("its ASID", [TLBI_NH_ASID | STRANGE | ASID << 48, 0]),
        ("everything", [TLBI_NH_ALL | STRANGE, 0]),
    ]
    .into_iter()
    .enumerate()
    {
        let at = seed + 3 * at as u8;
        guest.map(virt::CHANGING, guest::page(partition.private.iova().get()));
        lab.round_trip(&format!("{name}: mapped by the guest"), device, &pattern(at), (&page, 0), (&one, 0));
        guest.unmap(virt::CHANGING);
        forget(lab, &format!("{name}: the guest unmaps, and tells of {what}"), device, guest, (&one, words));
        let kept = pattern(at + 1);
        partition.private.write(0, &kept);
        for transfer in [Transfer::write(one.iova(), LEN), Transfer::read(one.iova(), LEN)] {
            let check = format!("{name}: {} after the guest told of {what}", transfer.access);
            let refusal = (Refusal::NotMapped(Stage::First, transfer.access), IN_STAGE_1);
            lab.refused_in(&check, device, transfer, refusal, || holds(&partition.private, 0, &kept));
        }
    }
    guest.map(virt::CHANGING, guest::page(address::READ_ONLY));
    let fresh = partition.read_only.seen_at(virt::CHANGING);
    lab.round_trip(&format!("{name}: another page there"), device, &pattern(seed + 9), (&fresh, 0), (&page, 0));
    guest.unmap(virt::CHANGING);
    forget(lab, &format!("{name}: the guest unmaps that"), device, guest, (&fresh, page_command(virt::CHANGING)));
    still_there(lab, other.0, other.1, &format!("whatever {name} says of other VMIDs"), seed + 10);
}

/// Has the guest's command carried out, and checks that hardware was made to forget what was at `buffer`.
fn forget(lab: &mut Lab<'_>, check: &str, device: &Device, guest: &Guest, (buffer, words): (&Buffer, [u64; 2])) {
    let begin = lab.unit.sync();
    let done = guest.command(words);
    let end = lab.unit.marker();
    let begin = match (begin, done) {
        (Ok(begin), Ok(())) => begin,
        (Err(error), _) => return lab.report.trouble(check, &error),
        (_, Err(error)) => return lab.report.trouble(check, &error),
    };
    let entry = Entry {
        stream: Some(device.stream),
        iova: Some(buffer.iova().get()),
        length: Some(buffer.len()),
        frames: &buffer.extents(),
        markers: Some((begin, end)),
        ..Entry::new("forget", check)
    };
    lab.report.check(&entry, "invalidated", if end != begin { "invalidated" } else { "not invalidated" }, None);
}

/// The hypervisor takes a page away that the guest goes on mapping, and gives it back.
fn hypervisor_unmaps(lab: &mut Lab<'_>, device: &mut Device, guest: &Guest, seed: u8) {
    let partition = &guest.partition;
    let name = partition.name;
    for (order, size, va) in [(0, "4 KiB", virt::CHANGING), (9, "2 MiB", virt::LARGE)] {
        let memory = if order == 0 {
            Buffer::contiguous(address::CHANGING, order, Prot::READ_WRITE)
        } else {
            Some(partition.large.seen_at(address::LARGE))
        };
        let Some(buffer) = memory else {
            return lab.report.trouble(&format!("{name}: {size}"), &"out of memory");
        };
        if order == 0 {
            if let Err(error) = partition.map(&buffer) {
                return lab.report.trouble(&format!("{name}: map {size}"), &error);
            }
            guest.map(va, guest::page(address::CHANGING));
        }
        let (page, view) = (partition.page.seen_at(virt::PAGE), buffer.seen_at(va));
        let check = format!("{name}: {size} before the hypervisor unmaps it");
        lab.round_trip(&check, device, &pattern(seed), (&page, 0), (&view, 0));
        if !crate::checks::changes::unmap(
            lab,
            &format!("{name}: the hypervisor unmaps {size}"),
            device,
            partition,
            &buffer,
        ) {
            return;
        }
        let kept = pattern(seed + 1);
        buffer.write(0, &kept);
        for transfer in [Transfer::write(view.iova(), LEN), Transfer::read(view.iova(), LEN)] {
            let check = format!("{name}: {} of {size} that the guest still maps", transfer.access);
            let refusal = (Refusal::NotMapped(Stage::Second, transfer.access), IN_STAGE_2);
            lab.refused_in(&check, device, transfer, refusal, || holds(&buffer, 0, &kept));
        }
        if let Err(error) = partition.map(&buffer) {
            return lab.report.trouble(&format!("{name}: map {size} again"), &error);
        }
        let check = format!("{name}: {size} given back");
        lab.round_trip(&check, device, &pattern(seed + 2), (&page, 0), (&view, 0));
        if order == 0 {
            crate::checks::changes::unmap(
                lab,
                &format!("{name}: the hypervisor unmaps it again"),
                device,
                partition,
                &buffer,
            );
            guest.unmap(va);
            invalidate(lab, guest, &format!("{name}: and the guest"), page_command(va));
        }
    }
}

/// Commands that are not a guest's are refused, and hardware is told nothing.
fn wrong_commands(lab: &mut Lab<'_>, guest: &Guest) {
    let begin = lab.unit.marker();
    for (what, words) in [
        ("of stage 2", [TLBI_S2_IPA | STRANGE, virt::PAGE | 1]),
        ("with reserved bits", [TLBI_NH_ALL | STRANGE | 1 << 10, 0]),
        ("of a substream, of which the unit has none", [CFGI_CD | 1 << 12, 1]),
        ("that there is not", [0xff, 0]),
    ] {
        let check = format!("{}: a command {what} is refused", guest.partition.name);
        lab.report.state(&check, true, matches!(guest.command(words), Err(Error::Hardware(_))));
    }
    lab.report.state("hardware was told nothing of these commands", begin, lab.unit.marker());
}

/// Tables and context descriptors at addresses that the guest does not have.
fn foreign_tables(lab: &mut Lab<'_>, device: &mut Device, guest: &mut Guest, seed: u8) {
    let name = guest.partition.name;
    guest.set_foreign_table(NOBODYS);
    invalidate(lab, guest, &format!("{name}: a table that it does not have"), page_command(virt::BEHIND_FOREIGN_TABLE));
    let iova = Iova::new(virt::BEHIND_FOREIGN_TABLE);
    for transfer in [Transfer::write(iova, LEN), Transfer::read(iova, LEN)] {
        let check = format!("{name}: {} behind a table that the guest does not have", transfer.access);
        let refusal = (Refusal::NotMapped(Stage::Second, transfer.access), OF_TABLE);
        lab.refused_in(&check, device, transfer, refusal, || true);
    }

    let words = [guest::STAGE_1 | NOBODYS, guest::WORD_1];
    guest.replace(lab, &format!("{name}: a context descriptor that the guest does not have"), device, words);
    let kept = pattern(seed);
    guest.partition.page.write(0, &kept);
    let iova = Iova::new(virt::PAGE);
    for transfer in [Transfer::write(iova, LEN), Transfer::read(iova, LEN)] {
        let check = format!("{name}: {} by a context descriptor that the guest does not have", transfer.access);
        let refusal = (Refusal::ForeignContext, IN_STAGE_2_OF_CONTEXT);
        let page = &guest.partition.page;
        lab.refused_in(&check, device, transfer, refusal, || holds(page, 0, &kept));
    }

    guest.write_context(false, false);
    let words = guest.entry();
    guest.replace(lab, &format!("{name}: a context descriptor that is not valid"), device, words);
    for transfer in [Transfer::write(iova, LEN), Transfer::read(iova, LEN)] {
        let check = format!("{name}: {} by a context descriptor that is not valid", transfer.access);
        let page = &guest.partition.page;
        lab.refused(&check, device, transfer, Refusal::BadContext, || holds(page, 0, &kept));
    }
    guest.write_context(true, false);
    invalidate(lab, guest, &format!("{name}: it is valid now"), [CFGI_CD | STRANGE, 1]);
    still_there(lab, device, guest, "by a valid context descriptor", seed + 1);

    // Hardware has read it by now, and goes by that until it is told.
    guest.write_context(true, true);
    let everything = [TLBI_NH_ALL | STRANGE, 0];
    for words in [[CFGI_CD | STRANGE, 1], everything] {
        invalidate(lab, guest, &format!("{name}: it leads to an empty table now"), words);
    }
    guest.partition.page.write(0, &kept);
    for transfer in [Transfer::write(iova, LEN), Transfer::read(iova, LEN)] {
        let check = format!("{name}: {} by an empty table", transfer.access);
        let (page, refusal) = (&guest.partition.page, Refusal::NotMapped(Stage::First, transfer.access));
        lab.refused_in(&check, device, transfer, (refusal, IN_STAGE_1), || holds(page, 0, &kept));
    }
    guest.write_context(true, false);
    for words in [[CFGI_CD | STRANGE, 1], everything] {
        invalidate(lab, guest, &format!("{name}: and back to the tables from before"), words);
    }
    still_there(lab, device, guest, "by the tables from before", seed + 2);
}

/// The guest's entry says that its streams are aborted, or that they go around its stage 1.
fn other_entries(lab: &mut Lab<'_>, device: &mut Device, guest: &mut Guest, seed: u8) {
    let name = guest.partition.name;
    guest.replace(lab, &format!("{name}: the guest's entry aborts"), device, [guest::ABORT, 0]);
    detached(lab, device, guest, "while the guest's entry aborts", seed);

    guest.replace(lab, &format!("{name}: the guest's entry bypasses"), device, [guest::BYPASS, 0]);
    let partition = &guest.partition;
    let check = format!("{name}: guest-physical addresses, without the guest's stage 1");
    lab.round_trip(&check, device, &pattern(seed + 1), (&partition.scattered, 0x800), (&partition.private, 0));
    for access in [AccessKind::Write, AccessKind::Read] {
        let check = format!("{name}: {access} at a virtual address, without the guest's stage 1");
        let transfer = Transfer { access, iova: Iova::new(virt::PAGE), len: LEN };
        let refusal = (Refusal::NotMapped(Stage::Second, access), IN_STAGE_2);
        lab.refused_in(&check, device, transfer, refusal, || true);
    }
    let words = guest.entry();
    guest.replace(lab, &format!("{name}: the guest's stage 1 again"), device, words);
    untranslated(lab, device, guest, seed + 2);
    still_there(lab, device, guest, "by its stage 1 again", seed + 3);
}

/// Nothing moves, and no fault tells of it.
fn detached(lab: &mut Lab<'_>, device: &mut Device, guest: &Guest, when: &str, seed: u8) {
    let partition = &guest.partition;
    let kept = pattern(seed);
    partition.page.write(0, &kept);
    for at in [virt::PAGE, address::PAGE] {
        for transfer in [Transfer::write(Iova::new(at), LEN), Transfer::read(Iova::new(at), LEN)] {
            let check = format!("{}: {} at {at:#x} {when}", partition.name, transfer.access);
            lab.refused(&check, device, transfer, Refusal::NotAttached, || holds(&partition.page, 0, &kept));
        }
    }
}

/// The function does what it did before something happened.
fn still_there(lab: &mut Lab<'_>, device: &mut Device, guest: &Guest, when: &str, seed: u8) {
    let partition = &guest.partition;
    let (from, to) = (partition.scattered.seen_at(virt::SCATTERED), partition.private.seen_at(virt::PRIVATE));
    lab.round_trip(&format!("{}: {when}", partition.name), device, &pattern(seed), (&from, 0x10), (&to, 0));
}
